//! Replaces a whole folder so that a crash, a full disk or a kill at any moment leaves a complete one.
//!
//! `DIR` is written as `.DIR.partial`, flushed to the disk, and swapped in by two renames: `DIR` to `.DIR.previous`, then
//! `.DIR.partial` to `DIR`. Between the two renames only `.DIR.previous` is certain, which is why every reader asks
//! [`find_folder`] first. `.DIR.previous` is only ever a folder that stood complete at `DIR`.

use anyhow::{Context, Result, bail};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Where the good copy of `dir` is: `dir` itself, or the previous version where a replacement was interrupted between its
/// two renames. Errors: neither is there, or `dir` is no folder.
pub fn find_folder(dir: &Path) -> Result<PathBuf> {
    match fs::metadata(dir) {
        Ok(found) if found.is_dir() => Ok(dir.to_path_buf()),
        Ok(_) => bail!(
            "{} is a file, expected a model folder (config.json, model.safetensors, ...): give the folder it lies in",
            dir.display()
        ),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let previous = sibling(dir, "previous");
            match previous {
                Ok(previous) if previous.is_dir() => Ok(previous),
                _ => bail!(
                    "{} does not exist, expected a model folder: check the path, or train a model first",
                    dir.display()
                ),
            }
        }
        Err(error) => Err(error).with_context(|| format!("cannot look at {}", dir.display())),
    }
}

/// Makes `dir` hold exactly what `write` puts into the folder it is given, or, on any error, what it held before.
/// Parent folders are made. A `dir` that exists must be empty or hold the file `marker` (e.g. `config.json`), so that a
/// mistyped path never costs somebody's data.
pub fn replace_folder(
    dir: &Path,
    marker: &str,
    write: impl FnOnce(&Path) -> Result<()>,
) -> Result<()> {
    let target = resolve(dir)?;
    let partial = sibling(&target, "partial")?;
    let previous = sibling(&target, "previous")?;
    settle(&target, &partial, &previous)?;
    check_replaceable(&target, marker)?;

    fs::create_dir(&partial).with_context(|| format!("cannot create {}", partial.display()))?;
    let written = write(&partial).and_then(|()| sync_folder(&partial));
    if let Err(error) = written {
        // The reason matters more than a leftover, which the next save removes.
        let _ = fs::remove_dir_all(&partial);
        return Err(error.context(format!(
            "{} was not saved, what it held before is untouched",
            dir.display()
        )));
    }
    swap(&target, &partial, &previous)
}

/// The path behind links, so that a link stays a link to the new content; parents are made.
fn resolve(dir: &Path) -> Result<PathBuf> {
    match fs::canonicalize(dir) {
        Ok(path) => return Ok(path),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => {
            return Err(error).with_context(|| format!("cannot look at {}", dir.display()));
        }
    }
    let name = dir.file_name().with_context(|| {
        format!(
            "{} names no folder: give a path that ends in a name",
            dir.display()
        )
    })?;
    let parent = match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
    let parent =
        fs::canonicalize(parent).with_context(|| format!("cannot look at {}", parent.display()))?;
    Ok(parent.join(name))
}

/// `.NAME.suffix` beside `dir`: hidden, and a name nobody else uses.
fn sibling(dir: &Path, suffix: &str) -> Result<PathBuf> {
    let name = dir.file_name().with_context(|| {
        format!(
            "{} cannot be replaced: give a path that ends in a name",
            dir.display()
        )
    })?;
    let mut hidden = OsString::from(".");
    hidden.push(name);
    hidden.push(".");
    hidden.push(suffix);
    Ok(dir.with_file_name(hidden))
}

/// Ends what an interrupted replacement left: the previous version comes back if nothing took its place.
fn settle(target: &Path, partial: &Path, previous: &Path) -> Result<()> {
    if previous.is_dir() {
        if target.exists() {
            remove(previous)?;
        } else {
            rename(previous, target)?;
        }
    }
    if partial.is_dir() {
        remove(partial)?;
    }
    Ok(())
}

fn check_replaceable(target: &Path, marker: &str) -> Result<()> {
    if !target.exists() {
        return Ok(());
    }
    let mut entries =
        fs::read_dir(target).with_context(|| format!("cannot replace {}", target.display()))?;
    if entries.next().is_some() && !target.join(marker).is_file() {
        bail!(
            "{} is not empty and holds no {marker}, so it is not ours to replace: choose another folder or empty it",
            target.display()
        );
    }
    Ok(())
}

fn swap(target: &Path, partial: &Path, previous: &Path) -> Result<()> {
    let replaces = target.exists();
    if replaces {
        rename(target, previous)?;
    }
    if let Err(error) = rename(partial, target) {
        if replaces {
            rename(previous, target)?;
        }
        return Err(error);
    }
    if let Some(parent) = target.parent() {
        sync(parent)?;
    }
    if replaces {
        remove(previous)?;
    }
    Ok(())
}

/// Flushes every file of a folder, and the folder, so that the rename never becomes durable before the content.
fn sync_folder(dir: &Path) -> Result<()> {
    let entries = fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))?;
    for entry in entries {
        let path = entry
            .with_context(|| format!("cannot list {}", dir.display()))?
            .path();
        if path.is_dir() {
            sync_folder(&path)?;
        } else {
            sync(&path)?;
        }
    }
    sync(dir)
}

fn sync(path: &Path) -> Result<()> {
    // Windows cannot open a folder as a file; its renames are journalled.
    if cfg!(windows) && path.is_dir() {
        return Ok(());
    }
    File::open(path)
        .and_then(|file| file.sync_all())
        .with_context(|| format!("cannot flush {} to the disk", path.display()))
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to)
        .with_context(|| format!("cannot rename {} to {}", from.display(), to.display()))
}

fn remove(path: &Path) -> Result<()> {
    fs::remove_dir_all(path).with_context(|| format!("cannot remove {}", path.display()))
}
