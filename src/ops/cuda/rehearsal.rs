//! A driver that computes nothing: what a run asks of it shows how much memory the run needs, without a card, kernels or
//! the memory itself.

use anyhow::Result;
use std::ffi::c_void;

use super::driver::{Driver, Kernel};

/// Takes every launch, and gives zeros to whoever downloads.
pub struct RehearsalDriver {
    multiprocessors: usize,
}

impl RehearsalDriver {
    /// For a card of so many multiprocessors: operations choose tiles, and with them scratch memory, by their number.
    pub fn new(multiprocessors: usize) -> Self {
        Self { multiprocessors }
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
        _kernel: &'static Kernel,
        _grid: [u32; 3],
        _shared_bytes: u32,
        _arguments: &mut [*mut c_void],
    ) -> Result<()> {
        Ok(())
    }

    fn synchronize(&self) -> Result<()> {
        Ok(())
    }
}
