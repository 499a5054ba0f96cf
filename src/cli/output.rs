//! Results on standard output.

use anyhow::{Context, Result};
use std::io::{ErrorKind, Write};
use std::ops::ControlFlow;

/// Writes at once; a reader that went away (`| head`) ends the answer and is no error.
pub(super) fn print(out: &mut impl Write, text: &str) -> Result<ControlFlow<()>> {
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(ControlFlow::Continue(())),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(ControlFlow::Break(())),
        Err(error) => Err(error).context("cannot write the result to standard output"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[test]
    fn a_reader_that_went_away_is_no_error() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        assert!(print(&mut Closed, "x").unwrap().is_break());
        assert!(print(&mut Vec::new(), "x").unwrap().is_continue());
    }
}
