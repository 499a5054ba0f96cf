//! Which service an answer speaks of: the one with the fact that its words are most like. Independent of how the guard and the
//! assistant find services, so that their mistakes show.

use crate::knowledge::{Knowledge, fold};
use std::collections::HashMap;

/// Below this cosine an answer is like no fact at all.
const LIKE_NOTHING: f64 = 0.2;

/// Letters of a word that count: what is behind them is mostly an ending.
const STEM: usize = 8;

/// What an answer speaks of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A service, by id.
    Service(String),
    /// It names a place outside of the offices, or otherwise turns the request down.
    Elsewhere,
}

/// The texts of the knowledge base as weighted words.
pub struct Subjects {
    /// Weight of each word: the logarithm of how rare it is.
    weights: HashMap<String, f64>,
    texts: Vec<(Subject, Words)>,
}

/// A text's weighted words, of length 1.
type Words = HashMap<String, f64>;

impl Subjects {
    /// Of all facts and all answers to foreign requests.
    pub fn new(knowledge: &Knowledge) -> Subjects {
        let mut texts = Vec::new();
        for service in knowledge.offices.iter().flat_map(|office| &office.services) {
            for fact in service.facts.values() {
                for text in [&fact.text, &fact.short] {
                    texts.push((Subject::Service(service.id.to_string()), text.as_str()));
                }
            }
        }
        for request in &knowledge.out_of_remit.requests {
            texts.push((Subject::Elsewhere, request.answer.as_str()));
        }
        Subjects::of(texts)
    }

    fn of(texts: Vec<(Subject, &str)>) -> Subjects {
        let mut found_in: HashMap<String, usize> = HashMap::new();
        for (_, text) in &texts {
            for word in counted(text).into_keys() {
                *found_in.entry(word).or_default() += 1;
            }
        }
        let all = texts.len() as f64;
        let weights = found_in
            .into_iter()
            .map(|(word, count)| (word, (1.0 + all / count as f64).ln()))
            .collect();
        let mut subjects = Subjects {
            weights,
            texts: Vec::new(),
        };
        subjects.texts = texts
            .into_iter()
            .map(|(subject, text)| (subject, subjects.words(text)))
            .collect();
        subjects
    }

    /// What the answer speaks of; `None` if it is like nothing in the knowledge base.
    pub fn subject(&self, answer: &str) -> Option<&Subject> {
        let words = self.words(answer);
        let likeness = |text: &Words| -> f64 {
            words
                .iter()
                .filter_map(|(word, weight)| Some(weight * text.get(word)?))
                .sum()
        };
        let mut best: Option<(f64, &Subject)> = None;
        for (subject, text) in &self.texts {
            let like = likeness(text);
            // The first of equals, so that the result does not depend on anything else.
            if like >= LIKE_NOTHING && best.is_none_or(|(most, _)| like > most) {
                best = Some((like, subject));
            }
        }
        best.map(|(_, subject)| subject)
    }

    fn words(&self, text: &str) -> Words {
        let mut words: Words = counted(text)
            .into_iter()
            .filter_map(|(word, count)| {
                let weight = self.weights.get(&word)? * (1.0 + (count as f64).ln());
                Some((word, weight))
            })
            .collect();
        // Summed in a fixed order, so that the last bit is always the same.
        let mut squares: Vec<f64> = words.values().map(|weight| weight * weight).collect();
        squares.sort_by(f64::total_cmp);
        let length = squares.iter().sum::<f64>().sqrt();
        if length > 0.0 {
            words.values_mut().for_each(|weight| *weight /= length);
        }
        words
    }
}

fn counted(text: &str) -> HashMap<String, usize> {
    let mut counts = HashMap::new();
    for word in fold(text).split(' ').filter(|word| word.len() > 2) {
        let stem: String = word.chars().take(STEM).collect();
        *counts.entry(stem).or_default() += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn knowledge() -> Knowledge {
        Knowledge::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("knowledge")).unwrap()
    }

    #[test]
    fn short_answers_are_found_by_the_full_ones() {
        // What was left out of the index: each fact's short answer against the full answers of all.
        let knowledge = knowledge();
        let services = || knowledge.offices.iter().flat_map(|office| &office.services);
        let mut full: Vec<(Subject, &str)> = services()
            .flat_map(|service| {
                let facts = service.facts.values();
                facts.map(|fact| (Subject::Service(service.id.to_string()), fact.text.as_str()))
            })
            .collect();
        for request in &knowledge.out_of_remit.requests {
            full.push((Subject::Elsewhere, request.answer.as_str()));
        }
        let subjects = Subjects::of(full);
        let (mut right, mut all) = (0, 0);
        for service in services() {
            for fact in service.facts.values() {
                all += 1;
                let expected = Subject::Service(service.id.to_string());
                right += usize::from(subjects.subject(&fact.short) == Some(&expected));
            }
        }
        assert!(all > 900, "{all}");
        // Measured: see the number in the message if this fails.
        assert!(right * 100 >= all * 97, "{right} of {all}");
    }

    #[test]
    fn answers_with_other_words_around_them_are_recognised() {
        let subjects = Subjects::new(&knowledge());
        let service = |id: &str| Subject::Service(id.to_string());
        for (answer, expected) in [
            (
                "Gern helfe ich Ihnen. Der Personalausweis kostet 46 Euro, wenn Sie 24 Jahre oder älter sind.",
                Some(service("ewo_personalausweis")),
            ),
            (
                "Hallo! Für einen Hund zahlst du die Hundesteuer, für den ersten Hund 96 Euro im Jahr.",
                Some(service("kas_hundesteuer")),
            ),
            (
                "Dafür ist das Finanzamt zuständig: Die Steuererklärung geht an das Finanzamt am Wohnort.",
                Some(Subject::Elsewhere),
            ),
            ("Lorem ipsum dolor sit amet.", None),
            ("", None),
        ] {
            assert_eq!(subjects.subject(answer), expected.as_ref(), "{answer}");
        }
    }
}
