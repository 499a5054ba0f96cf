//! How likely each topic is meant: the search's scores and the classifier's margins, joined and
//! calibrated.

use super::classifier::{Classifier, Sample, features};
use super::retrieval::{Document, Index};
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
    /// That topic.
    pub nearest_topic: usize,
}

impl Topics {
    pub fn new(knowledge: &Knowledge, topics: &[Topic], documents: &[Document]) -> Topics {
        let samples = samples(knowledge, topics, documents);
        let features = |_: &str, text: &str| features(text);
        Topics {
            index: Index::new(documents, topics.len()),
            classifier: Classifier::learned(VERSION, &samples, topics.len() + 1, features),
        }
    }

    /// Scores of a folded question.
    pub fn scores(&self, core: &str) -> Scores {
        let near = self.index.search(core);
        let margins = self.classifier.margins(&features(core));
        let joined = near.iter().zip(&margins);
        let nearest = near.iter().copied().enumerate();
        let nearest = nearest.max_by(|a, b| a.1.total_cmp(&b.1));
        let (nearest_topic, nearest) = nearest.unwrap_or_default();
        Scores {
            logits: joined
                .map(|(near, margin)| SHARPNESS * (SEARCH * near + margin))
                .collect(),
            nearest,
            nearest_topic,
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

/// Texts with the topics that they belong to.
fn samples(
    knowledge: &Knowledge,
    topics: &[Topic],
    documents: &[Document],
) -> Vec<Sample<'static>> {
    let sample = |class, text: &str| Sample {
        about: "",
        text: fold(text),
        class,
    };
    let of_id = |id: &str| {
        topics.iter().position(|topic| match *topic {
            Topic::Service(office, service) => {
                knowledge.offices[office].services[service].id.as_str() == id
            }
            Topic::Foreign(request) => knowledge.out_of_remit.requests[request].id.as_str() == id,
        })
    };
    let asked = documents.iter().filter(|document| document.is_near);
    let asked = asked.map(|document| sample(document.topic, &document.text));
    let own = knowledge.phrasings.iter().flat_map(|file| file.texts());
    let own = own.filter_map(|(id, text)| {
        let class = if id.is_empty() {
            Some(topics.len())
        } else {
            of_id(id)
        };
        Some(sample(class?, text))
    });
    asked.chain(own).collect()
}
