//! The tied head: logits over the vocabulary, and cross-entropy with its gradients.

use anyhow::Result;

use super::checks::{expect_nonzero, expect_targets_in_range};
use super::operation::{KernelCost, Kind, Load, Operation};
use super::view::{Buffer, IndexBuffer, Matrix, MatrixMut, Vector, VectorMut, View};

/// Target value of a position that carries no loss.
pub const IGNORE_TARGET: u32 = u32::MAX;

/// Most tokens of a chunk of the head on a card. More need more memory (206 MB of logits at GPT-2's
/// vocabulary), fewer read the table and its gradient more often: 116 MB per chunk.
pub(crate) const HEAD_CHUNK: usize = 2048;

/// `logits = x table^T`, `loss += sum_t -log softmax(logits[t])[targets[t]]` over targets that are
/// not [`IGNORE_TARGET`] (natural logarithm, not scaled); `grad_x = scale[0] * d loss`, `grad_table
/// += scale[0] * d loss`.
pub struct HeadLoss<'a, F, S, I> {
    /// `[T, C]`
    pub x: Matrix<'a, F>,
    /// `[V, C]`
    pub table: Matrix<'a, F>,
    /// `[T]`
    pub targets: Vector<'a, I>,
    /// `[1]`
    pub scale: Vector<'a, S>,
    /// `[1]`
    pub loss: VectorMut<'a, S>,
    /// `[T, C]`
    pub grad_x: MatrixMut<'a, F>,
    /// `[V, C]`
    pub grad_table: MatrixMut<'a, F>,
}

/// Losses only: `losses[t] = -log softmax(logits[t])[targets[t]]`, 0 for ignored targets.
pub struct HeadLosses<'a, F, S, I> {
    /// `[T, C]`
    pub x: Matrix<'a, F>,
    /// `[V, C]`
    pub table: Matrix<'a, F>,
    /// `[T]`
    pub targets: Vector<'a, I>,
    /// `[T]`
    pub losses: VectorMut<'a, S>,
}

/// `logits[r] = x[first_row + r] table^T` in f32, for generation.
pub struct HeadLogits<'a, F, S> {
    /// `[at least first_row + R, C]`
    pub x: Matrix<'a, F>,
    /// `[V, C]`
    pub table: Matrix<'a, F>,
    /// `[R, V]`
    pub logits: MatrixMut<'a, S>,
    /// First row of `x`.
    pub first_row: usize,
}

fn check_operands<F: Buffer, I: IndexBuffer>(
    op: &str,
    x: &Matrix<'_, F>,
    table: &Matrix<'_, F>,
    targets: &Vector<'_, I>,
) -> Result<()> {
    expect_nonzero(op, "the hidden size", table.cols)?;
    table.fits(op, "table")?;
    x.expect(op, "x", &[targets.len, table.cols])?;
    targets.fits(op, "targets")?;
    match targets.buffer.known() {
        Some(known) => expect_targets_in_range(op, "targets", &known[..targets.len], table.rows),
        None => Ok(()),
    }
}

impl<F: Buffer, S: Buffer, I: IndexBuffer> Operation for HeadLoss<'_, F, S, I> {
    const NAME: &'static str = "head_loss";

    fn check(&self) -> Result<()> {
        let op = Self::NAME;
        check_operands(op, &self.x, &self.table, &self.targets)?;
        self.scale.expect(op, "scale", &[1])?;
        self.loss.expect(op, "loss", &[1])?;
        self.grad_x
            .expect(op, "grad_x", &[self.x.rows, self.x.cols])?;
        self.grad_table
            .expect(op, "grad_table", &[self.table.rows, self.table.cols])
    }

    fn bytes(&self, storage: usize) -> usize {
        let rows = 2 * self.x.rows + 3 * self.table.rows;
        storage * rows * self.table.cols + 4 * self.x.rows
    }

    fn kernels(&self, load: &Load) -> Vec<KernelCost> {
        let [tokens, c, v] = [self.x.rows, self.x.cols, self.table.rows].map(|n| n as f64);
        let counted = tokens * load.counted;
        let chunks = (counted / HEAD_CHUNK as f64).ceil();
        let half = load.storage;
        let (rows, logits, table) = (counted * c * half, counted * v * half, v * c * half);
        let product = |name, families, bytes| KernelCost {
            name,
            families,
            kind: Kind::Head,
            flops: 2.0 * counted * c * v,
            bytes,
        };
        vec![
            product(
                "head, logits",
                &["head_compact", "head_logits_fwd"],
                chunks * table + rows + logits,
            ),
            KernelCost {
                name: "head, softmax to gradient",
                families: &["head_grad_bwd", "head_loss_fwd"],
                kind: Kind::Memory,
                flops: 0.0,
                bytes: 2.0 * logits,
            },
            product(
                "head, gradient of the rows",
                &["head_x_bwd", "head_x_sum_bwd"],
                logits + chunks * table + rows,
            ),
            product(
                "head, gradient of the table",
                &["head_table_bwd"],
                logits + rows + 2.0 * chunks * table,
            ),
        ]
    }
}

impl<F: Buffer, S: Buffer, I: IndexBuffer> Operation for HeadLosses<'_, F, S, I> {
    const NAME: &'static str = "head_losses";

    fn check(&self) -> Result<()> {
        let op = Self::NAME;
        check_operands(op, &self.x, &self.table, &self.targets)?;
        self.losses.expect(op, "losses", &[self.targets.len])
    }

    fn bytes(&self, storage: usize) -> usize {
        storage * (self.x.rows + self.table.rows) * self.table.cols + 8 * self.x.rows
    }
}

impl<F: Buffer, S: Buffer> Operation for HeadLogits<'_, F, S> {
    const NAME: &'static str = "head_logits";

    fn check(&self) -> Result<()> {
        let op = Self::NAME;
        let (rows, vocab, hidden) = (self.logits.rows, self.table.rows, self.table.cols);
        expect_nonzero(op, "the hidden size", hidden)?;
        let used = self.first_row.saturating_add(rows);
        self.x.expect(op, "x", &[used.max(self.x.rows), hidden])?;
        self.table.fits(op, "table")?;
        self.logits.expect(op, "logits", &[rows, vocab])
    }

    fn bytes(&self, storage: usize) -> usize {
        let (rows, vocab) = (self.logits.rows, self.table.rows);
        storage * (rows + vocab) * self.table.cols + 4 * rows * vocab
    }
}
