//! Embedding: `kernels/embedding.cu`.

use anyhow::Result;

use super::kernels::{self, common, embedding};
use super::memory::{DeviceBuffer, Element, IndexBuffer};
use super::{CudaDevice, blocks, int};
use crate::ops::{Checked, EmbeddingBackward, EmbeddingForward, Operation, Run};

/// Elements of a 16-byte access.
const PACK: usize = common::PACK_BYTES / size_of::<u16>();

/// Elements that a thread moves at once.
fn width(hidden: usize) -> usize {
    if hidden.is_multiple_of(PACK) { PACK } else { 1 }
}

impl<E: Element> Run<EmbeddingForward<'_, DeviceBuffer<E>, IndexBuffer>> for CudaDevice<E> {
    fn run(
        &self,
        operation: Checked<EmbeddingForward<'_, DeviceBuffer<E>, IndexBuffer>>,
    ) -> Result<()> {
        let op = EmbeddingForward::<DeviceBuffer<E>, IndexBuffer>::NAME;
        let EmbeddingForward { table, tokens, out } = operation.into_inner();
        let (count, vocab, hidden) = (tokens.len, table.rows, table.cols);
        let threads = count * (hidden / width(hidden));
        // The kernel counts its threads in 32 bits.
        int(op, "the number of parts of rows", threads)?;
        let driver = self.driver();
        driver.moves(2 * count * hidden + 4 * count, 2 * count * hidden);
        // SAFETY: the buffers are as long as the kernel's contract says; it passes over tokens out
        // of range.
        unsafe {
            kernels::embedding_fwd::<E>(
                driver,
                [blocks(op, threads, embedding::THREADS)?, 1, 1],
                0,
                out.ptr(),
                table.ptr(),
                tokens.ptr(),
                int(op, "count", count)?,
                int(op, "vocab", vocab)?,
                int(op, "hidden", hidden)?,
            )
        }
    }
}

/// Passes of 8 bits that sort numbers up to `vocab` itself, which stands for tokens out of range.
fn sort_passes(vocab: usize) -> i32 {
    (usize::BITS - vocab.leading_zeros())
        .div_ceil(embedding::DIGIT_BITS as u32)
        .max(1) as i32
}

impl<E: Element> Run<EmbeddingBackward<'_, DeviceBuffer<E>, IndexBuffer>> for CudaDevice<E> {
    fn run(
        &self,
        operation: Checked<EmbeddingBackward<'_, DeviceBuffer<E>, IndexBuffer>>,
    ) -> Result<()> {
        let op = EmbeddingBackward::<DeviceBuffer<E>, IndexBuffer>::NAME;
        let EmbeddingBackward {
            grad_out,
            tokens,
            grad_table,
        } = operation.into_inner();
        let (count, vocab, hidden) = (tokens.len, grad_table.rows, grad_table.cols);
        if count == 0 {
            return Ok(());
        }
        let warps = count * hidden.div_ceil(32 * width(hidden));
        // The kernel counts its warps in 32 bits.
        int(op, "the number of parts of rows", warps)?;
        let (count_arg, vocab_arg) = (int(op, "count", count)?, int(op, "vocab", vocab)?);
        let mut scratch = self.scratch();
        let order = scratch.take::<u32>(op, count)?;
        let spare = scratch.take::<u32>(op, count)?;
        let driver = self.driver();
        // Rows of the table that can be touched at the most.
        let rows = 2 * count.min(vocab) * hidden;
        // Each pass counts the digits, and then moves the numbers.
        let passes = sort_passes(vocab);
        driver.moves(passes as usize * 12 * count, passes as usize * 4 * count);
        // SAFETY: the buffers are as long as the kernels' contracts say, `order` and `spare`
        // [count]; tokens are checked there.
        unsafe {
            kernels::embedding_sort(
                driver,
                [1, 1, 1],
                0,
                order,
                spare,
                tokens.ptr(),
                count_arg,
                vocab_arg,
                passes,
            )?;
            driver.moves(2 * count * hidden + 8 * count + rows, rows);
            kernels::embedding_bwd::<E>(
                driver,
                [blocks(op, warps, embedding::WARPS)?, 1, 1],
                0,
                grad_table.ptr(),
                grad_out.ptr(),
                tokens.ptr(),
                order.read(),
                count_arg,
                vocab_arg,
                int(op, "hidden", hidden)?,
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::sort_passes;

    #[test]
    fn every_key_has_its_digits_sorted() {
        for (vocab, passes) in [
            (1, 1),
            (255, 1),
            (256, 2),
            (50_257, 2),
            (65_535, 2),
            (65_536, 3),
        ] {
            assert_eq!(sort_passes(vocab), passes, "{vocab}");
            assert!(vocab >> (8 * passes) == 0);
        }
    }
}
