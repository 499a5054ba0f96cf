//! A driver without arithmetic: it hands out addresses, checks that everything it is asked for lies in memory it handed out, and
//! launches nothing. With [`super::counting`] around it, a training step at the real model's shapes is counted in milliseconds.

use anyhow::{Result, bail, ensure};
use std::collections::BTreeMap;
use std::ffi::c_void;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::driver::{Driver, Kernel, ParameterKind};
use super::recording::{Command, Recorder, Recording, commands};

/// Allocations begin at multiples of this.
const ALIGNMENT: u64 = 256;
/// The first address; those below are in no buffer.
const BASE: u64 = 1 << 32;

/// A card that exists on paper.
pub struct DryDriver {
    multiprocessors: usize,
    memory: Mutex<Memory>,
    recorder: Recorder,
}

struct Memory {
    /// Length by address.
    live: BTreeMap<u64, usize>,
    next: u64,
}

impl DryDriver {
    /// A card of so many multiprocessors, which persistent grids are sized by.
    pub fn new(multiprocessors: usize) -> Self {
        Self {
            multiprocessors,
            memory: Mutex::new(Memory {
                live: BTreeMap::new(),
                next: BASE,
            }),
            recorder: Recorder::default(),
        }
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses a range that is not in one live allocation.
    fn check(&self, what: &str, address: u64, bytes: usize) -> Result<()> {
        let memory = self.memory();
        let found = memory.live.range(..=address).next_back();
        let inside = found.is_some_and(|(start, len)| (address - start) as usize + bytes <= *len);
        ensure!(
            inside,
            "dry run: {what}: {bytes} bytes at {address:#x} lie in no buffer"
        );
        Ok(())
    }

    /// Refuses an argument that points nowhere, or not at a multiple of its element.
    unsafe fn check_arguments(
        &self,
        kernel: &'static Kernel,
        arguments: &[*mut c_void],
    ) -> Result<()> {
        ensure!(
            arguments.len() == kernel.parameters.len(),
            "dry run: {} has {} parameters and got {} arguments",
            kernel.name(),
            kernel.parameters.len(),
            arguments.len()
        );
        for (parameter, argument) in kernel.parameters.iter().zip(arguments) {
            let (ParameterKind::Read(bytes) | ParameterKind::Write(bytes)) = parameter.kind else {
                continue;
            };
            // SAFETY: the argument is a pointer's, by the kernel's signature.
            let address = unsafe { argument.cast::<u64>().read() };
            let what = format!("{}, {}", kernel.name(), parameter.name);
            ensure!(
                address.is_multiple_of(bytes as u64),
                "dry run: {what}: {address:#x} is no multiple of {bytes}"
            );
            // Null is for arguments that a kernel leaves out.
            if address != 0 {
                self.check(&what, address, bytes)?;
            }
        }
        Ok(())
    }
}

impl Driver for DryDriver {
    fn name(&self) -> String {
        format!("dry run ({} multiprocessors)", self.multiprocessors)
    }

    fn multiprocessors(&self) -> usize {
        self.multiprocessors
    }

    fn allocate(&self, bytes: usize, _zeroed: bool) -> Result<u64> {
        self.recorder.refuse("memory is asked for")?;
        let mut memory = self.memory();
        let address = memory.next;
        // One unit between buffers, so that the end of one is not the beginning of the next.
        memory.next += (bytes as u64).next_multiple_of(ALIGNMENT) + ALIGNMENT;
        memory.live.insert(address, bytes);
        Ok(address)
    }

    unsafe fn free(&self, address: u64) {
        self.memory().live.remove(&address);
    }

    unsafe fn upload(&self, bytes: &[u8], to: u64) -> Result<()> {
        self.recorder.refuse("the host copies to the device")?;
        self.check("upload", to, bytes.len())
    }

    /// Nothing was computed: zeros.
    unsafe fn download(&self, from: u64, bytes: &mut [u8]) -> Result<()> {
        self.recorder.refuse("the host copies from the device")?;
        self.check("download", from, bytes.len())?;
        bytes.fill(0);
        Ok(())
    }

    unsafe fn copy(&self, from: u64, to: u64, bytes: usize) -> Result<()> {
        self.check("copy from", from, bytes)?;
        self.check("copy to", to, bytes)?;
        self.recorder.kept(|| Command::Copy { from, to, bytes });
        Ok(())
    }

    unsafe fn zero(&self, address: u64, bytes: usize) -> Result<()> {
        self.check("zeros", address, bytes)?;
        self.recorder.kept(|| Command::Zero { address, bytes });
        Ok(())
    }

    unsafe fn launch(
        &self,
        kernel: &'static Kernel,
        grid: [u32; 3],
        shared_bytes: u32,
        arguments: &mut [*mut c_void],
    ) -> Result<()> {
        // SAFETY: the arguments are of the kernel's types, in their order.
        unsafe {
            self.check_arguments(kernel, arguments)?;
            self.recorder
                .kept(|| Command::launch(kernel, grid, shared_bytes, arguments));
        }
        Ok(())
    }

    fn synchronize(&self) -> Result<()> {
        self.recorder.refuse("the host waits for the device")
    }

    fn begin_recording(&self) -> Result<bool> {
        self.recorder.begin()?;
        Ok(true)
    }

    fn end_recording(&self) -> Result<Recording> {
        Ok(Recording(Box::new(self.recorder.end()?)))
    }

    unsafe fn replay(&self, recording: &Recording) -> Result<()> {
        for command in commands(recording)? {
            // SAFETY: the caller's promise; everything is checked again.
            if let Err(error) = unsafe { command.issue(self) } {
                bail!("dry run: a recorded operation no longer holds: {error:#}");
            }
        }
        Ok(())
    }
}
