//! Tests of `cli_dataset`.
