//! The simulator as a driver: the same kernels, compiled for the host, one fibre per CUDA thread
//! (`kernels/sim/fiber.h`).
//!
//! With `verify`, every launch runs five times, each under another schedule of its threads and
//! blocks and with another pattern in the memory that nobody wrote: shared memory, scratch buffers,
//! the zones around every buffer. All five must give the same bits. So a missing barrier, a read of
//! memory that was never written, a read past a buffer and a dependence on the order of blocks are
//! errors that name the kernel; a write past a buffer is seen by its zone.

mod library;
mod memory;
mod schedules;

use anyhow::{Result, bail};
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::ffi::{CStr, c_void};
use std::sync::{Mutex, MutexGuard, PoisonError};

pub(crate) use library::missing;
use library::{Library, Request, Runner};
use memory::{Allocation, GUARD};
use schedules::{RUNS, Run, Schedule};

use super::recording::{Command, CommandList, commands};
use super::{Driver, Kernel, Recording};

/// The simulator.
pub struct SimDriver {
    library: Library,
    verify: bool,
    /// By address.
    memory: Mutex<BTreeMap<u64, Allocation>>,
    runners: Mutex<Vec<Runner>>,
    recorder: CommandList,
}

impl SimDriver {
    /// With the kernels of this binary.
    ///
    /// # Errors
    /// In a build without a simulator; says how to get one.
    pub fn new(verify: bool) -> Result<Self> {
        Ok(Self::of(Library::linked()?, verify))
    }

    /// With the kernels of a shared library, e.g. one compiled with AddressSanitizer.
    ///
    /// # Errors
    /// When it cannot be loaded or is none of the simulator.
    #[cfg(unix)]
    pub fn load(path: &std::path::Path, verify: bool) -> Result<Self> {
        use std::os::unix::ffi::OsStrExt;
        let path = std::ffi::CString::new(path.as_os_str().as_bytes())?;
        Ok(Self::of(Library::load(&path)?, verify))
    }

    fn of(library: Library, verify: bool) -> Self {
        Self {
            library,
            verify,
            memory: Mutex::default(),
            runners: Mutex::default(),
            recorder: CommandList::default(),
        }
    }

