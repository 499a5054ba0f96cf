//! What a device's memory is used for, so that a run's whole need can be said before its first step.

use serde::Serialize;

use super::Device;

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
    pub const ALL: [MemoryClass; 7] = [
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

/// Most bytes of each class that were in use at once, each buffer rounded up to the device's alignment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryUse {
    bytes: [u64; MemoryClass::ALL.len()],
    /// Bytes that were asked for after the arena of [`Device::reserve`] was full.
    pub unplanned: u64,
}

impl MemoryUse {
    /// Bytes of a class.
    pub fn of(&self, class: MemoryClass) -> u64 {
        self.bytes[class as usize]
    }

    /// Raises a class to `bytes`, where it is below.
    pub fn raise(&mut self, class: MemoryClass, bytes: u64) {
        let known = &mut self.bytes[class as usize];
        *known = bytes.max(*known);
    }

    /// Bytes of all classes: what an arena must hold.
    pub fn total(&self) -> u64 {
        self.bytes.iter().sum()
    }
}

/// Runs `make`, whose buffers are of that class.
pub fn allocating<D: Device, T>(device: &D, class: MemoryClass, make: impl FnOnce() -> T) -> T {
    let before = device.set_memory_class(class);
    let made = make();
    device.set_memory_class(before);
    made
}
