//! What a data set consists of, for its manifest, its card and the table after generation.

use super::near_duplicates::near_duplicates;
use super::{Dataset, Example, Part};
use crate::knowledge::{Dictionary, fold};
use rayon::prelude::*;
use serde::Serialize;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write;

/// Counts by value of one property.
pub type Counts = BTreeMap<String, usize>;

/// Token lengths of the stored examples without their two separators.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Lengths {
    /// Shortest.
    pub min: usize,
    /// Middle.
    pub median: usize,
    /// 95 of 100 are at most so long.
    pub p95: usize,
    /// Longest.
    pub max: usize,
}

/// What is counted, by office, technique and the like.
#[derive(Clone, Debug, Serialize)]
pub struct Statistics {
    /// Number of examples.
    pub examples: usize,
    /// By office id.
    pub by_office: Counts,
    /// By service id.
    pub by_service: Counts,
    /// By intent of the first question.
    pub by_intent: Counts,
    /// By technique; an example counts for each of its techniques.
    pub by_technique: Counts,
    /// By layout.
    pub by_format: Counts,
    /// By form of address.
    pub by_register: Counts,
    /// Training and validation.
    pub by_split: Counts,
    /// Token lengths.
    pub token_length: Lengths,
    /// Tokens in all, without separators.
    pub tokens: usize,
    /// Candidates that were equal to an earlier example.
    pub duplicates_rejected: usize,
    /// Candidates that were too long.
    pub too_long_rejected: usize,
    /// Candidates for validation that were too much like a training question.
    pub too_alike_rejected: usize,
}

/// How much variety there is.
#[derive(Clone, Debug, Serialize)]
pub struct Variety {
    /// Share of first questions that are distinct after folding.
    pub distinct_first_questions: f64,
    /// Mean number of distinct first answers for each fact of a service.
    pub answer_wordings_per_intent: f64,
    /// The least such number.
    pub fewest_answer_wordings: usize,
    /// The commonest first sentence of an answer, and the share of first answers that begin with it.
    pub commonest_opening: (String, f64),
    /// The commonest last sentence of an answer of several sentences, likewise.
    pub commonest_closing: (String, f64),
    /// Distinct runs of one, two and three words among all of them, questions and answers.
    pub distinct_n: [f64; 3],
    /// Share of first questions with Jaccard index 0.8 or more (runs of three words) to an earlier one, equal ones included.
    pub near_duplicate_questions: f64,
    /// The same for whole texts, none of which are equal.
    pub near_duplicate_texts: f64,
    /// The same for the first questions of `val` and `val_ood` against those of `train`: what the split promises to be 0.
    pub validation_questions_like_training: usize,
}

/// Unknown words.
#[derive(Clone, Debug, Serialize)]
pub struct SpellingReport {
    /// Words outside of the typo technique that were looked at.
    pub words: u64,
    /// Of them unknown, in percent.
    pub unknown_percent: f64,
    /// The most frequent unknown words.
    pub examples: Vec<(String, u64)>,
}

impl Statistics {
    /// Counts a data set.
    pub fn of(dataset: &Dataset) -> Statistics {
        let mut statistics = Statistics {
            examples: dataset.examples.len(),
            by_office: Counts::new(),
            by_service: Counts::new(),
            by_intent: Counts::new(),
            by_technique: Counts::new(),
            by_format: Counts::new(),
            by_register: Counts::new(),
            by_split: Counts::new(),
            token_length: Lengths::default(),
            tokens: 0,
            duplicates_rejected: dataset.rejected.duplicates,
            too_long_rejected: dataset.rejected.too_long,
            too_alike_rejected: dataset.rejected.too_alike,
        };
        let mut by_subject: HashMap<u32, usize> = HashMap::new();
        let count = |counts: &mut Counts, name: &str, by: usize| match counts.get_mut(name) {
            Some(count) => *count += by,
            None => {
                counts.insert(name.to_string(), by);
            }
        };
        let mut lengths: Vec<usize> = Vec::with_capacity(dataset.examples.len());
        for example in &dataset.examples {
            *by_subject.entry(example.subject).or_default() += 1;
            for technique in example.techniques.names() {
                count(&mut statistics.by_technique, technique, 1);
            }
            count(&mut statistics.by_format, example.format(), 1);
            count(&mut statistics.by_register, example.register.name(), 1);
            count(&mut statistics.by_split, example.part.name(), 1);
            lengths.push(example.tokens.len().saturating_sub(2));
        }
        for (subject, examples) in by_subject {
            if let Some(subject) = dataset.subjects.get(subject as usize) {
                let office = &dataset.offices[usize::from(subject.office)];
                count(&mut statistics.by_office, office, examples);
                count(&mut statistics.by_service, &subject.service, examples);
                count(&mut statistics.by_intent, subject.intent, examples);
            }
        }
        lengths.sort_unstable();
        let at = |percent: usize| {
            lengths
                .get((lengths.len() * percent).div_ceil(100).saturating_sub(1))
                .copied()
                .unwrap_or(0)
        };
        statistics.token_length = Lengths {
            min: at(0),
            median: at(50),
            p95: at(95),
            max: at(100),
        };
        statistics.tokens = lengths.iter().sum();
        statistics
    }

