//! Attention over packed examples: `kernels/attention.cu` for the head sizes that tensor cores
//! take, `kernels/attention_any.cu` for others. Attention over a cache: `kernels/decode.cu`.

use anyhow::{Result, ensure};

use super::driver::Driver;
use super::kernels::{self, attention::TILE, attention_any::*, dynamic_shared as smem};
use super::memory::{DeviceBuffer, Element, IndexBuffer, Ptr, PtrMut};
use super::{CudaDevice, blocks, int};
use crate::ops::{AttentionBackward, AttentionDecode, AttentionForward, AttentionPrefill};
use crate::ops::{AttentionShape, CachedSequence, Checked, Operation, Run};

/// Rows of a launch over a cache: CUDA's bound on a grid's second dimension.
const MAX_ROWS: usize = 65_535;

type Packed<'a, E> = AttentionForward<'a, DeviceBuffer<E>, DeviceBuffer<f32>, IndexBuffer>;
type PackedBackward<'a, E> = AttentionBackward<'a, DeviceBuffer<E>, DeviceBuffer<f32>, IndexBuffer>;
type Prefill<'a, E> = AttentionPrefill<'a, DeviceBuffer<E>>;
type Decode<'a, E> = AttentionDecode<'a, DeviceBuffer<E>>;

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

/// Factor of the scores: `1 / sqrt(D)`.
fn scale(shape: &AttentionShape) -> f32 {
    (1.0 / (shape.head_dim as f64).sqrt()) as f32
}

fn expect_head_dim(op: &str, shape: &AttentionShape) -> Result<()> {
    ensure!(
        shape.head_dim <= MAX_COLUMNS,
        "{op}: the head size is {}, the kernels have room for {MAX_COLUMNS}",
        shape.head_dim
    );
    Ok(())
}

/// What all launches over packed examples are told.
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
        expect_head_dim(op, shape)?;
        // The general kernels count (token, head) pairs in 32 bits.
        int(op, "the number of (token, head) pairs", count * shape.heads)?;
        Ok(Self {
            segments: int(op, "segment_count", segment_count)?,
            count: int(op, "count", count)?,
            heads: int(op, "heads", shape.heads)?,
            kv_heads: int(op, "kv_heads", shape.kv_heads)?,
            head_dim: int(op, "head_dim", shape.head_dim)?,
            scale: scale(shape),
        })
    }
}

