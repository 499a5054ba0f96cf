//! Token embedding.

use anyhow::Result;

use super::{ReferenceDevice, add};
use crate::ops::{Checked, EmbeddingBackward, EmbeddingForward, Run};

impl Run<EmbeddingForward<'_, Vec<f32>, Vec<u32>>> for ReferenceDevice {
    fn run(&self, operation: Checked<EmbeddingForward<'_, Vec<f32>, Vec<u32>>>) -> Result<()> {
        let EmbeddingForward { table, tokens, out } = operation.into_inner();
        let (count, hidden) = (tokens.len, table.cols);
        let (table, tokens, out) = (table.slice(), tokens.slice(), out.slice_mut());
        for t in 0..count {
            for c in 0..hidden {
                out[t * hidden + c] = table[tokens[t] as usize * hidden + c];
            }
        }
        Ok(())
    }
}

impl Run<EmbeddingBackward<'_, Vec<f32>, Vec<u32>>> for ReferenceDevice {
    fn run(&self, operation: Checked<EmbeddingBackward<'_, Vec<f32>, Vec<u32>>>) -> Result<()> {
        let EmbeddingBackward {
            grad_out,
            tokens,
            grad_table,
        } = operation.into_inner();
        let (count, hidden) = (tokens.len, grad_table.cols);
        let (grad_out, tokens) = (grad_out.slice(), tokens.slice());
        let grad_table = grad_table.slice_mut();
        let mut sums = vec![0.0_f64; grad_table.len()];
        for t in 0..count {
            for c in 0..hidden {
                sums[tokens[t] as usize * hidden + c] += f64::from(grad_out[t * hidden + c]);
            }
        }
        for (target, sum) in grad_table.iter_mut().zip(sums) {
            add(target, sum);
        }
        Ok(())
    }
}
