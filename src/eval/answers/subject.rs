//! Which service an answer speaks of: the one with the fact that its words are most like.
//! Independent of how the guard and the assistant find services, so that their mistakes show.

use crate::german::fold;
use crate::knowledge::{Knowledge, Service};
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

/// How much a service's names count beside the fact's text: facts of different services can have
/// nearly the same words and differ in the name. From 0.5 to 1 it makes no difference to what the
/// test below counts.
const NAMES: f64 = 0.7;

/// A text of the knowledge base.
struct Known<'a> {
    subject: Subject,
    text: &'a str,
    /// What the service is called; the place that a foreign request belongs to.
    names: String,
}

/// The texts of the knowledge base as weighted words.
pub struct Subjects {
    /// Weight of each word: the logarithm of how rare it is.
    weights: HashMap<String, f64>,
    /// What each is about, its text, and the names of what it is about.
    texts: Vec<(Subject, Words, Words)>,
}

/// A text's weighted words, of length 1.
type Words = HashMap<String, f64>;

impl Subjects {
    /// Of all facts and all answers to foreign requests.
    pub fn new(knowledge: &Knowledge) -> Subjects {
        let mut known = Vec::new();
        for service in knowledge.offices.iter().flat_map(|office| &office.services) {
            for fact in service.facts.values() {
                known.extend([&fact.text, &fact.short].map(|text| of_service(service, text)));
            }
        }
        known.extend(foreign(knowledge));
        Subjects::of(&known)
    }

    fn of(known: &[Known<'_>]) -> Subjects {
        let mut found_in: HashMap<String, usize> = HashMap::new();
        for known in known {
            for word in counted(known.text).into_keys() {
                *found_in.entry(word).or_default() += 1;
            }
            // Words that stand in names only are as rare as can be.
            for word in counted(&known.names).into_keys() {
                found_in.entry(word).or_insert(1);
            }
        }
        let all = known.len() as f64;
        let weights = found_in
            .into_iter()
            .map(|(word, count)| (word, (1.0 + all / count as f64).ln()))
            .collect();
        let mut subjects = Subjects {
            weights,
            texts: Vec::new(),
        };
        subjects.texts = known
            .iter()
            .map(|known| {
                let (text, names) = (subjects.words(known.text), subjects.words(&known.names));
                (known.subject.clone(), text, names)
            })
            .collect();
        subjects
    }

    /// What the answer speaks of; `None` if it is like nothing in the knowledge base.
    pub fn subject(&self, answer: &str) -> Option<&Subject> {
        // Sorted, so that sums are the same to the last bit every time.
        let mut words: Vec<(String, f64)> = self.words(answer).into_iter().collect();
        words.sort_by(|a, b| a.0.cmp(&b.0));
        let cosine = |text: &Words| -> f64 {
            words
                .iter()
                .filter_map(|(word, weight)| Some(weight * text.get(word)?))
                .sum()
        };
        let mut best: Option<(f64, &Subject)> = None;
        for (subject, text, names) in &self.texts {
            let like = cosine(text) + NAMES * cosine(names);
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
        let mut squares: Vec<f64> = words.values().map(|weight| weight * weight).collect();
        squares.sort_by(f64::total_cmp);
        let length = squares.iter().sum::<f64>().sqrt();
        if length > 0.0 {
            words.values_mut().for_each(|weight| *weight /= length);
        }
        words
    }
}

fn of_service<'a>(service: &'a Service, text: &'a str) -> Known<'a> {
    let mut names = format!("{} {}", service.title.as_str(), service.topic.as_str());
    for alias in &service.aliases {
        names.push(' ');
        names.push_str(alias);
    }
    Known {
        subject: Subject::Service(service.id.to_string()),
        text,
        names,
    }
}

fn foreign(knowledge: &Knowledge) -> impl Iterator<Item = Known<'_>> {
    let requests = knowledge.out_of_remit.requests.iter();
    requests.map(|request| Known {
        subject: Subject::Elsewhere,
        text: &request.answer,
        names: request.place.to_string(),
    })
}

/// How often each word stands in a text; small words say nothing, small figures do.
fn counted(text: &str) -> HashMap<String, usize> {
    let mut counts = HashMap::new();
    let says = |word: &&str| word.len() > 2 || word.starts_with(|c: char| c.is_ascii_digit());
    for word in fold(text).split(' ').filter(says) {
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
        let mut full: Vec<Known<'_>> = services()
            .flat_map(|service| {
                let facts = service.facts.values();
                facts.map(|fact| of_service(service, &fact.text))
            })
            .collect();
        full.extend(foreign(&knowledge));
        let subjects = Subjects::of(&full);
        let (mut right, mut all) = (0, 0);
        for service in services() {
            for fact in service.facts.values() {
                all += 1;
                let expected = Subject::Service(service.id.to_string());
                right += usize::from(subjects.subject(&fact.short) == Some(&expected));
            }
        }
        assert!(all > 900, "{all}");
        // 963 of 982 when this was written.
        assert!(right * 100 >= all * 97, "{right} of {all}");
    }

    #[test]
    fn answers_with_other_words_around_them_are_recognised() {
        let subjects = Subjects::new(&knowledge());
        let service = |id: &str| Subject::Service(id.to_string());
        for (answer, expected) in [
            (
                "Gern helfe ich Ihnen. Der Personalausweis kostet 46 Euro, wenn Sie 24 Jahre oder \
                 älter sind.",
                Some(service("ewo_personalausweis")),
            ),
            (
                "Hallo! Für einen Hund zahlst du die Hundesteuer, für den ersten Hund 96 Euro im \
                 Jahr.",
                Some(service("kas_hundesteuer")),
            ),
            (
                "Dafür ist das Finanzamt zuständig: Die Steuererklärung geht an das Finanzamt am \
                 Wohnort.",
                Some(Subject::Elsewhere),
            ),
            ("Lorem ipsum dolor sit amet.", None),
            ("", None),
        ] {
            assert_eq!(subjects.subject(answer), expected.as_ref(), "{answer}");
        }
    }
}
