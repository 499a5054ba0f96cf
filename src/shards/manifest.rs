//! `manifest.json`: what a shard folder holds, from what it was made, and the hash of each file.

use std::collections::HashSet;
use std::path::{Component, Path};
use std::{fs, io};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use super::Split;
use super::format::{FORMAT_VERSION, sha256_from_hex};

/// Name of the manifest in the folder.
pub(super) const MANIFEST_NAME: &str = "manifest.json";

/// What marks a manifest as one of ours.
pub(super) const FORMAT_NAME: &str = "muni-engine shards";

/// Contents of `manifest.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Always `muni-engine shards`.
    pub format: String,
    /// Version of the format: `FORMAT_VERSION`.
    pub version: u32,
    /// Stage of the data set (`basis`, `large`, ...).
    pub stage: String,
    /// Seed from which it was generated.
    pub seed: u64,
    /// Version of the generator.
    pub generator_version: String,
    /// What made tokens of the text.
    pub(crate) tokenizer: TokenizerEntry,
    /// Totals of the training files.
    pub(crate) train: SplitCounts,
    /// Totals of the validation files.
    pub(crate) validation: SplitCounts,
    /// Totals of the validation files with requests that belong elsewhere.
    pub(crate) validation_ood: SplitCounts,
    /// Names of the offices, by the number stored with an example.
    pub offices: Vec<String>,
    /// Names of the techniques, by the bit stored with an example.
    pub techniques: Vec<String>,
    /// The files: those for training in order, then those for validation, then those of
    /// `validation_ood`.
    pub(crate) files: Vec<FileEntry>,
    /// Whatever the generator counted, by office and technique.
    pub statistics: serde_json::Value,
}

/// The tokenizer in the manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TokenizerEntry {
    /// The algorithm, for people: `GPT-2 byte-level BPE`.
    pub name: String,
    /// SHA-256 of vocabulary and merges: `Tokenizer::fingerprint`.
    pub fingerprint: String,
    /// Every token is less than this.
    pub vocab_size: usize,
}

/// Totals of one split.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SplitCounts {
    /// Number of examples.
    pub examples: u64,
    /// Number of stored tokens, separators included.
    pub tokens: u64,
}

/// One file in the manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FileEntry {
    /// Name in the folder.
    pub name: String,
    /// Which split its examples belong to.
    pub split: Split,
    /// Number of examples.
    pub examples: u64,
    /// Number of tokens.
    pub tokens: u64,
    /// Size in bytes.
    pub bytes: u64,
    /// SHA-256 of the whole file, in hexadecimal.
    pub sha256: String,
}

/// The two fields that every version has.
#[derive(Deserialize)]
struct Marks {
    #[serde(default)]
    format: String,
    #[serde(default)]
    version: u32,
}

impl Manifest {
    /// Totals of one split.
    pub(crate) fn counts(&self, split: Split) -> SplitCounts {
        match split {
            Split::Train => self.train,
            Split::Validation => self.validation,
            Split::ValidationOod => self.validation_ood,
        }
    }

