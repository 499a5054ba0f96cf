//! RMSNorm: `kernels/rmsnorm.cu`.

use anyhow::Result;

use super::kernels::{self, rmsnorm};
use super::memory::{DeviceBuffer, Element};
use super::{CudaDevice, blocks, int};
use crate::ops::{Checked, Operation, RmsNormBackward, RmsNormForward, Run};

type Forward<'a, E> = RmsNormForward<'a, DeviceBuffer<E>, DeviceBuffer<f32>>;
type Backward<'a, E> = RmsNormBackward<'a, DeviceBuffer<E>, DeviceBuffer<f32>>;

impl<E: Element> Run<Forward<'_, E>> for CudaDevice<E> {
    fn run(&self, operation: Checked<Forward<'_, E>>) -> Result<()> {
        let op = Forward::<E>::NAME;
        let RmsNormForward {
            x,
            weight,
            epsilon,
            out,
            inv_rms,
        } = operation.into_inner();
        let (rows, cols) = (x.rows, x.cols);
        let driver = self.driver();
        driver.moves(2 * (rows + 1) * cols, 2 * rows * cols + 4 * rows);
        // SAFETY: all buffers are as long as the kernel's contract says.
        unsafe {
            kernels::rmsnorm_fwd::<E>(
                driver,
                [blocks(op, rows, rmsnorm::WARPS)?, 1, 1],
                0,
                out.ptr(),
                inv_rms.ptr(),
                x.ptr(),
                weight.ptr(),
                epsilon,
                int(op, "rows", rows)?,
                int(op, "cols", cols)?,
            )
        }
    }
}

impl<E: Element> Run<Backward<'_, E>> for CudaDevice<E> {
    fn run(&self, operation: Checked<Backward<'_, E>>) -> Result<()> {
        let op = Backward::<E>::NAME;
        let RmsNormBackward {
            grad_out,
            x,
            weight,
            inv_rms,
            grad_x,
            grad_weight,
        } = operation.into_inner();
        let (rows, cols) = (x.rows, x.cols);
        let (grad_x, grad_weight) = (grad_x.ptr(), grad_weight.ptr());
        let parts = blocks(op, rows, rmsnorm::ROWS)?;
        let mut scratch = self.scratch();
        let sums = scratch.take::<f32>(op, parts as usize * rmsnorm::WIDTH.min(cols))?;
        let driver = self.driver();
        for first in (0..cols).step_by(rmsnorm::WIDTH) {
            let width = rmsnorm::WIDTH.min(cols - first);
            // The first launch makes the whole gradient of x, later ones only sum their columns of
            // the weight's.
            let (read, written) = match first {
                0 => (6 * rows * cols + 2 * cols + 4 * rows, 2 * rows * cols),
                _ => (4 * rows * width + 4 * rows, 0),
            };
            let sums_bytes = 4 * parts as usize * width;
            driver.moves(read, written + sums_bytes);
            let shared = (rmsnorm::WARPS * width * size_of::<f32>()) as u32;
            // SAFETY: all buffers are as long as the kernels' contracts say, `sums` is [parts,
            // width].
            unsafe {
                kernels::rmsnorm_bwd::<E>(
                    driver,
                    [parts, 1, 1],
                    shared,
                    grad_x,
                    sums,
                    grad_out.ptr(),
                    x.ptr(),
                    weight.ptr(),
                    inv_rms.ptr(),
                    int(op, "rows", rows)?,
                    int(op, "cols", cols)?,
                    int(op, "first", first)?,
                    int(op, "width", width)?,
                    i32::from(first == 0),
                )?;
                driver.moves(sums_bytes + 2 * width, 2 * width);
                kernels::rmsnorm_bwd_sum::<E>(
                    driver,
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
}
