//! Rotary position embedding: `kernels/rope.cu`.

use anyhow::{Result, ensure};

use super::kernels::{self, common};
use super::memory::{DeviceBuffer, Element, IndexBuffer, Ptr, PtrMut};
use super::{CudaDevice, blocks, int};
use crate::ops::AttentionShape;
use crate::ops::checks::expect_attention_shape;

/// Elements of a 16-byte access.
const PACK: usize = common::PACK_BYTES / size_of::<u16>();

type Kernel<E> = unsafe fn(
    &dyn super::driver::Driver,
    [u32; 3],
    u32,
    PtrMut<E>,
    Ptr<u32>,
    f32,
    i32,
    i32,
    i32,
    i32,
) -> Result<()>;

pub(super) fn forward<E: Element>(
    device: &CudaDevice<E>,
    qkv: &mut DeviceBuffer<E>,
    positions: &IndexBuffer,
    theta: f32,
    shape: &AttentionShape,
    count: usize,
) -> Result<()> {
    let kernel = kernels::rope_fwd::<E>;
    rotate(
        "rope_forward",
        device,
        kernel,
        qkv,
        positions,
        theta,
        shape,
        count,
    )
}

pub(super) fn backward<E: Element>(
    device: &CudaDevice<E>,
    grad_qkv: &mut DeviceBuffer<E>,
    positions: &IndexBuffer,
    theta: f32,
    shape: &AttentionShape,
    count: usize,
) -> Result<()> {
    let kernel = kernels::rope_bwd::<E>;
    rotate(
        "rope_backward",
        device,
        kernel,
        grad_qkv,
        positions,
        theta,
        shape,
        count,
    )
}

#[allow(clippy::too_many_arguments)]
fn rotate<E: Element>(
    op: &'static str,
    device: &CudaDevice<E>,
    kernel: Kernel<E>,
    qkv: &mut DeviceBuffer<E>,
    positions: &IndexBuffer,
    theta: f32,
    shape: &AttentionShape,
    count: usize,
) -> Result<()> {
    expect_attention_shape(op, shape)?;
    ensure!(
        theta.is_finite() && theta > 0.0,
        "{op}: theta is {theta}, it must be finite and positive"
    );
    let (columns, size) = (shape.qkv_size(), shape.head_dim);
    let heads = shape.heads + shape.kv_heads;
    let qkv = qkv.write(op, "qkv", &[count, columns])?;
    let positions = positions.read(op, "positions", &[count])?;
    let packed = (size / 2).is_multiple_of(PACK) && columns.is_multiple_of(PACK);
    let parts = if packed { size / 2 / PACK } else { size / 2 };
    let threads = count * heads * parts;
    // The kernel counts its threads in 32 bits.
    int(op, "the number of rotated parts", threads)?;
    let rotated = 2 * count * heads * size;
    device.driver().operation(op, 2 * rotated + 4 * count);
    device.driver().moves(rotated + 4 * count, rotated);
    // SAFETY: qkv is [count, columns] and positions [count], as the kernel's contract says.
    unsafe {
        kernel(
            device.driver(),
            [blocks(op, threads, kernels::rope::THREADS)?, 1, 1],
            0,
            qkv,
            positions,
            f64::from(theta).log2() as f32,
            int(op, "count", count)?,
            int(op, "heads", heads)?,
            int(op, "head_dim", size)?,
            int(op, "columns", columns)?,
        )
    }
}
