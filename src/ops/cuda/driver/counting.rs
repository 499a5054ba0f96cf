//! A driver around another one that counts what it is asked for: launches, copies, waits, memory,
//! and by operation the bytes that launches declare to move ([`Traffic`]). Around the simulator it
//! shows what the trainer's code does, around [`super::fake`] what a step at the real model's
//! shapes would.

use anyhow::Result;
use std::collections::BTreeMap;
use std::ffi::c_void;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Driver, Kernel, Recording, Traffic};

/// Of one operation.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct OperationCounters {
    /// How often it was asked for.
    pub calls: usize,
    /// Its kernels, zeros and copies.
    pub launches: usize,
    /// Bytes that its inputs and outputs have.
    pub least: usize,
    /// Bytes that its launches move.
    pub moved: usize,
}

/// What was asked for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counters {
    /// Kernels, also as part of a recording.
    pub launches: usize,
    /// Zeros, also as part of a recording.
    pub zeros: usize,
    /// Copies within the device, also as part of a recording.
    pub copies: usize,
    /// Recordings that were issued.
    pub replays: usize,
    /// Operations that the host issued on its own: kernels, zeros, copies and recordings.
    pub issued: usize,
    /// Allocations.
    pub allocations: usize,
    /// Bytes of all allocations.
    pub allocated: usize,
    /// Copies from the host that the host may have to wait for.
    pub uploads: usize,
    /// Copies from the host that it does not wait for, as calls.
    pub staged: usize,
    /// Bytes from the host, of both kinds.
    pub uploaded: usize,
    /// Copies to the host, each of which waits.
    pub downloads: usize,
    /// Waits without a copy.
    pub synchronisations: usize,
    /// By operation.
    pub operations: BTreeMap<&'static str, OperationCounters>,
}

impl Counters {
    fn add(&mut self, other: &Counters) {
        self.launches += other.launches;
        self.zeros += other.zeros;
        self.copies += other.copies;
        for (name, more) in &other.operations {
            let own = self.operations.entry(name).or_default();
            own.calls += more.calls;
            own.launches += more.launches;
            own.least += more.least;
            own.moved += more.moved;
        }
    }

    /// The sum over all operations.
    pub fn total(&self) -> OperationCounters {
        let mut sum = OperationCounters::default();
        for operation in self.operations.values() {
            sum.calls += operation.calls;
            sum.launches += operation.launches;
            sum.least += operation.least;
            sum.moved += operation.moved;
        }
        sum
    }
}

#[derive(Default)]
struct State {
    tally: Counters,
    /// While operations are recorded they count here.
    recorded: Option<Counters>,
    /// The operation under way.
    operation: &'static str,
}

impl State {
    fn current(&mut self) -> &mut Counters {
        self.recorded.as_mut().unwrap_or(&mut self.tally)
    }

    /// One more launch, zeros or copy of the operation under way, that moves so many bytes.
    fn issue(&mut self, moved: usize) -> &mut Counters {
        if self.recorded.is_none() {
            self.tally.issued += 1;
        }
        let name = self.operation;
        let tally = self.current();
        let operation = tally.operations.entry(name).or_default();
        operation.launches += 1;
        operation.moved += moved;
        tally
    }
}

/// What was counted, for whoever looks.
#[derive(Clone, Default)]
pub struct Counts(Arc<Mutex<State>>);

impl Counts {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was counted since the last call.
    pub fn take(&self) -> Counters {
        std::mem::take(&mut self.state().tally)
    }
}

/// The driver that counts.
pub struct CountingDriver<D> {
    inner: D,
    counts: Counts,
    records: bool,
}

/// The inner driver's recording, and what it counts for each time it is issued.
struct Counted {
    inner: Recording,
    tally: Counters,
}

impl<D: Driver> CountingDriver<D> {
    /// Around `inner`, counting into `counts`.
    pub fn new(inner: D, counts: &Counts) -> Self {
        Self {
            inner,
            counts: counts.clone(),
            records: true,
        }
    }

    /// As [`CountingDriver::new`], but nothing is ever recorded: each operation is issued on its
    /// own.
    pub fn without_recording(inner: D, counts: &Counts) -> Self {
        Self {
            records: false,
            ..Self::new(inner, counts)
        }
    }
}

