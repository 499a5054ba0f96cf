//! `dataset-card.md` and `statistics.json`: what a data set is, for whoever finds it beside the
//! shards.

use super::statistics::{Counts, SpellingReport, Statistics};
use super::variety::Variety;
use super::{GENERATOR_VERSION, Settings};
use serde::Serialize;
use std::fmt::Write;

/// Most unknown words outside of the typo technique, in percent.
pub(crate) const MOST_UNKNOWN_PERCENT: f64 = 0.3;

/// What `statistics.json` holds.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Summary {
    /// Name of the stage.
    pub stage: &'static str,
    /// Everything random follows from it.
    pub seed: u64,
    /// Version of the generator.
    pub generator_version: &'static str,
    /// Counts.
    pub counts: Statistics,
    /// Variety.
    pub variety: Variety,
    /// Spelling, where a dictionary was at hand.
    pub spelling: Option<SpellingReport>,
}

impl Summary {
    /// Puts the parts together.
    pub(crate) fn new(
        settings: &Settings,
        counts: Statistics,
        variety: Variety,
        spelling: Option<SpellingReport>,
    ) -> Summary {
        Summary {
            stage: settings.stage.name(),
            seed: settings.seed,
            generator_version: GENERATOR_VERSION,
            counts,
            variety,
            spelling,
        }
    }

    /// The figures on variety and spelling as lines of name and value.
    pub(crate) fn measures(&self) -> Vec<(&'static str, String)> {
        let percent = |share: f64| format!("{:.1} %", 100.0 * share);
        let variety = &self.variety;
        let [one, two, three] = variety.distinct_n;
        let phrase = |(text, share): &(String, f64)| format!("{} (\"{text}\")", percent(*share));
        vec![
            (
                "distinct first questions",
                percent(variety.distinct_first_questions),
            ),
            (
                "answer wordings per intent, mean",
                format!("{:.1}", variety.answer_wordings_per_intent),
            ),
            (
                "answer wordings per intent, fewest",
                variety.fewest_answer_wordings.to_string(),
            ),
            (
                "commonest first sentence of an answer",
                phrase(&variety.commonest_opening),
            ),
            (
                "commonest last sentence of an answer",
                phrase(&variety.commonest_closing),
            ),
            (
                "distinct-1 / 2 / 3",
                format!("{one:.4} / {two:.4} / {three:.4}"),
            ),
            (
                "first questions nearly like an earlier one",
                percent(variety.near_duplicate_questions),
            ),
            (
                "texts nearly like an earlier one",
                percent(variety.near_duplicate_texts),
            ),
            (
                "validation questions nearly like a training question",
                variety.validation_questions_like_training.to_string(),
            ),
            (
                "unknown words outside of the typo technique",
                match &self.spelling {
                    Some(spelling) => {
                        format!("{:.3} % of {}", spelling.unknown_percent, spelling.words)
                    }
                    None => "not measured: no German dictionary found".to_string(),
                },
            ),
        ]
    }

    /// The card in Markdown.
    pub(crate) fn card(&self) -> String {
        let counts = &self.counts;
        let mut card = format!(
            "# Dialogues of a German city administration, stage {}\n\n\
             {} examples, {} tokens (GPT-2's byte-level BPE). Made by `muni-engine dataset \
             --stage {} --examples {} --seed {}` (generator \
             version {}) from the knowledge base in `knowledge/`; the same knowledge and seed \
             give the same bytes.\n\n\
             Questions are written by people or made from such questions by rules; answers come \
             from the knowledge base, word for word \
             or sentence by sentence. No text was written by a language model at generation time, \
             and none is about a real person. A \
             city's own values stand as placeholders (`{{telefon}}`) and are filled in when an \
             answer is shown. Answers are \
             information about usual procedures and no legal advice.\n\n\
             `train` is for training. `val` asks phrasings, and for some facts whole families of \
             phrasings, that no training example \
             uses; `val_ood` holds requests that belong to other places, asked likewise. No \
             question in either has a Jaccard index of \
             0.8 or more (runs of three words) with a training question.\n\n\
             Every example was checked: one form of address, known placeholders only, no figure \
             in an answer that the service's facts \
             do not have, no doubled word. A set with a fault is not written.\n",
            self.stage,
            counts.examples,
            counts.tokens,
            self.stage,
            counts.examples,
            self.seed,
            self.generator_version
        );
        let _ = write!(card, "\n| measure | value |\n|---|---|\n");
        for (name, value) in self.measures() {
            let _ = writeln!(card, "| {name} | {} |", value.replace('|', "\\|"));
        }
        let length = counts.token_length;
        let _ = writeln!(
            card,
            "| tokens of an example: least, median, 95 %, most | {}, {}, {}, {} |",
            length.min, length.median, length.p95, length.max
        );
        card.push_str(
            "\nNear duplicates among questions count equal questions in other layouts as well; \
            texts are never equal. Texts that share \
             an answer are alike by design.\n",
        );
        for (title, counts) in [
            ("split", &counts.by_split),
            ("office", &counts.by_office),
            ("intent", &counts.by_intent),
            ("technique", &counts.by_technique),
            ("register", &counts.by_register),
            ("format", &counts.by_format),
            ("service", &counts.by_service),
        ] {
            table(&mut card, title, counts, self.counts.examples);
        }
        card
    }
}

fn table(card: &mut String, title: &str, counts: &Counts, examples: usize) {
    let _ = write!(card, "\n| {title} | examples | share |\n|---|---:|---:|\n");
    for (name, count) in counts {
        let share = 100.0 * *count as f64 / examples.max(1) as f64;
        let _ = writeln!(card, "| {name} | {count} | {share:.2} % |");
    }
}
