//! Attention over packed examples: `kernels/attention.cu` for the head sizes that tensor cores take, `kernels/attention_any.cu`
//! for others.

use anyhow::{Result, ensure};

use super::driver::Driver;
use super::kernels;
use super::memory::{DeviceBuffer, Element, IndexBuffer, Ptr, PtrMut};
use super::segments::read_segments;
use super::{CudaDevice, blocks, int};
use crate::ops::AttentionShape;
use crate::ops::checks::expect_attention_shape;

/// Tokens that a block of the tensor-core kernels owns.
const TILE: usize = 64;
/// Warps of a block of the general kernels, one (token, head) each.
const WARPS: usize = 4;
/// Columns that the general kernels, here and in decoding, have room for.
pub(super) const MAX_HEAD_DIM: usize = 256;

type Forward<E> = unsafe fn(
    &dyn Driver,
    [u32; 3],
    u32,
    PtrMut<E>,
    PtrMut<f32>,
    Ptr<E>,
    Ptr<u32>,
    i32,
    i32,
    i32,
    i32,
    f32,
) -> Result<()>;
type BackwardQueries<E> = unsafe fn(
    &dyn Driver,
    [u32; 3],
    u32,
    PtrMut<E>,
    PtrMut<f32>,
    Ptr<E>,
    Ptr<E>,
    Ptr<E>,
    Ptr<f32>,
    Ptr<u32>,
    i32,
    i32,
    i32,
    i32,
    f32,
) -> Result<()>;
type BackwardKeys<E> = unsafe fn(
    &dyn Driver,
    [u32; 3],
    u32,
    PtrMut<E>,
    Ptr<E>,
    Ptr<E>,
    Ptr<f32>,
    Ptr<f32>,
    Ptr<u32>,
    i32,
    i32,
    i32,
    i32,
    f32,
) -> Result<()>;

/// A tensor-core kernel and the dynamic shared memory of its launch: two stages of two tiles of so many tokens.
fn staged<F>(kernel: F, tokens: usize, head_dim: usize) -> Option<(F, u32)> {
    Some((kernel, (2 * 2 * tokens * head_dim * 2) as u32))
}

fn forward_kernel<E: Element>(head_dim: usize) -> Option<(Forward<E>, u32)> {
    match head_dim {
        16 => staged(kernels::attention_fwd_d16::<E>, 64, 16),
        32 => staged(kernels::attention_fwd_d32::<E>, 64, 32),
        64 => staged(kernels::attention_fwd_d64::<E>, 64, 64),
        128 => staged(kernels::attention_fwd_d128::<E>, 32, 128),
        _ => None,
    }
}

fn queries_kernel<E: Element>(head_dim: usize) -> Option<(BackwardQueries<E>, u32)> {
    match head_dim {
        16 => staged(kernels::attention_dq_d16::<E>, 32, 16),
        32 => staged(kernels::attention_dq_d32::<E>, 32, 32),
        64 => staged(kernels::attention_dq_d64::<E>, 32, 64),
        128 => staged(kernels::attention_dq_d128::<E>, 32, 128),
        _ => None,
    }
}

fn keys_kernel<E: Element>(head_dim: usize) -> Option<(BackwardKeys<E>, u32)> {
    match head_dim {
        16 => staged(kernels::attention_dkv_d16::<E>, 32, 16),
        32 => staged(kernels::attention_dkv_d32::<E>, 32, 32),
        64 => staged(kernels::attention_dkv_d64::<E>, 32, 64),
        // Its own keys and values stay in shared memory too: 64 tokens of each.
        128 => staged(kernels::attention_dkv_d128::<E>, 32 + TILE / 2, 128),
        _ => None,
    }
}

/// What all launches are told.
struct Sizes {
    segments: i32,
    count: i32,
    heads: i32,
    kv_heads: i32,
    head_dim: i32,
    scale: f32,
}

impl Sizes {
    fn new(op: &str, shape: &AttentionShape, segment_count: usize, count: usize) -> Result<Self> {
        ensure!(
            shape.head_dim <= MAX_HEAD_DIM,
            "{op}: the head size is {}, the kernels have room for {MAX_HEAD_DIM}",
            shape.head_dim
        );
        // The general kernels count (token, head) pairs in 32 bits.
        int(op, "the number of (token, head) pairs", count * shape.heads)?;
        Ok(Self {
            segments: int(op, "segment_count", segment_count)?,
            count: int(op, "count", count)?,
            heads: int(op, "heads", shape.heads)?,
            kv_heads: int(op, "kv_heads", shape.kv_heads)?,
            head_dim: int(op, "head_dim", shape.head_dim)?,
            scale: (1.0 / (shape.head_dim as f64).sqrt()) as f32,
        })
    }
}

