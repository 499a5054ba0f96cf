//! Generation.

use anyhow::{Result, bail};

use super::CudaDevice;
use super::memory::{DeviceBuffer, Element};
use crate::ops::AttentionShape;

#[allow(clippy::too_many_arguments)]
pub(super) fn attention<E: Element>(
    _device: &CudaDevice<E>,
    _qkv: &DeviceBuffer<E>,
    _keys: &mut DeviceBuffer<E>,
    _values: &mut DeviceBuffer<E>,
    _out: &mut DeviceBuffer<E>,
    _shape: &AttentionShape,
    _past: usize,
    _count: usize,
    _capacity: usize,
) -> Result<()> {
    bail!("attention_cached: this device has no kernel for it yet")
}

#[allow(clippy::too_many_arguments)]
pub(super) fn logits<E: Element>(
    _device: &CudaDevice<E>,
    _x: &DeviceBuffer<E>,
    _table: &DeviceBuffer<E>,
    _logits: &mut DeviceBuffer<f32>,
    _first_row: usize,
    _rows: usize,
    _vocab: usize,
    _hidden: usize,
) -> Result<()> {
    bail!("head_logits: this device has no kernel for it yet")
}
