//! What every command that talks to citizens takes: the knowledge base, the guard, and how answers
//! are drawn.

use super::model::say_no_model;
use super::values::{above_zero, at_least_zero, probability};
use crate::answer::exchange::ExchangeSettings;
use crate::answer::session::Conversation;
use crate::answer::{Assistant, GuardMode, Reply, Verdict};
use crate::generate::SamplingSettings;
use crate::german::month_name;
use crate::knowledge::Date;
use crate::open::{KNOWLEDGE_FOLDER, OpenModel, open_knowledge};
use crate::ops::{Operations, Planner};
use anyhow::Result;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Which knowledge base answers are checked against.
#[derive(clap::Args)]
pub(super) struct KnowledgeArguments {
    /// Knowledge folder [default: knowledge/ where it exists, else the one that the program was
    /// built with, of the invented city "Musterstadt"].
    #[arg(long, value_name = "DIR")]
    knowledge: Option<PathBuf>,
}

impl KnowledgeArguments {
    /// The folder that was named, or where one is looked for.
    pub(super) fn folder(&self) -> &Path {
        self.knowledge
            .as_deref()
            .unwrap_or(Path::new(KNOWLEDGE_FOLDER))
    }

    /// Reads the knowledge base and builds the assistant. Values that are not right any more are
    /// named on standard error.
    pub(super) fn open(&self) -> Result<Assistant> {
        let assistant = open_knowledge(self.knowledge.as_deref())?;
        let city = &assistant.knowledge().municipality;
        for outdated in city.outdated(Date::today()) {
            eprintln!("{outdated}");
        }
        Ok(assistant)
    }
}

/// A conversation with the model, or from the knowledge base alone, which standard error then says.
pub(super) fn conversation<'a, D: Operations + Planner>(
    assistant: &'a Assistant,
    device: &'a D,
    open: Option<&'a OpenModel<D>>,
    settings: ExchangeSettings,
) -> Result<Conversation<'a, D>> {
    match open {
        Some(OpenModel { model, tokenizer }) => {
            Conversation::new(assistant, device, model, tokenizer, settings)
        }
        None => {
            say_no_model();
            Ok(Conversation::without_model(assistant, settings))
        }
    }
}

/// How answers are drawn and checked.
#[derive(clap::Args)]
pub(super) struct AnswerArguments {
    /// 0: always the most probable token. Above 0: the higher, the more varied.
    #[arg(long, value_name = "T", default_value = "0.7", value_parser = at_least_zero)]
    temperature: f32,
    /// Draw only from the most probable tokens that together reach probability P.
    #[arg(long, value_name = "P", default_value = "0.9", value_parser = probability)]
    top_p: f32,
    /// Draw only from the K most probable tokens; 0: from all.
    #[arg(long, value_name = "K", default_value_t = 0)]
    top_k: usize,
    /// Make tokens that were already used less probable (above 1) or more (below 1).
    #[arg(long, value_name = "R", default_value = "1", value_parser = above_zero)]
    repetition_penalty: f32,
    /// The same seed draws the same answers.
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
    /// Most tokens of an answer.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 224,
        value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..)
    )]
    max_new_tokens: usize,
    /// What happens to an answer that the knowledge base does not support: off (nobody looks, and
    /// placeholders stay as they are), mark (it is shown and marked), replace (the knowledge base's
    /// own answer is shown instead).
    #[arg(long, value_name = "MODE", default_value = "replace", value_parser = GuardMode::from_str)]
    guard: GuardMode,
}

impl AnswerArguments {
    /// The settings of a conversation.
    pub(super) fn settings(&self) -> ExchangeSettings {
        ExchangeSettings {
            sampling: SamplingSettings {
                temperature: self.temperature,
                top_k: self.top_k,
                top_p: self.top_p,
                repetition_penalty: self.repetition_penalty,
                seed: self.seed,
            },
            max_new_tokens: Some(self.max_new_tokens),
            guard: self.guard,
            stop_strings: Vec::new(),
        }
    }
}

/// What stands under an answer: where it comes from, from when it is, and who is responsible.
/// `None` where there is nothing to say.
pub(super) fn footer(reply: &Reply) -> Option<String> {
    let mut lines = Vec::new();
    match reply.verdict {
        Verdict::Replaced => lines.push(
            "Auskunft aus der Wissensbasis (die Antwort des Sprachmodells wurde ersetzt)"
                .to_string(),
        ),
        Verdict::Marked => lines
            .push("Achtung: Diese Antwort ist nicht durch die Wissensbasis belegt.".to_string()),
        Verdict::Passed | Verdict::Refused | Verdict::Knowledge | Verdict::Asked => {}
    }
    if !reply.sources.is_empty() {
        let stand = reply.checked_on.as_deref().map(german_date);
        let stand = stand
            .map(|day| format!(" (Stand: {day})"))
            .unwrap_or_default();
        lines.push(format!("Quelle: {}{stand}", reply.sources.join("; ")));
    }
    if let Some(office) = &reply.office {
        lines.push(format!(
            "Zuständig: {}, Telefon {}",
            office.name, office.phone
        ));
    }
    (!lines.is_empty()).then(|| lines.join("\n"))
}

/// `2026-07-01` as `1. Juli 2026`; anything else as it stands.
pub(super) fn german_date(day: &str) -> String {
    let parts: Vec<&str> = day.split('-').collect();
    let written = match parts[..] {
        [year, month, day] => month_name(month)
            .zip(day.parse::<u32>().ok())
            .map(|(month, day)| format!("{day}. {month} {year}")),
        _ => None,
    };
    written.unwrap_or_else(|| day.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_written_as_people_read_them() {
        assert_eq!(german_date("2026-07-01"), "1. Juli 2026");
        assert_eq!(german_date("2026-13-01"), "2026-13-01");
        assert_eq!(german_date("gestern"), "gestern");
    }
}
