//! Generation, token by token: `kernels/decode.cu`.

use anyhow::{Result, ensure};

use super::kernels::{self, decode};
use super::memory::{DeviceBuffer, Element, Ptr, PtrMut};
use super::{CudaDevice, blocks, head, int};
use crate::ops::checks::{expect_attention_shape, expect_nonzero, expect_room};
use crate::ops::{AttentionShape, CachedText};

/// Most rows that one reading of a weight serves; more are the tensor cores' work.
pub(super) const GEMV_ROWS: usize = decode::MAX_ROWS;
/// Rows of a launch: CUDA's bound on a grid's second dimension.
const MAX_ROWS: usize = 65_535;

#[allow(clippy::too_many_arguments)]
pub(super) fn attention<E: Element>(
    device: &CudaDevice<E>,
    qkv: &DeviceBuffer<E>,
    keys: &mut DeviceBuffer<E>,
    values: &mut DeviceBuffer<E>,
    out: &mut DeviceBuffer<E>,
    shape: &AttentionShape,
    past: usize,
    count: usize,
    capacity: usize,
) -> Result<()> {
    cached(
        "attention_cached",
        device,
        qkv,
        0,
        keys,
        values,
        out,
        shape,
        past,
        count,
        capacity,
    )
}

/// Text by text: each has a cache of its own, so each is a launch.
pub(super) fn attention_texts<E: Element>(
    device: &CudaDevice<E>,
    qkv: &DeviceBuffer<E>,
    texts: &mut [CachedText<'_, CudaDevice<E>>],
    out: &mut DeviceBuffer<E>,
    shape: &AttentionShape,
    capacity: usize,
) -> Result<()> {
    let op = "attention_cached_texts";
    expect_attention_shape(op, shape)?;
    qkv.read(op, "qkv", &[texts.len(), shape.qkv_size()])?;
    for text in texts.iter() {
        expect_room(op, text.past, 1, capacity)?;
        text.keys.read(op, "keys", &[capacity, shape.kv_size()])?;
        text.values
            .read(op, "values", &[capacity, shape.kv_size()])?;
    }
    out.read(op, "out", &[texts.len(), shape.out_size()])?;
    for (row, text) in texts.iter_mut().enumerate() {
        let (keys, values) = (&mut *text.keys, &mut *text.values);
        cached(
            op, device, qkv, row, keys, values, out, shape, text.past, 1, capacity,
        )?;
    }
    Ok(())
}

/// Rows `first_row..first_row + count` of `qkv` and `out`, which take positions from `past` on.
#[allow(clippy::too_many_arguments)]
fn cached<E: Element>(
    op: &'static str,
    device: &CudaDevice<E>,
    qkv: &DeviceBuffer<E>,
    first_row: usize,
    keys: &mut DeviceBuffer<E>,
    values: &mut DeviceBuffer<E>,
    out: &mut DeviceBuffer<E>,
    shape: &AttentionShape,
    past: usize,
    count: usize,
    capacity: usize,
) -> Result<()> {
    expect_attention_shape(op, shape)?;
    expect_room(op, past, count, capacity)?;
    ensure!(
        shape.head_dim <= decode::MAX_COLUMNS,
        "{op}: the head size is {}, the kernel has room for {}",
        shape.head_dim,
        decode::MAX_COLUMNS
    );
    let end = first_row.saturating_add(count);
    let qkv = qkv.read(op, "qkv", &[end, shape.qkv_size()])?;
    let keys = keys.write(op, "keys", &[capacity, shape.kv_size()])?;
    let values = values.write(op, "values", &[capacity, shape.kv_size()])?;
    let out = out.write(op, "out", &[end, shape.out_size()])?;
    int(op, "the capacity", capacity)?;
    let bytes = 2 * (count * shape.qkv_size() + 2 * past * shape.kv_size());
    let written = 2 * count * (shape.out_size() + 2 * shape.kv_size());
    device.driver().operation(op, bytes + written);
    device.driver().moves(bytes, written);
    for first in (0..count).step_by(MAX_ROWS) {
        let rows = MAX_ROWS.min(count - first);
        // SAFETY: the buffers are as long as the kernel's contract says, from row `first` on; `past + count` positions fit.
        unsafe {
            kernels::attention_cached::<E>(
                device.driver(),
                [blocks(op, shape.heads, 1)?, blocks(op, rows, 1)?, 1],
                0,
                out.at((first_row + first) * shape.out_size()),
                keys,
                values,
                qkv.at((first_row + first) * shape.qkv_size()),
                int(op, "past", past + first)?,
                int(op, "heads", shape.heads)?,
                int(op, "kv_heads", shape.kv_heads)?,
                int(op, "head_dim", shape.head_dim)?,
                (1.0 / (shape.head_dim as f64).sqrt()) as f32,
            )?;
        }
    }
    Ok(())
}

/// `y = x weight^T (+ residual)` for at most [`GEMV_ROWS`] rows: the weight is read once, bound by its bytes.
///
/// # Errors
/// Where there are more rows, or the launch fails.
///
/// # Safety
/// x is `[rows, inputs]`, weight `[outputs, inputs]`, y and residual `[rows, outputs]`, all from the device's driver and alive;
/// where `inputs` is a multiple of 8, x and weight begin at multiples of 16 bytes.
#[allow(clippy::too_many_arguments)]
pub(super) unsafe fn gemv<E: Element>(
    op: &'static str,
    device: &CudaDevice<E>,
    x: Ptr<E>,
    weight: Ptr<E>,
    residual: Option<Ptr<E>>,
    y: PtrMut<E>,
    rows: usize,
    inputs: usize,
    outputs: usize,
) -> Result<()> {
    ensure!(
        rows <= GEMV_ROWS,
        "{op}: {rows} rows, this product is for at most {GEMV_ROWS}"
    );
    let added = if residual.is_some() {
        rows * outputs
    } else {
        0
    };
    let read = 2 * (rows * inputs + outputs * inputs + added);
    device.driver().operation(op, read + 2 * rows * outputs);
    device.driver().moves(read, 2 * rows * outputs);
    // SAFETY: the caller's promise is the kernel's contract.
    unsafe {
        kernels::gemv::<E>(
            device.driver(),
            [blocks(op, outputs, decode::BLOCK_OUTPUTS)?, 1, 1],
            0,
            y,
            x,
            weight,
            residual.unwrap_or_else(Ptr::null),
            i32::from(residual.is_some()),
            int(op, "rows", rows)?,
            int(op, "inputs", inputs)?,
            int(op, "outputs", outputs)?,
        )
    }
}

/// The last hidden states' logits: few rows by reading the table once, more as a product on tensor cores.
#[allow(clippy::too_many_arguments)]
pub(super) fn logits<E: Element>(
    device: &CudaDevice<E>,
    x: &DeviceBuffer<E>,
    table: &DeviceBuffer<E>,
    logits: &mut DeviceBuffer<f32>,
    first_row: usize,
    rows: usize,
    vocab: usize,
    hidden: usize,
) -> Result<()> {
    if rows > GEMV_ROWS {
        return head::logits(device, x, table, logits, first_row, rows, vocab, hidden);
    }
    let op = "head_logits";
    expect_nonzero(op, "the hidden size", hidden)?;
    let x = x.read(op, "x", &[first_row.saturating_add(rows), hidden])?;
    let table = table.read(op, "table", &[vocab, hidden])?;
    let logits = logits.write(op, "logits", &[rows, vocab])?;
    let (read, written) = (2 * (rows + vocab) * hidden, 4 * rows * vocab);
    device.driver().operation(op, read + written);
    device.driver().moves(read, written);
    // SAFETY: the buffers are as long as the kernel's contract says; a row begins at a multiple of 16 bytes where `hidden` is one
    // of 8.
    unsafe {
        kernels::gemv_logits::<E>(
            device.driver(),
            [blocks(op, vocab, decode::BLOCK_OUTPUTS)?, 1, 1],
            0,
            logits,
            x.at(first_row * hidden),
            table,
            int(op, "rows", rows)?,
            int(op, "hidden", hidden)?,
            int(op, "vocab", vocab)?,
        )
    }
}
