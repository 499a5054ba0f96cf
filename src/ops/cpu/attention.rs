//! Causal grouped-query attention over packed segments, in blocks of queries; the backward
//! recomputes the probabilities from the saved logarithm of each row's sum (Dao 2023) and needs no
//! `[T, T]` matrix.

use super::gemm::{Packed, Shared, Strided, gemm_packed_columns, gemm_packed_shared, gemm_shared};
use super::scratch::Scratch;
use super::shared::SharedMut;
use super::simd::{LANES, dot, dot_body, exp, fma, sum_lanes, vectorised};
use super::{CpuDevice, Floats, Indices};
use crate::ops::{
    AttentionBackward, AttentionDecode, AttentionForward, AttentionPrefill, AttentionShape,
    CachedSequence, Checked, Run,
};
use anyhow::Result;
use rayon::prelude::*;
use std::cell::RefCell;

/// Queries per block: its scores against 256 keys take 64 KiB.
const QUERIES: usize = 64;

thread_local! {
    /// A task's keys and values, packed once for all of its queries; their memory is kept between
    /// tasks.
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
    fn rows<'a>(&self, qkv: &'a [f32], from: usize) -> Strided<'a> {
        Strided::rows(&qkv[from..], self.stride)
    }

    /// Its transpose.
    fn transposed<'a>(&self, qkv: &'a [f32], from: usize) -> Strided<'a> {
        Strided::transposed(&qkv[from..], self.stride)
    }

    /// Query heads that read key/value head `kv`.
    fn heads_of(&self, kv: usize) -> std::ops::Range<usize> {
        let group = self.shape.heads / self.shape.kv_heads;
        kv * group..(kv + 1) * group
    }
}

/// A key/value head of one segment: what one thread does at a time.
#[derive(Clone, Copy)]
struct Task {
    /// First row of the segment.
    start: usize,
    /// Row after its last.
    end: usize,
    /// Key/value head.
    kv: usize,
}

impl Task {
    /// Rows of the segment.
    fn len(&self) -> usize {
        self.end - self.start
    }

    /// First and end row of each block of queries.
    fn query_blocks(self) -> impl Iterator<Item = (usize, usize)> {
        let blocks = (self.start..self.end).step_by(QUERIES);
        blocks.map(move |q0| (q0, (q0 + QUERIES).min(self.end)))
    }
}

/// All tasks, longest segments first so that threads finish together.
fn tasks(segments: &[u32], kv_heads: usize) -> Vec<Task> {
    let heads_of = |pair: &[u32]| {
        let (start, end) = (pair[0] as usize, pair[1] as usize);
        (0..kv_heads).map(move |kv| Task { start, end, kv })
    };
    let mut all: Vec<_> = segments
        .windows(2)
        .flat_map(heads_of)
        .filter(|task| task.start < task.end)
        .collect();
    all.sort_by_key(|task| std::cmp::Reverse(task.len()));
    all
}

impl Run<AttentionForward<'_, Floats, Floats, Indices>> for CpuDevice {
    fn run(&self, operation: Checked<AttentionForward<'_, Floats, Floats, Indices>>) -> Result<()> {
        let AttentionForward {
            qkv,
            segments,
            out,
            log_sum,
            shape,
        } = operation.into_inner();
        let forward = Forward {
            scratch: &self.scratch,
            layout: Layout::new(&shape),
            qkv: qkv.slice(),
            out: SharedMut::new(out.slice_mut()),
            log_sum: SharedMut::new(log_sum.slice_mut()),
        };
        tasks(segments.slice(), shape.kv_heads)
            .into_par_iter()
            .with_max_len(1)
            .for_each(|task| forward.task(task));
        Ok(())
    }
}

/// What all tasks of the forward pass read and write.
struct Forward<'a> {
    scratch: &'a Scratch,
    layout: Layout,
    qkv: &'a [f32],
    out: SharedMut<'a>,
    log_sum: SharedMut<'a>,
}

