//! How likely each topic is meant: the search's scores and the classifier's margins, joined and
//! calibrated.

use rayon::prelude::*;
use std::path::PathBuf;

use super::classifier::{Classifier, Example, features};
use super::retrieval::{Document, Index};
use crate::files::{replace_file, sha256};
use crate::german::fold;
use crate::knowledge::Knowledge;

/// Share of the search's score beside the classifier's margin.
const SEARCH: f32 = 0.5;
/// Sharpness of the softmax over both: fitted on one in ten phrasings, of which the classifier had
/// not learned (mean log loss 1.43 nats over 205 topics; 1.5 at 5 and 1.46 at 8).
const SHARPNESS: f32 = 6.0;
/// Changes with everything that changes what the classifier learns from the same knowledge base.
const VERSION: &str = "understanding 1";

/// What can be asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Topic {
    /// Office and service by their places in the knowledge base.
    Service(usize, usize),
    /// A request that belongs elsewhere, by its place.
    Foreign(usize),
}

/// Search and classifier over the same topics; the classifier has one more class, for what fits
/// none.
pub(super) struct Topics {
    index: Index,
    classifier: Classifier,
}

/// What a question is about, as far as its words tell.
pub(super) struct Scores {
    /// Sharpened score of each topic; a softmax of it and of `nothing` is the probability.
    logits: Vec<f32>,
    nothing: f32,
    margins: Vec<f32>,
    /// The search's score of the best topic: how much of the question the knowledge base has word
    /// for word.
    pub nearest: f32,
}

impl Topics {
    pub fn new(knowledge: &Knowledge, topics: &[Topic], documents: &[Document]) -> Topics {
        Topics {
            index: Index::new(documents, topics.len()),
            classifier: classifier(knowledge, topics, documents),
        }
    }

    /// Scores of a folded question.
    pub fn scores(&self, core: &str) -> Scores {
        let near = self.index.search(core);
        let margins = self.classifier.margins(&features(core));
        let joined = near.iter().zip(&margins);
        Scores {
            logits: joined
                .map(|(near, margin)| SHARPNESS * (SEARCH * near + margin))
                .collect(),
            nearest: near.iter().copied().fold(0.0, f32::max),
            nothing: margins.last().map_or(f32::MIN, |margin| SHARPNESS * margin),
            margins,
        }
    }
}

impl Scores {
    /// How far the question is on the side of a topic other than this one, at the most.
    pub fn clearest_but(&self, topic: usize) -> f32 {
        let others = self.margins.iter().take(self.logits.len()).enumerate();
        let others = others.filter(|&(other, _)| other != topic);
        others.map(|(_, &margin)| margin).fold(f32::MIN, f32::max)
    }

    /// Raises a topic, as if its score were `by` higher.
    pub fn raise(&mut self, topic: usize, by: f32) {
        if let Some(logit) = self.logits.get_mut(topic) {
            *logit += SHARPNESS * by;
        }
    }

    /// Probability of each topic. What they leave to 1 is that none is meant.
    pub fn probabilities(&self) -> Vec<f32> {
        let highest = self.logits.iter().copied().fold(self.nothing, f32::max);
        let weights: Vec<f32> = self
            .logits
            .iter()
            .map(|logit| (logit - highest).exp())
            .collect();
        let sum: f32 = weights.iter().sum::<f32>() + (self.nothing - highest).exp();
        weights.into_iter().map(|weight| weight / sum).collect()
    }
}

/// The classifier of this knowledge base: from the user's cache, or learned now and put there.
/// Without a cache it is learned at each start, which takes seconds.
fn classifier(knowledge: &Knowledge, topics: &[Topic], documents: &[Document]) -> Classifier {
    let texts = texts(knowledge, topics, documents);
    let mut key = format!("{VERSION} {} {}", topics.len(), env!("CARGO_PKG_VERSION"));
    for (class, text) in &texts {
        key.push_str(&format!("\n{class} {text}"));
    }
    let path = cache_folder().map(|folder| folder.join(sha256(key.as_bytes())));
    let cached = path.as_ref().and_then(|path| std::fs::read(path).ok());
    if let Some(classifier) = cached.and_then(|bytes| Classifier::from_bytes(&bytes).ok())
        && classifier.classes() == topics.len() + 1
    {
        return classifier;
    }
    let examples: Vec<Example> = texts
        .par_iter()
        .map(|(class, text)| Example {
            features: features(text),
            class: *class,
        })
        .collect();
    let classifier = Classifier::train(&examples, topics.len() + 1);
    // A cache that cannot be written costs the next start some seconds, and this one nothing.
    if let Some(path) = path
        && let Some(folder) = path.parent()
        && std::fs::create_dir_all(folder).is_ok()
    {
        let _ = replace_file(&path, &classifier.to_bytes());
    }
    classifier
}

/// Folded texts with the classes that they belong to.
fn texts(knowledge: &Knowledge, topics: &[Topic], documents: &[Document]) -> Vec<(usize, String)> {
    let of_id = |id: &str| {
        topics.iter().position(|topic| match *topic {
            Topic::Service(office, service) => {
                knowledge.offices[office].services[service].id.as_str() == id
            }
            Topic::Foreign(request) => knowledge.out_of_remit.requests[request].id.as_str() == id,
        })
    };
    let asked = documents.iter().filter(|document| document.is_near);
    let asked = asked.map(|document| (document.topic, fold(&document.text)));
    let own = knowledge.phrasings.iter().flat_map(|file| file.texts());
    let own = own.filter_map(|(id, text)| {
        let class = if id.is_empty() {
            Some(topics.len())
        } else {
            of_id(id)
        };
        Some((class?, fold(text)))
    });
    asked.chain(own).collect()
}

fn cache_folder() -> Option<PathBuf> {
    let folder = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let cache = match folder("XDG_CACHE_HOME") {
        Some(cache) => PathBuf::from(cache),
        None => PathBuf::from(folder("HOME")?).join(".cache"),
    };
    Some(cache.join("muni-engine").join("understanding"))
}
