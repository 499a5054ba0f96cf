//! A driver that computes nothing: what a run asks of it shows how much memory the run needs, without a card, kernels or
//! the memory itself.

use anyhow::Result;
use std::collections::BTreeMap;
use std::ffi::c_void;
use std::sync::{Mutex, PoisonError};

use super::driver::{Driver, Kernel};

/// Takes every launch, and gives zeros to whoever downloads.
pub struct RehearsalDriver {
    multiprocessors: usize,
    launches: Mutex<BTreeMap<&'static str, u64>>,
}

impl RehearsalDriver {
    /// For a card of so many multiprocessors: operations choose tiles, and with them scratch memory, by their number.
    pub fn new(multiprocessors: usize) -> Self {
        Self {
            multiprocessors,
            launches: Mutex::default(),
        }
    }

    /// Launches of each kernel since the last call.
    pub fn take_launches(&self) -> BTreeMap<&'static str, u64> {
        std::mem::take(&mut *self.launches.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Driver for RehearsalDriver {
    fn name(&self) -> String {
        format!("rehearsal ({} SMs)", self.multiprocessors)
    }

    fn multiprocessors(&self) -> usize {
        self.multiprocessors
    }

    fn allocate(&self, _bytes: usize, _zeroed: bool) -> Result<u64> {
        // Nobody follows it.
        Ok(super::arena::ALIGNMENT as u64)
    }

    unsafe fn free(&self, _address: u64) {}

    unsafe fn upload(&self, _bytes: &[u8], _to: u64) -> Result<()> {
        Ok(())
    }

    unsafe fn download(&self, _from: u64, bytes: &mut [u8]) -> Result<()> {
        bytes.fill(0);
        Ok(())
    }

    unsafe fn copy(&self, _from: u64, _to: u64, _bytes: usize) -> Result<()> {
        Ok(())
    }

    unsafe fn zero(&self, _address: u64, _bytes: usize) -> Result<()> {
        Ok(())
    }

    unsafe fn launch(
        &self,
        kernel: &'static Kernel,
        _grid: [u32; 3],
        _shared_bytes: u32,
        _arguments: &mut [*mut c_void],
    ) -> Result<()> {
        let mut launches = self.launches.lock().unwrap_or_else(PoisonError::into_inner);
        *launches.entry(kernel.name()).or_default() += 1;
        Ok(())
    }

    fn synchronize(&self) -> Result<()> {
        Ok(())
    }
}
