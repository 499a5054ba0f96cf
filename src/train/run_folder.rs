//! The folder of a run: `run.json`, `metrics.jsonl`, `samples.jsonl`, `checkpoints/`,
//! `best_model/`.

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::files::{self, Locked};

/// A run's folder, locked against a second process for as long as this lives.
pub struct RunFolder {
    root: PathBuf,
    _lock: Option<File>,
}

impl RunFolder {
    /// Refuses a path at which something is already.
    ///
    /// # Errors
    /// Says how to go on with what is there.
    pub(crate) fn ensure_free(root: &Path) -> Result<()> {
        let taken = match fs::read_dir(root) {
            Ok(mut entries) => entries.next().is_some(),
            Err(_) => root.exists(),
        };
        ensure!(
            !taken,
            "{0} exists already: continue it with --resume {0}, or name a new folder with --out",
            root.display()
        );
        Ok(())
    }

    /// Makes the folder of a new run.
    ///
    /// # Errors
    /// When something is there already, or the folder cannot be made.
    pub fn create(root: &Path) -> Result<Self> {
        Self::ensure_free(root)?;
        let checkpoints = root.join("checkpoints");
        fs::create_dir_all(&checkpoints)
            .with_context(|| format!("creating {}", checkpoints.display()))?;
        Self::lock(root)
    }

    /// Opens the folder of an earlier run.
    ///
    /// # Errors
    /// When it is not a run's folder, or another process trains in it.
    pub(crate) fn open(root: &Path) -> Result<Self> {
        ensure!(
            root.join("run.json").is_file(),
            "{} is not the folder of a run (no run.json in it); --resume takes the folder that \
             --out named, e.g. runs/NAME",
            root.display()
        );
        Self::lock(root)
    }

    fn lock(root: &Path) -> Result<Self> {
        let path = root.join(".lock");
        match files::lock(&path)? {
            Locked::Here(file) => Ok(Self {
                root: root.to_path_buf(),
                _lock: file,
            }),
            Locked::Elsewhere => bail!("another process is training in {}", root.display()),
        }
    }

    /// The folder itself.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Where checkpoints are.
    pub(crate) fn checkpoints(&self) -> PathBuf {
        self.root.join("checkpoints")
    }

    /// The model with the lowest validation loss.
    pub(crate) fn best_model(&self) -> PathBuf {
        self.root.join("best_model")
    }

    /// A line per step.
    pub(crate) fn metrics(&self) -> PathBuf {
        self.root.join("metrics.jsonl")
    }

    /// What the model answered at each validation.
    pub(crate) fn samples(&self) -> PathBuf {
        self.root.join("samples.jsonl")
    }

    /// Writes `run.json`: what the run was started with.
    ///
    /// # Errors
    /// Names the file.
    pub(crate) fn write_description(&self, description: &Value) -> Result<()> {
        let text = serde_json::to_string_pretty(description)?;
        files::replace_file(&self.root.join("run.json"), text.as_bytes())
    }

    /// Reads `run.json`.
    ///
    /// # Errors
    /// Names the file.
    pub(crate) fn read_description(&self) -> Result<Value> {
        let path = self.root.join("run.json");
        let text =
            fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{} is damaged", path.display()))
    }
}

/// The run under `runs` that trained last.
///
/// # Errors
/// When there is none.
pub(crate) fn latest(runs: &Path) -> Result<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(runs).into_iter().flatten().flatten() {
        let root = entry.path();
        let described = fs::metadata(root.join("run.json"));
        let touched = fs::metadata(root.join("metrics.jsonl")).or(described);
        if let Ok(time) = touched.and_then(|metadata| metadata.modified()) {
            found.push((time, root));
        }
    }
    found.sort();
    match found.pop() {
        Some((_, root)) => Ok(root),
        None => bail!(
            "{} holds no run to resume; name one with --resume DIR",
            runs.display()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_run_is_created_once_and_locked() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("runs/a");
        let run = RunFolder::create(&path).unwrap();
        run.write_description(&json!({"a": 1})).unwrap();
        let message = RunFolder::create(&path).err().unwrap().to_string();
        assert!(message.contains("exists already"), "{message}");
        let message = RunFolder::open(&path).err().unwrap().to_string();
        assert!(message.contains("another process"), "{message}");
        drop(run);
        let run = RunFolder::open(&path).unwrap();
        assert_eq!(run.read_description().unwrap(), json!({"a": 1}));
        assert_eq!(latest(&root.path().join("runs")).unwrap(), path);
    }

    #[test]
    fn any_other_folder_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let message = RunFolder::open(root.path()).err().unwrap().to_string();
        assert!(message.contains("no run.json"), "{message}");
        assert!(latest(&root.path().join("none")).is_err());
    }
}
