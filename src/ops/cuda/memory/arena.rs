//! The memory of one device: a ledger of what it is used for, and the one arena of a planned run.
//!
//! A run that is planned asks its driver for memory once ([`Memory::reserve`]); every buffer after
//! that is a part of the arena, taken and given back here without a word to the driver. Launches
//! run in the order in which they are made, so a part that was given back may be taken again at
//! once: what reads it was launched before what writes it next.
//!
//! Where the driver watches each allocation (the verifying simulator with its zones around buffers,
//! or AddressSanitizer), every buffer stays an allocation of its own, so that one element too many
//! is noticed; the ledger is the same.

use anyhow::{Result, bail, ensure};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::ops::cuda::driver::Driver;
use crate::ops::{MemoryClass, MemoryUse};

/// Buffers and parts of the arena begin at multiples of this, as allocations do.
pub(crate) const ALIGNMENT: usize = 256;

/// Memory of a driver.
pub(crate) struct Memory {
    driver: Arc<dyn Driver>,
    /// Whether nothing is computed and the arena has no end: it is only seen how much is needed.
    dry_run: bool,
    state: Mutex<State>,
}

struct State {
    /// What buffers made from now on are for.
    class: MemoryClass,
    live: [u64; MemoryClass::ALL.len()],
    most: MemoryUse,
    arena: Option<Arena>,
    /// Most that the arena and what does not fit it may take together.
    limit: Option<u64>,
    /// Bytes now allocated beside the arena.
    outside: u64,
}

struct Arena {
    base: u64,
    bytes: u64,
    /// Free parts as (offset, bytes), by offset; no two touch.
    free: Vec<(u64, u64)>,
}

/// Memory that a buffer owns until it gives it back with [`Memory::give_back`].
pub(super) struct Lease {
    pub address: u64,
    bytes: u64,
    class: MemoryClass,
    /// A part of the arena, and not an allocation of its own.
    part: bool,
}

impl Arena {
    /// The first free part that is long enough.
    fn take(&mut self, bytes: u64) -> Option<u64> {
        let at = self.free.iter().position(|&(_, free)| free >= bytes)?;
        let (offset, free) = self.free[at];
        if free == bytes {
            self.free.remove(at);
        } else {
            self.free[at] = (offset + bytes, free - bytes);
        }
        Some(self.base + offset)
    }

    fn give_back(&mut self, address: u64, bytes: u64) {
        let (mut start, mut end) = (address - self.base, address - self.base + bytes);
        let at = self.free.partition_point(|&(offset, _)| offset < start);
        if let Some(&(offset, free)) = self.free.get(at)
            && offset == end
        {
            end += free;
            self.free.remove(at);
        }
        match at.checked_sub(1).map(|before| &mut self.free[before]) {
            Some(before) if before.0 + before.1 == start => {
                start = before.0;
                before.1 = end - start;
            }
            _ => self.free.insert(at, (start, end - start)),
        }
    }

    fn is_unused(&self) -> bool {
        self.free == [(0, self.bytes)]
    }
}

impl Memory {
    /// Memory of a driver, without an arena yet.
    pub(crate) fn new(driver: &Arc<dyn Driver>) -> Arc<Self> {
        Self::with(driver, false, None)
    }

    /// Memory that only counts what would be needed: an arena without end, on a driver that
    /// computes nothing.
    pub(crate) fn dry_run(driver: &Arc<dyn Driver>) -> Arc<Self> {
        // Addresses are never followed; 256 TiB are more than any plan.
        let bytes = 1 << 48;
        let arena = Arena {
            base: bytes,
            bytes,
            free: vec![(0, bytes)],
        };
        Self::with(driver, true, Some(arena))
    }

