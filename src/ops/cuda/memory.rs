//! Buffers in a driver's memory, pointers into them for kernels, and scratch memory that operations take and give back.

use anyhow::{Context, Result, ensure};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::arena::{ALIGNMENT, Lease, Memory};
use super::driver::{Driver, Kernel};
use crate::ops::MemoryClass;
use crate::ops::checks::{element_count, expect_len};

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
    /// For an argument that a kernel leaves out.
    pub fn null() -> Self {
        Self(0, PhantomData)
    }

    /// Whether it is [`Ptr::null`].
    pub fn is_null(self) -> bool {
        self.0 == 0
    }

    /// `elements` further on.
    pub fn at(self, elements: usize) -> Self {
        Self(self.0 + (elements * size_of::<T>()) as u64, PhantomData)
    }
}

impl<T> PtrMut<T> {
    /// For an argument that a kernel leaves out.
    pub fn null() -> Self {
        Self(0, PhantomData)
    }

    /// Whether it is [`PtrMut::null`].
    pub fn is_null(self) -> bool {
        self.0 == 0
    }

    /// `elements` further on.
    pub fn at(self, elements: usize) -> Self {
        Self(self.0 + (elements * size_of::<T>()) as u64, PhantomData)
    }

    /// The same place, for reading.
    pub fn read(self) -> Ptr<T> {
        Ptr(self.0, PhantomData)
    }
}

/// `len` elements in a driver's memory.
pub struct DeviceBuffer<T: Plain> {
    memory: Arc<Memory>,
    lease: Lease,
    address: u64,
    len: usize,
    element: PhantomData<T>,
}

impl<T: Plain> DeviceBuffer<T> {
    /// Zeroed memory, or memory with anything in it, in an allocation of its own.
    ///
    /// # Errors
    /// When the driver has not enough.
    pub fn new(driver: &Arc<dyn Driver>, len: usize, zeroed: bool) -> Result<Self> {
        Self::within(&Memory::new(driver), len, None, zeroed)
    }

    /// Zeroed memory, or memory with anything in it, of the class that buffers are made for at the moment, or of another.
    ///
    /// # Errors
    /// When there is not enough.
    pub fn within(
        memory: &Arc<Memory>,
        len: usize,
        class: Option<MemoryClass>,
        zeroed: bool,
    ) -> Result<Self> {
        let bytes = element_count("zeros", "a buffer", &[len, size_of::<T>()])?;
        let lease = memory
            .take(bytes, class, zeroed)
            .with_context(|| format!("no memory for a buffer of {len} elements"))?;
        Ok(Self {
            memory: memory.clone(),
            address: lease.address,
            lease,
            len,
            element: PhantomData,
        })
    }

    /// Elements it holds.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True where it holds none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Its beginning, for reading.
    pub fn ptr(&self) -> Ptr<T> {
        Ptr(self.address, PhantomData)
    }

    /// Its beginning, for writing.
    pub fn ptr_mut(&mut self) -> PtrMut<T> {
        PtrMut(self.address, PhantomData)
    }

    /// Its beginning for writing by launches that are ordered among themselves, as state of the device is.
    pub(crate) fn shared_ptr_mut(&self) -> PtrMut<T> {
        PtrMut(self.address, PhantomData)
    }

    /// Its beginning for reading, where it is long enough for an operation.
    ///
    /// # Errors
    /// Where it holds fewer than `dims[0] * dims[1] * ...` elements.
    pub fn read(&self, op: &str, name: &str, dims: &[usize]) -> Result<Ptr<T>> {
        check_len(op, name, self.len, dims)?;
        Ok(self.ptr())
    }

    /// Its beginning for writing, where it is long enough for an operation.
    ///
    /// # Errors
    /// Where it holds fewer than `dims[0] * dims[1] * ...` elements.
    pub fn write(&mut self, op: &str, name: &str, dims: &[usize]) -> Result<PtrMut<T>> {
        check_len(op, name, self.len, dims)?;
        Ok(self.ptr_mut())
    }

    /// Copies `values` into the first elements.
    ///
    /// # Errors
    /// Where there are more than it holds, or the driver fails.
    pub fn upload(&mut self, values: &[T]) -> Result<()> {
        self.upload_shared(values)
    }

    /// As [`Self::upload`], for state of the device that operations share.
    pub(crate) fn upload_shared(&self, values: &[T]) -> Result<()> {
        expect_len("upload", "buffer", self.len, values.len())?;
        // SAFETY: the buffer is this long and alive.
        unsafe {
            self.memory
                .driver()
                .upload(bytemuck::cast_slice(values), self.address)
        }
    }

