//! Scratch memory that operations take and give back.

use anyhow::{Context, Result};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::arena::{ALIGNMENT, Memory};
use super::{DeviceBuffer, Plain, PtrMut};
use crate::ops::checks::element_count;
use crate::ops::{Buffer, MemoryClass};

/// Scratch memory: one block, as large as the plan says; without a plan grown as needed and kept.
#[derive(Default)]
pub(crate) struct ScratchPool {
    blocks: Mutex<Vec<DeviceBuffer<u8>>>,
    /// How often its memory has moved.
    moves: AtomicU64,
}

/// One operation's scratch memory, given back at its end. While it lives no other operation of the
/// device takes any, so launches of two threads do not meet in it.
pub(crate) struct Scratch<'a> {
    memory: &'a Arc<Memory>,
    blocks: MutexGuard<'a, Vec<DeviceBuffer<u8>>>,
    moves: &'a AtomicU64,
    /// Bytes taken of the last block.
    taken: usize,
    /// Bytes taken in all.
    total: usize,
}

impl ScratchPool {
    /// A number that changes when memory that operations took before is given away: recorded
    /// launches must not use it then.
    pub(crate) fn generation(&self) -> u64 {
        self.moves.load(Ordering::Acquire)
    }

    /// Waits for other operations' scratch memory.
    pub(crate) fn scratch<'a>(&'a self, memory: &'a Arc<Memory>) -> Scratch<'a> {
        Scratch {
            memory,
            blocks: self.blocks.lock().unwrap_or_else(PoisonError::into_inner),
            moves: &self.moves,
            taken: 0,
            total: 0,
        }
    }

    /// Makes the block of a plan.
    ///
    /// # Errors
    /// When there is not so much memory.
    pub(crate) fn reserve(&self, memory: &Arc<Memory>, bytes: usize) -> Result<()> {
        let mut blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        blocks.clear();
        self.moves.fetch_add(1, Ordering::Release);
        if bytes > 0 && !memory.driver().watches_memory() && !memory.is_dry_run() {
            blocks.push(scratch_block(memory, bytes)?);
        }
        Ok(())
    }

    /// Gives all blocks back.
    pub(crate) fn clear(&self) {
        self.blocks
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
        self.moves.fetch_add(1, Ordering::Release);
    }
}

fn scratch_block(memory: &Arc<Memory>, bytes: usize) -> Result<DeviceBuffer<u8>> {
    DeviceBuffer::within(memory, bytes, Some(MemoryClass::Scratch), false)
}

impl Scratch<'_> {
    /// `len` elements with anything in them.
    ///
    /// # Errors
    /// When the driver has not enough memory.
    pub(crate) fn take<T: Plain>(&mut self, op: &str, len: usize) -> Result<PtrMut<T>> {
        let bytes = element_count(op, "scratch memory", &[len, size_of::<T>()])?.max(1);
        let rounded = bytes.next_multiple_of(ALIGNMENT);
        self.total += rounded;
        if self.memory.is_dry_run() {
            // No launch follows it.
            return Ok(PtrMut::new(ALIGNMENT as u64));
        }
        let watched = self.memory.driver().watches_memory();
        let room = self.blocks.last().map_or(0, DeviceBuffer::len) - self.taken;
        if rounded > room || watched {
            // A watched block is as long as what is asked for, so that one element too many is
            // noticed.
            let size = if watched { bytes } else { rounded };
            let block = scratch_block(self.memory, size)
                .with_context(|| format!("{op}: scratch memory of {bytes} bytes"))?;
            self.blocks.push(block);
            self.taken = 0;
        }
        let start = self.taken;
        self.taken += if watched { bytes } else { rounded };
        let address = self.blocks.last().map_or(0, DeviceBuffer::address);
        Ok(PtrMut::new(address + start as u64))
    }
}

impl Drop for Scratch<'_> {
    fn drop(&mut self) {
        self.memory.note_scratch(self.total as u64);
        if self.memory.driver().watches_memory() {
            self.blocks.clear();
        } else if self.blocks.len() > 1 {
            // One block of the whole size from the next operation on.
            self.blocks.clear();
            self.moves.fetch_add(1, Ordering::Release);
            if let Ok(block) = scratch_block(self.memory, self.total) {
                self.blocks.push(block);
            }
        }
    }
}
