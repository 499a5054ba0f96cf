//! `muni-engine eval answers`: asks a model questions whose right answers are known.

use crate::cli::assistant::KnowledgeArguments;
use crate::cli::device::Task;
use crate::cli::model::ModelArguments;
use crate::cli::output::print;
use crate::cli::progress;
use crate::cli::values::{at_least_zero, probability};
use crate::eval::answers::{
    AnswerReport, AnswerSettings, Examination, Judge, cases, compare, html, table, verdicts,
};
use crate::eval::danger::{DangerReport, read_danger_lines};
use crate::eval::paired::Earlier;
use crate::eval::questions::{check_services, read_questions};
use crate::eval::understanding::UnderstandingReport;
use crate::generate::SamplingSettings;
use crate::german::Dictionary;
use crate::open::OpenModel;
use crate::ops::{Operations, Planner, TrainingDevice};
use anyhow::{Context, Result};
use std::fs;
use std::io;
use std::path::PathBuf;

/// Arguments of `muni-engine eval answers`.
#[derive(clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    #[command(flatten)]
    knowledge: KnowledgeArguments,
    /// Questions, one JSON object a line: {"question", "office", "service", "expect": ["what a
    /// right answer holds", "this|or that"]}, or {"question", "expect_refusal": true}.
    #[arg(long, value_name = "FILE.jsonl")]
    questions: PathBuf,
    /// Lines of danger and harmless ones: {"question", "danger": "kind" or null}.
    #[arg(long, value_name = "FILE.jsonl")]
    danger: Option<PathBuf>,
    /// Compare with what an earlier run printed with --json, question by question.
    #[arg(long, value_name = "FILE.json")]
    compare: Option<PathBuf>,
    /// German hunspell dictionary (de_DE.aff beside de_DE.dic, or their folder) [default: one that
    /// the system has].
    #[arg(long, value_name = "FILE")]
    dictionary: Option<PathBuf>,
    /// 0: always the most probable token. Above 0: the higher, the more varied.
    #[arg(long, value_name = "T", default_value = "0", value_parser = at_least_zero)]
    temperature: f32,
    /// Draw only from the most probable tokens that together reach probability P. Needs a
    /// temperature above 0.
    #[arg(long, value_name = "P", default_value = "1", value_parser = probability)]
    top_p: f32,
    /// The same seed draws the same answers.
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
    /// Most tokens of an answer.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 160,
        value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..)
    )]
    max_new_tokens: usize,
    /// Print everything as one JSON object, every answer included.
    #[arg(long)]
    json: bool,
    /// Write a self-contained page with every answer to browse.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// Runs the command.
pub(super) fn run(arguments: Arguments) -> Result<()> {
    arguments.model.device.run(Measure(&arguments))
}

struct Measure<'a>(&'a Arguments);

impl Task for Measure<'_> {
    fn run<D: TrainingDevice>(self, device: &D) -> Result<()> {
        measure(device, self.0)
    }
}

fn measure<D: Operations + Planner>(device: &D, arguments: &Arguments) -> Result<()> {
    // What was mistyped is said before a model is loaded.
    let path = &arguments.questions;
    let questions = read_questions(path)?;
    let danger = arguments.danger.as_deref().map(read_danger_lines);
    let danger = danger.transpose()?;
    let earlier = arguments
        .compare
        .as_deref()
        .map(Earlier::read)
        .transpose()?;
    let assistant = arguments.knowledge.open()?;
    check_services(path, &questions, assistant.knowledge())?;
    let dictionary = Dictionary::find(
        arguments.dictionary.as_deref(),
        arguments.knowledge.folder(),
    )?;
    if dictionary.is_none() {
        eprintln!(
            "no German dictionary was found, so words are not looked up: name one with \
             --dictionary (Debian: apt install hunspell-de-de)"
        );
    }
    let judge = Judge::new(assistant.knowledge(), dictionary.as_ref());
    let settings = AnswerSettings {
        sampling: SamplingSettings {
            temperature: arguments.temperature,
            top_p: arguments.top_p,
            seed: arguments.seed,
            ..SamplingSettings::default()
        },
        max_new_tokens: arguments.max_new_tokens,
    };
    let OpenModel { model, tokenizer } = arguments.model.open(device)?;
    let bar = progress::bar(questions.len(), "questions")?;
    let examination = Examination {
        tokenizer: &tokenizer,
        assistant: &assistant,
        judge: &judge,
        settings,
    };
    let answers = examination
        .run(device, &model, &questions, &mut |done| {
            bar.set_position(done as u64);
        })
        .with_context(|| path.display().to_string())?;
    bar.finish_and_clear();
    let paired = earlier.map(|earlier| earlier.beside(cases(&answers)));
    let danger = danger.map(|lines| DangerReport::new(&assistant, &lines));
    let (all, by_office) = compare(&answers, judge.has_dictionary());
    let report = AnswerReport {
        model: arguments.model.folder()?.display().to_string(),
        questions: path.display().to_string(),
        temperature: arguments.temperature,
        seed: arguments.seed,
        dictionary: dictionary.map(|dictionary| dictionary.path.display().to_string()),
        all,
        by_office,
        shown: UnderstandingReport::new(cases(&answers)),
        danger: danger.transpose()?,
        paired: paired.transpose()?,
        verdicts: verdicts(&answers),
        answers,
    };
    if let Some(path) = &arguments.html {
        fs::write(path, html(&report))
            .with_context(|| format!("cannot write {}", path.display()))?;
        eprintln!("wrote {}", path.display());
    }
    let text = match arguments.json {
        true => format!("{}\n", serde_json::to_string(&report)?),
        false => table(&report),
    };
    // Nothing follows that a reader who went away could end.
    let _ = print(&mut io::stdout().lock(), &text)?;
    Ok(())
}
