//! Training throughput at the 47M size, as one JSON line: what `benches/peers/compare.py` holds against PyTorch.
//! `cargo bench --bench throughput -- [--steps N] [--warmup N] [--batch-size B] [--max-length L] [--accumulation A]`.
//! A step is forward and backward of every logical batch (random tokens, each row one example), the global norm, clipping
//! and AdamW: the same work as `benches/peers/pytorch_train.py`.

use anyhow::{Context, Result};
use muni_engine::model::{
    Batch, Model, ModelConfig, Parameters, StepScales, Workspace, random_weights,
};
use muni_engine::ops::{AdamStep, Device, cpu::CpuDevice};
use std::time::Instant;

fn option(name: &str, default: usize) -> Result<usize> {
    let mut arguments = std::env::args().skip_while(|a| a != name);
    match (arguments.next(), arguments.next()) {
        (None, _) => Ok(default),
        (Some(_), value) => {
            let value = value.with_context(|| format!("{name} needs a number"))?;
            value
                .parse()
                .with_context(|| format!("{name}: '{value}' is not a number"))
        }
    }
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
    let (steps, warmup) = (option("--steps", 10)?, option("--warmup", 2)?);
    let (rows, length) = (option("--batch-size", 4)?, option("--max-length", 256)?);
    let accumulation = option("--accumulation", 1)?;
    // As the commands do: the calling thread computes too.
    rayon::ThreadPoolBuilder::new()
        .use_current_thread()
        .build_global()?;
    let config = ModelConfig::default_47m();
    let device = CpuDevice::new();
    let mut parameters = Parameters::upload(&device, &config, &random_weights(&config, 1))?;
    let mut gradients = Parameters::zeros(&device, &config)?;
    let mut workspace = Workspace::new(&device, &config, rows * length, rows, 1)?;
    let (mut norm, rate) = (device.zeros_single(2)?, vec![1e-4]);
    let specs = config.parameters();
    let mut states = Vec::new();
    for value in &parameters.values {
        states.push(device.adam_state(value)?);
    }
    let mut model = Model::new(config, parameters)?;
    let mut seconds = Vec::new();
    for step in 0..warmup + steps {
        let batches: Vec<Batch> = (0..accumulation)
            .map(|i| {
                random_batch(
                    &model.config,
                    rows,
                    length,
                    (step * accumulation + i) as u64,
                )
            })
            .collect();
        let counted: usize = batches.iter().map(Batch::counted_targets).sum();
        let scales = StepScales {
            token: 1.0 / counted as f32,
            balance: model.config.router_aux_loss_coef as f32 / accumulation as f32,
        };
        let start = Instant::now();
        gradients.clear(&device)?;
        for batch in &batches {
            model.forward_backward(&device, batch, &mut workspace, &mut gradients, scales)?;
        }
        workspace.totals(&device)?;
        let list: Vec<_> = gradients
            .values
            .iter()
            .zip(&specs)
            .map(|(g, s)| (g, s.len()))
            .collect();
        device.global_norm(&list, &mut norm)?;
        parameters = model.parameters;
        for (((weight, gradient), state), spec) in parameters
            .values
            .iter_mut()
            .zip(&gradients.values)
            .zip(&mut states)
            .zip(&specs)
        {
            let update = AdamStep {
                beta1: 0.9,
                beta2: 0.95,
                epsilon: 1e-8,
                weight_decay: if spec.decay { 0.1 } else { 0.0 },
                max_norm: 1.0,
            };
            device.adamw(weight, gradient, state, &norm, &rate, &update, spec.len())?;
        }
        model.parameters = parameters;
        if step >= warmup {
            seconds.push(start.elapsed().as_secs_f64());
        }
    }
    seconds.sort_by(f64::total_cmp);
    let tokens = (accumulation * rows * length) as f64;
    let result = serde_json::json!({
        "engine": "muni-engine", "device": device.name(), "steps": steps,
        "tokens_per_step": tokens, "tokens_per_second": tokens / seconds[seconds.len() / 2],
        "tokens_per_second_best": tokens / seconds[0], "peak_rss_mib": peak_rss_mib(),
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