    /// Reads and checks the manifest of `dir`.
    pub(super) fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(MANIFEST_NAME);
        let content = read_manifest_file(dir, &path)?;
        let marks: Marks = serde_json::from_slice(&content).with_context(|| {
            format!(
                "{} is damaged: expected JSON; {}",
                path.display(),
                remake(dir)
            )
        })?;
        ensure!(
            marks.format == FORMAT_NAME,
            "{}: found format {:?}, expected {FORMAT_NAME:?}: this is no shard folder",
            path.display(),
            marks.format
        );
        ensure!(
            marks.version == FORMAT_VERSION,
            "{}: found shard format version {}, this program reads version {FORMAT_VERSION}; {}",
            path.display(),
            marks.version,
            remake(dir)
        );
        let manifest: Self = serde_json::from_slice(&content)
            .with_context(|| format!("{} is damaged; {}", path.display(), remake(dir)))?;
        manifest
            .check()
            .with_context(|| format!("{} contradicts itself; {}", path.display(), remake(dir)))?;
        Ok(manifest)
    }

    fn check(&self) -> Result<()> {
        ensure!(
            (1..=1 << 16).contains(&self.tokenizer.vocab_size),
            "vocab_size is {}, expected 1 to 65536",
            self.tokenizer.vocab_size
        );
        ensure!(
            self.techniques.len() <= 32,
            "found {} techniques, expected at most 32",
            self.techniques.len()
        );
        ensure!(
            sha256_from_hex(&self.tokenizer.fingerprint).is_some(),
            "the tokenizer's fingerprint {:?} is no SHA-256",
            self.tokenizer.fingerprint
        );
        let mut names = HashSet::new();
        for file in &self.files {
            let mut parts = Path::new(&file.name).components();
            ensure!(
                matches!(
                    (parts.next(), parts.next()),
                    (Some(Component::Normal(_)), None)
                ),
                "{:?} is no plain file name",
                file.name
            );
            ensure!(
                names.insert(&file.name),
                "file {} is named twice",
                file.name
            );
            ensure!(
                sha256_from_hex(&file.sha256).is_some(),
                "sha256 of {} is {:?}",
                file.name,
                file.sha256
            );
        }
        ensure!(
            self.files.is_sorted_by_key(|file| file.split as u8),
            "files are not listed in the order train, validation, validation_ood"
        );
        for split in Split::ALL {
            let of_split = || self.files.iter().filter(|file| file.split == split);
            let found = SplitCounts {
                examples: of_split().fold(0, |sum, file| file.examples.saturating_add(sum)),
                tokens: of_split().fold(0, |sum, file| file.tokens.saturating_add(sum)),
            };
            let expected = self.counts(split);
            ensure!(
                found == expected,
                "the {split:?} files hold {found:?}, the totals say {expected:?}"
            );
        }
        Ok(())
    }
}

/// Whether `dir` holds a manifest of ours, of any version, and which files it names.
pub(super) fn files_of_existing(dir: &Path) -> Option<Vec<String>> {
    #[derive(Deserialize)]
    struct Named {
        name: String,
    }
    #[derive(Deserialize)]
    struct Listing {
        format: String,
        #[serde(default)]
        files: Vec<Named>,
    }
    let content = fs::read(dir.join(MANIFEST_NAME)).ok()?;
    let listing: Listing = serde_json::from_slice(&content).ok()?;
    (listing.format == FORMAT_NAME)
        .then(|| listing.files.into_iter().map(|file| file.name).collect())
}

/// What to do about a folder that cannot be used.
pub(super) fn remake(dir: &Path) -> String {
    format!(
        "make it again with `muni-engine dataset --out {}`",
        dir.display()
    )
}

/// The manifest's bytes, with one message for each way of not having them.
fn read_manifest_file(dir: &Path, path: &Path) -> Result<Vec<u8>> {
    let error = match fs::read(path) {
        Ok(content) => return Ok(content),
        Err(error) => error,
    };
    if error.kind() != io::ErrorKind::NotFound {
        return Err(error).with_context(|| format!("cannot read {}", path.display()));
    }
    let shown = dir.display();
    match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            bail!(
                "{shown}: there is no such folder; make a training set with `muni-engine dataset \
                --out {shown}`"
            )
        }
        Err(error) => {
            Err(error).with_context(|| format!("{shown} cannot be read as a folder of shards"))
        }
        Ok(mut entries) => {
            let state = if entries.next().is_none() {
                "is empty"
            } else {
                "is no shard folder"
            };
            bail!(
                "{shown} {state}: expected {MANIFEST_NAME} and the files that it names; {}",
                remake(dir)
            )
        }
    }
}

/// Fingerprint in bytes; checked when the manifest was read.
pub(super) fn fingerprint_bytes(manifest: &Manifest) -> Result<[u8; 32]> {
    sha256_from_hex(&manifest.tokenizer.fingerprint)
        .context("the tokenizer's fingerprint is no SHA-256")
}
