//! Training examples on disk: a folder with `manifest.json` and memory-mapped files of tokens, and
//! the sampler that turns them into batches. `docs/data.md` describes the format to the byte.
//!
//! - [`ShardWriter`] writes a folder, all or nothing; [`ShardSet`] maps and checks one;
//! - [`Sampler`] shuffles the examples of an epoch, packs them into rows and hands out any batch of
//!   it.

mod folder;
mod format;
mod manifest;
mod packing;
mod reader;
mod sampler;
mod stage;
mod writer;
pub use manifest::Manifest;
pub use reader::ShardSet;
pub use sampler::{LossOn, Sampler, SamplerConfig};
pub use stage::Stage;
pub use writer::{ShardInfo, ShardWriter};

/// The parts of a data set: what is learned from, and what is only measured on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// Examples to learn from.
    Train,
    /// Examples held back to measure on.
    Validation,
    /// Requests outside of the offices' remit, held back to measure refusals on.
    ValidationOod,
}

/// Files for people that may stand beside the shards: what the set is, and what was counted. No
/// reader needs them.
pub(crate) const COMPANION_NAMES: [&str; 2] = ["dataset-card.md", "statistics.json"];

impl Split {
    /// All, in the order of the manifest.
    pub const ALL: [Split; 3] = [Split::Train, Split::Validation, Split::ValidationOod];

    /// Name in records, and beginning of the file names: `train-00000.bin`, `val-00000.bin`,
    /// `val_ood-00000.bin`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Split::Train => "train",
            Split::Validation => "val",
            Split::ValidationOod => "val_ood",
        }
    }
}

/// One example to store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Example {
    /// The whole example, its separators included: `<|endoftext|>`, text, `<|endoftext|>`. At least
    /// two tokens.
    pub tokens: Vec<u16>,
    /// (start, length) in `tokens` of what a model is to answer, in order and without overlap. With
    /// `LossOn::Answers` exactly these tokens carry loss, so the token that ends an answer belongs
    /// to its span.
    pub answers: Vec<(u32, u32)>,
    /// Index into the names of offices.
    pub office: u16,
    /// Bit i is set when technique i of the names of techniques was used.
    pub techniques: u32,
}
