//! Products with few rows, as decoding has them: one text has one row per step, a server's batch as
//! many as it has texts. Each weight is read from memory once, straight through, as dot products.
//! Packing it first, as the blocked product does, would double the memory traffic that is nearly
//! all there is to pay.
//!
//! A row's result has the same bits however many rows stand beside it: every element is
//! [`dot_body`]'s sum, in its order. So a text's answer does not depend on who else is asking.

use super::kernel::Level;
use super::shared::SharedMut;
use super::simd::{dot_body, vectorised};
use rayon::prelude::*;

/// Most rows that are faster here than through the blocked product.
pub(crate) const MAX_ROWS: usize = 64;

/// Weight rows per task.
const OUTPUTS: usize = 64;
/// Tasks that one thread takes at least: 0.4 MB of weights at 384 columns.
const TASKS_AT_LEAST: usize = 4;
/// Weight rows that stay in L1 while all rows of `x` pass by: 24 KiB at 384 columns.
const BLOCK: usize = 16;
/// Multiply-adds below which threads cost more than they bring.
const PARALLEL_WORK: usize = 1 << 17;

/// Whether so few rows are faster here than through the blocked product.
pub(crate) fn fits(rows: usize) -> bool {
    rows <= MAX_ROWS
}

/// `y = x weight^T (+ residual)`: x `[rows, inputs]`, weight `[outputs, inputs]`, `inputs` at least
/// 1.
pub(crate) fn linear(
    x: &[f32],
    weight: &[f32],
    residual: Option<&[f32]>,
    y: &mut [f32],
    rows: usize,
    inputs: usize,
    outputs: usize,
) {
    let (x, weight) = (&x[..rows * inputs], &weight[..outputs * inputs]);
    let y = SharedMut::new(&mut y[..rows * outputs]);
    let task = |(index, weight): (usize, &[f32])| {
        let first = index * OUTPUTS;
        for (block, weight) in weight.chunks(BLOCK * inputs).enumerate() {
            // SAFETY: the outputs of these weight rows are this task's alone.
            unsafe { columns(x, weight, y, first + block * BLOCK, inputs, outputs) };
        }
        let width = weight.len() / inputs;
        for (r, residual) in residual
            .iter()
            .flat_map(|r| r.chunks_exact(outputs))
            .enumerate()
            .take(rows)
        {
            // SAFETY: as above.
            let y = unsafe { y.slice(r * outputs + first, width) };
            for (y, r) in y.iter_mut().zip(&residual[first..]) {
                *y += r;
            }
        }
    };
    if rows * inputs * outputs < PARALLEL_WORK {
        weight.chunks(OUTPUTS * inputs).enumerate().for_each(task);
    } else {
        weight
            .par_chunks(OUTPUTS * inputs)
            .enumerate()
            .with_min_len(TASKS_AT_LEAST.div_ceil(rows))
            .for_each(task);
    }
}

/// `y[r, first + i] = x[r] . weight[i]` for all rows of `x` and of `weight`; `y` has `outputs`
/// columns.
///
/// # Safety
/// Nobody else touches these elements of `y` meanwhile.
unsafe fn columns(
    x: &[f32],
    weight: &[f32],
    y: SharedMut,
    first: usize,
    inputs: usize,
    outputs: usize,
) {
    #[cfg(target_arch = "x86_64")]
    if Level::detect() == Level::Avx512 {
        // SAFETY: the instructions are there; the caller's promise.
        return unsafe { avx512::columns(x, weight, y, first, inputs, outputs) };
    }
    let width = weight.len() / inputs;
    for (r, x) in x.chunks_exact(inputs).enumerate() {
        // SAFETY: the caller's promise.
        dots(x, weight, unsafe { y.slice(r * outputs + first, width) });
    }
}

vectorised! {
    /// `y[i] = x . weight[i]`.
    pub(crate) fn dots(x: &[f32], weight: &[f32], y: &mut [f32]) {
        for (y, w) in y.iter_mut().zip(weight.chunks_exact(x.len())) {
            *y = dot_body::<FMA>(x, w);
        }
    }
}

