//! Finding what a question is about: a search over everything the knowledge base lets people ask.
//!
//! Each question, title, alias is a document of its topic (a service, or a request that belongs
//! elsewhere). Texts are compared by words, beginnings of words and four-letter pieces of words, so
//! that endings, compounds and slips of the keyboard cost little. A feature weighs the more, the
//! fewer topics hold it. A topic's score joins its nearest documents with the topic as a whole, its
//! answers included. The weights were chosen on held-out questions; `docs/answering.md` says how
//! well it does.

use crate::german::fold;
use rayon::prelude::*;
use std::collections::HashMap;

/// Weights of the kinds of features.
const WORD: f32 = 1.0;
const BEGINNING: f32 = 0.9;
const PIECE: f32 = 0.5;
const PAIR: f32 = 0.3;

/// Share of the nearest document, of the mean of the three nearest, and of the topic as a whole in
/// a topic's score.
const NEAREST: f32 = 0.3;
const THREE: f32 = 0.3;
const WHOLE: f32 = 1.2;

/// Weight of what no document holds, beside the rarest of what they hold: a slip must not drown the
/// rest.
const UNHEARD: f32 = 0.5;

/// Hashed features of a text with their weights, sorted; none stands twice.
pub(super) type Features = Vec<(u64, f32)>;

/// One text that belongs to a topic.
pub(super) struct Document {
    /// Number of the topic.
    pub topic: usize,
    /// The text.
    pub text: String,
    /// Whether a question can be near to it; the others only add to the topic as a whole.
    pub is_near: bool,
    /// How much it adds to the topic as a whole.
    pub weight: f32,
}

/// The search index.
pub(super) struct Index {
    features: HashMap<u64, u32>,
    /// Rarity of each feature over topics.
    rarity: Vec<f32>,
    /// For each feature: the documents that hold it, with the feature's share in them.
    documents: Vec<Vec<(u32, f32)>>,
    /// For each feature: the topics that hold it, with the feature's share in them.
    topics: Vec<Vec<(u32, f32)>>,
    /// Topic of each document that a question can be near to.
    labels: Vec<u32>,
    topic_count: usize,
}

