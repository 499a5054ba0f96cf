//! `muni-engine routing`: which expert serves which office and which kind of token.

use super::device::Task;
use super::model::ModelArguments;
use super::output::print;
use crate::eval::questions::{REFUSALS, check_services, read_questions};
use crate::eval::routing::{Corpus, LabelledText, RoutingSettings, html, inputs, routing, table};
use crate::generate::question_prompt;
use crate::knowledge::Knowledge;
use crate::open::OpenModel;
use crate::ops::{Operations, Planner, TrainingDevice};
use crate::shards::{ShardSet, Split};
use crate::tokenizer::Tokenizer;
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Arguments of `muni-engine routing`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    /// Shard folder whose examples are read.
    #[arg(
        long,
        value_name = "DIR",
        default_value = "shards",
        conflicts_with = "questions"
    )]
    shards: PathBuf,
    /// Which examples of the shards: those held back (val and val_ood), or those that were trained
    /// on.
    #[arg(
        long,
        value_enum,
        default_value_t = SplitChoice::Validation,
        conflicts_with = "questions"
    )]
    split: SplitChoice,
    /// Read the questions of this file instead (as `eval answers` does), each as a prompt.
    #[arg(long, value_name = "FILE.jsonl")]
    questions: Option<PathBuf>,
    /// Knowledge folder, to check the questions' services.
    #[arg(long, value_name = "DIR", default_value = "knowledge")]
    knowledge: PathBuf,
    /// Stop after about N tokens, spread evenly over the examples; 0: read all.
    #[arg(long, value_name = "N", default_value_t = 200_000)]
    max_tokens: usize,
    /// How often the office labels are shuffled for the baseline of the mutual information.
    #[arg(long, value_name = "N", default_value_t = 200)]
    permutations: usize,
    /// Seed of the shuffling.
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
    /// Tokens named per expert.
    #[arg(long, value_name = "N", default_value_t = 10)]
    top_tokens: usize,
    /// A token must occur at least N times to be named.
    #[arg(long, value_name = "N", default_value_t = 10)]
    min_count: u64,
    /// Print the whole analysis as one JSON object.
    #[arg(long)]
    json: bool,
    /// Write a self-contained page with heat maps.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, clap::ValueEnum)]
enum SplitChoice {
    /// Examples held back, requests outside the offices' remit included.
    Validation,
    /// Examples that were trained on.
    Train,
}

/// Runs the command.
pub(crate) fn run(arguments: Arguments) -> Result<()> {
    arguments.model.device.run(Analyse(&arguments))
}

struct Analyse<'a>(&'a Arguments);

impl Task for Analyse<'_> {
    fn run<D: TrainingDevice>(self, device: &D) -> Result<()> {
        analyse(device, self.0)
    }
}

