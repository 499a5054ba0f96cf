//! Arguments of `muni-engine train`, and the settings and options that follow from them.

use anyhow::{Context, Result};
use std::path::PathBuf;

use crate::cli::device::DeviceArguments;
use crate::cli::values::byte_size;
use crate::model::ModelConfig;
use crate::train::{LossOn, RunOptions, Stage, TrainSettings};

/// Arguments of `muni-engine train`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Folder of token shards, as `muni-engine dataset` writes it [default: shards, or what the
    /// resumed run used].
    #[arg(long, value_name = "DIR")]
    pub(super) shards: Option<PathBuf>,
    /// Folder of the run [default: runs/DATE-TIME-PRESET].
    #[arg(long, value_name = "DIR")]
    pub(super) out: Option<PathBuf>,
    /// Where the settings below come from unless given [default: the shards' own stage].
    #[arg(long, value_enum)]
    pub(super) preset: Option<Stage>,
    /// Passes over the training examples.
    #[arg(long, value_name = "N")]
    pub(super) epochs: Option<usize>,
    /// Rows per logical batch.
    #[arg(long, value_name = "N")]
    pub(super) batch_size: Option<usize>,
    /// Peak learning rate, reached after the warmup.
    #[arg(long, value_name = "R")]
    pub(super) learning_rate: Option<f32>,
    /// Logical batches per optimizer step.
    #[arg(long, value_name = "N")]
    pub(super) gradient_accumulation_steps: Option<usize>,
    /// Tokens per row.
    #[arg(long, value_name = "N")]
    pub(super) max_length: Option<usize>,
    /// Stop after N steps; the learning rate has reached its end by then.
    #[arg(long, value_name = "N")]
    pub(super) max_steps: Option<u64>,
    /// Steps of linear warmup [default: a twentieth of the run, at most 1000].
    #[arg(long, value_name = "N")]
    pub(super) warmup_steps: Option<u64>,
    /// Final learning rate as a share of the peak [default: 0.1].
    #[arg(long, value_name = "X")]
    pub(super) final_learning_rate_ratio: Option<f32>,
    /// AdamW beta2. Use a larger value for small batches [default: 0.95; basis and super: 0.99].
    #[arg(long, value_name = "X")]
    pub(super) beta2: Option<f32>,
    /// AdamW weight decay; norms have none [default: 0.1].
    #[arg(long, value_name = "X")]
    pub(super) weight_decay: Option<f32>,
    /// Which tokens carry loss [default: all].
    #[arg(long, value_enum)]
    pub(super) loss_on: Option<LossOn>,
    /// Steps between validations [default: a tenth of the run].
    #[arg(long, value_name = "N")]
    pub(super) eval_every: Option<u64>,
    /// Seed of the initial weights and of the order of examples [default: 42].
    #[arg(long, value_name = "S")]
    pub(super) seed: Option<u64>,
    /// Continue a run from its newest whole checkpoint [default: the run that --out names, or the
    /// latest in runs/].
    #[arg(long, value_name = "DIR", num_args = 0..=1)]
    pub(super) resume: Option<Option<PathBuf>>,
    /// Sizes of the model, as a Hugging Face config.json of MixtralForCausalLM [default: 47 million
    /// parameters].
    #[arg(long, value_name = "FILE")]
    pub(super) model_config: Option<PathBuf>,
    #[command(flatten)]
    pub(super) device: DeviceArguments,
    /// Logical batches computed at once. Changes memory and speed, not the result [default: on a
    /// card as many as fit, up to a whole step, else 1].
    #[arg(long, value_name = "N")]
    pub(super) micro_batch: Option<usize>,
    /// Most card memory the run may use, e.g. 8GiB, 6.5GiB or 7500MB.
    #[arg(long, value_name = "SIZE", value_parser = byte_size)]
    pub(super) vram_limit: Option<u64>,
    /// Time every kernel from the second step on and print the times beside the card's limits.
    /// Slows training.
    #[arg(long)]
    pub(super) profile: bool,
    /// Steps between checkpoints [default: at each validation and every ten minutes].
    #[arg(long, value_name = "N")]
    pub(super) save_every: Option<u64>,
    /// Checkpoints kept [default: 2].
    #[arg(long, value_name = "N")]
    pub(super) keep: Option<usize>,
    /// Write metrics every N steps [default: 1 on the CPU, 10 on a card].
    #[arg(long, value_name = "N")]
    pub(super) metrics_every: Option<usize>,
}

impl Arguments {
    /// The given settings over `base`; a given preset over that takes its place.
    pub(super) fn settings(&self, base: &TrainSettings) -> TrainSettings {
        let base = match self.preset {
            Some(preset) => TrainSettings::preset(preset),
            None => base.clone(),
        };
        TrainSettings {
            epochs: self.epochs.unwrap_or(base.epochs),
            batch_size: self.batch_size.unwrap_or(base.batch_size),
            learning_rate: self.learning_rate.unwrap_or(base.learning_rate),
            gradient_accumulation_steps: self
                .gradient_accumulation_steps
                .unwrap_or(base.gradient_accumulation_steps),
            max_length: self.max_length.unwrap_or(base.max_length),
            max_steps: self.max_steps.or(base.max_steps),
            warmup_steps: self.warmup_steps.or(base.warmup_steps),
            final_learning_rate_ratio: self
                .final_learning_rate_ratio
                .unwrap_or(base.final_learning_rate_ratio),
            beta2: self.beta2.unwrap_or(base.beta2),
            weight_decay: self.weight_decay.unwrap_or(base.weight_decay),
            loss_on: self.loss_on.unwrap_or(base.loss_on),
            eval_every: self.eval_every.or(base.eval_every),
            seed: self.seed.unwrap_or(base.seed),
            ..base
        }
    }

    /// The given options over `base`.
    pub(super) fn options(&self, base: &RunOptions) -> RunOptions {
        RunOptions {
            micro_batch: self.micro_batch.unwrap_or(base.micro_batch),
            save_every: self.save_every.or(base.save_every),
            keep: self.keep.unwrap_or(base.keep),
            metrics_every: self.metrics_every.or(base.metrics_every),
        }
    }

    /// The sizes in `--model-config`, if that is given.
    pub(super) fn config(&self) -> Result<Option<ModelConfig>> {
        let Some(path) = &self.model_config else {
            return Ok(None);
        };
        let text =
            std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        ModelConfig::from_json(&text, path).map(Some)
    }
}
