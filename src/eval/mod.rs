//! Measures of a trained model.

pub mod answers;
mod html;
pub(crate) mod perplexity;
pub mod questions;
pub mod routing;
pub(crate) mod statistics;
pub(crate) mod understanding;

pub use perplexity::perplexity;
