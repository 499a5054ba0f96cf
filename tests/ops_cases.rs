//! The operation case table: every operation of [`Device`] against the reference device, on seeded inputs.
//!
//! Each buffer is longer than the operation needs. Behind an input stand NaNs (or indices out of range), so that a read
//! past the used part spoils the result; behind an output stand sentinels that must keep their bits. Outputs that the
//! trait writes (`=`) begin as NaN, outputs that it adds to (`+=`) begin as random values. With `SHOW_ERRORS` set in the
//! environment and `--nocapture`, the measured errors are printed.

mod attention;
mod dense;
mod determinism;
mod errors;
mod head;
mod moe;
mod optimizer;

use muni_engine::ops::Device;
use muni_engine::ops::reference::ReferenceDevice;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// What an operation may differ from the reference by.
struct Bound {
    operation: &'static str,
    /// Largest `max|a - b| / rms(b)` of one output.
    error: f64,
    /// Largest `|mean(a - b)| / rms(b)` of an output with at least [`BIAS_FROM`] elements: rounding errors cancel in the
    /// mean, a dropped or doubled term does not.
    bias: f64,
    reason: &'static str,
}

/// Elements from which an output's bias is a mean and not a single error.
const BIAS_FROM: usize = 1000;

const fn bound(operation: &'static str, error: f64, bias: f64, reason: &'static str) -> Bound {
    Bound {
        operation,
        error,
        bias,
        reason,
    }
}

/// The bounds; `docs/numerics.md` gives the same numbers. One unit in the last place is 1.2e-7.
const BOUNDS: &[Bound] = &[
    bound("embedding_forward", 0.0, 0.0, "a copy"),
    bound(
        "embedding_backward",
        5e-6,
        5e-8,
        "f32 sums over a token's occurrences, here up to 257",
    ),
    bound(
        "rmsnorm_forward",
        4e-6,
        5e-8,
        "f32 sum of squares over a row",
    ),
    bound(
        "rmsnorm_backward",
        4e-6,
        5e-8,
        "f32 sums over a row, and over rows for the weight",
    ),
    bound(
        "linear_forward",
        5e-6,
        5e-8,
        "f32 sums of up to 448 products",
    ),
    bound(
        "linear_backward_input",
        5e-6,
        5e-8,
        "f32 sums of up to 448 products",
    ),
    bound(
        "linear_backward_weight",
        5e-6,
        5e-8,
        "f32 sums over up to 257 rows",
    ),
    bound(
        "rope_forward",
        1e-4,
        5e-7,
        "f32 frequencies and angles as Transformers has them: an angle of 150 is up to 4e-5 off",
    ),
    bound("rope_backward", 1e-4, 5e-7, "as rope_forward"),
    bound(
        "attention_forward",
        1e-5,
        5e-8,
        "exp of f32 scores, f32 sums",
    ),
    bound(
        "attention_backward",
        1e-5,
        5e-8,
        "as forward, with the probabilities made again",
    ),
    bound(
        "attention_backward, peaked",
        1e-4,
        1e-7,
        "scores of some tens carry their f32 error into the probabilities",
    ),
    bound("attention_cached", 1e-5, 5e-8, "as attention_forward"),
    bound(
        "router_forward",
        2e-6,
        5e-8,
        "softmax of f32 logits; choice and order are equal",
    ),
    bound(
        "router_forward, logits of 80",
        5e-5,
        2e-7,
        "logits of 80 are 1e-5 off, and so are probabilities",
    ),
    bound(
        "router_backward",
        1e-5,
        5e-8,
        "f32 softmax gradient, f32 sums over tokens",
    ),
    bound(
        "router_backward, logits of 80",
        5e-5,
        2e-7,
        "logits of 80 are 1e-5 off, and so are probabilities",
    ),
    bound(
        "experts_forward",
        5e-6,
        5e-8,
        "two f32 products in a row, exp within 2 ulp",
    ),
    bound(
        "experts_backward",
        2e-5,
        5e-8,
        "three f32 products in a row, f32 sums over tokens",
    ),
    bound(
        "head_loss",
        5e-6,
        5e-8,
        "f32 logits, exp within 2 ulp, f32 sums over the vocabulary",
    ),
    bound(
        "head_loss, logits of 80",
        4e-5,
        1e-7,
        "logits of 80 are 1e-5 off, and so are probabilities",
    ),
    bound(
        "head_losses",
        2e-6,
        5e-8,
        "f32 logits, exp within 2 ulp, f32 sums over the vocabulary",
    ),
    bound("head_logits", 4e-6, 5e-8, "f32 sums of up to 384 products"),
    bound(
        "global_norm",
        5e-7,
        5e-8,
        "f32 sums of 4,096 squares, those in f64",
    ),
    bound("adamw", 4e-6, 1e-8, "element by element in f32"),
];

