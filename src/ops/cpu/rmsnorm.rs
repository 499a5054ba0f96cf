//! RMSNorm (Zhang & Sennrich 2019) over rows.

use super::simd::{LANES, dot_body, sum_lanes, vectorised};
use super::{CpuDevice, Floats};
use crate::ops::{Checked, RmsNormBackward, RmsNormForward, Run};
use anyhow::Result;
use rayon::prelude::*;

/// Rows of one task; also the unit in which the weight's gradient is summed, so it must not depend
/// on the threads.
const ROWS: usize = 64;

impl Run<RmsNormForward<'_, Floats, Floats>> for CpuDevice {
    fn run(&self, operation: Checked<RmsNormForward<'_, Floats, Floats>>) -> Result<()> {
        let RmsNormForward {
            x,
            weight,
            epsilon,
            out,
            inv_rms,
        } = operation.into_inner();
        let (cols, weight) = (x.cols, weight.slice());
        (
            x.slice().par_chunks(ROWS * cols),
            out.slice_mut().par_chunks_mut(ROWS * cols),
            inv_rms.slice_mut().par_chunks_mut(ROWS),
        )
            .into_par_iter()
            .for_each(|(x, out, inv)| forward_rows(x, weight, epsilon, out, inv, cols));
        Ok(())
    }
}

vectorised! {
    /// Some rows on one thread.
    pub(crate) fn forward_rows(
        x: &[f32],
        weight: &[f32],
        epsilon: f32,
        out: &mut [f32],
        inv_rms: &mut [f32],
        cols: usize,
    ) {
        for ((x, out), inv) in x.chunks_exact(cols).zip(out.chunks_exact_mut(cols)).zip(inv_rms) {
            *inv = 1.0 / (dot_body::<FMA>(x, x) / cols as f32 + epsilon).sqrt();
            for ((o, x), w) in out.iter_mut().zip(x).zip(weight) {
                *o = x * *inv * w;
            }
        }
    }
}

impl Run<RmsNormBackward<'_, Floats, Floats>> for CpuDevice {
    fn run(&self, operation: Checked<RmsNormBackward<'_, Floats, Floats>>) -> Result<()> {
        let RmsNormBackward {
            grad_out,
            x,
            weight,
            inv_rms,
            grad_x,
            grad_weight,
        } = operation.into_inner();
        let (cols, weight) = (x.cols, weight.slice());
        let mut partial = self.scratch.zeroed(inv_rms.len.div_ceil(ROWS) * cols);
        (
            grad_out.slice().par_chunks(ROWS * cols),
            x.slice().par_chunks(ROWS * cols),
            inv_rms.slice().par_chunks(ROWS),
            grad_x.slice_mut().par_chunks_mut(ROWS * cols),
            partial.par_chunks_mut(cols),
        )
            .into_par_iter()
            .for_each(|(grad_out, x, inv, grad_x, partial)| {
                backward_rows(grad_out, x, weight, inv, grad_x, partial, cols)
            });
        let grad_weight = grad_weight.slice_mut();
        for partial in partial.chunks_exact(cols) {
            for (total, part) in grad_weight.iter_mut().zip(partial) {
                *total += part;
            }
        }
        Ok(())
    }
}

vectorised! {
    /// Some rows on one thread; adds into `grad_x` and `grad_weight`.
    pub(crate) fn backward_rows(
        grad_out: &[f32],
        x: &[f32],
        weight: &[f32],
        inv_rms: &[f32],
        grad_x: &mut [f32],
        grad_weight: &mut [f32],
        cols: usize,
    ) {
        let rows = grad_out
            .chunks_exact(cols)
            .zip(x.chunks_exact(cols))
            .zip(grad_x.chunks_exact_mut(cols))
            .zip(inv_rms);
        for (((grad_out, x), grad_x), &inv) in rows {
            let mut lanes = [0.0f32; LANES];
            let whole = cols / LANES * LANES;
            for i in (0..whole).step_by(LANES) {
                let (grad_out, weight) = (&grad_out[i..i + LANES], &weight[i..i + LANES]);
                let x = &x[i..i + LANES];
                for j in 0..LANES {
                    lanes[j] += grad_out[j] * weight[j] * x[j];
                }
            }
            let mut sum = sum_lanes(lanes);
            for i in whole..cols {
                sum += grad_out[i] * weight[i] * x[i];
            }
            let mean = sum * inv * inv / cols as f32;
            let x = &x[..cols];
            for i in 0..cols {
                grad_x[i] += inv * (grad_out[i] * weight[i] - x[i] * mean);
                grad_weight[i] += grad_out[i] * x[i] * inv;
            }
        }
    }
}
