//! What the model may say about one topic: every sentence that the knowledge base and the training
//! set have for it, word by word.

use super::words::{key, words};
use super::{Assistant, Register};
use crate::german::sentences;
use crate::knowledge::{Fact, ForeignRequest, Intent, Office, Phrases, Service};
use crate::wording::answers::{addressed_documents, of_fact};
use crate::wording::courtesy::{around_answers, suiting};
use crate::wording::office_naming;
use crate::wording::references::{as_of, citations, month_of};
use std::collections::{BTreeSet, HashMap};

/// Where a sentence comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Origin {
    /// A fact of the service.
    Fact(Intent),
    /// Which office is responsible.
    Office,
    /// The answer to a request that belongs elsewhere, or to thanks: it stands alone.
    Whole,
    /// The legal source of a fact, or the day at which the facts were checked.
    Reference,
    /// Greetings, offers of help: nothing that could be wrong.
    Courtesy,
}

impl Origin {
    /// Whether an answer with such a sentence answers something.
    pub(super) fn is_content(self) -> bool {
        !matches!(self, Origin::Reference | Origin::Courtesy)
    }
}

/// A sentence as the guard compares it.
pub(super) struct Sentence {
    /// Its words; see [`key`].
    pub words: Vec<String>,
    /// Where it comes from.
    pub origin: Origin,
}

/// Everything that may be said about one topic in one form of address.
pub(super) struct Wordings {
    /// The sentences.
    pub sentences: Vec<Sentence>,
    /// The sentences by their first word.
    by_first: HashMap<String, Vec<usize>>,
    /// The sentences of each fact with its documents and sources: where figures are looked up.
    pub facts: Vec<(Origin, Vec<Vec<String>>)>,
    /// The words of courtesy: a sentence of nothing else says nothing.
    pub courtesy: BTreeSet<String>,
}

impl Wordings {
    /// The sentences that begin with this word.
    pub(super) fn starting_with(&self, word: &str) -> &[usize] {
        self.by_first.get(word).map_or(&[], Vec::as_slice)
    }

    fn add(&mut self, text: &str, origin: Origin) {
        for sentence in sentences(text) {
            let words: Vec<String> = words(sentence).into_iter().map(|word| word.key).collect();
            let Some(first) = words.first() else { continue };
            if origin == Origin::Courtesy {
                self.courtesy.extend(words.iter().cloned());
            }
            let entry = self.by_first.entry(first.clone()).or_default();
            entry.push(self.sentences.len());
            self.sentences.push(Sentence { words, origin });
        }
    }

    fn new(phrases: &Phrases, register: Register) -> Wordings {
        let mut wordings = Wordings {
            sentences: Vec::new(),
            by_first: HashMap::new(),
            facts: Vec::new(),
            courtesy: BTreeSet::new(),
        };
        for list in around_answers(phrases) {
            for phrase in suiting(list, register) {
                wordings.add(phrase, Origin::Courtesy);
            }
        }
        wordings
    }

    fn add_service(
        &mut self,
        office: &Office,
        service: &Service,
        phrases: &Phrases,
        register: Register,
    ) {
        for (intent, fact) in &service.facts {
            let origin = Origin::Fact(*intent);
            for variant in of_fact(fact) {
                self.add(&variant.text, origin);
            }
            if let Some([sie, du]) = addressed_documents(fact) {
                self.add(if register == Register::Du { &du } else { &sie }, origin);
            }
            for source in citations(fact, phrases) {
                self.add(&source, Origin::Reference);
            }
            self.facts.push((origin, places(fact)));
        }
        if let Some(month) = month_of(service) {
            let sentences: Vec<String> = phrases
                .as_of
                .neutral
                .iter()
                .map(|phrase| as_of(phrase, &month))
                .collect();
            for sentence in &sentences {
                self.add(sentence, Origin::Reference);
            }
        }
        if office_naming::is_settled(office, service) {
            for answer in office_naming::answers(office, service) {
                self.add(&answer, Origin::Office);
            }
            let [sie, du] = office_naming::sending(office);
            self.add(
                if register == Register::Du { &du } else { &sie },
                Origin::Office,
            );
        }
    }

    fn add_foreign(&mut self, request: &ForeignRequest) {
        self.add(&request.answer, Origin::Whole);
        self.facts
            .push((Origin::Whole, vec![keys(&request.answer)]));
    }
}

impl Assistant {
    /// What may be said about a topic to somebody who is addressed like this.
    pub(super) fn wordings(&self, topic: usize, register: Register) -> Wordings {
        let phrases = &self.knowledge.phrases;
        let mut wordings = Wordings::new(phrases, register);
        if let Some((office, service)) = self.service_of(topic) {
            wordings.add_service(office, service, phrases, register);
        }
        if let Some(request) = self.foreign_of(topic) {
            wordings.add_foreign(request);
        }
        wordings
    }

    /// What may be said to somebody who thanks.
    pub(super) fn thanks(&self, register: Register) -> Wordings {
        let phrases = &self.knowledge.phrases;
        let mut wordings = Wordings::new(phrases, register);
        for phrase in suiting(&phrases.thanks_answer, register) {
            wordings.add(phrase, Origin::Whole);
        }
        wordings
    }
}

/// The sentences of a fact, its documents and its sources.
fn places(fact: &Fact) -> Vec<Vec<String>> {
    [&fact.text, &fact.short]
        .into_iter()
        .chain(&fact.documents)
        .chain(&fact.sources)
        .flat_map(|text| sentences(text))
        .map(keys)
        .collect()
}

pub(super) fn keys(text: &str) -> Vec<String> {
    text.split_whitespace()
        .map(key)
        .filter(|key| !key.is_empty())
        .collect()
}
