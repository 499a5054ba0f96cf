//! `muni-engine measure`, for `benches/gpu/report.py`: training steps on random tokens, timed, as
//! one line of JSON. The same work as `benches/peers/pytorch_train.py` does.

use anyhow::{Context, Result, ensure};
use serde_json::json;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use super::device::{DeviceArguments, Task};
use super::plan::{card_of, profile_text};
use crate::model::{Batch, Model, ModelConfig, Parameters, random_weights};
use crate::ops::TrainingDevice;
use crate::ops::cuda::driver::profile::Profile;
use crate::roofline::operations::StepShape;
use crate::train::step::Engine;
use crate::train::{Stage, TrainSettings, memory};

/// Arguments of `muni-engine measure`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    device: DeviceArguments,
    /// Timed steps.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 10,
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    steps: u32,
    /// Steps before them.
    #[arg(long, value_name = "N", default_value_t = 2)]
    warmup: u32,
    /// Rows of a logical batch.
    #[arg(long, value_name = "N", default_value_t = 4)]
    batch_size: usize,
    /// Tokens of a row.
    #[arg(long, value_name = "N", default_value_t = 256)]
    max_length: usize,
    /// Logical batches of a step.
    #[arg(long, value_name = "N", default_value_t = 4)]
    accumulation: usize,
    /// Time each kernel of the timed steps and print the times beside the card's limits. Costs
    /// speed.
    #[arg(long)]
    profile: bool,
    /// Sizes of the model, as a Hugging Face config.json of MixtralForCausalLM [default: 47 million
    /// parameters].
    #[arg(long, value_name = "FILE")]
    model_config: Option<PathBuf>,
}

/// Runs the command.
pub(crate) fn run(arguments: Arguments) -> Result<()> {
    let profile = arguments.profile.then(Arc::<Profile>::default);
    arguments
        .device
        .run_profiled(profile.as_ref(), Measure(&arguments, profile.as_deref()))
}

struct Measure<'a>(&'a Arguments, Option<&'a Profile>);

impl Task for Measure<'_> {
    fn run<D: TrainingDevice>(self, device: &D) -> Result<()> {
        measure(device, self.0, self.1)
    }
}

/// Rows of random tokens, each row one example.
fn random_batch(vocab: usize, settings: &TrainSettings, state: &mut u64) -> Result<Batch> {
    let mut token = || {
        // Knuth's MMIX generator: any numbers do, as long as every run has the same.
        *state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((*state >> 33) % vocab as u64) as u32
    };
    let mut batch = Batch::new();
    for _ in 0..settings.batch_size {
        let row: Vec<u32> = (0..=settings.max_length).map(|_| token()).collect();
        batch.push_segment(&row[..settings.max_length], &row[1..])?;
    }
    Ok(batch)
}

fn measure<D: TrainingDevice>(
    device: &D,
    arguments: &Arguments,
    profile: Option<&Profile>,
) -> Result<()> {
    let config = match &arguments.model_config {
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("reading {}", path.display()))?;
            ModelConfig::from_json(&text, path)?
        }
        None => ModelConfig::default_47m(),
    };
    let settings = TrainSettings {
        batch_size: arguments.batch_size,
        max_length: arguments.max_length,
        gradient_accumulation_steps: arguments.accumulation,
        ..TrainSettings::preset(Stage::Massive)
    };
    settings.validate()?;
    ensure!(
        settings.max_length <= config.max_position_embeddings,
        "--max-length is {}, the model has {} positions",
        settings.max_length,
        config.max_position_embeddings
    );
    let plan = memory::prepare(device, &config, &settings, None, None, &|_, _| Ok(()))?;
    let micro_batch = plan.map_or(1, |plan| plan.micro_batch);
    let weights = random_weights(&config, 1);
    let parameters = Parameters::upload(device, &config, &weights)?;
    let model = Model::new(config.clone(), parameters)?;
    let mut engine = Engine::new(device, model, &weights, &settings, micro_batch)?;
    drop(weights);
    let mut state = 1;
    let mut losses = Vec::new();
    let mut seconds = Vec::new();
    for step in 0..u64::from(arguments.warmup) + u64::from(arguments.steps) {
        let batches = (0..settings.gradient_accumulation_steps)
            .map(|_| random_batch(config.vocab_size, &settings, &mut state))
            .collect::<Result<Vec<_>>>()?;
        let timed = step >= u64::from(arguments.warmup);
        device.profile(timed);
        let began = Instant::now();
        // The step ends with its loss on the host, so everything is done.
        let result = engine.step(device, &batches, step + 1, 5e-5)?;
        if timed {
            seconds.push(began.elapsed().as_secs_f64());
        }
        device.profile(false);
        losses.push(result.loss);
    }
    seconds.sort_by(f64::total_cmp);
    let median = seconds[seconds.len() / 2];
    let tokens = settings.batch_size * settings.max_length * settings.gradient_accumulation_steps;
    if let Some(profile) = profile {
        let shape = StepShape {
            micro_tokens: tokens / settings.gradient_accumulation_steps * micro_batch,
            micro_batches: settings.gradient_accumulation_steps / micro_batch,
            example_tokens: settings.max_length as f64,
            counted: 1.0,
        };
        let card = card_of(&device.name());
        eprint!("{}", profile_text(profile, &config, &shape, card)?);
    }
    println!(
        "{}",
        json!({
            "engine": env!("CARGO_PKG_VERSION"),
            "device": device.name(),
            "micro_batch": micro_batch,
            "tokens_per_step": tokens,
            "steps": arguments.steps,
            "seconds_per_step_median": median,
            "seconds_per_step_min": seconds.first(),
            "seconds_per_step_max": seconds.last(),
            "tokens_per_second": tokens as f64 / median,
            "planned_bytes": plan.map(|plan| plan.memory.total()),
            "first_loss": losses.first(),
            "last_loss": losses.last(),
        })
    );
    Ok(())
}