impl<E: Element> Run<Packed<'_, E>> for CudaDevice<E> {
    fn run(&self, operation: Checked<Packed<'_, E>>) -> Result<()> {
        let op = Packed::<E>::NAME;
        let AttentionForward {
            qkv,
            segments,
            out,
            log_sum,
            shape,
        } = operation.into_inner();
        let count = qkv.rows;
        let sizes = Sizes::new(op, &shape, segments.parts, count)?;
        let (out, log_sum, qkv) = (out.ptr(), log_sum.ptr(), qkv.ptr());
        let driver = self.driver();
        driver.moves(
            2 * count * shape.qkv_size() + 4 * (segments.parts + 1),
            2 * count * shape.out_size() + 4 * count * shape.heads,
        );
        // SAFETY: the buffers are as long as the kernels' contract says, which stay in bounds with
        // any segments.
        unsafe {
            match forward_kernel::<E>(shape.head_dim) {
                Some((kernel, shared)) => kernel(
                    driver,
                    [sizes.heads as u32, blocks(op, count, TILE)?, 1],
                    shared,
                    out,
                    log_sum,
                    qkv,
                    segments.ptr(),
                    sizes.segments,
                    sizes.count,
                    sizes.heads,
                    sizes.kv_heads,
                    sizes.scale,
                ),
                None => kernels::attention_fwd_any::<E>(
                    driver,
                    [blocks(op, count * shape.heads, WARPS)?, 1, 1],
                    0,
                    out,
                    log_sum,
                    qkv,
                    segments.ptr(),
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
}

impl<E: Element> Run<PackedBackward<'_, E>> for CudaDevice<E> {
    fn run(&self, operation: Checked<PackedBackward<'_, E>>) -> Result<()> {
        let op = PackedBackward::<E>::NAME;
        let AttentionBackward {
            grad_out,
            qkv,
            out,
            log_sum,
            segments,
            grad_qkv,
            shape,
        } = operation.into_inner();
        let count = qkv.rows;
        let sizes = Sizes::new(op, &shape, segments.parts, count)?;
        let (grad_out, qkv, out) = (grad_out.ptr(), qkv.ptr(), out.ptr());
        let (log_sum, segments, grad_qkv) = (log_sum.ptr(), segments.ptr(), grad_qkv.ptr());
        let driver = self.driver();
        let mut scratch = self.scratch();
        let delta = scratch.take::<f32>(op, count * shape.heads)?;
        let (qkv_bytes, out_bytes) = (2 * count * shape.qkv_size(), 2 * count * shape.out_size());
        let (row_bytes, kv_bytes) = (4 * count * shape.heads, 2 * count * shape.kv_size());
        driver.moves(qkv_bytes + 2 * out_bytes + row_bytes, out_bytes + row_bytes);
        let keys_move = || driver.moves(qkv_bytes + out_bytes + 2 * row_bytes, 2 * kv_bytes);
        // SAFETY: the buffers are as long as the kernels' contract says, `delta` [count, heads];
        // they stay in bounds with any segments.
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
}

impl<E: Element> Run<Prefill<'_, E>> for CudaDevice<E> {
    fn run(&self, operation: Checked<Prefill<'_, E>>) -> Result<()> {
        let AttentionPrefill {
            qkv,
            sequence,
            out,
            shape,
        } = operation.into_inner();
        let rows = CachedRows {
            op: Prefill::<E>::NAME,
            shape,
            qkv: qkv.ptr(),
            out: out.ptr(),
            count: qkv.rows,
        };
        rows.attend(self, sequence)
    }
}

/// Sequence by sequence: each has a cache of its own, so each is a launch.
impl<E: Element> Run<Decode<'_, E>> for CudaDevice<E> {
    fn run(&self, operation: Checked<Decode<'_, E>>) -> Result<()> {
        let AttentionDecode {
            qkv,
            sequences,
            out,
            shape,
        } = operation.into_inner();
        let (qkv, out) = (qkv.ptr(), out.ptr());
        for (row, sequence) in sequences.into_iter().enumerate() {
            let rows = CachedRows {
                op: Decode::<E>::NAME,
                shape,
                qkv: qkv.at(row * shape.qkv_size()),
                out: out.at(row * shape.out_size()),
                count: 1,
            };
            rows.attend(self, sequence)?;
        }
        Ok(())
    }
}

/// New rows of one sequence.
struct CachedRows<E: Element> {
    op: &'static str,
    shape: AttentionShape,
    qkv: Ptr<E>,
    out: PtrMut<E>,
    count: usize,
}

impl<E: Element> CachedRows<E> {
    fn attend(
        &self,
        device: &CudaDevice<E>,
        sequence: CachedSequence<'_, DeviceBuffer<E>>,
    ) -> Result<()> {
        let (op, shape, count) = (self.op, &self.shape, self.count);
        let CachedSequence { keys, values, past } = sequence;
        expect_head_dim(op, shape)?;
        int(op, "the capacity", keys.rows)?;
        let (keys, values) = (keys.ptr(), values.ptr());
        let driver = device.driver();
        driver.moves(
            2 * (count * shape.qkv_size() + 2 * past * shape.kv_size()),
            2 * count * (shape.out_size() + 2 * shape.kv_size()),
        );
        for first in (0..count).step_by(MAX_ROWS) {
            let rows = MAX_ROWS.min(count - first);
            // SAFETY: the buffers are as long as the kernel's contract says, from row `first` on;
            // `past + count` positions fit.
            unsafe {
                kernels::attention_cached::<E>(
                    driver,
                    [blocks(op, shape.heads, 1)?, blocks(op, rows, 1)?, 1],
                    0,
                    self.out.at(first * shape.out_size()),
                    keys,
                    values,
                    self.qkv.at(first * shape.qkv_size()),
                    int(op, "past", past + first)?,
                    int(op, "heads", shape.heads)?,
                    int(op, "kv_heads", shape.kv_heads)?,
                    int(op, "head_dim", shape.head_dim)?,
                    scale(shape),
                )?;
            }
        }
        Ok(())
    }
}
