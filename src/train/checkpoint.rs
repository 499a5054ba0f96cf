//! Checkpoints: a folder per saved step that Transformers can open as a model, plus what an exact
//! resume needs.
//!
//! `step-000123/` holds the model's files, `optimizer.safetensors` (both moments of every fused
//! parameter, `f32`) and `state.json`, written last, with the SHA-256 of every other file. A folder
//! appears under its name only when all of it is on the disk; one that was damaged later is noticed
//! by its hashes, and the one before it is used.

use anyhow::{Context, Result, bail, ensure};
use memmap2::Mmap;
use rayon::prelude::*;
use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::files;
use crate::hf;
use crate::hf::write::{Tensor, write_safetensors};
use crate::model::ModelConfig;
use crate::ops::LossScale;
use crate::train::optimizer::Moments;
use crate::train::settings::TrainSettings;

/// Version of `state.json` and of what stands beside it.
pub(crate) const FORMAT_VERSION: u32 = 1;
const STATE_FILE: &str = "state.json";
const OPTIMIZER_FILE: &str = "optimizer.safetensors";

/// The best validation so far.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Best {
    /// Validation loss in nats per counted token. `f32`, because that survives decimal text
    /// exactly.
    pub loss: f32,
    /// Step after which it was measured.
    pub step: u64,
}

/// Where a run stands: `state.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct State {
    /// [`FORMAT_VERSION`] of the writer.
    pub format_version: u32,
    /// Version of the engine that wrote it.
    pub engine_version: String,
    /// SHA-256 of this file with this field empty.
    pub checksum: String,
    /// Steps done.
    pub step: u64,
    /// Steps of the whole run.
    pub total_steps: u64,
    /// Epoch of the next step, from 0.
    pub epoch: usize,
    /// First logical batch of the next step within its epoch.
    pub batch: usize,
    /// Tokens trained on.
    pub tokens: u64,
    /// Seconds trained.
    pub elapsed_s: f64,
    /// The best validation so far.
    pub(crate) best: Option<Best>,
    /// SHA-256 of the shard folder's manifest.
    pub shards_sha256: String,
    /// What the run is trained with.
    pub settings: TrainSettings,
    /// Where the loss scale stood, on a device that moves one. Another device goes on without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_scale: Option<LossScale>,
    /// Updates of the weights: steps without those that were skipped. Absent in checkpoints of
    /// engines that counted all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updates: Option<u64>,
    /// SHA-256 of every other file of the folder.
    pub files: BTreeMap<String, String>,
}

/// A checkpoint whose files have been found whole.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    /// Its folder.
    pub folder: PathBuf,
    /// Where the run stood.
    pub state: State,
}

/// Folder of the checkpoint of a step.
pub(crate) fn folder_of(checkpoints: &Path, step: u64) -> PathBuf {
    checkpoints.join(format!("step-{step:06}"))
}

/// Writes the checkpoint of `state.step`: `fill` writes the model's and the optimizer's files into
/// the folder it is given.
///
/// # Errors
/// Whatever `fill` or the file system says; earlier checkpoints are untouched and nothing
/// half-written remains.
pub(crate) fn save(
    checkpoints: &Path,
    mut state: State,
    fill: impl FnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    let folder = folder_of(checkpoints, state.step);
    hf::replace_folder(&folder, STATE_FILE, |folder| {
        fill(folder)?;
        state.files = hash_files(folder)?;
        let path = folder.join(STATE_FILE);
        fs::write(&path, seal(&state)?).with_context(|| format!("writing {}", path.display()))
    })?;
    Ok(folder)
}

/// Writes `optimizer.safetensors` into a checkpoint's folder.
///
/// # Errors
/// Names the file.
pub(crate) fn write_moments(
    folder: &Path,
    config: &ModelConfig,
    moments: &[Moments],
) -> Result<()> {
    let mut tensors = Vec::with_capacity(2 * moments.len());
    for (spec, moments) in config.parameters().iter().zip(moments) {
        for (kind, values) in [("first", &moments.first), ("second", &moments.second)] {
            tensors.push(Tensor {
                name: format!("{}.{kind}", spec.name),
                shape: spec.shape.clone(),
                values,
            });
        }
    }
    write_safetensors(&folder.join(OPTIMIZER_FILE), tensors)
}

