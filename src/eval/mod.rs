//! Measures of a trained model, and of what the knowledge base understands without one.

pub mod answers;
pub(crate) mod danger;
mod html;
mod outcome;
pub(crate) mod paired;
pub(crate) mod perplexity;
pub mod questions;
pub mod routing;
pub(crate) mod statistics;
pub(crate) mod understanding;

pub use perplexity::perplexity;