    /// A short table for people.
    pub fn table(&self) -> String {
        let mut table = String::new();
        for (title, counts) in [
            ("office", &self.by_office),
            ("intent", &self.by_intent),
            ("technique", &self.by_technique),
            ("register", &self.by_register),
            ("split", &self.by_split),
        ] {
            let _ = writeln!(table, "{title:<24}{:>9}{:>8}", "examples", "share");
            for (name, count) in counts {
                let share = 100.0 * *count as f64 / self.examples.max(1) as f64;
                let _ = writeln!(table, "  {name:<22}{count:>9}{share:>7.1}%");
            }
        }
        let Lengths {
            min,
            median,
            p95,
            max,
        } = self.token_length;
        let _ = writeln!(
            table,
            "{} examples in {} formats, {} tokens; length min {min}, median {median}, p95 {p95}, max {max}",
            self.examples,
            self.by_format.len(),
            self.tokens
        );
        let (duplicates, too_long, alike) = (
            self.duplicates_rejected,
            self.too_long_rejected,
            self.too_alike_rejected,
        );
        let _ = write!(
            table,
            "replaced on the way: {duplicates} duplicates, {too_long} too long, {alike} too much like a training question"
        );
        table
    }
}

impl Variety {
    /// Measures a data set.
    pub fn of(dataset: &Dataset) -> Variety {
        let examples = &dataset.examples;
        let share = |count: usize| count as f64 / examples.len().max(1) as f64;
        let questions: Vec<&str> = examples.iter().map(Example::question).collect();
        let distinct: HashSet<u64> = questions
            .par_iter()
            .map(|question| folded_hash(question))
            .collect();
        let answers: Vec<&str> = examples
            .iter()
            .map(|example| example.turns().nth(1).unwrap_or_default())
            .collect();
        let mut wordings: HashMap<u32, HashSet<u64>> = HashMap::new();
        let (mut openings, mut closings) = (HashMap::new(), HashMap::new());
        for (example, answer) in examples.iter().zip(&answers) {
            let within_remit = dataset
                .subjects
                .get(example.subject as usize)
                .is_some_and(|subject| usize::from(subject.office) + 1 < dataset.offices.len());
            if within_remit {
                wordings
                    .entry(example.subject)
                    .or_default()
                    .insert(folded_hash(answer));
            }
            *openings.entry(first_sentence(answer)).or_insert(0) += 1;
            if let Some(last) = last_sentence(answer) {
                *closings.entry(last).or_insert(0) += 1;
            }
        }
        let commonest = |counts: HashMap<&str, usize>| {
            let top = counts
                .into_iter()
                .max_by_key(|&(text, count)| (count, std::cmp::Reverse(text)));
            top.map_or((String::new(), 0.0), |(text, count)| {
                (text.to_string(), share(count))
            })
        };
        let validated: Vec<&str> = part(examples, |part| part != Part::Train);
        let trained = part(examples, |part| part == Part::Train);
        let alike = super::alike_to_any(&validated, trained.into_iter());
        let sum: usize = wordings.values().map(HashSet::len).sum();
        let texts: Vec<&str> = examples.iter().map(|example| &*example.text).collect();
        Variety {
            distinct_first_questions: share(distinct.len()),
            answer_wordings_per_intent: sum as f64 / wordings.len().max(1) as f64,
            fewest_answer_wordings: wordings.values().map(HashSet::len).min().unwrap_or(0),
            commonest_opening: commonest(openings),
            commonest_closing: commonest(closings),
            distinct_n: distinct_runs(examples),
            near_duplicate_questions: share(near_duplicates(&questions)),
            near_duplicate_texts: share(near_duplicates(&texts)),
            validation_questions_like_training: alike.into_iter().filter(|&alike| alike).count(),
        }
    }
}

impl SpellingReport {
    /// Looks up every word of the examples that are not made by the typo technique.
    pub fn of(dataset: &Dataset, dictionary: &Dictionary) -> SpellingReport {
        let careful = dataset
            .examples
            .iter()
            .filter(|example| !example.techniques.contains(super::Technique::Incomplete));
        let spelling = dictionary.spelling(careful.flat_map(Example::turns));
        SpellingReport {
            words: spelling.words,
            unknown_percent: spelling.percent(),
            examples: spelling.examples,
        }
    }
}

fn part(examples: &[Example], wanted: impl Fn(Part) -> bool) -> Vec<&str> {
    examples
        .iter()
        .filter(|example| wanted(example.part))
        .map(Example::question)
        .collect()
}

fn folded_hash(text: &str) -> u64 {
    hash(fold(text).as_bytes())
}

fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, &byte| {
        (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

fn first_sentence(text: &str) -> &str {
    text.find(['.', '!', '?', ':'])
        .map_or(text, |at| &text[..=at])
}

fn last_sentence(text: &str) -> Option<&str> {
    super::bodies::sentences(text)
        .split_last()
        .filter(|(_, before)| !before.is_empty())
        .map(|(last, _)| *last)
}

// Distinct runs of one, two and three words among all runs of that length. A hash of 64 bits stands for a run.
fn distinct_runs(examples: &[Example]) -> [f64; 3] {
    let mut shares = [0.0; 3];
    shares
        .par_iter_mut()
        .enumerate()
        .for_each(|(length, share)| {
            let (mut seen, mut all) = (HashSet::new(), 0usize);
            let mut words: Vec<u64> = Vec::new();
            for turn in examples.iter().flat_map(Example::turns) {
                words.clear();
                words.extend(turn.split_whitespace().map(|word| hash(word.as_bytes())));
                for run in words.windows(length + 1) {
                    all += 1;
                    seen.insert(run.iter().fold(17u64, |sum, word| {
                        (sum.rotate_left(7) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15)
                    }));
                }
            }
            *share = seen.len() as f64 / all.max(1) as f64;
        });
    shares
}
