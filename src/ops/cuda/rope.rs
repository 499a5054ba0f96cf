//! Rotary position embedding: `kernels/rope.cu`.

use anyhow::Result;

use super::kernels::{self, common};
use super::memory::{DeviceBuffer, Element, IndexBuffer, Ptr, PtrMut};
use super::{CudaDevice, blocks, int};
use crate::ops::{AttentionShape, Checked, MatrixMut, Operation, RopeBackward, RopeForward};
use crate::ops::{Run, Vector};

/// Elements of a 16-byte access.
const PACK: usize = common::PACK_BYTES / size_of::<u16>();

type Forward<'a, E> = RopeForward<'a, DeviceBuffer<E>, IndexBuffer>;
type Backward<'a, E> = RopeBackward<'a, DeviceBuffer<E>, IndexBuffer>;

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

impl<E: Element> Run<Forward<'_, E>> for CudaDevice<E> {
    fn run(&self, operation: Checked<Forward<'_, E>>) -> Result<()> {
        let RopeForward {
            qkv,
            positions,
            theta,
            shape,
        } = operation.into_inner();
        let launch = Launch {
            op: Forward::<E>::NAME,
            kernel: kernels::rope_fwd::<E>,
            theta,
            shape,
        };
        launch.rotate(self, qkv, positions)
    }
}

impl<E: Element> Run<Backward<'_, E>> for CudaDevice<E> {
    fn run(&self, operation: Checked<Backward<'_, E>>) -> Result<()> {
        let RopeBackward {
            grad_qkv,
            positions,
            theta,
            shape,
        } = operation.into_inner();
        let launch = Launch {
            op: Backward::<E>::NAME,
            kernel: kernels::rope_bwd::<E>,
            theta,
            shape,
        };
        launch.rotate(self, grad_qkv, positions)
    }
}

/// A rotation in one of the two directions.
struct Launch<E: Element> {
    op: &'static str,
    kernel: Kernel<E>,
    theta: f32,
    shape: AttentionShape,
}

impl<E: Element> Launch<E> {
    fn rotate(
        &self,
        device: &CudaDevice<E>,
        qkv: MatrixMut<'_, DeviceBuffer<E>>,
        positions: Vector<'_, IndexBuffer>,
    ) -> Result<()> {
        let (op, count, columns, size) = (self.op, qkv.rows, qkv.cols, self.shape.head_dim);
        let heads = self.shape.heads + self.shape.kv_heads;
        let packed = (size / 2).is_multiple_of(PACK) && columns.is_multiple_of(PACK);
        let parts = if packed { size / 2 / PACK } else { size / 2 };
        let threads = count * heads * parts;
        // The kernel counts its threads in 32 bits.
        int(op, "the number of rotated parts", threads)?;
        let rotated = 2 * count * heads * size;
        let driver = device.driver();
        driver.moves(rotated + 4 * count, rotated);
        // SAFETY: qkv is [count, columns] and positions [count], as the kernel's contract says.
        unsafe {
            (self.kernel)(
                driver,
                [blocks(op, threads, kernels::rope::THREADS)?, 1, 1],
                0,
                qkv.ptr(),
                positions.ptr(),
                f64::from(self.theta).log2() as f32,
                int(op, "count", count)?,
                int(op, "heads", heads)?,
                int(op, "head_dim", size)?,
                int(op, "columns", columns)?,
            )
        }
    }
}
