//! Router.

use anyhow::{Result, bail};

use super::CudaDevice;
use super::memory::{DeviceBuffer, Element, IndexBuffer};
use crate::ops::{Balance, MoeShape, Routing};

#[allow(clippy::too_many_arguments)]
pub(super) fn forward<E: Element>(
    _device: &CudaDevice<E>,
    _x: &DeviceBuffer<E>,
    _weight: &DeviceBuffer<E>,
    _routing: &mut Routing<CudaDevice<E>>,
    _balance: &mut Balance<CudaDevice<E>>,
    _groups: &IndexBuffer,
    _group_count: usize,
    _shape: &MoeShape,
    _count: usize,
) -> Result<()> {
    bail!("router_forward: this device has no kernel for it yet")
}

#[allow(clippy::too_many_arguments)]
pub(super) fn backward<E: Element>(
    _device: &CudaDevice<E>,
    _grad_weights: &DeviceBuffer<f32>,
    _x: &DeviceBuffer<E>,
    _weight: &DeviceBuffer<E>,
    _routing: &Routing<CudaDevice<E>>,
    _balance: &Balance<CudaDevice<E>>,
    _groups: &IndexBuffer,
    _group_count: usize,
    _layers: usize,
    _balance_scale: f32,
    _grad_x: &mut DeviceBuffer<E>,
    _grad_weight: &mut DeviceBuffer<E>,
    _shape: &MoeShape,
    _count: usize,
) -> Result<()> {
    bail!("router_backward: this device has no kernel for it yet")
}
