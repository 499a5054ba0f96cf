//! Offsets that cut a batch's tokens into examples or groups: `kernels/include/segments.cuh`.

use anyhow::{Result, ensure};

use super::memory::{IndexBuffer, Ptr};
use crate::ops::checks::expect_offsets;

/// `parts + 1` offsets that cut `total` tokens, checked where the host knows them. (The kernels stay in bounds with any.)
///
/// # Errors
/// Where the buffer is too short, or an offset it knows breaks the rules of [`expect_offsets`].
pub(super) fn read_offsets(
    op: &str,
    name: &str,
    offsets: &IndexBuffer,
    parts: usize,
    total: usize,
) -> Result<Ptr<u32>> {
    let pointer = offsets.read(op, name, &[parts.saturating_add(1)])?;
    ensure!(
        parts <= total && (parts > 0 || total == 0),
        "{op}: {name} cuts {total} tokens into {parts} parts, but every part needs at least one token"
    );
    if let Some(known) = offsets.known() {
        expect_offsets(op, name, known, parts, total)?;
    }
    Ok(pointer)
}
