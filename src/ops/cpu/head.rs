//! Tied head and cross-entropy, two thirds of a training step's arithmetic.
//!
//! Tokens come in chunks; of a chunk the logits are kept transposed, `[vocab, tokens]`, so that
//! - the table stands on the left of its product and is never packed,
//! - the softmax runs along tokens, which are the vector lanes,
//! - rows of the transposed gradient are contiguous for the product that makes the table's gradient.
//!
//! The vocabulary is cut into parts (the unit of parallel work and of ordered sums) and blocks of rows that stay in L2: a
//! block's logits are made, and turned into exponentials over each token's greatest logit so far, in one go. In the second
//! pass one factor per token makes the softmax of them, so each exponential is taken once; a block's gradient is used for
//! both products at once and never goes to memory. Tokens without loss are left out, and so are words that are too
//! improbable everywhere in the chunk to matter ([`NEGLIGIBLE`]).

use super::gemm::{Fetch, Matrix, Packed, Start, gemm_packed};
use super::scratch::{Borrowed, Scratch};
use super::shared::SharedMut;
use super::simd::{LANES, exp, vectorised};
use crate::ops::IGNORE_TARGET;
use rayon::prelude::*;
use std::ops::Range;

/// Tokens per chunk: its logits take 103 MB at GPT-2's vocabulary.
const CHUNK: usize = 512;
/// Vocabulary rows per block: 96 rows x 512 tokens x 4 B = 192 KiB.
const BLOCK: usize = 96;
/// Parts of the vocabulary in the first pass: many, so that threads of unequal speed end together. Sums over parts are taken in
/// their order, so this must not depend on the threads.
const SMALL_PARTS: usize = 64;
/// Parts in the second pass, each with a gradient of the chunk's rows of its own: 0.8 MB.
const PARTS: usize = 32;

/// Probability below which, for every token of a chunk, a word that is nobody's target is left out of that chunk's
/// gradients: 2^-24, half the distance from 1 to the next f32. Once the words that never occur have been unlearnt, within a
/// few hundred steps, this saves most of the second pass. docs/numerics.md says what it may cost.
const NEGLIGIBLE: f32 = 1.0 / 16_777_216.0;

/// The counted tokens of one chunk.
struct Chunk<'a> {
    /// Their positions in the batch.
    positions: &'a [u32],
    /// Their rows of `x`, gathered `[n, C]`.
    x: &'a [f32],
    /// (target, token within the chunk), sorted.
    targets: Vec<(u32, u32)>,
}

impl Chunk<'_> {
    fn len(&self) -> usize {
        self.positions.len()
    }

    /// Tokens whose target is one of `rows`.
    fn targets_in(&self, rows: &Range<usize>) -> &[(u32, u32)] {
        let from = self
            .targets
            .partition_point(|(target, _)| (*target as usize) < rows.start);
        let to = self
            .targets
            .partition_point(|(target, _)| (*target as usize) < rows.end);
        &self.targets[from..to]
    }
}

/// Row ranges of the blocks of one of `parts` parts.
fn blocks(part: usize, parts: usize, vocab: usize) -> impl Iterator<Item = Range<usize>> {
    let count = vocab.div_ceil(BLOCK);
    (count * part / parts..count * (part + 1) / parts)
        .map(move |b| b * BLOCK..((b + 1) * BLOCK).min(vocab))
}

/// Calls `run` for each chunk of counted tokens.
fn for_chunks(
    scratch: &Scratch,
    x: &[f32],
    targets: &[u32],
    hidden: usize,
    mut run: impl FnMut(&Chunk),
) {
    let counted: Vec<u32> = (0..targets.len() as u32)
        .filter(|&t| targets[t as usize] != IGNORE_TARGET)
        .collect();
    // Chunks of nearly equal size: 600 tokens are 2 x 300, not 512 + 88.
    let count = counted.len().div_ceil(CHUNK);
    for i in 0..count {
        let positions = &counted[counted.len() * i / count..counted.len() * (i + 1) / count];
        let mut rows = scratch.take(positions.len() * hidden);
        for (row, &t) in rows.chunks_exact_mut(hidden).zip(positions) {
            row.copy_from_slice(&x[t as usize * hidden..][..hidden]);
        }
        let mut order: Vec<(u32, u32)> = positions
            .iter()
            .map(|&t| targets[t as usize])
            .zip(0..)
            .collect();
        order.sort_unstable();
        run(&Chunk {
            positions,
            x: &rows,
            targets: order,
        });
    }
}

