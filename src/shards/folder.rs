//! Which folders shards may take the place of.

use std::fs;
use std::io;
use std::path::Path;

use anyhow::{Context, Result, bail};

use super::COMPANION_NAMES;
use super::manifest::{MANIFEST_NAME, files_of_existing};

/// Replacing removes a folder, so it must hold nothing but shards and what stands beside them.
///
/// # Errors
/// Names a file that is none of these.
pub(super) fn refuse_other_files(target: &Path) -> Result<()> {
    let shown = target.display();
    let entries = fs::read_dir(target).with_context(|| format!("cannot read folder {shown}"))?;
    let mut names = entries
        .map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()))
        .collect::<io::Result<Vec<_>>>()
        .with_context(|| format!("cannot read folder {shown}"))?;
    names.sort();
    let Some(ours) = files_of_existing(target) else {
        bail!(
            "{shown} holds other files ({}) and no shards: it is not replaced; choose another \
            folder",
            names.first().map_or("", String::as_str)
        );
    };
    match names.iter().find(|name| !is_ours(name, &ours)) {
        Some(name) => bail!(
            "{shown} holds {name}, which is no shard file: it is not replaced; choose another \
            folder"
        ),
        None => Ok(()),
    }
}

fn is_ours(name: &String, shards: &[String]) -> bool {
    name == MANIFEST_NAME || COMPANION_NAMES.contains(&name.as_str()) || shards.contains(name)
}
