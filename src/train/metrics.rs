//! `metrics.jsonl`: one JSON line per step, for people's plots and for the record.

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::Path;

use crate::files;

/// What one step showed.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct StepMetrics {
    /// Step, from 1.
    pub step: u64,
    /// Epoch of the step, from 1.
    pub epoch: usize,
    /// Tokens trained on since the run began, this step's included.
    pub tokens: u64,
    /// Mean loss of the step's counted tokens, in nats.
    pub loss: f64,
    /// Mean load-balancing loss of the step's logical batches, before its coefficient; 1 times the
    /// experts per token is perfect balance.
    pub router_loss: f64,
    /// Learning rate of the step.
    pub learning_rate: f32,
    /// Norm of the whole gradient before clipping; `null` in the file where it was not finite and
    /// the step was skipped.
    pub grad_norm: f32,
    /// Tokens of the step over its duration.
    pub tokens_per_second: f64,
    /// Seconds trained since the run began, earlier sittings included.
    pub elapsed_s: f64,
    /// Share of (token, choice) pairs that went to each expert, over all layers.
    pub expert_share: Vec<f64>,
    /// Mean loss on the validation split, in nats per counted token, where it was measured after
    /// this step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub val_loss: Option<f64>,
}

/// Only what truncation needs to know of a line.
#[derive(Deserialize)]
struct Step {
    step: u64,
}

/// A file of JSON lines that each have a `step`. A line that could not be written whole (a full
/// disk) is cut off before the next one, so that the file stays readable.
pub(crate) struct JsonLines {
    file: File,
    whole: u64,
}

impl JsonLines {
    /// Opens `path` for appending after the lines of steps up to `step`; later and broken lines are
    /// cut off.
    ///
    /// # Errors
    /// Names a file that cannot be read or written.
    pub(crate) fn open_after(path: &Path, step: u64) -> Result<Self> {
        if path.exists() {
            let text = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
            let kept = lines_up_to(&text, step);
            if kept.len() != text.len() {
                files::replace_file(path, kept)?;
            }
        }
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .with_context(|| format!("opening {}", path.display()))?;
        let whole = file.metadata()?.len();
        Ok(Self { file, whole })
    }

    /// Appends one line.
    ///
    /// # Errors
    /// When the disk is full, for example; the line is then lost, the earlier ones are not.
    pub(crate) fn write(&mut self, line: &impl Serialize) -> Result<()> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        if self.file.metadata()?.len() != self.whole {
            self.file.set_len(self.whole)?;
        }
        self.file.write_all(&text)?;
        self.whole += text.len() as u64;
        Ok(())
    }
}

/// The longest beginning of `text` that holds whole lines of steps up to `step` only.
fn lines_up_to(text: &[u8], step: u64) -> &[u8] {
    let mut end = 0;
    for line in text.split_inclusive(|&byte| byte == b'\n') {
        let kept = line.ends_with(b"\n")
            && serde_json::from_slice::<Step>(line).is_ok_and(|found| found.step <= step);
        if !kept {
            break;
        }
        end += line.len();
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    struct Line {
        step: u64,
    }

    #[test]
    fn later_and_broken_lines_are_cut_off() {
        let text = b"{\"step\":1}\n{\"step\":2,\"val_loss\":3.0}\n{\"step\":3}\n{\"st";
        assert_eq!(
            lines_up_to(text, 2),
            b"{\"step\":1}\n{\"step\":2,\"val_loss\":3.0}\n"
        );
        assert_eq!(lines_up_to(text, 9).len(), text.len() - 4);
        assert_eq!(lines_up_to(text, 0), b"");
        assert_eq!(lines_up_to(b"", 5), b"");
    }

    #[test]
    fn appends_after_the_given_step_and_over_a_torn_line() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("metrics.jsonl");
        fs::write(&path, "{\"step\":1}\n{\"step\":2}\n").unwrap();
        let mut lines = JsonLines::open_after(&path, 1).unwrap();
        lines.write(&Line { step: 2 }).unwrap();
        OpenOptions::new()
            .append(true)
            .open(&path)
            .unwrap()
            .write_all(b"{\"ste")
            .unwrap();
        lines.write(&Line { step: 3 }).unwrap();
        assert_eq!(
            fs::read_to_string(&path).unwrap(),
            "{\"step\":1}\n{\"step\":2}\n{\"step\":3}\n"
        );
    }
}
