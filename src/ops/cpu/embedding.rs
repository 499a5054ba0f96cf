//! Token embedding.

use super::simd::add_scaled;
use super::{CpuDevice, Floats, Indices};
use crate::ops::{Checked, EmbeddingBackward, EmbeddingForward, Run};
use anyhow::Result;

impl Run<EmbeddingForward<'_, Floats, Indices>> for CpuDevice {
    fn run(&self, operation: Checked<EmbeddingForward<'_, Floats, Indices>>) -> Result<()> {
        let EmbeddingForward { table, tokens, out } = operation.into_inner();
        let hidden = table.cols;
        let (table, out) = (table.slice(), out.slice_mut());
        for (row, &token) in out.chunks_exact_mut(hidden).zip(tokens.slice()) {
            row.copy_from_slice(&table[token as usize * hidden..][..hidden]);
        }
        Ok(())
    }
}

impl Run<EmbeddingBackward<'_, Floats, Indices>> for CpuDevice {
    fn run(&self, operation: Checked<EmbeddingBackward<'_, Floats, Indices>>) -> Result<()> {
        let EmbeddingBackward {
            grad_out,
            tokens,
            grad_table,
        } = operation.into_inner();
        let hidden = grad_table.cols;
        let (grad_out, grad_table) = (grad_out.slice(), grad_table.slice_mut());
        for (row, &token) in grad_out.chunks_exact(hidden).zip(tokens.slice()) {
            let at = token as usize * hidden;
            add_scaled(&mut grad_table[at..at + hidden], 1.0, row);
        }
        Ok(())
    }
}
