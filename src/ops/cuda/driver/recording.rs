//! Operations that a driver keeps instead of running them, to run them again at once.
//!
//! A card keeps them as a CUDA graph. Other drivers keep this list: each operation with a copy of
//! its arguments. So the simulator and the counting driver take the same way through the trainer as
//! a card does.

use anyhow::{Result, bail};
use std::ffi::c_void;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Driver, Kernel, Recording};

/// One operation as it was issued.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Command {
    /// A kernel.
    Launch {
        /// Which.
        kernel: &'static Kernel,
        /// Its blocks.
        grid: [u32; 3],
        /// Its dynamic shared memory.
        shared_bytes: u32,
        /// Its arguments, each at the beginning of a word.
        arguments: Vec<u64>,
    },
    /// A copy within the device.
    Copy {
        /// First byte of the source.
        from: u64,
        /// First byte of the target.
        to: u64,
        /// How many.
        bytes: usize,
    },
    /// Zeros.
    Zero {
        /// First byte.
        address: u64,
        /// How many.
        bytes: usize,
    },
}

impl Command {
    /// A launch, with its arguments copied.
    ///
    /// # Safety
    /// `arguments` point to values of the kernel's parameter types.
    pub(crate) unsafe fn launch(
        kernel: &'static Kernel,
        grid: [u32; 3],
        shared_bytes: u32,
        arguments: &[*mut c_void],
    ) -> Self {
        let copied = kernel.parameters.iter().zip(arguments);
        let copied = copied.map(|(parameter, argument)| {
            let mut word = 0_u64;
            // SAFETY: the argument has this many bytes, at most the eight of the word.
            unsafe {
                std::ptr::copy_nonoverlapping(
                    argument.cast::<u8>(),
                    (&raw mut word).cast::<u8>(),
                    parameter.bytes(),
                );
            }
            word
        });
        Self::Launch {
            kernel,
            grid,
            shared_bytes,
            arguments: copied.collect(),
        }
    }

    /// Issues it on a driver.
    ///
    /// # Errors
    /// Whatever the driver says.
    /// # Safety
    /// What it was recorded with is still there.
    pub(crate) unsafe fn issue(&self, driver: &dyn Driver) -> Result<()> {
        match self {
            Self::Launch {
                kernel,
                grid,
                shared_bytes,
                arguments,
            } => {
                let mut words = arguments.clone();
                let mut pointers: Vec<*mut c_void> = words
                    .iter_mut()
                    .map(|word| (&raw mut *word).cast())
                    .collect();
                // SAFETY: the caller's promise; the pointers are to copies of the arguments.
                unsafe { driver.launch(kernel, *grid, *shared_bytes, &mut pointers) }
            }
            // SAFETY: the caller's promise.
            Self::Copy { from, to, bytes } => unsafe { driver.copy(*from, *to, *bytes) },
            // SAFETY: the caller's promise.
            Self::Zero { address, bytes } => unsafe { driver.zero(*address, *bytes) },
        }
    }
}

/// Where a driver keeps commands while it records.
#[derive(Default)]
pub(crate) struct CommandList(Mutex<Option<Vec<Command>>>);

impl CommandList {
    fn list(&self) -> MutexGuard<'_, Option<Vec<Command>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on commands are kept.
    ///
    /// # Errors
    /// Where they already are.
    pub(crate) fn begin(&self) -> Result<()> {
        let mut list = self.list();
        if list.is_some() {
            bail!("a recording was begun within another one");
        }
        *list = Some(Vec::new());
        Ok(())
    }

    /// What was kept.
    ///
    /// # Errors
    /// Where nothing was begun.
    pub(crate) fn end(&self) -> Result<Vec<Command>> {
        match self.list().take() {
            Some(commands) => Ok(commands),
            None => bail!("no recording was begun"),
        }
    }

    /// Keeps a command where a recording is going on; else it is the driver's to run.
    pub(crate) fn kept(&self, command: impl FnOnce() -> Command) -> bool {
        match &mut *self.list() {
            Some(commands) => {
                commands.push(command());
                true
            }
            None => false,
        }
    }

    /// Refuses what cannot be repeated.
    ///
    /// # Errors
    /// While a recording is going on.
    pub(crate) fn refuse(&self, what: &str) -> Result<()> {
        match *self.list() {
            Some(_) => bail!("{what} while operations are recorded: it could not be repeated"),
            None => Ok(()),
        }
    }
}

/// A recording as the list that [`CommandList::end`] gave.
///
/// # Errors
/// Where it is another driver's.
pub(crate) fn commands(recording: &Recording) -> Result<&[Command]> {
    match recording.0.downcast_ref::<Vec<Command>>() {
        Some(commands) => Ok(commands),
        None => bail!("the recording is another driver's"),
    }
}
