//! The sampler: which examples make up which batch. Everything follows from seed, epoch and number
//! of the batch, so a resumed run asks for the next batch and needs no replay.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

use super::Split;
use super::packing::{Rows, pack};
use super::reader::{ExampleView, ShardSet};
use crate::model::Batch;
use crate::ops::IGNORE_TARGET;

/// Which tokens carry loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LossOn {
    /// Every token of an example.
    All,
    /// The answer's tokens only.
    Answers,
}

/// How a split becomes batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SamplerConfig {
    /// Decides the order of the examples in each epoch.
    pub seed: u64,
    /// Rows of a logical batch.
    pub batch_size: usize,
    /// Positions of a row. A longer example is cut to this many.
    pub max_length: usize,
    /// Which tokens carry loss.
    pub loss_on: LossOn,
    /// Whether each epoch has its own order; without it every epoch goes through the examples as
    /// stored.
    pub shuffle: bool,
}

/// How well the examples of one epoch fill their rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackingReport {
    /// Number of rows.
    pub rows: usize,
    /// Positions that hold a token: what one epoch trains on.
    pub positions: u64,
    /// Positions there are: rows times `max_length`.
    pub capacity: u64,
    /// Examples that were longer than `max_length`.
    pub cut_examples: usize,
    /// Tokens that were cut off from them.
    pub cut_tokens: u64,
}

impl PackingReport {
    /// Share of positions that hold a token, 0 to 1.
    pub fn fill_rate(&self) -> f64 {
        self.positions as f64 / self.capacity.max(1) as f64
    }
}

/// Hands out the batches of each epoch of one split, in any order, from any thread.
pub struct Sampler {
    set: ShardSet,
    split: Split,
    config: SamplerConfig,
    /// Positions of each example before cutting: its tokens less one, since the last is only a
    /// target.
    lengths: Vec<u32>,
    plans: Mutex<Plans>,
}

#[derive(Default)]
struct Plans {
    /// The plan used last; a plan of 500,000 examples takes a few megabytes and a fraction of a
    /// second.
    latest: Option<(u64, Arc<Rows>)>,
    /// Rows of every epoch planned so far.
    rows: BTreeMap<u64, usize>,
}

impl Sampler {
    /// A sampler over one split of `set`.
    ///
    /// # Errors
    /// When `batch_size` or `max_length` is 0 or a batch would not fit 32-bit offsets.
    pub fn new(set: &ShardSet, split: Split, config: SamplerConfig) -> Result<Self> {
        let SamplerConfig {
            batch_size,
            max_length,
            ..
        } = config;
        ensure!(batch_size > 0, "batch size is 0, expected at least one row");
        ensure!(
            max_length > 0,
            "max length is 0, expected at least one position"
        );
        ensure!(
            batch_size
                .checked_mul(max_length)
                .is_some_and(|tokens| u32::try_from(tokens).is_ok()),
            "a batch of {batch_size} rows of {max_length} positions is too large: at most {} \
            positions",
            u32::MAX
        );
        let lengths: Vec<u32> = set
            .lengths(split)
            .into_iter()
            .map(|length| length.saturating_sub(1))
            .collect();
        ensure!(
            u32::try_from(lengths.len()).is_ok(),
            "{}: {} examples are too many: at most {}",
            set.dir().display(),
            lengths.len(),
            u32::MAX
        );
        Ok(Self {
            set: set.clone(),
            split,
            config,
            lengths,
            plans: Mutex::default(),
        })
    }

    /// How the sampler was set up.
    pub(crate) fn config(&self) -> SamplerConfig {
        self.config
    }

    /// Number of logical batches of an epoch; the last may have fewer rows.
    pub fn epoch_batches(&self, epoch: u64) -> usize {
        let known = self.lock().rows.get(&epoch).copied();
        known
            .unwrap_or_else(|| self.rows(epoch).len())
            .div_ceil(self.config.batch_size)
    }

