//! The operation case table: every operation of [`Device`] against the reference device, on seeded inputs.
//!
//! Each buffer is longer than the operation needs. Behind an input stand NaNs (or indices out of range), so that a read
//! past the used part spoils the result; behind an output stand sentinels that must keep their bits. Outputs that the
//! trait writes (`=`) begin as NaN, outputs that it adds to (`+=`) begin as random values. With `SHOW_ERRORS` set in the
//! environment and `--nocapture`, the measured errors are printed.
//!
//! The CUDA device runs the same cases on the simulator, which checks each launch under five schedules, in fp16 and in bf16.
//! Its inputs are rounded to 16 bits for the reference too, so that only the kernels' own error is left.

mod attention;
mod dense;
mod determinism;
mod errors;
mod head;
mod moe;
mod optimizer;

use half::{bf16, f16};
use muni_engine::ops::Device;
use muni_engine::ops::cuda::driver::Driver;
use muni_engine::ops::cuda::memory::Element;
use muni_engine::ops::cuda::sim_driver::SimDriver;
use muni_engine::ops::cuda::{CudaDevice, LossScaling};
use muni_engine::ops::reference::ReferenceDevice;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::cell::Cell;
use std::sync::Arc;

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
        "head_loss, 50,257 words",
        1e-4,
        1e-7,
        "words less probable than 2^-24 for a group of tokens enter by their sums",
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
    bound("adamw, state", 4e-6, 1e-8, "element by element in f32"),
];

/// The bounds of devices that store fp16; bf16 has 8 bits where fp16 has 11, so its bounds are [`BFLOAT_FACTOR`] times these.
/// An element's error is divided by the larger of its own size and the output's rms, so 4.9e-4 is one rounding to fp16.
const HALF_BOUNDS: &[Bound] = &[
    bound("embedding_forward", 0.0, 0.0, "a copy"),
    bound(
        "embedding_backward",
        5.5e-4,
        4e-5,
        "one rounding to fp16, sums in f32",
    ),
    bound(
        "rope_forward",
        5.5e-4,
        4e-5,
        "one rounding to fp16, f32 angles",
    ),
    bound("rope_backward", 5.5e-4, 4e-5, "as rope_forward"),
    bound(
        "attention_forward",
        1.5e-3,
        4e-5,
        "probabilities and the result are rounded to fp16",
    ),
    bound(
        "attention_backward",
        8e-3,
        4e-5,
        "probabilities, their gradients and the result are rounded to fp16, and so is the kept output, in differences that nearly cancel",
    ),
    bound(
        "attention_backward, peaked",
        2e-2,
        1e-4,
        "the kept output's rounding, in differences that nearly cancel: see below",
    ),
    bound(
        "attention_backward, peaked, same output",
        6e-3,
        1e-4,
        "as attention_backward, beside an f64 twin that reads the same rounded output",
    ),
    bound(
        "attention_cached",
        5.5e-4,
        4e-5,
        "one rounding to fp16, sums in f32",
    ),
    bound(
        "router_forward",
        2e-6,
        5e-8,
        "f32 from the product on; choice and order are equal",
    ),
    bound(
        "router_forward, logits of 80",
        1e-5,
        5e-8,
        "logits of 80 are 1e-5 off, and so are probabilities",
    ),
    bound(
        "router_backward",
        5.5e-4,
        4e-5,
        "one rounding to fp16, sums in f32",
    ),
    bound(
        "router_backward, logits of 80",
        5.5e-4,
        4e-5,
        "as router_backward",
    ),
    bound(
        "global_norm",
        5e-7,
        5e-8,
        "f32 sums of 16,384 squares, those in f64",
    ),
    bound("adamw", 5.5e-4, 4e-5, "the weight is rounded to fp16"),
    bound("adamw, state", 5e-7, 1e-8, "element by element in f32"),
    bound(
        "rmsnorm_forward",
        6e-4,
        4e-5,
        "one rounding to fp16, sums in f32",
    ),
    bound(
        "rmsnorm_backward",
        6e-4,
        4e-5,
        "one rounding to fp16, sums in f32",
    ),
    bound(
        "linear_forward",
        5.5e-4,
        4e-5,
        "one rounding to fp16, sums in f32",
    ),
    bound(
        "linear_backward_input",
        5.5e-4,
        4e-5,
        "one rounding to fp16, sums in f32",
    ),
    bound(
        "linear_backward_weight",
        5.5e-4,
        4e-5,
        "one rounding to fp16, sums in f32",
    ),
    bound(
        "experts_forward",
        2e-3,
        4e-5,
        "activations, each slot's output and the sum are rounded to fp16",
    ),
    bound(
        "experts_backward",
        6e-3,
        4e-5,
        "the kept gates and ups, their gradients and the activations are rounded to fp16; experts with more tokens than others have larger sums than the rms",
    ),
    bound(
        "head_loss",
        1.5e-3,
        4e-5,
        "exponentials, their gradients and the result are rounded to fp16",
    ),
    bound(
        "head_loss, logits of 80",
        1.5e-3,
        4e-5,
        "as head_loss: exponentials are relative to their part's greatest",
    ),
    bound("head_losses", 1e-6, 5e-8, "f32 from the product on"),
    bound("head_logits", 2e-6, 5e-8, "f32 from the product on"),
];

