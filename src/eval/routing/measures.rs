//! Entropy, load balance and mutual information of counts.

use crate::eval::statistics::{below, percentile};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

/// Mutual information between expert and office, and what chance alone would give.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Information {
    /// Mutual information of expert and office over the layer's choices, in bits.
    pub bits: f64,
    /// Its mean after shuffling the office labels among the texts. Texts, not tokens, are shuffled:
    /// a text's tokens belong together, and a few texts differ by chance more than many tokens
    /// would.
    pub shuffled_mean_bits: f64,
    /// The 95th percentile after shuffling.
    pub shuffled_95_bits: f64,
    /// Share of shufflings (and the observation itself) that reach the observed value.
    pub p_value: f64,
}

impl Information {
    /// `by_text` is `[texts, E]`, `labels` names each text's office, below `offices`.
    pub(crate) fn new(
        by_text: &[Vec<u64>],
        labels: &[usize],
        offices: usize,
        permutations: usize,
        seed: u64,
    ) -> Self {
        let bits = mutual_information(&joint(by_text, labels, offices));
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut shuffled = labels.to_vec();
        let mut chance: Vec<f64> = (0..permutations)
            .map(|_| {
                for last in (1..shuffled.len()).rev() {
                    shuffled.swap(last, below(&mut random, last + 1));
                }
                mutual_information(&joint(by_text, &shuffled, offices))
            })
            .collect();
        // Sums in another order differ in the last bits; that is no difference.
        let reached = chance
            .iter()
            .filter(|&&value| value >= bits - 1e-12)
            .count();
        chance.sort_by(f64::total_cmp);
        Self {
            bits,
            shuffled_mean_bits: chance.iter().sum::<f64>() / permutations.max(1) as f64,
            shuffled_95_bits: percentile(&chance, 95.0),
            p_value: (reached + 1) as f64 / (permutations + 1) as f64,
        }
    }
}

/// Sums rows of the same label: `[texts, E]` to `[labels, E]`.
pub(crate) fn joint(by_text: &[Vec<u64>], labels: &[usize], groups: usize) -> Vec<Vec<u64>> {
    let columns = by_text.first().map_or(0, Vec::len);
    let mut sums = vec![vec![0; columns]; groups];
    for (row, &label) in by_text.iter().zip(labels) {
        for (sum, count) in sums[label].iter_mut().zip(row) {
            *sum += count;
        }
    }
    sums
}

/// Sum of each column.
pub(crate) fn column_sums(matrix: &[Vec<u64>]) -> Vec<u64> {
    let columns = matrix.first().map_or(0, Vec::len);
    (0..columns)
        .map(|column| matrix.iter().map(|row| row[column]).sum())
        .collect()
}

/// Entropy of the distribution that the counts are proportional to, in bits; 0 of nothing.
pub(crate) fn entropy_bits(counts: &[u64]) -> f64 {
    let all = counts.iter().sum::<u64>() as f64;
    counts
        .iter()
        .filter(|&&count| count > 0)
        .map(|&count| {
            let share = count as f64 / all;
            -share * share.log2()
        })
        .sum()
}

/// Mutual information of row and column of a matrix of counts, in bits:
/// `sum p(r,c) log2(p(r,c) / (p(r) p(c)))`.
pub(crate) fn mutual_information(joint: &[Vec<u64>]) -> f64 {
    let columns = column_sums(joint);
    let all = columns.iter().sum::<u64>() as f64;
    let mut bits = 0.0;
    for row in joint {
        let of_row = row.iter().sum::<u64>() as f64;
        for (&count, &of_column) in row.iter().zip(&columns) {
            if count > 0 {
                let count = count as f64;
                bits += count / all * (count * all / (of_row * of_column as f64)).log2();
            }
        }
    }
    bits.max(0.0)
}

/// Transformers' `load_balancing_loss_func` without its coefficient:
/// `E sum_e (counts[e] / rows) (prob_sums[e] / rows)`, where every row was sent to K experts. K
/// when balanced.
pub(crate) fn load_balancing_loss(counts: &[u64], prob_sums: &[f64], rows: u64) -> f64 {
    let rows = rows as f64;
    let products = counts.iter().zip(prob_sums);
    let sum: f64 = products
        .map(|(&count, &sum)| count as f64 / rows * (sum / rows))
        .sum();
    counts.len() as f64 * sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entropy_and_information_of_known_distributions() {
        assert_eq!(entropy_bits(&[5, 5, 5, 5]), 2.0);
        assert_eq!(entropy_bits(&[7, 0, 0]), 0.0);
        assert!((entropy_bits(&[1, 3]) - 0.811_278_124_459_132_8).abs() < 1e-12);
        // Independent, the same, and in between: H(1/3) of a coin that tells a third.
        assert_eq!(mutual_information(&[vec![2, 4], vec![3, 6]]), 0.0);
        assert_eq!(mutual_information(&[vec![8, 0], vec![0, 8]]), 1.0);
        let partly = mutual_information(&[vec![3, 1], vec![1, 3]]);
        assert!((partly - (1.0 - 0.811_278_124_459_132_8)).abs() < 1e-12);
        assert_eq!(mutual_information(&[]), 0.0);
    }

    #[test]
    fn the_loss_is_k_when_balanced_and_e_when_one_expert_serves_all() {
        // 10 rows, K = 2, E = 4.
        let balanced = load_balancing_loss(&[5, 5, 5, 5], &[2.5; 4], 10);
        assert!((balanced - 2.0).abs() < 1e-12);
        let collapsed = load_balancing_loss(&[10, 10, 0, 0], &[10.0, 0.0, 0.0, 0.0], 10);
        assert!((collapsed - 4.0).abs() < 1e-12);
    }

    #[test]
    fn shuffling_tells_chance_from_specialisation() {
        // Twenty texts of two offices with one expert each.
        let by_text: Vec<Vec<u64>> = (0..20)
            .map(|text| {
                if text % 2 == 0 {
                    vec![10, 0]
                } else {
                    vec![0, 10]
                }
            })
            .collect();
        let labels: Vec<usize> = (0..20).map(|text| text % 2).collect();
        let special = Information::new(&by_text, &labels, 2, 199, 1);
        assert_eq!(special.bits, 1.0);
        assert!(
            special.shuffled_95_bits < 0.5 && special.p_value < 0.02,
            "{special:?}"
        );
        // The same experts, but labels that have nothing to do with them.
        let labels: Vec<usize> = (0..20).map(|text| text / 2 % 2).collect();
        let chance = Information::new(&by_text, &labels, 2, 199, 1);
        assert!(chance.bits < 1e-12 && chance.p_value > 0.9, "{chance:?}");
        // Tokens of a text belong together: few texts give much information by chance alone.
        assert!(chance.shuffled_mean_bits > 0.01, "{chance:?}");
        assert_eq!(chance, Information::new(&by_text, &labels, 2, 199, 1));
    }
}
