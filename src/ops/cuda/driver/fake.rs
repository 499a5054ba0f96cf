//! A driver without arithmetic, for dry runs: it hands out addresses, counts launches and runs
//! none. It can also check that everything it is asked for lies in memory that it handed out. With
//! [`super::counting`] around it, a training step at the real model's shapes is counted in
//! milliseconds.

use anyhow::{Result, bail, ensure};
use std::collections::BTreeMap;
use std::ffi::c_void;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::recording::{Command, CommandList, commands};
use super::{Driver, Kernel, ParameterKind, Recording};
use crate::ops::cuda::memory::arena::ALIGNMENT;

/// The first address; those below are in no buffer.
const BASE: u64 = 1 << 32;

/// A card that exists on paper.
pub struct FakeDriver {
    multiprocessors: usize,
    /// The live allocations, where they are checked.
    memory: Option<Mutex<Memory>>,
    recorder: CommandList,
    launches: Mutex<BTreeMap<&'static str, u64>>,
}

struct Memory {
    /// Length by address.
    live: BTreeMap<u64, usize>,
    next: u64,
}

impl FakeDriver {
    /// A card of so many multiprocessors: operations choose tiles, and with them scratch memory, by
    /// their number.
    pub fn new(multiprocessors: usize) -> Self {
        Self {
            multiprocessors,
            memory: None,
            recorder: CommandList::default(),
            launches: Mutex::default(),
        }
    }

    /// As [`FakeDriver::new`], with every address checked, and with recordings.
    pub fn checked(multiprocessors: usize) -> Self {
        let memory = Memory {
            live: BTreeMap::new(),
            next: BASE,
        };
        Self {
            memory: Some(Mutex::new(memory)),
            ..Self::new(multiprocessors)
        }
    }

    /// Launches of each kernel since the last call.
    pub(crate) fn take_launches(&self) -> BTreeMap<&'static str, u64> {
        std::mem::take(&mut *self.launches.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn memory(&self) -> Option<MutexGuard<'_, Memory>> {
        let memory = self.memory.as_ref()?;
        Some(memory.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Refuses a range that is not in one live allocation.
    fn check(&self, what: &str, address: u64, bytes: usize) -> Result<()> {
        let Some(memory) = self.memory() else {
            return Ok(());
        };
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

impl Driver for FakeDriver {
    fn name(&self) -> String {
        format!("dry run ({} multiprocessors)", self.multiprocessors)
    }

    fn multiprocessors(&self) -> usize {
        self.multiprocessors
    }

    fn allocate(&self, bytes: usize, _zeroed: bool) -> Result<u64> {
        self.recorder.refuse("memory is asked for")?;
        let Some(mut memory) = self.memory() else {
            // Nothing follows it.
            return Ok(ALIGNMENT as u64);
        };
        let address = memory.next;
        // One unit between buffers, so that the end of one is not the beginning of the next.
        memory.next += (bytes as u64).next_multiple_of(ALIGNMENT as u64) + ALIGNMENT as u64;
        memory.live.insert(address, bytes);
        Ok(address)
    }

    unsafe fn free(&self, address: u64) {
        if let Some(mut memory) = self.memory() {
            memory.live.remove(&address);
        }
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
        if self.memory.is_some() {
            // SAFETY: the arguments are of the kernel's types, in their order.
            unsafe {
                self.check_arguments(kernel, arguments)?;
                self.recorder
                    .kept(|| Command::launch(kernel, grid, shared_bytes, arguments));
            }
        }
        let mut launches = self.launches.lock().unwrap_or_else(PoisonError::into_inner);
        *launches.entry(kernel.name()).or_default() += 1;
        Ok(())
    }

    fn synchronize(&self) -> Result<()> {
        self.recorder.refuse("the host waits for the device")
    }

    fn begin_recording(&self) -> Result<bool> {
        if self.memory.is_none() {
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
            // SAFETY: the caller's promise; everything is checked again.
            if let Err(error) = unsafe { command.issue(self) } {
                bail!("dry run: a recorded operation no longer holds: {error:#}");
            }
        }
        Ok(())
    }
}