    fn with(driver: &Arc<dyn Driver>, dry_run: bool, arena: Option<Arena>) -> Arc<Self> {
        Arc::new(Self {
            driver: driver.clone(),
            dry_run,
            state: Mutex::new(State {
                class: MemoryClass::Activations,
                live: [0; MemoryClass::ALL.len()],
                most: MemoryUse::default(),
                arena,
                limit: None,
                outside: 0,
            }),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the memory is.
    pub(crate) fn driver(&self) -> &Arc<dyn Driver> {
        &self.driver
    }

    /// Whether nothing is computed.
    pub(crate) fn is_dry_run(&self) -> bool {
        self.dry_run
    }

    /// Says what buffers made from now on are for; returns what it was.
    pub(crate) fn set_class(&self, class: MemoryClass) -> MemoryClass {
        std::mem::replace(&mut self.state().class, class)
    }

    /// Most that was in use, by class.
    pub(crate) fn most(&self) -> MemoryUse {
        self.state().most
    }

    /// Notes how much scratch memory an operation took.
    pub(crate) fn note_scratch(&self, bytes: u64) {
        self.state().most.raise(MemoryClass::Scratch, bytes);
    }

    /// Makes the arena, in the driver's only allocation from now on. Its use is counted anew.
    ///
    /// # Errors
    /// Where the driver has not so much, or an earlier arena is in use.
    pub(crate) fn reserve(&self, bytes: u64, limit: Option<u64>) -> Result<()> {
        let mut state = self.state();
        state.most = MemoryUse::default();
        if self.driver.watches_memory() || self.dry_run {
            return Ok(());
        }
        if let Some(arena) = &state.arena {
            ensure!(
                arena.is_unused(),
                "the arena of an earlier plan is still in use"
            );
            // SAFETY: no part of it is in use, and it came from `allocate`.
            unsafe { self.driver.free(arena.base) };
            state.arena = None;
        }
        let size = usize::try_from(bytes)?.max(1).next_multiple_of(ALIGNMENT);
        let bytes = size as u64;
        state.arena = Some(Arena {
            base: self.driver.allocate(size, false)?,
            bytes,
            free: vec![(0, bytes)],
        });
        state.limit = limit;
        Ok(())
    }

    /// Memory of at least `bytes` bytes, with zeros or with anything in it; of the class set
    /// before, or of another.
    pub(super) fn take(
        &self,
        bytes: usize,
        class: Option<MemoryClass>,
        zeroed: bool,
    ) -> Result<Lease> {
        let mut state = self.state();
        let class = class.unwrap_or(state.class);
        let rounded = bytes.max(1).next_multiple_of(ALIGNMENT) as u64;
        let part = state.arena.as_mut().and_then(|arena| arena.take(rounded));
        let address = match part {
            Some(address) => {
                if zeroed {
                    // SAFETY: the part is this long, and nobody else has it.
                    unsafe { self.driver.zero(address, bytes)? };
                }
                address
            }
            None => {
                let arena = state.arena.as_ref().map(|arena| arena.bytes);
                if let (Some(arena), Some(limit)) = (arena, state.limit)
                    && arena + state.outside + rounded > limit
                {
                    bail!(
                        "{bytes} bytes more than were planned, beside an arena of {arena} and {} \
                         outside of it, are beyond the limit of {limit} bytes",
                        state.outside
                    );
                }
                let address = self.driver.allocate(bytes.max(1), zeroed)?;
                if arena.is_some() {
                    state.outside += rounded;
                    state.most.unplanned = state.most.unplanned.max(state.outside);
                }
                address
            }
        };
        // The block that operations cut their scratch memory from says nothing of how much they
        // take: they note that.
        if class != MemoryClass::Scratch {
            let live = &mut state.live[class as usize];
            *live += rounded;
            let live = *live;
            state.most.raise(class, live);
        }
        Ok(Lease {
            address,
            bytes: rounded,
            class,
            part: part.is_some(),
        })
    }

    pub(super) fn give_back(&self, lease: &Lease) {
        let mut state = self.state();
        if lease.class != MemoryClass::Scratch {
            state.live[lease.class as usize] -= lease.bytes;
        }
        match (lease.part, &mut state.arena) {
            (true, Some(arena)) => arena.give_back(lease.address, lease.bytes),
            (_, arena) => {
                let planned = arena.is_some();
                if planned {
                    state.outside = state.outside.saturating_sub(lease.bytes);
                }
                // SAFETY: the address came from `allocate`; pointers into it are used by launches
                // issued before only.
                unsafe { self.driver.free(lease.address) };
            }
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(arena) = state.arena.take()
            && !self.dry_run
        {
            // SAFETY: it came from `allocate`; buffers hold this memory, so none is left.
            unsafe { self.driver.free(arena.base) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_reused_and_free_neighbours_join() {
        let mut arena = Arena {
            base: 1000,
            bytes: 100,
            free: vec![(0, 100)],
        };
        let parts: Vec<u64> = [30, 20, 50]
            .map(|bytes| arena.take(bytes).unwrap())
            .to_vec();
        assert_eq!(parts, [1000, 1030, 1050]);
        assert_eq!(arena.take(1), None);
        arena.give_back(1030, 20);
        assert_eq!(arena.take(30), None);
        assert_eq!(arena.take(10), Some(1030));
        arena.give_back(1000, 30);
        arena.give_back(1050, 50);
        assert_eq!(arena.free, [(0, 30), (40, 60)]);
        arena.give_back(1030, 10);
        assert!(arena.is_unused());
    }
}