    /// How the examples of an epoch fill their rows.
    pub fn report(&self, epoch: u64) -> PackingReport {
        let max_length = self.config.max_length as u64;
        let lengths = || self.lengths.iter().map(|&length| u64::from(length));
        let rows = self.rows(epoch).len();
        PackingReport {
            rows,
            positions: lengths().map(|length| length.min(max_length)).sum(),
            capacity: rows as u64 * max_length,
            cut_examples: lengths().filter(|&length| length > max_length).count(),
            cut_tokens: lengths()
                .map(|length| length.saturating_sub(max_length))
                .sum(),
        }
    }

    /// Logical batch `index` of `epoch`.
    ///
    /// # Errors
    /// When the epoch has no such batch.
    pub fn batch(&self, epoch: u64, index: usize) -> Result<Batch> {
        let rows = self.rows(epoch);
        let batches = rows.len().div_ceil(self.config.batch_size);
        ensure!(
            index < batches,
            "batch {index} asked for, but epoch {epoch} has {batches} batches"
        );
        let first = index * self.config.batch_size;
        let last = (first + self.config.batch_size).min(rows.len());
        let mut batch = Batch::new();
        let (mut tokens, mut targets) = (Vec::new(), Vec::new());
        for &example in rows.examples(first, last) {
            let view = self.set.example(self.split, example as usize);
            let view = view
                .with_context(|| format!("{}: no example {example}", self.set.dir().display()))?;
            self.fill(view, &mut tokens, &mut targets);
            batch.push_segment(&tokens, &targets)?;
        }
        Ok(batch)
    }

    /// Inputs and targets of one example, cut to `max_length` positions.
    fn fill(&self, example: ExampleView, tokens: &mut Vec<u32>, targets: &mut Vec<u32>) {
        let stored = example.tokens;
        let count = stored.len().saturating_sub(1).min(self.config.max_length);
        tokens.clear();
        tokens.extend(stored[..count].iter().map(|&token| u32::from(token)));
        targets.clear();
        let next = stored[1..=count].iter().map(|&token| u32::from(token));
        match self.config.loss_on {
            LossOn::All => targets.extend(next),
            LossOn::Answers => {
                targets.resize(count, IGNORE_TARGET);
                for span in example.answers {
                    // Token i is predicted at position i - 1; nothing predicts token 0.
                    let end = ((span.start + span.length) as usize).min(count + 1);
                    for token in (span.start as usize).max(1)..end {
                        targets[token - 1] = u32::from(stored[token]);
                    }
                }
            }
        }
    }

    /// The rows of an epoch, planned once.
    fn rows(&self, epoch: u64) -> Arc<Rows> {
        let mut plans = self.lock();
        if let Some((planned, rows)) = &plans.latest
            && *planned == epoch
        {
            return Arc::clone(rows);
        }
        let rows = Arc::new(pack(
            &self.lengths,
            &self.order(epoch),
            self.config.max_length as u32,
        ));
        plans.rows.insert(epoch, rows.len());
        plans.latest = Some((epoch, Arc::clone(&rows)));
        rows
    }

    /// The examples in the order of an epoch: a Fisher-Yates shuffle.
    fn order(&self, epoch: u64) -> Vec<u32> {
        let mut order: Vec<u32> = (0..self.lengths.len() as u32).collect();
        if self.config.shuffle {
            let mut rng = generator(self.config.seed, epoch);
            for last in (1..order.len()).rev() {
                let choices = last as u128 + 1;
                // The high half of a product is uniform to 2^-32 for any number of examples that
                // fits u32.
                let chosen = (u128::from(rng.next_u64()) * choices) >> 64;
                order.swap(last, chosen as usize);
            }
        }
        order
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Plans> {
        // A plan is replaced whole, so a thread that panicked elsewhere leaves nothing half-done
        // here.
        self.plans.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A generator of its own for each seed and epoch.
fn generator(seed: u64, epoch: u64) -> ChaCha8Rng {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..16].copy_from_slice(&epoch.to_le_bytes());
    key[16..].copy_from_slice(b"order of example");
    ChaCha8Rng::from_seed(key)
}
