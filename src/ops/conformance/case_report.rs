//! What a check found: how many cases ran, how far each output was from the reference, and what was
//! wrong.

use anyhow::{Context, Result, anyhow, ensure};
use serde::Serialize;
use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::Precision;
use super::bounds::{BIAS_FROM, allowed};

/// What an operation gave: names and values of its outputs.
pub type Outputs = Vec<(&'static str, Vec<f32>)>;

/// Findings whose text is kept: a device that computes nothing right has thousands.
const KEPT: usize = 20;

/// The largest differences of one output over all cases. Not a number is `null` in JSON.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Measured {
    /// Operation, and what is special about its inputs.
    pub operation: &'static str,
    /// Its output.
    pub output: &'static str,
    /// As [`super::bounds::Bound`] has it.
    pub error: f64,
    /// Its bound.
    pub allowed_error: f64,
    /// Of outputs with at least [`BIAS_FROM`] elements.
    pub bias: f64,
    /// Its bound.
    pub allowed_bias: f64,
}

impl Measured {
    /// The larger of error and bias as a part of what is allowed; not a number where a value is
    /// not.
    pub(crate) fn part(&self) -> f64 {
        let part = |found: f64, allowed: f64| if found == 0.0 { 0.0 } else { found / allowed };
        let parts = [
            part(self.error, self.allowed_error),
            part(self.bias, self.allowed_bias),
        ];
        larger(parts[0], parts[1])
    }
}

/// `f64::max` would drop a NaN.
fn larger(a: f64, b: f64) -> f64 {
    if a.is_nan() || a > b { a } else { b }
}

/// Counts the cases of a running check.
#[derive(Default)]
pub struct CaseReport {
    cases: usize,
    values: usize,
    failed: usize,
    findings: Vec<String>,
    measured: Vec<Measured>,
}

impl CaseReport {
    /// Runs one case. It gives the number of values that it compared. An error, a panic, and a case
    /// that compares nothing are findings.
    pub fn case(&mut self, name: impl fmt::Display, run: impl FnOnce() -> Result<usize>) {
        self.cases += 1;
        let done = catch_unwind(AssertUnwindSafe(run))
            .unwrap_or_else(|cause| Err(anyhow!("it panicked: {}", text_of(&*cause))));
        match done {
            Ok(values) if values > 0 => self.values += values,
            Ok(_) => self.fail(format!("{name}: nothing was compared")),
            Err(error) => self.fail(format!("{name}: {error:#}")),
        }
    }

    /// Runs an operation on the device and on the reference as one case, and compares what they
    /// give.
    pub(crate) fn compare(
        &mut self,
        precision: Precision,
        operation: &'static str,
        case: impl fmt::Debug,
        run: impl FnOnce() -> Result<(Outputs, Outputs)>,
    ) {
        let mut measured = Vec::new();
        self.case(format_args!("{operation} {case:?}"), || {
            let (found, expected) = run()?;
            compared(precision, operation, &found, &expected, &mut measured)
        });
        for new in measured {
            let same = |old: &&mut Measured| (old.operation, old.output) == (operation, new.output);
            match self.measured.iter_mut().find(same) {
                Some(old) => {
                    old.error = larger(new.error, old.error);
                    old.bias = larger(new.bias, old.bias);
                }
                None => self.measured.push(new),
            }
        }
    }

    fn fail(&mut self, finding: String) {
        self.failed += 1;
        if self.findings.len() < KEPT {
            self.findings.push(finding);
        }
    }
}

