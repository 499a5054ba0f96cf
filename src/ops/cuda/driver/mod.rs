//! What launches kernels and holds their memory: a card through the CUDA driver, or the simulator.
//! Everything above works on either.

pub mod counting;
pub mod cudarc_driver;
mod cudarc_error;
mod cudarc_staging;
pub mod fake;
pub(crate) mod profile;
pub(crate) mod recording;
pub mod simulator;

use anyhow::{Result, bail, ensure};
use std::any::Any;
use std::ffi::{CStr, c_void};
use std::time::Instant;

/// Operations that a driver kept, in its own form: what [`Driver::end_recording`] gives.
pub struct Recording(pub Box<dyn Any + Send>);

/// What a parameter of a kernel is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ParameterKind {
    /// `const T*`, with the bytes of a `T`.
    Read(usize),
    /// `T*`, with the bytes of a `T`.
    Write(usize),
    /// `float`, `int` or `unsigned`.
    Value,
}

/// A parameter of a kernel.
#[derive(Debug, PartialEq)]
pub struct Parameter {
    /// Its name in the source.
    pub name: &'static str,
    /// What it is.
    pub kind: ParameterKind,
}

impl Parameter {
    /// Bytes of an argument.
    pub(crate) fn bytes(&self) -> usize {
        match self.kind {
            ParameterKind::Value => 4,
            ParameterKind::Read(_) | ParameterKind::Write(_) => 8,
        }
    }
}

/// One entry point of `kernels/*.cu`, read off its source by `build.rs`.
#[derive(Debug, PartialEq)]
pub struct Kernel {
    /// Its place in the table of all kernels.
    pub index: usize,
    /// Its file, as a place in the table of modules.
    pub module: usize,
    /// Its name, e.g. `rmsnorm_fwd_f16`.
    pub name: &'static CStr,
    /// Threads of every block: the first number of its launch bounds.
    pub threads: u32,
    /// Most bytes of dynamic shared memory that a launch may ask for.
    pub dynamic_shared: u32,
    /// In their order.
    pub parameters: &'static [Parameter],
}

impl Kernel {
    /// Its name as text.
    pub fn name(&self) -> &'static str {
        self.name.to_str().unwrap_or("kernel")
    }
}

/// One file of `kernels/`, compiled.
#[derive(Debug)]
pub struct Module {
    /// E.g. `rmsnorm.cu`.
    pub source: &'static str,
    /// Fatbin; empty in a build without kernels for cards.
    pub image: &'static [u8],
    /// What ptxas said about each kernel and architecture: registers, shared memory, spills.
    pub ptxas_report: &'static str,
}

/// A point in the order of launches, to take times between.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    /// When the host was there, with everything launched before done.
    Host(Instant),
    /// A driver's own, by its handle.
    Event(usize),
}

