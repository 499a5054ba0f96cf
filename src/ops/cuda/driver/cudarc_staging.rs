//! Copies from the host that do not wait: through two pinned slots, on a stream of their own.
//!
//! Bytes go into pinned host memory, from there to a slot on the card while the card still works on
//! what was launched before, and from the slot to their buffers in the order of launches. So
//! buffers keep their addresses, which recorded launches need, and only that last copy (0.4 MB at
//! card speed for 16,384 tokens) takes the card's time. The host waits only where it is two copies
//! ahead.

use anyhow::Result;
use cudarc::driver::result::{self, event, stream};
use cudarc::driver::sys;
use std::ffi::c_void;

use super::cudarc_error::driver_error;

/// Pieces begin at multiples of this.
const ALIGNMENT: usize = 256;
const OP: &str = "uploading a batch";

/// The two slots.
pub(super) struct Staging {
    stream: sys::CUstream,
    slots: [Slot; 2],
    next: usize,
}

struct Slot {
    pinned: *mut c_void,
    device: sys::CUdeviceptr,
    capacity: usize,
    /// The pinned bytes are on the card.
    copied: sys::CUevent,
    /// The card's bytes are in their buffers.
    consumed: sys::CUevent,
}

// SAFETY: the handles may be used on any thread whose current context is the card's; the pinned
// memory belongs to the slot.
unsafe impl Send for Staging {}

impl Slot {
    fn new() -> Result<Self> {
        let event = || {
            event::create(sys::CUevent_flags_enum::CU_EVENT_DISABLE_TIMING)
                .map_err(driver_error(OP))
        };
        Ok(Self {
            pinned: std::ptr::null_mut(),
            device: 0,
            capacity: 0,
            copied: event()?,
            consumed: event()?,
        })
    }

    /// Gives its memory back. Nothing may be under way.
    unsafe fn release(&mut self) {
        if self.capacity > 0 {
            // SAFETY: both came from the driver and nothing uses them any more. An error has
            // nowhere to go.
            unsafe {
                let _ = result::free_host(self.pinned);
                let _ = result::free_sync(self.device);
            }
        }
        (self.pinned, self.device, self.capacity) = (std::ptr::null_mut(), 0, 0);
    }

    /// Room for so many bytes.
    unsafe fn grow(&mut self, bytes: usize) -> Result<()> {
        if self.capacity >= bytes {
            return Ok(());
        }
        // SAFETY: an event that was never recorded is done; after this nothing uses the slot.
        unsafe {
            event::synchronize(self.copied).map_err(driver_error(OP))?;
            event::synchronize(self.consumed).map_err(driver_error(OP))?;
            self.release();
        }
        let capacity = bytes.next_power_of_two();
        // SAFETY: the size is not zero.
        unsafe {
            let pinned = result::malloc_host(capacity, 0).map_err(driver_error(OP))?;
            match result::malloc_sync(capacity) {
                Ok(device) => {
                    (self.pinned, self.device, self.capacity) = (pinned, device, capacity)
                }
                Err(error) => {
                    let _ = result::free_host(pinned);
                    return Err(driver_error(OP)(error));
                }
            }
        }
        Ok(())
    }
}

impl Staging {
    /// Two slots without memory. The card's context is current.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {
            stream: stream::create(stream::StreamKind::NonBlocking).map_err(driver_error(OP))?,
            slots: [Slot::new()?, Slot::new()?],
            next: 0,
        })
    }

    /// Copies pieces to their addresses, in order with what is launched on `work`.
    ///
    /// # Safety
    /// The card's context is current, `work` is alive and each range lies in a live allocation.
    pub(crate) unsafe fn copy(
        &mut self,
        pieces: &[(&[u8], u64)],
        work: sys::CUstream,
    ) -> Result<()> {
        let total: usize = pieces
            .iter()
            .map(|(bytes, _)| bytes.len().next_multiple_of(ALIGNMENT))
            .sum();
        if total == 0 {
            return Ok(());
        }
        let slot = &mut self.slots[self.next];
        self.next = 1 - self.next;
        // SAFETY: streams and events are alive; the slot has room for `total` bytes; the pinned
        // bytes are written only when the copy of two calls ago has read them, the card's only when
        // that call's bytes are in their buffers.
        unsafe {
            slot.grow(total)?;
            event::synchronize(slot.copied).map_err(driver_error(OP))?;
            let pinned = std::slice::from_raw_parts_mut(slot.pinned.cast::<u8>(), total);
            let mut at = 0;
            for (bytes, _) in pieces {
                pinned[at..at + bytes.len()].copy_from_slice(bytes);
                at += bytes.len().next_multiple_of(ALIGNMENT);
            }
            let wait = sys::CUevent_wait_flags_enum::CU_EVENT_WAIT_DEFAULT;
            stream::wait_event(self.stream, slot.consumed, wait).map_err(driver_error(OP))?;
            result::memcpy_htod_async(slot.device, pinned, self.stream)
                .map_err(driver_error(OP))?;
            event::record(slot.copied, self.stream).map_err(driver_error(OP))?;
            stream::wait_event(work, slot.copied, wait).map_err(driver_error(OP))?;
            let mut at = 0;
            for (bytes, to) in pieces.iter().filter(|(bytes, _)| !bytes.is_empty()) {
                result::memcpy_dtod_async(*to, slot.device + at, bytes.len(), work)
                    .map_err(driver_error(OP))?;
                at += bytes.len().next_multiple_of(ALIGNMENT) as u64;
            }
            event::record(slot.consumed, work).map_err(driver_error(OP))
        }
    }

    /// Gives everything back. The card's context is current.
    ///
    /// # Safety
    /// Nothing is launched any more.
    pub(crate) unsafe fn close(&mut self) {
        // SAFETY: the caller's promise; after the wait nothing uses the slots. An error has nowhere
        // to go.
        unsafe {
            let _ = stream::synchronize(self.stream);
            for slot in &mut self.slots {
                let _ = event::synchronize(slot.consumed);
                slot.release();
                let _ = event::destroy(slot.copied);
                let _ = event::destroy(slot.consumed);
            }
            let _ = stream::destroy(self.stream);
        }
    }
}
