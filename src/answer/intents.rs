//! Which side of a service a question asks for: what it costs, by when, where. A naive Bayes classifier over the knowledge base's
//! own questions, counted by their words, beginnings of words and pairs of words.

use crate::dataset::techniques::multi_turn::referring;
use crate::knowledge::{Intent, Knowledge, fold};
use std::collections::HashMap;

const SMOOTHING: f32 = 0.4;
/// A pattern that asks for one thing and names no service says it more purely than a citizen's question: it counts as so many.
const PATTERN_WEIGHT: f32 = 4.0;

/// The classifier.
pub(super) struct IntentModel {
    counts: HashMap<String, [f32; Intent::ALL.len()]>,
    totals: [f32; Intent::ALL.len()],
}

impl IntentModel {
    pub(super) fn new(knowledge: &Knowledge) -> IntentModel {
        let mut model = IntentModel {
            counts: HashMap::new(),
            totals: [0.0; Intent::ALL.len()],
        };
        let services = knowledge.offices.iter().flat_map(|office| &office.services);
        for (intent, fact) in services.flat_map(|service| &service.facts) {
            for question in &fact.questions {
                model.add(question, *intent, 1.0);
            }
        }
        for intent in Intent::ALL {
            for pattern in referring(intent) {
                model.add(pattern.text, intent, PATTERN_WEIGHT);
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

    /// The logarithm of each intent's share, by [`Intent`] as a number. `core`: the folded question.
    pub(super) fn scores(&self, core: &str) -> [f32; Intent::ALL.len()] {
        let mut logs = [0.0f32; Intent::ALL.len()];
        let vocabulary = self.counts.len() as f32;
        let features = features(core);
        for feature in &features {
            let Some(counts) = self.counts.get(feature) else {
                continue;
            };
            for (log, (count, total)) in logs.iter_mut().zip(counts.iter().zip(&self.totals)) {
                *log += ((count + SMOOTHING) / (total + SMOOTHING * vocabulary)).ln();
            }
        }
        // Features overlap, so their evidence is not independent: it is damped.
        let damping = 0.45;
        let highest = logs.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f32 = logs
            .iter()
            .map(|log| ((log - highest) * damping).exp())
            .sum();
        logs.map(|log| (log - highest) * damping - sum.ln())
    }
}

fn features(core: &str) -> Vec<String> {
    let words: Vec<&str> = core.split(' ').filter(|word| !word.is_empty()).collect();
    let mut found = Vec::with_capacity(words.len() * 3);
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