impl Index {
    /// Builds the index over documents of `topic_count` topics.
    pub(super) fn new(documents: &[Document], topic_count: usize) -> Index {
        let hashed: Vec<Vec<(u64, f32)>> = documents
            .par_iter()
            .map(|document| features_of(&document.text))
            .collect();
        let mut features: HashMap<u64, u32> = HashMap::with_capacity(100_000);
        let vectors: Vec<Vec<(u32, f32)>> = hashed
            .into_iter()
            .map(|vector| {
                let numbered = vector.into_iter().map(|(hash, weight)| {
                    let next = features.len() as u32;
                    (*features.entry(hash).or_insert(next), weight)
                });
                numbered.collect()
            })
            .collect();
        let mut members: Vec<Vec<usize>> = vec![Vec::new(); topic_count];
        for (number, document) in documents.iter().enumerate() {
            members[document.topic].push(number);
        }
        let wholes: Vec<Vec<(u32, f32)>> = members
            .par_iter()
            .map(|members| {
                let vectors = members.iter().map(|&number| {
                    let weight = documents[number].weight;
                    let vector = vectors[number].iter();
                    vector.map(move |&(feature, share)| (feature, share * weight))
                });
                summed(vectors.flatten().collect())
            })
            .collect();
        let mut spread = vec![0u32; features.len()];
        for whole in &wholes {
            whole
                .iter()
                .for_each(|&(feature, _)| spread[feature as usize] += 1);
        }
        let rarity = |&topics: &u32| {
            ((topic_count as f32 + 1.0) / (topics as f32 + 0.5))
                .ln()
                .max(0.0)
        };
        let mut index = Index {
            documents: vec![Vec::new(); features.len()],
            topics: vec![Vec::new(); features.len()],
            rarity: spread.iter().map(rarity).collect(),
            features,
            labels: Vec::new(),
            topic_count,
        };
        for (document, vector) in documents.iter().zip(&vectors) {
            if !document.is_near {
                continue;
            }
            let number = index.labels.len() as u32;
            index.labels.push(document.topic as u32);
            for (feature, share) in index.shares(vector.iter().copied()) {
                index.documents[feature as usize].push((number, share));
            }
        }
        for (topic, whole) in wholes.into_iter().enumerate() {
            let damped = whole
                .into_iter()
                .map(|(feature, sum)| (feature, (1.0 + sum).ln()));
            for (feature, share) in index.shares(damped) {
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
        let square: f32 = shares.iter().map(|(_, share)| share * share).sum();
        if square > 0.0 {
            let length = square.sqrt();
            shares.iter_mut().for_each(|(_, share)| *share /= length);
        }
        shares
    }

    /// How near a text is to each topic, 0 to about 1.5.
    pub(super) fn search(&self, text: &str) -> Vec<f32> {
        let rarest = (2.0 * self.topic_count as f32 + 2.0).ln();
        let mut known = Vec::new();
        let mut square = 0.0;
        for (hash, weight) in features_of(text) {
            match self.features.get(&hash) {
                Some(&feature) => {
                    let share = weight * self.rarity[feature as usize];
                    known.push((feature, share));
                    square += share * share;
                }
                None => square += (UNHEARD * weight * rarest).powi(2),
            }
        }
        let length = square.sqrt().max(f32::MIN_POSITIVE);
        let mut near = vec![0.0f32; self.labels.len()];
        let mut wholes = vec![0.0f32; self.topic_count];
        for (feature, share) in known {
            let share = share / length;
            for &(document, other) in &self.documents[feature as usize] {
                near[document as usize] += share * other;
            }
            for &(topic, other) in &self.topics[feature as usize] {
                wholes[topic as usize] += share * other;
            }
        }
        let mut nearest = vec![[0.0f32; 3]; self.topic_count];
        for (&topic, &cosine) in self.labels.iter().zip(&near) {
            let three = &mut nearest[topic as usize];
            if cosine > three[2] {
                three[2] = cosine;
                three.sort_unstable_by(|a, b| b.total_cmp(a));
            }
        }
        nearest
            .iter()
            .zip(&wholes)
            .map(|(three, whole)| {
                NEAREST * three[0] + THREE * three.iter().sum::<f32>() / 3.0 + WHOLE * whole
            })
            .collect()
    }
}

/// One entry per feature with the sum of its weights, in the order of the features.
fn summed(mut vector: Vec<(u32, f32)>) -> Vec<(u32, f32)> {
    // A stable sort: the order of a sum, and with it its rounding, is always the same.
    vector.sort_by_key(|&(feature, _)| feature);
    let mut sums: Vec<(u32, f32)> = Vec::with_capacity(vector.len());
    for (feature, weight) in vector {
        match sums.last_mut() {
            Some((last, sum)) if *last == feature => *sum += weight,
            _ => sums.push((feature, weight)),
        }
    }
    sums
}

/// Hashed features of a text.
pub(super) fn features_of(text: &str) -> Features {
    let folded = fold(text);
    let words: Vec<&str> = folded.split(' ').filter(|word| !word.is_empty()).collect();
    let mut found: Vec<(u64, f32)> = Vec::with_capacity(folded.len() + 2 * words.len());
    for word in &words {
        let letters = word.as_bytes();
        found.push((hash(1, letters), WORD));
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
pub(super) fn hash(kind: u8, bytes: &[u8]) -> u64 {
    std::iter::once(&kind)
        .chain(bytes)
        .fold(0xcbf2_9ce4_8422_2325, |sum, &byte| {
            (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index() -> Index {
        let texts = [
            (0, "Wo kann ich mich ummelden?"),
            (0, "Ummeldung der Wohnung"),
            (1, "Was kostet der Personalausweis?"),
            (1, "Personalausweis beantragen"),
            (2, "Hundesteuer anmelden"),
        ];
        let documents = texts.map(|(topic, text)| Document {
            topic,
            text: text.to_string(),
            is_near: true,
            weight: 1.0,
        });
        Index::new(&documents, 3)
    }

    fn best(scores: &[f32]) -> usize {
        (0..scores.len())
            .max_by(|&a, &b| scores[a].total_cmp(&scores[b]))
            .unwrap()
    }

    #[test]
    fn endings_compounds_and_slips_are_forgiven() {
        let index = index();
        for (text, topic) in [
            ("ummelden", 0),
            ("Wohnungsummeldung", 0),
            ("personalauswies", 1),
            ("Personalausweise", 1),
            ("Hundesteuerbescheid", 2),
            ("meinen hund anmelden", 2),
        ] {
            let scores = index.search(text);
            assert_eq!(best(&scores), topic, "{text}: {scores:?}");
        }
    }

    #[test]
    fn what_nothing_holds_is_near_to_nothing() {
        let scores = index().search("Quantenphysik");
        assert!(scores.iter().all(|&score| score < 0.1), "{scores:?}");
        assert!(index().search("").iter().all(|&score| score == 0.0));
    }
}
