//! Global norm, loss scale and AdamW: `kernels/optimizer.cu`.

use anyhow::{Context, Result};

use super::kernels::{self, optimizer::*};
use super::memory::{DeviceBuffer, Element};
use super::{CudaDevice, blocks, int};
use crate::ops::checks::expect_adam_step;
use crate::ops::{AdamState, AdamStep, MemoryClass};

pub(super) fn adam_state<E: Element>(
    device: &CudaDevice<E>,
    values: &[f32],
) -> Result<AdamState<CudaDevice<E>>> {
    let zeros = |class| DeviceBuffer::within(device.memory(), values.len(), Some(class), true);
    let mut master = zeros(MemoryClass::Masters)?;
    master.upload(values)?;
    Ok(AdamState {
        master: Some(master),
        first: zeros(MemoryClass::Moments)?,
        second: zeros(MemoryClass::Moments)?,
    })
}

pub(super) fn global_norm<E: Element>(
    device: &CudaDevice<E>,
    gradients: &[(&DeviceBuffer<E>, usize)],
    norm: &mut DeviceBuffer<f32>,
) -> Result<()> {
    let op = "global_norm";
    let norm = norm.write(op, "norm", &[2])?;
    let mut parts = 0;
    for &(gradient, len) in gradients {
        gradient.read(op, "gradient", &[len])?;
        int(op, "the number of elements", len)?;
        parts += len.div_ceil(NORM_ELEMENTS);
    }
    let mut scratch = device.scratch();
    let sums = scratch.take::<f32>(op, parts)?;
    let driver = device.driver();
    let total: usize = gradients.iter().map(|&(_, len)| 2 * len).sum();
    driver.operation(op, total + 8);
    let mut first = 0;
    for &(gradient, len) in gradients {
        driver.moves(2 * len, 4 * len.div_ceil(NORM_ELEMENTS));
        // SAFETY: the gradient holds `len` elements, and `sums` has one for each of this launch's blocks from `first` on.
        unsafe {
            kernels::grad_squares::<E>(
                device.driver(),
                [blocks(op, len, NORM_ELEMENTS)?, 1, 1],
                0,
                sums.at(first),
                gradient.ptr(),
                int(op, "the number of elements", len)?,
            )?;
        }
        first += len.div_ceil(NORM_ELEMENTS);
    }
    driver.moves(4 * parts, 8);
    // SAFETY: `sums` [parts] has been written, norm has two elements, the state is as long as the kernel knows it.
    unsafe {
        kernels::grad_norm(
            device.driver(),
            [1, 1, 1],
            0,
            norm,
            device.scale_state(),
            sums.read(),
            int(op, "the number of parts", parts)?,
        )
    }
}

#[allow(clippy::too_many_arguments)]
pub(super) fn adamw<E: Element>(
    device: &CudaDevice<E>,
    weight: &mut DeviceBuffer<E>,
    gradient: &mut DeviceBuffer<E>,
    state: &mut AdamState<CudaDevice<E>>,
    norm: &DeviceBuffer<f32>,
    rate: &DeviceBuffer<f32>,
    step: &AdamStep,
    len: usize,
) -> Result<()> {
    let op = "adamw";
    expect_adam_step(op, step)?;
    let weight = weight.write(op, "weight", &[len])?;
    let gradient = gradient.write(op, "gradient", &[len])?;
    let master = state
        .master
        .as_mut()
        .with_context(|| format!("{op}: the state has no master copy, but weights are stored in 16 bits; make it with adam_state"))?;
    let master = master.write(op, "state.master", &[len])?;
    let first = state.first.write(op, "state.first", &[len])?;
    let second = state.second.write(op, "state.second", &[len])?;
    let norm = norm.read(op, "norm", &[2])?;
    let rate = rate.read(op, "rate", &[1])?;

    // Gradient, master, moments; weight, gradient, master, moments.
    device.driver().operation(op, 30 * len);
    device.driver().moves(14 * len, 16 * len);
    // The bias correction 1 - beta^n is -expm1(n ln beta): the logarithm in f64, so that little is lost for a beta near 1.
    let logarithm = |beta: f32| f64::from(beta).ln() as f32;
    // SAFETY: the buffers hold `len` elements, norm has two, rate has one.
    unsafe {
        kernels::adamw::<E>(
            device.driver(),
            [blocks(op, len, ADAM_ELEMENTS)?, 1, 1],
            0,
            weight,
            master,
            first,
            second,
            gradient,
            norm,
            device.scale_state().read(),
            rate,
            step.beta1,
            step.beta2,
            logarithm(step.beta1),
            logarithm(step.beta2),
            step.weight_decay,
            step.epsilon,
            step.max_norm,
            int(op, "the number of elements", len)?,
        )
    }
}
