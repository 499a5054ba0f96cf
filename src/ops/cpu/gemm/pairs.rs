//! Operands rounded to `bf16` and paired along the depth: a matrix of pairs, which everything here
//! then reads and packs as if they were numbers.

use super::Strided;
use crate::ops::cpu::kernel::{Level, bf16};
use crate::ops::cpu::memory::HostBuffer;
use rayon::prelude::*;
use std::cell::RefCell;

/// Elements from which on several threads round them.
const PARALLEL: usize = 1 << 17;

thread_local! {
    /// Memory of the operands of this thread's products, kept between calls. Several, because a
    /// thread that waits for others may begin another product meanwhile.
    static KEPT: RefCell<Vec<[HostBuffer<f32>; 2]>> = const { RefCell::new(Vec::new()) };
}

/// Room for two operands, lent by the calling thread.
pub(crate) struct Room {
    memory: [HostBuffer<f32>; 2],
}

impl Room {
    pub(crate) fn take() -> Self {
        Self {
            memory: KEPT.with_borrow_mut(Vec::pop).unwrap_or_default(),
        }
    }

    /// A left operand `[m, k]` and a right one `[k, n]` as pairs, on all threads.
    pub(crate) fn both<'a>(
        &'a mut self,
        (m, n, k): (usize, usize, usize),
        a: Strided,
        b: Strided,
    ) -> (Strided<'a>, Strided<'a>) {
        let [left, right] = &mut self.memory;
        (
            paired(m, k, a, true, left),
            paired(n, k, b.flipped(), true, right).flipped(),
        )
    }

    /// A left operand `[m, k]` as pairs.
    pub(crate) fn left(&mut self, m: usize, k: usize, a: Strided) -> Strided<'_> {
        paired(m, k, a, false, &mut self.memory[0])
    }

    /// A right operand `[k, n]` as pairs.
    pub(crate) fn right(&mut self, k: usize, n: usize, b: Strided) -> Strided<'_> {
        paired(n, k, b.flipped(), false, &mut self.memory[1]).flipped()
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let memory = std::mem::take(&mut self.memory);
        KEPT.with_borrow_mut(|kept| kept.push(memory));
    }
}

/// Elements between lines of `len`: an odd number of cache lines, so that lines fall into all sets
/// of a cache.
fn spread(len: usize) -> usize {
    (len.div_ceil(16) | 1) * 16
}

/// `[lines, k]` as `[lines, k / 2]` pairs, the depth contiguous where it was, and the lines where
/// they were.
fn paired<'a>(
    lines: usize,
    k: usize,
    from: Strided,
    parallel: bool,
    to: &'a mut HostBuffer<f32>,
) -> Strided<'a> {
    let level = Level::detect();
    let steps = k.div_ceil(2);
    let parallel = parallel && lines * k >= PARALLEL;
    if from.col == 1 {
        let stride = spread(steps);
        to.reserve(lines * stride);
        let to = &mut to[..lines * stride];
        let line = |(line, to): (usize, &mut [u32])| {
            bf16::pair_neighbours(level, &from.data[line * from.row..][..k], &mut to[..steps]);
        };
        for_lines(bytemuck::cast_slice_mut(to), stride, parallel, line);
        return Strided::rows(to, stride);
    }
    assert_eq!(from.row, 1, "a matrix is contiguous in one direction");
    let stride = spread(lines);
    to.reserve(steps * stride);
    let to = &mut to[..steps * stride];
    let step = |(step, to): (usize, &mut [u32])| {
        let row = |p: usize| &from.data[p * from.col..][..lines];
        let odd = (2 * step + 1 < k).then(|| row(2 * step + 1));
        bf16::pair_rows(level, row(2 * step), odd, &mut to[..lines]);
    };
    for_lines(bytemuck::cast_slice_mut(to), stride, parallel, step);
    Strided::transposed(to, stride)
}

/// Calls `run` with each line and its number.
fn for_lines(
    all: &mut [u32],
    stride: usize,
    parallel: bool,
    run: impl Fn((usize, &mut [u32])) + Send + Sync,
) {
    if parallel {
        all.par_chunks_exact_mut(stride)
            .with_min_len(8)
            .enumerate()
            .for_each(run);
    } else {
        all.chunks_exact_mut(stride).enumerate().for_each(run);
    }
}
