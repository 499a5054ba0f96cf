//! How far a measured share or mean may be from the true one.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

/// The 97.5th percentile of the normal distribution: both tails together leave 5 percent outside.
const Z: f64 = 1.959_963_984_540_054;

/// Samples drawn with replacement for a mean's interval: enough that its ends move by less than a
/// percent of its width.
const RESAMPLES: usize = 2000;

/// How many of how many, with a 95% confidence interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Share {
    /// Those that have the property.
    pub count: usize,
    /// Those that were asked.
    pub of: usize,
    /// `count / of`; `None` of nothing.
    pub share: Option<f64>,
    /// The interval's lower end.
    pub low: f64,
    /// The interval's upper end.
    pub high: f64,
}

impl Share {
    /// Counts the `true`s.
    pub(crate) fn of(values: impl IntoIterator<Item = bool>) -> Share {
        let (mut count, mut of) = (0, 0);
        for value in values {
            count += usize::from(value);
            of += 1;
        }
        Share::new(count, of)
    }

    /// Wilson's score interval (E. B. Wilson, "Probable Inference", 1927), which, unlike the normal
    /// approximation, holds for shares near 0 and 1 and for few cases.
    pub(crate) fn new(count: usize, of: usize) -> Share {
        if of == 0 {
            return Share {
                count,
                of,
                share: None,
                low: 0.0,
                high: 1.0,
            };
        }
        let n = of as f64;
        let p = count as f64 / n;
        let scale = 1.0 + Z * Z / n;
        let center = (p + Z * Z / (2.0 * n)) / scale;
        let half = Z / scale * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
        Share {
            count,
            of,
            share: Some(p),
            low: if count == 0 { 0.0 } else { center - half },
            high: if count == of { 1.0 } else { center + half },
        }
    }
}

impl Share {
    /// `name  82.5%  (33 of 40)`, as a line of a table.
    pub(crate) fn line(&self, name: &str) -> String {
        let percent = 100.0 * self.share.unwrap_or(0.0);
        format!(
            "{name:<42} {percent:>5.1}%  ({} of {})\n",
            self.count, self.of
        )
    }
}

/// A mean with a 95% confidence interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Mean {
    /// Number of values.
    pub of: usize,
    /// Their mean; `None` of nothing.
    pub mean: Option<f64>,
    /// The interval's lower end.
    pub low: f64,
    /// The interval's upper end.
    pub high: f64,
}

impl Mean {
    /// The interval is the percentile bootstrap's: the middle 95 percent of the means of samples
    /// drawn from the values with replacement. The same values and seed give the same interval.
    pub(crate) fn new(values: &[f64], seed: u64) -> Mean {
        if values.is_empty() {
            return Mean {
                of: 0,
                mean: None,
                low: 0.0,
                high: 0.0,
            };
        }
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mean = |sum: f64| sum / values.len() as f64;
        let mut means: Vec<f64> = (0..RESAMPLES)
            .map(|_| {
                let drawn = (0..values.len()).map(|_| values[below(&mut random, values.len())]);
                mean(drawn.sum())
            })
            .collect();
        means.sort_by(f64::total_cmp);
        Mean {
            of: values.len(),
            mean: Some(mean(values.iter().sum())),
            low: percentile(&means, 2.5),
            high: percentile(&means, 97.5),
        }
    }
}

/// The nearest-rank percentile of sorted values; 0 of nothing.
pub(crate) fn percentile(sorted: &[f64], percent: f64) -> f64 {
    let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
    sorted
        .get(rank.saturating_sub(1).min(sorted.len().saturating_sub(1)))
        .copied()
        .unwrap_or(0.0)
}

