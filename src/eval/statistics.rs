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
    fn percentiles_are_nearest_ranks() {
        let values: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(percentile(&values, 95.0), 95.0);
        assert_eq!(percentile(&values, 100.0), 100.0);
        assert_eq!(percentile(&values, 0.0), 1.0);
        assert_eq!(percentile(&[], 50.0), 0.0);
    }
}
