//! Ctrl-C and SIGTERM: the first asks the run to stop after its step, the second leaves at once.

use anyhow::{Context, Result};
use std::sync::atomic::{AtomicUsize, Ordering};

static REQUESTS: AtomicUsize = AtomicUsize::new(0);

/// True once the process was asked to stop.
pub(crate) fn requested() -> bool {
    REQUESTS.load(Ordering::Relaxed) > 0
}

/// Installs the handlers; call once per process.
///
/// # Errors
/// When the operating system refuses the handlers.
pub(crate) fn install() -> Result<()> {
    // Under nohup a run must outlive its terminal, so an ignored SIGHUP stays ignored; a full quota
    // must come back as an error of the write, not as a signal that ends the run.
    #[cfg(unix)]
    let hangup_was_ignored = unix::ignore(unix::SIGHUP) == unix::IGNORE;
    #[cfg(unix)]
    unix::ignore(unix::SIGXFSZ);
    ctrlc::set_handler(|| {
        if REQUESTS.fetch_add(1, Ordering::Relaxed) > 0 {
            std::process::exit(130);
        }
    })
    .context("installing the Ctrl-C handler")?;
    #[cfg(unix)]
    if hangup_was_ignored {
        unix::ignore(unix::SIGHUP);
    }
    Ok(())
}

#[cfg(unix)]
mod unix {
    use std::ffi::c_int;

    unsafe extern "C" {
        fn signal(number: c_int, handler: usize) -> usize;
    }

    pub(crate) const SIGHUP: c_int = 1;
    /// A write would exceed the file-size limit; 25 on Linux and macOS.
    pub(crate) const SIGXFSZ: c_int = 25;
    /// `SIG_IGN`.
    pub(crate) const IGNORE: usize = 1;

    /// Ignores a signal and returns its earlier disposition.
    pub(crate) fn ignore(number: c_int) -> usize {
        // SAFETY: `signal` is the C library's; both arguments are valid for it, and ignoring runs
        // no code of ours.
        unsafe { signal(number, IGNORE) }
    }
}
