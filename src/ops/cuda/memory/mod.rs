//! A device's memory: what buffers hold, pointers for kernels, buffers, scratch memory, and the
//! arena of a run.

pub(crate) mod arena;
mod buffer;
mod scratch;

pub use buffer::DeviceBuffer;
pub(crate) use buffer::IndexBuffer;
pub(crate) use scratch::{Scratch, ScratchPool};

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use std::marker::PhantomData;

use super::driver::Kernel;

/// What a buffer holds: plain numbers of which every bit pattern is one.
pub trait Plain: bytemuck::Pod + Send + Sync {}
impl Plain for f16 {}
impl Plain for bf16 {}
impl Plain for f32 {}
impl Plain for u32 {}
impl Plain for u8 {}

/// Storage precision of weights and activations.
pub trait Element: Plain {
    /// For people: `fp16` or `bf16`.
    const NAME: &'static str;
    /// Whether gradients need a loss scale: 8 exponent bits reach as far as `f32`, 5 do not.
    const NEEDS_LOSS_SCALE: bool;
    /// The kernel of this precision.
    fn pick(f16: &'static Kernel, bf16: &'static Kernel) -> &'static Kernel;
    /// To nearest, ties to even.
    fn narrow(values: &[f32]) -> Vec<Self>;
    /// Exact.
    fn widen(values: &[Self]) -> Vec<f32>;
}

impl Element for f16 {
    const NAME: &'static str = "fp16";
    const NEEDS_LOSS_SCALE: bool = true;
    fn pick(f16: &'static Kernel, _bf16: &'static Kernel) -> &'static Kernel {
        f16
    }
    fn narrow(values: &[f32]) -> Vec<Self> {
        let mut out = vec![f16::ZERO; values.len()];
        out.convert_from_f32_slice(values);
        out
    }
    fn widen(values: &[Self]) -> Vec<f32> {
        values.to_f32_vec()
    }
}

impl Element for bf16 {
    const NAME: &'static str = "bf16";
    const NEEDS_LOSS_SCALE: bool = false;
    fn pick(_f16: &'static Kernel, bf16: &'static Kernel) -> &'static Kernel {
        bf16
    }
    fn narrow(values: &[f32]) -> Vec<Self> {
        let mut out = vec![bf16::ZERO; values.len()];
        out.convert_from_f32_slice(values);
        out
    }
    fn widen(values: &[Self]) -> Vec<f32> {
        values.to_f32_vec()
    }
}

/// Argument of a kernel that reads `const T*`.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub struct Ptr<T>(u64, PhantomData<T>);

/// Argument of a kernel that writes `T*`.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub struct PtrMut<T>(u64, PhantomData<T>);

impl<T> Ptr<T> {
    fn new(address: u64) -> Self {
        Self(address, PhantomData)
    }

    /// For an argument that a kernel leaves out.
    pub(crate) fn null() -> Self {
        Self(0, PhantomData)
    }

    /// Whether it is [`Ptr::null`].
    pub(crate) fn is_null(&self) -> bool {
        self.0 == 0
    }

    /// `elements` further on.
    pub(crate) fn at(self, elements: usize) -> Self {
        Self(self.0 + (elements * size_of::<T>()) as u64, PhantomData)
    }
}

impl<T> PtrMut<T> {
    fn new(address: u64) -> Self {
        Self(address, PhantomData)
    }

    /// For an argument that a kernel leaves out.
    pub fn null() -> Self {
        Self(0, PhantomData)
    }

    /// Whether it is [`PtrMut::null`].
    pub(crate) fn is_null(&self) -> bool {
        self.0 == 0
    }

    /// `elements` further on.
    pub fn at(self, elements: usize) -> Self {
        Self(self.0 + (elements * size_of::<T>()) as u64, PhantomData)
    }

    /// The same place, for reading.
    pub(crate) fn read(self) -> Ptr<T> {
        Ptr(self.0, PhantomData)
    }
}
