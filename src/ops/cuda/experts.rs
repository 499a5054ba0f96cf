//! Experts.

use anyhow::{Result, bail};

use super::CudaDevice;
use super::memory::{DeviceBuffer, Element};
use crate::ops::{MoeShape, Routing};

#[allow(clippy::too_many_arguments)]
pub(super) fn forward<E: Element>(
    _device: &CudaDevice<E>,
    _x: &DeviceBuffer<E>,
    _routing: &Routing<CudaDevice<E>>,
    _w13: &DeviceBuffer<E>,
    _w2: &DeviceBuffer<E>,
    _residual: &DeviceBuffer<E>,
    _gate_up: &mut DeviceBuffer<E>,
    _out: &mut DeviceBuffer<E>,
    _shape: &MoeShape,
    _count: usize,
) -> Result<()> {
    bail!("experts_forward: this device has no kernel for it yet")
}

#[allow(clippy::too_many_arguments)]
pub(super) fn backward<E: Element>(
    _device: &CudaDevice<E>,
    _grad_out: &DeviceBuffer<E>,
    _x: &DeviceBuffer<E>,
    _routing: &Routing<CudaDevice<E>>,
    _w13: &DeviceBuffer<E>,
    _w2: &DeviceBuffer<E>,
    _gate_up: &DeviceBuffer<E>,
    _grad_x: &mut DeviceBuffer<E>,
    _grad_w13: &mut DeviceBuffer<E>,
    _grad_w2: &mut DeviceBuffer<E>,
    _grad_weights: &mut DeviceBuffer<f32>,
    _shape: &MoeShape,
    _count: usize,
) -> Result<()> {
    bail!("experts_backward: this device has no kernel for it yet")
}