    fn memory(&self) -> MutexGuard<'_, BTreeMap<u64, Allocation>> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn runner(&self) -> Runner {
        let mut idle = self.runners.lock().unwrap_or_else(PoisonError::into_inner);
        idle.pop().unwrap_or_else(|| Runner {
            // SAFETY: it takes nothing.
            pointer: unsafe { (self.library.new_runner)() },
            free: self.library.free_runner,
        })
    }

    fn give_back(&self, runner: Runner) {
        let mut idle = self.runners.lock().unwrap_or_else(PoisonError::into_inner);
        idle.push(runner);
    }

    /// One block; says what went wrong in it.
    fn block(&self, runner: &mut Runner, request: &Request, index: u64) -> Result<()> {
        // SAFETY: runner and request are alive; the launch's caller vouches for the kernel's
        // arguments.
        let message = unsafe { (self.library.run_block)(runner.pointer, request, index) };
        if message.is_null() {
            return Ok(());
        }
        // SAFETY: a text that lives until the runner's next block.
        let text = unsafe { CStr::from_ptr(message) };
        bail!("simulator: {}", text.to_string_lossy())
    }

    /// All blocks at once, on as many threads as there are.
    fn run_fast(&self, request: &Request) -> Result<()> {
        let blocks = blocks(request.grid);
        if blocks == 1 {
            let mut runner = self.runner();
            let result = self.block(&mut runner, request, 0);
            self.give_back(runner);
            return result;
        }
        let threads = rayon::current_num_threads() as u64;
        let share = blocks.div_ceil(threads * 4);
        (0..blocks.div_ceil(share))
            .into_par_iter()
            .try_for_each(|part| {
                let mut runner = self.runner();
                let mut indices = part * share..((part + 1) * share).min(blocks);
                let result = indices.try_for_each(|at| self.block(&mut runner, request, at));
                self.give_back(runner);
                result
            })
    }

    /// One block after another, in the order of the schedule.
    fn run_in_order(&self, request: &Request) -> Result<()> {
        let mut order: Vec<u64> = (0..blocks(request.grid)).collect();
        match request.schedule {
            Schedule::Forward | Schedule::GreedyFirst => {}
            Schedule::Reverse | Schedule::GreedyLast => order.reverse(),
            Schedule::Shuffled => {
                // A permutation without a pattern: sorted by the products with an odd number.
                order.sort_by_key(|at| (at + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
            }
        }
        let mut runner = self.runner();
        let result = order
            .into_iter()
            .try_for_each(|at| self.block(&mut runner, request, at));
        self.give_back(runner);
        result
    }

    /// Runs the launch one way on poisoned memory and checks the zones.
    fn run_one_way(
        &self,
        memory: &mut BTreeMap<u64, Allocation>,
        request: &mut Request,
        kernel: &Kernel,
        run: Run,
    ) -> Result<()> {
        for allocation in memory.values_mut() {
            allocation.poison(run.poison);
        }
        (request.schedule, request.poison) = (run.schedule, run.poison);
        request.late_reads = u32::from(run.late_reads);
        self.run_in_order(request)?;
        for allocation in memory.values_mut() {
            if let Some(at) = allocation.damage(run.poison) {
                bail!(
                    "simulator: {}: byte {at} of a buffer of {} bytes was written: out of bounds",
                    kernel.name(),
                    allocation.bytes
                );
            }
        }
        Ok(())
    }

    /// Runs the launch all ways and compares.
    fn run_verified(
        &self,
        memory: &mut BTreeMap<u64, Allocation>,
        request: &mut Request,
        kernel: &Kernel,
    ) -> Result<()> {
        let snapshot = |memory: &mut BTreeMap<u64, Allocation>| -> Vec<Vec<u8>> {
            memory.values_mut().map(|a| a.data().to_vec()).collect()
        };
        let before = snapshot(memory);
        self.run_one_way(memory, request, kernel, RUNS[0])?;
        let result = snapshot(memory);
        for run in &RUNS[1..] {
            restore(memory, &before);
            self.run_one_way(memory, request, kernel, *run)?;
            if let Some((bytes, at)) = first_difference(memory, &result, RUNS[0].poison, run.poison)
            {
                // The first schedule with the other pattern tells the two causes apart.
                restore(memory, &before);
                let other = Run {
                    poison: 0x5a,
                    ..RUNS[0]
                };
                self.run_one_way(memory, request, kernel, other)?;
                let read = first_difference(memory, &result, RUNS[0].poison, other.poison);
                let cause = match read {
                    Some(_) => {
                        "it reads memory that nobody has written yet (shared, scratch or outside \
                         of a buffer)"
                            .to_owned()
                    }
                    None => format!(
                        "a race: threads run {:?} and {:?}",
                        RUNS[0].schedule, run.schedule
                    ),
                };
                bail!(
                    "simulator: {}: byte {at} of a buffer of {bytes} bytes has no certain value: \
                     {cause}",
                    kernel.name()
                );
            }
        }
        // What still holds the pattern of each run was not written; it must be of two runs that
        // differ in it.
        for (allocation, result) in memory.values_mut().zip(&result) {
            let Some(mut unwritten) = allocation.unwritten.take() else {
                continue;
            };
            let last = RUNS[RUNS.len() - 1].poison;
            for ((still, &first), &now) in unwritten
                .iter_mut()
                .zip(result)
                .zip(allocation.data().iter())
            {
                *still &= first == RUNS[0].poison && now == last;
            }
            if unwritten.contains(&true) {
                allocation.unwritten = Some(unwritten);
            }
        }
        Ok(())
    }

    /// The allocation that a range lies in, and where in it.
    fn find(
        memory: &mut BTreeMap<u64, Allocation>,
        address: u64,
        bytes: usize,
    ) -> Result<(&mut Allocation, usize)> {
        let found = memory.range_mut(..=address).next_back();
        let found = found.map(|(start, allocation)| ((address - start) as usize, allocation));
        match found {
            Some((at, allocation)) if at + bytes <= allocation.bytes => Ok((allocation, at)),
            _ => bail!("simulator: {bytes} bytes at {address:#x} lie in no buffer"),
        }
    }
}

/// Number of blocks of a grid.
fn blocks(grid: [u32; 3]) -> u64 {
    grid.iter().map(|&n| u64::from(n)).product()
}

fn restore(memory: &mut BTreeMap<u64, Allocation>, saved: &[Vec<u8>]) {
    for (allocation, saved) in memory.values_mut().zip(saved) {
        allocation.data().copy_from_slice(saved);
    }
}

/// Length of the buffer and place of the first byte that differs from `expected`; bytes that hold
/// the pattern of their run on both sides were not written.
fn first_difference(
    memory: &mut BTreeMap<u64, Allocation>,
    expected: &[Vec<u8>],
    poison: u8,
    poison_now: u8,
) -> Option<(usize, usize)> {
    for (allocation, expected) in memory.values_mut().zip(expected) {
        let unwritten = allocation.unwritten.clone();
        let data = allocation.data();
        if data == expected.as_slice() {
            continue;
        }
        let differs = |at: &usize| {
            let fresh = unwritten.as_ref().is_some_and(|unwritten| unwritten[*at]);
            data[*at] != expected[*at]
                && !(fresh && expected[*at] == poison && data[*at] == poison_now)
        };
        if let Some(at) = (0..data.len()).find(differs) {
            return Some((data.len(), at));
        }
    }
    None
}

impl Driver for SimDriver {
    fn name(&self) -> String {
        let how = if self.verify { ", verifying" } else { "" };
        format!("simulator ({} threads{how})", rayon::current_num_threads())
    }

    fn multiprocessors(&self) -> usize {
        // Few, so that persistent blocks have several pieces of work each.
        3
    }

    fn allocate(&self, bytes: usize, zeroed: bool) -> Result<u64> {
        self.recorder.refuse("memory is asked for")?;
        // AddressSanitizer has its own zones, and they see reads.
        let guard = if self.library.sanitized { 0 } else { GUARD };
        let mut allocation = Allocation::new(bytes, guard)?;
        if !zeroed {
            if self.verify {
                allocation.unwritten = Some(vec![true; bytes]);
            }
            allocation.poison(RUNS[0].poison);
            allocation.data().fill(RUNS[0].poison);
        }
        let address = allocation.address();
        self.memory().insert(address, allocation);
        Ok(address)
    }

    unsafe fn free(&self, address: u64) {
        self.memory().remove(&address);
    }

    unsafe fn upload(&self, bytes: &[u8], to: u64) -> Result<()> {
        self.recorder.refuse("the host copies to the device")?;
        let mut memory = self.memory();
        let (allocation, at) = Self::find(&mut memory, to, bytes.len())?;
        allocation.data()[at..at + bytes.len()].copy_from_slice(bytes);
        allocation.mark_written(at, bytes.len());
        Ok(())
    }

    unsafe fn download(&self, from: u64, bytes: &mut [u8]) -> Result<()> {
        self.recorder.refuse("the host copies from the device")?;
        let mut memory = self.memory();
        let (allocation, at) = Self::find(&mut memory, from, bytes.len())?;
        bytes.copy_from_slice(&allocation.data()[at..at + bytes.len()]);
        Ok(())
    }

    unsafe fn copy(&self, from: u64, to: u64, bytes: usize) -> Result<()> {
        if self.recorder.kept(|| Command::Copy { from, to, bytes }) {
            return Ok(());
        }
        let mut memory = self.memory();
        let (source, at) = Self::find(&mut memory, from, bytes)?;
        let values = source.data()[at..at + bytes].to_vec();
        let (target, at) = Self::find(&mut memory, to, bytes)?;
        target.data()[at..at + bytes].copy_from_slice(&values);
        target.mark_written(at, bytes);
        Ok(())
    }

    unsafe fn zero(&self, address: u64, bytes: usize) -> Result<()> {
        if self.recorder.kept(|| Command::Zero { address, bytes }) {
            return Ok(());
        }
        let mut memory = self.memory();
        let (allocation, at) = Self::find(&mut memory, address, bytes)?;
        allocation.data()[at..at + bytes].fill(0);
        allocation.mark_written(at, bytes);
        Ok(())
    }

    unsafe fn launch(
        &self,
        kernel: &'static Kernel,
        grid: [u32; 3],
        shared_bytes: u32,
        arguments: &mut [*mut c_void],
    ) -> Result<()> {
        // SAFETY: the arguments are of the kernel's types.
        let command = || unsafe { Command::launch(kernel, grid, shared_bytes, arguments) };
        if self.recorder.kept(command) {
            return Ok(());
        }
        let mut request = Request {
            kernel: self.library.kernel(kernel)?,
            name: kernel.name.as_ptr(),
            arguments: arguments.as_mut_ptr(),
            grid,
            threads: kernel.threads,
            shared_bytes,
            schedule: Schedule::Forward,
            poison: RUNS[0].poison,
            late_reads: 0,
        };
        // Held throughout: launches run one after another, and nobody else touches the memory
        // meanwhile.
        let mut memory = self.memory();
        match self.verify {
            true => self.run_verified(&mut memory, &mut request, kernel),
            false => self.run_fast(&request),
        }
    }

    fn synchronize(&self) -> Result<()> {
        self.recorder.refuse("the host waits for the device")
    }

    fn begin_recording(&self) -> Result<bool> {
        // Scratch memory that is watched is new for each operation, so launches cannot be repeated.
        if self.watches_memory() {
            return Ok(false);
        }
        self.recorder.begin()?;
        Ok(true)
    }

    fn end_recording(&self) -> Result<Recording> {
        Ok(Recording(Box::new(self.recorder.end()?)))
    }

    unsafe fn replay(&self, recording: &Recording) -> Result<()> {
        for command in commands(recording)? {
            // SAFETY: the caller's promise.
            unsafe { command.issue(self) }?;
        }
        Ok(())
    }

    fn watches_memory(&self) -> bool {
        self.verify || self.library.sanitized
    }
}
