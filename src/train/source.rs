//! Batches of a run, from a shard folder.

use anyhow::{Context, Result};
use std::path::Path;

use crate::files;
use crate::model::Batch;
use crate::shards::{Sampler, SamplerConfig, ShardSet, Split};
use crate::tokenizer::Tokenizer;
use crate::train::settings::{Stage, TrainSettings};

/// A checked shard folder.
pub struct ShardFolder {
    set: ShardSet,
    manifest_sha256: String,
}

impl ShardFolder {
    /// Opens and checks a folder.
    ///
    /// # Errors
    /// Names the file that is missing, damaged or made with another tokenizer.
    pub fn open(folder: &Path, tokenizer: &Tokenizer) -> Result<Self> {
        let set = ShardSet::open(folder, &tokenizer.fingerprint())?;
        let manifest_sha256 = files::sha256_file(&set.dir().join("manifest.json"))?;
        Ok(Self {
            set,
            manifest_sha256,
        })
    }

    /// Its path.
    pub(crate) fn path(&self) -> &Path {
        self.set.dir()
    }

    /// The stage that it was made for, if that is one with a preset.
    pub(crate) fn stage(&self) -> Option<Stage> {
        self.set.manifest().stage.parse().ok()
    }

    /// Tokens that an example of the training split takes of a row, on average.
    pub(crate) fn mean_example(&self) -> f64 {
        let train = &self.set.manifest().train;
        (train.tokens as f64 / train.examples.max(1) as f64 - 1.0).max(1.0)
    }

    /// SHA-256 of its manifest, which holds those of all its files.
    pub fn manifest_sha256(&self) -> &str {
        &self.manifest_sha256
    }
}

/// Training batches by epoch and number, and the batches to validate on.
pub struct Source {
    train: Sampler,
    validation: Sampler,
}

impl Source {
    /// The batches of a folder with these settings.
    ///
    /// # Errors
    /// When the settings make no batch.
    pub fn new(folder: &ShardFolder, settings: &TrainSettings) -> Result<Self> {
        let config = |shuffle| SamplerConfig {
            seed: settings.seed,
            batch_size: settings.batch_size,
            max_length: settings.max_length,
            loss_on: settings.loss_on,
            shuffle,
        };
        Ok(Self {
            train: Sampler::new(&folder.set, Split::Train, config(true))?,
            validation: Sampler::new(&folder.set, Split::Validation, config(false))?,
        })
    }

    /// Logical batches of each of the first `epochs` epochs.
    pub(crate) fn batches_per_epoch(&self, epochs: usize) -> Vec<usize> {
        (0..epochs as u64)
            .map(|epoch| self.train.epoch_batches(epoch))
            .collect()
    }

    /// A logical batch of an epoch, both from 0.
    ///
    /// # Errors
    /// When the epoch has no such batch.
    pub(crate) fn batch(&self, epoch: usize, index: usize) -> Result<Batch> {
        self.train
            .batch(epoch as u64, index)
            .with_context(|| format!("batch {index} of epoch {epoch}"))
    }

    /// The first batches of the validation split, `limit` at most; the same at every validation.
    ///
    /// # Errors
    /// When a batch cannot be read.
    pub(crate) fn validation(&self, limit: usize) -> Result<Vec<Batch>> {
        let count = self.validation.epoch_batches(0).min(limit);
        (0..count)
            .map(|index| self.validation.batch(0, index))
            .collect()
    }

    /// A sentence about examples that do not fit a row, if there are any.
    pub(crate) fn cut_warning(&self) -> Option<String> {
        let report = self.train.report(0);
        (report.cut_examples > 0).then(|| {
            format!(
                "{} examples are longer than --max-length {} and lose {} tokens at their ends",
                report.cut_examples,
                self.train.config().max_length,
                report.cut_tokens
            )
        })
    }
}
