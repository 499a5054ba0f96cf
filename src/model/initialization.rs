//! Fresh weights, distributed as Transformers initialises Mixtral: every matrix normal with
//! standard deviation `initializer_range`, every norm 1.

use super::{ModelConfig, TensorSpec};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use sha2::{Digest, Sha256};

/// Values per random stream: small enough to spread the embedding over all cores.
const CHUNK: usize = 1 << 16;

/// Fresh weights, one vector per fused parameter. They depend on the sizes, the seed and nothing
/// else: each tensor has its own key, and each chunk of it its own stream, whatever thread fills
/// it.
pub fn random_weights(config: &ModelConfig, seed: u64) -> Vec<Vec<f32>> {
    let mut fused: Vec<Vec<f32>> = config
        .parameters()
        .iter()
        .map(|spec| vec![if spec.decay { 0.0 } else { 1.0 }; spec.len()])
        .collect();
    for tensor in config.tensors().iter().filter(|tensor| tensor.decay) {
        let key = key(seed, tensor);
        let values = &mut fused[tensor.parameter][tensor.offset..tensor.offset + tensor.len()];
        values
            .par_chunks_mut(CHUNK)
            .enumerate()
            .for_each(|(stream, chunk)| {
                let mut random = ChaCha8Rng::from_seed(key);
                random.set_stream(stream as u64);
                fill_normal(&mut random, config.initializer_range, chunk);
            });
    }
    fused
}

fn key(seed: u64, tensor: &TensorSpec) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(b"initialization");
    hash.update(seed.to_le_bytes());
    hash.update(tensor.name.as_bytes());
    hash.finalize().into()
}

/// Pairs of normal values made at a time.
const PAIRS: usize = 128;

