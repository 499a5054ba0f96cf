//! `muni-engine eval understanding`: whether questions are understood, without a model.

use anyhow::{Context, Result};
use std::io;
use std::path::PathBuf;

use crate::cli::assistant::KnowledgeArguments;
use crate::cli::output::print;
use crate::eval::questions::{check_services, read_questions};
use crate::eval::understanding::{UnderstandingReport, understand};

/// Arguments of `muni-engine eval understanding`.
#[derive(clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    knowledge: KnowledgeArguments,
    /// Questions, one JSON object a line, as for `eval answers`.
    #[arg(long, value_name = "FILE.jsonl")]
    questions: PathBuf,
    /// Print everything as one JSON object, every question included.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let questions = read_questions(&arguments.questions)?;
    let assistant = arguments.knowledge.open()?;
    check_services(&arguments.questions, &questions, assistant.knowledge())?;
    let answers = understand(&assistant, &questions)?;
    let report = UnderstandingReport::new(&answers);
    let text = match arguments.json {
        true => {
            let whole = serde_json::json!({"report": report, "answers": answers});
            format!("{whole}\n")
        }
        false => report.table(),
    };
    // Nothing follows that a reader who went away could end.
    let _ = print(&mut io::stdout().lock(), &text).context("cannot write the report")?;
    Ok(())
}
