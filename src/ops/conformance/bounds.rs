//! What each operation may differ from the reference by, and why. `docs/numerics.md` gives the same
//! numbers; a test compares them.

use super::Precision;

/// What an operation may differ from the reference by.
pub struct Bound {
    /// Operation, and what is special about its inputs.
    pub operation: &'static str,
    /// Largest `max|a - b| / rms(b)` of one output.
    pub error: f64,
    /// Largest `|mean(a - b)| / rms(b)` of an output with at least `BIAS_FROM` elements: rounding
    /// errors cancel in the mean, a dropped or doubled term does not.
    pub bias: f64,
    /// Why it is so large.
    pub reason: &'static str,
}

/// Elements from which an output's bias is a mean and not a single error.
pub(crate) const BIAS_FROM: usize = 1000;

const fn bound(operation: &'static str, error: f64, bias: f64, reason: &'static str) -> Bound {
    Bound {
        operation,
        error,
        bias,
        reason,
    }
}

/// The bounds; `docs/numerics.md` gives the same numbers. One unit in the last place is 1.2e-7.
pub const BOUNDS: &[Bound] = &[
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
    bound("attention_prefill", 1e-5, 5e-8, "as attention_forward"),
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

/// The bounds of devices that store fp16; bf16 has 8 bits where fp16 has 11, so its bounds are
/// `BFLOAT_FACTOR` times these. An element's error is divided by the larger of its own size and
/// the output's rms, so 4.9e-4 is one rounding to fp16.
pub const HALF_BOUNDS: &[Bound] = &[
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
        "probabilities, their gradients and the result are rounded to fp16, and so is the kept \
         output, in differences that nearly cancel",
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
        "attention_prefill",
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
        "the kept gates and ups, their gradients and the activations are rounded to fp16; experts \
         with more tokens than others have larger sums than the rms",
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
pub(crate) const BFLOAT_FACTOR: f64 = 8.0;

/// What an operation may differ by where the device stores values in this precision: error, bias,
/// and why.
pub(super) fn allowed(operation: &str, precision: Precision) -> Option<(f64, f64, &'static str)> {
    let (bounds, factor) = match precision {
        Precision::Single => (BOUNDS, 1.0),
        Precision::Half => (HALF_BOUNDS, 1.0),
        Precision::Bfloat => (HALF_BOUNDS, BFLOAT_FACTOR),
    };
    let bound = bounds.iter().find(|bound| bound.operation == operation)?;
    Some((bound.error * factor, bound.bias * factor, bound.reason))
}