/// Eight dot products at once: each value that is loaded serves several of them, and their sums
/// over lanes are taken together.
#[cfg(target_arch = "x86_64")]
mod avx512 {
    use super::super::shared::SharedMut;
    use super::super::simd::LANES;
    use std::arch::x86_64::*;

    /// Dot products of a tile.
    const DOTS: usize = 8;

    /// See [`columns`](super::columns).
    ///
    /// # Safety
    /// As there, on a processor with AVX-512F.
    #[target_feature(enable = "avx512f,fma")]
    pub(crate) unsafe fn columns(
        x: &[f32],
        weight: &[f32],
        y: SharedMut,
        first: usize,
        inputs: usize,
        outputs: usize,
    ) {
        let (rows, width) = (x.len() / inputs, weight.len() / inputs);
        let mut r = 0;
        while r < rows {
            let height = match rows - r {
                4.. => 4,
                2.. => 2,
                _ => 1,
            };
            let step = DOTS / height;
            let x = &x[r * inputs..][..height * inputs];
            for w in (0..width).step_by(step) {
                let count = step.min(width - w);
                let weight = &weight[w * inputs..][..count * inputs];
                // SAFETY: the processor has the instructions.
                let sums = unsafe {
                    match (height, count) {
                        (4, 2) => tile::<4, 2>(x, weight, inputs),
                        (2, 4) => tile::<2, 4>(x, weight, inputs),
                        (1, 8) => tile::<1, 8>(x, weight, inputs),
                        _ => part(x, weight, inputs, height, count),
                    }
                };
                for i in 0..height {
                    // SAFETY: the caller's promise.
                    let y = unsafe { y.slice((r + i) * outputs + first + w, count) };
                    for (j, y) in y.iter_mut().enumerate() {
                        *y = sums[j * height + i];
                    }
                }
            }
            r += height;
        }
    }

    /// A tile at the edge, by single columns.
    #[target_feature(enable = "avx512f,fma")]
    unsafe fn part(
        x: &[f32],
        weight: &[f32],
        inputs: usize,
        height: usize,
        count: usize,
    ) -> [f32; DOTS] {
        let mut sums = [0.0; DOTS];
        for (j, weight) in weight.chunks_exact(inputs).enumerate().take(count) {
            for (i, x) in x.chunks_exact(inputs).enumerate().take(height) {
                // SAFETY: the processor has the instructions.
                sums[j * height + i] = unsafe { tile::<1, 1>(x, weight, inputs) }[0];
            }
        }
        sums
    }

    /// `sums[j * R + i] = x[i] . weight[j]`, each in the order of [`dot_body`](super::dot_body).
    /// Indices instead of iterators, and the two halves apart: only so do all sums stay in
    /// registers.
    #[target_feature(enable = "avx512f,fma")]
    #[allow(clippy::needless_range_loop)]
    unsafe fn tile<const R: usize, const W: usize>(
        x: &[f32],
        weight: &[f32],
        inputs: usize,
    ) -> [f32; DOTS] {
        assert!(R * W <= DOTS && x.len() == R * inputs && weight.len() == W * inputs);
        let zero = _mm512_setzero_ps();
        let (mut low, mut high) = ([[zero; R]; W], [[zero; R]; W]);
        let steps = inputs / (2 * LANES);
        let (mut x_at, mut w_at) = (x.as_ptr(), weight.as_ptr());
        for _ in 0..steps {
            // SAFETY: `steps` times two vectors lie in each row, and the slices hold R and W rows
            // of `inputs`.
            unsafe {
                let (mut a, mut b) = ([zero; R], [zero; R]);
                for i in 0..R {
                    a[i] = _mm512_loadu_ps(x_at.add(i * inputs));
                    b[i] = _mm512_loadu_ps(x_at.add(i * inputs + LANES));
                }
                for j in 0..W {
                    let c = _mm512_loadu_ps(w_at.add(j * inputs));
                    let d = _mm512_loadu_ps(w_at.add(j * inputs + LANES));
                    for i in 0..R {
                        low[j][i] = _mm512_fmadd_ps(a[i], c, low[j][i]);
                        high[j][i] = _mm512_fmadd_ps(b[i], d, high[j][i]);
                    }
                }
                x_at = x_at.add(2 * LANES);
                w_at = w_at.add(2 * LANES);
            }
        }
        let mut lanes = [zero; DOTS];
        for j in 0..W {
            for i in 0..R {
                lanes[j * R + i] = _mm512_add_ps(low[j][i], high[j][i]);
            }
        }
        let mut sums = fold(lanes);
        for k in steps * 2 * LANES..inputs {
            for j in 0..W {
                for i in 0..R {
                    let sum = &mut sums[j * R + i];
                    *sum = x[i * inputs + k].mul_add(weight[j * inputs + k], *sum);
                }
            }
        }
        sums
    }

