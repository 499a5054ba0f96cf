//! The CPU's buffers. Each begins at a cache line, so that no 64-byte vector of it crosses one:
//! where they do, a training step takes 2% longer. Large ones are on huge pages where the system
//! has them: with 4 KiB pages, walking a 77 MB table spends a tenth of its time on address
//! translation and page faults.

use crate::ops::{Buffer, IndexBuffer};
use anyhow::{Context, Result};
use bytemuck::Pod;
use memmap2::MmapMut;
use std::alloc::Layout;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

/// Bytes of a huge page on x86-64.
const HUGE: usize = 2 << 20;
/// Bytes from which on a buffer is worth one.
const WORTH: usize = HUGE / 2;
/// Bytes from which on a buffer comes straight from the system.
const OF_ITS_OWN: usize = 128 << 10;

/// A cache line.
#[repr(C, align(64))]
#[derive(Clone, Copy, bytemuck::Zeroable, bytemuck::Pod)]
struct Line([f32; 16]);

/// Where a buffer lies.
enum Memory {
    /// With the allocator.
    Lines(Vec<Line>),
    /// Straight from the system, from a byte on: pages that are never touched cost nothing.
    Pages { map: MmapMut, from: usize },
}

/// A fixed number of elements that begin at a cache line.
pub struct HostBuffer<T> {
    memory: Memory,
    len: usize,
    kind: PhantomData<T>,
}

impl<T> HostBuffer<T> {
    /// No element.
    pub(crate) const EMPTY: Self = Self {
        memory: Memory::Lines(Vec::new()),
        len: 0,
        kind: PhantomData,
    };
}

impl<T> Default for HostBuffer<T> {
    fn default() -> Self {
        Self::EMPTY
    }
}

impl<T: Pod> HostBuffer<T> {
    /// `len` zeros.
    ///
    /// # Errors
    /// If the memory is not there.
    pub fn zeroed(len: usize) -> Result<Self> {
        const { assert!(align_of::<T>() <= align_of::<Line>()) };
        let memory = len.checked_mul(size_of::<T>()).and_then(|bytes| {
            if bytes >= OF_ITS_OWN {
                pages(bytes)
            } else {
                lines(bytes)
            }
        });
        Ok(Self {
            memory: memory.with_context(|| {
                format!(
                    "no memory for a buffer of {len} elements of {} bytes",
                    size_of::<T>()
                )
            })?,
            len,
            kind: PhantomData,
        })
    }

    /// Makes room for `len` elements; what stands there is arbitrary. Ends the process where the
    /// memory is not there, as collections do.
    pub(crate) fn reserve(&mut self, len: usize) {
        if self.len < len {
            *self = Self::zeroed(len).unwrap_or_else(|_| {
                std::alloc::handle_alloc_error(
                    Layout::array::<T>(len).unwrap_or(Layout::new::<T>()),
                )
            });
        }
    }
}

impl<T: Pod> Clone for HostBuffer<T> {
    fn clone(&self) -> Self {
        let mut copy = Self::EMPTY;
        copy.reserve(self.len);
        copy.copy_from_slice(self);
        copy
    }
}

impl<T: Pod> Buffer for HostBuffer<T> {
    fn len(&self) -> usize {
        self.len
    }
}

impl IndexBuffer for HostBuffer<u32> {
    const PADDED: bool = false;

    fn known(&self) -> Option<&[u32]> {
        Some(self)
    }
}

fn lines(bytes: usize) -> Option<Memory> {
    let count = bytes.div_ceil(size_of::<Line>());
    let mut lines = Vec::new();
    lines.try_reserve_exact(count).ok()?;
    lines.resize(count, Line([0.0; 16]));
    Some(Memory::Lines(lines))
}

/// Whole huge pages where they are worth it: the mapping is longer by one, so that they can begin
/// where a huge page may. What is not used is never touched.
fn pages(bytes: usize) -> Option<Memory> {
    if bytes < WORTH {
        let map = MmapMut::map_anon(bytes).ok()?;
        return Some(Memory::Pages { map, from: 0 });
    }
    let used = bytes.checked_next_multiple_of(HUGE)?;
    let map = MmapMut::map_anon(used.checked_add(HUGE)?).ok()?;
    let from = map.as_ptr().addr().next_multiple_of(HUGE) - map.as_ptr().addr();
    // Advice only: where it is refused, everything works as before.
    #[cfg(target_os = "linux")]
    let _ = map.advise_range(memmap2::Advice::HugePage, from, used);
    Some(Memory::Pages { map, from })
}

impl<T: Pod> Deref for HostBuffer<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        let bytes = self.len * size_of::<T>();
        bytemuck::cast_slice(match &self.memory {
            Memory::Lines(lines) => &bytemuck::cast_slice(lines)[..bytes],
            Memory::Pages { map, from } => &map[*from..*from + bytes],
        })
    }
}

impl<T: Pod> DerefMut for HostBuffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        let bytes = self.len * size_of::<T>();
        bytemuck::cast_slice_mut(match &mut self.memory {
            Memory::Lines(lines) => &mut bytemuck::cast_slice_mut(lines)[..bytes],
            Memory::Pages { map, from } => &mut map[*from..*from + bytes],
        })
    }
}

/// Zeros for a buffer that is not read soon: past the caches where the processor can, which would
/// first fetch what is overwritten and then throw out what is needed.
pub(crate) fn clear(buffer: &mut [f32]) {
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
        // Streaming stores are not ordered with others: whoever is told of them must find them
        // done. SAFETY: SSE, as above.
        unsafe { _mm_sfence() };
    }
    #[cfg(not(target_arch = "x86_64"))]
    buffer.fill(0.0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_have_their_length_zeros_and_whole_cache_lines() {
        let own = OF_ITS_OWN / 4;
        for len in [
            0,
            1,
            17,
            own - 1,
            own,
            WORTH / 4 - 1,
            WORTH / 4,
            3 * HUGE / 4 + 5,
        ] {
            let mut buffer = HostBuffer::<f32>::zeroed(len).unwrap();
            assert_eq!(buffer.len(), len);
            assert!(buffer.iter().all(|&x| x == 0.0));
            assert_eq!(buffer.as_ptr().addr() % 64, 0);
            buffer.fill(1.0);
            assert_eq!(buffer.iter().sum::<f32>(), len as f32);
        }
        for len in [usize::MAX, usize::MAX / 4, usize::MAX / 8] {
            let message = HostBuffer::<f32>::zeroed(len).err().unwrap().to_string();
            let expected = format!("no memory for a buffer of {len} elements of 4 bytes");
            assert_eq!(message, expected);
        }
    }

    #[test]
    fn large_buffers_begin_at_a_huge_page() {
        for len in [WORTH, HUGE, HUGE + 1, 5 * HUGE - 1] {
            let buffer = HostBuffer::<u8>::zeroed(len).unwrap();
            assert_eq!(buffer.len(), len);
            assert_eq!(buffer.as_ptr().addr() % HUGE, 0);
        }
    }

    #[test]
    fn room_is_kept_until_more_is_needed() {
        let mut buffer = HostBuffer::<f32>::EMPTY;
        buffer.reserve(10);
        buffer[9] = 3.0;
        buffer.reserve(4);
        assert_eq!((buffer.len(), buffer[9]), (10, 3.0));
        buffer.reserve(1 << 20);
        assert_eq!(buffer.len(), 1 << 20);
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
