//! A linear classifier over hashed features of texts (words, pieces of words, pairs of words), one
//! class against all others (squared hinge loss, SGD): which topic a question is about, and which
//! side of it, learned from citizens' own words.
//!
//! Training takes seconds, depends on nothing but its examples, and gives the same bits on any
//! number of threads.

use anyhow::{Context, Result, ensure};
use rayon::prelude::*;
use std::collections::HashMap;
use std::path::PathBuf;

use super::retrieval::{Features, hash};
use crate::files::{replace_file, sha256};

/// Passes over the examples.
const EPOCHS: usize = 4;
/// First step size; it falls to 0 over the run.
const RATE: f32 = 0.2;
/// Step size of a class's bias beside that of its weights.
const BIAS_RATE: f32 = 0.1;
/// A feature that fewer examples hold says nothing of other questions.
const LEAST_EXAMPLES: u32 = 2;
/// Weights smaller than this are dropped: nine in ten, without a change in what is understood.
const SMALLEST_WEIGHT: f32 = 0.05;
/// Classes that are trained side by side, in one vector.
const BLOCK: usize = 32;

/// A text that belongs to a class.
pub(super) struct Sample<'a> {
    /// The service that it is about; empty where that does not count.
    pub about: &'a str,
    /// The text, folded.
    pub text: String,
    /// Its class.
    pub class: usize,
}

/// The features of a text that belongs to a class.
pub(super) struct Example {
    /// Its features.
    pub features: Features,
    /// Its class.
    pub class: usize,
}

/// The classifier.
#[derive(Debug, PartialEq)]
pub(super) struct Classifier {
    /// Number and rarity of each feature by its hash.
    features: HashMap<u64, (u32, f32)>,
    /// Where each feature's weights begin, and where the last one's end.
    starts: Vec<u32>,
    /// Class and weight.
    weights: Vec<(u32, f32)>,
    bias: Vec<f32>,
}

type Vector = Vec<(u32, f32)>;

impl Classifier {
    /// The classifier of these samples: from the user's cache, or learned now and put there.
    /// `version` changes with everything else that the result depends on; `features` takes what a
    /// text is about and the text.
    pub fn learned(
        version: &str,
        samples: &[Sample],
        classes: usize,
        features: impl Fn(&str, &str) -> Features + Sync,
    ) -> Classifier {
        let mut key = format!("{version} {classes} {}", env!("CARGO_PKG_VERSION"));
        for Sample { about, text, class } in samples {
            key.push_str(&format!("\n{class} {about} {text}"));
        }
        let path = cache_folder().map(|folder| folder.join(sha256(key.as_bytes())));
        let cached = path.as_ref().and_then(|path| std::fs::read(path).ok());
        if let Some(classifier) = cached.and_then(|bytes| Classifier::from_bytes(&bytes).ok())
            && classifier.bias.len() == classes
        {
            return classifier;
        }
        let examples: Vec<Example> = samples
            .par_iter()
            .map(|sample| Example {
                features: features(sample.about, &sample.text),
                class: sample.class,
            })
            .collect();
        let classifier = Classifier::train(&examples, classes);
        // A cache that cannot be written costs the next start some seconds, and this one nothing.
        if let Some(path) = path
            && let Some(folder) = path.parent()
            && std::fs::create_dir_all(folder).is_ok()
        {
            let _ = replace_file(&path, &classifier.to_bytes());
        }
        classifier
    }

    /// Learns to tell `classes` classes apart.
    fn train(examples: &[Example], classes: usize) -> Classifier {
        let features = numbered(examples);
        let vectors: Vec<Vector> = examples
            .par_iter()
            .map(|example| vector(&features, &example.features))
            .collect();
        let orders = orders(examples.len());
        let blocks: Vec<(Vec<f32>, [f32; BLOCK])> = (0..classes.div_ceil(BLOCK))
            .into_par_iter()
            .map(|block| train_block(examples, &vectors, &orders, block * BLOCK, features.len()))
            .collect();
        let mut classifier = Classifier {
            starts: vec![0],
            weights: Vec::new(),
            bias: Vec::with_capacity(classes),
            features,
        };
        for feature in 0..classifier.features.len() {
            for class in 0..classes {
                let weight = blocks[class / BLOCK].0[feature * BLOCK + class % BLOCK];
                if weight.abs() > SMALLEST_WEIGHT {
                    classifier.weights.push((class as u32, weight));
                }
            }
            classifier.starts.push(classifier.weights.len() as u32);
        }
        let bias = (0..classes).map(|class| blocks[class / BLOCK].1[class % BLOCK]);
        classifier.bias.extend(bias);
        classifier
    }

