//! Finding what a question is about: a search over everything the knowledge base lets people ask.
//!
//! Each question, title, alias is a document of its topic (a service, or a request that belongs elsewhere). Texts are compared by
//! words, beginnings of words and four-letter pieces of words, so that endings, compounds and slips of the keyboard cost little.
//! A feature weighs the more, the fewer topics hold it. A topic's score joins its nearest document with its documents as a whole.

use crate::knowledge::{Intent, fold};
use std::collections::HashMap;

/// Weights of the kinds of features.
const WORD: f32 = 1.0;
const BEGINNING: f32 = 0.7;
const PIECE: f32 = 0.33;
const PAIR: f32 = 0.45;

/// Share of the nearest document, of the mean of the three nearest, and of the topic as a whole in a topic's score.
const NEAREST: f32 = 0.45;
const THREE: f32 = 0.15;
const WHOLE: f32 = 0.4;

/// One text that belongs to a topic.
pub(super) struct Document {
    /// Number of the topic.
    pub topic: usize,
    /// The side of the service that it asks for.
    pub intent: Option<Intent>,
    /// The text.
    pub text: String,
    /// Whether a question can be near to it; the others only add to the topic as a whole.
    pub is_question: bool,
    /// How much it adds to the topic as a whole.
    pub weight: f32,
}

/// The search index.
pub(super) struct Index {
    features: HashMap<u64, u32>,
    /// Rarity of each feature over topics.
    rarity: Vec<f32>,
    /// For each feature: the questions that hold it, with the feature's share in them.
    questions: Vec<Vec<(u32, f32)>>,
    /// For each feature: the topics that hold it, with the feature's share in them.
    topics: Vec<Vec<(u32, f32)>>,
    /// Topic and intent of each question.
    labels: Vec<(u32, Option<Intent>)>,
    topic_count: usize,
}

/// How near a text is to everything.
pub(super) struct Scores {
    /// By topic, 0 to about 1.
    pub topics: Vec<f32>,
    /// By topic and intent: the nearest question, as a cosine.
    pub intents: HashMap<(usize, Intent), f32>,
    /// How much of the text's weight is known at all, 0 to 1.
    pub known: f32,
    /// Sum of the rarities of the text's words: small where it holds nothing but everyday words.
    pub substance: f32,
}

impl Index {
    /// Builds the index over documents of `topic_count` topics.
    pub(super) fn new(documents: &[Document], topic_count: usize) -> Index {
        let mut features: HashMap<u64, u32> = HashMap::new();
        let vectors: Vec<Vec<(u32, f32)>> = documents
            .iter()
            .map(|document| {
                features_of(&document.text)
                    .into_iter()
                    .map(|(hash, weight)| {
                        let next = features.len() as u32;
                        (*features.entry(hash).or_insert(next), weight)
                    })
                    .collect()
            })
            .collect();
        let mut wholes: Vec<HashMap<u32, f32>> = vec![HashMap::new(); topic_count];
        for (document, vector) in documents.iter().zip(&vectors) {
            let whole = &mut wholes[document.topic];
            for &(feature, weight) in vector {
                *whole.entry(feature).or_default() += weight * document.weight;
            }
        }
        let mut spread = vec![0u32; features.len()];
        for whole in &wholes {
            whole
                .keys()
                .for_each(|&feature| spread[feature as usize] += 1);
        }
        let rarity: Vec<f32> = spread
            .iter()
            .map(|&topics| {
                ((topic_count as f32 + 1.0) / (topics as f32 + 0.5))
                    .ln()
                    .max(0.0)
            })
            .collect();
        let mut index = Index {
            questions: vec![Vec::new(); features.len()],
            topics: vec![Vec::new(); features.len()],
            features,
            rarity,
            labels: Vec::new(),
            topic_count,
        };
        for (document, vector) in documents.iter().zip(&vectors) {
            if !document.is_question {
                continue;
            }
            let number = index.labels.len() as u32;
            index.labels.push((document.topic as u32, document.intent));
            let shares = index.shares(vector.iter().copied());
            for (feature, share) in shares {
                index.questions[feature as usize].push((number, share));
            }
        }
        for (topic, whole) in wholes.into_iter().enumerate() {
            let mut damped: Vec<(u32, f32)> = whole
                .into_iter()
                .map(|(feature, sum)| (feature, (1.0 + sum).ln()))
                .collect();
            damped.sort_unstable_by_key(|&(feature, _)| feature);
            for (feature, share) in index.shares(damped.into_iter()) {
                index.topics[feature as usize].push((topic as u32, share));
            }
        }
        index
    }

