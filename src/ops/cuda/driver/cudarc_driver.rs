//! A card through the CUDA driver, which is loaded at run time: the same binary starts on machines
//! without one.

use anyhow::{Context, Result, bail, ensure};
use cudarc::driver::result;
use cudarc::driver::sys;
use serde::Serialize;
use std::ffi::{CString, c_void};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use super::cudarc_error::driver_error;
use super::cudarc_staging::Staging;
use super::{Driver, Event, Kernel, Recording};
use crate::ops::cuda::kernels;

/// One card, one stream: launches run in the order in which they are made.
pub struct CudarcDriver {
    device: sys::CUdevice,
    context: sys::CUcontext,
    stream: sys::CUstream,
    name: String,
    multiprocessors: usize,
    modules: Mutex<Modules>,
    staging: Mutex<Staging>,
    recording: AtomicBool,
    /// Events that nobody waits for, as handles.
    events: Mutex<Vec<usize>>,
}

/// Recorded launches. Its holder also holds the driver, and so the context.
struct Graph {
    context: sys::CUcontext,
    graph: sys::CUgraphExec,
}

// SAFETY: the handles may be used on any thread once the context is made current there.
unsafe impl Send for Graph {}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: the context is alive; where the graph still runs, the driver gives it back
        // afterwards.
        unsafe {
            let _ = result::ctx::set_current(self.context);
            let _ = result::graph::exec_destroy(self.graph);
        }
    }
}

/// What has been loaded so far.
struct Modules {
    /// By [`Kernel::module`].
    modules: Vec<Option<sys::CUmodule>>,
    /// By [`Kernel::index`].
    functions: Vec<Option<sys::CUfunction>>,
}

// SAFETY: the handles may be used on any thread once the context is made current there, which every
// call does.
unsafe impl Send for CudarcDriver {}
// SAFETY: as above; what changes is behind a lock.
unsafe impl Sync for CudarcDriver {}

/// Shared memory that a launch gets without asking for more.
const DEFAULT_SHARED: u32 = 48 << 10;

/// Why this binary cannot use a card, and what to do about it; `None` where nothing is known to be
/// missing.
pub(crate) fn missing() -> Option<String> {
    if let Some(reason) = kernels::NO_KERNELS {
        return Some(no_kernels(reason));
    }
    // SAFETY: it only tries to open the driver's library, which has no requirements.
    if !unsafe { sys::is_culib_present() } {
        return Some(
            "there is no NVIDIA driver on this machine (libcuda was not found); install one, or \
             use --device cpu"
                .to_owned(),
        );
    }
    None
}

/// What to do about a build without kernels.
pub fn no_kernels(reason: &str) -> String {
    format!(
        "this build has no kernels for cards: {reason}. Get nvcc 13 (for example `pip install \
         nvidia-cuda-nvcc==13.0.* nvidia-nvvm==13.0.* nvidia-cuda-crt==13.0.* \
         nvidia-cuda-runtime==13.0.* nvidia-cuda-cccl==13.0.*`, or the CUDA toolkit) and build \
         again with MUNI_CUDA=require, and MUNI_NVCC=/path/to/nvcc where it is not found. --device \
         cpu needs none of it"
    )
}

/// A card of this machine.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct CardInfo {
    /// As in `cuda:0`.
    pub number: usize,
    /// Name, architecture and multiprocessors.
    pub name: String,
    /// Bytes free now.
    pub free_bytes: u64,
    /// Bytes it has.
    pub total_bytes: u64,
}

/// The cards that this binary can use.
pub(crate) fn cards() -> Vec<CardInfo> {
    let mut found = Vec::new();
    if missing().is_some() {
        return found;
    }
    while let Ok(driver) = CudarcDriver::new(found.len()) {
        // The card's context was just made current.
        let (free, total) = result::mem_get_info().unwrap_or((0, 0));
        found.push(CardInfo {
            number: found.len(),
            name: driver.name.clone(),
            free_bytes: free as u64,
            total_bytes: total as u64,
        });
    }
    found
}

/// The newest CUDA that this machine's driver knows, e.g. `CUDA 13.0`; `None` without a driver.
pub(crate) fn driver_version() -> Option<String> {
    // SAFETY: it only tries to open the driver's library, which has no requirements.
    if !unsafe { sys::is_culib_present() } {
        return None;
    }
    let mut version = 0;
    // SAFETY: the driver is loaded, and the number is written before it returns.
    unsafe { sys::cuDriverGetVersion(&mut version) }
        .result()
        .ok()?;
    Some(format!("CUDA {}.{}", version / 1000, version % 1000 / 10))
}

