//! `muni-engine dataset`: turns the knowledge base into a training set.

use crate::dataset::card::{MOST_UNKNOWN_PERCENT, Summary};
use crate::dataset::quality;
use crate::dataset::report::{page, spread};
use crate::dataset::statistics::{SpellingReport, Statistics};
use crate::dataset::variety::Variety;
use crate::dataset::{
    Dataset, Encoding, GENERATOR_VERSION, Settings, Stage, Technique, TechniqueSet, generate,
};
use crate::files::{replace_file, replace_file_with};
use crate::german::Dictionary;
use crate::knowledge::Knowledge;
use crate::shards::{Example, ShardInfo, ShardWriter};
use crate::tokenizer::Tokenizer;
use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Arguments of `muni-engine dataset`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
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
    /// Leave out a technique; may be given several times (expansion, paraphrase, conversation,
    /// register, temporal, administrative, incomplete, multi_turn).
    #[arg(long, value_name = "TECHNIQUE")]
    without: Vec<Technique>,
    /// Shard folder to write [default: shards, unless only --jsonl, --sample or --report is given].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Also write the examples as JSON lines.
    #[arg(long, value_name = "FILE")]
    jsonl: Option<PathBuf>,
    /// Print so many readable examples.
    #[arg(long, value_name = "N")]
    sample: Option<usize>,
    /// Write a page with plots and samples to look at.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Hunspell dictionary for the spelling check: de_DE.aff, or its folder [default: looked for on
    /// this machine].
    #[arg(long, value_name = "PATH")]
    dictionary: Option<PathBuf>,
    /// Replace a shard folder that is already there.
    #[arg(long)]
    force: bool,
}

