//! What a run is trained with: the presets of the five stages in one table, and the rule of what
//! may change on resume.

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

pub use crate::shards::{LossOn, Stage};

/// Steps that may be issued before their results are collected.
pub(crate) const HISTORY: usize = 64;

/// Everything that decides the weights a run ends with, apart from the data and the model's
/// configuration. Two runs with equal settings, data and configuration end with the same bits on
/// the same device and binary.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainSettings {
    /// Stage whose row of the preset table filled what was not given.
    pub preset: Stage,
    /// Passes over the training examples.
    pub epochs: usize,
    /// Rows per logical batch.
    pub batch_size: usize,
    /// Peak learning rate, reached after the warmup.
    pub learning_rate: f32,
    /// Logical batches per optimizer step.
    pub gradient_accumulation_steps: usize,
    /// Tokens per row.
    pub max_length: usize,
    /// Stops (and anneals the learning rate) earlier than the epochs would.
    pub max_steps: Option<u64>,
    /// Steps of linear warmup; `None`: a twentieth of the run, at most 1,000.
    pub warmup_steps: Option<u64>,
    /// Decoupled weight decay of everything but norms.
    pub weight_decay: f32,
    /// Where the cosine ends, as a share of `learning_rate`.
    pub final_learning_rate_ratio: f32,
    /// AdamW beta1.
    pub beta1: f32,
    /// AdamW beta2.
    pub beta2: f32,
    /// AdamW epsilon.
    pub epsilon: f32,
    /// Largest norm of a step's whole gradient.
    pub max_grad_norm: f32,
    /// Which tokens carry loss.
    pub loss_on: LossOn,
    /// Steps between validations, which choose the best model; `None`: a tenth of the run.
    pub eval_every: Option<u64>,
    /// Logical batches of one validation at most.
    pub eval_batches: usize,
    /// Seed of the initial weights and of the order of examples.
    pub seed: u64,
}

/// One row of the preset table.
struct Preset {
    stage: Stage,
    epochs: usize,
    batch_size: usize,
    learning_rate: f32,
    beta2: f32,
    gradient_accumulation_steps: usize,
    loss_on: LossOn,
}

/// The presets. `massive` is the product's reference setting. A smaller set sees its examples more
/// often, at a higher rate and in smaller steps, because it has few of them. It learns from answers
/// only, which saves a third of the head's work. docs/benchmarks/settings.md has the validation
/// losses that chose `basis`, `large` and the rates of `super`. The epochs of `super` are what two
/// busy AVX2 cores do in less than half an hour, compiling included; more make better sentences.
/// `beta2` is higher where a step has few tokens, so that the mean of squared gradients covers
/// about as many tokens. For `large`, values of it were not compared at its rate.
#[rustfmt::skip]
const PRESETS: [Preset; 5] = [
    // stage, epochs, batch size, peak learning rate, beta2, accumulation steps, loss on
    row(Stage::Basis,   40, 2, 5e-4, 0.99, 1, LossOn::Answers),
    row(Stage::Large,   20, 2, 1e-3, 0.95, 1, LossOn::Answers),
    row(Stage::Super,   5,  2, 6e-4, 0.99, 1, LossOn::Answers),
    row(Stage::Ultra,   4,  4, 5e-4, 0.95, 2, LossOn::All),
    row(Stage::Massive, 3,  4, 5e-5, 0.95, 4, LossOn::All),
];

/// Tokens per row, for all stages.
const MAX_LENGTH: usize = 256;

const fn row(
    stage: Stage,
    epochs: usize,
    batch_size: usize,
    learning_rate: f32,
    beta2: f32,
    gradient_accumulation_steps: usize,
    loss_on: LossOn,
) -> Preset {
    Preset {
        stage,
        epochs,
        batch_size,
        learning_rate,
        beta2,
        gradient_accumulation_steps,
        loss_on,
    }
}

impl TrainSettings {
    /// The settings of a stage.
    pub fn preset(stage: Stage) -> Self {
        // The table has a row per stage (held by a test); its last row stands in so that this
        // cannot fail.
        let row = PRESETS
            .iter()
            .find(|row| row.stage == stage)
            .unwrap_or(&PRESETS[PRESETS.len() - 1]);
        Self {
            preset: stage,
            epochs: row.epochs,
            batch_size: row.batch_size,
            learning_rate: row.learning_rate,
            gradient_accumulation_steps: row.gradient_accumulation_steps,
            max_length: MAX_LENGTH,
            max_steps: None,
            warmup_steps: None,
            weight_decay: 0.1,
            final_learning_rate_ratio: 0.1,
            beta1: 0.9,
            beta2: row.beta2,
            epsilon: 1e-8,
            max_grad_norm: 1.0,
            loss_on: row.loss_on,
            eval_every: None,
            eval_batches: 50,
            seed: 42,
        }
    }

    /// Refuses settings that no run can be made with, naming the option and its value.
    pub(crate) fn validate(&self) -> Result<()> {
        for (option, value) in [
            ("--epochs", self.epochs),
            ("--batch-size", self.batch_size),
            (
                "--gradient-accumulation-steps",
                self.gradient_accumulation_steps,
            ),
        ] {
            ensure!(value >= 1, "{option} is {value}; it must be at least 1");
        }
        ensure!(
            self.max_length >= 2,
            "--max-length is {}; it must be at least 2",
            self.max_length
        );
        ensure!(
            self.max_steps != Some(0),
            "--max-steps is 0; it must be at least 1"
        );
        ensure!(
            self.eval_every != Some(0),
            "--eval-every is 0; it must be at least 1"
        );
        ensure!(
            self.learning_rate.is_finite() && self.learning_rate > 0.0,
            "--learning-rate is {}; it must be a positive number",
            self.learning_rate
        );
        ensure!(
            (0.0..=1.0).contains(&self.final_learning_rate_ratio),
            "--final-learning-rate-ratio is {}; it must be between 0 and 1",
            self.final_learning_rate_ratio
        );
        ensure!(
            (0.0..1.0).contains(&self.beta2),
            "--beta2 is {}; it must be at least 0 and less than 1",
            self.beta2
        );
        ensure!(
            self.weight_decay.is_finite() && self.weight_decay >= 0.0,
            "--weight-decay is {}; it must be 0 or a positive number",
            self.weight_decay
        );
        Ok(())
    }