/// Each token's greatest logit and sum of exponentials over one part of the vocabulary, and the logits of the targets
/// found there as (token, logit).
type PartStatistics = (Vec<f32>, Vec<f32>, Vec<(u32, f32)>);

/// What the first pass keeps for the second.
struct Kept<'a> {
    /// `e^(logit - reference)`, transposed `[V, n]`.
    exponentials: &'a mut [f32],
    /// The reference of each block of rows and token `[blocks, n]`: the greatest logit up to there within the part.
    references: &'a mut [f32],
}

/// First pass, block by block; returns each token's logarithm of the sum and loss.
fn statistics(
    scratch: &Scratch,
    chunk: &Chunk,
    table: &[f32],
    vocab: usize,
    hidden: usize,
    kept: Option<Kept>,
) -> (Vec<f32>, Vec<f32>) {
    let n = chunk.len();
    let mut columns = Packed::default();
    columns.pack(hidden, n, Matrix::transposed(chunk.x, hidden));
    let kept = kept.map(|kept| {
        let references = SharedMut::new(kept.references);
        (SharedMut::new(kept.exponentials), references)
    });
    let parts: Vec<PartStatistics> = (0..SMALL_PARTS)
        .into_par_iter()
        .with_max_len(1)
        .map(|part| {
            let (mut max, mut sum, mut found) =
                (vec![f32::NEG_INFINITY; n], vec![0.0f32; n], Vec::new());
            let mut own = scratch.take(if kept.is_none() { BLOCK * n } else { 0 });
            let mut before = vec![0.0f32; n];
            for rows in blocks(part, SMALL_PARTS, vocab) {
                let block: &mut [f32] = match &kept {
                    // SAFETY: blocks are disjoint rows.
                    Some((all, _)) => unsafe { all.slice(rows.start * n, rows.len() * n) },
                    None => &mut own[..rows.len() * n],
                };
                let weights = Matrix::rows(&table[rows.start * hidden..rows.end * hidden], hidden);
                let next = Fetch::new(
                    table.as_ptr().wrapping_add(rows.end * hidden),
                    BLOCK * hidden,
                );
                gemm_packed(rows.len(), weights, &columns, Start::Zero, block, n, next);
                for &(target, t) in chunk.targets_in(&rows) {
                    found.push((t, block[(target as usize - rows.start) * n + t as usize]));
                }
                exponentials(block, &mut max, &mut sum, &mut before);
                if let Some((_, references)) = &kept {
                    // SAFETY: each block has its own row.
                    unsafe { references.slice(rows.start / BLOCK * n, n) }.copy_from_slice(&max);
                }
            }
            (max, sum, found)
        })
        .collect();
    let mut losses = vec![0.0f32; n];
    let mut log_sum = vec![0.0f32; n];
    for (t, log_sum) in log_sum.iter_mut().enumerate() {
        let max = parts
            .iter()
            .map(|(max, ..)| max[t])
            .fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = parts
            .iter()
            .map(|(m, s, _)| f64::from(s[t]) * f64::from(m[t] - max).exp())
            .sum();
        *log_sum = (f64::from(max) + sum.ln()) as f32;
    }
    for &(t, logit) in parts.iter().flat_map(|(.., found)| found) {
        losses[t as usize] = log_sum[t as usize] - logit;
    }
    (log_sum, losses)
}

vectorised! {
    /// Turns a block `[rows, n]` of logits into exponentials over each token's running maximum, this block included, and adds
    /// them to its running sum.
    pub fn exponentials(block: &mut [f32], max: &mut [f32], sum: &mut [f32], before: &mut [f32]) {
        let n = max.len();
        before.copy_from_slice(max);
        for row in block.chunks_exact(n) {
            for t in 0..n {
                // Not f32::max: a NaN logit must reach the loss.
                max[t] = if row[t] <= max[t] { max[t] } else { row[t] };
            }
        }
        for t in 0..n {
            sum[t] *= exp::<FMA>(before[t] - max[t]);
        }
        for row in block.chunks_exact_mut(n) {
            for t in 0..n {
                row[t] = exp::<FMA>(row[t] - max[t]);
                sum[t] += row[t];
            }
        }
    }
}

