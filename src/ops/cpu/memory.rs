//! Large zeroed buffers on huge pages where the system has them: with 4 KiB pages, walking a 77 MB table spends a tenth of
//! its time on address translation and page faults.

use anyhow::{Context, Result};

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
