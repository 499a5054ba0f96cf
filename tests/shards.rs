//! Tests of `shards`.
