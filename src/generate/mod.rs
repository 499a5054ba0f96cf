//! Text from a model: prompt in, tokens out one by one, over a KV cache.
//!
//! - [`sampling`] chooses a token from the logits;
//! - [`session`] runs the model over a prompt and its continuation;
//! - [`text`] turns the citizen's question into a prompt and tokens into the text that is shown.

pub mod sampling;
pub mod session;
pub mod text;

pub use sampling::{Sampler, SamplingSettings};
pub use session::{Finish, GenerateOutput, GenerateSettings, Generator};
pub use text::{TextStream, question_prompt};
