//! Attention over packed examples: `kernels/attention.cu` for the head sizes that tensor cores take, `kernels/attention_any.cu`
//! for others.

use anyhow::{Result, ensure};

use super::driver::Driver;
use super::kernels::{self, attention::TILE, attention_any::*, dynamic_shared as smem};
use super::memory::{DeviceBuffer, Element, IndexBuffer, Ptr, PtrMut};
use super::segments::read_segments;
use super::{CudaDevice, blocks, int};
use crate::ops::AttentionShape;
use crate::ops::checks::expect_attention_shape;

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

/// A tensor-core kernel, and the dynamic shared memory of its launch.
fn forward_kernel<E: Element>(head_dim: usize) -> Option<(Forward<E>, u32)> {
    match head_dim {
        16 => Some((kernels::attention_fwd_d16::<E>, smem::ATTENTION_FWD_D16)),
        32 => Some((kernels::attention_fwd_d32::<E>, smem::ATTENTION_FWD_D32)),
        64 => Some((kernels::attention_fwd_d64::<E>, smem::ATTENTION_FWD_D64)),
        128 => Some((kernels::attention_fwd_d128::<E>, smem::ATTENTION_FWD_D128)),
        _ => None,
    }
}

fn queries_kernel<E: Element>(head_dim: usize) -> Option<(BackwardQueries<E>, u32)> {
    match head_dim {
        16 => Some((kernels::attention_dq_d16::<E>, smem::ATTENTION_DQ_D16)),
        32 => Some((kernels::attention_dq_d32::<E>, smem::ATTENTION_DQ_D32)),
        64 => Some((kernels::attention_dq_d64::<E>, smem::ATTENTION_DQ_D64)),
        128 => Some((kernels::attention_dq_d128::<E>, smem::ATTENTION_DQ_D128)),
        _ => None,
    }
}

fn keys_kernel<E: Element>(head_dim: usize) -> Option<(BackwardKeys<E>, u32)> {
    match head_dim {
        16 => Some((kernels::attention_dkv_d16::<E>, smem::ATTENTION_DKV_D16)),
        32 => Some((kernels::attention_dkv_d32::<E>, smem::ATTENTION_DKV_D32)),
        64 => Some((kernels::attention_dkv_d64::<E>, smem::ATTENTION_DKV_D64)),
        128 => Some((kernels::attention_dkv_d128::<E>, smem::ATTENTION_DKV_D128)),
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
            shape.head_dim <= MAX_COLUMNS,
            "{op}: the head size is {}, the kernels have room for {MAX_COLUMNS}",
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
