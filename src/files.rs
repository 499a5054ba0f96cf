//! The one way to replace a file or a folder: all of it or nothing, whatever happens meanwhile.
//!
//! A folder `DIR` is replaced in these steps:
//! 1. `.DIR.lock` is taken, so that no second process writes the same folder;
//! 2. the new content is written to `.DIR.partial` and flushed to the disk;
//! 3. `DIR` is renamed to `.DIR.previous`;
//! 4. `.DIR.partial` is renamed to `DIR`, and the parent folder is flushed;
//! 5. `.DIR.previous` and `.DIR.lock` are removed.
//!
//! `.DIR.previous` is therefore only ever a folder that was complete at `DIR`. A process that is
//! killed leaves `DIR` as it was (before 3), nothing at `DIR` (between 3 and 4), or the new `DIR`
//! (after 4). The next replacement repairs that, and readers ask [`current_folder`], which finds
//! the complete one.
//!
//! A file needs less, because a rename replaces it: it is written to `.NAME.partial`, flushed,
//! renamed.

use anyhow::{Context, Error, Result, anyhow, bail};
use sha2::{Digest, Sha256};
use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::io::{self, BufWriter, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

/// Says why a folder that exists may not be replaced. Called with non-empty folders only.
pub(crate) type Refusal<'a> = &'a dyn Fn(&Path) -> Result<()>;

/// A folder being written that will take the place of another. Dropped unfinished, it leaves
/// nothing.
pub(crate) struct Replacement {
    target: PathBuf,
    partial: PathBuf,
    previous: PathBuf,
    in_place: bool,
    _lock: FolderLock,
}

/// `.DIR.lock`, removed with the lock.
struct FolderLock {
    path: PathBuf,
    _file: Option<File>,
}

impl Replacement {
    /// Begins to replace `dir`: makes its parents, locks it, repairs what an interrupted
    /// replacement left, and creates the empty folder [`Self::path`]. A link stays a link, to the
    /// new content.
    ///
    /// # Errors
    /// If another process replaces `dir`, `refusal` refuses what is there, or the file system
    /// fails.
    pub(crate) fn begin(dir: &Path, refusal: Refusal) -> Result<Replacement> {
        if let Some(parent) = dir.parent() {
            fs::create_dir_all(parent).map_err(|error| write_error(parent, error))?;
        }
        let target = resolve(dir)?;
        let (partial, previous) = (sibling(&target, "partial")?, sibling(&target, "previous")?);
        let lock = FolderLock::take(&target)?;
        repair(&target, &partial, &previous)?;
        check_replaceable(&target, refusal)?;
        fs::create_dir(&partial).map_err(|error| write_error(&partial, error))?;
        Ok(Replacement {
            target,
            partial,
            previous,
            in_place: false,
            _lock: lock,
        })
    }

    /// The folder to write the new content to.
    pub(crate) fn path(&self) -> &Path {
        &self.partial
    }

    /// Flushes the new content and puts it in place.
    ///
    /// # Errors
    /// If `refusal` refuses what is at the target by now, or the file system fails. The target is
    /// then as it was.
    pub(crate) fn finish(mut self, refusal: Refusal) -> Result<()> {
        check_replaceable(&self.target, refusal)?;
        sync_all(&self.partial)?;
        let replaces = self.target.exists();
        if replaces {
            rename(&self.target, &self.previous)?;
        }
        if let Err(error) = rename(&self.partial, &self.target) {
            if replaces {
                rename(&self.previous, &self.target)?;
            }
            return Err(error);
        }
        self.in_place = true;
        sync(parent(&self.target))?;
        match replaces {
            true => remove_folder(&self.previous),
            false => Ok(()),
        }
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        // An error here would hide the one that led here; the next replacement removes what is
        // left.
        if !self.in_place {
            let _ = fs::remove_dir_all(&self.partial);
        }
    }
}

impl FolderLock {
    fn take(target: &Path) -> Result<FolderLock> {
        let path = sibling(target, "lock")?;
        match lock(&path)? {
            Locked::Here(file) => Ok(FolderLock { path, _file: file }),
            Locked::Elsewhere => bail!(
                "{} is being written by another run of this program: wait for it, or choose \
                another folder",
                target.display()
            ),
        }
    }
}

impl Drop for FolderLock {
    fn drop(&mut self) {
        // A lock file that stays is without effect once no process holds it.
        let _ = fs::remove_file(&self.path);
    }
}

/// Who holds a lock file.
pub(crate) enum Locked {
    /// This process, as long as the file is open. `None` on file systems without locks (some
    /// network ones): there the user has to avoid two processes at once.
    Here(Option<File>),
    /// Another process.
    Elsewhere,
}

/// Opens a lock file, making it where it is missing, and tries to lock it without waiting.
///
/// # Errors
/// Names the file if it cannot be opened for writing.
pub(crate) fn lock(path: &Path) -> Result<Locked> {
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .map_err(|error| write_error(path, error))?;
    Ok(match file.try_lock() {
        Ok(()) => Locked::Here(Some(file)),
        Err(TryLockError::WouldBlock) => Locked::Elsewhere,
        Err(TryLockError::Error(_)) => Locked::Here(None),
    })
}

/// Makes `dir` hold exactly what `write` puts into the folder it is given, or, on any error, what
/// it held before. See [`Replacement`].
///
/// # Errors
/// As [`Replacement::begin`] and [`Replacement::finish`]; those of `write` with the folder's name.
pub(crate) fn replace_folder(
    dir: &Path,
    refusal: Refusal,
    write: impl FnOnce(&Path) -> Result<()>,
) -> Result<()> {
    let replacement = Replacement::begin(dir, refusal)?;
    write(replacement.path()).with_context(|| {
        format!(
            "{} was not saved, what it held before is untouched",
            dir.display()
        )
    })?;
    replacement.finish(refusal)
}

/// Where the complete copy of a folder is: at `dir`, or beside it where a replacement was
/// interrupted. `None` if there is neither.
pub(crate) fn current_folder(dir: &Path) -> Option<PathBuf> {
    if dir.exists() {
        return Some(dir.to_path_buf());
    }
    let previous = sibling(&resolve(dir).ok()?, "previous").ok()?;
    previous.is_dir().then_some(previous)
}

/// Replaces a file by what `write` writes, or, on any error, leaves it as it was. A link stays a
/// link, to the new content; a pipe or a device (`/dev/stdout`) is written to and not replaced.
///
/// # Errors
/// Names the file; says so if the disk is full.
pub(crate) fn replace_file_with(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> Result<()>,
) -> Result<()> {
    let context = || format!("cannot write {}", path.display());
    if fs::metadata(path).is_ok_and(|found| !found.is_file()) {
        let opened = File::options().write(true).open(path);
        let written = opened
            .map_err(Error::from)
            .and_then(|file| fill(file, write));
        return written
            .map(drop)
            .with_context(context)
            .map_err(name_full_disk);
    }
    let target = resolve(path).with_context(context)?;
    let partial = sibling(&target, "partial")?;
    let written = File::create(&partial)
        .map_err(Error::from)
        .and_then(|file| fill(file, write))
        .and_then(|file| Ok(file.sync_all()?))
        .and_then(|()| rename(&partial, &target));
    if written.is_err() {
        // The error that stopped the writing is the one to report.
        let _ = fs::remove_file(&partial);
    }
    written.with_context(context).map_err(name_full_disk)?;
    sync(parent(&target))
}

/// Replaces a file by `content`. See [`replace_file_with`].
///
/// # Errors
/// As [`replace_file_with`].
pub(crate) fn replace_file(path: &Path, content: &[u8]) -> Result<()> {
    replace_file_with(path, |writer| Ok(writer.write_all(content)?))
}

/// A failure to write, with what to do about it where that is known.
pub(crate) fn write_error(path: &Path, error: io::Error) -> Error {
    let hint = match error.kind() {
        kind if is_full(kind) => {
            ": the disk is full; free some space or choose another folder. What was there before \
            is unchanged"
        }
        ErrorKind::PermissionDenied => ": choose a folder that you may write to",
        _ => "",
    };
    let message = format!("cannot write {}{hint}", path.display());
    anyhow!(error).context(message)
}

/// SHA-256 of a file, in hexadecimal.
///
/// # Errors
/// Names a file that cannot be read.
pub(crate) fn sha256_file(path: &Path) -> Result<String> {
    let hash = || -> io::Result<String> {
        let mut file = File::open(path)?;
        let mut hasher = Sha256::new();
        let mut buffer = vec![0u8; 1 << 20];
        loop {
            let read = file.read(&mut buffer)?;
            if read == 0 {
                return Ok(hex(&hasher.finalize()));
            }
            hasher.update(&buffer[..read]);
        }
    };
    hash().with_context(|| format!("reading {}", path.display()))
}

/// SHA-256 of bytes, in hexadecimal.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Bytes in hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn fill(file: File, write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<File> {
    let mut writer = BufWriter::with_capacity(1 << 20, file);
    write(&mut writer)?;
    Ok(writer.into_inner().map_err(|error| error.into_error())?)
}