    /// The settings by name. Through text, so that an `f32` of 0.1 reads 0.1 and not the nearest
    /// `f64`.
    ///
    /// # Errors
    /// Never for these types, but serialisation is fallible.
    pub(crate) fn to_json(&self) -> Result<serde_json::Map<String, serde_json::Value>> {
        Ok(serde_json::from_str(&serde_json::to_string(self)?)?)
    }

    /// What differs between these settings and `other`, each as `name: mine, theirs`; empty when
    /// equal.
    pub(crate) fn differences(&self, other: &Self) -> Result<Vec<String>> {
        let (mine, theirs) = (self.to_json()?, other.to_json()?);
        Ok(mine
            .iter()
            .filter(|(name, value)| theirs.get(*name) != Some(value))
            .map(|(name, value)| {
                let other = theirs.get(name).unwrap_or(&serde_json::Value::Null);
                format!("{name}: {value}, not {other}")
            })
            .collect())
    }
}

/// How a run is carried out; none of it decides what is learned.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunOptions {
    /// Logical batches computed at once. Changes the result by rounding only.
    pub micro_batch: usize,
    /// Steps between checkpoints; `None`: at each validation and every ten minutes.
    pub save_every: Option<u64>,
    /// Checkpoints kept.
    pub keep: usize,
    /// Steps between two looks at the device's results; `None`: each step, or every
    /// `METRICS_EVERY` on a device that runs ahead.
    #[serde(default)]
    pub metrics_every: Option<usize>,
}

/// Steps between two looks at the results of a device that runs ahead. Looking waits for the
/// device, some 0.1 ms.
pub(crate) const METRICS_EVERY: usize = 10;

impl Default for RunOptions {
    fn default() -> Self {
        Self {
            micro_batch: 1,
            save_every: None,
            keep: 2,
            metrics_every: None,
        }
    }
}

impl RunOptions {
    /// Refuses options that no run can be made with, naming the option and its value.
    pub(crate) fn validate(&self) -> Result<()> {
        ensure!(
            self.micro_batch >= 1,
            "--micro-batch is 0; it must be at least 1"
        );
        ensure!(self.keep >= 1, "--keep is 0; it must be at least 1");
        ensure!(
            self.metrics_every
                .is_none_or(|every| (1..=HISTORY).contains(&every)),
            "--metrics-every is {}; it must be 1 to {HISTORY}",
            self.metrics_every.unwrap_or_default()
        );
        ensure!(
            self.save_every != Some(0),
            "--save-every is 0; it must be at least 1"
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stage_has_its_row_and_name() {
        for (index, stage) in Stage::ALL.into_iter().enumerate() {
            assert_eq!(PRESETS[index].stage, stage);
            assert_eq!(stage.name().parse::<Stage>().unwrap(), stage);
            assert_eq!(
                serde_json::to_value(stage).unwrap(),
                serde_json::json!(stage.name())
            );
            TrainSettings::preset(stage).validate().unwrap();
        }
        assert!("huge".parse::<Stage>().is_err());
    }

    #[test]
    fn massive_is_the_reference_setting() {
        let settings = TrainSettings::preset(Stage::Massive);
        assert_eq!(
            (settings.epochs, settings.batch_size, settings.max_length),
            (3, 4, 256)
        );
        assert_eq!(settings.learning_rate, 5e-5);
        assert_eq!(settings.gradient_accumulation_steps, 4);
    }

    #[test]
    fn settings_survive_json_exactly() {
        let mut settings = TrainSettings::preset(Stage::Super);
        settings.learning_rate = 0.1 + f32::EPSILON;
        let text = serde_json::to_string(&settings).unwrap();
        let back: TrainSettings = serde_json::from_str(&text).unwrap();
        assert_eq!(back, settings);
        assert!(settings.differences(&back).unwrap().is_empty());
    }

    #[test]
    fn differences_are_named() {
        let mine = TrainSettings::preset(Stage::Super);
        let theirs = TrainSettings {
            seed: 7,
            max_steps: Some(5),
            ..mine.clone()
        };
        assert_eq!(
            mine.differences(&theirs).unwrap(),
            ["max_steps: null, not 5", "seed: 42, not 7"]
        );
    }

    #[test]
    fn impossible_settings_are_refused_by_name() {
        let mut settings = TrainSettings::preset(Stage::Super);
        settings.learning_rate = f32::NAN;
        let message = settings.validate().unwrap_err().to_string();
        assert!(message.contains("--learning-rate is NaN"), "{message}");
        for every in [0, HISTORY + 1] {
            let options = RunOptions {
                metrics_every: Some(every),
                ..RunOptions::default()
            };
            let message = options.validate().unwrap_err().to_string();
            assert!(
                message.contains(&format!("--metrics-every is {every}")),
                "{message}"
            );
        }
        RunOptions::default().validate().unwrap();
    }
}
