//! Writing a shard folder, all or nothing: everything goes into a folder beside the target, is
//! flushed to the disk, and is renamed into place at the very end.

use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};

use super::folder::refuse_other_files;
use super::format::{ALIGNMENT, Counts, FORMAT_VERSION, HEADER_SIZE, Header, IndexEntry, Span};
use super::format::{sha256_from_hex, span_fault, to_hex};
use super::manifest::{
    FORMAT_NAME, FileEntry, MANIFEST_NAME, Manifest, SplitCounts, TokenizerEntry,
};
use super::{COMPANION_NAMES, Example, Split};
use crate::files::{Replacement, write_error};

/// A file is closed and the next begun when it holds this many tokens (33.5 MB): small enough to be
/// checked in parallel.
const MAX_TOKENS_PER_FILE: u64 = 1 << 24;

/// What a shard folder is made from.
#[derive(Clone, Debug)]
pub struct ShardInfo {
    /// Stage of the data set (`basis`, `large`, ...).
    pub stage: String,
    /// Seed from which it is generated.
    pub seed: u64,
    /// Version of the generator.
    pub generator_version: String,
    /// `Tokenizer::fingerprint`.
    pub tokenizer_fingerprint: String,
    /// Names of the offices, by the number stored with an example.
    pub offices: Vec<String>,
    /// Names of the techniques, by the bit stored with an example; at most 32.
    pub techniques: Vec<String>,
    /// Every token is less than this; at most 65536.
    pub vocab_size: usize,
}

/// Writes examples into a new shard folder. Nothing is seen at the target before
/// [`ShardWriter::finish`]; dropping the writer takes away what was written. The same examples in
/// the same order give the same bytes.
pub struct ShardWriter {
    target: PathBuf,
    replacement: Replacement,
    info: ShardInfo,
    fingerprint: [u8; 32],
    max_tokens_per_file: u64,
    splits: [SplitWriter; 3],
}

struct SplitWriter {
    split: Split,
    open: Option<FileWriter>,
    closed: Vec<FileEntry>,
}

struct FileWriter {
    path: PathBuf,
    name: String,
    out: BufWriter<File>,
    tokens: u64,
    index: Vec<IndexEntry>,
    spans: Vec<Span>,
}

impl ShardWriter {
    /// Begins a shard folder that will be `dir`. A folder there is replaced only if it is empty or
    /// holds nothing but shards.
    ///
    /// # Errors
    /// When something else is at `dir`, when the folder beside it cannot be made or is being
    /// written by another process, or when `info` is out of range.
    pub fn create(dir: impl AsRef<Path>, info: ShardInfo) -> Result<Self> {
        let fingerprint = sha256_from_hex(&info.tokenizer_fingerprint).with_context(|| {
            format!(
                "tokenizer fingerprint {:?} is no SHA-256",
                info.tokenizer_fingerprint
            )
        })?;
        ensure!(
            (1..=1 << 16).contains(&info.vocab_size),
            "shards hold 16-bit tokens: found vocab_size {}, expected 1 to 65536",
            info.vocab_size
        );
        ensure!(
            info.techniques.len() <= 32,
            "found {} techniques, expected at most 32",
            info.techniques.len()
        );
        ensure!(
            info.offices.len() <= 1 << 16,
            "found {} offices, expected at most 65536",
            info.offices.len()
        );
        let target = dir.as_ref().to_path_buf();
        let replacement = Replacement::begin(&target, &refuse_other_files)?;
        let split = |split| SplitWriter {
            split,
            open: None,
            closed: Vec::new(),
        };
        Ok(Self {
            target,
            replacement,
            info,
            fingerprint,
            max_tokens_per_file: MAX_TOKENS_PER_FILE,
            splits: Split::ALL.map(split),
        })
    }

    /// Begins a new file when one has this many tokens (default 2^24).
    pub fn with_max_tokens_per_file(mut self, tokens: u64) -> Self {
        self.max_tokens_per_file = tokens;
        self
    }