/// Runs the command.
pub(crate) fn run(arguments: Arguments) -> Result<()> {
    if let Some(kept) = arguments
        .without
        .iter()
        .find(|technique| !technique.can_be_left_out())
    {
        bail!(
            "{} cannot be left out: it is a kind of question and its share is fixed",
            kept.name()
        );
    }
    let only_to_look =
        arguments.jsonl.is_some() || arguments.sample.is_some() || arguments.report.is_some();
    let out = match &arguments.out {
        None if !only_to_look => Some(PathBuf::from("shards")),
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
    let mut clock = Clock::new();
    let knowledge = Knowledge::load(&arguments.knowledge)?;
    let dictionary = Dictionary::find(arguments.dictionary.as_deref(), &arguments.knowledge)?;
    let tokenizer = Tokenizer::gpt2()?;
    let settings = settings(&arguments);
    clock.lap("reading");
    let bar = progress_bar(settings.examples);
    let dataset = generate(&knowledge, &tokenizer, &settings, &stop, &|done| {
        bar.set_position(done as u64)
    })?;
    bar.finish_and_clear();
    clock.lap("generating and tokenizing");
    refuse_faults(&dataset, &knowledge)?;
    stop_if_asked(&stop)?;
    clock.lap("checking");
    let spelling = dictionary
        .as_ref()
        .map(|dictionary| SpellingReport::of(&dataset, dictionary));
    if let (Some(spelling), Some(dictionary)) = (&spelling, &dictionary) {
        refuse_misspellings(spelling, dictionary)?;
    }
    clock.lap("spelling");
    let summary = Summary::new(
        &settings,
        Statistics::of(&dataset),
        Variety::of(&dataset),
        spelling,
    );
    stop_if_asked(&stop)?;
    clock.lap("measuring variety");
    if let Some(out) = &out {
        write_shards(out, &dataset, &summary, &tokenizer, &settings, &stop)?;
    }
    if let Some(file) = &arguments.jsonl {
        replace_file_with(file, |writer| write_lines(writer, &dataset, &stop))?;
    }
    if let Some(file) = &arguments.report {
        let page = page(&dataset, &summary)?;
        replace_file(file, page.as_bytes())?;
    }
    clock.lap("writing");
    print_samples(&dataset, arguments.sample.unwrap_or(0));
    println!("{}", summary.counts.table());
    for (name, value) in summary.measures() {
        println!("{name}: {value}");
    }
    // The knowledge is as it should be; this only says why an expected question is missing.
    if !dataset.without_office.is_empty() {
        eprintln!(
            "note: no question asks which office is responsible for {}, because the fact wo does \
            not name the office",
            dataset.without_office.join(", ")
        );
    }
    eprintln!("{}", clock.summary());
    eprintln!("{}", encoding_speed(dataset.encoding));
    for file in [&out, &arguments.jsonl, &arguments.report]
        .into_iter()
        .flatten()
    {
        println!("written: {}", file.display());
    }
    Ok(())
}

fn settings(arguments: &Arguments) -> Settings {
    let mut settings = Settings::of_stage(arguments.stage, arguments.seed);
    settings.examples = arguments.examples.unwrap_or(settings.examples);
    let used: Vec<Technique> = Technique::ALL
        .into_iter()
        .filter(|technique| !arguments.without.contains(technique))
        .collect();
    settings.techniques = TechniqueSet::of(&used);
    settings
}

fn refuse_faults(dataset: &Dataset, knowledge: &Knowledge) -> Result<()> {
    let faults = quality::check(dataset, knowledge);
    if faults.is_empty() {
        return Ok(());
    }
    for fault in faults.iter().take(20) {
        let id = dataset
            .record(fault.example)
            .map(|record| record.id)
            .unwrap_or_default();
        eprintln!("{id}: {}", fault.message);
    }
    bail!(
        "{} examples have a fault, the first of them above; nothing was written. Correct the \
        knowledge base \
         (`muni-engine knowledge check`) or the phrases in sprache/redewendungen.toml",
        faults.len()
    )
}

fn refuse_misspellings(spelling: &SpellingReport, dictionary: &Dictionary) -> Result<()> {
    if spelling.unknown_percent <= MOST_UNKNOWN_PERCENT {
        return Ok(());
    }
    let words: Vec<&str> = spelling
        .examples
        .iter()
        .map(|(word, _)| word.as_str())
        .collect();
    bail!(
        "{:.2} % of the words are not in {}, at most {MOST_UNKNOWN_PERCENT} % are allowed; the \
        most frequent are: {}. Correct them, or \
         add right ones to sprache/woerter.txt in the knowledge folder; nothing was written",
        spelling.unknown_percent,
        dictionary.path.display(),
        words.join(", ")
    )
}

fn print_samples(dataset: &Dataset, count: usize) {
    for record in spread(dataset.examples.len(), count).filter_map(|index| dataset.record(index)) {
        println!(
            "--- {} · {} · {} · {} · {} · {} · {}",
            record.id,
            record.office,
            record.service,
            record.intent,
            record.techniques.join(", "),
            record.register.name(),
            record.layout
        );
        println!("{}\n", record.text);
    }
}

/// Seconds that the stages of the work took.
struct Clock {
    last: Instant,
    laps: Vec<(&'static str, f64)>,
}

impl Clock {
    fn new() -> Clock {
        Clock {
            last: Instant::now(),
            laps: Vec::new(),
        }
    }

    fn lap(&mut self, name: &'static str) {
        self.laps.push((name, self.last.elapsed().as_secs_f64()));
        self.last = Instant::now();
    }

    fn summary(&self) -> String {
        let total: f64 = self.laps.iter().map(|(_, seconds)| seconds).sum();
        let laps: Vec<String> = self
            .laps
            .iter()
            .map(|(name, seconds)| format!("{name} {seconds:.1} s"))
            .collect();
        format!("{total:.1} s: {}", laps.join(", "))
    }
}

// How much of the generating was tokenizing.
fn encoding_speed(encoding: Encoding) -> String {
    let (megabytes, seconds) = (encoding.bytes as f64 / 1e6, encoding.time.as_secs_f64());
    format!(
        "tokenizing: {megabytes:.1} MB of text in {seconds:.2} s of the threads' time, {:.1} MB/s \
        per thread",
        megabytes / seconds.max(1e-9)
    )
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
    summary: &Summary,
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
        let answers = example
            .answers
            .iter()
            .map(|&(start, end)| (start, end - start));
        let stored = Example {
            tokens: example.tokens.to_vec(),
            answers: answers.collect(),
            office: dataset.subjects[example.subject as usize].office,
            techniques: example.techniques.0,
        };
        writer.push(example.split, &stored)?;
    }
    writer.companion("dataset-card.md", &summary.card())?;
    let json = serde_json::to_string_pretty(summary)? + "\n";
    writer.companion("statistics.json", &json)?;
    writer.finish(serde_json::to_value(&summary.counts)?)?;
    Ok(())
}

fn write_lines(writer: &mut dyn Write, dataset: &Dataset, stop: &AtomicBool) -> Result<()> {
    for index in 0..dataset.examples.len() {
        stop_if_asked(stop)?;
        serde_json::to_writer(&mut *writer, &dataset.record(index))?;
        writer.write_all(b"\n")?;
    }
    Ok(())
}

fn stop_if_asked(stop: &AtomicBool) -> Result<()> {
    if stop.load(Ordering::Relaxed) {
        bail!("interrupted: nothing unfinished was left behind");
    }
    Ok(())
}
