//! Chooses the next token: repetition penalty, temperature, top-k, top-p, in the order and with the
//! definitions of Transformers' logits processors; then a draw from a seeded generator.

use anyhow::{Context, Result, ensure};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::cmp::Ordering;
use std::collections::BTreeSet;

/// How to choose a token. The default is greedy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SamplingSettings {
    /// Logits are divided by it; 0 takes the most probable token, the lowest id of equals.
    pub temperature: f32,
    /// Only this many most probable tokens stay (and those equal to the last of them); 0: all.
    pub top_k: usize,
    /// Only the most probable tokens that together reach this probability stay, at least one; 1:
    /// all.
    pub top_p: f32,
    /// Logits of tokens that already stand in prompt or answer are divided by it if positive,
    /// multiplied if negative; 1: off.
    pub repetition_penalty: f32,
    /// The same seed gives the same tokens.
    pub seed: u64,
}

impl Default for SamplingSettings {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            repetition_penalty: 1.0,
            seed: 0,
        }
    }
}

impl SamplingSettings {
    /// Errors: a value outside its range, by name.
    pub(crate) fn validate(&self) -> Result<()> {
        let Self {
            temperature,
            top_p,
            repetition_penalty,
            ..
        } = *self;
        ensure!(
            temperature.is_finite() && temperature >= 0.0,
            "temperature is {temperature}, expected a number of at least 0"
        );
        ensure!(
            top_p > 0.0 && top_p <= 1.0,
            "top-p is {top_p}, expected a number above 0 and up to 1"
        );
        ensure!(
            repetition_penalty.is_finite() && repetition_penalty > 0.0,
            "repetition penalty is {repetition_penalty}, expected a number above 0 (1 changes \
             nothing)"
        );
        Ok(())
    }
}

/// A token that can still be drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Candidate {
    /// Its id.
    pub token: u32,
    /// Its logit, after penalty and temperature.
    pub logit: f32,
}

/// Draws tokens for one answer.
pub struct Sampler {
    settings: SamplingSettings,
    random: ChaCha8Rng,
}

impl Sampler {
    /// Errors: settings outside their ranges.
    pub(crate) fn new(settings: SamplingSettings) -> Result<Self> {
        settings.validate()?;
        Ok(Self {
            settings,
            random: ChaCha8Rng::seed_from_u64(settings.seed),
        })
    }

    /// The next token after `context` (prompt and answer so far), whose logits `[V]` are changed by
    /// the penalty.
    /// Errors: logits that are not finite, or none; a context token outside the vocabulary.
    pub(crate) fn next(&mut self, logits: &mut [f32], context: &[u32]) -> Result<u32> {
        self.prepare(logits, context)?;
        self.choose(logits)
    }

    /// As [`Sampler::next`], where only the tokens of `allowed` may come: their probabilities are
    /// those of the model, divided by their sum.
    /// Errors: as there; an allowed token outside the vocabulary.
    pub(crate) fn next_of(
        &mut self,
        logits: &mut [f32],
        context: &[u32],
        allowed: &[u32],
    ) -> Result<u32> {
        self.prepare(logits, context)?;
        let vocab = logits.len();
        let own = allowed.iter().map(|&token| {
            let logit = logits.get(token as usize).copied();
            logit.with_context(|| format!("the allowed token {token} is not below {vocab}"))
        });
        let chosen = self.choose(&own.collect::<Result<Vec<f32>>>()?)?;
        let token = allowed.get(chosen as usize).copied();
        token.context("the model has no tokens to choose from")
    }

    fn prepare(&self, logits: &mut [f32], context: &[u32]) -> Result<()> {
        ensure!(
            logits.iter().all(|logit| logit.is_finite()),
            "the model's logits hold NaN or infinity: the checkpoint is damaged, use another one"
        );
        ensure!(!logits.is_empty(), "the model has no tokens to choose from");
        penalize(logits, context, self.settings.repetition_penalty)
    }

    fn choose(&mut self, logits: &[f32]) -> Result<u32> {
        if self.settings.temperature == 0.0 {
            return Ok(greedy(logits));
        }
        let candidates = candidates(logits, &self.settings);
        self.draw(&candidates)
    }

    /// A candidate with probability proportional to the exponential of its logit.
    fn draw(&mut self, candidates: &[Candidate]) -> Result<u32> {
        let highest = highest(candidates);
        let weight = |candidate: &Candidate| f64::from(candidate.logit - highest).exp();
        let total: f64 = candidates.iter().map(weight).sum();
        // 53 bits: every double in [0, 1) that is a multiple of 2^-53.
        let uniform = (self.random.next_u64() >> 11) as f64 * (-53f64).exp2();
        let mut left = uniform * total;
        for candidate in candidates {
            left -= weight(candidate);
            if left < 0.0 {
                return Ok(candidate.token);
            }
        }
        // Rounding may leave a crumb after the last one.
        let last = candidates
            .last()
            .context("the model has no tokens to choose from")?;
        Ok(last.token)
    }
}

