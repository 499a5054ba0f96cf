//! Token embedding.

use anyhow::Result;

use super::checks::{expect_nonzero, expect_tokens_in_range};
use super::operation::{KernelCost, Kind, Load, Operation, SINGLE};
use super::view::{Buffer, IndexBuffer, Matrix, MatrixMut, Vector, View};

/// `out[t] = table[tokens[t]]`
pub struct EmbeddingForward<'a, F, I> {
    /// `[V, C]`
    pub table: Matrix<'a, F>,
    /// `[T]`
    pub tokens: Vector<'a, I>,
    /// `[T, C]`
    pub out: MatrixMut<'a, F>,
}

/// `grad_table[tokens[t]] += grad_out[t]`, summed in the order of `t`.
pub struct EmbeddingBackward<'a, F, I> {
    /// `[T, C]`
    pub grad_out: Matrix<'a, F>,
    /// `[T]`
    pub tokens: Vector<'a, I>,
    /// `[V, C]`
    pub grad_table: MatrixMut<'a, F>,
}

/// The tokens are rows of a `vocab`-row table, as far as the host knows them.
fn check_tokens<I: IndexBuffer>(op: &str, tokens: &Vector<'_, I>, vocab: usize) -> Result<()> {
    tokens.fits(op, "tokens")?;
    match tokens.buffer.known() {
        Some(known) => expect_tokens_in_range(op, "tokens", &known[..tokens.len], vocab),
        None => Ok(()),
    }
}

impl<F: Buffer, I: IndexBuffer> Operation for EmbeddingForward<'_, F, I> {
    const NAME: &'static str = "embedding_forward";

    fn check(&self) -> Result<()> {
        let op = Self::NAME;
        let (count, hidden) = (self.tokens.len, self.table.cols);
        expect_nonzero(op, "the hidden size", hidden)?;
        self.table.fits(op, "table")?;
        self.out.expect(op, "out", &[count, hidden])?;
        check_tokens(op, &self.tokens, self.table.rows)
    }

    fn bytes(&self, storage: usize) -> usize {
        let count = self.tokens.len;
        2 * storage * count * self.table.cols + 4 * count
    }

    fn kernels(&self, load: &Load) -> Vec<KernelCost> {
        let row = load.storage * (self.tokens.len * self.table.cols) as f64;
        vec![KernelCost {
            name: "embedding",
            families: &["embedding_fwd"],
            kind: Kind::Memory,
            flops: 0.0,
            bytes: 2.0 * row,
        }]
    }
}

impl<F: Buffer, I: IndexBuffer> Operation for EmbeddingBackward<'_, F, I> {
    const NAME: &'static str = "embedding_backward";

    fn check(&self) -> Result<()> {
        let op = Self::NAME;
        let (count, hidden) = (self.tokens.len, self.grad_table.cols);
        expect_nonzero(op, "the hidden size", hidden)?;
        self.grad_out.expect(op, "grad_out", &[count, hidden])?;
        self.grad_table.fits(op, "grad_table")?;
        check_tokens(op, &self.tokens, self.grad_table.rows)
    }

    fn bytes(&self, storage: usize) -> usize {
        let (count, hidden) = (self.tokens.len, self.grad_table.cols);
        // Rows of the table that can be touched at the most are read and written.
        let touched = storage * count.min(self.grad_table.rows) * hidden;
        storage * count * hidden + 4 * count + 2 * touched
    }

    fn kernels(&self, load: &Load) -> Vec<KernelCost> {
        let tokens = self.tokens.len as f64;
        let row = load.storage * tokens * self.grad_table.cols as f64;
        vec![KernelCost {
            name: "embedding, backward",
            families: &["embedding_sort", "embedding_bwd"],
            kind: Kind::Memory,
            flops: 0.0,
            bytes: 3.0 * row + 4.0 * SINGLE * tokens,
        }]
    }
}