/// Elements behind the used part of every buffer.
const TAIL: usize = 19;
/// Stands behind outputs; exact in every storage precision.
const SENTINEL: f32 = -1984.0;
/// Stands behind indices: neither a token nor the mark of an ignored target.
const WRONG_INDEX: u32 = u32::MAX - 7;

/// Seeded inputs.
struct Values(ChaCha8Rng);

impl Values {
    fn new(seed: usize) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed as u64))
    }

    /// Sums of four uniform numbers, standard deviation `scale`.
    fn normal(&mut self, len: usize, scale: f32) -> Vec<f32> {
        let mut uniform = || (self.0.next_u32() >> 8) as f32 / (1 << 24) as f32 - 0.5;
        (0..len)
            .map(|_| scale * 3.0_f32.sqrt() * (uniform() + uniform() + uniform() + uniform()))
            .collect()
    }

    fn index(&mut self, below: usize) -> u32 {
        self.0.next_u32() % below as u32
    }

    fn indices(&mut self, len: usize, below: usize) -> Vec<u32> {
        (0..len).map(|_| self.index(below)).collect()
    }
}

fn followed_by(values: &[f32], tail: f32) -> Vec<f32> {
    [values, &[tail; TAIL]].concat()
}

fn float<D: Device>(device: &D, values: &[f32]) -> D::Float {
    let mut buffer = device.zeros_float(values.len()).unwrap();
    device.upload_float(values, &mut buffer).unwrap();
    buffer
}

fn single<D: Device>(device: &D, values: &[f32]) -> D::Single {
    let mut buffer = device.zeros_single(values.len()).unwrap();
    device.upload_single(values, &mut buffer).unwrap();
    buffer
}

fn input<D: Device>(device: &D, values: &[f32]) -> D::Float {
    float(device, &followed_by(values, f32::NAN))
}

fn input_single<D: Device>(device: &D, values: &[f32]) -> D::Single {
    single(device, &followed_by(values, f32::NAN))
}

fn input_index<D: Device>(device: &D, values: &[u32]) -> D::Index {
    let values = [values, &[WRONG_INDEX; TAIL]].concat();
    let mut buffer = device.zeros_index(values.len()).unwrap();
    device.upload_index(&values, &mut buffer).unwrap();
    buffer
}

/// An output that is added to.
fn added<D: Device>(device: &D, initial: &[f32]) -> D::Float {
    float(device, &followed_by(initial, SENTINEL))
}

fn added_single<D: Device>(device: &D, initial: &[f32]) -> D::Single {
    single(device, &followed_by(initial, SENTINEL))
}

/// An output that is written.
fn written<D: Device>(device: &D, len: usize) -> D::Float {
    added(device, &vec![f32::NAN; len])
}

fn written_single<D: Device>(device: &D, len: usize) -> D::Single {
    added_single(device, &vec![f32::NAN; len])
}

