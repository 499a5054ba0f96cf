//! `muni-engine eval understanding`: whether questions are understood, without a model.

use anyhow::{Context, Result};
use std::io;
use std::path::PathBuf;

use crate::cli::assistant::KnowledgeArguments;
use crate::cli::output::print;
use crate::eval::danger::{DangerReport, read_danger_lines};
use crate::eval::paired::Earlier;
use crate::eval::questions::{check_services, read_questions};
use crate::eval::understanding::{UnderstandingReport, understand};

/// Arguments of `muni-engine eval understanding`.
#[derive(clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    knowledge: KnowledgeArguments,
    /// Questions, one JSON object a line, as for `eval answers`.
    #[arg(long, value_name = "FILE.jsonl", required_unless_present = "danger")]
    questions: Option<PathBuf>,
    /// Lines of danger and harmless ones: {"question", "danger": "kind" or null}.
    #[arg(long, value_name = "FILE.jsonl")]
    danger: Option<PathBuf>,
    /// Compare with what an earlier run printed with --json, question by question.
    #[arg(long, value_name = "FILE.json", requires = "questions")]
    compare: Option<PathBuf>,
    /// Print everything as one JSON object, every question included.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let questions = arguments.questions.as_ref();
    let questions = questions
        .map(|path| Ok::<_, anyhow::Error>((path, read_questions(path)?)))
        .transpose()?;
    let danger = arguments.danger.as_deref().map(read_danger_lines);
    let danger = danger.transpose()?;
    let earlier = arguments
        .compare
        .as_deref()
        .map(Earlier::read)
        .transpose()?;
    let assistant = arguments.knowledge.open()?;
    let mut answers = Vec::new();
    if let Some((path, questions)) = &questions {
        check_services(path, questions, assistant.knowledge())?;
        answers = understand(&assistant, questions)?;
    }
    let cases = || {
        answers
            .iter()
            .map(|answer| (&answer.question, &answer.decision))
    };
    let report = questions.map(|_| UnderstandingReport::new(cases()));
    let danger = danger.map(|lines| DangerReport::new(&assistant, &lines));
    let danger = danger.transpose()?;
    let paired = earlier.map(|earlier| earlier.beside(cases())).transpose()?;
    let text = match arguments.json {
        true => {
            let whole = serde_json::json!({
                "report": report,
                "danger": danger,
                "paired": paired,
                "answers": answers,
            });
            format!("{whole}\n")
        }
        false => [
            report.map(|report| report.table()),
            danger.map(|report| report.table()),
            paired.map(|paired| paired.table()),
        ]
        .into_iter()
        .flatten()
        .collect(),
    };
    // Nothing follows that a reader who went away could end.
    let _ = print(&mut io::stdout().lock(), &text).context("cannot write the report")?;
    Ok(())
}
