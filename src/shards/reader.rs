//! Reading a shard folder: every file is mapped and checked before the first example is handed out.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail, ensure};
use memmap2::Mmap;
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::Split;
use super::format::{
    Counts, FORMAT_VERSION, HEADER_SIZE, Header, IndexEntry, MAGIC, Span, span_fault, to_hex,
};
use super::manifest::{FileEntry, Manifest, fingerprint_bytes, remake};
use crate::files;

/// A mapped and verified shard folder. Cloning is cheap and shares the mapping.
#[derive(Clone)]
pub struct ShardSet {
    inner: Arc<Inner>,
}

struct Inner {
    dir: PathBuf,
    manifest: Manifest,
    /// By split, in the order of `Split::ALL`.
    files: [Vec<ShardFile>; 3],
}

/// One mapped file and the number of examples in the files of its split before it.
struct ShardFile {
    map: Mmap,
    header: Header,
    first_example: usize,
}

/// One example as it lies in its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExampleView<'s> {
    /// The stored tokens, separators included.
    pub tokens: &'s [u16],
    /// Where the answers stand in `tokens`.
    pub answers: &'s [Span],
    /// Index into the manifest's `offices`.
    pub office: u16,
    /// Bit i stands for entry i of the manifest's `techniques`.
    pub techniques: u32,
}

impl ShardSet {
    /// Maps the files of `dir` (or of its complete copy, where a replacement was interrupted) and
    /// checks all of them: sizes, SHA-256, header, index and tokens.
    ///
    /// # Errors
    /// Names the file, what was found and what was expected, when anything is missing, damaged, of
    /// another version, or made with another tokenizer than the one with `expected_fingerprint`
    /// (`Tokenizer::fingerprint`).
    pub fn open(dir: impl AsRef<Path>, expected_fingerprint: &str) -> Result<Self> {
        let given = dir.as_ref();
        let dir = &files::current_folder(given).unwrap_or_else(|| given.to_path_buf());
        let manifest = Manifest::read(dir)?;
        ensure!(
            manifest
                .tokenizer
                .fingerprint
                .eq_ignore_ascii_case(expected_fingerprint),
            "{}: the shards were made with tokenizer {}, expected {expected_fingerprint}; {}",
            dir.display(),
            manifest.tokenizer.fingerprint,
            remake(dir)
        );
        ensure!(
            manifest.train.examples > 0,
            "{}: there are no training examples in it; {}",
            dir.display(),
            remake(dir)
        );
        let files = manifest
            .files
            .par_iter()
            .map(|entry| ShardFile::open(dir, entry, &manifest))
            .collect::<Result<Vec<_>>>()?;
        let mut of_split = Split::ALL.map(|_| Vec::new());
        for (entry, file) in manifest.files.iter().zip(files) {
            of_split[entry.split as usize].push(file);
        }
        let inner = Inner {
            dir: dir.to_path_buf(),
            manifest,
            files: of_split.map(number),
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// The folder.
    pub(crate) fn dir(&self) -> &Path {
        &self.inner.dir
    }

    /// What the folder says about itself.
    pub fn manifest(&self) -> &Manifest {
        &self.inner.manifest
    }

    /// Number of examples of a split.
    pub fn examples(&self, split: Split) -> usize {
        self.files(split).last().map_or(0, |file| {
            file.first_example + file.header.example_count as usize
        })
    }

    /// Number of stored tokens of a split, separators included.
    pub fn tokens(&self, split: Split) -> u64 {
        self.inner.manifest.counts(split).tokens
    }

    /// Example `index` of a split, `None` from [`ShardSet::examples`] on.
    pub fn example(&self, split: Split, index: usize) -> Option<ExampleView<'_>> {
        let files = self.files(split);
        let file = files.get(
            files
                .partition_point(|file| file.first_example <= index)
                .checked_sub(1)?,
        )?;
        file.example(index - file.first_example)
    }

    /// Number of stored tokens of each example of a split, in order.
    pub(super) fn lengths(&self, split: Split) -> Vec<u32> {
        self.files(split)
            .iter()
            .flat_map(|file| file.index().iter().map(|entry| entry.length))
            .collect()
    }

    fn files(&self, split: Split) -> &[ShardFile] {
        &self.inner.files[split as usize]
    }
}

fn number(mut files: Vec<ShardFile>) -> Vec<ShardFile> {
    let mut examples = 0;
    for file in &mut files {
        file.first_example = examples;
        examples += file.header.example_count as usize;
    }
    files
}

impl ShardFile {
    fn open(dir: &Path, entry: &FileEntry, manifest: &Manifest) -> Result<Self> {
        let path = dir.join(&entry.name);
        map(&path, entry)
            .and_then(|map| Self::check(map, entry, manifest))
            .map_err(|error| anyhow!("{}: {error:#}; {}", path.display(), remake(dir)))
    }

    fn check(map: Mmap, entry: &FileEntry, manifest: &Manifest) -> Result<Self> {
        let header = check_header(&map, entry, manifest)?;
        let found = to_hex(&Sha256::digest(&map));
        ensure!(
            found.eq_ignore_ascii_case(&entry.sha256),
            "the file is damaged: found SHA-256 {found}, the manifest expects {}",
            entry.sha256
        );
        let file = Self {
            map,
            header,
            first_example: 0,
        };
        file.check_tokens()?;
        file.check_index(manifest)?;
        Ok(file)
    }

