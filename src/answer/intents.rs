//! Which side of a service a question asks for: what it costs, by when, where.
//!
//! A linear classifier over words, pieces, pairs and triples of words. Each word and piece counts
//! twice: in general (`was kostet` asks for the fee of anything), and together with the service (a
//! photo is a document where a passport is wanted). Its examples are the citizens' own words and
//! the questions and answers of the knowledge base.

use super::classifier::{Classifier, Sample};
use super::retrieval::{Features, hash};
use crate::german::fold;
use crate::knowledge::{Intent, Knowledge, Service};
use crate::wording::referring::referring;
use std::collections::HashSet;

/// Number of intents. The classifier has one more class, for wishes that ask for nothing special.
const COUNT: usize = Intent::ALL.len();
/// Changes with everything that changes what is learned from the same knowledge base.
const VERSION: &str = "intents 1";

/// The classifier.
pub(super) struct IntentModel {
    classifier: Classifier,
    /// Questions that name nothing and refer back, folded.
    referring: HashSet<String>,
}

/// How far a question is on the side of each fact that a service has.
pub(super) struct Ranked {
    /// The facts with their margins, the likeliest first.
    pub intents: Vec<(Intent, f32)>,
    /// The margin of a wish that asks for nothing special.
    pub general: f32,
}

impl IntentModel {
    pub(super) fn new(knowledge: &Knowledge) -> IntentModel {
        let patterns = Intent::ALL.into_iter().flat_map(referring);
        let referring = patterns.map(|pattern| fold(pattern.text)).collect();
        let samples = samples(knowledge);
        IntentModel {
            classifier: Classifier::learned(VERSION, &samples, COUNT + 1, features),
            referring,
        }
    }

    /// Whether a folded question is one that names nothing and refers back.
    pub(super) fn only_refers(&self, core: &str) -> bool {
        let bare = core.strip_prefix("und ").unwrap_or(core);
        self.referring.contains(bare)
    }

    /// The facts that a service has, those first that the folded question most likely asks for.
    pub(super) fn rank(&self, core: &str, service: &Service) -> Ranked {
        let margins = self.classifier.margins(&features(&service.id, core));
        let facts = service.facts.keys();
        let mut intents: Vec<(Intent, f32)> = facts
            .map(|&intent| (intent, margins[intent as usize]))
            .collect();
        intents.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        Ranked {
            intents,
            general: margins[COUNT],
        }
    }
}

/// Questions, with the service that they are about, by intent.
fn samples(knowledge: &Knowledge) -> Vec<Sample<'_>> {
    let mut samples = Vec::new();
    let mut add = |about, text: &str, class| {
        samples.push(Sample {
            about,
            text: fold(text),
            class,
        });
    };
    let services = knowledge.offices.iter().flat_map(|office| &office.services);
    for service in services {
        for (&intent, fact) in &service.facts {
            let said = [&fact.text, &fact.short].into_iter();
            for text in said.chain(&fact.documents).chain(&fact.questions) {
                add(service.id.as_str(), text, intent as usize);
            }
        }
    }
    let own = knowledge.phrasings.iter().flat_map(|file| &file.services);
    for (id, phrasings) in own {
        for phrasing in phrasings {
            let class = phrasing.intent.map_or(COUNT, |intent| intent as usize);
            add(id, &phrasing.text, class);
        }
    }
    for intent in Intent::ALL {
        for pattern in referring(intent) {
            add("", pattern.text, intent as usize);
        }
    }
    samples
}

/// Kinds of features, and their weights.
const WORD: (u8, f32) = (11, 1.0);
const FOUR_LETTERS: (u8, f32) = (12, 0.5);
const FIVE_LETTERS: (u8, f32) = (13, 0.5);
const PAIR: (u8, f32) = (14, 0.7);
const TRIPLE: (u8, f32) = (15, 0.5);
/// Two words with another one between them.
const APART: (u8, f32) = (16, 0.4);
/// What begins a kind's features together with their service.
const OF_SERVICE: u8 = 17;

/// What the classifier looks at in a folded text about a service (its id, or nothing).
fn features(about: &str, core: &str) -> Features {
    let mut found = Features::new();
    let mut add = |(kind, weight): (u8, f32), text: &[u8]| {
        let general = hash(kind, text);
        found.push((general, weight));
        if !about.is_empty() && matches!(kind, 11..=13) {
            let both = [about.as_bytes(), &general.to_le_bytes()].concat();
            found.push((hash(OF_SERVICE, &both), weight));
        }
    };
    let words = core.split(' ').filter(|word| !word.is_empty());
    let words: Vec<&str> = ["^"].into_iter().chain(words).chain(["$"]).collect();
    for word in &words[1..words.len() - 1] {
        add(WORD, word.as_bytes());
        let padded = [b" ", word.as_bytes(), b" "].concat();
        padded.windows(4).for_each(|piece| add(FOUR_LETTERS, piece));
        padded.windows(5).for_each(|piece| add(FIVE_LETTERS, piece));
    }
    for pair in words.windows(2) {
        add(PAIR, pair.join(" ").as_bytes());
    }
    for triple in words.windows(3) {
        add(TRIPLE, triple.join(" ").as_bytes());
        add(APART, [triple[0], triple[2]].join(" ").as_bytes());
    }
    found.sort_unstable_by_key(|&(hash, _)| hash);
    found.dedup_by_key(|&mut (hash, _)| hash);
    found
}