fn analyse<D: Operations + Planner>(device: &D, arguments: &Arguments) -> Result<()> {
    // What was mistyped is said before a model is loaded.
    let questions = match &arguments.questions {
        Some(path) => {
            let questions = read_questions(path)?;
            check_services(path, &questions, &Knowledge::load(&arguments.knowledge)?)?;
            Some(questions)
        }
        None => None,
    };
    let OpenModel { model, tokenizer } = arguments.model.open(device)?;
    let (corpus, source) = match (&questions, &arguments.questions) {
        (Some(questions), Some(path)) => {
            let labelled = questions
                .iter()
                .map(|question| (question.office(), question.question.as_str()));
            (question_corpus(&tokenizer, labelled)?, path)
        }
        _ => (
            shard_corpus(&tokenizer, &arguments.shards, arguments.split)?,
            &arguments.shards,
        ),
    };
    let corpus = thin_out(corpus, arguments.max_tokens);
    let settings = RoutingSettings {
        permutations: arguments.permutations,
        seed: arguments.seed,
        top_tokens: arguments.top_tokens,
        min_count: arguments.min_count,
    };
    let bar = super::progress::bar(corpus.texts.len(), "texts")?;
    let report = routing(
        device,
        &model,
        &tokenizer,
        &corpus,
        &settings,
        &mut |done| bar.set_position(done as u64),
    )
    .with_context(|| format!("cannot analyse {}", source.display()))?;
    bar.finish_and_clear();
    if let Some(path) = &arguments.html {
        let name = arguments.model.folder()?.display().to_string();
        fs::write(path, html(&report, &name, &source.display().to_string()))
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

/// The examples of a shard folder.
fn shard_corpus(tokenizer: &Tokenizer, dir: &Path, part: SplitChoice) -> Result<Corpus> {
    let shards = ShardSet::open(dir, &tokenizer.fingerprint())?;
    let splits: &[Split] = match part {
        SplitChoice::Validation => &[Split::Validation, Split::ValidationOod],
        SplitChoice::Train => &[Split::Train],
    };
    let mut texts = Vec::new();
    for &split in splits {
        for index in 0..shards.examples(split) {
            let example = shards
                .example(split, index)
                .with_context(|| format!("{}: example {index} is missing", dir.display()))?;
            texts.push(LabelledText {
                office: usize::from(example.office),
                tokens: inputs(example.tokens)?,
            });
        }
    }
    ensure!(
        !texts.is_empty(),
        "{}: there is no example in this part; try --split train",
        dir.display()
    );
    Ok(Corpus {
        offices: shards.manifest().offices.clone(),
        texts,
    })
}

/// The prompts of questions, given with their office.
fn question_corpus<'a>(
    tokenizer: &Tokenizer,
    questions: impl Iterator<Item = (&'a str, &'a str)>,
) -> Result<Corpus> {
    let mut by_office: BTreeMap<&str, Vec<Vec<u32>>> = BTreeMap::new();
    for (office, question) in questions {
        let mut tokens = vec![tokenizer.end_of_text()];
        tokens.extend(tokenizer.encode(&question_prompt(question)?)?);
        by_office.entry(office).or_default().push(tokens);
    }
    let mut corpus = Corpus::default();
    // What belongs to nobody stands last, as in the shards.
    let refused = by_office.remove(REFUSALS).map(|texts| (REFUSALS, texts));
    for (name, texts) in by_office.into_iter().chain(refused) {
        let office = corpus.offices.len();
        corpus.offices.push(name.to_string());
        let labelled = texts
            .into_iter()
            .map(|tokens| LabelledText { office, tokens });
        corpus.texts.extend(labelled);
    }
    Ok(corpus)
}

/// Every n-th text, so that about `most` tokens are left.
fn thin_out(mut corpus: Corpus, most: usize) -> Corpus {
    let tokens: usize = corpus.texts.iter().map(|text| text.tokens.len()).sum();
    if most > 0 && tokens > most {
        let keep = corpus.texts.len() * most / tokens;
        let texts = corpus.texts.len();
        let mut index = 0;
        corpus.texts.retain(|_| {
            index += 1;
            // True `keep` times of `texts`, evenly.
            index * keep / texts != (index - 1) * keep / texts
        });
    }
    corpus
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thinning_keeps_texts_from_everywhere() {
        let corpus = |texts: usize| Corpus {
            offices: vec!["a".into()],
            texts: (0..texts)
                .map(|index| LabelledText {
                    office: 0,
                    tokens: vec![index as u32; 10],
                })
                .collect(),
        };
        let kept = thin_out(corpus(100), 250);
        assert_eq!(kept.texts.len(), 25);
        let first: Vec<u32> = kept.texts.iter().map(|text| text.tokens[0]).collect();
        assert_eq!((first[0], first[1], first[24]), (3, 7, 99));
        assert_eq!(thin_out(corpus(100), 0), corpus(100));
        assert_eq!(thin_out(corpus(100), 1000), corpus(100));
    }
}