    /// The first `len` elements; waits for the device.
    ///
    /// # Errors
    /// Where it holds fewer, or the driver fails.
    pub fn download(&self, len: usize) -> Result<Vec<T>> {
        expect_len("download", "buffer", self.len, len)?;
        let mut values = vec![T::zeroed(); len];
        // SAFETY: the buffer is this long and alive.
        unsafe {
            self.memory
                .driver()
                .download(self.address, bytemuck::cast_slice_mut(&mut values))?;
        }
        Ok(values)
    }

    /// Where `len` values are to be copied to.
    ///
    /// # Errors
    /// Where it holds fewer.
    pub(crate) fn target(&mut self, len: usize) -> Result<u64> {
        expect_len("upload", "buffer", self.len, len)?;
        Ok(self.address)
    }

    /// `self[at..at + len] = from[..len]`, on the device.
    ///
    /// # Errors
    /// Where either is too short, or the driver fails.
    pub fn copy_from(&mut self, from: &Self, len: usize, at: usize) -> Result<()> {
        expect_len("copy_single", "from", from.len, len)?;
        expect_len("copy_single", "to", self.len, at.saturating_add(len))?;
        let (offset, bytes) = (at * size_of::<T>(), len * size_of::<T>());
        // SAFETY: both buffers are this long and alive, and two of them do not overlap.
        unsafe {
            self.memory
                .driver()
                .copy(from.address, self.address + offset as u64, bytes)
        }
    }

    /// Zeroes the first `len` elements.
    ///
    /// # Errors
    /// Where it holds fewer, or the driver fails.
    pub fn clear(&mut self, len: usize) -> Result<()> {
        expect_len("clear", "buffer", self.len, len)?;
        // SAFETY: the buffer is this long and alive.
        unsafe {
            self.memory
                .driver()
                .zero(self.address, len * size_of::<T>())
        }
    }
}

impl<T: Plain> Drop for DeviceBuffer<T> {
    fn drop(&mut self) {
        self.memory.give_back(&self.lease);
    }
}

fn check_len(op: &str, name: &str, len: usize, dims: &[usize]) -> Result<()> {
    let needed = element_count(op, name, dims)?;
    ensure!(
        len >= needed,
        "{op}: {name} holds {len} elements, {needed} are needed for {dims:?}"
    );
    Ok(())
}

/// `u32`s on the device. What the host uploaded is kept here too, so that operations can check tokens and offsets, and choose
/// grids by them, without waiting for the device. What a kernel wrote is not known here.
pub struct IndexBuffer {
    buffer: DeviceBuffer<u32>,
    known: Option<Vec<u32>>,
}

impl IndexBuffer {
    /// Zeros.
    ///
    /// # Errors
    /// When the driver has not enough memory.
    pub fn within(memory: &Arc<Memory>, len: usize) -> Result<Self> {
        Ok(Self {
            buffer: DeviceBuffer::within(memory, len, None, true)?,
            known: Some(vec![0; len]),
        })
    }

    /// Elements it holds.
    pub fn len(&self) -> usize {
        self.buffer.len()
    }

    /// True where it holds none.
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// Its content, where the host wrote all of it.
    pub fn known(&self) -> Option<&[u32]> {
        self.known.as_deref()
    }

    /// Its beginning for reading, where it is long enough for an operation.
    ///
    /// # Errors
    /// Where it holds fewer than `dims[0] * dims[1] * ...` elements.
    pub fn read(&self, op: &str, name: &str, dims: &[usize]) -> Result<Ptr<u32>> {
        self.buffer.read(op, name, dims)
    }

    /// Its beginning for writing, where it is long enough for an operation. From now on its content is not known.
    ///
    /// # Errors
    /// Where it holds fewer than `dims[0] * dims[1] * ...` elements.
    pub fn write(&mut self, op: &str, name: &str, dims: &[usize]) -> Result<PtrMut<u32>> {
        let pointer = self.buffer.write(op, name, dims)?;
        self.known = None;
        Ok(pointer)
    }

    /// Copies `values` into the first elements.
    ///
    /// # Errors
    /// Where there are more than it holds, or the driver fails.
    pub fn upload(&mut self, values: &[u32]) -> Result<()> {
        self.buffer.upload(values)?;
        self.note_known(values);
        Ok(())
    }

    /// Where these values are to be copied to; from now on they are known.
    ///
    /// # Errors
    /// Where there are more than it holds.
    pub(crate) fn target(&mut self, values: &[u32]) -> Result<u64> {
        let address = self.buffer.target(values.len())?;
        self.note_known(values);
        Ok(address)
    }

