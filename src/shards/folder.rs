//! Putting a finished shard folder in its place, all or nothing, and only where that destroys nothing of someone else's.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Error, Result, anyhow, bail};

use super::COMPANION_NAMES;
use super::manifest::{MANIFEST_NAME, files_of_existing};

/// The unfinished folder, `.NAME.partial` beside the target. Dropping it takes it away unless it was put in its place.
pub(super) struct Partial {
    pub(super) path: PathBuf,
    in_place: bool,
    _lock: Lock,
}

/// `.NAME.lock`, held as long as the folder is written, so that a second run neither mixes into it nor takes it away.
struct Lock {
    path: PathBuf,
    _file: File,
}

impl Partial {
    /// Makes the folder, with everything that could forbid its coming into place checked.
    pub(super) fn create(target: &Path) -> Result<Self> {
        let path = sibling(target, "partial")?;
        let parent = path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(parent).map_err(|error| write_error(parent, error))?;
        let lock = Lock::take(target)?;
        restore_interrupted(target)?;
        check_replaceable(target)?;
        remove_if_there(&path)?;
        fs::create_dir(&path).map_err(|error| write_error(&path, error))?;
        Ok(Self {
            path,
            in_place: false,
            _lock: lock,
        })
    }

    /// Puts the folder in the place of `target`, if that may be replaced.
    pub(super) fn move_to(mut self, target: &Path) -> Result<()> {
        check_replaceable(target)?;
        sync_dir(&self.path)?;
        let old = sibling(target, "replaced")?;
        if target.exists() {
            remove_if_there(&old)?;
            rename(target, &old)?;
        }
        if let Err(error) = rename(&self.path, target) {
            restore_interrupted(target)?;
            return Err(error);
        }
        self.in_place = true;
        sync_dir(target.parent().unwrap_or(Path::new(".")))?;
        remove_if_there(&old)
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // An error here would hide the one that brought us here; the next run takes away what is left.
        if !self.in_place {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // A lock file that stays is without effect once nobody holds it.
        let _ = fs::remove_file(&self.path);
    }
}

impl Lock {
    fn take(target: &Path) -> Result<Self> {
        let path = sibling(target, "lock")?;
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path);
        let file = file.map_err(|error| write_error(&path, error))?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => bail!(
                "{} is being written by another run of this program: wait for it, or choose another folder",
                target.display()
            ),
            // Some network file systems have no locks; two runs at once are then the user's to avoid.
            Ok(()) | Err(TryLockError::Error(_)) => Ok(Self { path, _file: file }),
        }
    }
}

/// `.NAME.suffix` beside `target`.
fn sibling(target: &Path, suffix: &str) -> Result<PathBuf> {
    let name = target
        .file_name()
        .with_context(|| format!("{} is no name for a new folder", target.display()))?;
    Ok(target.with_file_name(format!(".{}.{suffix}", name.to_string_lossy())))
}

/// The folder itself where `dir` is a link to it or written with `..`.
pub(super) fn resolve(dir: &Path) -> Result<PathBuf> {
    if dir.exists() {
        return dir
            .canonicalize()
            .with_context(|| format!("cannot resolve {}", dir.display()));
    }
    Ok(dir.to_path_buf())
}

/// A run killed between the two renames left the old folder under another name: puts it back.
fn restore_interrupted(target: &Path) -> Result<()> {
    let old = sibling(target, "replaced")?;
    if old.exists() && !target.exists() {
        rename(&old, target)?;
    }
    Ok(())
}

/// Replacing removes a folder, so it must hold nothing that is not ours.
fn check_replaceable(target: &Path) -> Result<()> {
    if !target.exists() {
        return Ok(());
    }
    let shown = target.display();
    let entries = fs::read_dir(target)
        .with_context(|| format!("{shown} is there and is no folder; choose another"))?;
    let mut names = entries
        .map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()))
        .collect::<io::Result<Vec<_>>>()
        .with_context(|| format!("cannot read folder {shown}"))?;
    names.sort();
    if names.is_empty() {
        return Ok(());
    }
    let Some(ours) = files_of_existing(target) else {
        bail!(
            "{shown} holds other files ({}) and no shards: it is not replaced; choose another folder",
            names[0]
        );
    };
    match names.iter().find(|name| !is_ours(name, &ours)) {
        Some(name) => bail!(
            "{shown} holds {name}, which is no shard file: it is not replaced; choose another folder"
        ),
        None => Ok(()),
    }
}

fn is_ours(name: &String, shards: &[String]) -> bool {
    name == MANIFEST_NAME || COMPANION_NAMES.contains(&name.as_str()) || shards.contains(name)
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to)
        .with_context(|| format!("cannot rename {} to {}", from.display(), to.display()))
}

fn remove_if_there(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot take away {}", dir.display()))
        }
        _ => Ok(()),
    }
}

/// Makes new names in a folder last; without it a power cut could undo a rename.
fn sync_dir(dir: &Path) -> Result<()> {
    let dir = if dir.as_os_str().is_empty() {
        Path::new(".")
    } else {
        dir
    };
    if cfg!(unix) {
        File::open(dir)
            .and_then(|folder| folder.sync_all())
            .with_context(|| format!("cannot flush folder {}", dir.display()))?;
    }
    Ok(())
}

/// A failure to write, with what to do where that is known.
pub(super) fn write_error(path: &Path, error: io::Error) -> Error {
    let hint = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            ": the disk is full; free some space or choose another folder. What was there before is unchanged"
        }
        io::ErrorKind::PermissionDenied => ": choose a folder that you may write to",
        _ => "",
    };
    let message = format!("cannot write {}{hint}", path.display());
    anyhow!(error).context(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_called_by_its_name() {
        let error = write_error(
            Path::new("out/train-00000.bin"),
            io::ErrorKind::StorageFull.into(),
        );
        let text = format!("{error:#}");
        assert!(
            text.contains("out/train-00000.bin") && text.contains("disk is full"),
            "{text}"
        );
    }
}
