//! Danger in words that no rule foresaw: a linear classifier, learned from `fragen/gefahr.toml` and
//! from everything that citizens ask without being in danger.

use super::rules;
use super::words::kinds;
use crate::answer::classifier::{Classifier, Sample};
use crate::answer::retrieval::{Features, hash};
use crate::german::{fold, sentences};
use crate::knowledge::Knowledge;
use crate::knowledge::dangers::DANGERS;

/// The class of what is no danger, behind those of [`DANGERS`].
const HARMLESS: usize = DANGERS.len();
/// From this margin against [`HARMLESS`] on somebody may be in danger. Of lines by a hand that the
/// classifier had not seen, 77 in 100 dangers are found at it and 4 in 100 of what only sounds so.
const THRESHOLD: f32 = -0.1;
/// Texts of more words are also read sentence by sentence: one of them may say it.
const LONG: usize = 30;
/// How often the file's own lines are shown for one of all the others: what only sounds like danger
/// is rare among what citizens ask.
const SHOWN: usize = 5;
/// Changes with everything that changes what is learned from the same knowledge base.
const VERSION: &str = "danger 3";

/// The classifier.
pub(super) struct Model(Classifier);

impl Model {
    /// Learns. `None` where the knowledge base has no `fragen/gefahr.toml`.
    pub(super) fn new(knowledge: &Knowledge) -> Option<Model> {
        let samples = samples(knowledge);
        let learned =
            |samples: &Vec<_>| Classifier::learned(VERSION, samples, HARMLESS + 1, features);
        (!samples.is_empty()).then(|| Model(learned(&samples)))
    }

    /// The danger that somebody may be in who says this.
    pub(super) fn danger(&self, question: &str) -> Option<&'static str> {
        let whole = fold(question);
        let found = self.danger_in(&whole);
        if found.is_some() || whole.split(' ').count() <= LONG {
            return found;
        }
        let mut parts = sentences(question).into_iter();
        parts.find_map(|part| self.danger_in(&fold(part)))
    }

    fn danger_in(&self, folded: &str) -> Option<&'static str> {
        let margins = self.0.margins(&features("", folded));
        let (harmless, dangers) = margins.split_last()?;
        let dangers = dangers.iter().copied().enumerate();
        let (kind, _) = dangers.max_by(|a, b| a.1.total_cmp(&b.1))?;
        (-harmless > THRESHOLD).then(|| DANGERS[kind])
    }
}

/// What is danger, by its kind, and what is none.
fn samples(knowledge: &Knowledge) -> Vec<Sample<'static>> {
    let mut samples = Vec::new();
    let mut add = |text: &str, class, times| {
        samples.extend((0..times).map(|_| Sample {
            about: "",
            text: fold(text),
            class,
        }));
    };
    let class_of = |id: &str| DANGERS.iter().position(|danger| *danger == id);
    let files = &knowledge.phrasings;
    if files.iter().all(|file| file.dangers.is_empty()) {
        return samples;
    }
    for file in files {
        for (id, texts) in &file.dangers {
            if let Some(class) = class_of(id) {
                texts.iter().for_each(|text| add(text, class, SHOWN));
            }
        }
        file.harmless
            .iter()
            .for_each(|text| add(text, HARMLESS, SHOWN));
        for (id, text) in file.texts() {
            match class_of(id) {
                Some(class) => add(text, class, 1),
                // Who asks how to report a child in need may be told whom to call.
                None if rules::sign(&fold(text)).is_none() => add(text, HARMLESS, 1),
                None => {}
            }
        }
    }
    let requests = &knowledge.out_of_remit.requests;
    for request in requests {
        if let Some(class) = class_of(&request.id) {
            request
                .questions
                .iter()
                .for_each(|text| add(text, class, 1));
        }
    }
    samples
}

/// Kinds of features, and their weights.
const WORD: (u8, f32) = (21, 1.0);
const THREE_LETTERS: (u8, f32) = (22, 0.5);
const FOUR_LETTERS: (u8, f32) = (23, 0.5);
const FIVE_LETTERS: (u8, f32) = (24, 0.5);
const PAIR: (u8, f32) = (25, 0.7);
const TRIPLE: (u8, f32) = (26, 0.5);
/// Two words with another one between them.
const APART: (u8, f32) = (27, 0.5);
/// A kind of words, two kinds that follow each other, and two that stand in one text.
const KIND: (u8, f32) = (28, 0.5);
const KIND_PAIR: (u8, f32) = (29, 0.5);
const KINDS_TOGETHER: (u8, f32) = (30, 0.5);
/// A rule that fits, and that any does.
const RULE_FITS: (u8, f32) = (31, 1.0);

/// What the classifier looks at in a folded text.
fn features(_: &str, folded: &str) -> Features {
    let mut found = Features::new();
    let mut add = |(kind, weight): (u8, f32), text: &[u8]| found.push((hash(kind, text), weight));
    let words = folded.split(' ').filter(|word| !word.is_empty());
    let words: Vec<&str> = ["^"].into_iter().chain(words).chain(["$"]).collect();
    for word in &words[1..words.len() - 1] {
        add(WORD, word.as_bytes());
        let padded = [b" ", word.as_bytes(), b" "].concat();
        for kind in [THREE_LETTERS, FOUR_LETTERS, FIVE_LETTERS] {
            let length = 3 + usize::from(kind.0 - THREE_LETTERS.0);
            padded.windows(length).for_each(|piece| add(kind, piece));
        }
    }
    for pair in words.windows(2) {
        add(PAIR, pair.join(" ").as_bytes());
    }
    for triple in words.windows(3) {
        add(TRIPLE, triple.join(" ").as_bytes());
        add(APART, [triple[0], triple[2]].join(" ").as_bytes());
    }
    let kinds: Vec<Vec<u8>> = words.iter().map(|word| kinds(word).collect()).collect();
    let mut all: Vec<u8> = kinds.iter().flatten().copied().collect();
    all.sort_unstable();
    all.dedup();
    for (number, &kind) in all.iter().enumerate() {
        add(KIND, &[kind]);
        for &other in &all[number + 1..] {
            add(KINDS_TOGETHER, &[kind, other]);
        }
    }
    let told: Vec<&Vec<u8>> = kinds.iter().filter(|kinds| !kinds.is_empty()).collect();
    for pair in told.windows(2) {
        for first in pair[0] {
            for second in pair[1] {
                add(KIND_PAIR, &[*first, *second]);
            }
        }
    }
    if let Some(request) = rules::sign(folded) {
        add(RULE_FITS, request.as_bytes());
        add(RULE_FITS, b"");
    }
    found.sort_unstable_by_key(|&(hash, _)| hash);
    found.dedup_by_key(|&mut (hash, _)| hash);
    found
}
