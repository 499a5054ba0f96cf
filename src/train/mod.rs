//! The `train` module.
