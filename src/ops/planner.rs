//! Memory plans: what a device's memory is used for, so that a run's whole need can be said before
//! its first step.

use anyhow::Result;
use serde::Serialize;

use super::device::Device;

/// What a buffer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MemoryClass {
    /// Weights in the storage precision.
    Weights,
    /// The optimizer's `f32` copies of them.
    Masters,
    /// Both moments of AdamW.
    Moments,
    /// Gradients of the weights.
    Gradients,
    /// The batch, what the forward pass keeps for the backward pass, and gradients of activations.
    Activations,
    /// What an operation needs while it runs; the next one reuses it.
    Scratch,
    /// Keys, values and activations of answers that are generated.
    Cache,
}

impl MemoryClass {
    /// All classes, in the order in which plans are shown.
    pub(crate) const ALL: [MemoryClass; 7] = [
        MemoryClass::Weights,
        MemoryClass::Masters,
        MemoryClass::Moments,
        MemoryClass::Gradients,
        MemoryClass::Activations,
        MemoryClass::Scratch,
        MemoryClass::Cache,
    ];

    /// Name for people.
    pub fn name(self) -> &'static str {
        match self {
            MemoryClass::Weights => "weights",
            MemoryClass::Masters => "master weights",
            MemoryClass::Moments => "moments",
            MemoryClass::Gradients => "gradients",
            MemoryClass::Activations => "activations",
            MemoryClass::Scratch => "scratch",
            MemoryClass::Cache => "cache",
        }
    }
}

/// Most bytes of each class that were in use at once, each buffer rounded up to the device's
/// alignment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryUse {
    bytes: [u64; MemoryClass::ALL.len()],
    /// Bytes that were asked for after the arena of [`Planner::reserve`] was full.
    pub unplanned: u64,
}

impl MemoryUse {
    /// Bytes of a class.
    pub fn of(&self, class: MemoryClass) -> u64 {
        self.bytes[class as usize]
    }

    /// Raises a class to `bytes`, where it is below.
    pub(crate) fn raise(&mut self, class: MemoryClass, bytes: u64) {
        let known = &mut self.bytes[class as usize];
        *known = bytes.max(*known);
    }

    /// Bytes of all classes: what an arena must hold.
    pub fn total(&self) -> u64 {
        self.bytes.iter().sum()
    }
}

/// Runs `make`, whose buffers are of that class.
pub(crate) fn allocating<D: Planner, T>(
    device: &D,
    class: MemoryClass,
    make: impl FnOnce() -> T,
) -> T {
    let before = device.set_memory_class(class);
    let made = make();
    device.set_memory_class(before);
    made
}

/// A device whose memory is planned.
pub trait Planner: Device {
    /// Says what buffers made from now on are for; returns what it was. See `allocating`.
    fn set_memory_class(&self, class: MemoryClass) -> MemoryClass {
        class
    }
    /// Most that was in use since the device was made or an arena reserved, by class; zeros where
    /// nobody counts.
    fn memory_use(&self) -> MemoryUse {
        MemoryUse::default()
    }
    /// Bytes that are free on the device now; `None` where they are not to be planned.
    ///
    /// # Errors
    /// When the device fails.
    fn free_memory(&self) -> Result<Option<u64>> {
        Ok(None)
    }
    /// A device of the same kind and size for a dry run: it computes nothing, and what is done with
    /// it shows in [`Planner::memory_use`] what this device would need for it. `None` where memory
    /// is not planned.
    ///
    /// # Errors
    /// When it cannot be made.
    fn dry_run(&self) -> Result<Option<Self>>
    where
        Self: Sized,
    {
        Ok(None)
    }
    /// Makes one arena for everything that a plan holds; buffers made from now on are parts of it.
    /// What it has no room for is allocated beside it while both stay below `limit` bytes.
    ///
    /// # Errors
    /// When the device has not so much memory.
    fn reserve(&self, _plan: &MemoryUse, _limit: Option<u64>) -> Result<()> {
        Ok(())
    }
}
