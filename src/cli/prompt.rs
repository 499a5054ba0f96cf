//! `muni-engine prompt`: one question, one answer.

use super::assistant::{KnowledgeArguments, conversation, footer};
use super::device::Task;
use super::model::ModelArguments;
use super::output::print;
use super::values::{above_zero, at_least_zero, probability, unescape};
use crate::answer::GuardMode;
use crate::answer::exchange::{ExchangeSettings, conversation_of};
use crate::generate::text::NEXT_QUESTION;
use crate::generate::{
    GenerateOutput, GenerateSettings, Generator, SamplingSettings, question_prompt,
};
use crate::open::OpenModel;
use crate::ops::{Operations, Planner, TrainingDevice};
use anyhow::{Context, Result};
use serde_json::json;
use std::io;
use std::ops::ControlFlow;
use std::str::FromStr;

/// Arguments of `muni-engine prompt`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    /// The question, e.g. "Wo kann ich mich ummelden?", or a whole prompt, e.g. "Frage:
    /// ...\nAntwort:". `\n` is a line break. A text without "Frage:" becomes "Frage:
    /// {text}\nAntwort:".
    #[arg(long, value_name = "TEXT", value_parser = unescape)]
    prompt: String,
    /// Continue the prompt exactly as it stands and print the continuation exactly as it comes.
    #[arg(long)]
    raw: bool,
    /// 0: always the most probable token, so that the same question gets the same answer. Above 0:
    /// the higher, the more varied.
    #[arg(long, value_name = "T", default_value = "0", value_parser = at_least_zero)]
    temperature: f32,
    /// Draw only from the K most probable tokens; 0: from all. Needs a temperature above 0.
    #[arg(long, value_name = "K", default_value_t = 0)]
    top_k: usize,
    /// Draw only from the most probable tokens that together reach probability P. Needs a
    /// temperature above 0.
    #[arg(long, value_name = "P", default_value = "1", value_parser = probability)]
    top_p: f32,
    /// Make tokens that were already used less probable (above 1) or more (below 1).
    #[arg(long, value_name = "R", default_value = "1", value_parser = above_zero)]
    repetition_penalty: f32,
    /// The same seed draws the same answer.
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
    /// Most tokens of the answer [default: until the model's context is full].
    #[arg(
        long,
        value_name = "N",
        value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..)
    )]
    max_new_tokens: Option<usize>,
    /// Check the answer against the knowledge base and fill in the city's own values: off, mark
    /// (shown and marked), replace (the knowledge base's own answer is shown instead of a wrong
    /// one). Without a model the knowledge base answers.
    #[arg(
        long,
        value_name = "MODE",
        default_value = "off",
        value_parser = GuardMode::from_str,
        conflicts_with = "raw"
    )]
    guard: GuardMode,
    #[command(flatten)]
    knowledge: KnowledgeArguments,
    /// Print one JSON object instead of streaming: text, token_ids, prompt_token_ids,
    /// finish_reason, prefill_ms, decode_tokens_per_second; with a guard, or without a model, also
    /// reply.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(crate) fn run(arguments: Arguments) -> Result<()> {
    arguments.model.device.run(PromptTask(&arguments))
}

struct PromptTask<'a>(&'a Arguments);

impl Task for PromptTask<'_> {
    fn run<D: TrainingDevice>(self, device: &D) -> Result<()> {
        answer(device, self.0)
    }
}

fn answer<D: Operations + Planner>(device: &D, arguments: &Arguments) -> Result<()> {
    let open = match arguments.raw {
        // A text can only be continued by a model.
        true => Some(arguments.model.open(device)?),
        false => arguments.model.open_if_any(device)?,
    };
    match open {
        Some(open) if arguments.guard == GuardMode::Off => unguarded(device, &open, arguments),
        open => supported(device, open.as_ref(), arguments),
    }
}

/// What the model says, piece by piece.
fn unguarded<D: Operations + Planner>(
    device: &D,
    open: &OpenModel<D>,
    arguments: &Arguments,
) -> Result<()> {
    let prompt = match arguments.raw {
        true => arguments.prompt.clone(),
        false => question_prompt(&arguments.prompt)?,
    };
    let settings = GenerateSettings {
        sampling: arguments.sampling(),
        max_new_tokens: arguments.max_new_tokens,
        end_token: Some(open.tokenizer.end_of_text()),
        stop_strings: match arguments.raw {
            true => Vec::new(),
            false => vec![NEXT_QUESTION.to_string()],
        },
        trim: !arguments.raw,
        ..GenerateSettings::default()
    };
    let mut generator = Generator::new(device, &open.model)?;
    let mut stdout = io::stdout().lock();
    let output =
        generator.generate_text(
            &open.tokenizer,
            &prompt,
            &settings,
            &mut |text| match arguments.json {
                true => Ok(ControlFlow::Continue(())),
                false => print(&mut stdout, text),
            },
        )?;
    let end = match arguments.json {
        true => format!("{}\n", report(Some(&output), &output.text)),
        // A raw continuation is printed to the byte.
        false if arguments.raw => String::new(),
        false => "\n".to_string(),
    };
    // Nothing is left to stop.
    let _ = print(&mut stdout, &end)?;
    Ok(())
}

/// What the knowledge base supports: the guarded answer of the model, or its own where there is
/// none. A wrong answer is replaced before anything of it is shown.
fn supported<D: Operations + Planner>(
    device: &D,
    open: Option<&OpenModel<D>>,
    arguments: &Arguments,
) -> Result<()> {
    let assistant = arguments.knowledge.open()?;
    let (history, question) = conversation_of(&question_prompt(&arguments.prompt)?)?;
    let settings = ExchangeSettings {
        sampling: arguments.sampling(),
        max_new_tokens: arguments.max_new_tokens,
        guard: arguments.guard,
        stop_strings: Vec::new(),
    };
    let conversation = conversation(&assistant, device, open, settings)?;
    let answer = conversation
        .with_history(history)
        .ask(&question, &mut |_| Ok(ControlFlow::Continue(())))?;
    let reply = &answer.reply;
    let text = match arguments.json {
        true => {
            let text = match open {
                Some(_) => &reply.model_text,
                None => &reply.text,
            };
            let mut report = report(answer.output.as_ref(), text);
            report["reply"] =
                serde_json::to_value(reply).context("cannot write the reply as JSON")?;
            format!("{report}\n")
        }
        false => {
            let footer = footer(reply).map(|footer| format!("\n{footer}"));
            format!("{}{}\n", reply.text, footer.unwrap_or_default())
        }
    };
    // Nothing is left to stop.
    let _ = print(&mut io::stdout().lock(), &text)?;
    Ok(())
}

impl Arguments {
    fn sampling(&self) -> SamplingSettings {
        SamplingSettings {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            repetition_penalty: self.repetition_penalty,
            seed: self.seed,
        }
    }
}

/// What the model made; nothing of it where no model was run.
fn report(output: Option<&GenerateOutput>, text: &str) -> serde_json::Value {
    json!({
        "text": text,
        "token_ids": output.map_or(&[][..], |output| &output.token_ids),
        "prompt_token_ids": output.map_or(&[][..], |output| &output.prompt_token_ids),
        "finish_reason": output.map(|output| output.finish),
        "prefill_ms": output.map(|output| output.prefill.as_secs_f64() * 1000.0),
        "decode_tokens_per_second": output.and_then(GenerateOutput::decode_tokens_per_second),
    })
}
