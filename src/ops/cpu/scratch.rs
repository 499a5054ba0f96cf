//! Buffers that operations need for the length of one call, kept between calls: a fresh allocation
//! of many megabytes would cost page faults every time.

use super::memory::HostBuffer;
use std::sync::Mutex;

/// A pool of `f32` buffers.
#[derive(Default)]
pub(crate) struct Scratch {
    free: Mutex<Vec<HostBuffer<f32>>>,
}

impl Scratch {
    /// A buffer of `len` elements with arbitrary contents. It goes back to the pool when it is
    /// dropped.
    pub(crate) fn take(&self, len: usize) -> Borrowed<'_> {
        let mut free = self
            .free
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        // The smallest that fits; else the largest, grown.
        let fits = (0..free.len())
            .filter(|&i| free[i].len() >= len)
            .min_by_key(|&i| free[i].len());
        let pick = fits.or_else(|| (0..free.len()).max_by_key(|&i| free[i].len()));
        let mut buffer = pick.map(|i| free.swap_remove(i)).unwrap_or_default();
        drop(free);
        buffer.reserve(len);
        Borrowed {
            buffer,
            len,
            pool: self,
        }
    }

    /// As [`take`](Self::take), filled with zeros.
    pub(crate) fn zeroed(&self, len: usize) -> Borrowed<'_> {
        let mut buffer = self.take(len);
        buffer.fill(0.0);
        buffer
    }
}

/// A buffer on loan.
pub(crate) struct Borrowed<'a> {
    buffer: HostBuffer<f32>,
    len: usize,
    pool: &'a Scratch,
}

impl std::ops::Deref for Borrowed<'_> {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        &self.buffer[..self.len]
    }
}

impl std::ops::DerefMut for Borrowed<'_> {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.buffer[..self.len]
    }
}

impl Drop for Borrowed<'_> {
    fn drop(&mut self) {
        let mut free = self
            .pool
            .free
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        free.push(std::mem::take(&mut self.buffer));
    }
}
