//! Tied head and cross-entropy: `kernels/head.cu`. Which tokens count is listed on the device, so
//! nothing waits for it. The logits of a few rows: `kernels/decode.cu`.

use anyhow::Result;

use super::kernels::{self, decode, head::THREADS, tile};
use super::linear::GEMV_ROWS;
use super::memory::{DeviceBuffer, Element, IndexBuffer, Ptr, PtrMut, Scratch};
use super::tile::Tile;
use super::{CudaDevice, blocks, int, scale_state};
use crate::ops::{Checked, HEAD_CHUNK, HeadLogits, HeadLoss, HeadLosses, IGNORE_TARGET, Matrix};
use crate::ops::{Operation, Run, Vector};

/// Most parts of the vocabulary that the gradient of `x` is summed in.
const SPLITS: usize = 8;

const _: () = assert!(kernels::head::IGNORE_TARGET == IGNORE_TARGET as usize);

type Loss<'a, E> = HeadLoss<'a, DeviceBuffer<E>, DeviceBuffer<f32>, IndexBuffer>;
type Losses<'a, E> = HeadLosses<'a, DeviceBuffer<E>, DeviceBuffer<f32>, IndexBuffer>;
type Logits<'a, E> = HeadLogits<'a, DeviceBuffer<E>, DeviceBuffer<f32>>;

/// The counted tokens' list and what is kept of a chunk.
struct Pass {
    count: usize,
    vocab: usize,
    hidden: usize,
    /// Tokens of a chunk: chunks of one call are of equal size, but for the last.
    chunk: usize,
    tile: Tile,
    /// Parts that each row's statistics have.
    parts: usize,
    rows: PtrMut<u32>,
    row_targets: PtrMut<u32>,
    counted: PtrMut<u32>,
    target_logit: PtrMut<f32>,
    stats: PtrMut<f32>,
}

impl Pass {
    /// Lists the counted tokens.
    fn new<E: Element>(
        device: &CudaDevice<E>,
        scratch: &mut Scratch,
        op: &str,
        targets: Vector<'_, IndexBuffer>,
        table: Matrix<'_, DeviceBuffer<E>>,
    ) -> Result<Self> {
        let driver = device.driver();
        let (count, vocab, hidden) = (targets.len, table.rows, table.cols);
        let chunk = count.div_ceil(count.div_ceil(HEAD_CHUNK));
        let tile = Tile::for_product(&[hidden], chunk, vocab, driver.multiprocessors());
        let parts = vocab.div_ceil(tile.warp_cols());
        let pass = Self {
            count,
            vocab,
            hidden,
            chunk,
            tile,
            parts,
            rows: scratch.take(op, count)?,
            row_targets: scratch.take(op, count)?,
            counted: scratch.take(op, 1)?,
            target_logit: scratch.take(op, count)?,
            stats: scratch.take(op, 2 * chunk * parts)?,
        };
        driver.moves(4 * count, 12 * count + 4);
        // SAFETY: `targets` has `count` elements, and so have the lists.
        unsafe {
            kernels::head_compact(
                driver,
                [1, 1, 1],
                0,
                pass.rows,
                pass.row_targets,
                pass.target_logit,
                pass.counted,
                targets.ptr(),
                int(op, "tokens", count)?,
            )?;
        }
        Ok(pass)
    }

    /// First token of each chunk, of the list.
    fn chunks(&self) -> impl Iterator<Item = usize> + use<> {
        (0..self.count).step_by(self.chunk)
    }

    /// Elements of a chunk's logits: rows begin at multiples of 16 bytes.
    fn logits(&self) -> usize {
        self.chunk * self.vocab.next_multiple_of(tile::PIECE)
    }

    fn logits_bytes(&self) -> usize {
        2 * self.logits()
    }

    fn stats_bytes(&self) -> usize {
        8 * self.chunk * self.parts
    }

    /// Statistics of a chunk's logits, and the logits themselves unless `logits` is null.
    fn logits_forward<E: Element>(
        &self,
        device: &CudaDevice<E>,
        op: &str,
        x: Ptr<E>,
        table: Ptr<E>,
        logits: PtrMut<E>,
        first: usize,
    ) -> Result<()> {
        let launch = match self.tile {
            Tile::Large => kernels::head_logits_fwd::<E>,
            Tile::Small => kernels::head_logits_small_fwd::<E>,
        };
        let kept = if logits.is_null() {
            0
        } else {
            self.logits_bytes()
        };
        device.driver().moves(
            2 * (self.chunk + self.vocab) * self.hidden,
            kept + self.stats_bytes() + 4 * self.chunk,
        );
        // SAFETY: all buffers are as long as the kernel's contract says.
        unsafe {
            launch(
                device.driver(),
                self.tile.grid(op, self.chunk, self.vocab)?,
                self.tile.shared_bytes(),
                logits,
                self.stats,
                self.target_logit,
                x,
                table,
                self.rows.read(),
                self.row_targets.read(),
                self.counted.read(),
                int(op, "tokens", first)?,
                int(op, "tokens", self.chunk)?,
                int(op, "the vocabulary", self.vocab)?,
                int(op, "the hidden size", self.hidden)?,
            )
        }
    }
}

