//! Second pass of the head: both gradients of a chunk from the exponentials that the first pass
//! kept.
//!
//! The gradient of the logits, `scale (p - 1[target])`, is `[vocab, tokens]`, and most of it is
//! next to nothing: a model that has learnt something is certain of many tokens. So the tokens are
//! put in order, the least certain first, and cut into [`GROUPS`]; each word takes part in its
//! products with as many leading groups as hold a token for which it is not [`NEGLIGIBLE`] or the
//! target. What is left out of each group count, a block of the matrix, is replaced by the matrix
//! of rank one that has the same sums along both sides: `p[word, token] ~ mass[word] mass[token] /
//! total`. So every token passes on all of its probability, and every word is unlearnt by as much
//! as it was expected. docs/numerics.md has the errors.
//!
//! A fresh model is certain of nothing: all words then take part with all tokens, and this is the
//! plain product.

use super::{BLOCK, Chunk, Head, Kept, Softmax, block_factors, blocks};
use crate::ops::cpu::MatmulPrecision;
use crate::ops::cpu::gemm::{Fetch, Packed, Start, Strided, Target, gemm_packed, gemm_packed_to};
use crate::ops::cpu::scratch::{Borrowed, Scratch};
use crate::ops::cpu::shared::SharedMut;
use crate::ops::cpu::simd::{LANES, add_scaled, sum_lanes, vectorised};
use rayon::prelude::*;

/// Parts of the vocabulary, each with a gradient of the chunk's rows of its own (0.8 MB). Sums over
/// parts are taken in their order, so this must not depend on the threads.
const PARTS: usize = 32;
/// Groups of tokens.
const GROUPS: usize = 16;
/// Probability below which a word needs no exact gradient for a token: 2^-24, half the distance
/// from 1 to the next f32.
const NEGLIGIBLE: f32 = 1.0 / 16_777_216.0;
/// Tokens are put in order by every so many-th word. No divisor of [`BLOCK`].
const SAMPLE: usize = 31;

/// A chunk's tokens, the least certain first.
struct Order {
    /// Token at each place.
    tokens: Vec<u32>,
    /// Place of each token, plus 1.
    reach: Vec<u32>,
    /// End of the first `g` groups, from `g = 0`: multiples of 16, except for the last.
    ends: [usize; GROUPS + 1],
    /// Whether the tokens stand as they stood.
    natural: bool,
    /// Whether every word of the sample is needed by every token: a fresh model is like that, and
    /// looking is not worth it.
    all_needed: bool,
}

impl Order {
    /// By the number of words that are not negligible for a token, estimated from a sample of the
    /// vocabulary.
    fn new(kept: &Kept, log_sum: &[f32], vocab: usize) -> Self {
        let n = log_sum.len();
        let (mut counts, mut factors, mut sampled) = (vec![0u32; n], vec![0.0f32; n], 0);
        let mut block = None;
        for row in (0..vocab).step_by(SAMPLE) {
            sampled += 1;
            if block.replace(row / BLOCK) != Some(row / BLOCK) {
                block_factors(kept.references_of(row, n), log_sum, &mut factors);
            }
            count_needed(kept.exponentials_of(row, n), &factors, &mut counts);
        }
        let mut tokens: Vec<u32> = (0..n as u32).collect();
        tokens.sort_by_key(|&t| std::cmp::Reverse(counts[t as usize]));
        let mut reach = vec![0; n];
        for (place, &t) in tokens.iter().enumerate() {
            reach[t as usize] = place as u32 + 1;
        }
        Self {
            natural: tokens.is_sorted(),
            all_needed: counts.iter().all(|&count| count == sampled),
            tokens,
            reach,
            ends: std::array::from_fn(|g| (n * g / GROUPS).next_multiple_of(16).min(n)),
        }
    }

    /// How many groups hold the first `reach` places.
    fn groups(&self, reach: u32) -> usize {
        self.ends.partition_point(|&end| end < reach as usize)
    }

