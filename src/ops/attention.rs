//! Causal grouped-query attention, scale `1 / sqrt(D)`, on `[q | k | v]` after RoPE.

use anyhow::{Result, ensure};

use super::checks::{
    expect_attention_shape, expect_len, expect_offsets, expect_offsets_or_empty, expect_room,
};
use super::operation::{KernelCost, Kind, Load, Operation, SINGLE};
use super::view::{Buffer, IndexBuffer, Matrix, MatrixMut, Offsets, View};

/// Shape of grouped-query attention.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionShape {
    /// Query heads `H`.
    pub heads: usize,
    /// Key/value heads `G`; `H` is a multiple of it. Query head `h` reads key/value head `h / (H /
    /// G)`.
    pub kv_heads: usize,
    /// Elements per head `D`, even.
    pub head_dim: usize,
}

impl AttentionShape {
    /// Columns of the fused projection `[q | k | v]`: `(H + 2 G) D`.
    pub fn qkv_size(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    /// Columns of the attention output: `H D`.
    pub fn out_size(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Columns of the keys, and of the values: `G D`.
    pub fn kv_size(&self) -> usize {
        self.kv_heads * self.head_dim
    }
}

/// Attention within each segment.
pub struct AttentionForward<'a, F, S, I> {
    /// `[T, (H + 2G) D]`
    pub qkv: Matrix<'a, F>,
    /// The examples of the batch.
    pub segments: Offsets<'a, I>,
    /// `[T, H D]`
    pub out: MatrixMut<'a, F>,
    /// `[T, H]`: logarithm of each query's softmax denominator, with the scaled scores.
    pub log_sum: MatrixMut<'a, S>,
    /// Heads.
    pub shape: AttentionShape,
}

/// `grad_qkv =` the gradients of queries, keys and values, all written.
pub struct AttentionBackward<'a, F, S, I> {
    /// `[T, H D]`
    pub grad_out: Matrix<'a, F>,
    /// `[T, (H + 2G) D]`
    pub qkv: Matrix<'a, F>,
    /// `[T, H D]`
    pub out: Matrix<'a, F>,
    /// `[T, H]`
    pub log_sum: Matrix<'a, S>,
    /// The examples of the batch.
    pub segments: Offsets<'a, I>,
    /// `[T, (H + 2G) D]`
    pub grad_qkv: MatrixMut<'a, F>,
    /// Heads.
    pub shape: AttentionShape,
}

/// A sequence's keys and values.
pub struct CachedSequence<'a, F> {
    /// `[capacity, G D]`
    pub keys: MatrixMut<'a, F>,
    /// `[capacity, G D]`
    pub values: MatrixMut<'a, F>,
    /// Positions in the cache.
    pub past: usize,
}

/// Attention over one sequence's cache: the rows of `qkv` take positions `past..past + T`. Their
/// keys and values are written to the cache, then each new query attends to all cached positions up
/// to its own.
pub struct AttentionPrefill<'a, F> {
    /// `[T, (H + 2G) D]`
    pub qkv: Matrix<'a, F>,
    /// The sequence.
    pub sequence: CachedSequence<'a, F>,
    /// `[T, H D]`
    pub out: MatrixMut<'a, F>,
    /// Heads.
    pub shape: AttentionShape,
}

/// One new position of each of several sequences: row `r` of `qkv` takes position
/// `sequences[r].past` of its own cache. Every row equals that of [`AttentionPrefill`] to the bit.
/// All caches have the same capacity.
pub struct AttentionDecode<'a, F> {
    /// `[sequences, (H + 2G) D]`
    pub qkv: Matrix<'a, F>,
    /// One for each row.
    pub sequences: Vec<CachedSequence<'a, F>>,
    /// `[sequences, H D]`
    pub out: MatrixMut<'a, F>,
    /// Heads.
    pub shape: AttentionShape,
}

/// The segments cut `total` tokens into examples. The last ones may be empty where batches are
/// padded.
fn check_segments<I: IndexBuffer>(op: &str, segments: &Offsets<'_, I>, total: usize) -> Result<()> {
    let (name, parts) = ("segments", segments.parts);
    expect_len(op, name, segments.buffer.len(), parts.saturating_add(1))?;
    ensure!(
        parts <= total && (parts > 0 || total == 0),
        "{op}: {name} cuts {total} tokens into {parts} parts, \
         but every part needs at least one token"
    );
    let Some(known) = segments.buffer.known() else {
        return Ok(());
    };
    if !I::PADDED {
        expect_offsets(op, name, known, parts, total)?;
        return Ok(());
    }
    let used = expect_offsets_or_empty(op, name, known, parts, total)?;
    let filled = used.partition_point(|&offset| (offset as usize) < total);
    expect_offsets(op, name, used, filled, total)?;
    Ok(())
}