impl<E: Element> Run<Loss<'_, E>> for CudaDevice<E> {
    fn run(&self, operation: Checked<Loss<'_, E>>) -> Result<()> {
        let op = Loss::<E>::NAME;
        let HeadLoss {
            x,
            table,
            targets,
            scale,
            loss,
            grad_x,
            grad_table,
        } = operation.into_inner();
        let (count, vocab, hidden) = (targets.len, table.rows, table.cols);
        // Ignored tokens keep these zeros.
        grad_x.buffer.clear(count * hidden)?;
        if count == 0 || vocab == 0 {
            return Ok(());
        }
        let (loss, grad_x, grad_table) = (loss.ptr(), grad_x.ptr(), grad_table.ptr());
        let table_bytes = 2 * vocab * hidden;
        let driver = self.driver();
        let mut scratch = self.scratch();
        let pass = Pass::new(self, &mut scratch, op, targets, table)?;
        let chunk = pass.chunk;
        let logits = scratch.take::<E>(op, pass.logits())?;
        let row_losses = scratch.take::<f32>(op, count)?;

        let loss_scale = self.scale_state().read().at(scale_state::SCALE);
        let multiprocessors = driver.multiprocessors();
        let table_tile = Tile::for_product(&[hidden], vocab, hidden, multiprocessors);
        // The product that makes the gradient of `x` has few tiles and great depth, so the depth is
        // cut as well.
        let x_tiles = Tile::Large.count(chunk, hidden) * SPLITS;
        let x_tile = Tile::choose(&[hidden], x_tiles, multiprocessors);
        let splits = (2 * multiprocessors)
            .div_ceil(x_tile.count(chunk, hidden))
            .min(SPLITS);
        let sums = scratch.take::<f32>(op, splits * chunk * hidden)?;
        let x_launch = match x_tile {
            Tile::Large => kernels::head_x_bwd::<E>,
            Tile::Small => kernels::head_x_small_bwd::<E>,
        };
        let table_launch = match table_tile {
            Tile::Large => kernels::head_table_bwd::<E>,
            Tile::Small => kernels::head_table_small_bwd::<E>,
        };
        let (chunk_int, vocab_int, hidden_int) = (
            int(op, "tokens", chunk)?,
            int(op, "the vocabulary", vocab)?,
            int(op, "the hidden size", hidden)?,
        );
        for first in pass.chunks() {
            pass.logits_forward(self, op, x.ptr(), table.ptr(), logits, first)?;
            let first = int(op, "tokens", first)?;
            let (logits_bytes, rows_bytes) = (pass.logits_bytes(), 2 * chunk * hidden);
            let sums_bytes = 2 * splits * rows_bytes;
            driver.moves(logits_bytes + pass.stats_bytes(), logits_bytes);
            // SAFETY: all buffers are as long as the kernels' contracts say.
            unsafe {
                kernels::head_grad_bwd::<E>(
                    driver,
                    [blocks(op, chunk, 1)?, 1, 1],
                    0,
                    logits,
                    row_losses,
                    pass.stats.read(),
                    pass.target_logit.read(),
                    pass.row_targets.read(),
                    pass.counted.read(),
                    loss_scale,
                    scale.ptr(),
                    first,
                    chunk_int,
                    vocab_int,
                    int(op, "columns of a part", pass.tile.warp_cols())?,
                )?;
                driver.moves(logits_bytes + table_bytes, sums_bytes);
                x_launch(
                    driver,
                    [blocks(op, splits * x_tile.count(chunk, hidden), 1)?, 1, 1],
                    x_tile.shared_bytes(),
                    sums,
                    logits.read(),
                    table.ptr(),
                    pass.counted.read(),
                    first,
                    chunk_int,
                    vocab_int,
                    hidden_int,
                    int(op, "splits", splits)?,
                )?;
                driver.moves(sums_bytes, rows_bytes);
                kernels::head_x_sum_bwd::<E>(
                    driver,
                    [
                        blocks(op, chunk * hidden.div_ceil(tile::PIECE), THREADS)?,
                        1,
                        1,
                    ],
                    0,
                    grad_x,
                    sums.read(),
                    pass.rows.read(),
                    pass.counted.read(),
                    first,
                    chunk_int,
                    hidden_int,
                    int(op, "splits", splits)?,
                )?;
                driver.moves(logits_bytes + rows_bytes + table_bytes, table_bytes);
                table_launch(
                    driver,
                    table_tile.grid(op, vocab, hidden)?,
                    table_tile.shared_bytes(),
                    grad_table,
                    logits.read(),
                    x.ptr(),
                    pass.rows.read(),
                    pass.counted.read(),
                    first,
                    chunk_int,
                    vocab_int,
                    hidden_int,
                )?;
            }
        }
        driver.moves(4 * count + 4, 4);
        // SAFETY: `loss` has an element, `row_losses` one for every counted token.
        unsafe {
            kernels::head_loss_fwd(
                driver,
                [1, 1, 1],
                0,
                loss,
                row_losses.read(),
                pass.counted.read(),
            )
        }
    }
}

