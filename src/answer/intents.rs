//! Which side of a service a question asks for: what it costs, by when, where.
//!
//! Two opinions are joined: a naive Bayes classifier over the questions of the whole knowledge base
//! (how people ask for a fee), and how much the question shares with each fact of its service (what
//! is said about the passport photo stands under documents).

use super::retrieval::features_of;
use crate::german::fold;
use crate::knowledge::{Intent, Knowledge, Service};
use crate::wording::referring::referring;
use std::collections::{HashMap, HashSet};

const SMOOTHING: f32 = 0.6;
/// Features overlap, so their evidence is not independent: it is damped.
const DAMPING: f32 = 0.5;
/// A pattern that asks for one thing and names no service says it more purely than a citizen's
/// question: it counts as so many.
const PATTERN_WEIGHT: f32 = 4.0;
/// Weight of what a question shares with a fact, beside the classifier's logarithm.
const SHARED: f32 = 6.0;

/// Number of intents.
const COUNT: usize = Intent::ALL.len();

/// The classifier.
pub(super) struct IntentModel {
    counts: HashMap<String, [f32; COUNT]>,
    totals: [f32; COUNT],
    /// Questions that name nothing and refer back, folded.
    referring: HashSet<String>,
}

impl IntentModel {
    pub(super) fn new(knowledge: &Knowledge) -> IntentModel {
        let mut model = IntentModel {
            counts: HashMap::new(),
            totals: [0.0; COUNT],
            referring: HashSet::new(),
        };
        let services = knowledge.offices.iter().flat_map(|office| &office.services);
        for (intent, fact) in services.flat_map(|service| &service.facts) {
            for question in &fact.questions {
                model.add(question, *intent, 1.0);
            }
        }
        let own = knowledge.phrasings.iter();
        for phrasing in own.flat_map(|file| file.services.values().flatten()) {
            if let Some(intent) = phrasing.intent {
                model.add(&phrasing.text, intent, 1.0);
            }
        }
        for intent in Intent::ALL {
            for pattern in referring(intent) {
                model.add(pattern.text, intent, PATTERN_WEIGHT);
                model.referring.insert(fold(pattern.text));
            }
        }
        model
    }

    fn add(&mut self, question: &str, intent: Intent, weight: f32) {
        for feature in features(&fold(question)) {
            self.counts.entry(feature).or_default()[intent as usize] += weight;
            self.totals[intent as usize] += weight;
        }
    }

    /// Whether a folded question is one that names nothing and refers back.
    pub(super) fn only_refers(&self, core: &str) -> bool {
        let bare = core.strip_prefix("und ").unwrap_or(core);
        self.referring.contains(bare)
    }

    /// The facts that a service has, those first that the folded question most likely asks for,
    /// with their scores.
    pub(super) fn rank(&self, core: &str, service: &Service) -> Vec<(Intent, f32)> {
        let logs = self.logarithms(core);
        let mut ranked: Vec<(Intent, f32)> = shared(core, service)
            .into_iter()
            .map(|(intent, shared)| (intent, logs[intent as usize] + SHARED * shared))
            .collect();
        ranked.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        ranked
    }

    /// The logarithm of each intent's share, by [`Intent`] as a number.
    fn logarithms(&self, core: &str) -> [f32; COUNT] {
        let mut logs = [0.0f32; COUNT];
        let vocabulary = self.counts.len() as f32;
        for feature in &features(core) {
            let Some(counts) = self.counts.get(feature) else {
                continue;
            };
            for (log, (count, total)) in logs.iter_mut().zip(counts.iter().zip(&self.totals)) {
                *log += ((count + SMOOTHING) / (total + SMOOTHING * vocabulary)).ln();
            }
        }
        let highest = logs.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let logs = logs.map(|log| (log - highest) * DAMPING);
        let sum: f32 = logs.iter().map(|log| log.exp()).sum();
        logs.map(|log| log - sum.ln())
    }
}

/// What a question shares with each fact of a service: its texts and its questions. What all facts
/// hold counts for nothing.
fn shared(core: &str, service: &Service) -> Vec<(Intent, f32)> {
    let asked = features_of(core);
    let facts: Vec<(Intent, HashMap<u64, f32>)> = service
        .facts
        .iter()
        .map(|(intent, fact)| {
            let mut sums: HashMap<u64, f32> = HashMap::new();
            let texts = [&fact.text, &fact.short]
                .into_iter()
                .chain(&fact.documents)
                .chain(&fact.questions);
            for (hash, weight) in texts.flat_map(|text| features_of(text)) {
                *sums.entry(hash).or_default() += weight;
            }
            (*intent, sums)
        })
        .collect();
    let spread = |hash: &u64| {
        facts
            .iter()
            .filter(|(_, sums)| sums.contains_key(hash))
            .count()
    };
    let rarity: Vec<f32> = asked
        .iter()
        .map(|(hash, _)| ((facts.len() as f32 + 1.0) / (spread(hash) as f32 + 0.5)).ln())
        .collect();
    facts
        .iter()
        .map(|(intent, sums)| {
            let common = asked
                .iter()
                .zip(&rarity)
                .filter_map(|((hash, weight), rarity)| {
                    sums.get(hash).map(|sum| weight * rarity * (1.0 + sum).ln())
                });
            // Sums of squares in the order of their size, so that a hash table's order does not
            // show.
            let mut squares: Vec<f32> = sums.values().map(|sum| (1.0 + sum).ln().powi(2)).collect();
            squares.sort_unstable_by(f32::total_cmp);
            let length = squares.iter().sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
            (*intent, common.sum::<f32>() / length)
        })
        .collect()
}

fn features(core: &str) -> Vec<String> {
    let words: Vec<&str> = core.split(' ').filter(|word| !word.is_empty()).collect();
    let mut found = Vec::with_capacity(words.len() * 3 + 1);
    for word in &words {
        found.push((*word).to_string());
        if word.len() >= 6 && word.is_char_boundary(5) {
            found.push(format!("{}*", &word[..5]));
        }
    }
    for pair in words.windows(2) {
        found.push(format!("{} {}", pair[0], pair[1]));
    }
    if let [first, ..] = words[..] {
        found.push(format!("^{first}"));
    }
    found.sort_unstable();
    found.dedup();
    found
}
