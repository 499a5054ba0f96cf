//! How much variety a data set has. Half a million texts are gone through by all threads; nothing
//! here depends on which of them sees what.

use super::hashing::{HashedSet, hash};
use super::near_duplicates::near_duplicates;
use super::{Dataset, Example, Split};
use crate::german::{fold, sentences};
use rayon::prelude::*;
use serde::Serialize;
use std::collections::HashMap;

/// How much variety there is.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Variety {
    /// Share of first questions that are distinct after folding.
    pub distinct_first_questions: f64,
    /// Mean number of distinct first answers for each fact of a service.
    pub answer_wordings_per_intent: f64,
    /// The least such number.
    pub fewest_answer_wordings: usize,
    /// The commonest first sentence of an answer, and the share of first answers that begin with
    /// it.
    pub commonest_opening: (String, f64),
    /// The commonest last sentence of an answer of several sentences, likewise.
    pub commonest_closing: (String, f64),
    /// Distinct runs of one, two and three words among all of them, questions and answers.
    pub distinct_n: [f64; 3],
    /// Share of first questions with Jaccard index 0.8 or more (runs of three words) to an earlier
    /// one, equal ones included.
    pub near_duplicate_questions: f64,
    /// The same for whole texts, none of which are equal.
    pub near_duplicate_texts: f64,
    /// The same for the first questions of `val` and `val_ood` against those of `train`: what the
    /// split promises to be 0.
    pub validation_questions_like_training: usize,
}

impl Variety {
    /// Measures a data set.
    pub(crate) fn of(dataset: &Dataset) -> Variety {
        let examples = &dataset.examples;
        let share = |count: usize| count as f64 / examples.len().max(1) as f64;
        let questions: Vec<&str> = examples.iter().map(Example::question).collect();
        let answers: Vec<&str> = examples
            .iter()
            .map(|example| example.turns().nth(1).unwrap_or_default())
            .collect();
        let texts: Vec<&str> = examples.iter().map(|example| &*example.text).collect();
        let of_split = |wanted: &dyn Fn(Split) -> bool| -> Vec<&str> {
            let chosen = examples.iter().filter(|example| wanted(example.split));
            chosen.map(Example::question).collect()
        };
        let (validated, trained) = (
            of_split(&|split| split != Split::Train),
            of_split(&|split| split == Split::Train),
        );
        let alike = super::alike_to_any(&validated, &trained);
        let wordings = wordings(dataset, &answers);
        let commonest = |phrase: (&str, usize)| (phrase.0.to_string(), share(phrase.1));
        Variety {
            distinct_first_questions: share(distinct(&questions)),
            answer_wordings_per_intent: wordings.iter().sum::<usize>() as f64
                / wordings.len().max(1) as f64,
            fewest_answer_wordings: wordings.into_iter().min().unwrap_or(0),
            commonest_opening: commonest(most_frequent(&answers, |answer| {
                Some(first_sentence(answer))
            })),
            commonest_closing: commonest(most_frequent(&answers, last_sentence)),
            distinct_n: distinct_runs(examples),
            near_duplicate_questions: share(near_duplicates(&questions)),
            near_duplicate_texts: share(near_duplicates(&texts)),
            validation_questions_like_training: alike.into_iter().filter(|&alike| alike).count(),
        }
    }
}

fn folded_hash(text: &str) -> u64 {
    hash(fold(text).as_bytes())
}

// How many texts are distinct after folding.
fn distinct(texts: &[&str]) -> usize {
    let mut hashes: Vec<u64> = texts.par_iter().map(|text| folded_hash(text)).collect();
    hashes.par_sort_unstable();
    hashes.dedup();
    hashes.len()
}

// For each subject within the offices' remit, the number of its distinct first answers.
fn wordings(dataset: &Dataset, answers: &[&str]) -> Vec<usize> {
    let of_subjects = dataset.examples.par_iter().zip(answers);
    let mut found: Vec<(u32, u64)> = of_subjects
        .filter(|(example, _)| {
            let subject = dataset.subjects.get(example.subject as usize);
            subject.is_some_and(|subject| usize::from(subject.office) + 1 < dataset.offices.len())
        })
        .map(|(example, answer)| (example.subject, folded_hash(answer)))
        .collect();
    found.par_sort_unstable();
    found.dedup();
    found.chunk_by(|a, b| a.0 == b.0).map(<[_]>::len).collect()
}

// The commonest part of the texts and how often it occurs; of equally common ones the first in the
// alphabet.
fn most_frequent<'t>(
    texts: &[&'t str],
    part: impl Fn(&'t str) -> Option<&'t str> + Sync,
) -> (&'t str, usize) {
    let counts = texts
        .par_iter()
        .fold(HashMap::new, |mut counts: HashMap<&str, usize>, text| {
            if let Some(part) = part(text) {
                *counts.entry(part).or_default() += 1;
            }
            counts
        })
        .reduce(HashMap::new, |mut all, counts| {
            for (part, count) in counts {
                *all.entry(part).or_default() += count;
            }
            all
        });
    let top = counts
        .into_iter()
        .max_by_key(|&(part, count)| (count, std::cmp::Reverse(part)));
    top.unwrap_or_default()
}

fn first_sentence(text: &str) -> &str {
    text.find(['.', '!', '?', ':'])
        .map_or(text, |at| &text[..=at])
}

fn last_sentence(text: &str) -> Option<&str> {
    sentences(text)
        .split_last()
        .filter(|(_, before)| !before.is_empty())
        .map(|(last, _)| *last)
}

// Distinct runs of one, two and three words among all runs of that length. A hash of 64 bits stands
// for a run.
fn distinct_runs(examples: &[Example]) -> [f64; 3] {
    /// Examples whose words are hashed at a time, so that never all of them are in memory.
    const BLOCK: usize = 1 << 14;
    let mut counted: [(HashedSet, usize); 3] = Default::default();
    for block in examples.chunks(BLOCK) {
        let turns = block.par_iter().flat_map_iter(Example::turns);
        let words: Vec<Vec<u64>> = turns
            .map(|turn| {
                turn.split_whitespace()
                    .map(|word| hash(word.as_bytes()))
                    .collect()
            })
            .collect();
        let by_length = counted.par_iter_mut().with_max_len(1).enumerate();
        by_length.for_each(|(more, (seen, all))| {
            for run in words.iter().flat_map(|turn| turn.windows(more + 1)) {
                *all += 1;
                seen.insert(run.iter().fold(17u64, |sum, word| {
                    (sum.rotate_left(7) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15)
                }));
            }
        });
    }
    counted.map(|(seen, all)| seen.len() as f64 / all.max(1) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phrases_are_counted_and_ties_broken_by_the_alphabet() {
        let texts = ["Ja. Gut.", "Nein. Gut.", "Nein. Doch.", "Ja. Doch."];
        assert_eq!(
            most_frequent(&texts, |text| Some(first_sentence(text))),
            ("Ja.", 2)
        );
        assert_eq!(most_frequent(&texts, last_sentence), ("Doch.", 2));
        assert_eq!(most_frequent(&["Allein."], last_sentence), ("", 0));
    }

    #[test]
    fn texts_that_differ_in_case_and_punctuation_count_once() {
        assert_eq!(distinct(&["Wo?", "wo", "Wo ist das?", "WO !"]), 2);
    }
}
