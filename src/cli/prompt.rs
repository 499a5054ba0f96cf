//! `muni-engine prompt`: one question, one answer. Also the arguments that every command with a trained model takes.

use super::assistant::{KnowledgeArguments, footer};
use super::device::{DeviceArguments, Task};
use super::values::{above_zero, at_least_zero, probability, unescape};
use crate::answer::GuardMode;
use crate::generate::text::{ANSWER, NEXT_QUESTION, QUESTION};
use crate::generate::{
    GenerateOutput, GenerateSettings, Generator, SamplingSettings, question_prompt,
};
use crate::hf::{find_folder, load_folder_into};
use crate::model::{Model, ModelConfig, Parameters};
use crate::ops::{Device, Operations, Planner, TrainingDevice};
use crate::tokenizer::Tokenizer;
use anyhow::{Context, Result, bail, ensure};
use serde_json::json;
use std::fs;
use std::io::{self, ErrorKind, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Arguments of `muni-engine prompt`.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    /// The question, e.g. "Wo kann ich mich ummelden?", or a whole prompt, e.g. "Frage: ...\nAntwort:". `\n` is a line
    /// break. A text without "Frage:" becomes "Frage: {text}\nAntwort:".
    #[arg(long, value_name = "TEXT", value_parser = unescape)]
    prompt: String,
    /// Continue the prompt exactly as it stands and print the continuation exactly as it comes.
    #[arg(long)]
    raw: bool,
    /// 0: always the most probable token, so that the same question gets the same answer. Above 0: the higher, the more varied.
    #[arg(long, value_name = "T", default_value = "0", value_parser = at_least_zero)]
    temperature: f32,
    /// Draw only from the K most probable tokens; 0: from all. Needs a temperature above 0.
    #[arg(long, value_name = "K", default_value_t = 0)]
    top_k: usize,
    /// Draw only from the most probable tokens that together reach probability P. Needs a temperature above 0.
    #[arg(long, value_name = "P", default_value = "1", value_parser = probability)]
    top_p: f32,
    /// Make tokens that were already used less probable (above 1) or more (below 1).
    #[arg(long, value_name = "R", default_value = "1", value_parser = above_zero)]
    repetition_penalty: f32,
    /// The same seed draws the same answer.
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
    /// Most tokens of the answer [default: until the model's context is full].
    #[arg(long, value_name = "N", value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..))]
    max_new_tokens: Option<usize>,
    /// Check the answer against the knowledge base and fill in the city's own values: off, mark (shown and marked), replace (the
    /// knowledge base's own answer is shown instead of a wrong one).
    #[arg(long, value_name = "MODE", default_value = "off", value_parser = GuardMode::from_str, conflicts_with = "raw")]
    guard: GuardMode,
    #[command(flatten)]
    knowledge: KnowledgeArguments,
    /// Print one JSON object instead of streaming: text, token_ids, prompt_token_ids, finish_reason, prefill_ms,
    /// decode_tokens_per_second; with a guard also reply.
    #[arg(long)]
    json: bool,
}

/// Which model, and where it computes.
#[derive(clap::Args)]
pub(super) struct ModelArguments {
    /// Model folder (config.json, model.safetensors, tokenizer.json) [default: the newest runs/*/best_model].
    #[arg(long, value_name = "DIR")]
    model_path: Option<PathBuf>,
    #[command(flatten)]
    pub(super) device: DeviceArguments,
}

/// A model ready to compute.
pub(super) struct OpenModel<D: Device> {
    pub model: Model<D>,
    pub tokenizer: Tokenizer,
}

impl ModelArguments {
    /// The folder that was asked for, or the newest one.
    pub(super) fn folder(&self) -> Result<PathBuf> {
        match &self.model_path {
            Some(dir) => Ok(dir.clone()),
            None => newest_model(Path::new("runs")),
        }
    }

