//! The table finds what is wrong: with one operation off by a thousandth in one element, in each
//! operation in turn, and with a device that computes nothing.

use super::*;
use anyhow::Result;
use muni_engine::ops::conformance::Outcome;
use muni_engine::ops::cpu::HostBuffer;
use muni_engine::ops::cuda::driver::fake::FakeDriver;
use muni_engine::ops::{AdamState, Checked, Operation, Run};
use rayon::prelude::*;
use std::sync::Arc;

/// The CPU, but for some operations whose first result is off by a thousandth.
struct Off {
    device: CpuDevice,
    wrong: &'static [&'static str],
}

/// An operation that can be spoilt.
trait Spoil: Operation {
    /// The first element of one of its outputs.
    fn output(&mut self) -> *mut f32;
}

type Floats = HostBuffer<f32>;
type Indices = HostBuffer<u32>;

macro_rules! spoil {
    ($($operation:ident<$($buffer:ident),*>: $($field:ident).+;)*) => {$(
        impl Spoil for muni_engine::ops::$operation<'_, $($buffer),*> {
            fn output(&mut self) -> *mut f32 {
                &raw mut self.$($field).+[0]
            }
        }
    )*};
}
spoil! {
    EmbeddingForward<Floats, Indices>: out.buffer;
    EmbeddingBackward<Floats, Indices>: grad_table.buffer;
    RmsNormForward<Floats, Floats>: inv_rms.buffer;
    RmsNormBackward<Floats, Floats>: grad_weight.buffer;
    LinearForward<Floats>: y.buffer;
    LinearBackwardInput<Floats>: grad_x.buffer;
    LinearBackwardWeight<Floats>: grad_weight.buffer;
    RopeForward<Floats, Indices>: qkv.buffer;
    RopeBackward<Floats, Indices>: grad_qkv.buffer;
    AttentionForward<Floats, Floats, Indices>: log_sum.buffer;
    AttentionBackward<Floats, Floats, Indices>: grad_qkv.buffer;
    AttentionPrefill<Floats>: out.buffer;
    AttentionDecode<Floats>: out.buffer;
    RouterForward<Floats, Floats, Indices>: balance.prob_sums;
    RouterBackward<Floats, Floats, Indices>: grad_weight.buffer;
    ExpertsForward<Floats, Floats, Indices>: out.buffer;
    ExpertsBackward<Floats, Floats, Indices>: grad_weights.buffer;
    HeadLoss<Floats, Floats, Indices>: grad_table.buffer;
    HeadLosses<Floats, Floats, Indices>: losses.buffer;
    HeadLogits<Floats, Floats>: logits.buffer;
    GlobalNorm<Floats, Floats>: norm.buffer;
    AdamW<Floats, Floats>: state.second;
}

impl<O: Spoil> Run<O> for Off
where
    CpuDevice: Run<O>,
{
    fn run(&self, mut operation: Checked<O>) -> Result<()> {
        let output = operation.get_mut().output();
        self.device.run(operation)?;
        if self.wrong.contains(&O::NAME) {
            // SAFETY: the operation borrowed the output from a caller who still has it, and is
            // over.
            unsafe { *output += 1e-3 * (1.0 + (*output).abs()) };
        }
        Ok(())
    }
}

impl Device for Off {
    type Float = Floats;
    type Single = Floats;
    type Index = Indices;
    type Host = Floats;

    const STORAGE_BYTES: usize = 4;

    fn name(&self) -> String {
        format!("{} with wrong {:?}", self.device.name(), self.wrong)
    }
    fn zeros_float(&self, len: usize) -> Result<Floats> {
        self.device.zeros_float(len)
    }
    fn zeros_single(&self, len: usize) -> Result<Floats> {
        self.device.zeros_single(len)
    }
    fn zeros_index(&self, len: usize) -> Result<Indices> {
        self.device.zeros_index(len)
    }
    fn upload_float(&self, values: &[f32], buffer: &mut Floats) -> Result<()> {
        self.device.upload_float(values, buffer)
    }
    fn host_buffer(&self, len: usize) -> Result<Floats> {
        self.device.host_buffer(len)
    }
    fn adopt_float(&self, values: Floats) -> Result<Floats> {
        self.device.adopt_float(values)
    }
    fn upload_single(&self, values: &[f32], buffer: &mut Floats) -> Result<()> {
        self.device.upload_single(values, buffer)
    }
    fn upload_index(&self, values: &[u32], buffer: &mut Indices) -> Result<()> {
        self.device.upload_index(values, buffer)
    }
    fn download_float(&self, buffer: &Floats, len: usize) -> Result<Vec<f32>> {
        self.device.download_float(buffer, len)
    }
    fn download_single(&self, buffer: &Floats, len: usize) -> Result<Vec<f32>> {
        self.device.download_single(buffer, len)
    }
    fn download_index(&self, buffer: &Indices, len: usize) -> Result<Vec<u32>> {
        self.device.download_index(buffer, len)
    }
    fn clear_float(&self, buffer: &mut Floats, len: usize) -> Result<()> {
        self.device.clear_float(buffer, len)
    }
    fn clear_single(&self, buffer: &mut Floats, len: usize) -> Result<()> {
        self.device.clear_single(buffer, len)
    }
    fn copy_single(&self, from: &Floats, len: usize, to: &mut Floats, at: usize) -> Result<()> {
        self.device.copy_single(from, len, to, at)
    }
    fn adam_state(&self, values: &[f32]) -> Result<AdamState<Floats>> {
        self.device.adam_state(values)
    }
}

