//! Causal grouped-query attention, with whole score matrices.

use anyhow::Result;

use super::{ReferenceDevice, dot};
use crate::ops::{
    AttentionBackward, AttentionDecode, AttentionForward, AttentionPrefill, AttentionShape,
    CachedSequence, Checked, Run,
};

/// Queries, keys and values of the fused projection.
struct Projection<'a> {
    qkv: &'a [f32],
    shape: AttentionShape,
}

impl Projection<'_> {
    /// Index of the first element of query head `h` of token `t`.
    fn query_at(&self, t: usize, h: usize) -> usize {
        t * self.shape.qkv_size() + h * self.shape.head_dim
    }

    /// Index of the first element of the key that query head `h` reads of token `t`.
    fn key_at(&self, t: usize, h: usize) -> usize {
        let group = h / (self.shape.heads / self.shape.kv_heads);
        t * self.shape.qkv_size() + (self.shape.heads + group) * self.shape.head_dim
    }

    /// Index of the first element of the value that query head `h` reads of token `t`.
    fn value_at(&self, t: usize, h: usize) -> usize {
        self.key_at(t, h) + self.shape.kv_size()
    }

    fn head(&self, at: usize) -> &[f32] {
        &self.qkv[at..][..self.shape.head_dim]
    }

    /// Probabilities with which head `h` of query `t` reads tokens `first..=t`, and the logarithm
    /// of their denominator.
    fn probabilities(&self, first: usize, t: usize, h: usize) -> (Vec<f64>, f64) {
        let query = self.head(self.query_at(t, h));
        let scores: Vec<f64> = (first..=t)
            .map(|s| dot(query, self.head(self.key_at(s, h))) * scale(&self.shape))
            .collect();
        softmax(&scores)
    }
}

fn scale(shape: &AttentionShape) -> f64 {
    1.0 / (shape.head_dim as f64).sqrt()
}

/// Softmax of `scores` and the logarithm of the sum of their exponentials.
pub(super) fn softmax(scores: &[f64]) -> (Vec<f64>, f64) {
    let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = scores.iter().map(|score| (score - largest).exp()).sum();
    let probabilities = scores
        .iter()
        .map(|score| (score - largest).exp() / sum)
        .collect();
    (probabilities, largest + sum.ln())
}

impl Run<AttentionForward<'_, Vec<f32>, Vec<f32>, Vec<u32>>> for ReferenceDevice {
    fn run(
        &self,
        operation: Checked<AttentionForward<'_, Vec<f32>, Vec<f32>, Vec<u32>>>,
    ) -> Result<()> {
        let AttentionForward {
            qkv,
            segments,
            out,
            log_sum,
            shape,
        } = operation.into_inner();
        let (qkv, out, log_sum) = (qkv.slice(), out.slice_mut(), log_sum.slice_mut());
        let projection = Projection { qkv, shape };
        for segment in segments.slice().windows(2) {
            let first = segment[0] as usize;
            for t in first..segment[1] as usize {
                for h in 0..shape.heads {
                    let (probabilities, logarithm) = projection.probabilities(first, t, h);
                    log_sum[t * shape.heads + h] = logarithm as f32;
                    for d in 0..shape.head_dim {
                        let value = |s: usize| f64::from(qkv[projection.value_at(s, h) + d]);
                        let sum: f64 = (first..=t)
                            .map(|s| probabilities[s - first] * value(s))
                            .sum();
                        out[t * shape.out_size() + h * shape.head_dim + d] = sum as f32;
                    }
                }
            }
        }
        Ok(())
    }
}

/// Does not use what the forward pass kept: the probabilities are made again.
impl Run<AttentionBackward<'_, Vec<f32>, Vec<f32>, Vec<u32>>> for ReferenceDevice {
    fn run(
        &self,
        operation: Checked<AttentionBackward<'_, Vec<f32>, Vec<f32>, Vec<u32>>>,
    ) -> Result<()> {
        let AttentionBackward {
            grad_out,
            qkv,
            segments,
            grad_qkv,
            shape,
            ..
        } = operation.into_inner();
        let qkv = qkv.slice();
        let (grad_out, grad_qkv) = (grad_out.slice(), grad_qkv.slice_mut());
        let projection = Projection { qkv, shape };
        let mut sums = vec![0.0_f64; grad_qkv.len()];
        for segment in segments.slice().windows(2) {
            let first = segment[0] as usize;
            for t in first..segment[1] as usize {
                for h in 0..shape.heads {
                    let at = t * shape.out_size() + h * shape.head_dim;
                    let grad = &grad_out[at..][..shape.head_dim];
                    query_backward(&projection, grad, first, t, h, &mut sums);
                }
            }
        }
        for (target, sum) in grad_qkv.iter_mut().zip(sums) {
            *target = sum as f32;
        }
        Ok(())
    }
}