/// Area under the ROC curve: how often a case of the first kind scores higher than one of the
/// second, ties counting half. `None` without cases of one kind.
pub(crate) fn auroc(positive: &[f64], negative: &[f64]) -> Option<f64> {
    let mut scores: Vec<(f64, bool)> = positive.iter().map(|&score| (score, true)).collect();
    scores.extend(negative.iter().map(|&score| (score, false)));
    scores.sort_by(|a, b| a.0.total_cmp(&b.0));
    // Twice the number of pairs in the right order.
    let (mut below, mut pairs) = (0, 0);
    for tied in scores.chunk_by(|a, b| a.0 == b.0) {
        let above = tied.iter().filter(|(_, is_positive)| *is_positive).count();
        let others = tied.len() - above;
        pairs += above * (2 * below + others);
        below += others;
    }
    let all = 2 * positive.len() * negative.len();
    (all > 0).then(|| pairs as f64 / all as f64)
}

/// Cases whose probability of being right was said to be about the same.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Bin {
    /// Lowest probability.
    pub from: f64,
    /// Highest probability.
    pub to: f64,
    /// What was said, on average.
    pub said: f64,
    /// What was true.
    pub right: Share,
}

/// Whether what is said to be right with probability p is right in p of the cases.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Calibration {
    /// Tenths of probability that hold cases.
    pub bins: Vec<Bin>,
    /// Mean distance between what was said and what was true, weighted by cases (expected
    /// calibration error). `None` of nothing.
    pub error: Option<f64>,
}

impl Calibration {
    const BINS: usize = 10;

    /// From probabilities and whether they came true.
    pub(crate) fn new(cases: &[(f64, bool)]) -> Calibration {
        let width = 1.0 / Self::BINS as f64;
        let bin_of = |said: f64| ((said / width) as usize).min(Self::BINS - 1);
        let bin = |number: usize| {
            let own = cases.iter().filter(|(said, _)| bin_of(*said) == number);
            let right = Share::of(own.clone().map(|(_, right)| *right));
            (right.of > 0).then(|| Bin {
                from: number as f64 * width,
                to: (number + 1) as f64 * width,
                said: own.map(|(said, _)| said).sum::<f64>() / right.of as f64,
                right,
            })
        };
        let bins: Vec<Bin> = (0..Self::BINS).filter_map(bin).collect();
        let distance = |bin: &Bin| (bin.said * bin.right.of as f64 - bin.right.count as f64).abs();
        let sum: f64 = bins.iter().map(distance).sum();
        Calibration {
            error: (!cases.is_empty()).then(|| sum / cases.len() as f64),
            bins,
        }
    }

    /// The curve as lines of text.
    pub(crate) fn table(&self) -> String {
        let Some(error) = self.error else {
            return String::new();
        };
        let lines = self.bins.iter().map(|bin| {
            format!(
                "  said {:>3.0}%, right {:>5.1}%  ({} of {})\n",
                100.0 * bin.said,
                100.0 * bin.right.share.unwrap_or(0.0),
                bin.right.count,
                bin.right.of
            )
        });
        let lines: String = lines.collect();
        format!("first service right, by what was said: off by {error:.3} on average\n{lines}")
    }
}

/// McNemar's exact test: how likely at least so uneven a split of the cases on which two runs
/// differ is, if neither is better. 1 without such cases.
pub(crate) fn mcnemar(only_first: usize, only_second: usize) -> f64 {
    let differ = only_first + only_second;
    let fewer = only_first.min(only_second);
    // Binomial coefficients over 2^differ, as logarithms: they do not overflow.
    let mut term = -(differ as f64) * std::f64::consts::LN_2;
    let mut tail = 0.0;
    for count in 0..=fewer {
        tail += term.exp();
        term += ((differ - count) as f64).ln() - ((count + 1) as f64).ln();
    }
    (2.0 * tail).min(1.0)
}

