//! Large zeroed buffers on huge pages where the system has them: with 4 KiB pages, walking a 77 MB table spends a tenth of
//! its time on address translation and page faults.

use anyhow::{Context, Result};
use std::ops::{Deref, DerefMut};

/// Bytes from which a buffer is worth huge pages (2 MiB each on x86-64).
const HUGE_FROM: usize = 4 << 20;

/// A buffer of `len` zeros straight from the system: pages that are never touched cost nothing.
///
/// # Errors
/// If the memory is not there.
pub fn zeroed<T: bytemuck::Zeroable>(len: usize) -> Result<Vec<T>> {
    let buffer = bytemuck::allocation::try_zeroed_slice_box::<T>(len)
        .map(Vec::from)
        .ok();
    let mut buffer = buffer.with_context(|| {
        format!(
            "no memory for a buffer of {len} elements of {} bytes",
            size_of::<T>()
        )
    })?;
    if size_of_val(buffer.as_slice()) >= HUGE_FROM {
        ask_for_huge_pages(buffer.as_mut_ptr().cast(), size_of_val(buffer.as_slice()));
    }
    Ok(buffer)
}

/// Advice only: where it is refused, everything works as before.
#[cfg(target_os = "linux")]
fn ask_for_huge_pages(start: *mut u8, bytes: usize) {
    const PAGE: usize = 4096;
    let skip = start.align_offset(PAGE);
    let whole = (bytes - skip.min(bytes)) / PAGE * PAGE;
    // SAFETY: the range lies inside a live allocation; this advice changes how it is backed, never what it holds.
    unsafe { libc::madvise(start.wrapping_add(skip).cast(), whole, libc::MADV_HUGEPAGE) };
}

#[cfg(not(target_os = "linux"))]
fn ask_for_huge_pages(_start: *mut u8, _bytes: usize) {}

/// A cache line.
#[repr(C, align(64))]
#[derive(Clone, Copy, bytemuck::Zeroable, bytemuck::Pod)]
struct Line([f32; 16]);

/// `f32`s that begin at a cache line, so that no 64-byte vector of them crosses one. A length is rounded up to whole lines.
#[derive(Default)]
pub struct Aligned(Vec<Line>);

impl Aligned {
    /// No element.
    pub const EMPTY: Self = Self(Vec::new());

    /// `len` zeros, on huge pages as [`zeroed`].
    pub fn zeroed(len: usize) -> Self {
        let lines = len.div_ceil(16);
        let mut buffer = Vec::<Line>::with_capacity(lines);
        // Before the first write: the allocator zeroes what is aligned like this by hand, and pages that were touched stay small.
        let bytes = lines * size_of::<Line>();
        if bytes >= HUGE_FROM {
            ask_for_huge_pages(buffer.as_mut_ptr().cast(), bytes);
        }
        buffer.resize(lines, Line([0.0; 16]));
        Self(buffer)
    }

    /// Makes room for `len` elements; what stands there is arbitrary.
    pub fn reserve(&mut self, len: usize) {
        if self.len() < len {
            *self = Self::zeroed(len);
        }
    }
}

impl Deref for Aligned {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        bytemuck::cast_slice(&self.0)
    }
}

impl DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [f32] {
        bytemuck::cast_slice_mut(&mut self.0)
    }
}
