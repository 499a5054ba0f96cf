//! An operation of one's own: its operands, its check and its cost, and the CPU device running it.
//!
//! ```sh
//! cargo run --release --example own_operation
//! ```

use anyhow::{Result, ensure};
use muni_engine::ops::cpu::{CpuDevice, HostBuffer};
use muni_engine::ops::{Buffer, Checked, Device, Operation, Run, issue};

/// `x[i] = by x[i]`
struct Scale<'a, F> {
    x: &'a mut F,
    by: f32,
}

impl<F: Buffer> Operation for Scale<'_, F> {
    const NAME: &'static str = "scale";

    fn check(&self) -> Result<()> {
        ensure!(
            self.by.is_finite(),
            "scale: by is {}, expected a number",
            self.by
        );
        Ok(())
    }

    /// Each element is read and written.
    fn bytes(&self, storage: usize) -> usize {
        2 * storage * self.x.len()
    }
}

impl Run<Scale<'_, HostBuffer<f32>>> for CpuDevice {
    fn run(&self, operation: Checked<Scale<'_, HostBuffer<f32>>>) -> Result<()> {
        let Scale { x, by } = operation.into_inner();
        x.iter_mut().for_each(|value| *value *= by);
        Ok(())
    }
}

fn main() -> Result<()> {
    let device = CpuDevice::new();
    let mut x = device.zeros_float(3)?;
    device.upload_float(&[1.0, 2.0, 3.0], &mut x)?;
    issue(&device, Scale { x: &mut x, by: 2.0 })?;
    let values = device.download_float(&x, 3)?;
    println!("{values:?}");
    ensure!(values == [2.0, 4.0, 6.0], "found {values:?}");
    // The check comes before the device.
    let wrong = Scale {
        x: &mut x,
        by: f32::NAN,
    };
    let error = issue(&device, wrong).expect_err("a factor that is no number is refused");
    println!("refused: {error}");
    Ok(())
}
