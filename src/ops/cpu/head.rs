//! Tied head and cross-entropy, two thirds of a training step's arithmetic.
//!
//! Tokens come in chunks; of a chunk the logits are kept transposed, `[vocab, tokens]`, so that
//! - the table stands on the left of its product and is never packed,
//! - the softmax runs along tokens, which are the vector lanes,
//! - rows of the transposed gradient are contiguous for the product that makes the table's
//!   gradient.
//!
//! The vocabulary is cut into parts (the unit of parallel work and of ordered sums) and blocks of
//! rows that stay in L2: a block's logits are made, and turned into exponentials over each token's
//! greatest logit so far, in one go. In the second pass ([`gradients`]) one factor per token makes
//! the softmax of them, so each exponential is taken once; a block's gradient is used for both
//! products at once and never goes to memory. Tokens without loss are left out.

mod gradients;

use super::gemm::{Fetch, Packed, Start, Strided, Target, gemm, gemm_packed};
use super::scratch::Scratch;
use super::shared::SharedMut;
use super::simd::{LANES, exp, vectorised};
use super::{CpuDevice, Floats, Indices, MatmulPrecision, small};
use crate::ops::{Checked, HeadLogits, HeadLoss, HeadLosses, IGNORE_TARGET, Matrix, Run, Vector};
use anyhow::Result;
use rayon::prelude::*;
use std::ops::Range;

/// Tokens per chunk: its logits take 103 MB at GPT-2's vocabulary.
const CHUNK: usize = 512;
/// Vocabulary rows per block: 96 rows x 512 tokens x 4 B = 192 KiB.
const BLOCK: usize = 96;
/// Parts of the vocabulary in the first pass: many, so that threads of unequal speed end together.
/// Sums over parts are taken in their order, so this must not depend on the threads.
const SMALL_PARTS: usize = 64;
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

/// What every chunk of a batch reads.
#[derive(Clone, Copy)]
struct Head<'a> {
    scratch: &'a Scratch,
    precision: MatmulPrecision,
    /// `[T, C]`
    x: &'a [f32],
    /// `[V, C]`
    table: &'a [f32],
    /// `[T]`
    targets: &'a [u32],
    vocab: usize,
    hidden: usize,
}

impl<'a> Head<'a> {
    fn new(
        device: &'a CpuDevice,
        x: Matrix<'a, Floats>,
        table: Matrix<'a, Floats>,
        targets: Vector<'a, Indices>,
    ) -> Self {
        Self {
            scratch: &device.scratch,
            precision: device.precision,
            x: x.slice(),
            table: table.slice(),
            targets: targets.slice(),
            vocab: table.rows,
            hidden: table.cols,
        }
    }

    /// Calls `run` for each chunk of counted tokens.
    fn for_chunks(self, mut run: impl FnMut(&Chunk)) {
        let (hidden, targets) = (self.hidden, self.targets);
        let counted: Vec<u32> = (0..targets.len() as u32)
            .filter(|&t| targets[t as usize] != IGNORE_TARGET)
            .collect();
        // Chunks of nearly equal size: 600 tokens are 2 x 300, not 512 + 88.
        let count = counted.len().div_ceil(CHUNK);
        for i in 0..count {
            let positions = &counted[counted.len() * i / count..counted.len() * (i + 1) / count];
            let mut rows = self.scratch.take(positions.len() * hidden);
            for (row, &t) in rows.chunks_exact_mut(hidden).zip(positions) {
                row.copy_from_slice(&self.x[t as usize * hidden..][..hidden]);
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
}

/// Each token's greatest logit and sum of exponentials over one part of the vocabulary, and the
/// logits of the targets found there as (token, logit).
type PartStatistics = (Vec<f32>, Vec<f32>, Vec<(u32, f32)>);

/// What the first pass keeps for the second.
struct Kept<'a> {
    /// `e^(logit - reference)`, transposed `[V, n]`.
    exponentials: &'a mut [f32],
    /// The reference of each block of rows and token `[blocks, n]`: the greatest logit up to there
    /// within the part.
    references: &'a mut [f32],
}

impl Kept<'_> {
    /// A word's exponentials for all `n` tokens.
    fn exponentials_of(&self, row: usize, n: usize) -> &[f32] {
        &self.exponentials[row * n..(row + 1) * n]
    }

    /// What they are exponentials over.
    fn references_of(&self, row: usize, n: usize) -> &[f32] {
        &self.references[row / BLOCK * n..][..n]
    }
}

/// What makes the gradient of the logits, `scale (p - 1[target])`.
#[derive(Clone, Copy)]
struct Softmax<'a> {
    kept: &'a Kept<'a>,
    /// Logarithm of each token's sum of exponentials.
    log_sum: &'a [f32],
    scale: f32,
}

