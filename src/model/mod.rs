//! The `model` module.

mod batch;

pub use batch::Batch;
