//! The `knowledge` module.