    /// `to[place] = from[token]`.
    fn arrange(&self, from: &[f32], to: &mut [f32]) {
        for (to, &t) in to.iter_mut().zip(&self.tokens) {
            *to = from[t as usize];
        }
    }
}

vectorised! {
    /// Adds 1 where a word is not negligible; a NaN is not.
    pub(crate) fn count_needed(exponentials: &[f32], factors: &[f32], counts: &mut [u32]) {
        for (count, (e, factor)) in counts.iter_mut().zip(exponentials.iter().zip(factors)) {
            *count += if e * factor < NEGLIGIBLE { 0 } else { 1 };
        }
    }
}

vectorised! {
    /// The greatest `reach` of a token for which a word is not negligible; a NaN is not.
    pub(crate) fn needed_reach(exponentials: &[f32], factors: &[f32], reach: &[u32]) -> u32 {
        let mut lanes = [0u32; LANES];
        let lines = exponentials
            .chunks_exact(LANES)
            .zip(factors.chunks_exact(LANES))
            .zip(reach.chunks_exact(LANES));
        for ((row, factor), reach) in lines {
            for i in 0..LANES {
                let needed = if row[i] * factor[i] < NEGLIGIBLE { 0 } else { reach[i] };
                lanes[i] = lanes[i].max(needed);
            }
        }
        let mut greatest = 0;
        for lane in lanes {
            greatest = greatest.max(lane);
        }
        for i in exponentials.len() / LANES * LANES..exponentials.len() {
            let needed = if exponentials[i] * factors[i] < NEGLIGIBLE { 0 } else { reach[i] };
            greatest = greatest.max(needed);
        }
        greatest
    }
}

vectorised! {
    /// Adds a word's probability for each token beyond `end` to `mass`; returns their sum.
    pub(crate) fn add_left_out(
        exponentials: &[f32],
        factors: &[f32],
        reach: &[u32],
        end: u32,
        mass: &mut [f32],
    ) -> f32 {
        let mut lanes = [0.0f32; LANES];
        let whole = mass.len() / LANES * LANES;
        let (lines, rest) = mass.split_at_mut(whole);
        let rows = exponentials
            .chunks_exact(LANES)
            .zip(factors.chunks_exact(LANES))
            .zip(reach.chunks_exact(LANES));
        for (mass, ((row, factor), reach)) in lines.chunks_exact_mut(LANES).zip(rows) {
            for i in 0..LANES {
                let p = if reach[i] > end { row[i] * factor[i] } else { 0.0 };
                lanes[i] += p;
                mass[i] += p;
            }
        }
        let mut sum = sum_lanes(lanes);
        for (i, mass) in (whole..).zip(rest) {
            let p = if reach[i] > end { exponentials[i] * factors[i] } else { 0.0 };
            sum += p;
            *mass += p;
        }
        sum
    }
}

vectorised! {
    /// `out = x y`, element by element.
    pub(crate) fn products(x: &[f32], y: &[f32], out: &mut [f32]) {
        for (out, (x, y)) in out.iter_mut().zip(x.iter().zip(y)) {
            *out = x * y;
        }
    }
}

