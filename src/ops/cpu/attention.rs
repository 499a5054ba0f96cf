//! Causal grouped-query attention over packed segments, in blocks of queries; the backward recomputes the
//! probabilities from the saved logarithm of each row's sum (Dao 2023) and needs no `[T, T]` matrix.

use super::CpuDevice;
use super::gemm::{Matrix, Packed, Shared, gemm_packed_columns, gemm_packed_shared, gemm_shared};
use super::scratch::Scratch;
use super::shared::SharedMut;
use super::simd::{LANES, dot, dot_body, exp, fma, sum_lanes, vectorised};
use crate::ops::{AttentionShape, CachedText};
use rayon::prelude::*;
use std::cell::RefCell;

/// Queries per block: its scores against 256 keys take 64 KiB.
const QUERIES: usize = 64;

thread_local! {
    /// A task's keys and values, packed once for all of its queries; their memory is kept between tasks.
    static OPERANDS: RefCell<[Packed; 3]> = RefCell::default();
}

/// The parts of one `qkv` row, and the tasks that operations are split into.
struct Layout {
    shape: AttentionShape,
    stride: usize,
    scale: f32,
}

impl Layout {
    fn new(shape: &AttentionShape) -> Self {
        Self {
            shape: *shape,
            stride: shape.qkv_size(),
            scale: 1.0 / (shape.head_dim as f32).sqrt(),
        }
    }

    fn query(&self, row: usize, head: usize) -> usize {
        row * self.stride + head * self.shape.head_dim
    }

    fn key(&self, row: usize, kv: usize) -> usize {
        row * self.stride + self.shape.out_size() + kv * self.shape.head_dim
    }

    fn value(&self, row: usize, kv: usize) -> usize {
        self.key(row, kv) + self.shape.kv_size()
    }

    /// What begins at `from` in the rows of `qkv`, a head's worth of columns.
    fn rows<'a>(&self, qkv: &'a [f32], from: usize) -> Matrix<'a> {
        Matrix::rows(&qkv[from..], self.stride)
    }

    /// Its transpose.
    fn transposed<'a>(&self, qkv: &'a [f32], from: usize) -> Matrix<'a> {
        Matrix::transposed(&qkv[from..], self.stride)
    }

    /// Query heads that read key/value head `kv`.
    fn heads_of(&self, kv: usize) -> std::ops::Range<usize> {
        let group = self.shape.heads / self.shape.kv_heads;
        kv * group..(kv + 1) * group
    }
}

/// (first row, end row, key/value head) of each task, longest segments first so that threads finish together.
fn tasks(segments: &[u32], kv_heads: usize) -> Vec<(usize, usize, usize)> {
    let mut all: Vec<_> = segments
        .windows(2)
        .flat_map(|pair| (0..kv_heads).map(move |kv| (pair[0] as usize, pair[1] as usize, kv)))
        .filter(|(start, end, _)| start < end)
        .collect();
    all.sort_by_key(|&(start, end, _)| std::cmp::Reverse(end - start));
    all
}

/// See [`Device::attention_forward`](crate::ops::Device::attention_forward).
pub fn forward(
    scratch: &Scratch,
    qkv: &[f32],
    segments: &[u32],
    out: &mut [f32],
    log_sum: &mut [f32],
    shape: &AttentionShape,
) {
    let layout = Layout::new(shape);
    let (out, log_sum) = (SharedMut::new(out), SharedMut::new(log_sum));
    tasks(segments, shape.kv_heads)
        .into_par_iter()
        .with_max_len(1)
        .for_each(|(start, end, kv)| {
            let mut scores = scratch.take(QUERIES * (end - start));
            let (len, d) = (end - start, shape.head_dim);
            OPERANDS.with_borrow_mut(|[k, v, _]| {
                k.pack(d, len, layout.transposed(qkv, layout.key(start, kv)));
                v.pack(len, d, layout.rows(qkv, layout.value(start, kv)));
                for head in layout.heads_of(kv) {
                    for q0 in (start..end).step_by(QUERIES) {
                        let q1 = (q0 + QUERIES).min(end);
                        let (rows, keys) = (q1 - q0, q1 - start);
                        let q = layout.rows(qkv, layout.query(q0, head));
                        gemm_packed_columns(rows, keys, q, k, &mut scores, keys);
                        for r in 0..rows {
                            let row = &mut scores[r * keys..(r + 1) * keys];
                            let visible = q0 - start + r + 1;
                            row[visible..].fill(0.0);
                            let sum = softmax(&mut row[..visible], layout.scale);
                            // SAFETY: this task alone handles this row and head.
                            unsafe { log_sum.slice((q0 + r) * shape.heads + head, 1)[0] = sum };
                        }
                        let p = Matrix::rows(&scores, keys);
                        let to = Shared {
                            all: out,
                            at: q0 * shape.out_size() + head * d,
                            row: shape.out_size(),
                        };
                        // SAFETY: these columns of these rows are this task's alone.
                        unsafe { gemm_packed_shared(keys, rows, p, v, to) };
                    }
                }
            });
        });
}