impl<E: Element> Run<Losses<'_, E>> for CudaDevice<E> {
    fn run(&self, operation: Checked<Losses<'_, E>>) -> Result<()> {
        let op = Losses::<E>::NAME;
        let HeadLosses {
            x,
            table,
            targets,
            losses,
        } = operation.into_inner();
        // Ignored tokens keep these zeros.
        losses.buffer.clear(targets.len)?;
        if targets.len == 0 || table.rows == 0 {
            return Ok(());
        }
        let losses = losses.ptr();
        let mut scratch = self.scratch();
        let pass = Pass::new(self, &mut scratch, op, targets, table)?;
        for first in pass.chunks() {
            pass.logits_forward(self, op, x.ptr(), table.ptr(), PtrMut::null(), first)?;
            self.driver().moves(pass.stats_bytes(), 4 * pass.chunk);
            // SAFETY: all buffers are as long as the kernel's contract says.
            unsafe {
                kernels::head_losses_fwd(
                    self.driver(),
                    [blocks(op, pass.chunk, 1)?, 1, 1],
                    0,
                    losses,
                    pass.stats.read(),
                    pass.target_logit.read(),
                    pass.rows.read(),
                    pass.counted.read(),
                    int(op, "tokens", first)?,
                    int(op, "tokens", pass.chunk)?,
                    int(op, "parts", pass.parts)?,
                )?;
            }
        }
        Ok(())
    }
}

impl<E: Element> Run<Logits<'_, E>> for CudaDevice<E> {
    fn run(&self, operation: Checked<Logits<'_, E>>) -> Result<()> {
        let op = Logits::<E>::NAME;
        let HeadLogits {
            x,
            table,
            logits,
            first_row,
        } = operation.into_inner();
        let (rows, vocab, hidden) = (logits.rows, table.rows, table.cols);
        let driver = self.driver();
        driver.moves(2 * (rows + vocab) * hidden, 4 * rows * vocab);
        if rows <= GEMV_ROWS {
            // The table is read once.
            // SAFETY: the buffers are as long as the kernel's contract says; a row begins at a
            // multiple of 16 bytes where `hidden` is one of 8.
            return unsafe {
                kernels::gemv_logits::<E>(
                    driver,
                    [blocks(op, vocab, decode::BLOCK_OUTPUTS)?, 1, 1],
                    0,
                    logits.ptr(),
                    x.ptr().at(first_row * hidden),
                    table.ptr(),
                    int(op, "rows", rows)?,
                    int(op, "hidden", hidden)?,
                    int(op, "vocab", vocab)?,
                )
            };
        }
        let tile = Tile::for_product(&[hidden], rows, vocab, driver.multiprocessors());
        // A few rows fill a small tile better, and there are enough of those.
        let tile = if rows <= Tile::Small.side() {
            Tile::Small
        } else {
            tile
        };
        let launch = match tile {
            Tile::Large => kernels::head_rows_fwd::<E>,
            Tile::Small => kernels::head_rows_small_fwd::<E>,
        };
        // SAFETY: all buffers are as long as the kernel's contract says.
        unsafe {
            launch(
                driver,
                tile.grid(op, rows, vocab)?,
                tile.shared_bytes(),
                logits.ptr(),
                x.ptr(),
                table.ptr(),
                int(op, "rows", first_row)?,
                int(op, "rows", rows)?,
                int(op, "the vocabulary", vocab)?,
                int(op, "the hidden size", hidden)?,
            )
        }
    }
}
