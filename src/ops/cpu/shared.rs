//! A mutable slice that several tasks write in disjoint parts which no split of the slice can
//! express (columns of rows).

use std::marker::PhantomData;

/// Unchecked sharing of a `&mut [f32]`; every use says why its part is its own.
#[derive(Clone, Copy)]
pub(crate) struct SharedMut<'a> {
    pointer: *mut f32,
    len: usize,
    life: PhantomData<&'a mut [f32]>,
}

// SAFETY: the users of `slice` promise disjoint parts.
unsafe impl Send for SharedMut<'_> {}
// SAFETY: as above.
unsafe impl Sync for SharedMut<'_> {}

impl<'a> SharedMut<'a> {
    /// Takes over the slice for `'a`.
    pub(crate) fn new(slice: &'a mut [f32]) -> Self {
        Self {
            pointer: slice.as_mut_ptr(),
            len: slice.len(),
            life: PhantomData,
        }
    }

    /// Where elements `from..from + len` begin, checked to lie inside.
    pub(crate) fn part(&self, from: usize, len: usize) -> *mut f32 {
        assert!(
            from + len <= self.len,
            "shared slice: {from} + {len} exceeds {}",
            self.len
        );
        self.pointer.wrapping_add(from)
    }

    /// Elements `from..from + len`, all of them this task's own.
    ///
    /// # Safety
    /// While the returned slice lives nobody else reads or writes its elements.
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn slice(&self, from: usize, len: usize) -> &'a mut [f32] {
        assert!(
            from + len <= self.len,
            "shared slice: {from} + {len} exceeds {}",
            self.len
        );
        // SAFETY: in bounds by the assertion; disjointness is the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.pointer.add(from), len) }
    }
}
