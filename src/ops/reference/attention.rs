//! Rotary position embedding and causal grouped-query attention, with whole score matrices.

use anyhow::{Result, ensure};

use super::{ReferenceDevice, dot};
use crate::ops::checks::{expect_attention_shape, expect_offsets, expect_room, prefix, prefix_mut};
use crate::ops::{AttentionShape, CachedText};

/// Rotates queries and keys by `direction * position * theta^(-2i/D)`.
pub(super) fn rope(
    op: &str,
    qkv: &mut [f32],
    positions: &[u32],
    theta: f32,
    direction: f64,
    shape: &AttentionShape,
    count: usize,
) -> Result<()> {
    expect_attention_shape(op, shape)?;
    ensure!(
        theta.is_finite() && theta > 0.0,
        "{op}: theta is {theta}, it must be finite and positive"
    );
    let columns = shape.qkv_size();
    let qkv = prefix_mut(op, "qkv", qkv, &[count, columns])?;
    let positions = prefix(op, "positions", positions, &[count])?;

    let half = shape.head_dim / 2;
    for t in 0..count {
        for head in 0..shape.heads + shape.kv_heads {
            let start = t * columns + head * shape.head_dim;
            for i in 0..half {
                let power = -2.0 * i as f64 / shape.head_dim as f64;
                let angle = f64::from(positions[t]) * f64::from(theta).powf(power);
                let (sin, cos) = (direction * angle).sin_cos();
                let low = f64::from(qkv[start + i]);
                let high = f64::from(qkv[start + half + i]);
                qkv[start + i] = (low * cos - high * sin) as f32;
                qkv[start + half + i] = (high * cos + low * sin) as f32;
            }
        }
    }
    Ok(())
}

/// Queries, keys and values of the fused projection.
struct Projection<'a> {
    qkv: &'a [f32],
    shape: &'a AttentionShape,
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

    /// Probabilities with which head `h` of query `t` reads tokens `first..=t`, and the logarithm of their denominator.
    fn probabilities(&self, first: usize, t: usize, h: usize) -> (Vec<f64>, f64) {
        let query = self.head(self.query_at(t, h));
        let scores: Vec<f64> = (first..=t)
            .map(|s| dot(query, self.head(self.key_at(s, h))) * scale(self.shape))
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

pub(super) fn attention_forward(
    qkv: &[f32],
    segments: &[u32],
    out: &mut [f32],
    log_sum: &mut [f32],
    shape: &AttentionShape,
    segment_count: usize,
    count: usize,
) -> Result<()> {
    let op = "attention_forward";
    expect_attention_shape(op, shape)?;
    let qkv = prefix(op, "qkv", qkv, &[count, shape.qkv_size()])?;
    let segments = expect_offsets(op, "segments", segments, segment_count, count)?;
    let out = prefix_mut(op, "out", out, &[count, shape.out_size()])?;
    let log_sum = prefix_mut(op, "log_sum", log_sum, &[count, shape.heads])?;

    let projection = Projection { qkv, shape };
    for segment in segments.windows(2) {
        let first = segment[0] as usize;
        for t in first..segment[1] as usize {
            for h in 0..shape.heads {
                let (probabilities, logarithm) = projection.probabilities(first, t, h);
                log_sum[t * shape.heads + h] = logarithm as f32;
                for d in 0..shape.head_dim {
                    let sum: f64 = (first..=t)
                        .map(|s| {
                            probabilities[s - first] * f64::from(qkv[projection.value_at(s, h) + d])
                        })
                        .sum();
                    out[t * shape.out_size() + h * shape.head_dim + d] = sum as f32;
                }
            }
        }
    }
    Ok(())
}

#[allow(clippy::too_many_arguments)]
pub(super) fn attention_backward(
    grad_out: &[f32],
    qkv: &[f32],
    out: &[f32],
    log_sum: &[f32],
    segments: &[u32],
    grad_qkv: &mut [f32],
    shape: &AttentionShape,
    segment_count: usize,
    count: usize,
) -> Result<()> {
    let op = "attention_backward";
    expect_attention_shape(op, shape)?;
    let grad_out = prefix(op, "grad_out", grad_out, &[count, shape.out_size()])?;
    let qkv = prefix(op, "qkv", qkv, &[count, shape.qkv_size()])?;
    let segments = expect_offsets(op, "segments", segments, segment_count, count)?;
    let grad_qkv = prefix_mut(op, "grad_qkv", grad_qkv, &[count, shape.qkv_size()])?;
    // What the forward pass kept is checked and not used: here the probabilities are made again.
    prefix(op, "out", out, &[count, shape.out_size()])?;
    prefix(op, "log_sum", log_sum, &[count, shape.heads])?;

    let projection = Projection { qkv, shape };
    let mut sums = vec![0.0_f64; grad_qkv.len()];
    for segment in segments.windows(2) {
        let first = segment[0] as usize;
        for t in first..segment[1] as usize {
            for h in 0..shape.heads {
                let grad = &grad_out[t * shape.out_size() + h * shape.head_dim..][..shape.head_dim];
                query_backward(&projection, grad, first, t, h, &mut sums);
            }
        }
    }
    for (target, sum) in grad_qkv.iter_mut().zip(sums) {
        *target = sum as f32;
    }
    Ok(())
}

/// Adds the gradients that flow from head `h` of query `t` to its query and to all keys and values that it reads.
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
        let grad_product = grad_score * scale(projection.shape);
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

#[allow(clippy::too_many_arguments)]
pub(super) fn attention_cached(
    qkv: &[f32],
    keys: &mut [f32],
    values: &mut [f32],
    out: &mut [f32],
    shape: &AttentionShape,
    past: usize,
    count: usize,
    capacity: usize,
) -> Result<()> {
    let op = "attention_cached";
    expect_attention_shape(op, shape)?;
    expect_room(op, past, count, capacity)?;
    let qkv = prefix(op, "qkv", qkv, &[count, shape.qkv_size()])?;
    let keys = prefix_mut(op, "keys", keys, &[capacity, shape.kv_size()])?;
    let values = prefix_mut(op, "values", values, &[capacity, shape.kv_size()])?;
    let out = prefix_mut(op, "out", out, &[count, shape.out_size()])?;

    let (columns, size, dim) = (shape.kv_size(), shape.qkv_size(), shape.head_dim);
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
    Ok(())
}

/// Text by text, after all of them are found in order.
pub(super) fn attention_cached_texts(
    qkv: &[f32],
    texts: &mut [CachedText<'_, ReferenceDevice>],
    out: &mut [f32],
    shape: &AttentionShape,
    capacity: usize,
) -> Result<()> {
    let op = "attention_cached_texts";
    expect_attention_shape(op, shape)?;
    let (columns, width) = (shape.qkv_size(), shape.out_size());
    let qkv = prefix(op, "qkv", qkv, &[texts.len(), columns])?;
    let out = prefix_mut(op, "out", out, &[texts.len(), width])?;
    for text in texts.iter() {
        expect_room(op, text.past, 1, capacity)?;
        prefix(op, "keys", text.keys, &[capacity, shape.kv_size()])?;
        prefix(op, "values", text.values, &[capacity, shape.kv_size()])?;
    }
    for (r, text) in texts.iter_mut().enumerate() {
        let out = &mut out[r * width..][..width];
        let row = &qkv[r * columns..][..columns];
        let (keys, values, past) = (&mut *text.keys, &mut *text.values, text.past);
        attention_cached(row, keys, values, out, shape, past, 1, capacity)?;
    }
    Ok(())
}
