//! Embedding: `kernels/embedding.cu`.

use anyhow::Result;

use super::kernels::{self, common, embedding};
use super::memory::{DeviceBuffer, Element, IndexBuffer, Ptr};
use super::{CudaDevice, blocks, int};
use crate::ops::checks::expect_tokens_in_range;

/// Elements of a 16-byte access.
const PACK: usize = common::PACK_BYTES / size_of::<u16>();

/// The tokens, of which those that the host knows are rows of the table. (The kernel passes over others.)
fn checked(op: &str, tokens: &IndexBuffer, count: usize, vocab: usize) -> Result<Ptr<u32>> {
    let pointer = tokens.read(op, "tokens", &[count])?;
    if let Some(known) = tokens.known() {
        expect_tokens_in_range(op, "tokens", &known[..count], vocab)?;
    }
    Ok(pointer)
}

/// Elements that a thread moves at once.
fn width(hidden: usize) -> usize {
    if hidden.is_multiple_of(PACK) { PACK } else { 1 }
}

pub(super) fn forward<E: Element>(
    device: &CudaDevice<E>,
    table: &DeviceBuffer<E>,
    tokens: &IndexBuffer,
    out: &mut DeviceBuffer<E>,
    count: usize,
    vocab: usize,
    hidden: usize,
) -> Result<()> {
    let op = "embedding_forward";
    let table = table.read(op, "table", &[vocab, hidden])?;
    let tokens = checked(op, tokens, count, vocab)?;
    let out = out.write(op, "out", &[count, hidden])?;
    let threads = count * (hidden / width(hidden));
    // The kernel counts its threads in 32 bits.
    int(op, "the number of parts of rows", threads)?;
    let (read, written) = (2 * count * hidden + 4 * count, 2 * count * hidden);
    device.driver().operation(op, read + written);
    device.driver().moves(read, written);
    // SAFETY: the buffers are as long as the kernel's contract says; it checks each token.
    unsafe {
        kernels::embedding_fwd::<E>(
            device.driver(),
            [blocks(op, threads, embedding::THREADS)?, 1, 1],
            0,
            out,
            table,
            tokens,
            int(op, "count", count)?,
            int(op, "vocab", vocab)?,
            int(op, "hidden", hidden)?,
        )
    }
}

/// Passes of 8 bits that sort numbers up to `vocab` itself, which stands for tokens out of range.
fn sort_passes(vocab: usize) -> i32 {
    (usize::BITS - vocab.leading_zeros())
        .div_ceil(embedding::DIGIT_BITS as u32)
        .max(1) as i32
}

pub(super) fn backward<E: Element>(
    device: &CudaDevice<E>,
    grad_out: &DeviceBuffer<E>,
    tokens: &IndexBuffer,
    grad_table: &mut DeviceBuffer<E>,
    count: usize,
    vocab: usize,
    hidden: usize,
) -> Result<()> {
    let op = "embedding_backward";
    let grad_out = grad_out.read(op, "grad_out", &[count, hidden])?;
    let tokens = checked(op, tokens, count, vocab)?;
    let grad_table = grad_table.write(op, "grad_table", &[vocab, hidden])?;
    if count == 0 {
        return Ok(());
    }
    let warps = count * hidden.div_ceil(32 * width(hidden));
    // The kernel counts its warps in 32 bits.
    int(op, "the number of parts of rows", warps)?;
    let (count_arg, vocab_arg) = (int(op, "count", count)?, int(op, "vocab", vocab)?);
    let mut scratch = device.scratch();
    let order = scratch.take::<u32>(op, count)?;
    let spare = scratch.take::<u32>(op, count)?;
    let driver = device.driver();
    // Rows of the table that can be touched at the most.
    let rows = 2 * count.min(vocab) * hidden;
    driver.operation(op, 2 * count * hidden + 4 * count + 2 * rows);
    // Each pass counts the digits, and then moves the numbers.
    let passes = sort_passes(vocab) as usize;
    driver.moves(passes * 12 * count, passes * 4 * count);
    // SAFETY: the buffers are as long as the kernels' contracts say, `order` and `spare` [count]; tokens are checked there.
    unsafe {
        kernels::embedding_sort(
            device.driver(),
            [1, 1, 1],
            0,
            order,
            spare,
            tokens,
            count_arg,
            vocab_arg,
            sort_passes(vocab),
        )?;
        driver.moves(2 * count * hidden + 8 * count + rows, rows);
        kernels::embedding_bwd::<E>(
            device.driver(),
            [blocks(op, warps, embedding::WARPS)?, 1, 1],
            0,
            grad_table,
            grad_out,
            tokens,
            order.read(),
            count_arg,
            vocab_arg,
            int(op, "hidden", hidden)?,
        )
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
