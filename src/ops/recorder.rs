//! Devices that run ahead of the host and keep operations, to issue them again at once.

use anyhow::Result;

use super::device::Device;

/// Recording and replaying of operations, as CUDA graphs do.
pub trait Recorder: Device {
    /// Operations that [`Recorder::record`] kept.
    type Graph: Send;

    /// Whether the host should look at results every few steps only, because looking waits for
    /// everything issued so far.
    fn runs_ahead(&self) -> bool {
        false
    }
    /// Runs `work` once. `work` only issues operations on buffers that stay where they are; a
    /// device that can keeps them, to be issued again at once by [`Recorder::replay`]. `None`: it
    /// cannot.
    ///
    /// # Errors
    /// When `work` fails or the device does.
    fn record(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Option<Self::Graph>> {
        work()?;
        Ok(None)
    }
    /// Issues the operations again. `false`: nothing was done, because memory that they use has
    /// moved since.
    ///
    /// # Errors
    /// When the device fails.
    fn replay(&self, _graph: &Self::Graph) -> Result<bool> {
        Ok(false)
    }
    /// Where the device is profiled: whether what comes now is part of the profile. Each change to
    /// `true` begins a step.
    fn profile(&self, _on: bool) {}
}
