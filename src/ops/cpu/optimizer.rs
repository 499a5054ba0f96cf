//! Global gradient norm and AdamW.

use super::device::clear;
use super::simd::{LANES, fma, sum_lanes, vectorised};
use super::{CpuDevice, Floats};
use crate::ops::{AdamStep, AdamW, Checked, GlobalNorm, Run};
use anyhow::{Result, ensure};
use rayon::prelude::*;

/// Elements of one task of the norm; sums are kept per chunk, in order, in f64.
const CHUNK: usize = 1 << 16;
/// Elements of one task of an update: a small weight is shared by all threads too.
const UPDATE_CHUNK: usize = 1 << 14;

impl Run<GlobalNorm<'_, Floats, Floats>> for CpuDevice {
    fn run(&self, operation: Checked<GlobalNorm<'_, Floats, Floats>>) -> Result<()> {
        let GlobalNorm { gradients, norm } = operation.into_inner();
        let mut total = 0.0f64;
        for gradient in gradients {
            total += sum_of_squares(gradient.slice());
        }
        let norm = norm.slice_mut();
        norm[0] = total.sqrt() as f32;
        if norm[0].is_finite() {
            norm[1] += 1.0;
        }
        Ok(())
    }
}

/// `sum_i x[i]^2`.
fn sum_of_squares(x: &[f32]) -> f64 {
    let parts: Vec<f64> = x.par_chunks(CHUNK).map(squares_of_chunk).collect();
    parts.iter().sum()
}

vectorised! {
    /// Blocks of 4,096 in f32 lanes, their sums in f64.
    pub(crate) fn squares_of_chunk(x: &[f32]) -> f64 {
        let mut total = 0.0f64;
        for block in x.chunks(4096) {
            let mut lanes = [0.0f32; LANES];
            let (lines, rest) = block.as_chunks::<LANES>();
            for line in lines {
                for i in 0..LANES {
                    lanes[i] = fma::<FMA>(line[i], line[i], lanes[i]);
                }
            }
            total += f64::from(sum_lanes(lanes));
            for &value in rest {
                total += f64::from(value) * f64::from(value);
            }
        }
        total
    }
}

/// Elements between what an update works on and what it asks memory for.
const AHEAD: usize = 512;

/// Asks for the cache line of an address, which may be any.
#[inline(always)]
fn prefetch(address: *const f32) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE is in every x86-64 processor, and prefetching any address is allowed.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// What changes from one AdamW update to the next.
#[derive(Clone, Copy)]
pub(crate) struct Update {
    /// What the gradient is multiplied by.
    pub clip: f32,
    /// Learning rate.
    pub rate: f32,
    /// Number of the update, from 1.
    pub number: f32,
}

impl Run<AdamW<'_, Floats, Floats>> for CpuDevice {
    fn run(&self, operation: Checked<AdamW<'_, Floats, Floats>>) -> Result<()> {
        let AdamW {
            weight,
            gradient,
            state,
            norm,
            rate,
            step,
        } = operation.into_inner();
        ensure!(
            state.master.is_none(),
            "adamw: this device keeps no master copy, its weights are f32"
        );
        let (len, norm) = (weight.len, norm.slice());
        let (weight, gradient) = (weight.slice_mut(), gradient.slice_mut());
        if !norm[0].is_finite() {
            clear(gradient);
            return Ok(());
        }
        let update = Update {
            clip: (step.max_norm / (norm[0] + 1e-6)).min(1.0),
            rate: rate.slice()[0],
            number: norm[1],
        };
        (
            weight.par_chunks_mut(UPDATE_CHUNK),
            gradient.par_chunks_mut(UPDATE_CHUNK),
            state.first[..len].par_chunks_mut(UPDATE_CHUNK),
            state.second[..len].par_chunks_mut(UPDATE_CHUNK),
        )
            .into_par_iter()
            .for_each(|(w, g, m, v)| adamw_chunk(w, g, m, v, update, &step));
        Ok(())
    }
}

vectorised! {
    /// The update of `torch.optim.AdamW`: decay first, then the bias-corrected step.
    pub(crate) fn adamw_chunk(
        weight: &mut [f32],
        gradient: &mut [f32],
        first: &mut [f32],
        second: &mut [f32],
        update: Update,
        step: &AdamStep,
    ) {
        // In f64, as PyTorch computes these scalars.
        let bias1 = 1.0 - f64::from(step.beta1).powi(update.number as i32);
        let bias2 = 1.0 - f64::from(step.beta2).powi(update.number as i32);
        let rate = (f64::from(update.rate) / bias1) as f32;
        let root = (1.0 / bias2.sqrt()) as f32;
        let keep = (1.0 - f64::from(update.rate) * f64::from(step.weight_decay)) as f32;
        let (fresh1, fresh2) = (1.0 - step.beta1, 1.0 - step.beta2);
        let n = weight.len();
        let (gradient, first, second) = (&mut gradient[..n], &mut first[..n], &mut second[..n]);
        for from in (0..n).step_by(LANES) {
            for ahead in [&*weight, &*gradient, &*first, &*second] {
                prefetch(ahead.as_ptr().wrapping_add(from + AHEAD));
            }
            for i in from..n.min(from + LANES) {
                let g = gradient[i] * update.clip;
                gradient[i] = 0.0;
                let m = fma::<FMA>(first[i], step.beta1, fresh1 * g);
                let v = fma::<FMA>(second[i], step.beta2, fresh2 * g * g);
                first[i] = m;
                second[i] = v;
                weight[i] = weight[i] * keep - rate * m / fma::<FMA>(v.sqrt(), root, step.epsilon);
            }
        }
    }
}