    /// Loads model and tokenizer onto a device.
    pub(super) fn open<D: Operations + Planner>(&self, device: &D) -> Result<OpenModel<D>> {
        let dir = self.folder()?;
        // The tokenizer takes about as long as the weights, so a question is answered sooner if they do not wait for each other.
        let (loaded, tokenizer) = std::thread::scope(|scope| {
            let tokenizer = scope.spawn(|| open_tokenizer(&dir));
            let loaded = load_folder_into(&dir, &|len| device.host_buffer(len));
            let tokenizer = tokenizer
                .join()
                .unwrap_or_else(|_| bail!("reading the tokenizer failed unexpectedly"));
            (loaded, tokenizer)
        });
        let (loaded, (tokenizer, own)) = (loaded?, tokenizer?);
        check_vocabulary(&dir, &loaded.config, &tokenizer, own)?;
        let parameters = Parameters::adopt(device, &loaded.config, loaded.fused)?;
        let model = Model::new(loaded.config, parameters)?;
        Ok(OpenModel { model, tokenizer })
    }
}

/// The folder's own tokenizer, or GPT-2's where it brings none; and whether it is the folder's.
fn open_tokenizer(dir: &Path) -> Result<(Tokenizer, bool)> {
    let dir = find_folder(dir)?;
    let own = ["tokenizer.json", "vocab.json"]
        .iter()
        .any(|name| dir.join(name).exists());
    let tokenizer = match own {
        true => Tokenizer::from_folder(&dir)?,
        false => Tokenizer::gpt2()?,
    };
    Ok((tokenizer, own))
}

fn check_vocabulary(
    dir: &Path,
    config: &ModelConfig,
    tokenizer: &Tokenizer,
    own: bool,
) -> Result<()> {
    ensure!(
        tokenizer.vocab_size() == config.vocab_size,
        "{}: the model has {} tokens, {} has {}: put the model's own tokenizer.json into the folder",
        dir.display(),
        config.vocab_size,
        if own {
            "its tokenizer"
        } else {
            "GPT-2's tokenizer (the folder holds none)"
        },
        tokenizer.vocab_size()
    );
    Ok(())
}

/// `best_model` of the run in `runs` that changed last.
fn newest_model(runs: &Path) -> Result<PathBuf> {
    let mut found = Vec::new();
    for run in fs::read_dir(runs).into_iter().flatten().flatten() {
        let model = run.path().join("best_model");
        let Ok(changed) = run.metadata().and_then(|metadata| metadata.modified()) else {
            continue;
        };
        if find_folder(&model).is_ok() {
            found.push((changed, model));
        }
    }
    // Of equal times the last by name, so that the choice does not depend on the order of the listing.
    found.into_iter().max().map(|(_, model)| model).with_context(|| {
        format!(
            "there is no {}/*/best_model here: give --model-path DIR, or train a model first (muni-engine train --shards shards/)",
            runs.display()
        )
    })
}

/// Runs the command.
pub fn run(arguments: Arguments) -> Result<()> {
    arguments.model.device.run(Ask(&arguments))
}

struct Ask<'a>(&'a Arguments);

impl Task for Ask<'_> {
    fn run<D: TrainingDevice>(self, device: &D) -> Result<()> {
        answer(device, self.0)
    }
}

fn answer<D: Operations + Planner>(device: &D, arguments: &Arguments) -> Result<()> {
    let open = arguments.model.open(device)?;
    let prompt = match arguments.raw {
        true => arguments.prompt.clone(),
        false => question_prompt(&arguments.prompt)?,
    };
    let settings = arguments.settings(&open.tokenizer);
    if arguments.guard != GuardMode::Off {
        let mut generator = Generator::new(device, &open.model)?;
        return guarded(
            &mut generator,
            &open.tokenizer,
            &prompt,
            &settings,
            arguments,
        );
    }
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
        true => format!("{}\n", report(&output)),
        // A raw continuation is printed to the byte.
        false if arguments.raw => String::new(),
        false => "\n".to_string(),
    };
    // Nothing is left to stop.
    let _ = print(&mut stdout, &end)?;
    Ok(())
}

