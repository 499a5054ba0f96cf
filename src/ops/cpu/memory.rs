//! Large zeroed buffers on huge pages where the system has them: with 4 KiB pages, walking a 77 MB table spends a tenth of
//! its time on address translation and page faults.

use anyhow::{Context, Result};
use std::ops::{Deref, DerefMut};

/// Bytes of a huge page on x86-64.
const HUGE: usize = 2 << 20;
/// Bytes from which on a buffer is worth one.
const WORTH: usize = HUGE / 2;
/// What the allocator needs of a mapping besides the buffer, generously.
const OVERHEAD: usize = 256;

/// Bytes to ask for instead of `bytes`: the mapping is then a multiple of huge pages, and Linux lays only such ones out so that
/// all of their pages can be huge. What is added is never written.
fn whole_pages(bytes: usize) -> usize {
    if bytes >= WORTH {
        (bytes + OVERHEAD).next_multiple_of(HUGE) - OVERHEAD
    } else {
        bytes
    }
}

/// A buffer of `len` zeros straight from the system: pages that are never touched cost nothing.
///
/// # Errors
/// If the memory is not there.
pub fn zeroed<T: bytemuck::Zeroable>(len: usize) -> Result<Vec<T>> {
    let size = size_of::<T>();
    // Where the size overflows, the allocation of `len` itself fails.
    let room = len
        .checked_mul(size)
        .map_or(len, |bytes| whole_pages(bytes) / size.max(1));
    let buffer = bytemuck::allocation::try_zeroed_slice_box::<T>(room.max(len))
        .map(Vec::from)
        .ok();
    let mut buffer = buffer
        .with_context(|| format!("no memory for a buffer of {len} elements of {size} bytes"))?;
    if room * size >= WORTH {
        ask_for_huge_pages(buffer.as_mut_ptr().cast(), room * size);
    }
    buffer.truncate(len);
    Ok(buffer)
}

/// Advice only: where it is refused, everything works as before.
#[cfg(target_os = "linux")]
fn ask_for_huge_pages(start: *mut u8, bytes: usize) {
    const PAGE: usize = 4096;
    // From the page that the allocator's own header shares with the buffer: a mapping that is advised in part is two mappings,
    // and a huge page lies within one.
    let before = start.addr() % PAGE;
    let first = start.wrapping_sub(before);
    let pages = (before + bytes).next_multiple_of(PAGE);
    // SAFETY: the pages hold a live allocation; this advice changes how they are backed, never what they hold.
    unsafe { libc::madvise(first.cast(), pages, libc::MADV_HUGEPAGE) };
    // The allocator has written its header already, into a small page.
    // SAFETY: as above.
    unsafe { libc::madvise(first.cast(), pages.min(HUGE), libc::MADV_COLLAPSE) };
}

#[cfg(not(target_os = "linux"))]
fn ask_for_huge_pages(_start: *mut u8, _bytes: usize) {}

/// Zeros for a buffer that is not read soon: past the caches where the processor can, which would first fetch what is
/// overwritten and then throw out what is needed.
pub fn clear(buffer: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{__m128, _mm_setzero_ps, _mm_sfence, _mm_stream_ps};
        // SAFETY: any bits are a vector of four floats.
        let (head, vectors, tail) = unsafe { buffer.align_to_mut::<__m128>() };
        head.fill(0.0);
        for vector in vectors {
            // SAFETY: the vector is this slice's own and aligned; SSE is in every x86-64 processor.
            unsafe { _mm_stream_ps((&raw mut *vector).cast(), _mm_setzero_ps()) };
        }
        tail.fill(0.0);
        // Streaming stores are not ordered with others: whoever is told of them must find them done.
        // SAFETY: SSE, as above.
        unsafe { _mm_sfence() };
    }
    #[cfg(not(target_arch = "x86_64"))]
    buffer.fill(0.0);
}

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
        let room = whole_pages(lines * size_of::<Line>()) / size_of::<Line>();
        let mut buffer = Vec::<Line>::with_capacity(room);
        // Before the first write: the allocator zeroes what is aligned like this by hand, and pages that were touched stay small.
        let bytes = buffer.capacity() * size_of::<Line>();
        if bytes >= WORTH {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeroed_buffers_have_their_length_and_zeros() {
        for len in [0, 1, WORTH / 4 - 1, WORTH / 4, 3 * HUGE / 4 + 5] {
            let buffer = zeroed::<f32>(len).unwrap();
            assert_eq!(buffer.len(), len);
            assert!(buffer.iter().all(|&x| x == 0.0));
            let aligned = Aligned::zeroed(len);
            assert_eq!(aligned.len(), len.next_multiple_of(16));
            assert!(aligned.iter().all(|&x| x == 0.0));
            assert_eq!(aligned.as_ptr().addr() % 64, 0);
        }
        let message = zeroed::<f32>(usize::MAX / 2).unwrap_err().to_string();
        assert!(message.contains("no memory for a buffer of"), "{message}");
    }

    #[test]
    fn large_buffers_fill_whole_pages() {
        assert_eq!(whole_pages(WORTH - 1), WORTH - 1);
        for bytes in [WORTH, HUGE, HUGE + 1, 5 * HUGE - OVERHEAD + 1] {
            let room = whole_pages(bytes);
            assert!(room >= bytes && room < bytes + HUGE + OVERHEAD, "{room}");
            assert_eq!((room + OVERHEAD) % HUGE, 0);
        }
    }

    #[test]
    fn clearing_touches_its_own_elements_only() {
        for (from, to) in [(0, 100), (1, 99), (3, 4), (7, 7), (2, 66)] {
            let mut buffer = [1.0f32; 100];
            clear(&mut buffer[from..to]);
            for (i, &x) in buffer.iter().enumerate() {
                assert_eq!(x == 0.0, (from..to).contains(&i), "{i} of {from}..{to}");
            }
        }
    }
}