vectorised! {
    /// `factors = e^(reference - log_sum)`: what makes a block's exponentials probabilities.
    pub fn block_factors(references: &[f32], log_sum: &[f32], factors: &mut [f32]) {
        for (factor, (reference, log_sum)) in factors.iter_mut().zip(references.iter().zip(log_sum)) {
            *factor = exp::<FMA>(reference - log_sum);
        }
    }
}

vectorised! {
    /// `gradient = scale exponentials factors` of one row; returns its greatest probability, NaN if one is NaN.
    pub fn scaled_softmax(exponentials: &[f32], factors: &[f32], scale: f32, gradient: &mut [f32]) -> f32 {
        let mut lanes = [0.0f32; LANES];
        let whole = gradient.len() / LANES * LANES;
        let (lines, rest) = gradient.split_at_mut(whole);
        let rows = exponentials.chunks_exact(LANES).zip(factors.chunks_exact(LANES));
        for (line, (row, factor)) in lines.chunks_exact_mut(LANES).zip(rows) {
            for i in 0..LANES {
                let p = row[i] * factor[i];
                lanes[i] = if p <= lanes[i] { lanes[i] } else { p };
                line[i] = p * scale;
            }
        }
        let mut peak = 0.0f32;
        for p in lanes {
            peak = if p <= peak { peak } else { p };
        }
        for (gradient, (row, factor)) in rest.iter_mut().zip(exponentials[whole..].iter().zip(&factors[whole..])) {
            let p = row * factor;
            peak = if p <= peak { peak } else { p };
            *gradient = p * scale;
        }
        peak
    }
}

/// Losses only; see [`Device::head_losses`](crate::ops::Device::head_losses).
pub fn losses(
    scratch: &Scratch,
    x: &[f32],
    table: &[f32],
    targets: &[u32],
    losses: &mut [f32],
    vocab: usize,
    hidden: usize,
) {
    losses.fill(0.0);
    for_chunks(scratch, x, targets, hidden, |chunk| {
        let (_, found) = statistics(scratch, chunk, table, vocab, hidden, None);
        for (&t, loss) in chunk.positions.iter().zip(found) {
            losses[t as usize] = loss;
        }
    });
}

/// Loss and gradients; see [`Device::head_loss`](crate::ops::Device::head_loss). Returns the sum of losses.
#[allow(clippy::too_many_arguments)]
pub fn loss(
    scratch: &Scratch,
    x: &[f32],
    table: &[f32],
    targets: &[u32],
    scale: f32,
    grad_x: &mut [f32],
    grad_table: &mut [f32],
    vocab: usize,
    hidden: usize,
) -> f64 {
    grad_x.fill(0.0);
    let mut total = 0.0f64;
    for_chunks(scratch, x, targets, hidden, |chunk| {
        let mut exponentials = scratch.take(vocab * chunk.len());
        let mut references = scratch.take(vocab.div_ceil(BLOCK) * chunk.len());
        let kept = Kept {
            exponentials: &mut exponentials,
            references: &mut references,
        };
        let (log_sum, losses) = statistics(scratch, chunk, table, vocab, hidden, Some(kept));
        let kept = Kept {
            exponentials: &mut exponentials,
            references: &mut references,
        };
        total += losses.iter().map(|&l| f64::from(l)).sum::<f64>();
        let grad = gradients(
            scratch, chunk, table, &kept, &log_sum, scale, grad_table, vocab, hidden,
        );
        for (&t, row) in chunk.positions.iter().zip(grad.chunks_exact(hidden)) {
            grad_x[t as usize * hidden..][..hidden].copy_from_slice(row);
        }
    });
    total
}