    /// Writes a file for people beside the shards; its name is one of [`COMPANION_NAMES`].
    ///
    /// # Errors
    /// When it has another name, and when it cannot be written.
    pub(crate) fn companion(&self, name: &str, content: &str) -> Result<()> {
        ensure!(
            COMPANION_NAMES.contains(&name),
            "{name:?} may not stand beside the shards, expected one of {COMPANION_NAMES:?}"
        );
        let path = self.replacement.path().join(name);
        write_synced(&path, content.as_bytes()).map_err(|error| write_error(&path, error))
    }

    /// Appends an example.
    ///
    /// # Errors
    /// When the example is shorter than two tokens or out of range of the info, and when it cannot
    /// be written.
    pub fn push(&mut self, split: Split, example: &Example) -> Result<()> {
        self.check(example)?;
        let writer = &mut self.splits[split as usize];
        let file = match &mut writer.open {
            Some(file) => file,
            None => {
                let name = format!("{}-{:05}.bin", split.name(), writer.closed.len());
                writer
                    .open
                    .insert(FileWriter::create(self.replacement.path(), name)?)
            }
        };
        file.push(example)?;
        // u32 offsets into the spans must suffice as well.
        if file.tokens >= self.max_tokens_per_file || file.spans.len() > 1 << 30 {
            writer.close(&self.info, self.fingerprint)?;
        }
        Ok(())
    }

    /// Writes the manifest, flushes everything to the disk and puts the folder in its place.
    ///
    /// # Errors
    /// When there is no training example, or when the disk is full or fails; the target is then as
    /// it was.
    pub fn finish(mut self, statistics: serde_json::Value) -> Result<Manifest> {
        for writer in &mut self.splits {
            writer.close(&self.info, self.fingerprint)?;
        }
        let [train, validation, validation_ood] = &self.splits;
        ensure!(
            !train.closed.is_empty(),
            "{}: no training example was given",
            self.target.display()
        );
        let manifest = Manifest {
            format: FORMAT_NAME.to_string(),
            version: FORMAT_VERSION,
            stage: self.info.stage.clone(),
            seed: self.info.seed,
            generator_version: self.info.generator_version.clone(),
            tokenizer: TokenizerEntry {
                name: "GPT-2 byte-level BPE".to_string(),
                fingerprint: to_hex(&self.fingerprint),
                vocab_size: self.info.vocab_size,
            },
            train: train.counts(),
            validation: validation.counts(),
            validation_ood: validation_ood.counts(),
            offices: self.info.offices.clone(),
            techniques: self.info.techniques.clone(),
            files: self
                .splits
                .iter()
                .flat_map(|writer| writer.closed.iter().cloned())
                .collect(),
            statistics,
        };
        let path = self.replacement.path().join(MANIFEST_NAME);
        let json = serde_json::to_string_pretty(&manifest)? + "\n";
        write_synced(&path, json.as_bytes()).map_err(|error| write_error(&path, error))?;
        self.replacement.finish(&refuse_other_files)?;
        Ok(manifest)
    }

    fn check(&self, example: &Example) -> Result<()> {
        let count = example.tokens.len();
        ensure!(
            (2..=u32::MAX as usize).contains(&count),
            "an example has {count} tokens, expected 2 or more"
        );
        if let Some(token) = example
            .tokens
            .iter()
            .find(|&&token| usize::from(token) >= self.info.vocab_size)
        {
            bail!(
                "token {token} in an example, expected less than the vocabulary's {}",
                self.info.vocab_size
            );
        }
        ensure!(
            usize::from(example.office) < self.info.offices.len(),
            "an example belongs to office {}, but only {} are named",
            example.office,
            self.info.offices.len()
        );
        ensure!(
            example
                .techniques
                .checked_shr(self.info.techniques.len() as u32)
                .unwrap_or(0)
                == 0,
            "an example has technique bits {:#b}, but only {} techniques are named",
            example.techniques,
            self.info.techniques.len()
        );
        ensure!(
            example.answers.len() <= usize::from(u16::MAX),
            "an example has {} answers",
            example.answers.len()
        );
        match span_fault(spans(example), count) {
            Some(fault) => bail!("{fault}"),
            None => Ok(()),
        }
    }
}

