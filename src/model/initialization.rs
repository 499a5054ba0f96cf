//! Fresh weights, distributed as Transformers initialises Mixtral: every matrix normal with standard deviation
//! `initializer_range`, every norm 1.

use super::{ModelConfig, TensorSpec};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use sha2::{Digest, Sha256};

/// Values per random stream: small enough to spread the embedding over all cores.
const CHUNK: usize = 1 << 16;

/// Fresh weights, one vector per fused parameter. They depend on the sizes, the seed and nothing else: each tensor has
/// its own key, and each chunk of it its own stream, whatever thread fills it.
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

/// Normal values by Box and Muller (1958): two from each pair of uniform ones. With 32 random bits the largest is 6.7
/// standard deviations out.
fn fill_normal(random: &mut ChaCha8Rng, deviation: f32, values: &mut [f32]) {
    let mut bytes = [0; 1024];
    for block in values.chunks_mut(bytes.len() / 4) {
        random.fill_bytes(&mut bytes);
        for (pair, bytes) in block.chunks_mut(2).zip(bytes.chunks_exact(8)) {
            let (radius, angle) = bytes.split_at(4);
            let uniform =
                |bytes: &[u8]| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as f32;
            // In (0, 1]: the logarithm of 0 is infinite. Adding a half leaves large values as they are in f32.
            let radius = (uniform(radius) + 0.5) * 2f32.powi(-32);
            let (sine, cosine) =
                (uniform(angle) * (std::f32::consts::TAU * 2f32.powi(-32))).sin_cos();
            let radius = deviation * (-2.0 * radius.ln()).sqrt();
            pair[0] = radius * cosine;
            if let Some(second) = pair.get_mut(1) {
                *second = radius * sine;
            }
        }
    }
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