    /// How far a text is on each class's side: above 0 it belongs to it, at 1 and more it does so
    /// for certain.
    pub fn margins(&self, features: &Features) -> Vec<f32> {
        let mut margins = self.bias.clone();
        for (feature, value) in vector(&self.features, features) {
            let (start, end) = (
                self.starts[feature as usize],
                self.starts[feature as usize + 1],
            );
            for &(class, weight) in &self.weights[start as usize..end as usize] {
                margins[class as usize] += value * weight;
            }
        }
        margins
    }

    /// The classifier as bytes, for [`Classifier::from_bytes`].
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut features: Vec<(&u64, &(u32, f32))> = self.features.iter().collect();
        features.sort_unstable_by_key(|(_, (number, _))| *number);
        let mut bytes = Vec::with_capacity(16 * features.len() + 8 * self.weights.len());
        for len in [features.len(), self.weights.len(), self.bias.len()] {
            bytes.extend((len as u64).to_le_bytes());
        }
        for (hash, (_, rarity)) in features {
            bytes.extend(hash.to_le_bytes());
            bytes.extend(rarity.to_le_bytes());
        }
        self.starts
            .iter()
            .for_each(|start| bytes.extend(start.to_le_bytes()));
        for (class, weight) in &self.weights {
            bytes.extend(class.to_le_bytes());
            bytes.extend(weight.to_le_bytes());
        }
        self.bias
            .iter()
            .for_each(|bias| bytes.extend(bias.to_le_bytes()));
        bytes
    }

    /// What [`Classifier::to_bytes`] gave.
    ///
    /// # Errors
    /// Where the bytes are cut off, too many, or name a class or a weight that there is not.
    pub fn from_bytes(bytes: &[u8]) -> Result<Classifier> {
        let mut rest = bytes;
        let mut len =
            || -> Result<usize> { Ok(usize::try_from(u64::from_le_bytes(take(&mut rest)?))?) };
        let (features, weights, classes) = (len()?, len()?, len()?);
        let needed = 12 * features as u128 + 4 * (features as u128 + 1) + 8 * weights as u128;
        let needed = needed + 4 * classes as u128;
        ensure!(
            rest.len() as u128 == needed,
            "the classifier has {} bytes, expected {needed}",
            rest.len()
        );
        let mut classifier = Classifier {
            features: HashMap::with_capacity(features),
            starts: Vec::with_capacity(features + 1),
            weights: Vec::with_capacity(weights),
            bias: Vec::with_capacity(classes),
        };
        for number in 0..features {
            let hash = u64::from_le_bytes(take(&mut rest)?);
            let rarity = f32::from_le_bytes(take(&mut rest)?);
            classifier.features.insert(hash, (number as u32, rarity));
        }
        for _ in 0..=features {
            classifier.starts.push(u32::from_le_bytes(take(&mut rest)?));
        }
        for _ in 0..weights {
            let class = u32::from_le_bytes(take(&mut rest)?);
            ensure!((class as usize) < classes, "class {class} of {classes}");
            classifier
                .weights
                .push((class, f32::from_le_bytes(take(&mut rest)?)));
        }
        for _ in 0..classes {
            classifier.bias.push(f32::from_le_bytes(take(&mut rest)?));
        }
        let ordered = classifier.starts.windows(2).all(|pair| pair[0] <= pair[1]);
        let ends = classifier.starts.last().map(|&end| end as usize) == Some(weights);
        ensure!(ordered && ends, "the features' weights are out of order");
        Ok(classifier)
    }
}

fn cache_folder() -> Option<PathBuf> {
    let folder = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let cache = match folder("XDG_CACHE_HOME") {
        Some(cache) => PathBuf::from(cache),
        None => PathBuf::from(folder("HOME")?).join(".cache"),
    };
    Some(cache.join("muni-engine").join("understanding"))
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N]> {
    let (first, others) = rest
        .split_first_chunk()
        .context("the classifier is cut off")?;
    *rest = others;
    Ok(*first)
}

/// Features that enough examples hold, numbered in the order of their hashes, with the logarithm of
/// their rarity.
fn numbered(examples: &[Example]) -> HashMap<u64, (u32, f32)> {
    let mut counts: HashMap<u64, u32> = HashMap::new();
    for (hash, _) in examples.iter().flat_map(|example| &example.features) {
        *counts.entry(*hash).or_default() += 1;
    }
    let mut kept: Vec<(u64, u32)> = counts.into_iter().collect();
    kept.retain(|&(_, count)| count >= LEAST_EXAMPLES);
    kept.sort_unstable();
    let rarity = |count: u32| (examples.len() as f32 / count as f32).ln() + 1.0;
    let kept = kept.into_iter().enumerate();
    kept.map(|(number, (hash, count))| (hash, (number as u32, rarity(count))))
        .collect()
}

/// Known features times their rarity, at unit length.
fn vector(known: &HashMap<u64, (u32, f32)>, features: &Features) -> Vector {
    let found = features.iter().filter_map(|(hash, weight)| {
        let &(number, rarity) = known.get(hash)?;
        Some((number, weight * rarity))
    });
    let mut vector: Vector = found.collect();
    let square: f32 = vector.iter().map(|(_, value)| value * value).sum();
    let length = square.sqrt().max(f32::MIN_POSITIVE);
    vector.iter_mut().for_each(|(_, value)| *value /= length);
    vector
}

