//! Rotary position embedding.

use anyhow::{Result, bail};

use super::CudaDevice;
use super::memory::{DeviceBuffer, Element, IndexBuffer};
use crate::ops::AttentionShape;

#[allow(clippy::too_many_arguments)]
pub(super) fn forward<E: Element>(
    _device: &CudaDevice<E>,
    _qkv: &mut DeviceBuffer<E>,
    _positions: &IndexBuffer,
    _theta: f32,
    _shape: &AttentionShape,
    _count: usize,
) -> Result<()> {
    bail!("rope_forward: this device has no kernel for it yet")
}

#[allow(clippy::too_many_arguments)]
pub(super) fn backward<E: Element>(
    _device: &CudaDevice<E>,
    _grad_qkv: &mut DeviceBuffer<E>,
    _positions: &IndexBuffer,
    _theta: f32,
    _shape: &AttentionShape,
    _count: usize,
) -> Result<()> {
    bail!("rope_backward: this device has no kernel for it yet")
}
