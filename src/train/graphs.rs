//! Recordings of micro-batches. On a card each micro-batch's share of a step becomes one CUDA
//! graph, issued by a single call.
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
use std::hash::Hash;

use crate::model::DeviceBatch;
use crate::ops;

/// Which micro-batch's share of a step a recording serves: equal keys mean equal operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct GraphKey {
    /// The batch: where its pieces lie on the device, and their sizes.
    pub batch: DeviceBatch,
    /// Whether it clears what the step sums up.
    pub first: bool,
    /// Whether it updates the weights.
    pub last: bool,
}

/// Keys remembered. A card keeps some 100 KB for each; beyond this number the shapes do not come
/// again often enough.
const MOST: usize = 24;

/// What [`Graphs`] needs of a device.
pub(crate) trait GraphRecorder {
    /// Recorded operations.
    type Graph;

    /// As [`ops::Recorder::record`].
    ///
    /// # Errors
    /// Whatever `work` or the device says.
    fn record(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Option<Self::Graph>>;

    /// As [`ops::Recorder::replay`].
    ///
    /// # Errors
    /// Whatever the device says.
    fn replay(&self, graph: &Self::Graph) -> Result<bool>;
}

impl<D: ops::Recorder> GraphRecorder for D {
    type Graph = D::Graph;

    fn record(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Option<D::Graph>> {
        ops::Recorder::record(self, work)
    }

    fn replay(&self, graph: &D::Graph) -> Result<bool> {
        ops::Recorder::replay(self, graph)
    }
}

/// The recordings made so far, by key `K`. A key goes through three states: unknown, run once,
/// recorded.
pub(crate) struct Graphs<K, G> {
    /// `None`: it was run once, so that everything it needs (kernels, scratch memory) is there.
    known: HashMap<K, Option<G>>,
}

impl<K, G> Default for Graphs<K, G> {
    fn default() -> Self {
        Self {
            known: HashMap::new(),
        }
    }
}

impl<K: Eq + Hash, G> Graphs<K, G> {
    /// Issues the operations of `key`, which `work` issues: as they are the first time, recorded
    /// the second, then from the recording.
    ///
    /// # Errors
    /// Whatever `work` or the device says.
    pub(crate) fn run(
        &mut self,
        device: &impl GraphRecorder<Graph = G>,
        key: K,
        work: &mut dyn FnMut() -> Result<()>,
    ) -> Result<()> {
        match self.known.get_mut(&key) {
            Some(Some(graph)) => {
                if device.replay(graph)? {
                    return Ok(());
                }
                self.known.remove(&key);
                self.first_time(key, work)
            }
            Some(seen) => {
                *seen = device.record(work)?;
                Ok(())
            }
            None => self.first_time(key, work),
        }
    }

    fn first_time(&mut self, key: K, work: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        work()?;
        if self.known.len() >= MOST {
            self.known.clear();
        }
        self.known.insert(key, None);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::ensure;
    use std::cell::{Cell, RefCell};

    /// A device whose graphs are numbers, and which says what it was asked for.
    #[derive(Default)]
    struct Fake {
        said: RefCell<Vec<String>>,
        cannot_record: bool,
        memory_has_moved: Cell<bool>,
        work_fails: Cell<bool>,
    }

    impl GraphRecorder for Fake {
        type Graph = usize;

        fn record(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Option<usize>> {
            work()?;
            let number = self.said.borrow().len();
            self.said.borrow_mut().push(format!("record {number}"));
            Ok((!self.cannot_record).then_some(number))
        }

        fn replay(&self, graph: &usize) -> Result<bool> {
            self.said.borrow_mut().push(format!("replay {graph}"));
            Ok(!self.memory_has_moved.get())
        }
    }

    impl Fake {
        /// Runs `key` and returns what happened in turn.
        fn run(&self, graphs: &mut Graphs<u32, usize>, key: u32) -> Result<Vec<String>> {
            self.said.borrow_mut().clear();
            let result = graphs.run(self, key, &mut || {
                ensure!(!self.work_fails.get(), "a kernel fails");
                self.said.borrow_mut().push("work".to_string());
                Ok(())
            });
            result.map(|()| self.said.borrow().clone())
        }
    }

    #[test]
    fn a_key_is_run_then_recorded_then_replayed() {
        let (device, mut graphs) = (Fake::default(), Graphs::default());
        assert_eq!(device.run(&mut graphs, 7).unwrap(), ["work"]);
        assert_eq!(device.run(&mut graphs, 7).unwrap(), ["work", "record 1"]);
        assert_eq!(device.run(&mut graphs, 7).unwrap(), ["replay 1"]);
        assert_eq!(device.run(&mut graphs, 7).unwrap(), ["replay 1"]);
        // Another key has a history of its own.
        assert_eq!(device.run(&mut graphs, 8).unwrap(), ["work"]);
        assert_eq!(device.run(&mut graphs, 7).unwrap(), ["replay 1"]);
    }

    #[test]
    fn a_device_that_cannot_record_works_every_time() {
        let device = Fake {
            cannot_record: true,
            ..Fake::default()
        };
        let mut graphs = Graphs::default();
        assert_eq!(device.run(&mut graphs, 7).unwrap(), ["work"]);
        for _ in 0..3 {
            assert_eq!(device.run(&mut graphs, 7).unwrap(), ["work", "record 1"]);
        }
    }

    #[test]
    fn a_graph_whose_memory_has_moved_is_made_again() {
        let (device, mut graphs) = (Fake::default(), Graphs::default());
        for _ in 0..2 {
            device.run(&mut graphs, 7).unwrap();
        }
        device.memory_has_moved.set(true);
        assert_eq!(device.run(&mut graphs, 7).unwrap(), ["replay 1", "work"]);
        device.memory_has_moved.set(false);
        assert_eq!(device.run(&mut graphs, 7).unwrap(), ["work", "record 1"]);
        assert_eq!(device.run(&mut graphs, 7).unwrap(), ["replay 1"]);
    }

    #[test]
    fn a_failure_leaves_the_state_before_it() {
        let (device, mut graphs) = (Fake::default(), Graphs::default());
        device.work_fails.set(true);
        assert!(device.run(&mut graphs, 7).is_err());
        device.work_fails.set(false);
        assert_eq!(device.run(&mut graphs, 7).unwrap(), ["work"]);
        device.work_fails.set(true);
        assert!(device.run(&mut graphs, 7).is_err());
        device.work_fails.set(false);
        assert_eq!(device.run(&mut graphs, 7).unwrap(), ["work", "record 1"]);
    }

    #[test]
    fn keys_beyond_the_limit_make_all_be_forgotten() {
        let (device, mut graphs) = (Fake::default(), Graphs::default());
        for key in 0..MOST as u32 {
            device.run(&mut graphs, key).unwrap();
            device.run(&mut graphs, key).unwrap();
        }
        assert_eq!(device.run(&mut graphs, 0).unwrap(), ["replay 1"]);
        assert_eq!(device.run(&mut graphs, MOST as u32).unwrap(), ["work"]);
        assert_eq!(device.run(&mut graphs, 0).unwrap(), ["work"]);
    }
}