    fn note_known(&mut self, values: &[u32]) {
        match &mut self.known {
            Some(known) => known[..values.len()].copy_from_slice(values),
            None if values.len() == self.buffer.len() => self.known = Some(values.to_vec()),
            None => {}
        }
    }

    /// The first `len` elements; waits for the device.
    ///
    /// # Errors
    /// Where it holds fewer, or the driver fails.
    pub fn download(&self, len: usize) -> Result<Vec<u32>> {
        self.buffer.download(len)
    }
}

/// Scratch memory: one block, as large as the plan says; without a plan grown as needed and kept.
#[derive(Default)]
pub struct ScratchPool {
    blocks: Mutex<Vec<DeviceBuffer<u8>>>,
    /// How often its memory has moved.
    moves: AtomicU64,
}

/// One operation's scratch memory, given back at its end. While it lives no other operation of the device takes any, so
/// launches of two threads do not meet in it.
pub struct Scratch<'a> {
    memory: &'a Arc<Memory>,
    blocks: MutexGuard<'a, Vec<DeviceBuffer<u8>>>,
    moves: &'a AtomicU64,
    /// Bytes taken of the last block.
    taken: usize,
    /// Bytes taken in all.
    total: usize,
}

impl ScratchPool {
    /// A number that changes when memory that operations took before is given away: recorded launches must not use it then.
    pub fn generation(&self) -> u64 {
        self.moves.load(Ordering::Acquire)
    }

    /// Waits for other operations' scratch memory.
    pub fn scratch<'a>(&'a self, memory: &'a Arc<Memory>) -> Scratch<'a> {
        Scratch {
            memory,
            blocks: self.blocks.lock().unwrap_or_else(PoisonError::into_inner),
            moves: &self.moves,
            taken: 0,
            total: 0,
        }
    }

    /// Makes the block of a plan.
    ///
    /// # Errors
    /// When there is not so much memory.
    pub fn reserve(&self, memory: &Arc<Memory>, bytes: usize) -> Result<()> {
        let mut blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        blocks.clear();
        self.moves.fetch_add(1, Ordering::Release);
        if bytes > 0 && !memory.driver().watches_memory() && !memory.is_rehearsal() {
            blocks.push(scratch_block(memory, bytes)?);
        }
        Ok(())
    }

    /// Gives all blocks back.
    pub fn clear(&self) {
        self.blocks
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
        self.moves.fetch_add(1, Ordering::Release);
    }
}

fn scratch_block(memory: &Arc<Memory>, bytes: usize) -> Result<DeviceBuffer<u8>> {
    DeviceBuffer::within(memory, bytes, Some(MemoryClass::Scratch), false)
}

impl Scratch<'_> {
    /// `len` elements with anything in them.
    ///
    /// # Errors
    /// When the driver has not enough memory.
    pub fn take<T: Plain>(&mut self, op: &str, len: usize) -> Result<PtrMut<T>> {
        let bytes = element_count(op, "scratch memory", &[len, size_of::<T>()])?.max(1);
        let rounded = bytes.next_multiple_of(ALIGNMENT);
        self.total += rounded;
        if self.memory.is_rehearsal() {
            // No launch follows it.
            return Ok(PtrMut(ALIGNMENT as u64, PhantomData));
        }
        let watched = self.memory.driver().watches_memory();
        let room = self.blocks.last().map_or(0, DeviceBuffer::len) - self.taken;
        if rounded > room || watched {
            // A watched block is as long as what is asked for, so that one element too many is noticed.
            let size = if watched { bytes } else { rounded };
            let block = scratch_block(self.memory, size)
                .with_context(|| format!("{op}: scratch memory of {bytes} bytes"))?;
            self.blocks.push(block);
            self.taken = 0;
        }
        let start = self.taken;
        self.taken += if watched { bytes } else { rounded };
        let address = self.blocks.last().map_or(0, |block| block.address);
        Ok(PtrMut(address + start as u64, PhantomData))
    }
}

impl Drop for Scratch<'_> {
    fn drop(&mut self) {
        self.memory.note_scratch(self.total as u64);
        if self.memory.driver().watches_memory() {
            self.blocks.clear();
        } else if self.blocks.len() > 1 {
            // One block of the whole size from the next operation on.
            self.blocks.clear();
            self.moves.fetch_add(1, Ordering::Release);
            if let Ok(block) = scratch_block(self.memory, self.total) {
                self.blocks.push(block);
            }
        }
    }
}
