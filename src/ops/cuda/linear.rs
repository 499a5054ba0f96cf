//! Linear layers.

use anyhow::{Result, bail};

use super::CudaDevice;
use super::memory::{DeviceBuffer, Element};

#[allow(clippy::too_many_arguments)]
pub(super) fn forward<E: Element>(
    _device: &CudaDevice<E>,
    _x: &DeviceBuffer<E>,
    _weight: &DeviceBuffer<E>,
    _residual: Option<&DeviceBuffer<E>>,
    _y: &mut DeviceBuffer<E>,
    _rows: usize,
    _inputs: usize,
    _outputs: usize,
) -> Result<()> {
    bail!("linear_forward: this device has no kernel for it yet")
}

#[allow(clippy::too_many_arguments)]
pub(super) fn backward_input<E: Element>(
    _device: &CudaDevice<E>,
    _grad_y: &DeviceBuffer<E>,
    _weight: &DeviceBuffer<E>,
    _grad_x: &mut DeviceBuffer<E>,
    _accumulate: bool,
    _rows: usize,
    _inputs: usize,
    _outputs: usize,
) -> Result<()> {
    bail!("linear_backward_input: this device has no kernel for it yet")
}

#[allow(clippy::too_many_arguments)]
pub(super) fn backward_weight<E: Element>(
    _device: &CudaDevice<E>,
    _grad_y: &DeviceBuffer<E>,
    _x: &DeviceBuffer<E>,
    _grad_weight: &mut DeviceBuffer<E>,
    _rows: usize,
    _inputs: usize,
    _outputs: usize,
) -> Result<()> {
    bail!("linear_backward_weight: this device has no kernel for it yet")
}