/// A place with memory of its own that runs kernels, one after another in the order in which they
/// are launched. Addresses are the device's; allocations begin at multiples of 256 bytes.
pub trait Driver: Send + Sync {
    /// Name for people.
    fn name(&self) -> String;
    /// How many blocks run side by side, at the least: what persistent grids are sized by.
    fn multiprocessors(&self) -> usize;
    /// Memory of at least `bytes` bytes, with zeros or with anything in it.
    ///
    /// # Errors
    /// When there is not enough; says how much was asked for.
    fn allocate(&self, bytes: usize, zeroed: bool) -> Result<u64>;
    /// Gives memory back once everything launched so far is done with it.
    ///
    /// # Safety
    /// `address` came from `allocate`, and nothing that is launched later uses it.
    unsafe fn free(&self, address: u64);
    /// Copies from the host.
    ///
    /// # Errors
    /// When the device fails, also at an earlier launch.
    /// # Safety
    /// The range lies in one live allocation.
    unsafe fn upload(&self, bytes: &[u8], to: u64) -> Result<()>;
    /// Copies to the host; waits for everything launched before.
    ///
    /// # Errors
    /// When the device fails, also at an earlier launch.
    /// # Safety
    /// The range lies in one live allocation.
    unsafe fn download(&self, from: u64, bytes: &mut [u8]) -> Result<()>;
    /// Copies within the device.
    ///
    /// # Errors
    /// When the device fails, also at an earlier launch.
    /// # Safety
    /// Both ranges lie in live allocations and do not overlap.
    unsafe fn copy(&self, from: u64, to: u64, bytes: usize) -> Result<()>;
    /// Zeroes memory.
    ///
    /// # Errors
    /// When the device fails, also at an earlier launch.
    /// # Safety
    /// The range lies in one live allocation.
    unsafe fn zero(&self, address: u64, bytes: usize) -> Result<()>;
    /// Runs a kernel in `grid` blocks of `kernel.threads` threads. Use the generated launchers.
    ///
    /// # Errors
    /// When the kernel cannot be launched, or an earlier one failed.
    /// # Safety
    /// `arguments` point to values of the kernel's parameter types, and what it does with them by
    /// its contract stays within live allocations.
    unsafe fn launch(
        &self,
        kernel: &'static Kernel,
        grid: [u32; 3],
        shared_bytes: u32,
        arguments: &mut [*mut c_void],
    ) -> Result<()>;
    /// Waits until everything launched is done.
    ///
    /// # Errors
    /// When something launched before failed.
    fn synchronize(&self) -> Result<()>;
    /// Copies pieces from the host for launches to come, each to its address. The bytes have been
    /// taken when this returns, and may travel while earlier launches still run.
    ///
    /// # Errors
    /// When the device fails, also at an earlier launch.
    /// # Safety
    /// Each range lies in one live allocation.
    unsafe fn stage(&self, pieces: &[(&[u8], u64)]) -> Result<()> {
        for (bytes, to) in pieces {
            // SAFETY: the caller's promise.
            unsafe { self.upload(bytes, *to) }?;
        }
        Ok(())
    }
    /// From now on launches, copies and zeros are kept and not run; nothing else may be asked for.
    /// `false`: this driver keeps nothing. Only one thread uses the driver meanwhile.
    ///
    /// # Errors
    /// Within another recording, or when the device fails.
    fn begin_recording(&self) -> Result<bool> {
        Ok(false)
    }
    /// What was kept since [`Driver::begin_recording`].
    ///
    /// # Errors
    /// Where nothing was begun, or something was asked for meanwhile that cannot be kept.
    fn end_recording(&self) -> Result<Recording> {
        bail!("{} keeps no operations", self.name())
    }
    /// Issues what was kept.
    ///
    /// # Errors
    /// Where the recording is another driver's, or the device fails.
    /// # Safety
    /// All memory that it uses is still there.
    unsafe fn replay(&self, _recording: &Recording) -> Result<()> {
        bail!("{} keeps no operations", self.name())
    }
    /// Is told what operations and launches move, for those who count (`super::counting`).
    fn note(&self, _note: Traffic) {}
    /// True where scratch memory should not be kept and cut up, because the driver watches each
    /// allocation.
    fn watches_memory(&self) -> bool {
        false
    }
    /// Marks this point, for [`Driver::seconds_between`].
    ///
    /// # Errors
    /// When the device fails, also at an earlier launch.
    fn mark(&self) -> Result<Event> {
        self.synchronize()?;
        Ok(Event::Host(Instant::now()))
    }
    /// Seconds between two marks of this driver, which are used up; waits for the second.
    ///
    /// # Errors
    /// When the device fails, also at an earlier launch.
    fn seconds_between(&self, from: Event, to: Event) -> Result<f64> {
        match (from, to) {
            (Event::Host(from), Event::Host(to)) => Ok(to.duration_since(from).as_secs_f64()),
            _ => bail!("marks of another driver"),
        }
    }
    /// Where launches are profiled: whether those that come now are. See
    /// [`crate::ops::Recorder::profile`].
    fn profile(&self, _on: bool) {}
    /// Bytes that are free now; `None` where that is no bound.
    ///
    /// # Errors
    /// When the device fails.
    fn free_memory(&self) -> Result<Option<u64>> {
        Ok(None)
    }
}

/// What an operation declares about itself. A byte counts once per launch that reads or writes it:
/// what a launch reads again within its caches is not counted again.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Traffic {
    /// An operation begins. At the least it moves so many bytes: its inputs once and its outputs
    /// once.
    Operation {
        /// Its name.
        name: &'static str,
        /// The least possible.
        least: usize,
    },
    /// The next launch of the operation moves so many bytes.
    Launch {
        /// From memory.
        read: usize,
        /// To memory.
        written: usize,
    },
}

impl dyn Driver + '_ {
    /// Notes that an operation begins, and the bytes of its inputs and outputs.
    pub(super) fn operation(&self, name: &'static str, least: usize) {
        self.note(Traffic::Operation { name, least });
    }

    /// Notes what the next launch reads and writes, in bytes.
    pub(super) fn moves(&self, read: usize, written: usize) {
        self.note(Traffic::Launch { read, written });
    }
}

/// Checks a launch and hands it to the driver. A grid without blocks does nothing.
///
/// # Errors
/// Where the grid or the shared memory is beyond what the kernel or CUDA allows, or the driver
/// fails.
///
/// # Safety
/// As [`Driver::launch`].
pub unsafe fn launch(
    driver: &dyn Driver,
    kernel: &'static Kernel,
    grid: [u32; 3],
    shared_bytes: u32,
    arguments: &mut [*mut c_void],
) -> Result<()> {
    if grid.contains(&0) {
        return Ok(());
    }
    ensure!(
        grid[0] <= i32::MAX as u32 && grid[1].max(grid[2]) <= 65_535,
        "{}: a grid of {grid:?} blocks; CUDA allows 2147483647, 65535 and 65535",
        kernel.name()
    );
    ensure!(
        shared_bytes <= kernel.dynamic_shared,
        "{}: {shared_bytes} bytes of dynamic shared memory, its source declares at most {} \
         (MAX_DYN_SMEM)",
        kernel.name(),
        kernel.dynamic_shared
    );
    // SAFETY: the caller's promise is the same.
    unsafe { driver.launch(kernel, grid, shared_bytes, arguments) }
}