/// Second pass: adds to `grad_table`, returns the gradient of the chunk's rows `[n, C]`.
#[allow(clippy::too_many_arguments)]
fn gradients<'s>(
    scratch: &'s Scratch,
    chunk: &Chunk,
    table: &[f32],
    kept: &Kept,
    log_sum: &[f32],
    scale: f32,
    grad_table: &mut [f32],
    vocab: usize,
    hidden: usize,
) -> Borrowed<'s> {
    let n = chunk.len();
    let mut rows_of_x = Packed::default();
    rows_of_x.pack(n, hidden, Matrix::rows(chunk.x, hidden));
    let grad_table = SharedMut::new(grad_table);
    let mut partial = scratch.take(PARTS * n * hidden);
    partial
        .par_chunks_exact_mut(n * hidden)
        .enumerate()
        .with_max_len(1)
        .for_each(|(part, grad_x)| {
            let mut block = GradientBlock::new(scratch, n, hidden);
            let mut factors = vec![0.0f32; n];
            for rows in blocks(part, PARTS, vocab) {
                let references = &kept.references[rows.start / BLOCK * n..][..n];
                block_factors(references, log_sum, &mut factors);
                for row in rows {
                    let targets = chunk.targets_in(&(row..row + 1));
                    let exponentials = &kept.exponentials[row * n..(row + 1) * n];
                    let gradient = block.next();
                    let peak = scaled_softmax(exponentials, &factors, scale, gradient);
                    if targets.is_empty() && peak < NEGLIGIBLE {
                        continue;
                    }
                    for &(_, t) in targets {
                        gradient[t as usize] -= scale;
                    }
                    block.rows.push(row);
                    if block.rows.len() == BLOCK {
                        block.flush(table, &rows_of_x, grad_table, grad_x);
                    }
                }
            }
            block.flush(table, &rows_of_x, grad_table, grad_x);
            if !block.started {
                grad_x.fill(0.0);
            }
        });
    let mut total = scratch.take(n * hidden);
    total
        .par_chunks_mut(4096)
        .enumerate()
        .for_each(|(i, total)| {
            let from = i * 4096;
            total.copy_from_slice(&partial[from..from + total.len()]);
            for part in 1..PARTS {
                let other = &partial[part * n * hidden + from..][..total.len()];
                super::simd::add_scaled(total, 1.0, other);
            }
        });
    total
}

/// Rows of the transposed gradient of the logits, gathered until there are enough of them for two products.
struct GradientBlock<'s> {
    /// Their numbers in the vocabulary, ascending.
    rows: Vec<usize>,
    /// Their gradients `[rows, n]`, `stride` apart.
    gradients: Borrowed<'s>,
    /// `n` and a gap that makes an odd number of cache lines, so that the transpose can be read in place.
    stride: usize,
    /// Their rows of the table, and what is added to the table's gradient, where they are not neighbours: `[rows, C]`.
    gathered: Borrowed<'s>,
    packed: Packed,
    /// Whether the gradient of the chunk's rows holds something to add to.
    started: bool,
    n: usize,
    hidden: usize,
}

impl<'s> GradientBlock<'s> {
    fn new(scratch: &'s Scratch, n: usize, hidden: usize) -> Self {
        let stride = (n.div_ceil(16) | 1) * 16;
        Self {
            rows: Vec::with_capacity(BLOCK),
            gradients: scratch.take(BLOCK * stride),
            stride,
            gathered: scratch.take(BLOCK * hidden),
            packed: Packed::default(),
            started: false,
            n,
            hidden,
        }
    }

    /// The place for the next row's gradient; it counts once the row's number stands in `rows`.
    fn next(&mut self) -> &mut [f32] {
        let at = self.rows.len() * self.stride;
        &mut self.gradients[at..at + self.n]
    }

