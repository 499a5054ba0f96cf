//! Measures of a trained model.

pub mod perplexity;

pub use perplexity::{Perplexity, perplexity};
