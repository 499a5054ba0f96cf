//! Attention.

use anyhow::{Result, bail};

use super::CudaDevice;
use super::memory::{DeviceBuffer, Element, IndexBuffer};
use crate::ops::AttentionShape;

#[allow(clippy::too_many_arguments)]
pub(super) fn forward<E: Element>(
    _device: &CudaDevice<E>,
    _qkv: &DeviceBuffer<E>,
    _segments: &IndexBuffer,
    _out: &mut DeviceBuffer<E>,
    _log_sum: &mut DeviceBuffer<f32>,
    _shape: &AttentionShape,
    _segment_count: usize,
    _count: usize,
) -> Result<()> {
    bail!("attention_forward: this device has no kernel for it yet")
}

#[allow(clippy::too_many_arguments)]
pub(super) fn backward<E: Element>(
    _device: &CudaDevice<E>,
    _grad_out: &DeviceBuffer<E>,
    _qkv: &DeviceBuffer<E>,
    _out: &DeviceBuffer<E>,
    _log_sum: &DeviceBuffer<f32>,
    _segments: &IndexBuffer,
    _grad_qkv: &mut DeviceBuffer<E>,
    _shape: &AttentionShape,
    _segment_count: usize,
    _count: usize,
) -> Result<()> {
    bail!("attention_backward: this device has no kernel for it yet")
}