/// Applies the repetition penalty once to each token of `context`.
fn penalize(logits: &mut [f32], context: &[u32], penalty: f32) -> Result<()> {
    if penalty == 1.0 {
        return Ok(());
    }
    let vocab = logits.len();
    for token in context.iter().collect::<BTreeSet<_>>() {
        let logit = logits
            .get_mut(*token as usize)
            .with_context(|| format!("token {token} of the prompt is not below {vocab}"))?;
        *logit = if *logit < 0.0 {
            *logit * penalty
        } else {
            *logit / penalty
        };
    }
    Ok(())
}

/// The highest logit's token; of equals the lowest id.
fn greedy(logits: &[f32]) -> u32 {
    let first = (0u32, f32::NEG_INFINITY);
    let better = |best: (u32, f32), next: (u32, f32)| if next.1 > best.1 { next } else { best };
    (0..).zip(logits.iter().copied()).fold(first, better).0
}

/// The tokens that temperature, top-k and top-p leave (temperature above 0), the most probable
/// first where either limit is on.
pub(crate) fn candidates(logits: &[f32], settings: &SamplingSettings) -> Vec<Candidate> {
    let temperature = settings.temperature;
    let scaled = (0..).zip(logits).map(|(token, logit)| Candidate {
        token,
        logit: scale(*logit, temperature),
    });
    let p = f64::from(settings.top_p);
    if settings.top_k > 0 && settings.top_k < logits.len() {
        let mut candidates: Vec<Candidate> = scaled.collect();
        keep_top_k(&mut candidates, settings.top_k);
        if settings.top_p < 1.0 {
            let highest = highest(&candidates);
            let weight = |candidate: &Candidate| f64::from(candidate.logit - highest).exp();
            let total = candidates.iter().map(weight).sum();
            keep_top_p(&mut candidates, p, highest, total);
        }
        return candidates;
    }
    if settings.top_p == 1.0 {
        return scaled.collect();
    }
    // Of 50,000 tokens all but a few hundred are too improbable to matter: they are summed, and
    // never sorted. What is left out here weighs less than (1 - p) / tokens each, beside a highest
    // weight of 1, so together less than the part of the sum that top-p cuts off anyway.
    let highest = scale(
        logits.iter().copied().fold(f32::NEG_INFINITY, f32::max),
        temperature,
    );
    let total = total_weight(logits, temperature, highest);
    let cut = f64::from(highest) + ((1.0 - p) / logits.len() as f64).ln();
    let mut candidates: Vec<Candidate> = scaled
        .filter(|candidate| f64::from(candidate.logit) >= cut)
        .collect();
    keep_top_p(&mut candidates, p, highest, total);
    candidates
}

/// A tiny temperature must not make two infinities of two different logits.
fn scale(logit: f32, temperature: f32) -> f32 {
    (logit / temperature).clamp(f32::MIN, f32::MAX)
}

/// The sum of `e^(scaled logit - highest)` over all tokens, within 1e-6 of itself. Lane by lane, so
/// that the compiler makes vector instructions of it: the exponentials of a whole vocabulary, one
/// by one, would take a tenth of a token's time.
fn total_weight(logits: &[f32], temperature: f32, highest: f32) -> f64 {
    const LANES: usize = 16;
    let weight = |logit: f32| small_exp(scale(logit, temperature) - highest);
    let (whole, rest) = logits.as_chunks::<LANES>();
    let mut total = 0.0;
    // Sums of 64 in f32, of those in f64.
    for block in whole.chunks(64) {
        let mut lanes = [0.0f32; LANES];
        for chunk in block {
            for (lane, logit) in lanes.iter_mut().zip(chunk) {
                *lane += weight(*logit);
            }
        }
        total += lanes.map(f64::from).iter().sum::<f64>();
    }
    total + rest.iter().map(|l| f64::from(weight(*l))).sum::<f64>()
}

/// `e^x` for `x` up to 0, within 3 units in the last place; below -87 it is 1e-38 or so. `x` is
/// split into whole halvings and a rest, for which a polynomial of degree 6 stands (Cephes'
/// `expf`).
#[inline(always)]
fn small_exp(x: f32) -> f32 {
    let x = x.max(-87.0);
    // Adding 1.5 * 2^23 rounds to the nearest integer, which then stands in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let p = ((((1.987_569_1e-4 * r + 1.398_2e-3) * r + 8.333_452e-3) * r + 4.166_579_6e-2) * r
        + 1.666_666_5e-1)
        * r
        + 0.5;
    let exponent = shifted
        .to_bits()
        .wrapping_sub(ROUND.to_bits())
        .wrapping_add(127);
    (p * r * r + r + 1.0) * f32::from_bits(exponent << 23)
}