/// Reads `optimizer.safetensors`.
///
/// # Errors
/// Names the file, and the tensor that is missing or not as the model needs it.
pub(crate) fn read_moments(folder: &Path, config: &ModelConfig) -> Result<Vec<Moments>> {
    let path = folder.join(OPTIMIZER_FILE);
    let file = File::open(&path).with_context(|| format!("opening {}", path.display()))?;
    // SAFETY: the map is read-only and dropped before this function returns; a run holds the lock
    // of its folder, so no other run of the engine changes the file meanwhile.
    let map = unsafe { Mmap::map(&file) }.with_context(|| format!("mapping {}", path.display()))?;
    let tensors =
        SafeTensors::deserialize(&map).with_context(|| format!("reading {}", path.display()))?;
    let read = |name: String, shape: &[usize]| -> Result<Vec<f32>> {
        let tensor = tensors
            .tensor(&name)
            .with_context(|| format!("reading {}", path.display()))?;
        ensure!(
            tensor.dtype() == Dtype::F32 && tensor.shape() == shape,
            "{}: {name} is {:?} {:?}, expected F32 {shape:?}",
            path.display(),
            tensor.dtype(),
            tensor.shape()
        );
        let (chunks, _) = tensor.data().as_chunks::<4>();
        Ok(chunks
            .iter()
            .map(|bytes| f32::from_le_bytes(*bytes))
            .collect())
    };
    config
        .parameters()
        .par_iter()
        .map(|spec| {
            Ok(Moments {
                first: read(format!("{}.first", spec.name), &spec.shape)?,
                second: read(format!("{}.second", spec.name), &spec.shape)?,
            })
        })
        .collect()
}

/// Opens the checkpoint in `folder` and checks every file against its hash.
///
/// # Errors
/// Says which file is missing or damaged.
pub(crate) fn open(folder: &Path) -> Result<Checkpoint> {
    let path = folder.join(STATE_FILE);
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let state = unseal(&text).with_context(|| format!("{} is damaged", path.display()))?;
    ensure!(
        state.format_version == FORMAT_VERSION,
        "{} has format version {}, this engine reads {FORMAT_VERSION}",
        path.display(),
        state.format_version
    );
    state.files.par_iter().try_for_each(|(name, expected)| {
        let path = folder.join(name);
        let found = files::sha256_file(&path)?;
        ensure!(
            &found == expected,
            "{} is damaged: its SHA-256 is {found}, state.json says {expected}",
            path.display()
        );
        Ok(())
    })?;
    for needed in ["config.json", "model.safetensors", OPTIMIZER_FILE] {
        ensure!(
            state.files.contains_key(needed),
            "{} lists no {needed}",
            path.display()
        );
    }
    Ok(Checkpoint {
        folder: folder.to_path_buf(),
        state,
    })
}

/// The newest whole checkpoint, and a line for each newer one that is damaged; `None` where none
/// was ever saved.
///
/// # Errors
/// When all are damaged, with what is wrong with each.
pub(crate) fn newest(checkpoints: &Path) -> Result<(Option<Checkpoint>, Vec<String>)> {
    let mut damaged = Vec::new();
    for (_, folder) in list(checkpoints)?.into_iter().rev() {
        match open(&folder) {
            Ok(checkpoint) => return Ok((Some(checkpoint), damaged)),
            Err(error) => damaged.push(format!("{error:#}")),
        }
    }
    if damaged.is_empty() {
        return Ok((None, damaged));
    }
    bail!(
        "{} holds no whole checkpoint: {}",
        checkpoints.display(),
        damaged.join("; ")
    )
}

/// Removes all but the newest `keep` checkpoints up to `step`, and damaged ones beyond it.
///
/// # Errors
/// Names a folder that cannot be removed.
pub(crate) fn prune(checkpoints: &Path, step: u64, keep: usize) -> Result<()> {
    let (mut valid, beyond): (Vec<_>, Vec<_>) = list(checkpoints)?
        .into_iter()
        .partition(|(found, _)| *found <= step);
    let surplus = valid.len().saturating_sub(keep);
    for (_, folder) in valid.drain(..surplus).chain(beyond) {
        fs::remove_dir_all(&folder).with_context(|| format!("removing {}", folder.display()))?;
    }
    Ok(())
}

/// Removes what a kill left half-written.
///
/// # Errors
/// Names a folder that cannot be removed.
pub(crate) fn remove_leftovers(checkpoints: &Path) -> Result<()> {
    for entry in fs::read_dir(checkpoints)
        .with_context(|| format!("reading {}", checkpoints.display()))?
        .flatten()
    {
        if entry.file_name().to_string_lossy().starts_with(".step-") {
            let path = entry.path();
            // Folders, and the lock of the one that was being replaced.
            let removed = match path.is_dir() {
                true => fs::remove_dir_all(&path),
                false => fs::remove_file(&path),
            };
            removed.with_context(|| format!("removing {}", path.display()))?;
        }
    }
    Ok(())
}

/// Checkpoint folders by step. Anything else in there is left alone.
fn list(checkpoints: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    let entries =
        fs::read_dir(checkpoints).with_context(|| format!("reading {}", checkpoints.display()))?;
    for entry in entries {
        let path = entry
            .with_context(|| format!("reading {}", checkpoints.display()))?
            .path();
        let step = path
            .file_name()
            .and_then(|name| name.to_str())
            .and_then(|name| name.strip_prefix("step-"))
            .and_then(|digits| digits.parse().ok());
        if let Some(step) = step {
            found.push((step, path));
        }
    }
    found.sort();
    Ok(found)
}

