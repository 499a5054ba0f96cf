//! Measures of a trained model.

mod html;
pub mod perplexity;
pub mod questions;
pub mod routing;
pub mod statistics;

pub use perplexity::{Perplexity, perplexity};
