//! `muni-engine eval`: measures a model.

mod answers;
mod understanding;

use super::device::Task;
use super::model::ModelArguments;
use super::output::print;
use crate::eval::perplexity;
use crate::ops::{Operations, Planner, TrainingDevice};
use anyhow::{Context, Result};
use std::fs;
use std::io;
use std::path::PathBuf;

/// Arguments of `muni-engine eval`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    measure: Measure,
}

#[derive(clap::Subcommand)]
enum Measure {
    /// How well the model predicts a text file.
    Perplexity(PerplexityArguments),
    /// How good the answers are to questions whose right answers are known, with and without the
    /// guard.
    Answers(answers::Arguments),
    /// Whether questions are understood: answered, asked back or turned down as they should be.
    /// Needs no model.
    Understanding(understanding::Arguments),
}

#[derive(clap::Args)]
struct PerplexityArguments {
    #[command(flatten)]
    model: ModelArguments,
    /// Text file, UTF-8. `<|endoftext|>` in it is that token, as in Transformers.
    #[arg(long, value_name = "FILE")]
    file: PathBuf,
    /// Ids per window; each window is scored alone.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 256,
        value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(2..)
    )]
    max_length: usize,
    /// Print {"tokens":N,"nll":S}: the scored tokens and the sum of their losses (natural
    /// logarithm).
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(crate) fn run(arguments: Arguments) -> Result<()> {
    match arguments.measure {
        Measure::Perplexity(arguments) => arguments.model.device.run(Perplexity(&arguments)),
        Measure::Answers(arguments) => answers::run(arguments),
        Measure::Understanding(arguments) => understanding::run(&arguments),
    }
}

struct Perplexity<'a>(&'a PerplexityArguments);

impl Task for Perplexity<'_> {
    fn run<D: TrainingDevice>(self, device: &D) -> Result<()> {
        run_perplexity(device, self.0)
    }
}

fn run_perplexity<D: Operations + Planner>(
    device: &D,
    arguments: &PerplexityArguments,
) -> Result<()> {
    let file = arguments.file.display();
    let text = fs::read(&arguments.file).with_context(|| format!("cannot read {file}"))?;
    let text = String::from_utf8(text)
        .with_context(|| format!("{file} is not UTF-8, expected a text file: convert it"))?;
    let open = arguments.model.open(device)?;
    let mut ids = vec![open.tokenizer.end_of_text()];
    ids.extend(open.tokenizer.encode_with_special(&text)?);
    let score = perplexity(device, &open.model, &ids, arguments.max_length)
        .with_context(|| format!("cannot score {file}"))?;
    let line = match arguments.json {
        true => serde_json::to_string(&score)?,
        false if score.tokens == 0 => format!("{file}: no tokens to score"),
        false => format!(
            "perplexity {:.3} over {} tokens (nll {:.3}, {:.4} per token)",
            score.value(),
            score.tokens,
            score.nll,
            score.nll / score.tokens as f64
        ),
    };
    // Nothing follows that a reader who went away could end.
    let _ = print(&mut io::stdout().lock(), &format!("{line}\n"))?;
    Ok(())
}