/// The same with a guard over the answer. A wrong one is replaced before anything of it is shown.
fn guarded<D: Operations + Planner>(
    generator: &mut Generator<D>,
    tokenizer: &Tokenizer,
    prompt: &str,
    settings: &GenerateSettings,
    arguments: &Arguments,
) -> Result<()> {
    let assistant = arguments.knowledge.open()?;
    let question = newest_question(prompt);
    let mut guard = assistant.guard(assistant.understand(&[], question), arguments.guard);
    let output = generator.generate_text(tokenizer, prompt, settings, &mut |text| {
        Ok(match guard.push(text).stop {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        })
    })?;
    let (_, reply) = guard.finish();
    let text = match arguments.json {
        true => {
            let mut report = report(&output);
            report["reply"] =
                serde_json::to_value(&reply).context("cannot write the reply as JSON")?;
            format!("{report}\n")
        }
        false => {
            let footer = footer(&reply).map(|footer| format!("\n{footer}"));
            format!("{}{}\n", reply.text, footer.unwrap_or_default())
        }
    };
    // Nothing is left to stop.
    let _ = print(&mut io::stdout().lock(), &text)?;
    Ok(())
}

/// The last question of a prompt.
fn newest_question(prompt: &str) -> &str {
    let asked = prompt.rsplit(QUESTION).next().unwrap_or(prompt);
    asked.split(ANSWER).next().unwrap_or(asked).trim()
}

impl Arguments {
    fn settings(&self, tokenizer: &Tokenizer) -> GenerateSettings {
        GenerateSettings {
            sampling: SamplingSettings {
                temperature: self.temperature,
                top_k: self.top_k,
                top_p: self.top_p,
                repetition_penalty: self.repetition_penalty,
                seed: self.seed,
            },
            max_new_tokens: self.max_new_tokens,
            end_token: Some(tokenizer.end_of_text()),
            stop_strings: match self.raw {
                true => Vec::new(),
                false => vec![NEXT_QUESTION.to_string()],
            },
            trim: !self.raw,
        }
    }
}

fn report(output: &GenerateOutput) -> serde_json::Value {
    json!({
        "text": output.text,
        "token_ids": output.token_ids,
        "prompt_token_ids": output.prompt_token_ids,
        "finish_reason": output.finish,
        "prefill_ms": output.prefill.as_secs_f64() * 1000.0,
        "decode_tokens_per_second": output.decode_tokens_per_second(),
    })
}

/// Writes at once; a reader that went away (`| head`) ends the answer and is no error.
pub(super) fn print(out: &mut impl Write, text: &str) -> Result<ControlFlow<()>> {
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(ControlFlow::Continue(())),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(ControlFlow::Break(())),
        Err(error) => Err(error).context("cannot write the result to standard output"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_run_is_taken() {
        let runs = tempfile::tempdir().unwrap();
        let error = newest_model(runs.path()).unwrap_err().to_string();
        assert!(error.contains("--model-path"), "{error}");
        for name in ["a", "b", "c"] {
            fs::create_dir_all(runs.path().join(name)).unwrap();
        }
        for (name, seconds) in [("a", 2000), ("b", 1000)] {
            let run = runs.path().join(name);
            fs::create_dir(run.join("best_model")).unwrap();
            let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
            fs::File::open(&run).unwrap().set_modified(time).unwrap();
        }
        // c is newer, but has no model.
        assert_eq!(
            newest_model(runs.path()).unwrap(),
            runs.path().join("a/best_model")
        );
    }

    #[test]
    fn a_reader_that_went_away_is_no_error() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        assert!(print(&mut Closed, "x").unwrap().is_break());
        assert!(print(&mut Vec::new(), "x").unwrap().is_continue());
    }
}
