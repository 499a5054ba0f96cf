//! Numbers on the command line: what is out of range is refused with what was expected.

use std::str::FromStr;

pub(super) fn at_least_zero(text: &str) -> Result<f32, String> {
    number(text, |value| value >= 0.0, "a number of at least 0")
}

pub(super) fn above_zero(text: &str) -> Result<f32, String> {
    number(text, |value| value > 0.0, "a number above 0")
}

pub(super) fn probability(text: &str) -> Result<f32, String> {
    let fits = |value| value > 0.0 && value <= 1.0;
    number(text, fits, "a number above 0 and up to 1")
}

fn number(text: &str, fits: impl Fn(f32) -> bool, expected: &str) -> Result<f32, String> {
    match f32::from_str(text) {
        Ok(value) if value.is_finite() && fits(value) => Ok(value),
        _ => Err(format!("expected {expected}")),
    }
}