/// Fills `values` from the stream, which is read in whole blocks.
fn fill_normal(random: &mut ChaCha8Rng, deviation: f32, values: &mut [f32]) {
    let mut bytes = [0; 8 * PAIRS];
    let mut bits = [0; 2 * PAIRS];
    let mut normal = [0.0; 2 * PAIRS];
    for block in values.chunks_mut(2 * PAIRS) {
        random.fill_bytes(&mut bytes);
        for (bits, bytes) in bits.iter_mut().zip(bytes.chunks_exact(4)) {
            *bits = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
        normal_block(&bits, deviation, &mut normal);
        block.copy_from_slice(&normal[..block.len()]);
    }
}

/// Box and Muller (1958): a uniform direction times a radius of `sqrt(-2 ln u)`. Only additions,
/// multiplications, divisions and roots, so that the compiler vectorises it and every machine gets
/// the same bits.
fn normal_block(bits: &[u32; 2 * PAIRS], deviation: f32, normal: &mut [f32; 2 * PAIRS]) {
    let (radius_bits, angle_bits) = bits.split_at(PAIRS);
    let (first, second) = normal.split_at_mut(PAIRS);
    for (((first, second), &radius), &angle) in first
        .iter_mut()
        .zip(second)
        .zip(radius_bits)
        .zip(angle_bits)
    {
        // From 24 bits, in (0, 1): the largest radius is 5.9 standard deviations.
        let uniform = ((radius >> 8) as i32 as f32 + 0.5) * 2f32.powi(-24);
        let radius = deviation * (-2.0 * ln(uniform)).sqrt();
        // A direction within an eighth of a turn of the first axis, then mirrored by two more bits
        // onto the circle.
        let turn = ((angle >> 8) as i32 as f32 + 0.5) * 2f32.powi(-24) - 0.5;
        let (sine, cosine) = sine_and_cosine(turn * std::f32::consts::FRAC_PI_2);
        let cosine = if angle & 1 == 0 { cosine } else { -cosine };
        let (x, y) = if angle & 2 == 0 {
            (cosine, sine)
        } else {
            (sine, cosine)
        };
        *first = radius * x;
        *second = radius * y;
    }
}

/// Natural logarithm of a positive normal number, to about 1e-7: `x = m 2^e` with `m` around 1, and
/// `ln m = 2 artanh((m - 1) / (m + 1))` as a series.
fn ln(x: f32) -> f32 {
    const ROOT_HALF: u32 = std::f32::consts::FRAC_1_SQRT_2.to_bits();
    const ONE: u32 = 1f32.to_bits();
    let shifted = x.to_bits() + (ONE - ROOT_HALF);
    let exponent = (shifted >> 23) as i32 - 127;
    let mantissa = f32::from_bits((shifted & 0x7f_ffff) + ROOT_HALF);
    let s = (mantissa - 1.0) / (mantissa + 1.0);
    let q = s * s;
    let series = 1.0 + q * (1.0 / 3.0 + q * (1.0 / 5.0 + q * (1.0 / 7.0 + q * (1.0 / 9.0))));
    exponent as f32 * std::f32::consts::LN_2 + 2.0 * s * series
}

/// Sine and cosine of at most an eighth of a turn, to about 1e-7, by their series.
fn sine_and_cosine(angle: f32) -> (f32, f32) {
    let q = angle * angle;
    let sine = 1.0 - q / 6.0 * (1.0 - q / 20.0 * (1.0 - q / 42.0 * (1.0 - q / 72.0)));
    let cosine = 1.0 - q / 2.0 * (1.0 - q / 12.0 * (1.0 - q / 30.0 * (1.0 - q / 56.0)));
    (angle * sine, cosine)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> ModelConfig {
        let mut config = ModelConfig::default_47m();
        (config.vocab_size, config.num_hidden_layers) = (2000, 1);
        config
    }

    #[test]
    fn moments_and_tails_are_those_of_the_normal_distribution() {
        let config = small();
        let weights = random_weights(&config, 7);
        for (spec, values) in config.parameters().iter().zip(&weights) {
            if !spec.decay {
                assert!(values.iter().all(|&value| value == 1.0), "{}", spec.name);
                continue;
            }
            let scaled: Vec<f64> = values
                .iter()
                .map(|&value| f64::from(value) / 0.02)
                .collect();
            let count = scaled.len() as f64;
            let moment =
                |power: i32| scaled.iter().map(|value| value.powi(power)).sum::<f64>() / count;
            // Five standard errors of each estimate.
            let bound = |variance: f64| 5.0 * (variance / count).sqrt();
            assert!(
                moment(1).abs() < bound(1.0),
                "{} mean {}",
                spec.name,
                moment(1)
            );
            assert!(
                (moment(2) - 1.0).abs() < bound(2.0),
                "{} variance {}",
                spec.name,
                moment(2)
            );
            assert!(
                moment(3).abs() < bound(15.0),
                "{} skew {}",
                spec.name,
                moment(3)
            );
            assert!(
                (moment(4) - 3.0).abs() < bound(96.0),
                "{} kurtosis {}",
                spec.name,
                moment(4)
            );
            let beyond_two = scaled.iter().filter(|value| value.abs() > 2.0).count() as f64 / count;
            assert!(
                (beyond_two - 0.0455).abs() < bound(0.0434),
                "{} tail {beyond_two}",
                spec.name
            );
        }
    }

    #[test]
    fn series_are_close_to_the_functions() {
        for step in 0..10_000 {
            let x = (step as f32 + 0.5) / 10_000.0;
            assert!(
                (ln(x) - x.ln()).abs() <= 3e-7 * x.ln().abs().max(1.0),
                "ln {x}"
            );
            let angle = (x - 0.5) * std::f32::consts::FRAC_PI_2;
            let (sine, cosine) = sine_and_cosine(angle);
            assert!(
                (sine - angle.sin()).abs() < 2e-7 && (cosine - angle.cos()).abs() < 2e-7,
                "angle {angle}"
            );
        }
        assert!((ln(2f32.powi(-25)) - 2f32.powi(-25).ln()).abs() < 2e-6);
    }

    #[test]
    fn the_seed_decides_and_not_the_threads() {
        let config = small();
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(1)
            .build()
            .unwrap();
        let alone = pool.install(|| random_weights(&config, 1));
        assert!(alone == random_weights(&config, 1));
        assert!(alone != random_weights(&config, 2));
        // Chunks and tensors must not repeat each other.
        assert_ne!(alone[0][..8], alone[0][CHUNK..CHUNK + 8]);
        assert_ne!(alone[0][..8], alone[2][..8]);
    }
}
