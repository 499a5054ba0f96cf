//! The compiled kernels, linked into this binary or loaded from a shared library, and the functions
//! that run them.

use anyhow::{Result, bail, ensure};
use std::ffi::{CStr, c_char, c_void};

use super::super::Kernel;
use super::schedules::Schedule;

/// As `sim::Request`.
#[repr(C)]
pub(super) struct Request {
    pub(super) kernel: Invoke,
    pub(super) name: *const c_char,
    pub(super) arguments: *mut *mut c_void,
    pub(super) grid: [u32; 3],
    pub(super) threads: u32,
    pub(super) shared_bytes: u32,
    pub(super) schedule: Schedule,
    pub(super) poison: u8,
    pub(super) late_reads: u32,
}

// SAFETY: the pointers are only followed by the kernel, which reads its arguments through them.
unsafe impl Sync for Request {}

pub(super) type Invoke = unsafe extern "C" fn(*mut *mut c_void);
type NewRunner = unsafe extern "C" fn() -> *mut c_void;
type FreeRunner = unsafe extern "C" fn(*mut c_void);
type RunBlock = unsafe extern "C" fn(*mut c_void, *const Request, u64) -> *const c_char;
type IsSanitized = unsafe extern "C" fn() -> i32;

/// The compiled kernels and what runs them.
pub(super) struct Library {
    pub(super) new_runner: NewRunner,
    pub(super) free_runner: FreeRunner,
    pub(super) run_block: RunBlock,
    pub(super) sanitized: bool,
    kernels: Kernels,
}

enum Kernels {
    /// Linked into this binary, by [`Kernel::index`].
    #[cfg(simulator)]
    Linked(&'static [Invoke]),
    /// In a shared library, by name.
    Loaded(*mut c_void),
}

// SAFETY: the handle of a shared library may be used on any thread.
unsafe impl Send for Library {}
// SAFETY: as above.
unsafe impl Sync for Library {}

#[cfg(simulator)]
mod linked {
    use super::{Request, c_char, c_void};
    unsafe extern "C" {
        pub(crate) fn muni_sim_new_runner() -> *mut c_void;
        pub(crate) fn muni_sim_free_runner(runner: *mut c_void);
        pub(crate) fn muni_sim_block(
            runner: *mut c_void,
            request: *const Request,
            index: u64,
        ) -> *const c_char;
    }
}

/// Why this build has no simulator; `None` where it has one.
pub(crate) fn missing() -> Option<&'static str> {
    match cfg!(simulator) {
        true => None,
        false => Some(crate::ops::cuda::kernels::NO_SIMULATOR.unwrap_or("it was left out")),
    }
}

impl Library {
    #[cfg(simulator)]
    pub(super) fn linked() -> Result<Self> {
        Ok(Self {
            new_runner: linked::muni_sim_new_runner,
            free_runner: linked::muni_sim_free_runner,
            run_block: linked::muni_sim_block,
            sanitized: false,
            kernels: Kernels::Linked(crate::ops::cuda::kernels::SIMULATED),
        })
    }

    #[cfg(not(simulator))]
    pub(super) fn linked() -> Result<Self> {
        bail!(
            "this build has no simulator: {}. Install a C++ compiler (g++ or clang++, or name one \
             in CXX) and build again",
            missing().unwrap_or_default()
        )
    }

    #[cfg(unix)]
    pub(super) fn load(path: &CStr) -> Result<Self> {
        // SAFETY: loading a library runs its initialisers; the caller of `SimDriver::load` vouches
        // for them.
        let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        ensure!(
            !handle.is_null(),
            "{} is no library of the simulator: {}",
            path.to_string_lossy(),
            loader_message()
        );
        // SAFETY: these functions have these types in every library of the simulator
        // (kernels/sim/library.cpp).
        unsafe {
            let is_sanitized: IsSanitized =
                std::mem::transmute(symbol(handle, c"muni_sim_is_sanitized")?);
            Ok(Self {
                new_runner: std::mem::transmute::<*mut c_void, NewRunner>(symbol(
                    handle,
                    c"muni_sim_new_runner",
                )?),
                free_runner: std::mem::transmute::<*mut c_void, FreeRunner>(symbol(
                    handle,
                    c"muni_sim_free_runner",
                )?),
                run_block: std::mem::transmute::<*mut c_void, RunBlock>(symbol(
                    handle,
                    c"muni_sim_block",
                )?),
                sanitized: is_sanitized() != 0,
                kernels: Kernels::Loaded(handle),
            })
        }
    }

    pub(super) fn kernel(&self, kernel: &Kernel) -> Result<Invoke> {
        match &self.kernels {
            #[cfg(simulator)]
            Kernels::Linked(all) => match all.get(kernel.index) {
                Some(&invoke) => Ok(invoke),
                None => bail!("{}: the simulator has no such kernel", kernel.name()),
            },
            Kernels::Loaded(handle) => load_kernel(*handle, kernel),
        }
    }
}

#[cfg(unix)]
fn load_kernel(handle: *mut c_void, kernel: &Kernel) -> Result<Invoke> {
    let name = std::ffi::CString::new(format!("muni_sim_invoke_{}", kernel.name()))?;
    let found = symbol(handle, &name)?;
    // SAFETY: every function of this name has this type (build/simulator.rs).
    Ok(unsafe { std::mem::transmute::<*mut c_void, Invoke>(found) })
}

#[cfg(not(unix))]
fn load_kernel(_handle: *mut c_void, kernel: &Kernel) -> Result<Invoke> {
    bail!("{}: libraries of the simulator are for Unix", kernel.name())
}

#[cfg(unix)]
fn symbol(handle: *mut c_void, name: &CStr) -> Result<*mut c_void> {
    // SAFETY: the handle is open, the name ends with a zero byte.
    let found = unsafe { libc::dlsym(handle, name.as_ptr()) };
    ensure!(!found.is_null(), "{}", loader_message());
    Ok(found)
}

#[cfg(unix)]
fn loader_message() -> String {
    // SAFETY: the text is valid until the next call of the loader on this thread.
    unsafe {
        let text = libc::dlerror();
        match text.is_null() {
            true => "no reason given".to_owned(),
            false => CStr::from_ptr(text).to_string_lossy().into_owned(),
        }
    }
}

/// A thread's stacks and shared memory, kept between launches.
pub(super) struct Runner {
    pub(super) pointer: *mut c_void,
    pub(super) free: FreeRunner,
}

// SAFETY: a runner is used by one thread at a time, and does not care by which.
unsafe impl Send for Runner {}

impl Drop for Runner {
    fn drop(&mut self) {
        // SAFETY: it came from `new_runner` and nothing else points to it.
        unsafe { (self.free)(self.pointer) };
    }
}
