//! Values of options as clap reads them: numbers within bounds, sizes, times.

use std::str::FromStr;
use std::time::Duration;

/// `\n` as people type it on a command line.
pub(super) fn unescape(text: &str) -> Result<String, std::convert::Infallible> {
    Ok(text.replace("\\n", "\n"))
}

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

/// `8GiB`, `6.5 GiB`, `7500MB`, or a number of bytes.
pub(super) fn byte_size(text: &str) -> Result<u64, String> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        "k" | "kib" => 1024.0,
        "m" | "mib" => 1048576.0,
        "g" | "gib" => 1073741824.0,
        _ => 0.0,
    };
    match number.parse::<f64>() {
        Ok(number) if factor > 0.0 && number > 0.0 && number * factor < 1e18 => {
            Ok((number * factor) as u64)
        }
        _ => Err("expected a size such as 8GiB, 6.5GiB or 7500MB".to_string()),
    }
}

pub(super) fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if seconds > 0.0 && seconds <= 86_400.0 => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("expected seconds, above 0 and up to 86400".to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_memory_are_read_exactly() {
        for (text, bytes) in [
            ("8GiB", 8 << 30),
            ("6.5 gib", 13 << 29),
            ("7500MB", 7_500_000_000),
            ("2g", 2 << 30),
            ("1024", 1024),
        ] {
            assert_eq!(byte_size(text), Ok(bytes), "{text}");
        }
        for wrong in ["", "GiB", "8 apples", "-1GiB", "0", "1.2.3GiB", "inf"] {
            assert!(byte_size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn numbers_outside_their_bounds_are_refused() {
        assert_eq!(at_least_zero("0"), Ok(0.0));
        assert!(at_least_zero("-0.1").is_err());
        assert!(above_zero("0").is_err() && above_zero("nan").is_err());
        assert_eq!(probability("1"), Ok(1.0));
        assert!(probability("1.01").is_err());
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        assert!(seconds("0").is_err() && seconds("86401").is_err());
    }
}