/// Hashes of all files in a folder.
fn hash_files(folder: &Path) -> Result<BTreeMap<String, String>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        let entry = entry.with_context(|| format!("reading {}", folder.display()))?;
        paths.push((
            entry.file_name().to_string_lossy().into_owned(),
            entry.path(),
        ));
    }
    paths
        .into_par_iter()
        .map(|(name, path)| Ok((name, files::sha256_file(&path)?)))
        .collect()
}

/// `state.json`'s text with its checksum filled in.
fn seal(state: &State) -> Result<String> {
    let mut state = State {
        checksum: String::new(),
        ..state.clone()
    };
    state.checksum = files::sha256(serde_json::to_string_pretty(&state)?.as_bytes());
    Ok(serde_json::to_string_pretty(&state)?)
}

/// Reads `state.json`'s text and checks its checksum, over the text and not over the parsed
/// numbers.
fn unseal(text: &str) -> Result<State> {
    let state: State = serde_json::from_str(text)?;
    let unsealed = text.replacen(&state.checksum, "", 1);
    let found = files::sha256(unsealed.as_bytes());
    ensure!(
        found == state.checksum,
        "its checksum is {}, its content gives {found}",
        state.checksum
    );
    Ok(state)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::settings::Stage;

    fn state(step: u64) -> State {
        State {
            format_version: FORMAT_VERSION,
            engine_version: "0.1.0".into(),
            checksum: String::new(),
            step,
            total_steps: 100,
            epoch: 1,
            batch: 2,
            tokens: 12345,
            elapsed_s: 0.1 + 0.2,
            best: Some(Best { loss: 0.1, step: 2 }),
            shards_sha256: "abc".into(),
            settings: TrainSettings::preset(Stage::Super),
            loss_scale: None,
            updates: None,
            files: BTreeMap::new(),
        }
    }

    fn save_small(checkpoints: &Path, step: u64) -> PathBuf {
        save(checkpoints, state(step), |folder| {
            for name in ["config.json", "model.safetensors", OPTIMIZER_FILE] {
                fs::write(folder.join(name), format!("{name} {step}"))?;
            }
            Ok(())
        })
        .unwrap()
    }

    #[test]
    fn state_is_sealed_against_every_changed_digit() {
        let text = seal(&state(7)).unwrap();
        assert_eq!(unseal(&text).unwrap().step, 7);
        let changed = text.replace("\"tokens\": 12345", "\"tokens\": 12346");
        assert_ne!(changed, text);
        let message = unseal(&changed).unwrap_err().to_string();
        assert!(message.contains("checksum"), "{message}");
        assert!(unseal(&text[..text.len() / 2]).is_err());
        assert!(unseal("").is_err());
    }

    #[test]
    fn the_loss_scale_survives_and_its_absence_too() {
        let mut given = state(7);
        given.loss_scale = Some(LossScale {
            scale: 32768.0,
            good_steps: 17,
        });
        let text = seal(&given).unwrap();
        assert_eq!(unseal(&text).unwrap().loss_scale, given.loss_scale);
        let without = seal(&state(7)).unwrap();
        assert!(!without.contains("loss_scale"), "{without}");
        assert_eq!(unseal(&without).unwrap().loss_scale, None);
    }

    #[test]
    fn the_newest_whole_checkpoint_is_found_and_damage_is_named() {
        let root = tempfile::tempdir().unwrap();
        let folders: Vec<_> = [9, 10, 11].map(|step| save_small(root.path(), step)).into();
        assert_eq!(newest(root.path()).unwrap().0.unwrap().state.step, 11);
        fs::write(folders[2].join("model.safetensors"), "changed").unwrap();
        fs::remove_file(folders[1].join(OPTIMIZER_FILE)).unwrap();
        let (checkpoint, damaged) = newest(root.path()).unwrap();
        let checkpoint = checkpoint.unwrap();
        assert_eq!(checkpoint.state.step, 9);
        assert_eq!(checkpoint.state.best, state(9).best);
        assert_eq!(damaged.len(), 2);
        assert!(
            damaged[0].contains("model.safetensors is damaged"),
            "{damaged:?}"
        );
        assert!(damaged[1].contains(OPTIMIZER_FILE), "{damaged:?}");
        fs::write(folders[0].join(STATE_FILE), "{").unwrap();
        let message = newest(root.path()).unwrap_err().to_string();
        assert!(message.contains("no whole checkpoint"), "{message}");
    }

    #[test]
    fn pruning_keeps_the_newest_and_drops_what_lies_beyond() {
        let root = tempfile::tempdir().unwrap();
        for step in [1, 2, 3, 8] {
            save_small(root.path(), step);
        }
        prune(root.path(), 3, 2).unwrap();
        let left: Vec<_> = list(root.path())
            .unwrap()
            .into_iter()
            .map(|(step, _)| step)
            .collect();
        assert_eq!(left, [2, 3]);
    }

    #[test]
    fn a_folder_may_have_no_checkpoint_yet() {
        let root = tempfile::tempdir().unwrap();
        assert!(newest(root.path()).unwrap().0.is_none());
    }
}