vectorised! {
    /// Softmax of `scale * row` in place; returns the logarithm of the sum of exponentials.
    pub fn softmax(row: &mut [f32], scale: f32) -> f32 {
        let mut lanes = [f32::NEG_INFINITY; LANES];
        let (lines, rest) = row.as_chunks::<LANES>();
        for line in lines {
            for i in 0..LANES {
                let x = line[i] * scale;
                lanes[i] = if x > lanes[i] { x } else { lanes[i] };
            }
        }
        let rest = rest.iter().map(|&x| x * scale);
        let max = lanes.into_iter().chain(rest).fold(f32::NEG_INFINITY, f32::max);
        let mut sums = [0.0f32; LANES];
        let (lines, rest) = row.as_chunks_mut::<LANES>();
        for line in lines {
            for i in 0..LANES {
                line[i] = exp::<FMA>(line[i] * scale - max);
                sums[i] += line[i];
            }
        }
        let mut sum = sum_lanes(sums);
        for x in rest {
            *x = exp::<FMA>(*x * scale - max);
            sum += *x;
        }
        let inverse = 1.0 / sum;
        for x in row.iter_mut() {
            *x *= inverse;
        }
        max + sum.ln()
    }
}

vectorised! {
    /// `row = exp(scale * row - log_sum)`: the probabilities again.
    pub fn probabilities(row: &mut [f32], scale: f32, log_sum: f32) {
        for x in row.iter_mut() {
            *x = exp::<FMA>(*x * scale - log_sum);
        }
    }
}

vectorised! {
    /// `grad = p (grad - delta) scale`: from gradients of probabilities to gradients of raw scores.
    pub fn softmax_gradient(p: &[f32], grad: &mut [f32], delta: f32, scale: f32) {
        for (g, p) in grad.iter_mut().zip(p) {
            *g = p * (*g - delta) * scale;
        }
    }
}

/// See [`Device::attention_backward`](crate::ops::Device::attention_backward).
#[allow(clippy::too_many_arguments)]
pub fn backward(
    scratch: &Scratch,
    grad_out: &[f32],
    qkv: &[f32],
    out: &[f32],
    log_sum: &[f32],
    segments: &[u32],
    grad_qkv: &mut [f32],
    shape: &AttentionShape,
) {
    let layout = Layout::new(shape);
    let (d, stride) = (shape.head_dim, layout.stride);
    let grad = SharedMut::new(grad_qkv);
    tasks(segments, shape.kv_heads)
        .into_par_iter()
        .with_max_len(1)
        .for_each(|(start, end, kv)| {
            let len = end - start;
            let mut p = scratch.take(QUERIES * len);
            let mut ds = scratch.take(QUERIES * len);
            let to = |at: usize| Shared {
                all: grad,
                at,
                row: stride,
            };
            let (dk, dv) = (layout.key(start, kv), layout.value(start, kv));
            for row in 0..len {
                for at in [dk, dv] {
                    // SAFETY: this task alone handles key/value head `kv` of this segment.
                    unsafe { grad.slice(at + row * stride, d) }.fill(0.0);
                }
            }
            OPERANDS.with_borrow_mut(|[k, v_transposed, k_transposed]| {
                k.pack(len, d, layout.rows(qkv, dk));
                k_transposed.pack(d, len, layout.transposed(qkv, dk));
                v_transposed.pack(d, len, layout.transposed(qkv, dv));
                for head in layout.heads_of(kv) {
                    for q0 in (start..end).step_by(QUERIES) {
                        let q1 = (q0 + QUERIES).min(end);
                        let (rows, keys) = (q1 - q0, q1 - start);
                        let go_at = |row: usize| row * shape.out_size() + head * d;
                        let go = Matrix::rows(&grad_out[go_at(q0)..], shape.out_size());
                        let dq = layout.query(q0, head);
                        let q = layout.rows(qkv, dq);
                        gemm_packed_columns(rows, keys, q, k_transposed, &mut p, keys);
                        gemm_packed_columns(rows, keys, go, v_transposed, &mut ds, keys);
                        for r in 0..rows {
                            let row = q0 + r;
                            let visible = row - start + 1;
                            let (p, ds) = (&mut p[r * keys..][..keys], &mut ds[r * keys..][..keys]);
                            p[visible..].fill(0.0);
                            ds[visible..].fill(0.0);
                            let (p, ds) = (&mut p[..visible], &mut ds[..visible]);
                            probabilities(p, layout.scale, log_sum[row * shape.heads + head]);
                            let delta = dot(&grad_out[go_at(row)..][..d], &out[go_at(row)..][..d]);
                            softmax_gradient(p, ds, delta, layout.scale);
                        }
                        let by_query = Matrix::rows(&ds, keys);
                        let (ds_by_key, p_by_key) =
                            (Matrix::transposed(&ds, keys), Matrix::transposed(&p, keys));
                        // SAFETY: this task alone handles key/value head `kv` of this segment and the query heads that
                        // read it.
                        unsafe {
                            gemm_packed_shared(keys, rows, by_query, k, to(dq));
                            gemm_shared(keys, d, rows, ds_by_key, q, true, to(dk));
                            gemm_shared(keys, d, rows, p_by_key, go, true, to(dv));
                        }
                    }
                }
            });
        });
}