impl<D: Driver> Driver for CountingDriver<D> {
    fn name(&self) -> String {
        format!("{}, counted", self.inner.name())
    }

    fn multiprocessors(&self) -> usize {
        self.inner.multiprocessors()
    }

    fn allocate(&self, bytes: usize, zeroed: bool) -> Result<u64> {
        let address = self.inner.allocate(bytes, zeroed)?;
        let mut state = self.counts.state();
        state.tally.allocations += 1;
        state.tally.allocated += bytes;
        Ok(address)
    }

    unsafe fn free(&self, address: u64) {
        // SAFETY: the caller's promise.
        unsafe { self.inner.free(address) }
    }

    unsafe fn upload(&self, bytes: &[u8], to: u64) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.inner.upload(bytes, to) }?;
        let mut state = self.counts.state();
        state.tally.uploads += 1;
        state.tally.uploaded += bytes.len();
        Ok(())
    }

    unsafe fn stage(&self, pieces: &[(&[u8], u64)]) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.inner.stage(pieces) }?;
        let mut state = self.counts.state();
        state.tally.staged += 1;
        state.tally.uploaded += pieces.iter().map(|(bytes, _)| bytes.len()).sum::<usize>();
        Ok(())
    }

    unsafe fn download(&self, from: u64, bytes: &mut [u8]) -> Result<()> {
        self.counts.state().tally.downloads += 1;
        // SAFETY: the caller's promise.
        unsafe { self.inner.download(from, bytes) }
    }

    unsafe fn copy(&self, from: u64, to: u64, bytes: usize) -> Result<()> {
        self.counts.state().issue(2 * bytes).copies += 1;
        // SAFETY: the caller's promise.
        unsafe { self.inner.copy(from, to, bytes) }
    }

    unsafe fn zero(&self, address: u64, bytes: usize) -> Result<()> {
        self.counts.state().issue(bytes).zeros += 1;
        // SAFETY: the caller's promise.
        unsafe { self.inner.zero(address, bytes) }
    }

    unsafe fn launch(
        &self,
        kernel: &'static Kernel,
        grid: [u32; 3],
        shared_bytes: u32,
        arguments: &mut [*mut c_void],
    ) -> Result<()> {
        // The bytes have been noted before.
        self.counts.state().issue(0).launches += 1;
        // SAFETY: the caller's promise.
        unsafe { self.inner.launch(kernel, grid, shared_bytes, arguments) }
    }

    fn synchronize(&self) -> Result<()> {
        self.counts.state().tally.synchronisations += 1;
        self.inner.synchronize()
    }

    fn begin_recording(&self) -> Result<bool> {
        if !self.records || !self.inner.begin_recording()? {
            return Ok(false);
        }
        self.counts.state().recorded = Some(Counters::default());
        Ok(true)
    }

    fn end_recording(&self) -> Result<Recording> {
        let tally = self.counts.state().recorded.take().unwrap_or_default();
        let inner = self.inner.end_recording()?;
        Ok(Recording(Box::new(Counted { inner, tally })))
    }

    unsafe fn replay(&self, recording: &Recording) -> Result<()> {
        let Some(counted) = recording.0.downcast_ref::<Counted>() else {
            anyhow::bail!("the recording is another driver's");
        };
        let mut state = self.counts.state();
        state.tally.replays += 1;
        state.tally.issued += 1;
        state.tally.add(&counted.tally);
        drop(state);
        // SAFETY: the caller's promise.
        unsafe { self.inner.replay(&counted.inner) }
    }

    fn note(&self, note: Traffic) {
        let mut state = self.counts.state();
        match note {
            Traffic::Operation { name, least } => {
                state.operation = name;
                let operation = state.current().operations.entry(name).or_default();
                operation.calls += 1;
                operation.least += least;
            }
            Traffic::Launch { read, written } => {
                let name = state.operation;
                let operation = state.current().operations.entry(name).or_default();
                operation.moved += read + written;
            }
        }
        drop(state);
        self.inner.note(note);
    }

    fn watches_memory(&self) -> bool {
        self.inner.watches_memory()
    }
}