    fn check_tokens(&self) -> Result<()> {
        let largest = self.tokens().iter().copied().max().unwrap_or(0);
        ensure!(
            u32::from(largest) < self.header.vocab_size || self.header.token_count == 0,
            "found token {largest}, expected less than the vocabulary's {}",
            self.header.vocab_size
        );
        Ok(())
    }

    fn check_index(&self, manifest: &Manifest) -> Result<()> {
        let techniques = manifest.techniques.len() as u32;
        for (number, entry) in self.index().iter().enumerate() {
            let Some(example) = self.example(number) else {
                bail!("example {number} lies outside the file: {entry:?}");
            };
            ensure!(
                example.tokens.len() >= 2,
                "example {number} has {} tokens, expected 2 or more",
                entry.length
            );
            if let Some(fault) = span_fault(example.answers.iter().copied(), example.tokens.len()) {
                bail!("example {number}: {fault}");
            }
            ensure!(
                usize::from(entry.office) < manifest.offices.len(),
                "example {number} belongs to office {}, but the manifest names {}",
                entry.office,
                manifest.offices.len()
            );
            ensure!(
                entry.techniques.checked_shr(techniques).unwrap_or(0) == 0,
                "example {number} has technique bits {:#b}, but the manifest names {techniques} \
                techniques",
                entry.techniques
            );
        }
        Ok(())
    }

    fn example(&self, index: usize) -> Option<ExampleView<'_>> {
        let entry = self.index().get(index)?;
        let start = usize::try_from(entry.start).ok()?;
        let tokens = self
            .tokens()
            .get(start..start.checked_add(entry.length as usize)?)?;
        let first = entry.span_start as usize;
        let answers = self
            .spans()
            .get(first..first.checked_add(usize::from(entry.span_count))?)?;
        Some(ExampleView {
            tokens,
            answers,
            office: entry.office,
            techniques: entry.techniques,
        })
    }

    fn tokens(&self) -> &[u16] {
        self.section(self.header.tokens_offset, self.header.token_count)
    }

    fn index(&self) -> &[IndexEntry] {
        self.section(self.header.examples_offset, self.header.example_count)
    }

    fn spans(&self) -> &[Span] {
        self.section(self.header.spans_offset, self.header.span_count)
    }

    /// A section in place. The header was checked against the size of the file, and offsets are
    /// aligned, so neither the range nor the cast fails; if they did, an empty section would make
    /// every example in it unavailable, not wrong.
    fn section<T: bytemuck::AnyBitPattern>(&self, offset: u64, count: u64) -> &[T] {
        let (offset, size) = (offset as usize, count as usize * size_of::<T>());
        let bytes = self.map.get(offset..offset + size).unwrap_or_default();
        bytemuck::try_cast_slice(bytes).unwrap_or_default()
    }
}

/// Maps a file of exactly the size the manifest says.
fn map(path: &Path, entry: &FileEntry) -> Result<Mmap> {
    let file = File::open(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => anyhow!("the file is missing, but the manifest names it"),
        _ => anyhow!("cannot read the file: {error}"),
    })?;
    let size = file
        .metadata()
        .context("cannot read the file's size")?
        .len();
    let expected = entry.bytes;
    let difference = if size < expected {
        "is cut off"
    } else {
        "has something added"
    };
    ensure!(
        size == expected,
        "found {size} bytes, the manifest expects {expected}: the file {difference}"
    );
    ensure!(
        size >= HEADER_SIZE,
        "found {size} bytes, expected at least the {HEADER_SIZE} of the header"
    );
    // SAFETY: the mapping is read-only and shared; shard files are never changed in place (a new
    // set is written beside the old one and renamed over it), so the bytes stay as they are while
    // they are borrowed.
    unsafe { Mmap::map(&file) }.context("cannot map the file")
}

/// The header, which must be the very one that the manifest's counts give.
fn check_header(map: &Mmap, entry: &FileEntry, manifest: &Manifest) -> Result<Header> {
    let header: Header =
        bytemuck::pod_read_unaligned(map.get(..HEADER_SIZE as usize).unwrap_or_default());
    ensure!(
        header.magic == MAGIC,
        "the file begins with {:?}, expected {:?}: it is no shard file",
        String::from_utf8_lossy(&header.magic),
        String::from_utf8_lossy(&MAGIC)
    );
    ensure!(
        header.version == FORMAT_VERSION,
        "found shard format version {}, this program reads version {FORMAT_VERSION}",
        header.version
    );
    let fingerprint = fingerprint_bytes(manifest)?;
    ensure!(
        header.fingerprint == fingerprint,
        "the file was made with tokenizer {}, the manifest says {}",
        to_hex(&header.fingerprint),
        manifest.tokenizer.fingerprint
    );
    let counts = Counts {
        tokens: entry.tokens,
        examples: entry.examples,
        spans: header.span_count,
    };
    let expected = Header::new(
        entry.split,
        counts,
        manifest.tokenizer.vocab_size as u32,
        fingerprint,
    );
    ensure!(
        expected == Some(header) && header.file_size == entry.bytes,
        "the header is damaged: found {header:?}, expected {expected:?} and a file of {} bytes",
        entry.bytes
    );
    Ok(header)
}