/// See [`Device::attention_cached`](crate::ops::Device::attention_cached).
pub fn cached(
    scratch: &Scratch,
    qkv: &[f32],
    keys: &mut [f32],
    values: &mut [f32],
    out: &mut [f32],
    shape: &AttentionShape,
    past: usize,
) {
    let layout = Layout::new(shape);
    let (kv_size, d) = (shape.kv_size(), shape.head_dim);
    for (r, row) in qkv.chunks_exact(layout.stride).enumerate() {
        let at = (past + r) * kv_size;
        keys[at..at + kv_size].copy_from_slice(&row[shape.out_size()..][..kv_size]);
        values[at..at + kv_size].copy_from_slice(&row[shape.out_size() + kv_size..][..kv_size]);
    }
    let (keys, values) = (&*keys, &*values);
    let group = shape.heads / shape.kv_heads;
    let rows = qkv
        .par_chunks_exact(layout.stride)
        .zip(out.par_chunks_exact_mut(shape.out_size()));
    rows.enumerate()
        .with_min_len(8)
        .for_each(|(r, (row, out))| {
            let visible = past + r + 1;
            let mut scores = scratch.take(visible);
            for (head, out) in out.chunks_exact_mut(d).enumerate() {
                let column = head / group * d;
                cached_row(
                    &row[head * d..][..d],
                    &keys[column..],
                    &values[column..],
                    kv_size,
                    layout.scale,
                    &mut scores,
                    out,
                );
            }
        });
}

/// See [`Device::attention_cached_texts`](crate::ops::Device::attention_cached_texts). A text is a task: the longest first would
/// be fairer, but they are of a size.
pub fn cached_texts(
    scratch: &Scratch,
    qkv: &[f32],
    texts: &mut [CachedText<'_, CpuDevice>],
    out: &mut [f32],
    shape: &AttentionShape,
) {
    let rows = qkv
        .par_chunks_exact(shape.qkv_size())
        .zip(out.par_chunks_exact_mut(shape.out_size()));
    rows.zip(texts)
        .with_min_len(2)
        .for_each(|((row, out), text)| {
            cached(scratch, row, text.keys, text.values, out, shape, text.past);
        });
}

vectorised! {
    /// One query against `scores.len()` cached keys and values, whose rows are `stride` apart.
    pub fn cached_row(query: &[f32], keys: &[f32], values: &[f32], stride: usize, scale: f32, scores: &mut [f32], out: &mut [f32]) {
        let d = query.len();
        for (i, score) in scores.iter_mut().enumerate() {
            *score = dot_body::<FMA>(query, &keys[i * stride..][..d]);
        }
        softmax(scores, scale);
        out.fill(0.0);
        for (i, &p) in scores.iter().enumerate() {
            let value = &values[i * stride..][..d];
            for j in 0..d {
                out[j] = fma::<FMA>(p, value[j], out[j]);
            }
        }
    }
}
