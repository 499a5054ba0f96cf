//! The `generate` module.
