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
    device: &CudaDevice<E>,
    x: &DeviceBuffer<E>,
    table: &DeviceBuffer<E>,
    logits: &mut DeviceBuffer<f32>,
    first_row: usize,
    rows: usize,
    vocab: usize,
    hidden: usize,
) -> Result<()> {
    super::head::logits(device, x, table, logits, first_row, rows, vocab, hidden)
}