/// Checks, and the operations that are wrong, one after another.
const ONE_BY_ONE: [(&str, &[&str]); 11] = [
    (
        "dense/embedding",
        &["embedding_forward", "embedding_backward"],
    ),
    ("dense/rmsnorm", &["rmsnorm_forward", "rmsnorm_backward"]),
    (
        "dense/linear",
        &[
            "linear_forward",
            "linear_backward_input",
            "linear_backward_weight",
        ],
    ),
    ("dense/rope", &["rope_forward", "rope_backward"]),
    (
        "attention/segments",
        &["attention_forward", "attention_backward"],
    ),
    ("attention/cached", &["attention_prefill"]),
    ("attention/texts", &["attention_decode"]),
    ("moe/experts", &["experts_forward", "experts_backward"]),
    ("head/all-ignored", &["head_loss"]),
    ("optimizer/global-norm", &["global_norm"]),
    ("optimizer/broken-norm", &["adamw"]),
];
/// The same where a check takes long: all at once, and all must be named.
const TOGETHER: [(&str, &[&str]); 3] = [
    ("moe/router", &["router_forward", "router_backward"]),
    ("head/loss", &["head_loss", "head_losses", "head_logits"]),
    ("optimizer/adamw", &["adamw"]),
];

/// Runs a check on a device on which these operations are wrong.
fn run(check: &str, wrong: &'static [&'static str]) -> Outcome {
    let device = CpuDevice::new();
    let table = checks::<Off>();
    let found = table.iter().find(|found| found.name == check).unwrap();
    found.run(&Off { device, wrong }, Precision::Single)
}

#[test]
fn a_thousandth_in_one_element_of_one_operation_is_found() {
    let one = |(check, operations): (&'static str, &'static [&'static str])| {
        operations.chunks(1).map(move |wrong| (check, wrong))
    };
    let all: Vec<_> = ONE_BY_ONE
        .into_iter()
        .flat_map(one)
        .chain(TOGETHER)
        .collect();
    all.into_par_iter().for_each(|(check, wrong)| {
        let outcome = run(check, wrong);
        let text = outcome.to_string();
        assert!(!outcome.passed && text.starts_with("FAILED"), "{text}");
        // Every one is named, nothing else is blamed, and the other cases ran all the same.
        let named = |operation: &&str| outcome.findings.iter().any(|f| f.starts_with(*operation));
        assert!(wrong.iter().all(named), "{wrong:?}: {text}");
        for finding in &outcome.findings {
            let blamed = wrong.iter().any(|operation| finding.starts_with(operation));
            assert!(blamed, "{wrong:?}: {text}");
        }
        let table = checks::<CpuDevice>();
        let found = table.iter().find(|found| found.name == check).unwrap();
        assert_eq!(outcome.cases, found.cases(Precision::Single), "{text}");
    });
    // The device is right where nothing is spoilt.
    let outcome = run("dense/rope", &[]);
    assert!(outcome.passed, "{outcome}");
}

#[test]
fn a_device_that_computes_nothing_fails_every_check() {
    let driver = Arc::new(FakeDriver::new(4));
    let device = CudaDevice::<f16>::on(driver, LossScaling::Fixed(1.0)).unwrap();
    for check in checks() {
        let outcome = check.run(&device, Precision::Half);
        assert_eq!(outcome.cases, check.cases(Precision::Half), "{outcome}");
        // Half of this check's cases are the reference's own.
        let own = if check.name == "attention/cached" {
            2
        } else {
            1
        };
        assert_eq!(outcome.failed_cases, outcome.cases / own, "{outcome}");
    }
}

/// The numbers of cases are part of the table: with fewer it fails, whatever they gave.
#[test]
fn a_check_without_its_cases_fails() {
    let with = |cases: usize, run: usize, values: usize| {
        Outcome::of("some/check", None, cases, |tally| {
            (0..run).for_each(|_| tally.case("a case", || Ok(values)));
        })
    };
    assert!(with(2, 2, 1).passed);
    for (cases, run, values) in [(2, 1, 1), (2, 3, 1), (2, 0, 1), (0, 0, 1), (2, 2, 0)] {
        let outcome = with(cases, run, values);
        assert!(!outcome.passed, "{cases} {run} {values}");
    }
    let broken = Outcome::of("some/check", None, 3, |tally| {
        tally.case("panics", || panic!("at the disco"));
        tally.case("fails", || anyhow::bail!("no memory"));
        tally.case("passes", || Ok(1));
    });
    assert_eq!(
        (broken.cases, broken.failed_cases, broken.values),
        (3, 2, 1)
    );
    let text = broken.to_string();
    for part in ["panics: it panicked: at the disco", "fails: no memory"] {
        assert!(text.contains(part), "{text}");
    }
}
