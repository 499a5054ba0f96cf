//! Training throughput at the 47M size, as one JSON line: what `benches/peers/compare.py` holds
//! against PyTorch. `cargo bench --bench throughput -- [--steps N] [--warmup N] [--batch-size B]
//! [--max-length L] [--accumulation A] [--precision fp32|bf16] [--shards DIR [--loss-on
//! all|answers]] [--model-path DIR] [--dump FILE]`. A step is forward and backward of every logical
//! batch, the global norm, clipping and AdamW: the same work as `benches/peers/pytorch_train.py`.
//! Tokens are random, each row one example, or with `--shards` the batches of training; the model
//! is a fresh one, or with `--model-path` one that has been trained. `--dump` writes the batches,
//! one JSON object per line, for the peer.

use anyhow::{Context, Result, bail};
use muni_engine::hf::load_folder;
use muni_engine::model::{Batch, Model, ModelConfig, Parameters, random_weights};
use muni_engine::ops::Device;
use muni_engine::ops::cpu::{CpuDevice, MatmulPrecision};
use muni_engine::shards::{LossOn, Sampler, SamplerConfig, ShardSet, Split};
use muni_engine::tokenizer::Tokenizer;
use muni_engine::train::step::Engine;
use muni_engine::train::{Stage, TrainSettings};
use std::io::Write;
use std::path::Path;
use std::str::FromStr;
use std::time::Instant;

fn option<T: FromStr>(name: &str) -> Result<Option<T>> {
    let mut arguments = std::env::args().skip_while(|a| a != name);
    match (arguments.next(), arguments.next()) {
        (None, _) => Ok(None),
        (Some(_), value) => {
            let value = value.with_context(|| format!("{name} needs a value"))?;
            match value.parse() {
                Ok(value) => Ok(Some(value)),
                Err(_) => bail!("{name}: '{value}' does not fit"),
            }
        }
    }
}

/// Where batches come from.
enum Source {
    Random,
    Shards(Sampler),
}

impl Source {
    fn new(rows: usize, length: usize) -> Result<Self> {
        let Some(folder) = option::<String>("--shards")? else {
            return Ok(Self::Random);
        };
        let loss_on = match option::<String>("--loss-on")?.as_deref() {
            None | Some("all") => LossOn::All,
            Some("answers") => LossOn::Answers,
            Some(other) => bail!("--loss-on: '{other}', expected all or answers"),
        };
        let set = ShardSet::open(&folder, &Tokenizer::gpt2()?.fingerprint())?;
        let config = SamplerConfig {
            seed: 1,
            batch_size: rows,
            max_length: length,
            loss_on,
            shuffle: true,
        };
        Ok(Self::Shards(Sampler::new(&set, Split::Train, config)?))
    }

    fn batch(
        &self,
        config: &ModelConfig,
        rows: usize,
        length: usize,
        number: usize,
    ) -> Result<Batch> {
        match self {
            Self::Random => Ok(random_batch(config, rows, length, number as u64)),
            Self::Shards(sampler) => sampler.batch(0, number),
        }
    }
}

/// One batch as a line of JSON.
fn dump(file: &mut impl Write, batch: &Batch) -> Result<()> {
    let line = serde_json::json!({
        "tokens": batch.tokens, "positions": batch.positions, "segments": batch.segments,
        "targets": batch
            .targets
            .iter()
            .map(|&t| if t == u32::MAX { -100 } else { i64::from(t) })
            .collect::<Vec<_>>(),
    });
    Ok(writeln!(file, "{line}")?)
}

/// Rows of random tokens, each row one example; a small generator so that runs are alike.
fn random_batch(config: &ModelConfig, rows: usize, length: usize, seed: u64) -> Batch {
    let mut state = seed;
    let mut token = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) % config.vocab_size as u64) as u32
    };
    let stored: Vec<u32> = (0..rows * (length + 1)).map(|_| token()).collect();
    let mut batch = Batch {
        segments: vec![0],
        groups: vec![0, (rows * length) as u32],
        ..Batch::default()
    };
    for row in stored.chunks_exact(length + 1) {
        batch.tokens.extend(&row[..length]);
        batch.targets.extend(&row[1..]);
        batch.positions.extend(0..length as u32);
        batch.segments.push(batch.tokens.len() as u32);
    }
    batch
}

fn main() -> Result<()> {
    // As the commands do: the calling thread computes too.
    rayon::ThreadPoolBuilder::new()
        .use_current_thread()
        .build_global()?;
    let number =
        |name: &str, default: usize| Ok::<_, anyhow::Error>(option(name)?.unwrap_or(default));
    let (steps, warmup) = (number("--steps", 10)?, number("--warmup", 2)?);
    let (rows, length) = (number("--batch-size", 4)?, number("--max-length", 256)?);
    let accumulation = number("--accumulation", 1)?;
    let source = Source::new(rows, length)?;
    let mut dumped = match option::<String>("--dump")? {
        Some(path) => Some(std::io::BufWriter::new(std::fs::File::create(path)?)),
        None => None,
    };
    let (config, weights) = match option::<String>("--model-path")? {
        Some(folder) => {
            let loaded = load_folder(Path::new(&folder))?;
            (loaded.config, loaded.fused)
        }
        None => {
            let config = ModelConfig::default_47m();
            let weights = random_weights(&config, 1);
            (config, weights)
        }
    };
    let device = CpuDevice::with_precision(match option::<String>("--precision")?.as_deref() {
        None | Some("fp32") => MatmulPrecision::Single,
        Some("bf16") => MatmulPrecision::Bf16,
        Some(other) => bail!("--precision: '{other}', expected fp32 or bf16"),
    });
    let parameters = Parameters::upload(&device, &config, &weights)?;
    let model = Model::new(config, parameters)?;
    let settings = TrainSettings {
        batch_size: rows,
        max_length: length,
        gradient_accumulation_steps: accumulation,
        ..TrainSettings::preset(Stage::Massive)
    };
    // The trainer's own step, a logical batch at a time.
    let mut engine = Engine::new(&device, model, &weights, &settings, 1)?;
    drop(weights);
    let (mut speeds, mut last_loss) = (Vec::new(), 0.0);
    for step in 0..warmup + steps {
        let batches = (0..accumulation)
            .map(|i| source.batch(&engine.model.config, rows, length, step * accumulation + i))
            .collect::<Result<Vec<Batch>>>()?;
        if let Some(file) = &mut dumped {
            batches.iter().try_for_each(|batch| dump(file, batch))?;
        }
        let start = Instant::now();
        let rate = settings.learning_rate;
        let result = engine.step(&device, &batches, step as u64 + 1, rate)?;
        last_loss = result.loss;
        if step >= warmup {
            speeds.push(result.tokens as f64 / start.elapsed().as_secs_f64());
        }
    }
    if let Some(mut file) = dumped {
        file.flush()?;
    }
    speeds.sort_by(f64::total_cmp);
    let result = serde_json::json!({
        "engine": "muni-engine", "device": device.name(), "steps": steps,
        "tokens_per_second": speeds[speeds.len() / 2],
        "tokens_per_second_best": speeds[speeds.len() - 1],
        "loss": last_loss, "peak_rss_mib": peak_rss_mib(),
    });
    println!("{result}");
    Ok(())
}

/// High-water mark of resident memory, where the system tells it.
fn peak_rss_mib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? / 1024)
}