impl Forward<'_> {
    fn task(&self, task: Task) {
        let &Self {
            ref layout,
            qkv,
            out,
            log_sum,
            ..
        } = self;
        let Task { start, kv, .. } = task;
        let (len, shape) = (task.len(), layout.shape);
        let d = shape.head_dim;
        let mut scores = self.scratch.take(QUERIES * len);
        OPERANDS.with_borrow_mut(|[k, v, _]| {
            k.pack(d, len, layout.transposed(qkv, layout.key(start, kv)));
            v.pack(len, d, layout.rows(qkv, layout.value(start, kv)));
            for head in layout.heads_of(kv) {
                for (q0, q1) in task.query_blocks() {
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
                    let p = Strided::rows(&scores, keys);
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
    }
}

vectorised! {
    /// Softmax of `scale * row` in place; returns the logarithm of the sum of exponentials.
    pub(crate) fn softmax(row: &mut [f32], scale: f32) -> f32 {
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
    pub(crate) fn probabilities(row: &mut [f32], scale: f32, log_sum: f32) {
        for x in row.iter_mut() {
            *x = exp::<FMA>(*x * scale - log_sum);
        }
    }
}

vectorised! {
    /// `grad = p (grad - delta) scale`: from gradients of probabilities to gradients of raw scores.
    pub(crate) fn softmax_gradient(p: &[f32], grad: &mut [f32], delta: f32, scale: f32) {
        for (g, p) in grad.iter_mut().zip(p) {
            *g = p * (*g - delta) * scale;
        }
    }
}

impl Run<AttentionBackward<'_, Floats, Floats, Indices>> for CpuDevice {
    fn run(
        &self,
        operation: Checked<AttentionBackward<'_, Floats, Floats, Indices>>,
    ) -> Result<()> {
        let AttentionBackward {
            grad_out,
            qkv,
            out,
            log_sum,
            segments,
            grad_qkv,
            shape,
        } = operation.into_inner();
        let backward = Backward {
            scratch: &self.scratch,
            layout: Layout::new(&shape),
            grad_out: grad_out.slice(),
            qkv: qkv.slice(),
            out: out.slice(),
            log_sum: log_sum.slice(),
            grad_qkv: SharedMut::new(grad_qkv.slice_mut()),
        };
        tasks(segments.slice(), shape.kv_heads)
            .into_par_iter()
            .with_max_len(1)
            .for_each(|task| backward.task(task));
        Ok(())
    }
}

/// What all tasks of the backward pass read and write.
struct Backward<'a> {
    scratch: &'a Scratch,
    layout: Layout,
    grad_out: &'a [f32],
    qkv: &'a [f32],
    out: &'a [f32],
    log_sum: &'a [f32],
    grad_qkv: SharedMut<'a>,
}

impl Backward<'_> {
    fn task(&self, task: Task) {
        let (layout, qkv) = (&self.layout, self.qkv);
        let Task { start, kv, .. } = task;
        let (len, shape) = (task.len(), layout.shape);
        let d = shape.head_dim;
        let mut p = self.scratch.take(QUERIES * len);
        let mut ds = self.scratch.take(QUERIES * len);
        let to = |at: usize| Shared {
            all: self.grad_qkv,
            at,
            row: layout.stride,
        };
        let (dk, dv) = (layout.key(start, kv), layout.value(start, kv));
        for row in 0..len {
            for at in [dk, dv] {
                // SAFETY: this task alone handles key/value head `kv` of this segment.
                unsafe { self.grad_qkv.slice(at + row * layout.stride, d) }.fill(0.0);
            }
        }
        OPERANDS.with_borrow_mut(|[k, v_transposed, k_transposed]| {
            k.pack(len, d, layout.rows(qkv, dk));
            k_transposed.pack(d, len, layout.transposed(qkv, dk));
            v_transposed.pack(d, len, layout.transposed(qkv, dv));
            for head in layout.heads_of(kv) {
                for (q0, q1) in task.query_blocks() {
                    let (rows, keys) = (q1 - q0, q1 - start);
                    let go = &self.grad_out[q0 * shape.out_size() + head * d..];
                    let go = Strided::rows(go, shape.out_size());
                    let dq = layout.query(q0, head);
                    let q = layout.rows(qkv, dq);
                    gemm_packed_columns(rows, keys, q, k_transposed, &mut p, keys);
                    gemm_packed_columns(rows, keys, go, v_transposed, &mut ds, keys);
                    for r in 0..rows {
                        let (p, ds) = (&mut p[r * keys..][..keys], &mut ds[r * keys..][..keys]);
                        self.scores(start, q0 + r, head, p, ds);
                    }
                    let by_query = Strided::rows(&ds, keys);
                    let ds_by_key = Strided::transposed(&ds, keys);
                    let p_by_key = Strided::transposed(&p, keys);
                    // SAFETY: this task alone handles key/value head `kv` of this segment and the
                    // query heads that read it.
                    unsafe {
                        gemm_packed_shared(keys, rows, by_query, k, to(dq));
                        gemm_shared((keys, d, rows), ds_by_key, q, true, to(dk));
                        gemm_shared((keys, d, rows), p_by_key, go, true, to(dv));
                    }
                }
            }
        });
    }

    /// Turns one query's scores `p` into probabilities, and the gradients of these, `ds`, into
    /// those of the scores. Keys after the query get zeros.
    fn scores(&self, start: usize, row: usize, head: usize, p: &mut [f32], ds: &mut [f32]) {
        let Layout { shape, scale, .. } = self.layout;
        let visible = row - start + 1;
        p[visible..].fill(0.0);
        ds[visible..].fill(0.0);
        let (p, ds) = (&mut p[..visible], &mut ds[..visible]);
        probabilities(p, scale, self.log_sum[row * shape.heads + head]);
        let at = row * shape.out_size() + head * shape.head_dim;
        let own = at..at + shape.head_dim;
        let delta = dot(&self.grad_out[own.clone()], &self.out[own]);
        softmax_gradient(p, ds, delta, scale);
    }
}

impl Run<AttentionPrefill<'_, Floats>> for CpuDevice {
    fn run(&self, operation: Checked<AttentionPrefill<'_, Floats>>) -> Result<()> {
        let AttentionPrefill {
            qkv,
            sequence,
            out,
            shape,
        } = operation.into_inner();
        append(
            &self.scratch,
            qkv.slice(),
            sequence,
            out.slice_mut(),
            &shape,
        );
        Ok(())
    }
}

