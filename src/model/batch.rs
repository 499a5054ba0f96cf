//! A ragged batch: examples end to end, without padding.

use crate::ops::IGNORE_TARGET;

/// One physical micro-batch of `T` tokens: whole logical batches, each of whole examples.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Input token of each position `[T]`.
    pub tokens: Vec<u32>,
    /// Token to predict at each position `[T]`; [`IGNORE_TARGET`] carries no loss.
    pub targets: Vec<u32>,
    /// Position inside its example `[T]`, from 0.
    pub positions: Vec<u32>,
    /// Offsets of the examples `[examples + 1]`: from 0 to `T`.
    pub segments: Vec<u32>,
    /// Offsets of the logical batches `[groups + 1]`: from 0 to `T`.
    pub groups: Vec<u32>,
}

impl Batch {
    /// Number of positions that carry loss.
    pub fn counted_targets(&self) -> usize {
        self.targets
            .iter()
            .filter(|&&target| target != IGNORE_TARGET)
            .count()
    }
}
