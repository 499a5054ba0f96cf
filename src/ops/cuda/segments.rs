//! Offsets that cut a batch's tokens into examples or groups: `kernels/include/segments.cuh`.

use anyhow::{Result, ensure};

use super::memory::{IndexBuffer, Ptr};
use crate::ops::checks::{expect_offsets, expect_offsets_or_empty};

/// `parts + 1` offsets that cut `total` tokens into examples, checked where the host knows them; the last examples may be
/// empty. (The kernels stay in bounds with any.)
///
/// # Errors
/// Where the buffer is too short, or an offset it knows breaks the rules of [`expect_offsets`].
pub(super) fn read_segments(
    op: &str,
    segments: &IndexBuffer,
    parts: usize,
    total: usize,
) -> Result<Ptr<u32>> {
    let name = "segments";
    let pointer = segments.read(op, name, &[parts.saturating_add(1)])?;
    ensure!(
        parts <= total && (parts > 0 || total == 0),
        "{op}: {name} cuts {total} tokens into {parts} parts, but every part needs at least one token"
    );
    if let Some(known) = segments.known() {
        let used = expect_offsets_or_empty(op, name, known, parts, total)?;
        let filled = used.partition_point(|&offset| (offset as usize) < total);
        expect_offsets(op, name, used, filled, total)?;
    }
    Ok(pointer)
}

/// `parts + 1` offsets that cut the first of `total` tokens into logical batches, checked where the host knows them. The tokens
/// behind the last offset are padding.
///
/// # Errors
/// As [`read_segments`].
pub(super) fn read_groups(
    op: &str,
    groups: &IndexBuffer,
    parts: usize,
    total: usize,
) -> Result<Ptr<u32>> {
    let name = "groups";
    let pointer = groups.read(op, name, &[parts.saturating_add(1)])?;
    ensure!(
        parts <= total && (parts > 0 || total == 0),
        "{op}: {name} cuts {total} tokens into {parts} parts, but every part needs at least one token"
    );
    if let Some(known) = groups.known() {
        let end = known[parts] as usize;
        ensure!(
            end <= total,
            "{op}: {name}[{parts}] is {end}, but there are {total} tokens"
        );
        expect_offsets(op, name, known, parts, end)?;
    }
    Ok(pointer)
}