/// The first card, where this binary can use one.
pub(crate) fn first_card() -> Option<CudarcDriver> {
    match missing() {
        Some(_) => None,
        None => CudarcDriver::new(0).ok(),
    }
}

impl CudarcDriver {
    /// The card of that number.
    ///
    /// # Errors
    /// Where this build has no kernels, the machine no driver or no such card, or the card is too
    /// old.
    pub fn new(number: usize) -> Result<Self> {
        if let Some(reason) = missing() {
            bail!("cannot use cuda:{number}: {reason}");
        }
        let op = format!("cuda:{number}");
        result::init().map_err(driver_error(&op))?;
        let count = result::device::get_count().map_err(driver_error(&op))?;
        let ordinal = i32::try_from(number).ok().filter(|n| *n < count);
        let Some(ordinal) = ordinal else {
            bail!("cannot use cuda:{number}: this machine has {count} CUDA cards, numbered from 0");
        };
        let device = result::device::get(ordinal).map_err(driver_error(&op))?;
        let attribute = |which| {
            // SAFETY: the device came from the driver.
            unsafe { result::device::get_attribute(device, which) }.map_err(driver_error(&op))
        };
        use sys::CUdevice_attribute_enum as Attribute;
        let major = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        let minor = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
        let multiprocessors = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
        let card = result::device::get_name(device).map_err(driver_error(&op))?;
        ensure!(
            major >= 8,
            "cannot use cuda:{number}: {card} has compute capability {major}.{minor}, the kernels \
             need 8.0 (Ampere) or newer"
        );
        // SAFETY: the device came from the driver; the context is released in `drop`.
        let context = unsafe { result::primary_ctx::retain(device) }.map_err(driver_error(&op))?;
        // SAFETY: the context is alive.
        unsafe { result::ctx::set_current(context) }.map_err(driver_error(&op))?;
        let stream = result::stream::create(result::stream::StreamKind::NonBlocking)
            .map_err(driver_error(&op))?;
        Ok(Self {
            device,
            context,
            stream,
            name: format!("cuda:{number} ({card}, sm_{major}{minor}, {multiprocessors} SMs)"),
            multiprocessors: multiprocessors.max(1) as usize,
            modules: Mutex::new(Modules {
                modules: vec![None; kernels::MODULES.len()],
                functions: vec![None; kernels::KERNELS.len()],
            }),
            staging: Mutex::new(Staging::new()?),
            recording: AtomicBool::new(false),
            events: Mutex::default(),
        })
    }

    /// Refuses what a recording cannot repeat.
    fn not_recorded(&self, what: &str) -> Result<()> {
        ensure!(
            !self.recording.load(Ordering::Acquire),
            "{what} while operations are recorded: it could not be repeated"
        );
        Ok(())
    }

    /// Makes the card the calling thread's.
    fn enter(&self, what: &str) -> Result<()> {
        // SAFETY: the context lives as long as this driver.
        unsafe { result::ctx::set_current(self.context) }.map_err(driver_error(what))
    }

    /// The kernel on the card; its file is loaded at its first use.
    fn function(&self, kernel: &'static Kernel) -> Result<sys::CUfunction> {
        let mut loaded = self.modules.lock().unwrap_or_else(PoisonError::into_inner);
        let name = kernel.name();
        let known = loaded.functions.get(kernel.index).copied();
        let (Some(known), Some(source)) = (known, kernels::MODULES.get(kernel.module)) else {
            bail!("{name} is no kernel of this build");
        };
        if let Some(function) = known {
            return Ok(function);
        }
        let module = match loaded.modules[kernel.module] {
            Some(module) => module,
            None => {
                // SAFETY: the image is a whole fatbin, made by nvcc.
                let module = unsafe { result::module::load_data(source.image.as_ptr().cast()) }
                    .map_err(driver_error(source.source))
                    .with_context(|| {
                        format!(
                            "this build's kernels are for architectures {} and newer, and need a \
                             driver of CUDA 13 (580) or newer",
                            kernels::ARCHITECTURES
                        )
                    })?;
                loaded.modules[kernel.module] = Some(module);
                module
            }
        };
        // SAFETY: the module is loaded and stays so.
        let function = unsafe { result::module::get_function(module, CString::from(kernel.name)) }
            .map_err(driver_error(name))?;
        if kernel.dynamic_shared > DEFAULT_SHARED {
            // SAFETY: the function was just made.
            unsafe {
                result::function::set_function_attribute(
                    function,
                    sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                    kernel.dynamic_shared as i32,
                )
            }
            .map_err(driver_error(name))?;
        }
        loaded.functions[kernel.index] = Some(function);
        Ok(function)
    }
}

