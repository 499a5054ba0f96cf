//! Global norm and AdamW.

use anyhow::{Result, bail};

use super::CudaDevice;
use super::memory::{DeviceBuffer, Element};
use crate::ops::{AdamState, AdamStep};

#[allow(clippy::too_many_arguments)]
pub(super) fn adam_state<E: Element>(
    _device: &CudaDevice<E>,
    _weight: &DeviceBuffer<E>,
    _len: usize,
) -> Result<AdamState<CudaDevice<E>>> {
    bail!("adam_state: this device has no kernel for it yet")
}

#[allow(clippy::too_many_arguments)]
pub(super) fn global_norm<E: Element>(
    _device: &CudaDevice<E>,
    _gradients: &[(&DeviceBuffer<E>, usize)],
    _norm: &mut DeviceBuffer<f32>,
) -> Result<()> {
    bail!("global_norm: this device has no kernel for it yet")
}

#[allow(clippy::too_many_arguments)]
pub(super) fn adamw<E: Element>(
    _device: &CudaDevice<E>,
    _weight: &mut DeviceBuffer<E>,
    _gradient: &DeviceBuffer<E>,
    _state: &mut AdamState<CudaDevice<E>>,
    _norm: &DeviceBuffer<f32>,
    _step: &AdamStep,
    _len: usize,
) -> Result<()> {
    bail!("adamw: this device has no kernel for it yet")
}
