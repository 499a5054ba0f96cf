//! The simulator's buffers: each between two zones that nobody may write, with a record of what was
//! written.

use anyhow::{Result, anyhow};
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};

/// Bytes before and behind each allocation that no kernel may touch.
pub(super) const GUARD: usize = 256;
pub(super) const ALIGNMENT: usize = 256;

/// A buffer, with a zone on either side.
pub(super) struct Allocation {
    pub(super) base: *mut u8,
    pub(super) bytes: usize,
    pub(super) guard: usize,
    /// True for each byte that nobody wrote; `None` where all are written.
    pub(super) unwritten: Option<Vec<bool>>,
}

// SAFETY: the memory belongs to the allocation, and is reached under the driver's lock or by the
// launch that holds it.
unsafe impl Send for Allocation {}

impl Allocation {
    fn layout(bytes: usize, guard: usize) -> Result<Layout> {
        let whole = bytes.checked_add(2 * guard);
        let layout = whole.and_then(|whole| Layout::from_size_align(whole.max(1), ALIGNMENT).ok());
        layout.ok_or_else(|| anyhow!("{bytes} bytes are more than this machine addresses"))
    }

    pub(super) fn new(bytes: usize, guard: usize) -> Result<Self> {
        let layout = Self::layout(bytes, guard)?;
        // SAFETY: the layout is not empty.
        let base = unsafe { alloc_zeroed(layout) };
        if base.is_null() {
            handle_alloc_error(layout);
        }
        Ok(Self {
            base,
            bytes,
            guard,
            unwritten: None,
        })
    }

    pub(super) fn address(&self) -> u64 {
        self.base as u64 + self.guard as u64
    }

    pub(super) fn data(&mut self) -> &mut [u8] {
        // SAFETY: `bytes` bytes behind the first zone belong to this allocation, and no launch
        // runs.
        unsafe { std::slice::from_raw_parts_mut(self.base.add(self.guard), self.bytes) }
    }

    pub(super) fn zones(&mut self) -> [&mut [u8]; 2] {
        // SAFETY: both zones belong to this allocation and do not overlap, and no launch runs.
        unsafe {
            [
                std::slice::from_raw_parts_mut(self.base, self.guard),
                std::slice::from_raw_parts_mut(self.base.add(self.guard + self.bytes), self.guard),
            ]
        }
    }

    /// Fills the zones and all that nobody wrote.
    pub(super) fn poison(&mut self, byte: u8) {
        for zone in self.zones() {
            zone.fill(byte);
        }
        if let Some(unwritten) = self.unwritten.take() {
            for (value, _) in self.data().iter_mut().zip(&unwritten).filter(|(_, u)| **u) {
                *value = byte;
            }
            self.unwritten = Some(unwritten);
        }
    }

    /// Where a zone was written, relative to the buffer's beginning.
    pub(super) fn damage(&mut self, byte: u8) -> Option<isize> {
        let (bytes, guard) = (self.bytes as isize, self.guard as isize);
        let [before, behind] = self.zones();
        let before = before.iter().rposition(|&found| found != byte);
        let behind = behind.iter().position(|&found| found != byte);
        let before = before.map(|at| at as isize - guard);
        behind.map(|at| at as isize + bytes).or(before)
    }

    pub(super) fn mark_written(&mut self, from: usize, bytes: usize) {
        if let Some(unwritten) = &mut self.unwritten {
            unwritten[from..from + bytes].fill(false);
            if !unwritten.contains(&true) {
                self.unwritten = None;
            }
        }
    }
}

impl Drop for Allocation {
    fn drop(&mut self) {
        if let Ok(layout) = Self::layout(self.bytes, self.guard) {
            // SAFETY: it was allocated with this layout.
            unsafe { dealloc(self.base, layout) };
        }
    }
}
