//! RMSNorm: `kernels/rmsnorm.cu`.

use anyhow::Result;

use super::kernels::{self, rmsnorm};
use super::memory::{DeviceBuffer, Element};
use super::{CudaDevice, blocks, int};
use crate::ops::checks::expect_nonzero;

#[allow(clippy::too_many_arguments)]
pub(super) fn forward<E: Element>(
    device: &CudaDevice<E>,
    x: &DeviceBuffer<E>,
    weight: &DeviceBuffer<E>,
    epsilon: f32,
    out: &mut DeviceBuffer<E>,
    inv_rms: &mut DeviceBuffer<f32>,
    rows: usize,
    cols: usize,
) -> Result<()> {
    let op = "rmsnorm_forward";
    expect_nonzero(op, "the number of columns", cols)?;
    let x = x.read(op, "x", &[rows, cols])?;
    let weight = weight.read(op, "weight", &[cols])?;
    let out = out.write(op, "out", &[rows, cols])?;
    let inv_rms = inv_rms.write(op, "inv_rms", &[rows])?;
    let (read, written) = (2 * (rows + 1) * cols, 2 * rows * cols + 4 * rows);
    device.driver().operation(op, read + written);
    device.driver().moves(read, written);
    let grid = [blocks(op, rows, rmsnorm::WARPS)?, 1, 1];
    let (rows, cols) = (int(op, "rows", rows)?, int(op, "cols", cols)?);
    // SAFETY: all buffers are as long as the kernel's contract says.
    unsafe {
        kernels::rmsnorm_fwd::<E>(
            device.driver(),
            grid,
            0,
            out,
            inv_rms,
            x,
            weight,
            epsilon,
            rows,
            cols,
        )
    }
}

#[allow(clippy::too_many_arguments)]
pub(super) fn backward<E: Element>(
    device: &CudaDevice<E>,
    grad_out: &DeviceBuffer<E>,
    x: &DeviceBuffer<E>,
    weight: &DeviceBuffer<E>,
    inv_rms: &DeviceBuffer<f32>,
    grad_x: &mut DeviceBuffer<E>,
    grad_weight: &mut DeviceBuffer<E>,
    rows: usize,
    cols: usize,
) -> Result<()> {
    let op = "rmsnorm_backward";
    expect_nonzero(op, "the number of columns", cols)?;
    let grad_out = grad_out.read(op, "grad_out", &[rows, cols])?;
    let x = x.read(op, "x", &[rows, cols])?;
    let weight = weight.read(op, "weight", &[cols])?;
    let inv_rms = inv_rms.read(op, "inv_rms", &[rows])?;
    let grad_x = grad_x.write(op, "grad_x", &[rows, cols])?;
    let grad_weight = grad_weight.write(op, "grad_weight", &[cols])?;
    let parts = blocks(op, rows, rmsnorm::ROWS)?;
    let mut scratch = device.scratch();
    let sums = scratch.take::<f32>(op, parts as usize * rmsnorm::WIDTH.min(cols))?;
    let driver = device.driver();
    driver.operation(op, 8 * rows * cols + 6 * cols + 4 * rows);
    for first in (0..cols).step_by(rmsnorm::WIDTH) {
        let width = rmsnorm::WIDTH.min(cols - first);
        // The first launch makes the whole gradient of x, later ones only sum their columns of the weight's.
        let (read, written) = match first {
            0 => (6 * rows * cols + 2 * cols + 4 * rows, 2 * rows * cols),
            _ => (4 * rows * width + 4 * rows, 0),
        };
        let sums_bytes = 4 * parts as usize * width;
        driver.moves(read, written + sums_bytes);
        let shared = (rmsnorm::WARPS * width * size_of::<f32>()) as u32;
        // SAFETY: all buffers are as long as the kernels' contracts say, `sums` is [parts, width].
        unsafe {
            kernels::rmsnorm_bwd::<E>(
                device.driver(),
                [parts, 1, 1],
                shared,
                grad_x,
                sums,
                grad_out,
                x,
                weight,
                inv_rms,
                int(op, "rows", rows)?,
                int(op, "cols", cols)?,
                int(op, "first", first)?,
                int(op, "width", width)?,
                i32::from(first == 0),
            )?;
            driver.moves(sums_bytes + 2 * width, 2 * width);
            kernels::rmsnorm_bwd_sum::<E>(
                device.driver(),
                [blocks(op, width, rmsnorm::THREADS)?, 1, 1],
                0,
                grad_weight,
                sums.read(),
                int(op, "parts", parts as usize)?,
                int(op, "first", first)?,
                int(op, "width", width)?,
            )?;
        }
    }
    Ok(())
}