/// Adds the table's gradient to `grad_table`; `write` is given the gradient of each of the chunk's
/// rows.
pub(crate) fn gradients(
    head: Head,
    chunk: &Chunk,
    softmax: Softmax,
    grad_table: &mut [f32],
    mut write: impl FnMut(usize, &[f32]),
) {
    let (scratch, hidden, n) = (head.scratch, head.hidden, chunk.len());
    let order = Order::new(softmax.kept, softmax.log_sum, head.vocab);
    let mut x = Packed::new(head.precision);
    if order.natural {
        x.pack(n, hidden, Strided::rows(chunk.x, hidden));
    } else {
        let mut rows = scratch.take(n * hidden);
        for (row, &t) in rows.chunks_exact_mut(hidden).zip(&order.tokens) {
            row.copy_from_slice(&chunk.x[t as usize * hidden..][..hidden]);
        }
        x.pack(n, hidden, Strided::rows(&rows, hidden));
    }
    let pass = Pass {
        scratch,
        precision: head.precision,
        chunk,
        order: &order,
        table: head.table,
        x: &x,
        kept: softmax.kept,
        log_sum: softmax.log_sum,
        scale: softmax.scale,
        grad_table: SharedMut::new(grad_table),
        hidden,
    };
    let mut partial = scratch.take(PARTS * n * hidden);
    partial
        .par_chunks_exact_mut(n * hidden)
        .enumerate()
        .with_max_len(1)
        .for_each(|(part, grad_x)| pass.part(part, head.vocab, grad_x));
    let mut total = scratch.take(n * hidden);
    total
        .par_chunks_mut(4096)
        .enumerate()
        .for_each(|(i, total)| {
            let from = i * 4096;
            total.copy_from_slice(&partial[from..from + total.len()]);
            for part in 1..PARTS {
                let other = &partial[part * n * hidden + from..][..total.len()];
                add_scaled(total, 1.0, other);
            }
        });
    for (row, &t) in total.chunks_exact(hidden).zip(&order.tokens) {
        write(t as usize, row);
    }
}

/// What all parts read.
struct Pass<'a> {
    scratch: &'a Scratch,
    precision: MatmulPrecision,
    chunk: &'a Chunk<'a>,
    order: &'a Order,
    table: &'a [f32],
    /// The chunk's rows in their order, `[n, C]`.
    x: &'a Packed,
    kept: &'a Kept<'a>,
    log_sum: &'a [f32],
    scale: f32,
    grad_table: SharedMut<'a>,
    hidden: usize,
}

/// A word's probability that was left out of the products.
struct LeftOut {
    row: usize,
    /// Groups that it took part with.
    groups: usize,
    mass: f32,
}

