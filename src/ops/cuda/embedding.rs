//! Embedding.

use anyhow::{Result, bail};

use super::CudaDevice;
use super::memory::{DeviceBuffer, Element, IndexBuffer};

#[allow(clippy::too_many_arguments)]
pub(super) fn forward<E: Element>(
    _device: &CudaDevice<E>,
    _table: &DeviceBuffer<E>,
    _tokens: &IndexBuffer,
    _out: &mut DeviceBuffer<E>,
    _count: usize,
    _vocab: usize,
    _hidden: usize,
) -> Result<()> {
    bail!("embedding_forward: this device has no kernel for it yet")
}

#[allow(clippy::too_many_arguments)]
pub(super) fn backward<E: Element>(
    _device: &CudaDevice<E>,
    _grad_out: &DeviceBuffer<E>,
    _tokens: &IndexBuffer,
    _grad_table: &mut DeviceBuffer<E>,
    _count: usize,
    _vocab: usize,
    _hidden: usize,
) -> Result<()> {
    bail!("embedding_backward: this device has no kernel for it yet")
}