impl<F: Buffer, S: Buffer, I: IndexBuffer> Operation for AttentionForward<'_, F, S, I> {
    const NAME: &'static str = "attention_forward";

    fn check(&self) -> Result<()> {
        let (op, shape, count) = (Self::NAME, &self.shape, self.qkv.rows);
        expect_attention_shape(op, shape)?;
        self.qkv.expect(op, "qkv", &[count, shape.qkv_size()])?;
        check_segments(op, &self.segments, count)?;
        self.out.expect(op, "out", &[count, shape.out_size()])?;
        self.log_sum.expect(op, "log_sum", &[count, shape.heads])
    }

    fn bytes(&self, storage: usize) -> usize {
        let (shape, count) = (&self.shape, self.qkv.rows);
        let rows = storage * count * (shape.qkv_size() + shape.out_size());
        rows + 4 * (self.segments.parts + 1) + 4 * count * shape.heads
    }

    fn kernels(&self, load: &Load) -> Vec<KernelCost> {
        let (shape, tokens) = (&self.shape, self.qkv.rows as f64);
        let scores = 2.0 * tokens * load.mean_keys * shape.out_size() as f64;
        let columns = (shape.qkv_size() + shape.out_size()) as f64;
        vec![KernelCost {
            name: "attention",
            families: &["attention_fwd"],
            kind: Kind::Attention,
            flops: 2.0 * scores,
            bytes: load.storage * tokens * columns + SINGLE * tokens * shape.heads as f64,
        }]
    }
}

impl<F: Buffer, S: Buffer, I: IndexBuffer> Operation for AttentionBackward<'_, F, S, I> {
    const NAME: &'static str = "attention_backward";

    fn check(&self) -> Result<()> {
        let (op, shape, count) = (Self::NAME, &self.shape, self.qkv.rows);
        expect_attention_shape(op, shape)?;
        let (qkv, out) = ([count, shape.qkv_size()], [count, shape.out_size()]);
        self.grad_out.expect(op, "grad_out", &out)?;
        self.qkv.expect(op, "qkv", &qkv)?;
        self.out.expect(op, "out", &out)?;
        self.log_sum.expect(op, "log_sum", &[count, shape.heads])?;
        check_segments(op, &self.segments, count)?;
        self.grad_qkv.expect(op, "grad_qkv", &qkv)
    }

    fn bytes(&self, storage: usize) -> usize {
        let (shape, count) = (&self.shape, self.qkv.rows);
        let columns = 2 * (shape.qkv_size() + shape.out_size());
        storage * count * columns + 4 * count * shape.heads
    }

    fn kernels(&self, load: &Load) -> Vec<KernelCost> {
        let (shape, tokens) = (&self.shape, self.qkv.rows as f64);
        let scores = 2.0 * tokens * load.mean_keys * shape.out_size() as f64;
        let [qkv, q, kv] =
            [shape.qkv_size(), shape.out_size(), shape.kv_size()].map(|columns| columns as f64);
        let statistics = 2.0 * SINGLE * tokens * shape.heads as f64;
        vec![
            KernelCost {
                name: "attention, gradient of the queries",
                families: &["attention_dq"],
                kind: Kind::Attention,
                // Scores again, gradients of the probabilities, of the queries.
                flops: 3.0 * scores,
                bytes: load.storage * tokens * (qkv + 3.0 * q) + statistics,
            },
            KernelCost {
                name: "attention, gradient of keys and values",
                families: &["attention_dkv"],
                kind: Kind::Attention,
                // Scores and gradients of the probabilities again, gradients of the values, of the
                // keys.
                flops: 4.0 * scores,
                bytes: load.storage * tokens * (qkv + q + 2.0 * kv) + statistics,
            },
        ]
    }
}

impl<F: Buffer> CachedSequence<'_, F> {
    /// Both caches have this shape and room for `count` more positions.
    fn check(&self, op: &str, shape: &AttentionShape, capacity: usize, count: usize) -> Result<()> {
        expect_room(op, self.past, count, capacity)?;
        let dims = [capacity, shape.kv_size()];
        self.keys.expect(op, "keys", &dims)?;
        self.values.expect(op, "values", &dims)
    }

    /// Bytes of the positions that are read, and of `count` new ones that are written, with their
    /// queries and outputs.
    fn bytes(&self, shape: &AttentionShape, count: usize, storage: usize) -> usize {
        let read = count * shape.qkv_size() + 2 * self.past * shape.kv_size();
        let written = count * (shape.out_size() + 2 * shape.kv_size());
        storage * (read + written)
    }
}

impl<F: Buffer> Operation for AttentionPrefill<'_, F> {
    const NAME: &'static str = "attention_prefill";

    fn check(&self) -> Result<()> {
        let (op, shape, count) = (Self::NAME, &self.shape, self.qkv.rows);
        expect_attention_shape(op, shape)?;
        self.qkv.expect(op, "qkv", &[count, shape.qkv_size()])?;
        self.sequence
            .check(op, shape, self.sequence.keys.rows, count)?;
        self.out.expect(op, "out", &[count, shape.out_size()])
    }

    fn bytes(&self, storage: usize) -> usize {
        self.sequence.bytes(&self.shape, self.qkv.rows, storage)
    }
}

impl<F: Buffer> Operation for AttentionDecode<'_, F> {
    const NAME: &'static str = "attention_decode";

    fn check(&self) -> Result<()> {
        let (op, shape, count) = (Self::NAME, &self.shape, self.sequences.len());
        expect_attention_shape(op, shape)?;
        self.qkv.expect(op, "qkv", &[count, shape.qkv_size()])?;
        self.out.expect(op, "out", &[count, shape.out_size()])?;
        let capacity = self.sequences.first().map_or(0, |first| first.keys.rows);
        for sequence in &self.sequences {
            sequence.check(op, shape, capacity, 1)?;
        }
        Ok(())
    }

    fn bytes(&self, storage: usize) -> usize {
        let bytes = |sequence: &CachedSequence<'_, F>| sequence.bytes(&self.shape, 1, storage);
        self.sequences.iter().map(bytes).sum()
    }
}