impl Pass<'_> {
    /// One part of the vocabulary; `grad_x` has the tokens in their order.
    fn part(&self, part: usize, vocab: usize, grad_x: &mut [f32]) {
        let (n, order) = (self.chunk.len(), self.order);
        let mut grad_x = GradientOfRows {
            rows: grad_x,
            filled: 0,
        };
        let mut work = Work::new(self);
        let (mut factors, mut ordered) = (vec![0.0f32; n], vec![0.0f32; n]);
        let mut masses = self.scratch.zeroed(GROUPS * n);
        let mut left_out = Vec::new();
        for rows in blocks(part, PARTS, vocab) {
            block_factors(
                self.kept.references_of(rows.start, n),
                self.log_sum,
                &mut factors,
            );
            order.arrange(&factors, &mut ordered);
            ordered.iter_mut().for_each(|factor| *factor *= self.scale);
            for row in rows {
                let exponentials = self.kept.exponentials_of(row, n);
                let targets = self.chunk.targets_in(&(row..row + 1));
                let reach = if order.all_needed {
                    n as u32
                } else {
                    let of_targets = targets.iter().map(|&(_, t)| order.reach[t as usize]);
                    of_targets.fold(needed_reach(exponentials, &factors, &order.reach), u32::max)
                };
                let groups = order.groups(reach);
                let end = order.ends[groups];
                if end < n {
                    let mass = &mut masses[groups * n..][..n];
                    let mass = add_left_out(exponentials, &factors, &order.reach, end as u32, mass);
                    left_out.push(LeftOut { row, groups, mass });
                }
                if groups == 0 {
                    continue;
                }
                let block = &mut work.blocks[groups - 1];
                let gradient = block.next();
                if order.natural {
                    products(&exponentials[..end], &ordered, gradient);
                } else {
                    let factors = order.tokens.iter().zip(&ordered);
                    for (gradient, (&t, factor)) in gradient.iter_mut().zip(factors) {
                        *gradient = exponentials[t as usize] * factor;
                    }
                }
                for &(_, t) in targets {
                    gradient[order.reach[t as usize] as usize - 1] -= self.scale;
                }
                block.rows.push(row);
                if block.rows.len() == BLOCK {
                    work.flush(self, groups - 1, &mut grad_x);
                }
            }
        }
        for groups in (0..GROUPS).rev() {
            work.flush(self, groups, &mut grad_x);
        }
        grad_x.fill(n, self.hidden);
        if !left_out.is_empty() {
            self.add_rank_one(&left_out, &masses, grad_x.rows);
        }
    }

    /// For each number of groups, the matrix of rank one with the sums of what was left out:
    /// `left_out` along the tokens, `masses[groups, token]` along the words.
    fn add_rank_one(&self, left_out: &[LeftOut], masses: &[f32], grad_x: &mut [f32]) {
        let (n, hidden) = (self.chunk.len(), self.hidden);
        let mut totals = [0.0f64; GROUPS];
        for word in left_out {
            totals[word.groups] += f64::from(word.mass);
        }
        let share = totals.map(|total| {
            // Below that nothing was left out that could show, and the quotient might not be
            // finite.
            if total > 1e-30 {
                (f64::from(self.scale) / total) as f32
            } else {
                0.0
            }
        });
        let mut ordered = self.scratch.take(GROUPS * n);
        for ((to, from), share) in ordered
            .chunks_exact_mut(n)
            .zip(masses.chunks_exact(n))
            .zip(share)
        {
            self.order.arrange(from, to);
            to.iter_mut().for_each(|mass| *mass *= share);
        }
        // What each word's row of the table gains per mass, and what each token's row does.
        let mut of_words = self.scratch.take(GROUPS * hidden);
        let masses = Strided::rows(&ordered, n);
        let target = Target {
            start: Start::Zero,
            c: &mut of_words,
            row: hidden,
        };
        gemm_packed(GROUPS, masses, self.x, target, Fetch::NOTHING);
        let mut of_tokens = self.scratch.zeroed(GROUPS * hidden);
        for word in left_out {
            let at = word.groups * hidden;
            // SAFETY: parts of the vocabulary are disjoint, and this task alone handles its part.
            let grad = unsafe { self.grad_table.slice(word.row * hidden, hidden) };
            add_scaled(grad, word.mass, &of_words[at..at + hidden]);
            let row = &self.table[word.row * hidden..][..hidden];
            add_scaled(&mut of_tokens[at..at + hidden], word.mass, row);
        }
        let mut packed = Packed::default();
        packed.pack(GROUPS, hidden, Strided::rows(&of_tokens, hidden));
        let by_token = Strided::transposed(&ordered, n);
        let target = Target {
            start: Start::Accumulate,
            c: grad_x,
            row: hidden,
        };
        gemm_packed(n, by_token, &packed, target, Fetch::NOTHING);
    }
}

/// Gradient of the chunk's rows; the first `filled` hold something to add to.
struct GradientOfRows<'a> {
    rows: &'a mut [f32],
    filled: usize,
}

impl GradientOfRows<'_> {
    /// Makes the first `n` rows zero where they hold nothing yet.
    fn fill(&mut self, n: usize, hidden: usize) {
        if self.filled < n {
            self.rows[self.filled * hidden..n * hidden].fill(0.0);
            self.filled = n;
        }
    }
}

/// Words that take part with the same groups, gathered until there are enough of them for two
/// products.
struct Block<'s> {
    /// Their numbers in the vocabulary, ascending.
    rows: Vec<usize>,
    /// Their gradients `[rows, tokens]`, `stride` apart.
    gradients: Borrowed<'s>,
    /// `tokens` and a gap that makes an odd number of cache lines, so that the transpose can be
    /// read in place.
    stride: usize,
    /// Tokens of their groups.
    tokens: usize,
}

