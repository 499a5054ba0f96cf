//! Linear layers: `kernels/linear.cu`.

use anyhow::Result;

use super::decode::{GEMV_ROWS, gemv};
use super::kernels;
use super::memory::{DeviceBuffer, Element, Ptr};
use super::tile::Tile;
use super::{CudaDevice, int};

#[allow(clippy::too_many_arguments)]
pub(super) fn forward<E: Element>(
    device: &CudaDevice<E>,
    x: &DeviceBuffer<E>,
    weight: &DeviceBuffer<E>,
    residual: Option<&DeviceBuffer<E>>,
    y: &mut DeviceBuffer<E>,
    rows: usize,
    inputs: usize,
    outputs: usize,
) -> Result<()> {
    let op = "linear_forward";
    let x = x.read(op, "x", &[rows, inputs])?;
    let weight = weight.read(op, "weight", &[outputs, inputs])?;
    let residual = residual
        .map(|residual| residual.read(op, "residual", &[rows, outputs]))
        .transpose()?;
    let y = y.write(op, "y", &[rows, outputs])?;
    if rows <= GEMV_ROWS {
        // SAFETY: all buffers are as long as the product needs, and begin at multiples of 256 bytes.
        return unsafe { gemv(op, device, x, weight, residual, y, rows, inputs, outputs) };
    }
    let driver = device.driver();
    let least = 2 * (rows * inputs + outputs * inputs + rows * outputs)
        + if residual.is_some() {
            2 * rows * outputs
        } else {
            0
        };
    driver.operation(op, least);
    driver.moves(least - 2 * rows * outputs, 2 * rows * outputs);
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
            y,
            x,
            weight,
            residual.unwrap_or_else(Ptr::null),
            int(op, "rows", rows)?,
            int(op, "inputs", inputs)?,
            int(op, "outputs", outputs)?,
        )
    }
}

#[allow(clippy::too_many_arguments)]
pub(super) fn backward_input<E: Element>(
    device: &CudaDevice<E>,
    grad_y: &DeviceBuffer<E>,
    weight: &DeviceBuffer<E>,
    grad_x: &mut DeviceBuffer<E>,
    accumulate: bool,
    rows: usize,
    inputs: usize,
    outputs: usize,
) -> Result<()> {
    let op = "linear_backward_input";
    let grad_y = grad_y.read(op, "grad_y", &[rows, outputs])?;
    let weight = weight.read(op, "weight", &[outputs, inputs])?;
    let grad_x = grad_x.write(op, "grad_x", &[rows, inputs])?;
    let driver = device.driver();
    let old = if accumulate { 2 * rows * inputs } else { 0 };
    let read = 2 * (rows * outputs + outputs * inputs) + old;
    driver.operation(op, read + 2 * rows * inputs);
    driver.moves(read, 2 * rows * inputs);
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
            grad_x,
            grad_y,
            weight,
            i32::from(accumulate),
            int(op, "rows", rows)?,
            int(op, "inputs", inputs)?,
            int(op, "outputs", outputs)?,
        )
    }
}

pub(super) fn backward_weight<E: Element>(
    device: &CudaDevice<E>,
    grad_y: &DeviceBuffer<E>,
    x: &DeviceBuffer<E>,
    grad_weight: &mut DeviceBuffer<E>,
    rows: usize,
    inputs: usize,
    outputs: usize,
) -> Result<()> {
    let op = "linear_backward_weight";
    let grad_y = grad_y.read(op, "grad_y", &[rows, outputs])?;
    let x = x.read(op, "x", &[rows, inputs])?;
    let grad_weight = grad_weight.write(op, "grad_weight", &[outputs, inputs])?;
    let driver = device.driver();
    let read = 2 * (rows * outputs + rows * inputs + outputs * inputs);
    driver.operation(op, read + 2 * outputs * inputs);
    driver.moves(read, 2 * outputs * inputs);
    let tile = Tile::for_product(
        &[inputs, outputs],
        outputs,
        inputs,
        driver.multiprocessors(),
    );
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
            grad_weight,
            grad_y,
            x,
            int(op, "rows", rows)?,
            int(op, "inputs", inputs)?,
            int(op, "outputs", outputs)?,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Device;
    use crate::ops::cuda::sim_driver::SimDriver;
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