#[allow(clippy::too_many_arguments)]
pub(super) fn forward<E: Element>(
    device: &CudaDevice<E>,
    qkv: &DeviceBuffer<E>,
    segments: &IndexBuffer,
    out: &mut DeviceBuffer<E>,
    log_sum: &mut DeviceBuffer<f32>,
    shape: &AttentionShape,
    segment_count: usize,
    count: usize,
) -> Result<()> {
    let op = "attention_forward";
    expect_attention_shape(op, shape)?;
    let qkv = qkv.read(op, "qkv", &[count, shape.qkv_size()])?;
    let segments = read_segments(op, segments, segment_count, count)?;
    let out = out.write(op, "out", &[count, shape.out_size()])?;
    let log_sum = log_sum.write(op, "log_sum", &[count, shape.heads])?;
    let sizes = Sizes::new(op, shape, segment_count, count)?;
    let read = 2 * count * shape.qkv_size() + 4 * (segment_count + 1);
    let written = 2 * count * shape.out_size() + 4 * count * shape.heads;
    device.driver().operation(op, read + written);
    device.driver().moves(read, written);
    // SAFETY: the buffers are as long as the kernels' contract says, which stay in bounds with any segments.
    unsafe {
        match forward_kernel::<E>(shape.head_dim) {
            Some((kernel, shared)) => kernel(
                device.driver(),
                [sizes.heads as u32, blocks(op, count, TILE)?, 1],
                shared,
                out,
                log_sum,
                qkv,
                segments,
                sizes.segments,
                sizes.count,
                sizes.heads,
                sizes.kv_heads,
                sizes.scale,
            ),
            None => kernels::attention_fwd_any::<E>(
                device.driver(),
                [blocks(op, count * shape.heads, WARPS)?, 1, 1],
                0,
                out,
                log_sum,
                qkv,
                segments,
                sizes.segments,
                sizes.count,
                sizes.heads,
                sizes.kv_heads,
                sizes.head_dim,
                sizes.scale,
            ),
        }
    }
}

#[allow(clippy::too_many_arguments)]
pub(super) fn backward<E: Element>(
    device: &CudaDevice<E>,
    grad_out: &DeviceBuffer<E>,
    qkv: &DeviceBuffer<E>,
    out: &DeviceBuffer<E>,
    log_sum: &DeviceBuffer<f32>,
    segments: &IndexBuffer,
    grad_qkv: &mut DeviceBuffer<E>,
    shape: &AttentionShape,
    segment_count: usize,
    count: usize,
) -> Result<()> {
    let op = "attention_backward";
    expect_attention_shape(op, shape)?;
    let grad_out = grad_out.read(op, "grad_out", &[count, shape.out_size()])?;
    let qkv = qkv.read(op, "qkv", &[count, shape.qkv_size()])?;
    let out = out.read(op, "out", &[count, shape.out_size()])?;
    let log_sum = log_sum.read(op, "log_sum", &[count, shape.heads])?;
    let segments = read_segments(op, segments, segment_count, count)?;
    let grad_qkv = grad_qkv.write(op, "grad_qkv", &[count, shape.qkv_size()])?;
    let sizes = Sizes::new(op, shape, segment_count, count)?;
    let driver = device.driver();
    let mut scratch = device.scratch();
    let delta = scratch.take::<f32>(op, count * shape.heads)?;
    let (qkv_bytes, out_bytes) = (2 * count * shape.qkv_size(), 2 * count * shape.out_size());
    let (row_bytes, kv_bytes) = (4 * count * shape.heads, 2 * count * shape.kv_size());
    driver.operation(op, 2 * qkv_bytes + 2 * out_bytes + row_bytes);
    driver.moves(qkv_bytes + 2 * out_bytes + row_bytes, out_bytes + row_bytes);
    let keys_move = || driver.moves(qkv_bytes + out_bytes + 2 * row_bytes, 2 * kv_bytes);
    // SAFETY: the buffers are as long as the kernels' contract says, `delta` [count, heads]; they stay in bounds with any
    // segments.
    unsafe {
        if let (Some((queries, queries_shared)), Some((keys, keys_shared))) = (
            queries_kernel::<E>(shape.head_dim),
            keys_kernel::<E>(shape.head_dim),
        ) {
            let tiles = blocks(op, count, TILE)?;
            queries(
                driver,
                [sizes.heads as u32, tiles, 1],
                queries_shared,
                grad_qkv,
                delta,
                grad_out,
                qkv,
                out,
                log_sum,
                segments,
                sizes.segments,
                sizes.count,
                sizes.heads,
                sizes.kv_heads,
                sizes.scale,
            )?;
            keys_move();
            keys(
                driver,
                [sizes.kv_heads as u32, tiles, 1],
                keys_shared,
                grad_qkv,
                grad_out,
                qkv,
                log_sum,
                delta.read(),
                segments,
                sizes.segments,
                sizes.count,
                sizes.heads,
                sizes.kv_heads,
                sizes.scale,
            )
        } else {
            kernels::attention_dq_any::<E>(
                driver,
                [blocks(op, count * shape.heads, WARPS)?, 1, 1],
                0,
                grad_qkv,
                delta,
                grad_out,
                qkv,
                out,
                log_sum,
                segments,
                sizes.segments,
                sizes.count,
                sizes.heads,
                sizes.kv_heads,
                sizes.head_dim,
                sizes.scale,
            )?;
            keys_move();
            kernels::attention_dkv_any::<E>(
                driver,
                [blocks(op, count * shape.kv_heads, WARPS)?, 1, 1],
                0,
                grad_qkv,
                grad_out,
                qkv,
                log_sum,
                delta.read(),
                segments,
                sizes.segments,
                sizes.count,
                sizes.heads,
                sizes.kv_heads,
                sizes.head_dim,
                sizes.scale,
            )
        }
    }
}