/// Adds the gradients that flow from head `h` of query `t` to its query and to all keys and values
/// that it reads.
fn query_backward(
    projection: &Projection,
    grad_out: &[f32],
    first: usize,
    t: usize,
    h: usize,
    sums: &mut [f64],
) {
    let (probabilities, _) = projection.probabilities(first, t, h);
    let grad_probabilities: Vec<f64> = (first..=t)
        .map(|s| dot(grad_out, projection.head(projection.value_at(s, h))))
        .collect();
    let mean: f64 = probabilities
        .iter()
        .zip(&grad_probabilities)
        .map(|(p, grad)| p * grad)
        .sum();

    for s in first..=t {
        let probability = probabilities[s - first];
        let grad_score = probability * (grad_probabilities[s - first] - mean);
        let grad_product = grad_score * scale(&projection.shape);
        let (query, key, value) = (
            projection.query_at(t, h),
            projection.key_at(s, h),
            projection.value_at(s, h),
        );
        for d in 0..projection.shape.head_dim {
            sums[query + d] += grad_product * f64::from(projection.qkv[key + d]);
            sums[key + d] += grad_product * f64::from(projection.qkv[query + d]);
            sums[value + d] += probability * f64::from(grad_out[d]);
        }
    }
}

impl Run<AttentionPrefill<'_, Vec<f32>>> for ReferenceDevice {
    fn run(&self, operation: Checked<AttentionPrefill<'_, Vec<f32>>>) -> Result<()> {
        let AttentionPrefill {
            qkv,
            sequence,
            out,
            shape,
        } = operation.into_inner();
        append(qkv.slice(), sequence, out.slice_mut(), &shape);
        Ok(())
    }
}

impl Run<AttentionDecode<'_, Vec<f32>>> for ReferenceDevice {
    fn run(&self, operation: Checked<AttentionDecode<'_, Vec<f32>>>) -> Result<()> {
        let AttentionDecode {
            qkv,
            sequences,
            out,
            shape,
        } = operation.into_inner();
        let (columns, width) = (shape.qkv_size(), shape.out_size());
        let (qkv, out) = (qkv.slice(), out.slice_mut());
        for (r, sequence) in sequences.into_iter().enumerate() {
            let out = &mut out[r * width..][..width];
            append(&qkv[r * columns..][..columns], sequence, out, &shape);
        }
        Ok(())
    }
}

/// Appends the rows of `qkv` to the sequence's keys and values, then attends from each to all up to
/// it.
fn append(
    qkv: &[f32],
    sequence: CachedSequence<'_, Vec<f32>>,
    out: &mut [f32],
    shape: &AttentionShape,
) {
    let CachedSequence { keys, values, past } = sequence;
    let (keys, values) = (keys.slice_mut(), values.slice_mut());
    let (columns, size, dim) = (shape.kv_size(), shape.qkv_size(), shape.head_dim);
    let count = qkv.len() / size;
    for t in 0..count {
        for c in 0..columns {
            let key = t * size + shape.out_size() + c;
            keys[(past + t) * columns + c] = qkv[key];
            values[(past + t) * columns + c] = qkv[key + columns];
        }
    }
    for t in 0..count {
        for h in 0..shape.heads {
            let group = h / (shape.heads / shape.kv_heads);
            let query = &qkv[t * size + h * dim..][..dim];
            let scores: Vec<f64> = (0..=past + t)
                .map(|s| dot(query, &keys[s * columns + group * dim..][..dim]) * scale(shape))
                .collect();
            let (probabilities, _) = softmax(&scores);
            for d in 0..dim {
                let sum: f64 = (0..=past + t)
                    .map(|s| probabilities[s] * f64::from(values[s * columns + group * dim + d]))
                    .sum();
                out[t * shape.out_size() + h * dim + d] = sum as f32;
            }
        }
    }
}
