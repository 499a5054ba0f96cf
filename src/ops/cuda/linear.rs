//! Linear layers: `kernels/linear.cu`, and `kernels/decode.cu` for a few rows.

use anyhow::Result;

use super::kernels::{self, decode};
use super::memory::{DeviceBuffer, Element, Ptr};
use super::tile::Tile;
use super::{CudaDevice, blocks, int};
use crate::ops::{Checked, LinearBackwardInput, LinearBackwardWeight, LinearForward};
use crate::ops::{Matrix, Operation, Run};

/// Most rows that one reading of a weight serves; more are the tensor cores' work.
pub(super) const GEMV_ROWS: usize = decode::MAX_ROWS;

type Forward<'a, E> = LinearForward<'a, DeviceBuffer<E>>;
type BackwardInput<'a, E> = LinearBackwardInput<'a, DeviceBuffer<E>>;
type BackwardWeight<'a, E> = LinearBackwardWeight<'a, DeviceBuffer<E>>;

impl<E: Element> Run<Forward<'_, E>> for CudaDevice<E> {
    fn run(&self, operation: Checked<Forward<'_, E>>) -> Result<()> {
        let op = Forward::<E>::NAME;
        let LinearForward {
            x,
            weight,
            residual,
            y,
        } = operation.into_inner();
        let (rows, inputs, outputs) = (x.rows, x.cols, weight.rows);
        let driver = self.driver();
        let added = residual.map_or(0, |_| rows * outputs);
        driver.moves(
            2 * (rows * inputs + outputs * inputs + added),
            2 * rows * outputs,
        );
        let (rows_arg, inputs_arg, outputs_arg) = (
            int(op, "rows", rows)?,
            int(op, "inputs", inputs)?,
            int(op, "outputs", outputs)?,
        );
        let has_residual = i32::from(residual.is_some());
        let residual = residual.as_ref().map_or_else(Ptr::null, Matrix::ptr);
        if rows <= GEMV_ROWS {
            // The weight is read once, and its bytes bound the time.
            // SAFETY: all buffers are as long as the kernel's contract says, and begin at multiples
            // of 256 bytes.
            return unsafe {
                kernels::gemv::<E>(
                    driver,
                    [blocks(op, outputs, decode::BLOCK_OUTPUTS)?, 1, 1],
                    0,
                    y.ptr(),
                    x.ptr(),
                    weight.ptr(),
                    residual,
                    has_residual,
                    rows_arg,
                    inputs_arg,
                    outputs_arg,
                )
            };
        }
        let tile = Tile::for_product(&[inputs, outputs], rows, outputs, driver.multiprocessors());
        let launch = match tile {
            Tile::Large => kernels::linear_fwd::<E>,
            Tile::Small => kernels::linear_small_fwd::<E>,
        };
        // SAFETY: all buffers are as long as the kernel's contract says.
        unsafe {
            launch(
                driver,
                tile.grid(op, rows, outputs)?,
                tile.shared_bytes(),
                y.ptr(),
                x.ptr(),
                weight.ptr(),
                residual,
                rows_arg,
                inputs_arg,
                outputs_arg,
            )
        }
    }
}

impl<E: Element> Run<BackwardInput<'_, E>> for CudaDevice<E> {
    fn run(&self, operation: Checked<BackwardInput<'_, E>>) -> Result<()> {
        let op = BackwardInput::<E>::NAME;
        let LinearBackwardInput {
            grad_y,
            weight,
            grad_x,
            accumulate,
        } = operation.into_inner();
        let (rows, inputs, outputs) = (grad_y.rows, weight.cols, weight.rows);
        let driver = self.driver();
        let old = if accumulate { 2 * rows * inputs } else { 0 };
        driver.moves(
            2 * (rows * outputs + outputs * inputs) + old,
            2 * rows * inputs,
        );
        let tile = Tile::for_product(&[inputs, outputs], rows, inputs, driver.multiprocessors());
        let launch = match tile {
            Tile::Large => kernels::linear_input_bwd::<E>,
            Tile::Small => kernels::linear_input_small_bwd::<E>,
        };
        // SAFETY: all buffers are as long as the kernel's contract says.
        unsafe {
            launch(
                driver,
                tile.grid(op, rows, inputs)?,
                tile.shared_bytes(),
                grad_x.ptr(),
                grad_y.ptr(),
                weight.ptr(),
                i32::from(accumulate),
                int(op, "rows", rows)?,
                int(op, "inputs", inputs)?,
                int(op, "outputs", outputs)?,
            )
        }
    }
}

impl<E: Element> Run<BackwardWeight<'_, E>> for CudaDevice<E> {
    fn run(&self, operation: Checked<BackwardWeight<'_, E>>) -> Result<()> {
        let op = BackwardWeight::<E>::NAME;
        let LinearBackwardWeight {
            grad_y,
            x,
            grad_weight,
        } = operation.into_inner();
        let (rows, inputs, outputs) = (x.rows, x.cols, grad_y.cols);
        let driver = self.driver();
        driver.moves(
            2 * (rows * outputs + rows * inputs + outputs * inputs),
            2 * outputs * inputs,
        );
        let strides = [inputs, outputs];
        let tile = Tile::for_product(&strides, outputs, inputs, driver.multiprocessors());
        let launch = match tile {
            Tile::Large => kernels::linear_weight_bwd::<E>,
            Tile::Small => kernels::linear_weight_small_bwd::<E>,
        };
        // SAFETY: all buffers are as long as the kernel's contract says.
        unsafe {
            launch(
                driver,
                tile.grid(op, outputs, inputs)?,
                tile.shared_bytes(),
                grad_weight.ptr(),
                grad_y.ptr(),
                x.ptr(),
                int(op, "rows", rows)?,
                int(op, "inputs", inputs)?,
                int(op, "outputs", outputs)?,
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Device;
    use crate::ops::cuda::driver::simulator::SimDriver;
    use crate::ops::cuda::{LossScaling, kernels};
    use half::f16;

    #[test]
    fn both_tiles_give_the_same_bits() -> Result<()> {
        let driver = SimDriver::new(false)?;
        let device = CudaDevice::<f16>::new(driver, LossScaling::Fixed(1.0))?;
        let (rows, inputs, outputs) = (70, 200, 136);
        let values = |len: usize, step: usize| -> Vec<f32> {
            (0..len)
                .map(|i| (i * step % 997) as f32 / 499.0 - 1.0)
                .collect()
        };
        let mut x = device.zeros_float(rows * inputs)?;
        let mut weight = device.zeros_float(outputs * inputs)?;
        device.upload_float(&values(rows * inputs, 577), &mut x)?;
        device.upload_float(&values(outputs * inputs, 311), &mut weight)?;
        let mut made = Vec::new();
        for tile in [Tile::Large, Tile::Small] {
            let launch = match tile {
                Tile::Large => kernels::linear_fwd::<f16>,
                Tile::Small => kernels::linear_small_fwd::<f16>,
            };
            let mut y = device.zeros_float(rows * outputs)?;
            // SAFETY: all buffers are as long as the kernel's contract says.
            unsafe {
                launch(
                    device.driver(),
                    tile.grid("test", rows, outputs)?,
                    tile.shared_bytes(),
                    y.ptr_mut(),
                    x.ptr(),
                    weight.ptr(),
                    Ptr::null(),
                    rows as i32,
                    inputs as i32,
                    outputs as i32,
                )?;
            }
            made.push(device.download_float(&y, rows * outputs)?);
        }
        assert!(made[0].iter().any(|&value| value != 0.0));
        assert_eq!(made[0], made[1]);
        Ok(())
    }
}