/// By falling logit, then by rising id: a total order, so that sorting never depends on the
/// algorithm.
fn by_rank(a: &Candidate, b: &Candidate) -> Ordering {
    b.logit.total_cmp(&a.logit).then(a.token.cmp(&b.token))
}

/// Keeps the `k` highest and all that equal the last of them, sorted. `0 < k < candidates.len()`.
fn keep_top_k(candidates: &mut Vec<Candidate>, k: usize) {
    let last = candidates.select_nth_unstable_by(k - 1, by_rank).1.logit;
    candidates.retain(|candidate| candidate.logit >= last);
    candidates.sort_unstable_by(by_rank);
}

/// Keeps each candidate before which less than `p` of the probability lies, sorted. Weights are
/// `e^(logit - highest)`, `total` is their sum over all tokens. Sorts no more than it must.
fn keep_top_p(candidates: &mut Vec<Candidate>, p: f64, highest: f32, total: f64) {
    let weight = |candidate: &Candidate| f64::from(candidate.logit - highest).exp();
    let enough = p * total;
    let (mut sorted, mut sum) = (0, 0.0);
    while sorted < candidates.len() {
        let end = (4 * sorted).max(64).min(candidates.len());
        let rest = &mut candidates[sorted..];
        rest.select_nth_unstable_by(end - sorted - 1, by_rank);
        rest[..end - sorted].sort_unstable_by(by_rank);
        for index in sorted..end {
            if sum >= enough {
                candidates.truncate(index.max(1));
                return;
            }
            sum += weight(&candidates[index]);
        }
        sorted = end;
    }
}