/// First pass, block by block; returns each token's logarithm of the sum and loss.
fn statistics(head: Head, chunk: &Chunk, kept: Option<&mut Kept>) -> (Vec<f32>, Vec<f32>) {
    let Head {
        scratch,
        table,
        vocab,
        hidden,
        ..
    } = head;
    let n = chunk.len();
    let mut columns = Packed::new(head.precision);
    columns.pack(hidden, n, Strided::transposed(chunk.x, hidden));
    let kept = kept.map(|kept| {
        let references = SharedMut::new(&mut *kept.references);
        (SharedMut::new(&mut *kept.exponentials), references)
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
                let weights = Strided::rows(&table[rows.start * hidden..rows.end * hidden], hidden);
                let next = Fetch::new(
                    table.as_ptr().wrapping_add(rows.end * hidden),
                    BLOCK * hidden,
                );
                let target = Target {
                    start: Start::Zero,
                    c: &mut *block,
                    row: n,
                };
                gemm_packed(rows.len(), weights, &columns, target, next);
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
    joined(&parts, n)
}

/// The logarithm of each of `n` tokens' sum, and its loss, from all parts of the vocabulary.
fn joined(parts: &[PartStatistics], n: usize) -> (Vec<f32>, Vec<f32>) {
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

/// Rows of a block of logits that are gone through side by side, so that what each token has is
/// read and written once for all.
const ROWS: usize = 4;

vectorised! {
    /// Turns a block `[rows, n]` of logits into exponentials over each token's running maximum,
    /// this block included, and adds them to its running sum.
    pub(crate) fn exponentials(
        block: &mut [f32],
        max: &mut [f32],
        sum: &mut [f32],
        before: &mut [f32],
    ) {
        let n = max.len();
        // Not f32::max: a NaN logit must reach the loss.
        let greater = |x: f32, max: f32| if x <= max { max } else { x };
        before.copy_from_slice(max);
        let whole = n / LANES * LANES;
        for rows in block.chunks(ROWS * n) {
            if rows.len() < ROWS * n {
                for row in rows.chunks_exact(n) {
                    max.iter_mut().zip(row).for_each(|(max, &x)| *max = greater(x, *max));
                }
                continue;
            }
            let rows: [&[f32]; ROWS] = std::array::from_fn(|r| &rows[r * n..][..n]);
            for t in (0..whole).step_by(LANES) {
                let mut lanes = [0.0f32; LANES];
                lanes.copy_from_slice(&max[t..t + LANES]);
                for row in rows {
                    let row = &row[t..t + LANES];
                    for i in 0..LANES {
                        lanes[i] = greater(row[i], lanes[i]);
                    }
                }
                max[t..t + LANES].copy_from_slice(&lanes);
            }
            for row in rows {
                for (max, &x) in max[whole..].iter_mut().zip(&row[whole..]) {
                    *max = greater(x, *max);
                }
            }
        }
        for t in 0..n {
            sum[t] *= exp::<FMA>(before[t] - max[t]);
        }
        let mut groups = block.chunks_exact_mut(ROWS * n);
        for rows in &mut groups {
            for t in (0..whole).step_by(LANES) {
                let (mut lanes, mut sums) = ([0.0f32; LANES], [0.0f32; LANES]);
                lanes.copy_from_slice(&max[t..t + LANES]);
                sums.copy_from_slice(&sum[t..t + LANES]);
                for r in 0..ROWS {
                    let row = &mut rows[r * n + t..][..LANES];
                    let mut e = [0.0f32; LANES];
                    for i in 0..LANES {
                        e[i] = exp::<FMA>(row[i] - lanes[i]);
                        sums[i] += e[i];
                    }
                    row.copy_from_slice(&e);
                }
                sum[t..t + LANES].copy_from_slice(&sums);
            }
            for row in rows.chunks_exact_mut(n) {
                for t in whole..n {
                    row[t] = exp::<FMA>(row[t] - max[t]);
                    sum[t] += row[t];
                }
            }
        }
        for row in groups.into_remainder().chunks_exact_mut(n) {
            for t in 0..n {
                row[t] = exp::<FMA>(row[t] - max[t]);
                sum[t] += row[t];
            }
        }
    }
}

vectorised! {
    /// `factors = e^(reference - log_sum)`: what makes a block's exponentials probabilities.
    pub(crate) fn block_factors(references: &[f32], log_sum: &[f32], factors: &mut [f32]) {
        let logarithms = references.iter().zip(log_sum);
        for (factor, (reference, log_sum)) in factors.iter_mut().zip(logarithms) {
            *factor = exp::<FMA>(reference - log_sum);
        }
    }
}

impl Run<HeadLosses<'_, Floats, Floats, Indices>> for CpuDevice {
    fn run(&self, operation: Checked<HeadLosses<'_, Floats, Floats, Indices>>) -> Result<()> {
        let HeadLosses {
            x,
            table,
            targets,
            losses,
        } = operation.into_inner();
        let losses = losses.slice_mut();
        losses.fill(0.0);
        let head = Head::new(self, x, table, targets);
        head.for_chunks(|chunk| {
            let (_, found) = statistics(head, chunk, None);
            for (&t, loss) in chunk.positions.iter().zip(found) {
                losses[t as usize] = loss;
            }
        });
        Ok(())
    }
}

impl Run<HeadLoss<'_, Floats, Floats, Indices>> for CpuDevice {
    fn run(&self, operation: Checked<HeadLoss<'_, Floats, Floats, Indices>>) -> Result<()> {
        let HeadLoss {
            x,
            table,
            targets,
            scale,
            loss,
            grad_x,
            grad_table,
        } = operation.into_inner();
        let (grad_x, grad_table) = (grad_x.slice_mut(), grad_table.slice_mut());
        grad_x.fill(0.0);
        let head = Head::new(self, x, table, targets);
        let (vocab, hidden, scale) = (head.vocab, head.hidden, scale.slice()[0]);
        let mut total = 0.0f64;
        head.for_chunks(|chunk| {
            let mut exponentials = self.scratch.take(vocab * chunk.len());
            let mut references = self.scratch.take(vocab.div_ceil(BLOCK) * chunk.len());
            let mut kept = Kept {
                exponentials: &mut exponentials,
                references: &mut references,
            };
            let (log_sum, losses) = statistics(head, chunk, Some(&mut kept));
            total += losses.iter().map(|&l| f64::from(l)).sum::<f64>();
            let softmax = Softmax {
                kept: &kept,
                log_sum: &log_sum,
                scale,
            };
            let write = |token: usize, row: &[f32]| {
                let at = chunk.positions[token] as usize * hidden;
                grad_x[at..at + hidden].copy_from_slice(row);
            };
            gradients::gradients(head, chunk, softmax, grad_table, write);
        });
        loss.slice_mut()[0] += total as f32;
        Ok(())
    }
}

impl Run<HeadLogits<'_, Floats, Floats>> for CpuDevice {
    fn run(&self, operation: Checked<HeadLogits<'_, Floats, Floats>>) -> Result<()> {
        let HeadLogits {
            x,
            table,
            logits,
            first_row,
        } = operation.into_inner();
        let (rows, vocab, hidden) = (logits.rows, table.rows, table.cols);
        let x = &x.slice()[first_row * hidden..];
        let (table, logits) = (table.slice(), logits.slice_mut());
        if small::fits(rows) {
            small::linear(x, table, None, logits, rows, hidden, vocab);
            return Ok(());
        }
        gemm(
            MatmulPrecision::Single,
            (rows, vocab, hidden),
            Strided::rows(x, hidden),
            Strided::transposed(table, hidden),
            Target {
                start: Start::Zero,
                c: logits,
                row: vocab,
            },
        );
        Ok(())
    }
}
