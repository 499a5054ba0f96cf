//! Loss scaling, for devices whose gradients overflow or vanish in their storage precision.

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::device::Device;

/// Where a moving loss scale stands: part of a checkpoint, because a resumed run must go on with
/// it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LossScale {
    /// What gradients are multiplied by: a power of two.
    pub scale: f32,
    /// Steps without overflow since it last changed.
    pub good_steps: u32,
}

/// Devices whose gradients overflow early (fp16) multiply them by a scale from the head on and
/// divide by it in [`super::GlobalNorm`] and [`super::AdamW`]; a norm that is not finite halves it.
pub trait LossScaler: Device {
    /// Where the device's loss scale stands; `None` where gradients are not scaled, or always by
    /// the same. Waits for the device.
    ///
    /// # Errors
    /// When the device fails.
    fn loss_scale(&self) -> Result<Option<LossScale>> {
        Ok(None)
    }
    /// Continues with a saved scale; without effect where [`LossScaler::loss_scale`] is `None`.
    ///
    /// # Errors
    /// When it is none that a device could have, or the device fails.
    fn set_loss_scale(&self, _scale: &LossScale) -> Result<()> {
        Ok(())
    }
}