fn is_full(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

// A full disk is the one failure that its owner can do something about at once.
fn name_full_disk(error: Error) -> Error {
    let disk_is_full = error.chain().any(|cause| {
        let plain = cause.downcast_ref::<io::Error>().map(io::Error::kind);
        let in_json = cause
            .downcast_ref::<serde_json::Error>()
            .and_then(serde_json::Error::io_error_kind);
        plain.or(in_json).is_some_and(is_full)
    });
    if disk_is_full {
        error.context(
            "the disk is full: free some space or choose another place. \
             What was there before is unchanged",
        )
    } else {
        error
    }
}

/// The path behind links; of something that is not there yet, the path behind its parent's.
fn resolve(path: &Path) -> Result<PathBuf> {
    let looking = |path: &Path| format!("cannot look at {}", path.display());
    match fs::canonicalize(path) {
        Ok(path) => return Ok(path),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| looking(path)),
    }
    // A link whose folder is just being replaced leads to where that will be.
    if let Ok(linked) = fs::read_link(path) {
        return resolve(&parent(path).join(linked));
    }
    let name = name_of(path)?;
    let parent = parent(path);
    let parent = fs::canonicalize(parent).with_context(|| looking(parent))?;
    Ok(parent.join(name))
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn name_of(path: &Path) -> Result<&std::ffi::OsStr> {
    path.file_name().with_context(|| {
        format!(
            "{} cannot be written: give a path that ends in a name",
            path.display()
        )
    })
}

/// `.NAME.suffix` in the same folder, so that a rename stays within one file system.
fn sibling(path: &Path, suffix: &str) -> Result<PathBuf> {
    let mut hidden = OsString::from(".");
    hidden.push(name_of(path)?);
    hidden.push(".");
    hidden.push(suffix);
    Ok(path.with_file_name(hidden))
}

/// Ends what an interrupted replacement left: the previous version comes back if nothing took its
/// place.
fn repair(target: &Path, partial: &Path, previous: &Path) -> Result<()> {
    if previous.is_dir() {
        if target.exists() {
            remove_folder(previous)?;
        } else {
            rename(previous, target)?;
        }
    }
    if partial.is_dir() {
        remove_folder(partial)?;
    }
    Ok(())
}

/// Replacing removes what is there, so that must be an empty folder or one that `refusal` lets
/// pass.
fn check_replaceable(target: &Path, refusal: Refusal) -> Result<()> {
    if !target.exists() {
        return Ok(());
    }
    let mut entries = fs::read_dir(target).with_context(|| {
        format!(
            "{} is there and is no folder; choose another",
            target.display()
        )
    })?;
    match entries.next() {
        Some(_) => refusal(target),
        None => Ok(()),
    }
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to)
        .with_context(|| format!("cannot rename {} to {}", from.display(), to.display()))
}

fn remove_folder(path: &Path) -> Result<()> {
    fs::remove_dir_all(path).with_context(|| format!("cannot remove {}", path.display()))
}

/// Flushes every file of a folder, and the folder, so that no rename is durable before the content.
fn sync_all(dir: &Path) -> Result<()> {
    let listing = || format!("cannot list {}", dir.display());
    for entry in fs::read_dir(dir).with_context(listing)? {
        let path = entry.with_context(listing)?.path();
        if path.is_dir() {
            sync_all(&path)?;
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

#[cfg(test)]
mod tests;