impl Drop for CudarcDriver {
    fn drop(&mut self) {
        // Errors have nowhere to go here; the process's end gives everything back anyway.
        let _ = self.enter("closing");
        // SAFETY: nothing is launched any more: buffers hold this driver, so none is left.
        unsafe {
            self.staging
                .get_mut()
                .unwrap_or_else(PoisonError::into_inner)
                .close();
        }
        let loaded = self
            .modules
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        for module in loaded.modules.drain(..).flatten() {
            // SAFETY: nothing is launched any more.
            let _ = unsafe { result::module::unload(module) };
        }
        let events = self
            .events
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        for event in events.drain(..) {
            // SAFETY: it came from `mark`, and nobody waits for it.
            let _ = unsafe { result::event::destroy(event as sys::CUevent) };
        }
        // SAFETY: stream and context were made in `new`; buffers hold this driver, so none is left.
        unsafe {
            let _ = result::stream::destroy(self.stream);
            let _ = result::primary_ctx::release(self.device);
        }
    }
}

impl Driver for CudarcDriver {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn multiprocessors(&self) -> usize {
        self.multiprocessors
    }

    fn allocate(&self, bytes: usize, zeroed: bool) -> Result<u64> {
        let op = "allocating";
        self.enter(op)?;
        self.not_recorded(op)?;
        // SAFETY: the size is not zero.
        let address = unsafe { result::malloc_sync(bytes.max(1)) }
            .map_err(driver_error(op))
            .with_context(|| {
                let (free, total) = result::mem_get_info().unwrap_or((0, 0));
                format!(
                    "{bytes} bytes on {}, of whose {} MiB {} MiB are free",
                    self.name,
                    total >> 20,
                    free >> 20
                )
            })?;
        if zeroed {
            // SAFETY: the range was just allocated.
            unsafe { result::memset_d8_async(address, 0, bytes, self.stream) }
                .map_err(driver_error(op))?;
        }
        Ok(address)
    }

    unsafe fn free(&self, address: u64) {
        // The driver waits for what runs. An error here is one of an earlier launch, and the next
        // call tells it.
        let _ = self.enter("freeing");
        // SAFETY: the caller's promise.
        let _ = unsafe { result::free_sync(address) };
    }

    unsafe fn upload(&self, bytes: &[u8], to: u64) -> Result<()> {
        let op = "uploading";
        self.enter(op)?;
        self.not_recorded(op)?;
        if bytes.is_empty() {
            return Ok(());
        }
        // SAFETY: the caller's promise. The host's memory is pageable, so the driver has copied it
        // when this returns.
        unsafe { result::memcpy_htod_async(to, bytes, self.stream) }.map_err(driver_error(op))
    }

    unsafe fn download(&self, from: u64, bytes: &mut [u8]) -> Result<()> {
        let op = "downloading";
        self.enter(op)?;
        self.not_recorded(op)?;
        if !bytes.is_empty() {
            // SAFETY: the caller's promise; the copy is waited for below.
            unsafe { result::memcpy_dtoh_async(bytes, from, self.stream) }
                .map_err(driver_error(op))?;
        }
        // SAFETY: the stream is alive.
        unsafe { result::stream::synchronize(self.stream) }.map_err(driver_error(op))
    }

    unsafe fn copy(&self, from: u64, to: u64, bytes: usize) -> Result<()> {
        let op = "copying";
        self.enter(op)?;
        // SAFETY: the caller's promise.
        unsafe { result::memcpy_dtod_async(to, from, bytes, self.stream) }.map_err(driver_error(op))
    }

    unsafe fn zero(&self, address: u64, bytes: usize) -> Result<()> {
        let op = "zeroing";
        self.enter(op)?;
        if bytes == 0 {
            return Ok(());
        }
        // SAFETY: the caller's promise.
        unsafe { result::memset_d8_async(address, 0, bytes, self.stream) }.map_err(driver_error(op))
    }