/// A number below `bound` by the multiply-shift method; its bias of `bound / 2^64` is far below
/// what is measured here.
pub(super) fn below(random: &mut ChaCha8Rng, bound: usize) -> usize {
    ((u128::from(random.next_u64()) * bound as u128) >> 64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wilson_intervals_are_those_of_the_literature() {
        // Newcombe (1998), table I: 81/263 gives 0.2553 to 0.3662, 15/148 gives 0.0624 to 0.1605,
        // 1/29 gives 0.0061 to 0.1718.
        for (count, of, low, high) in [
            (81, 263, 0.2553, 0.3662),
            (15, 148, 0.0624, 0.1605),
            (0, 20, 0.0, 0.1611),
            (1, 29, 0.0061, 0.1718),
        ] {
            let share = Share::new(count, of);
            assert!((share.low - low).abs() < 5e-5, "{share:?}");
            assert!((share.high - high).abs() < 5e-5, "{share:?}");
        }
        let all = Share::new(20, 20);
        assert_eq!((all.share, all.high), (Some(1.0), 1.0));
        assert!((all.low - (1.0 - 0.1611)).abs() < 5e-5);
        assert_eq!(Share::new(0, 0).share, None);
        assert_eq!(Share::of([true, false, true]).count, 2);
    }

    #[test]
    fn a_means_interval_is_about_that_of_the_normal_distribution() {
        // 400 values of mean 0.5 and deviation 0.2887: the mean's standard error is 0.01443.
        let values: Vec<f64> = (0..400).map(|i| (f64::from(i) + 0.5) / 400.0).collect();
        let mean = Mean::new(&values, 1);
        assert!((mean.mean.unwrap() - 0.5).abs() < 1e-12);
        assert!((mean.low - (0.5 - 0.0283)).abs() < 0.003, "{mean:?}");
        assert!((mean.high - (0.5 + 0.0283)).abs() < 0.003, "{mean:?}");
        assert_eq!(mean, Mean::new(&values, 1));
        assert_ne!(mean.low, Mean::new(&values, 2).low);
        let same = Mean::new(&[3.0; 5], 0);
        assert_eq!((same.low, same.mean, same.high), (3.0, Some(3.0), 3.0));
        assert_eq!(Mean::new(&[], 0).mean, None);
    }

    #[test]
    fn a_ranking_is_as_good_as_its_pairs_are_in_order() {
        assert_eq!(auroc(&[0.9, 0.8], &[0.1, 0.2, 0.3]), Some(1.0));
        assert_eq!(auroc(&[0.1], &[0.9]), Some(0.0));
        assert_eq!(auroc(&[0.5, 0.5], &[0.5]), Some(0.5));
        // scikit-learn's example of roc_auc_score: labels 0 0 1 1.
        assert_eq!(auroc(&[0.35, 0.8], &[0.1, 0.4]), Some(0.75));
        assert_eq!(auroc(&[0.35], &[]), None);
    }

    #[test]
    fn calibration_compares_what_is_said_with_what_is_true() {
        let cases = [(0.95, true), (0.95, true), (0.95, true), (0.95, false)];
        let all = Calibration::new(&[&cases[..], &[(0.25, false), (1.0, true)]].concat());
        assert_eq!(all.bins.len(), 2);
        assert_eq!((all.bins[1].right.count, all.bins[1].right.of), (4, 5));
        assert!((all.bins[1].said - 0.96).abs() < 1e-12);
        assert!((all.error.unwrap() - (0.25 + 0.8) / 6.0).abs() < 1e-12);
        assert!(all.table().contains("right  80.0%  (4 of 5)"));
        assert_eq!(Calibration::new(&[]).error, None);
    }

    #[test]
    fn two_runs_differ_or_they_do_not() {
        assert_eq!(mcnemar(0, 0), 1.0);
        assert_eq!(mcnemar(3, 3), 1.0);
        // scipy.stats.binomtest(k, n).pvalue
        assert!((mcnemar(1, 9) - 0.021484375).abs() < 1e-12);
        assert!((mcnemar(9, 1) - 0.021484375).abs() < 1e-12);
        assert!((mcnemar(40, 60) - 0.056887933640980784).abs() < 1e-12);
        assert!(mcnemar(0, 5000) < 1e-300);
    }

    #[test]
    fn percentiles_are_nearest_ranks() {
        let values: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(percentile(&values, 95.0), 95.0);
        assert_eq!(percentile(&values, 100.0), 100.0);
        assert_eq!(percentile(&values, 0.0), 1.0);
        assert_eq!(percentile(&[], 50.0), 0.0);
    }
}
