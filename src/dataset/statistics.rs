//! What a data set consists of, for its manifest, its card and the table after generation.

use super::{Dataset, Example};
use crate::german::Dictionary;
use rayon::prelude::*;
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;

/// Counts by value of one property.
pub(crate) type Counts = BTreeMap<String, usize>;

/// Token lengths of the stored examples without their two separators.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Lengths {
    /// Shortest.
    pub min: usize,
    /// Middle.
    pub median: usize,
    /// 95 of 100 are at most so long.
    pub p95: usize,
    /// Longest.
    pub max: usize,
}

/// What is counted, by office, technique and the like.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Statistics {
    /// Number of examples.
    pub examples: usize,
    /// By office id.
    pub by_office: Counts,
    /// By service id.
    pub by_service: Counts,
    /// By intent of the first question.
    pub by_intent: Counts,
    /// By technique; an example counts for each of its techniques.
    pub by_technique: Counts,
    /// By layout.
    pub by_format: Counts,
    /// By form of address.
    pub by_register: Counts,
    /// Training and validation.
    pub by_split: Counts,
    /// Token lengths.
    pub token_length: Lengths,
    /// Tokens in all, without separators.
    pub tokens: usize,
    /// Candidates that were equal to an earlier example.
    pub duplicates_rejected: usize,
    /// Candidates that were too long.
    pub too_long_rejected: usize,
    /// Candidates for validation that were too much like a training question.
    pub too_alike_rejected: usize,
}

/// Unknown words.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct SpellingReport {
    /// Words outside of the typo technique that were looked at.
    pub words: u64,
    /// Of them unknown, in percent.
    pub unknown_percent: f64,
    /// The most frequent unknown words.
    pub examples: Vec<(String, u64)>,
}

impl Statistics {
    /// Counts a data set.
    pub(crate) fn of(dataset: &Dataset) -> Statistics {
        let mut statistics = Statistics {
            examples: dataset.examples.len(),
            by_office: Counts::new(),
            by_service: Counts::new(),
            by_intent: Counts::new(),
            by_technique: Counts::new(),
            by_format: Counts::new(),
            by_register: Counts::new(),
            by_split: Counts::new(),
            token_length: Lengths::default(),
            tokens: 0,
            duplicates_rejected: dataset.rejected.duplicates,
            too_long_rejected: dataset.rejected.too_long,
            too_alike_rejected: dataset.rejected.too_alike,
        };
        let mut by_subject: HashMap<u32, usize> = HashMap::new();
        let count = |counts: &mut Counts, name: &str, by: usize| match counts.get_mut(name) {
            Some(count) => *count += by,
            None => {
                counts.insert(name.to_string(), by);
            }
        };
        let mut lengths: Vec<usize> = Vec::with_capacity(dataset.examples.len());
        for example in &dataset.examples {
            *by_subject.entry(example.subject).or_default() += 1;
            for technique in example.techniques.names() {
                count(&mut statistics.by_technique, technique, 1);
            }
            count(&mut statistics.by_format, example.layout(), 1);
            count(&mut statistics.by_register, example.register.name(), 1);
            count(&mut statistics.by_split, example.split.name(), 1);
            lengths.push(example.tokens.len().saturating_sub(2));
        }
        for (subject, examples) in by_subject {
            if let Some(subject) = dataset.subjects.get(subject as usize) {
                let office = &dataset.offices[usize::from(subject.office)];
                count(&mut statistics.by_office, office, examples);
                count(&mut statistics.by_service, &subject.service, examples);
                count(&mut statistics.by_intent, subject.intent, examples);
            }
        }
        lengths.sort_unstable();
        let at = |percent: usize| {
            lengths
                .get((lengths.len() * percent).div_ceil(100).saturating_sub(1))
                .copied()
                .unwrap_or(0)
        };
        statistics.token_length = Lengths {
            min: at(0),
            median: at(50),
            p95: at(95),
            max: at(100),
        };
        statistics.tokens = lengths.iter().sum();
        statistics
    }

    /// A short table for people.
    pub(crate) fn table(&self) -> String {
        let mut table = String::new();
        for (title, counts) in [
            ("office", &self.by_office),
            ("intent", &self.by_intent),
            ("technique", &self.by_technique),
            ("register", &self.by_register),
            ("split", &self.by_split),
        ] {
            let _ = writeln!(table, "{title:<24}{:>9}{:>8}", "examples", "share");
            for (name, count) in counts {
                let share = 100.0 * *count as f64 / self.examples.max(1) as f64;
                let _ = writeln!(table, "  {name:<22}{count:>9}{share:>7.1}%");
            }
        }
        let Lengths {
            min,
            median,
            p95,
            max,
        } = self.token_length;
        let _ = writeln!(
            table,
            "{} examples in {} formats, {} tokens; length min {min}, median {median}, p95 {p95}, \
            max {max}",
            self.examples,
            self.by_format.len(),
            self.tokens
        );
        let (duplicates, too_long, alike) = (
            self.duplicates_rejected,
            self.too_long_rejected,
            self.too_alike_rejected,
        );
        let _ = write!(
            table,
            "replaced on the way: {duplicates} duplicates, {too_long} too long, {alike} too much \
            like a training question"
        );
        table
    }
}

impl SpellingReport {
    /// Looks up every word of the examples that are not made by the typo technique.
    pub(crate) fn of(dataset: &Dataset, dictionary: &Dictionary) -> SpellingReport {
        let careful = dataset
            .examples
            .par_iter()
            .filter(|example| !example.techniques.contains(super::Technique::Incomplete));
        let spelling = dictionary.spelling(careful.flat_map_iter(Example::turns));
        SpellingReport {
            words: spelling.words,
            unknown_percent: spelling.percent(),
            examples: spelling.examples,
        }
    }
}