impl Block<'_> {
    /// The place for the next word's gradient; it counts once the word's number stands in `rows`.
    fn next(&mut self) -> &mut [f32] {
        let at = self.rows.len() * self.stride;
        &mut self.gradients[at..at + self.tokens]
    }
}

/// What one task computes with.
struct Work<'s> {
    /// One for each number of groups, from 1.
    blocks: Vec<Block<'s>>,
    /// Rows of the table, and what is added to the table's gradient, where they are not neighbours:
    /// `[BLOCK, C]`.
    gathered: Borrowed<'s>,
    packed: Packed,
}

impl<'s> Work<'s> {
    fn new(pass: &Pass<'s>) -> Self {
        let block = |&tokens: &usize| {
            let stride = (tokens.div_ceil(16) | 1) * 16;
            Block {
                rows: Vec::with_capacity(BLOCK),
                gradients: pass.scratch.take(BLOCK * stride),
                stride,
                tokens,
            }
        };
        Self {
            blocks: pass.order.ends[1..].iter().map(block).collect(),
            gathered: pass.scratch.take(BLOCK * pass.hidden),
            packed: Packed::new(pass.precision),
        }
    }

    /// `grad_table[rows] += gradients x`, `grad_x += gradients^T table[rows]` of one block, which
    /// starts again.
    fn flush(&mut self, pass: &Pass, block: usize, grad_x: &mut GradientOfRows) {
        let block = &mut self.blocks[block];
        let (Some(&first), Some(&last)) = (block.rows.first(), block.rows.last()) else {
            return;
        };
        let (tokens, hidden, count) = (block.tokens, pass.hidden, block.rows.len());
        let gradients = &block.gradients[..count * block.stride];
        let left = Strided::rows(gradients, block.stride);
        let mut next = Fetch::NOTHING;
        if last - first + 1 == count {
            // SAFETY: parts of the vocabulary are disjoint, and this task alone handles its part.
            let grad = unsafe { pass.grad_table.slice(first * hidden, count * hidden) };
            let own = &pass.table[first * hidden..][..count * hidden];
            let fetch = Fetch::new(own.as_ptr(), own.len());
            let target = Target {
                start: Start::Accumulate,
                c: grad,
                row: hidden,
            };
            gemm_packed_to(tokens, count, left, pass.x, target, fetch);
            self.packed.pack(count, hidden, Strided::rows(own, hidden));
            // The exponentials of the next block are the first thing that it reads.
            let n = pass.chunk.len();
            let exponentials = pass.kept.exponentials.as_ptr();
            next = Fetch::new(exponentials.wrapping_add((last + 1) * n), BLOCK * n);
        } else {
            let gathered = &mut self.gathered[..count * hidden];
            let target = Target {
                start: Start::Zero,
                c: &mut *gathered,
                row: hidden,
            };
            gemm_packed_to(tokens, count, left, pass.x, target, Fetch::NOTHING);
            for (from, &row) in gathered.chunks_exact(hidden).zip(&block.rows) {
                // SAFETY: as above.
                let grad = unsafe { pass.grad_table.slice(row * hidden, hidden) };
                add_scaled(grad, 1.0, from);
            }
            for (to, &row) in gathered.chunks_exact_mut(hidden).zip(&block.rows) {
                to.copy_from_slice(&pass.table[row * hidden..][..hidden]);
            }
            self.packed
                .pack(count, hidden, Strided::rows(gathered, hidden));
        }
        let start = if grad_x.filled == 0 {
            grad_x.filled = tokens;
            Start::Zero
        } else {
            grad_x.fill(tokens, hidden);
            Start::Accumulate
        };
        let by_token = Strided::transposed(gradients, block.stride);
        let target = Target {
            start,
            c: &mut grad_x.rows[..tokens * hidden],
            row: hidden,
        };
        gemm_packed(tokens, by_token, &self.packed, target, next);
        block.rows.clear();
    }
}

#[cfg(test)]
mod tests;