fn highest(candidates: &[Candidate]) -> f32 {
    candidates
        .iter()
        .fold(f32::NEG_INFINITY, |highest, candidate| {
            highest.max(candidate.logit)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_allowed_tokens_are_drawn_by_their_own_probabilities() {
        let given = [5.0, 1.0, 9.0, 1.0 + 3f32.ln()];
        let of = |temperature, top_p, seed| {
            let settings = SamplingSettings {
                temperature,
                top_p,
                seed,
                ..SamplingSettings::default()
            };
            let mut sampler = Sampler::new(settings).unwrap();
            sampler.next_of(&mut given.clone(), &[], &[1, 3]).unwrap()
        };
        assert_eq!((of(0.0, 1.0, 0), of(1.0, 0.7, 5)), (3, 3));
        let first = (0..4000).filter(|&seed| of(1.0, 1.0, seed) == 1).count();
        assert!((900..1100).contains(&first), "{first}");
        let mut sampler = Sampler::new(SamplingSettings::default()).unwrap();
        assert!(sampler.next_of(&mut given.clone(), &[], &[7]).is_err());
        assert!(sampler.next_of(&mut [f32::NAN, 1.0], &[], &[1]).is_err());
    }

    /// Logits with ties and a long tail.
    fn logits(seed: u64, len: usize) -> Vec<f32> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        (0..len)
            .map(|_| (random.next_u32() % 4096) as f32 / 400.0 - 5.0)
            .collect()
    }

    fn kept(logits: &[f32], settings: &SamplingSettings) -> Vec<u32> {
        let mut kept: Vec<u32> = candidates(logits, settings)
            .iter()
            .map(|c| c.token)
            .collect();
        kept.sort_unstable();
        kept
    }

    /// The definition, by a whole sort: is in the k highest values (ties with the k-th stay); then
    /// has less than p before it.
    fn kept_by_definition(logits: &[f32], settings: &SamplingSettings) -> Vec<u32> {
        let scaled: Vec<f32> = logits.iter().map(|l| l / settings.temperature).collect();
        let mut values = scaled.clone();
        values.sort_by(|a, b| b.total_cmp(a));
        let threshold = match settings.top_k {
            0 => f32::NEG_INFINITY,
            k => values[k.min(values.len()) - 1],
        };
        let mut order: Vec<usize> = (0..scaled.len())
            .filter(|&i| scaled[i] >= threshold)
            .collect();
        order.sort_by(|&a, &b| scaled[b].total_cmp(&scaled[a]));
        let total: f64 = order.iter().map(|&i| f64::from(scaled[i]).exp()).sum();
        let (mut before, mut kept) = (0.0, Vec::new());
        for i in order {
            if settings.top_p < 1.0 && before / total >= f64::from(settings.top_p) {
                break;
            }
            kept.push(i as u32);
            before += f64::from(scaled[i]).exp();
        }
        kept.sort_unstable();
        kept
    }

    #[test]
    fn kept_sets_equal_the_definition() {
        for len in [1, 2, 63, 64, 65, 300, 5000] {
            let logits = logits(len as u64, len);
            for temperature in [0.2, 1.0, 3.0] {
                for (top_k, top_p) in [
                    (0, 1.0),
                    (1, 1.0),
                    (7, 1.0),
                    (0, 0.9),
                    (0, 0.1),
                    (50, 0.5),
                    (0, 0.999),
                    (9000, 0.7),
                ] {
                    let settings = SamplingSettings {
                        temperature,
                        top_k,
                        top_p,
                        ..Default::default()
                    };
                    assert_eq!(
                        kept(&logits, &settings),
                        kept_by_definition(&logits, &settings),
                        "{len} {settings:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn the_sum_of_all_weights_is_the_sum_of_exponentials() {
        for len in [1, 15, 16, 17, 1500, 50_257] {
            let logits = logits(3, len);
            for temperature in [0.05, 0.7, 2.0] {
                let highest = logits
                    .iter()
                    .map(|l| l / temperature)
                    .fold(f32::MIN, f32::max);
                let exact: f64 = logits
                    .iter()
                    .map(|l| f64::from(l / temperature - highest).exp())
                    .sum();
                let found = total_weight(&logits, temperature, highest);
                assert!((found / exact - 1.0).abs() < 1e-6, "{found} {exact}");
            }
        }
        for i in 0..100_000 {
            let x = -87.0 * i as f32 / 100_000.0;
            let error = f64::from(small_exp(x)) / f64::from(x).exp() - 1.0;
            assert!(error.abs() < 4e-7, "{x}: {error:e}");
        }
        assert!(small_exp(f32::MIN) < 1e-37);
    }

    #[test]
    fn draws_follow_the_probabilities() {
        let weights = [0.5f64, 0.25, 0.15, 0.1];
        let logits: Vec<f32> = weights.iter().map(|w| (w.ln() * 0.5) as f32).collect();
        let settings = SamplingSettings {
            temperature: 0.5,
            seed: 3,
            ..Default::default()
        };
        let mut sampler = Sampler::new(settings).unwrap();
        let mut counts = [0f64; 4];
        let draws = 40_000;
        for _ in 0..draws {
            counts[sampler.next(&mut logits.clone(), &[]).unwrap() as usize] += 1.0;
        }
        for (count, weight) in counts.iter().zip(weights) {
            let deviation = (weight * (1.0 - weight) / f64::from(draws)).sqrt();
            assert!(
                (count / f64::from(draws) - weight).abs() < 4.0 * deviation,
                "{counts:?}"
            );
        }
    }

    #[test]
    fn the_seed_decides() {
        let logits = logits(1, 1000);
        let draw = |seed| {
            let mut sampler = Sampler::new(SamplingSettings {
                temperature: 1.0,
                seed,
                ..Default::default()
            })
            .unwrap();
            (0..20)
                .map(|_| sampler.next(&mut logits.clone(), &[]).unwrap())
                .collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }

    #[test]
    fn greedy_takes_the_lowest_id_of_equals() {
        let mut sampler = Sampler::new(SamplingSettings::default()).unwrap();
        assert_eq!(sampler.next(&mut [-1.0, 2.0, 2.0, 0.0], &[]).unwrap(), 1);
        assert_eq!(sampler.next(&mut [-3.0, -3.0], &[]).unwrap(), 0);
    }

    #[test]
    fn the_penalty_counts_each_token_once_and_keeps_the_sign_in_mind() {
        let mut logits = [2.0, -2.0, 0.0, 1.0];
        penalize(&mut logits, &[0, 1, 0, 2, 0], 2.0).unwrap();
        assert_eq!(logits, [1.0, -4.0, 0.0, 1.0]);
        let error = penalize(&mut logits, &[9], 2.0).unwrap_err().to_string();
        assert!(error.contains("token 9"), "{error}");
    }

    #[test]
    fn what_cannot_be_sampled_from_is_an_error() {
        let mut sampler = Sampler::new(SamplingSettings::default()).unwrap();
        assert!(sampler.next(&mut [], &[]).is_err());
        assert!(sampler.next(&mut [0.0, f32::NAN], &[]).is_err());
        let settings = SamplingSettings::default();
        for bad in [
            SamplingSettings {
                temperature: -1.0,
                ..settings
            },
            SamplingSettings {
                temperature: f32::NAN,
                ..settings
            },
            SamplingSettings {
                top_p: 0.0,
                ..settings
            },
            SamplingSettings {
                top_p: 1.1,
                ..settings
            },
            SamplingSettings {
                repetition_penalty: 0.0,
                ..settings
            },
        ] {
            assert!(Sampler::new(bad).is_err(), "{bad:?}");
        }
    }
}
