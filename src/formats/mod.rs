//! The `formats` module.