/// An order of the examples for each pass, drawn by xorshift from a fixed seed.
fn orders(examples: usize) -> Vec<Vec<u32>> {
    let mut order: Vec<u32> = (0..examples as u32).collect();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut shuffled = || {
        for i in (1..order.len()).rev() {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            order.swap(i, (state % (i as u64 + 1)) as usize);
        }
        order.clone()
    };
    (0..EPOCHS).map(|_| shuffled()).collect()
}

/// Weights `[features, BLOCK]` and biases of the classes from `first` on.
fn train_block(
    examples: &[Example],
    vectors: &[Vector],
    orders: &[Vec<u32>],
    first: usize,
    features: usize,
) -> (Vec<f32>, [f32; BLOCK]) {
    let mut weights = vec![0.0_f32; features * BLOCK];
    let mut bias = [-1.0_f32; BLOCK];
    let steps = (EPOCHS * examples.len()) as f32;
    for (step, &number) in orders.iter().flatten().enumerate() {
        let (vector, class) = (&vectors[number as usize], examples[number as usize].class);
        let mut margins = bias;
        for &(feature, value) in vector {
            let row = &weights[feature as usize * BLOCK..][..BLOCK];
            margins
                .iter_mut()
                .zip(row)
                .for_each(|(margin, weight)| *margin += value * weight);
        }
        let rate = RATE * (1.0 - step as f32 / steps);
        let mut change = [0.0_f32; BLOCK];
        for (k, (change, margin)) in change.iter_mut().zip(margins).enumerate() {
            let side = if first + k == class { 1.0 } else { -1.0 };
            *change = 2.0 * rate * side * (1.0 - side * margin).max(0.0);
        }
        if change.iter().all(|&change| change == 0.0) {
            continue;
        }
        for &(feature, value) in vector {
            let row = &mut weights[feature as usize * BLOCK..][..BLOCK];
            row.iter_mut()
                .zip(&change)
                .for_each(|(weight, change)| *weight += value * change);
        }
        bias.iter_mut()
            .zip(&change)
            .for_each(|(bias, change)| *bias += BIAS_RATE * change);
    }
    (weights, bias)
}

/// Weights of the features that only the classifier uses.
const FIVE_LETTERS: f32 = 0.5;
const PAIR: f32 = 0.5;

/// What tells topics apart: the search's features, pieces of five letters, and pairs of words with
/// more weight.
pub(super) fn features(folded: &str) -> Features {
    let mut found = super::retrieval::features_of(folded);
    let words: Vec<&[u8]> = folded.split(' ').map(str::as_bytes).collect();
    for word in words.iter().filter(|word| !word.is_empty()) {
        let padded = [b" ", *word, b" "].concat();
        found.extend(
            padded
                .windows(5)
                .map(|piece| (hash(5, piece), FIVE_LETTERS)),
        );
    }
    for pair in words.windows(2) {
        found.push((hash(6, &[pair[0], b" ", pair[1]].concat()), PAIR));
    }
    found.sort_unstable_by_key(|&(hash, _)| hash);
    found.dedup_by_key(|&mut (hash, _)| hash);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trained() -> Classifier {
        let texts = [
            (0, "ich bin umgezogen"),
            (0, "umgezogen was nun"),
            (0, "wir sind umgezogen"),
            (1, "mein ausweis ist weg"),
            (1, "ausweis verloren"),
            (1, "neuer ausweis"),
        ];
        let examples = texts.map(|(class, text)| Example {
            features: features(text),
            class,
        });
        Classifier::train(&examples, 2)
    }

    #[test]
    fn a_text_is_told_by_its_words() {
        let classifier = trained();
        let margins = |text| classifier.margins(&features(text));
        let [moved, lost] = [margins("gerade umgezogen"), margins("der ausweis fehlt")];
        assert!(
            moved[0] > moved[1] && lost[1] > lost[0],
            "{moved:?} {lost:?}"
        );
        assert_eq!(margins("quantenphysik"), classifier.bias);
    }

    #[test]
    fn bytes_come_back_and_broken_ones_are_refused() {
        let classifier = trained();
        let bytes = classifier.to_bytes();
        assert_eq!(Classifier::from_bytes(&bytes).unwrap(), classifier);
        for wrong in [
            &bytes[..bytes.len() - 1],
            &bytes[..7],
            &[bytes.clone(), vec![0]].concat(),
        ] {
            assert!(Classifier::from_bytes(wrong).is_err());
        }
        let mut huge = bytes.clone();
        huge[..8].fill(0xff);
        assert!(Classifier::from_bytes(&huge).is_err());
    }
}
