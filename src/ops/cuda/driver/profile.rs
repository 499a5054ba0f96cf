//! Times of single kernels: a driver around another that marks the points before and after each
//! launch. On a card the marks are events, on the simulator the host's clock.

use anyhow::Result;
use std::collections::BTreeMap;
use std::ffi::c_void;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Driver, Event, Kernel, Traffic};

/// What is measured where the driver zeroes memory.
const ZEROING: &str = "zeroing";
/// Launches whose marks are kept before they are read, which waits for the device.
const PENDING: usize = 4096;

/// What was measured of one kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Measured {
    /// Times launched.
    pub launches: u64,
    /// Seconds in all.
    pub seconds: f64,
}

/// What a profiled driver has measured; shared with whoever reads it.
#[derive(Default)]
pub(crate) struct Profile(Mutex<State>);

#[derive(Default)]
struct State {
    on: bool,
    steps: u64,
    pending: Vec<(&'static str, Event, Event)>,
    kernels: BTreeMap<&'static str, Measured>,
}

impl Profile {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Steps that were measured.
    pub(crate) fn steps(&self) -> u64 {
        self.state().steps
    }

    /// What was measured, by kernel.
    pub(crate) fn kernels(&self) -> BTreeMap<&'static str, Measured> {
        self.state().kernels.clone()
    }
}

/// A driver whose launches are timed.
pub(crate) struct ProfilingDriver {
    inner: Arc<dyn Driver>,
    profile: Arc<Profile>,
}

impl ProfilingDriver {
    /// Around another driver.
    pub(crate) fn new(inner: impl Driver + 'static, profile: Arc<Profile>) -> Self {
        Self {
            inner: Arc::new(inner),
            profile,
        }
    }

    /// Does something and notes how long the device took for it.
    fn timed(&self, name: &'static str, work: impl FnOnce() -> Result<()>) -> Result<()> {
        if !self.profile.state().on {
            return work();
        }
        let from = self.inner.mark()?;
        work()?;
        let to = self.inner.mark()?;
        let mut state = self.profile.state();
        state.pending.push((name, from, to));
        match state.pending.len() >= PENDING {
            true => self.read_marks(&mut state),
            false => Ok(()),
        }
    }

    fn read_marks(&self, state: &mut State) -> Result<()> {
        for (name, from, to) in std::mem::take(&mut state.pending) {
            let measured = state.kernels.entry(name).or_default();
            measured.launches += 1;
            measured.seconds += self.inner.seconds_between(from, to)?;
        }
        Ok(())
    }
}

impl Driver for ProfilingDriver {
    fn name(&self) -> String {
        format!("{}, profiled", self.inner.name())
    }

    fn multiprocessors(&self) -> usize {
        self.inner.multiprocessors()
    }

    fn allocate(&self, bytes: usize, zeroed: bool) -> Result<u64> {
        self.inner.allocate(bytes, zeroed)
    }

    unsafe fn free(&self, address: u64) {
        // SAFETY: the caller's promise is the same.
        unsafe { self.inner.free(address) }
    }

    unsafe fn upload(&self, bytes: &[u8], to: u64) -> Result<()> {
        // SAFETY: the caller's promise is the same.
        unsafe { self.inner.upload(bytes, to) }
    }

    // Nothing is recorded while it is profiled: each launch has its own time.
    unsafe fn stage(&self, pieces: &[(&[u8], u64)]) -> Result<()> {
        // SAFETY: the caller's promise is the same.
        unsafe { self.inner.stage(pieces) }
    }

    unsafe fn download(&self, from: u64, bytes: &mut [u8]) -> Result<()> {
        // SAFETY: the caller's promise is the same.
        unsafe { self.inner.download(from, bytes) }
    }

    unsafe fn copy(&self, from: u64, to: u64, bytes: usize) -> Result<()> {
        // SAFETY: the caller's promise is the same.
        unsafe { self.inner.copy(from, to, bytes) }
    }

    unsafe fn zero(&self, address: u64, bytes: usize) -> Result<()> {
        // SAFETY: the caller's promise is the same.
        self.timed(ZEROING, || unsafe { self.inner.zero(address, bytes) })
    }

    unsafe fn launch(
        &self,
        kernel: &'static Kernel,
        grid: [u32; 3],
        shared_bytes: u32,
        arguments: &mut [*mut c_void],
    ) -> Result<()> {
        // SAFETY: the caller's promise is the same.
        self.timed(kernel.name(), || unsafe {
            self.inner.launch(kernel, grid, shared_bytes, arguments)
        })
    }

    fn synchronize(&self) -> Result<()> {
        self.inner.synchronize()
    }

    fn note(&self, note: Traffic) {
        self.inner.note(note);
    }

    fn watches_memory(&self) -> bool {
        self.inner.watches_memory()
    }

    fn free_memory(&self) -> Result<Option<u64>> {
        self.inner.free_memory()
    }

    fn profile(&self, on: bool) {
        let mut state = self.profile.state();
        if on && !state.on {
            state.steps += 1;
        }
        state.on = on;
        if !on {
            // A failure of the device is told by its next call; the times are then those up to it.
            let _ = self.read_marks(&mut state);
        }
    }
}
