//! Compiled files under a hash of all that went into them: sources with the headers they include,
//! flags, the compiler's version. A changed kernel compiles anew, a changed Rust file compiles
//! none.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Where compiled files are kept.
pub struct Cache {
    folder: PathBuf,
}

impl Cache {
    /// `target/kernel-cache`, shared by all profiles: `OUT_DIR` is
    /// `target/PROFILE/build/PACKAGE/out`.
    pub fn new(out: &Path) -> Result<Self, String> {
        let target = out.ancestors().nth(4).unwrap_or(out);
        let folder = target.join("kernel-cache");
        fs::create_dir_all(&folder).map_err(|e| format!("creating {}: {e}", folder.display()))?;
        Ok(Self { folder })
    }

    /// The file of this key and ending, made by `make(path)` where it is not there yet. It appears
    /// under its name only when it is whole.
    pub fn file(
        &self,
        key: &Key,
        name: &str,
        ending: &str,
        make: impl FnOnce(&Path) -> Result<(), String>,
    ) -> Result<PathBuf, String> {
        let path = self.folder.join(format!("{name}-{}.{ending}", key.text()));
        if !path.exists() {
            let part = self.folder.join(format!(
                "{name}-{}-{}.part.{ending}",
                key.text(),
                std::process::id()
            ));
            make(&part)?;
            fs::rename(&part, &path).map_err(|e| format!("renaming {}: {e}", part.display()))?;
        }
        Ok(path)
    }
}

/// 128 bits of FNV-1a, twice with different starts: no secret to keep, only contents to tell apart.
#[derive(Clone)]
pub struct Key(u64, u64);

impl Key {
    pub fn new() -> Self {
        Self(0xcbf29ce484222325, 0x9ae16a3b2f90404f)
    }

    pub fn add(&mut self, bytes: &[u8]) {
        for &byte in bytes.iter().chain(&(bytes.len() as u64).to_le_bytes()) {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x100000001b3);
            self.1 = (self.1 ^ u64::from(byte))
                .wrapping_mul(0x100000001b3)
                .rotate_left(23);
        }
    }

    /// A file and, recursively, the files that it includes in quotes and whose path does not
    /// contain `without`.
    pub fn add_source(
        &mut self,
        path: &Path,
        folders: &[PathBuf],
        without: Option<&str>,
    ) -> Result<(), String> {
        self.add_sources(path, folders, without, &mut Vec::new())
    }

    fn add_sources(
        &mut self,
        path: &Path,
        folders: &[PathBuf],
        without: Option<&str>,
        seen: &mut Vec<PathBuf>,
    ) -> Result<(), String> {
        let path = fs::canonicalize(path).map_err(|e| format!("{}: {e}", path.display()))?;
        if seen.contains(&path) {
            return Ok(());
        }
        seen.push(path.clone());
        let text = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        self.add(text.as_bytes());
        for line in text.lines() {
            let Some(rest) = line.trim_start().strip_prefix("#include \"") else {
                continue;
            };
            let Some(name) = rest.split('"').next() else {
                continue;
            };
            if without.is_some_and(|without| name.contains(without)) {
                continue;
            }
            let own = path.parent().map(Path::to_path_buf);
            let found = own.iter().chain(folders).map(|folder| folder.join(name));
            if let Some(included) = found.into_iter().find(|path| path.exists()) {
                self.add_sources(&included, folders, without, seen)?;
            }
        }
        Ok(())
    }

    fn text(&self) -> String {
        format!("{:016x}{:016x}", self.0, self.1)
    }
}

/// Runs `work` on every item, on as many threads as cargo allows; the results are in the items'
/// order.
pub fn in_parallel<T: Sync, R: Send>(
    items: &[T],
    work: impl Fn(&T) -> Result<R, String> + Sync,
) -> Result<Vec<R>, String> {
    let jobs = std::env::var("NUM_JOBS").ok().and_then(|n| n.parse().ok());
    let jobs = jobs.unwrap_or(1).clamp(1, items.len().max(1));
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while let Some((at, item)) = {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    items.get(at).map(|item| (at, item))
                } {
                    let result = work(item);
                    if let Ok(mut results) = results.lock() {
                        results.push((at, result));
                    }
                }
            });
        }
    });
    let mut results = results.into_inner().map_err(|e| e.to_string())?;
    results.sort_by_key(|(at, _)| *at);
    results.into_iter().map(|(_, result)| result).collect()
}