/// A sequence is a task: the longest first would be fairer, but they are of a size.
impl Run<AttentionDecode<'_, Floats>> for CpuDevice {
    fn run(&self, operation: Checked<AttentionDecode<'_, Floats>>) -> Result<()> {
        let AttentionDecode {
            qkv,
            sequences,
            out,
            shape,
        } = operation.into_inner();
        let rows = qkv
            .slice()
            .par_chunks_exact(shape.qkv_size())
            .zip(out.slice_mut().par_chunks_exact_mut(shape.out_size()));
        rows.zip(sequences)
            .with_min_len(2)
            .for_each(|((row, out), sequence)| append(&self.scratch, row, sequence, out, &shape));
        Ok(())
    }
}

/// Appends the rows of `qkv` to the sequence's keys and values, then attends from each to all up to
/// it.
fn append(
    scratch: &Scratch,
    qkv: &[f32],
    sequence: CachedSequence<'_, Floats>,
    out: &mut [f32],
    shape: &AttentionShape,
) {
    let CachedSequence { keys, values, past } = sequence;
    let (keys, values) = (keys.slice_mut(), values.slice_mut());
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
                let (query, scale) = (&row[head * d..][..d], layout.scale);
                let (keys, values) = (&keys[column..], &values[column..]);
                cached_row(query, keys, values, kv_size, scale, &mut scores, out);
            }
        });
}

vectorised! {
    /// One query against `scores.len()` cached keys and values, whose rows are `stride` apart.
    pub(crate) fn cached_row(
        query: &[f32],
        keys: &[f32],
        values: &[f32],
        stride: usize,
        scale: f32,
        scores: &mut [f32],
        out: &mut [f32],
    ) {
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
