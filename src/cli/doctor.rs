//! `muni-engine doctor`: what this machine and this build can do, what a run would take of a card,
//! present or not, and whether the kernels compute what they should.

use anyhow::{Context, Result, bail};
use serde::Serialize;
use std::path::PathBuf;
use std::str::FromStr;

use super::check_kernels;
use super::device::DeviceChoice;
use super::plan::{Request, card_of, table};
use crate::model::ModelConfig;
use crate::ops::Device;
use crate::ops::cpu::CpuDevice;
use crate::ops::cuda::driver::cudarc_driver::{self, CardInfo};
use crate::ops::cuda::driver::simulator;
use crate::ops::cuda::kernels;
use crate::roofline::cards::{CARDS, find};
use crate::train::memory::format_bytes;
use crate::train::{Stage, TrainSettings};

/// Tokens of an example on average, as inputs: 109 in the bundled set.
const EXAMPLE_TOKENS: f64 = 109.0;

/// Arguments of `muni-engine doctor`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// What a training run takes of a card: memory by class, time by operation. Fails where it does
    /// not fit.
    #[arg(long)]
    plan: bool,
    /// The card to plan for, e.g. rtx3070, or `all` for a table [default: the one of this machine].
    #[arg(long, value_name = "CARD", requires = "plan")]
    gpu: Option<String>,
    /// Tokens of a micro-batch [default: a step of the preset].
    #[arg(
        long,
        value_name = "N",
        requires = "plan",
        value_parser = clap::value_parser!(u32).range(1..=1 << 20)
    )]
    tokens: Option<u32>,
    /// Training settings to plan for.
    #[arg(long, value_enum, default_value = "massive", requires = "plan")]
    preset: Stage,
    /// Tokens of an example on average.
    #[arg(long, value_name = "X", default_value_t = EXAMPLE_TOKENS, requires = "plan")]
    example_tokens: f64,
    /// Sizes of the model, as a Hugging Face config.json of MixtralForCausalLM [default: 47 million
    /// parameters].
    #[arg(long, value_name = "FILE", requires = "plan")]
    model_config: Option<PathBuf>,
    /// Run every kernel on inputs whose results are known: one line per check. Fails where one
    /// does.
    #[arg(long, conflicts_with = "plan")]
    check_kernels: bool,
    /// What to check: auto (a CUDA card where there is one, else the CPU), cpu, cuda:N, or sim.
    #[arg(
        long,
        value_name = "DEVICE",
        default_value = "auto",
        requires = "check_kernels",
        value_parser = DeviceChoice::from_str
    )]
    device: DeviceChoice,
    /// Checks to run, or groups of them, e.g. conformance dense moe/router [default: all].
    #[arg(long, value_name = "NAME", requires = "check_kernels", num_args = 1..)]
    only: Vec<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(crate) fn run(arguments: Arguments) -> Result<()> {
    match (arguments.plan, arguments.check_kernels) {
        (true, _) => plan(&arguments),
        (_, true) => check_kernels::run(arguments.device, &arguments.only, arguments.json),
        _ => report(arguments.json),
    }
}

fn plan(arguments: &Arguments) -> Result<()> {
    let config = match &arguments.model_config {
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("reading {}", path.display()))?;
            ModelConfig::from_json(&text, path)?
        }
        None => ModelConfig::default_47m(),
    };
    config.validate()?;
    let mut settings = TrainSettings::preset(arguments.preset);
    settings.max_length = settings.max_length.min(config.max_position_embeddings);
    if !(arguments.example_tokens.is_finite() && arguments.example_tokens >= 1.0) {
        bail!(
            "--example-tokens is {}; it must be at least 1",
            arguments.example_tokens
        );
    }
    let tokens = arguments.tokens.map(|tokens| tokens as usize);
    let request = Request::of_tokens(config, settings, tokens, arguments.example_tokens);
    if arguments.gpu.as_deref() == Some("all") {
        if arguments.json {
            let plans = CARDS
                .iter()
                .map(|card| Ok(request.plan(card)?.json(&request)))
                .collect::<Result<Vec<_>>>()?;
            println!("{}", serde_json::to_string_pretty(&plans)?);
        } else {
            print!("{}", table(&request)?);
        }
        return Ok(());
    }
    let cards: Vec<&str> = CARDS.iter().map(|card| card.key).collect();
    let cards = cards.join(", ");
    let card = match &arguments.gpu {
        Some(name) => {
            find(name).with_context(|| format!("--gpu {name} is none of {cards}, or all"))?
        }
        None => cudarc_driver::cards()
            .first()
            .and_then(|card| card_of(&card.name))
            .with_context(|| {
                format!("this machine has no card that plans are made for: give --gpu {cards}")
            })?,
    };
    let plan = request.plan(card)?;
    match arguments.json {
        true => println!("{}", serde_json::to_string_pretty(&plan.json(&request))?),
        false => print!("{}", plan.text(&request)),
    }
    plan.check()
}