fn spans(example: &Example) -> impl Iterator<Item = Span> {
    example
        .answers
        .iter()
        .map(|&(start, length)| Span { start, length })
}

impl SplitWriter {
    fn close(&mut self, info: &ShardInfo, fingerprint: [u8; 32]) -> Result<()> {
        if let Some(file) = self.open.take() {
            self.closed
                .push(file.close(self.split, info.vocab_size as u32, fingerprint)?);
        }
        Ok(())
    }

    fn counts(&self) -> SplitCounts {
        SplitCounts {
            examples: self.closed.iter().map(|file| file.examples).sum(),
            tokens: self.closed.iter().map(|file| file.tokens).sum(),
        }
    }
}

impl FileWriter {
    fn create(dir: &Path, name: String) -> Result<Self> {
        let path = dir.join(&name);
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path);
        let mut out =
            BufWriter::with_capacity(1 << 20, file.map_err(|error| write_error(&path, error))?);
        out.write_all(&[0; HEADER_SIZE as usize])
            .map_err(|error| write_error(&path, error))?;
        Ok(Self {
            path,
            name,
            out,
            tokens: 0,
            index: Vec::new(),
            spans: Vec::new(),
        })
    }

    fn push(&mut self, example: &Example) -> Result<()> {
        self.out
            .write_all(bytemuck::cast_slice(&example.tokens))
            .map_err(|error| write_error(&self.path, error))?;
        self.index.push(IndexEntry {
            start: self.tokens,
            length: example.tokens.len() as u32,
            span_start: self.spans.len() as u32,
            span_count: example.answers.len() as u16,
            office: example.office,
            techniques: example.techniques,
        });
        self.spans.extend(spans(example));
        self.tokens += example.tokens.len() as u64;
        Ok(())
    }

    /// Writes index, spans and header, flushes the file to the disk and hashes it.
    fn close(mut self, split: Split, vocab_size: u32, fingerprint: [u8; 32]) -> Result<FileEntry> {
        let counts = Counts {
            tokens: self.tokens,
            examples: self.index.len() as u64,
            spans: self.spans.len() as u64,
        };
        let header = Header::new(split, counts, vocab_size, fingerprint)
            .with_context(|| format!("{} would be too large: {counts:?}", self.path.display()))?;
        let sha256 = self
            .write_tables(&header)
            .map_err(|error| write_error(&self.path, error))?;
        Ok(FileEntry {
            name: self.name,
            split,
            examples: counts.examples,
            tokens: counts.tokens,
            bytes: header.file_size,
            sha256,
        })
    }

    fn write_tables(&mut self, header: &Header) -> io::Result<String> {
        pad(&mut self.out)?;
        self.out.write_all(bytemuck::cast_slice(&self.index))?;
        pad(&mut self.out)?;
        self.out.write_all(bytemuck::cast_slice(&self.spans))?;
        pad(&mut self.out)?;
        self.out.seek(SeekFrom::Start(0))?;
        self.out.write_all(bytemuck::bytes_of(header))?;
        self.out.flush()?;
        let file = self.out.get_mut();
        file.sync_all()?;
        file.seek(SeekFrom::Start(0))?;
        hash(file)
    }
}

/// Zeros up to the next section.
fn pad(out: &mut BufWriter<File>) -> io::Result<()> {
    let position = out.stream_position()?;
    let zeros = position.next_multiple_of(ALIGNMENT) - position;
    out.write_all(&[0; ALIGNMENT as usize][..zeros as usize])
}

fn hash(file: &mut File) -> io::Result<String> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(to_hex(&hasher.finalize())),
            count => hasher.update(&buffer[..count]),
        }
    }
}

fn write_synced(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = File::create_new(path)?;
    file.write_all(content)?;
    file.sync_all()
}
