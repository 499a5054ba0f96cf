//! `muni-engine doctor --check-kernels`: whether this machine's device computes what it should,
//! with nothing but this binary. A card or the simulator is checked instruction by instruction and
//! operation by operation in both of its precisions, the CPU by operation.

use anyhow::{Result, ensure};
use serde::Serialize;
use std::sync::Arc;

use super::device::{DeviceChoice, Inspection};
use crate::ops::Operations;
use crate::ops::conformance::{self, Outcome, Precision};
use crate::ops::cpu::CpuDevice;
use crate::ops::cuda::driver::Driver;
use crate::ops::cuda::instructions;

/// Runs the checks that are named, or all; what each found goes to standard output, as lines or as
/// one object.
///
/// # Errors
/// Where the device cannot be had, a name is none, or a check failed.
pub(super) fn run(device: DeviceChoice, only: &[String], json: bool) -> Result<()> {
    let known = names();
    for name in only {
        ensure!(
            known.iter().any(|known| is_named(known, name)),
            "--only {name} is no check; there are {}",
            known.join(", ")
        );
    }
    let mut report = Report::new(only, json);
    device.inspect(&mut report)?;
    report.end()
}

/// Names of all checks.
fn names() -> Vec<&'static str> {
    let instructions = instructions::CHECKS.iter().map(|check| check.name);
    let table = conformance::checks::<CpuDevice>();
    instructions
        .chain(table.iter().map(|check| check.name))
        .collect()
}

/// Whether a check is meant by its own name or that of its group: `moe` is `moe/router` and
/// `moe/experts`.
fn is_named(check: &str, name: &str) -> bool {
    check == name
        || check
            .split_once('/')
            .is_some_and(|(group, _)| group == name)
}

/// Runs checks and keeps what they found.
struct Report<'a> {
    device: Vec<String>,
    checks: Vec<Outcome>,
    only: &'a [String],
    /// One object at the end instead of lines.
    json: bool,
}

/// The object of `--json`.
#[derive(Serialize)]
struct Json<'a> {
    /// Its name in each precision.
    device: &'a [String],
    checks: &'a [Outcome],
    cases: usize,
    values: usize,
    passed: usize,
    failed: usize,
}

impl<'a> Report<'a> {
    fn new(only: &'a [String], json: bool) -> Self {
        Self {
            device: Vec::new(),
            checks: Vec::new(),
            only,
            json,
        }
    }

    /// Prints the counts, or the object.
    ///
    /// # Errors
    /// Where a check failed, or none ran.
    fn end(&self) -> Result<()> {
        let failed = self.failed();
        let (checks, cases, values) = self.counts();
        let text = format!("{} of {checks} checks failed", failed.len());
        if self.json {
            println!("{}", serde_json::to_string_pretty(&self.as_json())?);
        } else {
            println!("{text}; {cases} cases, {values} values compared");
        }
        ensure!(
            checks > 0,
            "none of the checks that --only names is for this device"
        );
        ensure!(failed.is_empty(), "{text}: {}", failed.join(", "));
        Ok(())
    }

    fn is_wanted(&self, check: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|name| is_named(check, name))
    }

    fn found(&mut self, outcome: Outcome) {
        if !self.json {
            println!("{outcome}");
        }
        self.checks.push(outcome);
    }

    fn begin(&mut self, device: String) {
        if !self.json {
            println!("{device}");
        }
        self.device.push(device);
    }

    /// Names of those that failed.
    fn failed(&self) -> Vec<String> {
        let failed = self.checks.iter().filter(|check| !check.passed);
        failed.map(Outcome::name).collect()
    }

    /// Checks, cases, values compared.
    fn counts(&self) -> (usize, usize, usize) {
        let cases = self.checks.iter().map(|check| check.cases).sum();
        let values = self.checks.iter().map(|check| check.values).sum();
        (self.checks.len(), cases, values)
    }

    fn as_json(&self) -> Json<'_> {
        let (checks, cases, values) = self.counts();
        let failed = self.failed().len();
        Json {
            device: &self.device,
            checks: &self.checks,
            cases,
            values,
            passed: checks - failed,
            failed,
        }
    }
}

impl Inspection for Report<'_> {
    fn driver(&mut self, driver: &Arc<dyn Driver>) {
        self.begin(driver.name());
        for check in &instructions::CHECKS {
            if self.is_wanted(check.name) {
                self.found(check.run(driver));
            }
        }
    }

    fn device<D: Operations>(&mut self, device: &D, precision: Precision) {
        self.begin(device.name());
        for check in conformance::checks::<D>() {
            if check.cases(precision) > 0 && self.is_wanted(check.name) {
                self.found(check.run(device, precision));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::cuda::CudaDevice;
    use half::f16;

    /// The command, on a device and with a driver that compute nothing.
    #[test]
    fn what_computes_nothing_fails() {
        let only = ["dense/rope", "attention/texts", "head/all-ignored"].map(String::from);
        let mut report = Report::new(&only, true);
        let device = CudaDevice::<f16>::dry(4).unwrap();
        report.device(&device, Precision::Half);
        let error = report.end().unwrap_err().to_string();
        let wanted =
            "3 of 3 checks failed: dense/rope fp16, attention/texts fp16, head/all-ignored fp16";
        assert_eq!(error, wanted);
        let json = serde_json::to_value(report.as_json()).unwrap();
        assert_eq!((&json["failed"], &json["passed"]), (&3.into(), &0.into()));
        assert_eq!(json["checks"][0]["precision"], "fp16");
        assert_eq!(json["checks"][0]["passed"], false);
        assert_eq!(json["checks"][0]["failed_cases"], 88);
        assert_eq!(json["checks"][0]["findings"].as_array().unwrap().len(), 20);
    }

    #[test]
    fn a_report_without_checks_is_no_success() {
        let only = ["head/gpt2-vocabulary".to_string()];
        let mut report = Report::new(&only, true);
        report.device(&CpuDevice::new(), Precision::Single);
        let error = report.end().unwrap_err().to_string();
        assert!(error.contains("none of the checks"), "{error}");
    }

    #[test]
    fn a_check_is_named_by_itself_or_its_group() {
        assert!(is_named("moe/router", "moe/router") && is_named("moe/router", "moe"));
        for wrong in ["", "mo", "router", "moe/", "moe/experts", "moe/router/"] {
            assert!(!is_named("moe/router", wrong), "{wrong}");
        }
    }

    #[test]
    fn every_check_has_a_name_of_its_own() {
        let mut all = names();
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
        assert!(all.iter().all(|name| name.split('/').count() == 2));
    }
}