    /// The sum over the lanes of each vector by halving, as `sum_lanes` takes it, eight at a time.
    #[target_feature(enable = "avx512f")]
    fn fold(v: [__m512; DOTS]) -> [f32; DOTS] {
        // Lanes i and i + 8; then each 128-bit part belongs to one vector: i and i + 4; i and i +
        // 2; i and i + 1.
        let eights = |a, b| {
            let (low, high) = (
                _mm512_shuffle_f32x4::<0x44>(a, b),
                _mm512_shuffle_f32x4::<0xEE>(a, b),
            );
            _mm512_add_ps(low, high)
        };
        let fours = |a, b| {
            let (low, high) = (
                _mm512_shuffle_f32x4::<0x88>(a, b),
                _mm512_shuffle_f32x4::<0xDD>(a, b),
            );
            _mm512_add_ps(low, high)
        };
        let low = fours(eights(v[0], v[1]), eights(v[2], v[3]));
        let high = fours(eights(v[4], v[5]), eights(v[6], v[7]));
        let twos = _mm512_add_ps(
            _mm512_shuffle_ps::<0x44>(low, high),
            _mm512_shuffle_ps::<0xEE>(low, high),
        );
        let ones = _mm512_add_ps(
            _mm512_shuffle_ps::<0x88>(twos, twos),
            _mm512_shuffle_ps::<0xDD>(twos, twos),
        );
        let mut all = [0.0f32; LANES];
        // SAFETY: `all` holds 16 values.
        unsafe { _mm512_storeu_ps(all.as_mut_ptr(), ones) };
        std::array::from_fn(|dot| all[dot % 4 * 4 + dot / 4])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values that rounding shows in.
    fn values(seed: u32, len: usize) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / 8_388_608.0 - 1.0
        };
        (0..len).map(|_| next()).collect()
    }

    #[test]
    fn a_row_has_the_same_bits_in_any_company() {
        for (inputs, outputs) in [(1, 1), (5, 3), (32, 16), (40, 17), (96, 131), (384, 70)] {
            let (x, weight) = (values(1, 64 * inputs), values(2, outputs * inputs));
            let residual = values(3, 64 * outputs);
            for residual in [None, Some(&residual[..])] {
                let mut alone = vec![0.0; 64 * outputs];
                for (r, y) in alone.chunks_exact_mut(outputs).enumerate() {
                    dots(&x[r * inputs..][..inputs], &weight, y);
                    for (i, y) in y.iter_mut().enumerate() {
                        *y += residual.map_or(0.0, |residual| residual[r * outputs + i]);
                    }
                }
                for rows in [1, 2, 3, 4, 5, 7, 8, 31, 64] {
                    let mut y = vec![f32::NAN; rows * outputs];
                    linear(&x, &weight, residual, &mut y, rows, inputs, outputs);
                    let same = y
                        .iter()
                        .zip(&alone)
                        .all(|(a, b)| a.to_bits() == b.to_bits());
                    assert!(same, "{rows} rows of {inputs}, {outputs} outputs");
                }
            }
        }
    }
}