    /// Weights times rarity, at unit length.
    fn shares(&self, vector: impl Iterator<Item = (u32, f32)>) -> Vec<(u32, f32)> {
        let mut shares: Vec<(u32, f32)> = vector
            .map(|(feature, weight)| (feature, weight * self.rarity[feature as usize]))
            .collect();
        let length = shares
            .iter()
            .map(|(_, share)| share * share)
            .sum::<f32>()
            .sqrt();
        if length > 0.0 {
            shares.iter_mut().for_each(|(_, share)| *share /= length);
        }
        shares
    }

    /// Compares a text with everything.
    pub(super) fn search(&self, text: &str) -> Scores {
        let mut known = Vec::new();
        let (mut weight_known, mut weight_all, mut substance) = (0.0, 0.0, 0.0);
        // What nothing holds is as rare as can be.
        let rarest = (2.0 * self.topic_count as f32 + 2.0).ln();
        let mut square = 0.0;
        for (hash, weight) in features_of(text) {
            match self.features.get(&hash) {
                Some(&feature) => {
                    let rarity = self.rarity[feature as usize];
                    known.push((feature, weight * rarity));
                    weight_known += weight * rarity;
                    weight_all += weight * rarity;
                    square += (weight * rarity).powi(2);
                    if weight == WORD {
                        substance += (rarity - 1.5).max(0.0);
                    }
                }
                None => {
                    weight_all += weight * rarest;
                    // An unknown piece says less than a known one: half its weight, so that a slip does not drown the rest.
                    square += (0.5 * weight * rarest).powi(2);
                }
            }
        }
        let length = square.sqrt().max(f32::MIN_POSITIVE);
        let mut near = vec![0.0f32; self.labels.len()];
        let mut wholes = vec![0.0f32; self.topic_count];
        for (feature, share) in known {
            let share = share / length;
            for &(question, other) in &self.questions[feature as usize] {
                near[question as usize] += share * other;
            }
            for &(topic, other) in &self.topics[feature as usize] {
                wholes[topic as usize] += share * other;
            }
        }
        let mut best = vec![[0.0f32; 3]; self.topic_count];
        let mut intents: HashMap<(usize, Intent), f32> = HashMap::new();
        for (&(topic, intent), &cosine) in self.labels.iter().zip(&near) {
            let topic = topic as usize;
            let three = &mut best[topic];
            if cosine > three[2] {
                three[2] = cosine;
                three.sort_unstable_by(|a, b| b.total_cmp(a));
            }
            if let Some(intent) = intent {
                let nearest = intents.entry((topic, intent)).or_default();
                *nearest = nearest.max(cosine);
            }
        }
        let topics = best
            .iter()
            .zip(&wholes)
            .map(|(three, whole)| {
                NEAREST * three[0] + THREE * three.iter().sum::<f32>() / 3.0 + WHOLE * whole
            })
            .collect();
        Scores {
            topics,
            intents,
            known: if weight_all > 0.0 {
                weight_known / weight_all
            } else {
                0.0
            },
            substance,
        }
    }
}

/// Hashed features of a text with their weights; none stands twice.
fn features_of(text: &str) -> Vec<(u64, f32)> {
    let folded = fold(text);
    let words: Vec<&str> = folded.split(' ').filter(|word| !word.is_empty()).collect();
    let mut found: Vec<(u64, f32)> = Vec::with_capacity(folded.len());
    for word in &words {
        found.push((hash(1, word.as_bytes()), WORD));
        let letters = word.as_bytes();
        if letters.len() >= 5 {
            found.push((hash(2, &letters[..5]), BEGINNING));
        }
        if letters.len() >= 4 {
            let padded: Vec<u8> = [b" ", letters, b" "].concat();
            found.extend(padded.windows(4).map(|piece| (hash(3, piece), PIECE)));
        }
    }
    for pair in words.windows(2) {
        let joined = [pair[0].as_bytes(), b" ", pair[1].as_bytes()].concat();
        found.push((hash(4, &joined), PAIR));
    }
    found.sort_unstable_by_key(|&(hash, _)| hash);
    found.dedup_by_key(|&mut (hash, _)| hash);
    found
}

/// FNV-1a, with the kind of the feature as its first byte.
fn hash(kind: u8, bytes: &[u8]) -> u64 {
    std::iter::once(&kind)
        .chain(bytes)
        .fold(0xcbf2_9ce4_8422_2325, |sum, &byte| {
            (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        })
}