/// What an operation gave: names and values of its outputs.
type Outputs = Vec<(&'static str, Vec<f32>)>;

fn without_tail(mut values: Vec<f32>, len: usize) -> Vec<f32> {
    for (i, value) in values[len..].iter().enumerate() {
        let same = value.to_bits() == SENTINEL.to_bits();
        assert!(same, "element {i} behind an output became {value}");
    }
    values.truncate(len);
    values
}

/// The used part of an output whose sentinels are intact.
fn read<D: Device>(device: &D, buffer: &D::Float, len: usize) -> Vec<f32> {
    without_tail(device.download_float(buffer, len + TAIL).unwrap(), len)
}

fn read_single<D: Device>(device: &D, buffer: &D::Single, len: usize) -> Vec<f32> {
    without_tail(device.download_single(buffer, len + TAIL).unwrap(), len)
}

/// Runs `$run(device, ...)` and the same on the reference device, and compares.
macro_rules! same_as_reference {
    ($operation:expr, $case:expr, $run:ident, $device:expr $(, $argument:expr)*) => {
        $crate::ops_cases::compare(
            $operation,
            &format!("{:?}", $case),
            &$run($device $(, $argument)*),
            &$run(&muni_engine::ops::reference::ReferenceDevice $(, $argument)*),
        )
    };
}
use same_as_reference;

/// Normalised error and bias of `found`.
fn difference(found: &[f32], expected: &[f32]) -> (f64, f64) {
    let (mut largest, mut sum, mut squares) = (0.0_f64, 0.0_f64, 0.0_f64);
    for (&a, &b) in found.iter().zip(expected) {
        let error = f64::from(a) - f64::from(b);
        // f64::max would drop a NaN.
        if !largest.is_nan() && (error.is_nan() || error.abs() > largest) {
            largest = error.abs();
        }
        sum += error;
        squares += f64::from(b) * f64::from(b);
    }
    let count = expected.len().max(1) as f64;
    let rms = (squares / count).sqrt().max(f64::from(f32::MIN_POSITIVE));
    (largest / rms, (sum / count).abs() / rms)
}

fn compare(operation: &str, case: &str, found: &Outputs, expected: &Outputs) {
    let bound = BOUNDS.iter().find(|bound| bound.operation == operation);
    let bound = bound.unwrap_or_else(|| panic!("{operation} has no bound"));
    assert_eq!(found.len(), expected.len());
    for ((name, found), (_, expected)) in found.iter().zip(expected) {
        assert_eq!(found.len(), expected.len(), "{operation} {name}");
        assert!(
            expected.iter().all(|value| value.is_finite()),
            "{operation} {case}: the reference's {name} is not finite"
        );
        let (error, bias) = difference(found, expected);
        if std::env::var_os("SHOW_ERRORS").is_some() {
            println!(
                "measured {operation} {name} {error:.1e} {bias:.1e} {} {case}",
                found.len()
            );
        }
        assert!(
            error <= bound.error,
            "{operation} {case}: {name} differs by {error:.1e}, allowed are {:.1e} ({})",
            bound.error,
            bound.reason
        );
        assert!(
            bias <= bound.bias || found.len() < BIAS_FROM,
            "{operation} {case}: the bias of {name} is {bias:.1e}, allowed is {:.1e}",
            bound.bias
        );
    }
}

#[test]
fn the_comparison_sees_nan_bias_and_sentinels() {
    let expected = vec![1.0_f32; 2000];
    assert_eq!(difference(&expected, &expected), (0.0, 0.0));
    let mut found = expected.clone();
    found[7] = f32::NAN;
    assert!(difference(&found, &expected).0.is_nan());
    let shifted: Vec<f32> = expected.iter().map(|value| value + 0.5).collect();
    assert_eq!(difference(&shifted, &expected), (0.5, 0.5));

    let device = ReferenceDevice;
    let mut buffer = written(&device, 3);
    assert!(read(&device, &buffer, 3).iter().all(|value| value.is_nan()));
    buffer[3] = 0.0;
    assert!(std::panic::catch_unwind(|| read(&device, &buffer, 3)).is_err());
}

#[test]
fn the_documentation_gives_the_same_bounds() {
    let text = include_str!("../docs/numerics.md");
    for bound in BOUNDS {
        let row = format!(
            "| `{}` | {:e} | {:e} | {} |",
            bound.operation, bound.error, bound.bias, bound.reason
        );
        assert!(text.contains(&row), "docs/numerics.md lacks the row\n{row}");
    }
}
