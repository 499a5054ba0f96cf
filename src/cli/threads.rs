//! The pool of threads that everything computes on.

use anyhow::{Context, Result};

/// Starts the process's pool: `threads` of them, or one per processor. The calling thread is one of them, so that handing it
/// an operation never means waking somebody and going to sleep.
pub(super) fn start(threads: Option<usize>) -> Result<()> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads.unwrap_or(0))
        .use_current_thread()
        .build_global()
        .with_context(|| match threads {
            Some(threads) => format!("cannot start {threads} threads"),
            None => "cannot start a thread per processor".to_string(),
        })
}
