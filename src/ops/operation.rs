//! What an operation is, and how it reaches a device.

use anyhow::Result;
use serde::Serialize;

use super::device::Device;

/// An operation on operands: what is said of it here holds for every device.
pub trait Operation {
    /// Name in messages and profiles, e.g. `rmsnorm_forward`.
    const NAME: &'static str;

    /// Checks shapes, lengths, and the index values that the host knows.
    ///
    /// # Errors
    /// Begins with the operation's name; says what was found and what is expected.
    fn check(&self) -> Result<()>;

    /// Bytes that no device can avoid: each operand once, with `storage` bytes per weight and
    /// activation.
    fn bytes(&self, storage: usize) -> usize;

    /// What its kernels do, one after another. Empty where a training step does not use the
    /// operation.
    fn kernels(&self, _load: &Load) -> Vec<KernelCost> {
        Vec::new()
    }
}

/// What the cost of an operation depends on besides its sizes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Load {
    /// Keys that a query sees on average.
    pub mean_keys: f64,
    /// Share of the tokens that carry loss.
    pub counted: f64,
    /// Bytes of a weight or an activation.
    pub storage: f64,
}

/// Bytes of a statistic or an index.
pub(crate) const SINGLE: f64 = 4.0;

/// Kind of work: what a card reaches of its rates depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Products over the whole vocabulary: thousands of full tiles.
    Head,
    /// Products of the ragged experts: the last tile of each is not full.
    Experts,
    /// Products of the projections: few tiles, little depth.
    Projection,
    /// Attention within examples.
    Attention,
    /// Everything that only moves data.
    Memory,
}

/// FLOPs and bytes of one or a few launches.
///
/// FLOPs are those that the kernels do, so attention's scores count again where the backward pass
/// makes them again. Bytes are the least that the algorithm moves: each operand is read once and
/// each result written once per launch, gradients that are added to are read and written, and what
/// one launch leaves for the next goes through memory.
#[derive(Clone, Copy, Debug)]
pub struct KernelCost {
    /// Name for people; equal names are added up.
    pub name: &'static str,
    /// Families of the kernels: their names without precision, tile and head size.
    pub families: &'static [&'static str],
    /// Kind of work.
    pub kind: Kind,
    /// FLOPs.
    pub flops: f64,
    /// Bytes.
    pub bytes: f64,
}

/// An operation whose check has passed. Devices receive nothing else.
pub struct Checked<O>(O);

impl<O> Checked<O> {
    /// The operation.
    pub fn into_inner(self) -> O {
        self.0
    }

    /// The operation, for a wrapper that looks at its operands.
    pub fn get_mut(&mut self) -> &mut O {
        &mut self.0
    }
}

/// A device that computes an operation.
pub trait Run<O> {
    /// Issues the operation.
    ///
    /// # Errors
    /// When the device fails, or has no room for sizes that are valid elsewhere.
    fn run(&self, operation: Checked<O>) -> Result<()>;
}

/// Checks an operation and issues it.
///
/// # Errors
/// If the check fails or the device does.
pub fn issue<D: Device + Run<O>, O: Operation>(device: &D, operation: O) -> Result<()> {
    operation.check()?;
    device.begin(O::NAME, operation.bytes(D::STORAGE_BYTES));
    device.run(Checked(operation))
}