/// What there is.
#[derive(Serialize)]
struct Report {
    version: &'static str,
    cpu: String,
    threads: usize,
    cpu_features: Vec<&'static str>,
    memory_bytes: Option<u64>,
    available_memory_bytes: Option<u64>,
    /// Architectures of the kernels in this build; `None` where there are none.
    kernels: Option<&'static str>,
    why_no_kernels: Option<&'static str>,
    simulator: bool,
    why_no_simulator: Option<&'static str>,
    cuda_driver: Option<String>,
    why_no_card: Option<String>,
    cards: Vec<CardInfo>,
}

fn report(json: bool) -> Result<()> {
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let report = Report {
        version: env!("CARGO_PKG_VERSION"),
        cpu: CpuDevice::new().name(),
        threads: std::thread::available_parallelism().map_or(1, usize::from),
        cpu_features: cpu_features(),
        memory_bytes: kib_of(&memory, "MemTotal:"),
        available_memory_bytes: kib_of(&memory, "MemAvailable:"),
        kernels: kernels::NO_KERNELS
            .is_none()
            .then_some(kernels::ARCHITECTURES),
        why_no_kernels: kernels::NO_KERNELS,
        simulator: simulator::missing().is_none(),
        why_no_simulator: simulator::missing(),
        cuda_driver: cudarc_driver::driver_version(),
        why_no_card: cudarc_driver::missing(),
        cards: cudarc_driver::cards(),
    };
    if json {
        println!("{}", serde_json::to_string_pretty(&report)?);
        return Ok(());
    }
    let unknown = || "not known on this system".to_string();
    println!("muni-engine {}", report.version);
    println!("processor    {}, {} threads", report.cpu, report.threads);
    println!("  features   {}", report.cpu_features.join(" "));
    println!(
        "memory       {}, {} available",
        report.memory_bytes.map_or_else(unknown, format_bytes),
        report
            .available_memory_bytes
            .map_or_else(unknown, format_bytes)
    );
    match (report.kernels, report.why_no_kernels) {
        (Some(architectures), _) => {
            println!("kernels      sm_{}", architectures.replace(',', ", sm_"))
        }
        (None, why) => println!("kernels      none: {}", why.unwrap_or_default()),
    }
    match report.why_no_simulator {
        None => println!("simulator    in this build (--device sim)"),
        Some(why) => println!("simulator    none: {why}"),
    }
    match &report.cuda_driver {
        Some(version) => println!("CUDA driver  {version}"),
        None => println!("CUDA driver  none: libcuda was not found"),
    }
    if report.cards.is_empty() {
        println!(
            "cards        none that can be used{}",
            report
                .why_no_card
                .as_ref()
                .map(|why| format!(": {why}"))
                .unwrap_or_default()
        );
    }
    for card in &report.cards {
        println!(
            "cuda:{}       {}, {} free of {}",
            card.number,
            card.name,
            format_bytes(card.free_bytes),
            format_bytes(card.total_bytes)
        );
        if let Some(known) = card_of(&card.name) {
            let settings = TrainSettings::preset(Stage::Massive);
            let request =
                Request::of_tokens(ModelConfig::default_47m(), settings, None, EXAMPLE_TOKENS);
            println!("             {}", request.plan(known)?.fits());
        }
    }
    println!("\n`doctor --plan --gpu rtx3070` shows what training takes of a card.");
    Ok(())
}

/// A number of `/proc/meminfo`, in bytes.
fn kib_of(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

#[cfg(target_arch = "x86_64")]
fn cpu_features() -> Vec<&'static str> {
    let all = [
        ("avx", is_x86_feature_detected!("avx")),
        ("avx2", is_x86_feature_detected!("avx2")),
        ("fma", is_x86_feature_detected!("fma")),
        ("f16c", is_x86_feature_detected!("f16c")),
        ("avx512f", is_x86_feature_detected!("avx512f")),
        ("avx512bf16", is_x86_feature_detected!("avx512bf16")),
        ("avx512fp16", is_x86_feature_detected!("avx512fp16")),
        ("avx512vnni", is_x86_feature_detected!("avx512vnni")),
    ];
    let found = all.into_iter().filter(|(_, there)| *there);
    found.map(|(name, _)| name).collect()
}

#[cfg(target_arch = "aarch64")]
fn cpu_features() -> Vec<&'static str> {
    use std::arch::is_aarch64_feature_detected;
    let all = [
        ("neon", is_aarch64_feature_detected!("neon")),
        ("fp16", is_aarch64_feature_detected!("fp16")),
        ("dotprod", is_aarch64_feature_detected!("dotprod")),
        ("bf16", is_aarch64_feature_detected!("bf16")),
        ("sve", is_aarch64_feature_detected!("sve")),
    ];
    let found = all.into_iter().filter(|(_, there)| *there);
    found.map(|(name, _)| name).collect()
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn cpu_features() -> Vec<&'static str> {
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_off_the_kernels_text() {
        let text = "MemTotal:       24 kB\nMemAvailable:   16384 kB\n";
        assert_eq!(kib_of(text, "MemTotal:"), Some(24 << 10));
        assert_eq!(kib_of(text, "MemAvailable:"), Some(16 << 20));
        assert_eq!(kib_of(text, "SwapTotal:"), None);
    }
}
