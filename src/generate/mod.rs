//! Text from a model: prompt in, tokens out one by one, over a KV cache.
//!
//! - [`sampling`] chooses a token from the logits;
//! - [`batch`] runs it over many texts at once, for a server;
//! - [`session`] runs the model over a prompt and its continuation;
//! - [`text`] turns the citizen's question into a prompt and tokens into the text that is shown.

pub mod batch;
pub mod sampling;
pub mod session;
pub mod text;

pub use batch::{Batch, BatchEvent, TextId};
pub use sampling::{Sampler, SamplingSettings};
pub use session::{Finish, GenerateOutput, GenerateSettings, Generator};
pub use text::{TextStream, question_prompt};
