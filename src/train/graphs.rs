//! Recorded parts of steps. On a card each micro-batch's share of a step becomes one CUDA graph,
//! issued by a single call.
//!
//! Everything that differs between two steps of equal shape lies on the device (the batch, the
//! learning rate, the losses' factors, the number of updates, the loss scale), so a recording
//! serves every step of its shape. Shapes are few, because the model pads batches
//! ([`Device::token_multiple`](crate::ops::Device::token_multiple)): a batch holds whole examples,
//! so its length differs from step to step, but by little. Reading the length from device memory
//! instead would need one recording only, and a length in every kernel; padding costs under one
//! percent of the arithmetic and leaves kernels alone.

use anyhow::Result;
use std::collections::HashMap;

use crate::model::Staged;
use crate::ops::Recorder;

/// One micro-batch's share of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Part {
    /// Its shape.
    pub staged: Staged,
    /// Whether it clears what the step sums up.
    pub first: bool,
    /// Whether it updates the weights.
    pub last: bool,
}

/// Recordings kept. A card keeps some 100 KB for each; beyond this number the shapes do not come
/// again often enough.
const MOST: usize = 24;

/// What is known of each part.
pub struct Graphs<D: Recorder> {
    /// `None`: it was run once, so that everything it needs (kernels, scratch memory) is there.
    known: HashMap<Part, Option<D::Graph>>,
}

impl<D: Recorder> Default for Graphs<D> {
    fn default() -> Self {
        Self {
            known: HashMap::new(),
        }
    }
}

impl<D: Recorder> Graphs<D> {
    /// Issues `part`, whose operations `work` issues: as they are the first time, recorded the
    /// second, then from the recording.
    ///
    /// # Errors
    /// Whatever `work` or the device says.
    pub fn run(
        &mut self,
        device: &D,
        part: Part,
        work: &mut dyn FnMut() -> Result<()>,
    ) -> Result<()> {
        match self.known.get_mut(&part) {
            Some(Some(graph)) => {
                if device.replay(graph)? {
                    return Ok(());
                }
                self.known.remove(&part);
                self.first_time(part, work)
            }
            Some(seen) => {
                *seen = device.record(work)?;
                Ok(())
            }
            None => self.first_time(part, work),
        }
    }

    fn first_time(&mut self, part: Part, work: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        work()?;
        if self.known.len() >= MOST {
            self.known.clear();
        }
        self.known.insert(part, None);
        Ok(())
    }
}
