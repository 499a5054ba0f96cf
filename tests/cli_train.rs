//! Tests of `cli_train`.