/// bf16 keeps three bits less than fp16.
const BFLOAT_FACTOR: f64 = 8.0;

/// Storage precision of the device under test.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Precision {
    Single,
    Half,
    Bfloat,
}

thread_local! {
    /// Of the check that runs on this thread; [`float`] rounds by it on every device.
    static PRECISION: Cell<Precision> = const { Cell::new(Precision::Single) };
}

fn precision() -> Precision {
    PRECISION.with(Cell::get)
}

/// `single` where the device under test stores `f32`, else `half`: for values that fp16 does not reach (65504 at most).
fn by_precision<T>(single: T, half: T) -> T {
    match precision() {
        Precision::Single => single,
        Precision::Half | Precision::Bfloat => half,
    }
}

fn rounded(values: &[f32]) -> Vec<f32> {
    match precision() {
        Precision::Single => values.to_vec(),
        Precision::Half => values.iter().map(|&x| f16::from_f32(x).to_f32()).collect(),
        Precision::Bfloat => values.iter().map(|&x| bf16::from_f32(x).to_f32()).collect(),
    }
}

/// Runs a check with inputs rounded to a precision.
fn with_precision(precision: Precision, check: impl FnOnce()) {
    PRECISION.with(|cell| cell.set(precision));
    check();
    PRECISION.with(|cell| cell.set(Precision::Single));
}

/// The simulated card, checking every launch, without a loss scale.
pub fn simulator<E: Element>() -> CudaDevice<E> {
    scaled_simulator(LossScaling::Fixed(1.0))
}

/// The same with a loss scale. `MUNI_SIM_LIBRARY` names another build of the kernels, `MUNI_TEST_DEVICE` a card.
pub fn scaled_simulator<E: Element>(scaling: LossScaling) -> CudaDevice<E> {
    let driver: Arc<dyn Driver> = match std::env::var_os("MUNI_SIM_LIBRARY") {
        // AddressSanitizer's: once is enough there.
        Some(path) => Arc::new(SimDriver::load(path.as_ref(), false).unwrap()),
        None => crate::cuda::device::driver(true),
    };
    CudaDevice::on(driver, scaling).unwrap()
}

/// A test that runs `$check(&device)` on the simulator in fp16 and in bf16.
macro_rules! on_simulator {
    ($name:ident, $check:expr) => {
        #[test]
        fn $name() {
            use $crate::ops_cases::{Precision, simulator, with_precision};
            with_precision(Precision::Half, || $check(&simulator::<half::f16>()));
            with_precision(Precision::Bfloat, || $check(&simulator::<half::bf16>()));
        }
    };
}
use on_simulator;

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
    device.upload_float(&rounded(values), &mut buffer).unwrap();
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

/// Normalised error and bias of `found`. The error is relative to the output's rms; in 16 bits to the element where that is
/// larger, because each is rounded by itself.
fn difference(found: &[f32], expected: &[f32]) -> (f64, f64) {
    let squares: f64 = expected.iter().map(|&b| f64::from(b) * f64::from(b)).sum();
    let count = expected.len().max(1) as f64;
    let rms = (squares / count).sqrt().max(f64::from(f32::MIN_POSITIVE));
    let (mut largest, mut sum) = (0.0_f64, 0.0_f64);
    for (&a, &b) in found.iter().zip(expected) {
        let error = f64::from(a) - f64::from(b);
        let relative = error.abs() / by_precision(rms, rms.max(f64::from(b).abs()));
        // f64::max would drop a NaN.
        if !largest.is_nan() && (relative.is_nan() || relative > largest) {
            largest = relative;
        }
        sum += error;
    }
    (largest, (sum / count).abs() / rms)
}

fn compare(operation: &str, case: &str, found: &Outputs, expected: &Outputs) {
    let (bounds, factor) = match precision() {
        Precision::Single => (BOUNDS, 1.0),
        Precision::Half => (HALF_BOUNDS, 1.0),
        Precision::Bfloat => (HALF_BOUNDS, BFLOAT_FACTOR),
    };
    let bound = bounds.iter().find(|bound| bound.operation == operation);
    let bound = bound.unwrap_or_else(|| panic!("{operation} has no bound for {:?}", precision()));
    let (error_bound, bias_bound) = (bound.error * factor, bound.bias * factor);
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
                "measured {operation} {name} {error:.1e} {bias:.1e} {} {:?} {case}",
                found.len(),
                precision()
            );
        }
        assert!(
            error <= error_bound,
            "{operation} {case} {:?}: {name} differs by {error:.1e}, allowed are {error_bound:.1e} ({})",
            precision(),
            bound.reason
        );
        assert!(
            bias <= bias_bound || found.len() < BIAS_FROM,
            "{operation} {case} {:?}: the bias of {name} is {bias:.1e}, allowed is {bias_bound:.1e}",
            precision()
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
    for bound in BOUNDS.iter().chain(HALF_BOUNDS) {
        let row = format!(
            "| `{}` | {:e} | {:e} | {} |",
            bound.operation, bound.error, bound.bias, bound.reason
        );
        assert!(text.contains(&row), "docs/numerics.md lacks the row\n{row}");
    }
}
