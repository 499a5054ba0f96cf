//! Head and cross-entropy.

use anyhow::{Result, bail};

use super::CudaDevice;
use super::memory::{DeviceBuffer, Element, IndexBuffer};

#[allow(clippy::too_many_arguments)]
pub(super) fn loss<E: Element>(
    _device: &CudaDevice<E>,
    _x: &DeviceBuffer<E>,
    _table: &DeviceBuffer<E>,
    _targets: &IndexBuffer,
    _scale: f32,
    _loss: &mut DeviceBuffer<f32>,
    _grad_x: &mut DeviceBuffer<E>,
    _grad_table: &mut DeviceBuffer<E>,
    _count: usize,
    _vocab: usize,
    _hidden: usize,
) -> Result<()> {
    bail!("head_loss: this device has no kernel for it yet")
}

#[allow(clippy::too_many_arguments)]
pub(super) fn losses<E: Element>(
    _device: &CudaDevice<E>,
    _x: &DeviceBuffer<E>,
    _table: &DeviceBuffer<E>,
    _targets: &IndexBuffer,
    _losses: &mut DeviceBuffer<f32>,
    _count: usize,
    _vocab: usize,
    _hidden: usize,
) -> Result<()> {
    bail!("head_losses: this device has no kernel for it yet")
}
