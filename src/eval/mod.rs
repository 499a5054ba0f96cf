//! The `eval` module.