    /// `grad_table[rows] += gradients x`, `grad_x += gradients^T table[rows]`, and starts again.
    fn flush(&mut self, table: &[f32], x: &Packed, grad_table: SharedMut, grad_x: &mut [f32]) {
        let (Some(&first), Some(&last)) = (self.rows.first(), self.rows.last()) else {
            return;
        };
        let (n, hidden, count) = (self.n, self.hidden, self.rows.len());
        let gradients = &self.gradients[..count * self.stride];
        let left = Matrix::rows(gradients, self.stride);
        let next_grad = Fetch::new(grad_table.address((last + 1) * hidden), BLOCK * hidden);
        if last - first + 1 == count {
            // SAFETY: parts of the vocabulary are disjoint, and this task alone handles its part.
            let grad = unsafe { grad_table.slice(first * hidden, count * hidden) };
            let own = &table[first * hidden..][..count * hidden];
            let fetch = Fetch::new(own.as_ptr(), own.len());
            gemm_packed(count, left, x, Start::Accumulate, grad, hidden, fetch);
            self.packed.pack(count, hidden, Matrix::rows(own, hidden));
        } else {
            let gathered = &mut self.gathered[..count * hidden];
            gemm_packed(
                count,
                left,
                x,
                Start::Zero,
                gathered,
                hidden,
                Fetch::NOTHING,
            );
            for (from, &row) in gathered.chunks_exact(hidden).zip(&self.rows) {
                // SAFETY: as above.
                let grad = unsafe { grad_table.slice(row * hidden, hidden) };
                super::simd::add_scaled(grad, 1.0, from);
            }
            for (to, &row) in gathered.chunks_exact_mut(hidden).zip(&self.rows) {
                to.copy_from_slice(&table[row * hidden..][..hidden]);
            }
            self.packed
                .pack(count, hidden, Matrix::rows(gathered, hidden));
        }
        let start = if self.started {
            Start::Accumulate
        } else {
            Start::Zero
        };
        let by_token = Matrix::transposed(gradients, self.stride);
        gemm_packed(n, by_token, &self.packed, start, grad_x, hidden, next_grad);
        self.started = true;
        self.rows.clear();
    }
}

#[cfg(test)]
mod tests {
    use crate::ops::{Device, cpu::CpuDevice, reference::ReferenceDevice};

    /// Every third word is improbable for all tokens, so that the remaining rows are no neighbours.
    #[test]
    fn improbable_words_are_left_out_and_nothing_else_changes() -> anyhow::Result<()> {
        let (count, vocab, hidden) = (40, 700, 8);
        let mut x = vec![0.1f32; count * hidden];
        let mut table = vec![0.0f32; vocab * hidden];
        for (i, value) in x.iter_mut().enumerate() {
            *value = if i % hidden == 0 {
                1.0
            } else {
                ((i * 37 % 19) as f32 - 9.0) * 0.1
            };
        }
        for (i, value) in table.iter_mut().enumerate() {
            let improbable = i / hidden % 3 == 0 && i % hidden == 0;
            *value = if improbable {
                -60.0
            } else {
                ((i * 53 % 23) as f32 - 11.0) * 0.1
            };
        }
        // One target is improbable: its row must be kept.
        let targets: Vec<u32> = (0..count as u32)
            .map(|t| if t == 5 { 33 } else { t * 3 + 1 })
            .collect();
        let outputs = || {
            (
                vec![0.0],
                vec![0.0; count * hidden],
                vec![0.0; vocab * hidden],
            )
        };
        let (mut loss, mut gx, mut gt) = outputs();
        CpuDevice::new().head_loss(
            &x,
            &table,
            &targets,
            &vec![0.5],
            &mut loss,
            &mut gx,
            &mut gt,
            count,
            vocab,
            hidden,
        )?;
        let (mut want_loss, mut want_gx, mut want_gt) = outputs();
        ReferenceDevice.head_loss(
            &x,
            &table,
            &targets,
            &vec![0.5],
            &mut want_loss,
            &mut want_gx,
            &mut want_gt,
            count,
            vocab,
            hidden,
        )?;
        assert!((loss[0] - want_loss[0]).abs() < 1e-5 * want_loss[0]);
        for (got, want) in gx.iter().zip(&want_gx).chain(gt.iter().zip(&want_gt)) {
            assert!(
                (got - want).abs() < 2e-5 * want.abs().max(1.0),
                "{got} instead of {want}"
            );
        }
        let touched = |word: usize| {
            gt[word * hidden..(word + 1) * hidden]
                .iter()
                .any(|&g| g != 0.0)
        };
        assert!(!touched(0) && !touched(699) && touched(33) && touched(1) && touched(698));
        Ok(())
    }
}
