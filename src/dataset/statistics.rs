//! What a data set consists of, for its manifest and for the table after generation.

use super::{Dataset, DatasetExample};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;

/// Counts by value of one property.
pub type Counts = BTreeMap<String, usize>;

/// Token lengths of the stored examples without their two separators.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Lengths {
    /// Shortest.
    pub min: usize,
    /// Middle.
    pub median: usize,
    /// 95 of 100 are at most so long.
    pub p95: usize,
    /// Longest.
    pub max: usize,
}

/// Statistics of a data set.
#[derive(Clone, Debug, Serialize)]
pub struct Statistics {
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
}

impl Statistics {
    /// Counts a data set.
    pub fn of(dataset: &Dataset) -> Statistics {
        let examples = &dataset.examples;
        let count = |names: &dyn Fn(&DatasetExample) -> Vec<String>| {
            let mut counts = Counts::new();
            for name in examples.iter().flat_map(names) {
                *counts.entry(name).or_default() += 1;
            }
            counts
        };
        let mut lengths: Vec<usize> = examples
            .iter()
            .map(|example| example.tokens.len().saturating_sub(2))
            .collect();
        lengths.sort_unstable();
        let at = |percent: usize| {
            lengths
                .get((lengths.len() * percent).div_ceil(100).saturating_sub(1))
                .copied()
                .unwrap_or(0)
        };
        Statistics {
            examples: examples.len(),
            by_office: count(&|example| vec![example.office.clone()]),
            by_service: count(&|example| vec![example.service.clone()]),
            by_intent: count(&|example| vec![example.intent.to_string()]),
            by_technique: count(&|example| {
                example
                    .techniques
                    .iter()
                    .map(|name| name.to_string())
                    .collect()
            }),
            by_format: count(&|example| vec![example.format.to_string()]),
            by_register: count(&|example| vec![example.register.name().to_string()]),
            by_split: count(&|example| vec![example.split.name().to_string()]),
            token_length: Lengths {
                min: at(0),
                median: at(50),
                p95: at(95),
                max: at(100),
            },
            tokens: lengths.iter().sum(),
            duplicates_rejected: dataset.rejected.duplicates,
            too_long_rejected: dataset.rejected.too_long,
        }
    }

    /// A short table for people.
    pub fn table(&self) -> String {
        let mut table = String::new();
        for (title, counts) in [
            ("office", &self.by_office),
            ("intent", &self.by_intent),
            ("technique", &self.by_technique),
            ("format", &self.by_format),
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
            "{} examples, {} tokens; length min {min}, median {median}, p95 {p95}, max {max}",
            self.examples, self.tokens
        );
        let (duplicates, too_long) = (self.duplicates_rejected, self.too_long_rejected);
        let _ = write!(
            table,
            "replaced on the way: {duplicates} duplicates, {too_long} too long"
        );
        table
    }
}
