//! Global norm, loss scale and AdamW: `kernels/optimizer.cu`.

use anyhow::{Context, Result};

use super::kernels::{self, optimizer::*};
use super::memory::{DeviceBuffer, Element};
use super::{CudaDevice, blocks, int};
use crate::ops::{AdamState, AdamW, Checked, GlobalNorm, MemoryClass, Operation, Run};

type Norm<'a, E> = GlobalNorm<'a, DeviceBuffer<E>, DeviceBuffer<f32>>;
type Update<'a, E> = AdamW<'a, DeviceBuffer<E>, DeviceBuffer<f32>>;

pub(super) fn adam_state<E: Element>(
    device: &CudaDevice<E>,
    values: &[f32],
) -> Result<AdamState<DeviceBuffer<f32>>> {
    let zeros = |class| DeviceBuffer::within(device.memory(), values.len(), Some(class), true);
    let mut master = zeros(MemoryClass::Masters)?;
    master.upload(values)?;
    Ok(AdamState {
        master: Some(master),
        first: zeros(MemoryClass::Moments)?,
        second: zeros(MemoryClass::Moments)?,
    })
}

impl<E: Element> Run<Norm<'_, E>> for CudaDevice<E> {
    fn run(&self, operation: Checked<Norm<'_, E>>) -> Result<()> {
        let op = Norm::<E>::NAME;
        let GlobalNorm { gradients, norm } = operation.into_inner();
        let mut parts = 0;
        for gradient in &gradients {
            int(op, "the number of elements", gradient.len)?;
            parts += gradient.len.div_ceil(NORM_ELEMENTS);
        }
        let mut scratch = self.scratch();
        let sums = scratch.take::<f32>(op, parts)?;
        let driver = self.driver();
        let mut first = 0;
        for gradient in &gradients {
            let len = gradient.len;
            driver.moves(2 * len, 4 * len.div_ceil(NORM_ELEMENTS));
            // SAFETY: the gradient holds `len` elements, and `sums` has one for each of this
            // launch's blocks from `first` on.
            unsafe {
                kernels::grad_squares::<E>(
                    driver,
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
        // SAFETY: `sums` [parts] has been written, norm has two elements, the state is as long as
        // the kernel knows it.
        unsafe {
            kernels::grad_norm(
                driver,
                [1, 1, 1],
                0,
                norm.ptr(),
                self.scale_state(),
                sums.read(),
                int(op, "the number of parts", parts)?,
            )
        }
    }
}

impl<E: Element> Run<Update<'_, E>> for CudaDevice<E> {
    fn run(&self, operation: Checked<Update<'_, E>>) -> Result<()> {
        let op = Update::<E>::NAME;
        let AdamW {
            weight,
            gradient,
            state,
            norm,
            rate,
            step,
        } = operation.into_inner();
        let len = weight.len;
        let master = state.master.as_mut().with_context(|| {
            format!(
                "{op}: the state has no master copy, but weights are stored in 16 bits; \
                 make it with adam_state"
            )
        })?;
        // Gradient, master, moments; weight, gradient, master, moments.
        self.driver().moves(14 * len, 16 * len);
        // The bias correction 1 - beta^n is -expm1(n ln beta): the logarithm in f64, so that little
        // is lost for a beta near 1.
        let logarithm = |beta: f32| f64::from(beta).ln() as f32;
        // SAFETY: the buffers hold `len` elements, norm has two, rate has one.
        unsafe {
            kernels::adamw::<E>(
                self.driver(),
                [blocks(op, len, ADAM_ELEMENTS)?, 1, 1],
                0,
                weight.ptr(),
                master.ptr_mut(),
                state.first.ptr_mut(),
                state.second.ptr_mut(),
                gradient.ptr(),
                norm.ptr(),
                self.scale_state().read(),
                rate.ptr(),
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
}