    unsafe fn launch(
        &self,
        kernel: &'static Kernel,
        grid: [u32; 3],
        shared_bytes: u32,
        arguments: &mut [*mut c_void],
    ) -> Result<()> {
        self.enter(kernel.name())?;
        let function = self.function(kernel)?;
        // SAFETY: the caller's promise; the arguments are read before this returns.
        unsafe {
            result::launch_kernel(
                function,
                (grid[0], grid[1], grid[2]),
                (kernel.threads, 1, 1),
                shared_bytes,
                self.stream,
                arguments,
            )
        }
        .map_err(driver_error(kernel.name()))
    }

    fn synchronize(&self) -> Result<()> {
        let op = "waiting";
        self.enter(op)?;
        self.not_recorded(op)?;
        // SAFETY: the stream is alive.
        unsafe { result::stream::synchronize(self.stream) }.map_err(driver_error(op))
    }

    unsafe fn stage(&self, pieces: &[(&[u8], u64)]) -> Result<()> {
        self.enter("uploading a batch")?;
        self.not_recorded("uploading a batch")?;
        let mut staging = self.staging.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the context is current, the stream is alive, and the ranges are the caller's
        // promise.
        unsafe { staging.copy(pieces, self.stream) }
    }

    fn begin_recording(&self) -> Result<bool> {
        let op = "recording";
        self.enter(op)?;
        self.not_recorded(op)?;
        // Of this thread only: others may go on with memory of their own.
        let mode = sys::CUstreamCaptureMode_enum::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream is alive.
        unsafe { result::stream::begin_capture(self.stream, mode) }.map_err(driver_error(op))?;
        self.recording.store(true, Ordering::Release);
        Ok(true)
    }

    fn end_recording(&self) -> Result<Recording> {
        let op = "recording";
        self.enter(op)?;
        ensure!(
            self.recording.swap(false, Ordering::AcqRel),
            "no recording was begun"
        );
        // SAFETY: the stream is alive and captures.
        let graph =
            unsafe { result::stream::end_capture(self.stream) }.map_err(driver_error(op))?;
        ensure!(
            !graph.is_null(),
            "{op}: the CUDA driver kept nothing of what was issued"
        );
        // SAFETY: the graph is whole; it is given back here whether it can be instantiated or not.
        let instantiated = unsafe {
            let made = result::graph::instantiate(graph, sys::CUgraphInstantiate_flags(0));
            let _ = result::graph::destroy(graph);
            made.map_err(driver_error(op))?
        };
        let graph = Graph {
            context: self.context,
            graph: instantiated,
        };
        // So that the first launch is as fast as the others.
        // SAFETY: graph and stream are alive.
        unsafe { result::graph::upload(graph.graph, self.stream) }.map_err(driver_error(op))?;
        Ok(Recording(Box::new(graph)))
    }

    unsafe fn replay(&self, recording: &Recording) -> Result<()> {
        let op = "repeating recorded operations";
        self.enter(op)?;
        let Some(graph) = recording.0.downcast_ref::<Graph>() else {
            bail!("{op}: the recording is another driver's");
        };
        ensure!(
            graph.context == self.context,
            "{op}: the recording is another card's"
        );
        // SAFETY: graph and stream are alive; the memory is the caller's promise.
        unsafe { result::graph::launch(graph.graph, self.stream) }.map_err(driver_error(op))
    }

    fn mark(&self) -> Result<Event> {
        let op = "marking a point in time";
        self.enter(op)?;
        let idle = self
            .events
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        let event = match idle {
            Some(event) => event as sys::CUevent,
            None => result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT)
                .map_err(driver_error(op))?,
        };
        // SAFETY: event and stream are alive.
        unsafe { result::event::record(event, self.stream) }.map_err(driver_error(op))?;
        Ok(Event::Event(event as usize))
    }

    fn seconds_between(&self, from: Event, to: Event) -> Result<f64> {
        let op = "taking the time between two points";
        let (Event::Event(from), Event::Event(to)) = (from, to) else {
            bail!("{op}: marks of another driver");
        };
        self.enter(op)?;
        // SAFETY: both events came from `mark`, so they are of this stream and alive.
        let milliseconds = unsafe {
            result::event::synchronize(to as sys::CUevent).map_err(driver_error(op))?;
            result::event::elapsed(from as sys::CUevent, to as sys::CUevent)
                .map_err(driver_error(op))?
        };
        let mut idle = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        idle.extend([from, to]);
        Ok(f64::from(milliseconds) / 1e3)
    }

    fn free_memory(&self) -> Result<Option<u64>> {
        let op = "asking for free memory";
        self.enter(op)?;
        let (free, _) = result::mem_get_info().map_err(driver_error(op))?;
        Ok(Some(free as u64))
    }
}
