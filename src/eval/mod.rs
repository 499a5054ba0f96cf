//! Measures of a trained model.

pub mod answers;
mod html;
pub mod perplexity;
pub mod questions;
pub mod routing;
pub mod statistics;

pub use perplexity::{Perplexity, perplexity};
