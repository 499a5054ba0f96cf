//! `muni-engine dataset`: turns the knowledge base into a training set.

use crate::dataset::statistics::Statistics;
use crate::dataset::{
    Dataset, DatasetExample, GENERATOR_VERSION, Part, Settings, Stage, Technique, generate,
};
use crate::knowledge::Knowledge;
use crate::shards::{Example, ShardInfo, ShardWriter, Split};
use crate::tokenizer::Tokenizer;
use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Arguments of `muni-engine dataset`.
#[derive(clap::Args)]
pub struct Arguments {
    /// Folder with one TOML file per office and kommune.toml.
    #[arg(long, value_name = "DIR", default_value = "knowledge")]
    knowledge: PathBuf,
    /// Size: basis (75 examples), large (500), super (2,000), ultra (20,000) or massive (500,000).
    #[arg(long, value_name = "STAGE", default_value = "super")]
    stage: Stage,
    /// Number of examples, if not the stage's own.
    #[arg(long, value_name = "N")]
    examples: Option<usize>,
    /// Everything random follows from it.
    #[arg(long, value_name = "S", default_value_t = 42)]
    seed: u64,
    /// Shard folder to write [default: shards, unless only --jsonl or --sample is given].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Also write the examples as JSON lines.
    #[arg(long, value_name = "FILE")]
    jsonl: Option<PathBuf>,
    /// Print so many readable examples.
    #[arg(long, value_name = "N")]
    sample: Option<usize>,
    /// Replace a shard folder that is already there.
    #[arg(long)]
    force: bool,
}

/// Runs the command.
pub fn run(arguments: Arguments) -> Result<()> {
    let out = match &arguments.out {
        None if arguments.jsonl.is_none() && arguments.sample.is_none() => {
            Some(PathBuf::from("shards"))
        }
        given => given.clone(),
    };
    if let Some(out) = out
        .as_deref()
        .filter(|out| is_taken(out) && !arguments.force)
    {
        bail!(
            "{} is already there: give another --out, or --force to replace it",
            out.display()
        );
    }
    let stop = stop_on_interrupt()?;
    let knowledge = Knowledge::load(&arguments.knowledge)?;
    let tokenizer = Tokenizer::gpt2()?;
    let examples = arguments.examples.unwrap_or(arguments.stage.examples());
    let settings = Settings {
        stage: arguments.stage,
        examples,
        seed: arguments.seed,
    };
    let bar = progress_bar(examples);
    let dataset = generate(&knowledge, &tokenizer, &settings, &stop, &|done| {
        bar.set_position(done as u64)
    })?;
    bar.finish_and_clear();
    let statistics = Statistics::of(&dataset);
    if let Some(out) = &out {
        write_shards(out, &dataset, &statistics, &tokenizer, &settings, &stop)?;
    }
    if let Some(file) = &arguments.jsonl {
        write_jsonl(file, &dataset, &stop)?;
    }
    for example in sample(&dataset.examples, arguments.sample.unwrap_or(0)) {
        println!(
            "--- {} · {} · {} · {} · {}",
            example.id,
            example.office,
            example.service,
            example.intent,
            example.techniques.join(", ")
        );
        println!("{}\n", example.text);
    }
    println!("{}", statistics.table());
    // The knowledge is as it should be; this only says why an expected question is missing.
    for service in &dataset.without_office {
        eprintln!(
            "note: the fact wo of {service} does not name its office, so no question asks which office is responsible for it"
        );
    }
    if let Some(out) = &out {
        println!("written: {}", out.display());
    }
    Ok(())
}

fn is_taken(out: &Path) -> bool {
    let is_empty_folder = std::fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_none());
    out.exists() && !is_empty_folder
}

// Ctrl-C and a polite kill only set a flag, so that half-written files are taken away again.
fn stop_on_interrupt() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    ctrlc::set_handler(move || flag.store(true, Ordering::Relaxed))
        .context("cannot listen for Ctrl-C")?;
    Ok(stop)
}

fn progress_bar(examples: usize) -> ProgressBar {
    let bar = ProgressBar::new(examples as u64);
    if let Ok(style) = ProgressStyle::with_template(
        "{bar:40} {human_pos}/{human_len} examples, {per_sec}, {eta} left",
    ) {
        bar.set_style(style);
    }
    bar
}

fn write_shards(
    out: &Path,
    dataset: &Dataset,
    statistics: &Statistics,
    tokenizer: &Tokenizer,
    settings: &Settings,
    stop: &AtomicBool,
) -> Result<()> {
    let info = ShardInfo {
        stage: settings.stage.name().to_string(),
        seed: settings.seed,
        generator_version: GENERATOR_VERSION.to_string(),
        tokenizer_fingerprint: tokenizer.fingerprint().to_string(),
        offices: dataset.offices.clone(),
        techniques: Technique::ALL
            .iter()
            .map(|technique| technique.name().to_string())
            .collect(),
        vocab_size: tokenizer.vocab_size(),
    };
    let mut writer = ShardWriter::create(out, info)?;
    for example in &dataset.examples {
        stop_if_asked(stop)?;
        let split = if example.split == Part::Train {
            Split::Train
        } else {
            Split::Validation
        };
        let stored = Example {
            tokens: example.tokens.clone(),
            answers: example
                .answers
                .iter()
                .map(|&(start, end)| (start, end - start))
                .collect(),
            office: example.office_index,
            techniques: example.technique_bits,
        };
        writer.push(split, &stored)?;
    }
    writer.finish(serde_json::to_value(statistics)?)?;
    Ok(())
}

fn write_jsonl(path: &Path, dataset: &Dataset, stop: &AtomicBool) -> Result<()> {
    let mut name = path
        .file_name()
        .with_context(|| format!("{} is not a file name", path.display()))?
        .to_os_string();
    name.push(".partial");
    let partial = path.with_file_name(name);
    let written = write_lines(&partial, &dataset.examples, stop).and_then(|()| {
        std::fs::rename(&partial, path)
            .with_context(|| format!("cannot rename to {}", path.display()))
    });
    if written.is_err() {
        // The error that stopped the writing is the one to report.
        let _ = std::fs::remove_file(&partial);
    }
    written
}

fn write_lines(path: &Path, examples: &[DatasetExample], stop: &AtomicBool) -> Result<()> {
    let context = || format!("cannot write {}", path.display());
    let file = std::fs::File::create(path).with_context(context)?;
    let mut writer = BufWriter::new(file);
    for example in examples {
        stop_if_asked(stop)?;
        serde_json::to_writer(&mut writer, example).with_context(context)?;
        writer.write_all(b"\n").with_context(context)?;
    }
    let file = writer
        .into_inner()
        .map_err(|error| error.into_error())
        .with_context(context)?;
    file.sync_all().with_context(context)
}

fn stop_if_asked(stop: &AtomicBool) -> Result<()> {
    if stop.load(Ordering::Relaxed) {
        bail!("interrupted: nothing was written");
    }
    Ok(())
}

// Examples spread evenly over the data set.
fn sample(examples: &[DatasetExample], count: usize) -> impl Iterator<Item = &DatasetExample> {
    let count = count.min(examples.len());
    (0..count)
        .map(move |index| &examples[(index * examples.len() + examples.len() / 2) / count.max(1)])
}