fn text_of(cause: &(dyn Any + Send)) -> &str {
    let text = cause.downcast_ref::<&str>().copied();
    text.or_else(|| cause.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without a text")
}

/// Normalised error and bias of `found`. The error is relative to the output's rms; in 16 bits to
/// the element where that is larger, because each is rounded by itself.
pub fn difference(precision: Precision, found: &[f32], expected: &[f32]) -> (f64, f64) {
    let squares: f64 = expected.iter().map(|&b| f64::from(b) * f64::from(b)).sum();
    let count = expected.len().max(1) as f64;
    let rms = (squares / count).sqrt().max(f64::from(f32::MIN_POSITIVE));
    let (mut largest, mut sum) = (0.0_f64, 0.0_f64);
    for (&a, &b) in found.iter().zip(expected) {
        let error = f64::from(a) - f64::from(b);
        let unit = precision.choose(rms, rms.max(f64::from(b).abs()));
        largest = larger(error.abs() / unit, largest);
        sum += error;
    }
    (largest, (sum / count).abs() / rms)
}

/// Number of values compared; what was measured is noted also where it is too much.
fn compared(
    precision: Precision,
    operation: &'static str,
    found: &Outputs,
    expected: &Outputs,
    measured: &mut Vec<Measured>,
) -> Result<usize> {
    let (allowed_error, allowed_bias, reason) = allowed(operation, precision)
        .with_context(|| format!("{operation} has no bound in {precision}"))?;
    ensure!(
        found.len() == expected.len(),
        "{} outputs, the reference has {}",
        found.len(),
        expected.len()
    );
    let mut values = 0;
    for ((output, found), (_, expected)) in found.iter().zip(expected) {
        ensure!(
            found.len() == expected.len() && !found.is_empty(),
            "{output} has {} values, the reference's has {}",
            found.len(),
            expected.len()
        );
        ensure!(
            expected.iter().all(|value| value.is_finite()),
            "the reference's {output} is not finite"
        );
        let (error, bias) = difference(precision, found, expected);
        // Of few elements it is an error and no mean.
        let bias = if found.len() < BIAS_FROM { 0.0 } else { bias };
        measured.push(Measured {
            operation,
            output,
            error,
            allowed_error,
            bias,
            allowed_bias,
        });
        ensure!(
            error <= allowed_error,
            "{output} differs by {error:.1e}, allowed are {allowed_error:.1e} ({reason})"
        );
        ensure!(
            bias <= allowed_bias,
            "the bias of {output} is {bias:.1e}, allowed is {allowed_bias:.1e}"
        );
        values += found.len();
    }
    Ok(values)
}

/// What a check found.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Name of the check.
    pub check: &'static str,
    /// What the device stores; `None` where a check is of single instructions.
    pub precision: Option<Precision>,
    /// Whether every case ran and none was out of bounds.
    pub passed: bool,
    /// Cases that ran.
    pub cases: usize,
    /// Cases that failed.
    pub failed_cases: usize,
    /// Values that were compared.
    pub values: usize,
    /// What was wrong: the first twenty findings.
    pub findings: Vec<String>,
    /// The largest differences by output.
    pub(crate) measured: Vec<Measured>,
}

impl Outcome {
    /// Runs a check that has so many cases. Another number is a finding.
    pub fn of(
        check: &'static str,
        precision: Option<Precision>,
        cases: usize,
        run: impl FnOnce(&mut CaseReport),
    ) -> Self {
        let mut report = CaseReport::default();
        if let Err(cause) = catch_unwind(AssertUnwindSafe(|| run(&mut report))) {
            report.fail(format!("it panicked between cases: {}", text_of(&*cause)));
        }
        if report.cases != cases || cases == 0 {
            let text = format!("{} cases ran, the check has {cases}", report.cases);
            report.findings.insert(0, text);
        }
        Self {
            check,
            precision,
            passed: report.findings.is_empty(),
            cases: report.cases,
            failed_cases: report.failed,
            values: report.values,
            findings: report.findings,
            measured: report.measured,
        }
    }

    /// Its name, with the precision where there is one.
    pub(crate) fn name(&self) -> String {
        match self.precision {
            Some(precision) => format!("{} {precision}", self.check),
            None => self.check.to_owned(),
        }
    }

    /// The largest difference as a part of what is allowed; `None` where results are exact.
    pub(crate) fn part(&self) -> Option<f64> {
        let parts = self.measured.iter().map(Measured::part);
        parts.reduce(larger)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.passed { "ok" } else { "FAILED" };
        let (name, cases) = (self.name(), self.cases);
        write!(out, "{verdict:<6}  {name:<26}  {cases:>3} cases")?;
        if self.passed {
            return match self.part() {
                Some(part) => write!(out, ", at most {:.0}% of what is allowed", 100.0 * part),
                None => write!(out, ", exact"),
            };
        }
        write!(out, ", {} failed", self.failed_cases)?;
        for finding in &self.findings {
            write!(out, "\n        {finding}")?;
        }
        if self.failed_cases > self.findings.len() {
            write!(
                out,
                "\n        and {} more",
                self.failed_cases - self.findings.len()
            )?;
        }
        Ok(())
    }
}
