//! Products with a handful of rows, as decoding has them: the weight is read once, straight through, as dot products.
//! Packing it first would double the memory traffic that is all there is to pay.

use super::simd::{dot_body, vectorised};
use rayon::prelude::*;

/// Weight rows per task.
const OUTPUTS: usize = 64;
/// Multiply-adds below which threads cost more than they bring.
const PARALLEL_WORK: usize = 1 << 17;

/// Whether so few rows are faster here than through the blocked product.
pub fn fits(rows: usize) -> bool {
    rows <= 4
}

/// `y = x weight^T (+ residual)`: x `[rows, inputs]`, weight `[outputs, inputs]`.
pub fn linear(
    x: &[f32],
    weight: &[f32],
    residual: Option<&[f32]>,
    y: &mut [f32],
    rows: usize,
    inputs: usize,
    outputs: usize,
) {
    for r in 0..rows {
        let x = &x[r * inputs..(r + 1) * inputs];
        let y = &mut y[r * outputs..(r + 1) * outputs];
        let weight = &weight[..outputs * inputs];
        if inputs * outputs < PARALLEL_WORK {
            dots(x, weight, y);
        } else {
            y.par_chunks_mut(OUTPUTS)
                .zip(weight.par_chunks(OUTPUTS * inputs))
                .with_min_len(4)
                .for_each(|(y, w)| dots(x, w, y));
        }
        if let Some(residual) = residual {
            for (y, r) in y.iter_mut().zip(&residual[r * outputs..]) {
                *y += r;
            }
        }
    }
}

vectorised! {
    /// `y[i] = x . weight[i]`.
    pub fn dots(x: &[f32], weight: &[f32], y: &mut [f32]) {
        for (y, w) in y.iter_mut().zip(weight.chunks_exact(x.len())) {
            *y = dot_body::<FMA>(x, w);
        }
    }
}
