//! Buffers in a driver's memory.

use anyhow::{Context, Result};
use std::marker::PhantomData;
use std::sync::Arc;

use super::arena::{Lease, Memory};
use super::{Plain, Ptr, PtrMut};
use crate::ops::checks::{element_count, expect_len};
use crate::ops::cuda::driver::Driver;
use crate::ops::{Buffer, Matrix, MatrixMut, MemoryClass, Offsets, Vector, VectorMut};

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

    /// Zeroed memory, or memory with anything in it, of the class that buffers are made for at the
    /// moment, or of another.
    ///
    /// # Errors
    /// When there is not enough.
    pub(crate) fn within(
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

    /// Its beginning, for reading.
    pub fn ptr(&self) -> Ptr<T> {
        Ptr::new(self.address)
    }

    /// Its first byte's address on the device.
    pub(super) fn address(&self) -> u64 {
        self.address
    }

    /// Its beginning, for writing.
    pub fn ptr_mut(&mut self) -> PtrMut<T> {
        PtrMut::new(self.address)
    }

    /// Its beginning for writing by launches that are ordered among themselves, as state of the
    /// device is.
    pub(crate) fn shared_ptr_mut(&self) -> PtrMut<T> {
        PtrMut::new(self.address)
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
    pub(crate) fn copy_from(&mut self, from: &Self, len: usize, at: usize) -> Result<()> {
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
    pub(crate) fn clear(&mut self, len: usize) -> Result<()> {
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

impl<T: Plain> Buffer for DeviceBuffer<T> {
    fn len(&self) -> usize {
        self.len
    }
}

impl<T: Plain> Matrix<'_, DeviceBuffer<T>> {
    /// Its beginning, for reading.
    pub(crate) fn ptr(&self) -> Ptr<T> {
        self.buffer.ptr()
    }
}

impl<T: Plain> MatrixMut<'_, DeviceBuffer<T>> {
    /// Its beginning, for writing.
    pub(crate) fn ptr(self) -> PtrMut<T> {
        self.buffer.ptr_mut()
    }
}

impl<T: Plain> Vector<'_, DeviceBuffer<T>> {
    /// Its beginning, for reading.
    pub(crate) fn ptr(&self) -> Ptr<T> {
        self.buffer.ptr()
    }
}

impl<T: Plain> VectorMut<'_, DeviceBuffer<T>> {
    /// Its beginning, for writing.
    pub(crate) fn ptr(self) -> PtrMut<T> {
        self.buffer.ptr_mut()
    }
}

impl Vector<'_, IndexBuffer> {
    /// Its beginning, for reading.
    pub(crate) fn ptr(&self) -> Ptr<u32> {
        self.buffer.ptr()
    }
}

impl Offsets<'_, IndexBuffer> {
    /// Its beginning, for reading.
    pub(crate) fn ptr(&self) -> Ptr<u32> {
        self.buffer.ptr()
    }
}

/// `u32`s on the device. What the host uploaded is kept here too, so that operations can check
/// tokens and offsets, and choose grids by them, without waiting for the device. What a kernel
/// wrote is not known here.
pub struct IndexBuffer {
    buffer: DeviceBuffer<u32>,
    known: Option<Vec<u32>>,
}

impl IndexBuffer {
    /// Zeros.
    ///
    /// # Errors
    /// When the driver has not enough memory.
    pub(crate) fn within(memory: &Arc<Memory>, len: usize) -> Result<Self> {
        Ok(Self {
            buffer: DeviceBuffer::within(memory, len, None, true)?,
            known: Some(vec![0; len]),
        })
    }

    /// Its beginning, for reading.
    pub(crate) fn ptr(&self) -> Ptr<u32> {
        self.buffer.ptr()
    }

    /// Its beginning, for writing. From now on its content is not known.
    pub(crate) fn overwrite(&mut self) -> PtrMut<u32> {
        self.known = None;
        self.buffer.ptr_mut()
    }

    /// Copies `values` into the first elements.
    ///
    /// # Errors
    /// Where there are more than it holds, or the driver fails.
    pub(crate) fn upload(&mut self, values: &[u32]) -> Result<()> {
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
    pub(crate) fn download(&self, len: usize) -> Result<Vec<u32>> {
        self.buffer.download(len)
    }
}

impl Buffer for IndexBuffer {
    fn len(&self) -> usize {
        self.buffer.len()
    }
}

impl crate::ops::IndexBuffer for IndexBuffer {
    const PADDED: bool = true;

    fn known(&self) -> Option<&[u32]> {
        self.known.as_deref()
    }
}
