//! Text from a model: prompt in, tokens out one by one, over a KV cache.
//!
//! - [`scheduler`] is the decode loop: prefill and decode of any number of sequences;
//! - `generator` drives it for a single text;
//! - `sampling` chooses a token from the logits;
//! - `constraint` says which tokens may come where only certain texts are allowed;
//! - `text` reads and writes the layout of dialogues, and turns tokens into the text that is
//!   shown.

pub(crate) mod constraint;
pub(crate) mod generator;
pub(crate) mod sampling;
pub mod scheduler;
pub(crate) mod settings;
pub(crate) mod text;

pub use constraint::{Next, TokenAutomaton, Walk};
pub use generator::{GenerateOutput, Generator};
pub use sampling::{Sampler, SamplingSettings};
pub use scheduler::{Scheduler, SequenceEvent, SequenceId};
pub use settings::{Finish, GenerateSettings};
pub(crate) use text::question_prompt;
