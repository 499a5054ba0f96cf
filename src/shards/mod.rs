//! The `shards` module.
