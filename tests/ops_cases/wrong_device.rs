//! The table finds what is wrong: with one operation off by a thousandth in one element, in each operation in turn, and with a
//! device that computes nothing.

use super::*;
use anyhow::Result;
use muni_engine::ops::cases::Outcome;
use muni_engine::ops::cpu::Buffer;
use muni_engine::ops::cuda::rehearsal::RehearsalDriver;
use muni_engine::ops::{
    AdamState, AdamStep, AttentionShape, Balance, CachedText, MoeShape, Routing,
};
use rayon::prelude::*;
use std::sync::Arc;

/// The CPU, but for some operations whose first result is off by a thousandth.
struct Off {
    device: CpuDevice,
    wrong: &'static [&'static str],
}

impl Off {
    /// What an operation did, and the mistake where it is one of them.
    fn spoil(&self, operation: &str, done: Result<()>, output: &mut [f32]) -> Result<()> {
        if self.wrong.contains(&operation) {
            output[0] += 1e-3 * (1.0 + output[0].abs());
        }
        done
    }
}

fn routing_of(given: &Routing<Off>) -> Routing<CpuDevice> {
    Routing {
        probs: given.probs.clone(),
        experts: given.experts.clone(),
        weights: given.weights.clone(),
        offsets: given.offsets.clone(),
        slot_source: given.slot_source.clone(),
        source_slot: given.source_slot.clone(),
    }
}

fn balance_of(given: &Balance<Off>) -> Balance<CpuDevice> {
    Balance {
        counts: given.counts.clone(),
        prob_sums: given.prob_sums.clone(),
    }
}

type Floats = Buffer<f32>;
type Indices = Buffer<u32>;

#[rustfmt::skip]
impl Device for Off {
    type Float = Floats;
    type Single = Floats;
    type Index = Indices;
    type Host = Floats;
    type Graph = ();

    fn name(&self) -> String {
        format!("{} with wrong {:?}", self.device.name(), self.wrong)
    }
    fn zeros_float(&self, len: usize) -> Result<Floats> { self.device.zeros_float(len) }
    fn zeros_single(&self, len: usize) -> Result<Floats> { self.device.zeros_single(len) }
    fn zeros_index(&self, len: usize) -> Result<Indices> { self.device.zeros_index(len) }
    fn upload_float(&self, values: &[f32], buffer: &mut Floats) -> Result<()> { self.device.upload_float(values, buffer) }
    fn host_buffer(&self, len: usize) -> Result<Floats> { self.device.host_buffer(len) }
    fn adopt_float(&self, values: Floats) -> Result<Floats> { self.device.adopt_float(values) }
    fn upload_single(&self, values: &[f32], buffer: &mut Floats) -> Result<()> { self.device.upload_single(values, buffer) }
    fn upload_index(&self, values: &[u32], buffer: &mut Indices) -> Result<()> { self.device.upload_index(values, buffer) }
    fn download_float(&self, buffer: &Floats, len: usize) -> Result<Vec<f32>> { self.device.download_float(buffer, len) }
    fn download_single(&self, buffer: &Floats, len: usize) -> Result<Vec<f32>> { self.device.download_single(buffer, len) }
    fn download_index(&self, buffer: &Indices, len: usize) -> Result<Vec<u32>> { self.device.download_index(buffer, len) }
    fn clear_float(&self, buffer: &mut Floats, len: usize) -> Result<()> { self.device.clear_float(buffer, len) }
    fn clear_single(&self, buffer: &mut Floats, len: usize) -> Result<()> { self.device.clear_single(buffer, len) }
    fn copy_single(&self, from: &Floats, len: usize, to: &mut Floats, at: usize) -> Result<()> { self.device.copy_single(from, len, to, at) }
    fn adam_state(&self, values: &[f32]) -> Result<AdamState<Self>> {
        let AdamState { master, first, second } = self.device.adam_state(values)?;
        Ok(AdamState { master, first, second })
    }

    fn embedding_forward(&self, table: &Floats, tokens: &Indices, out: &mut Floats, count: usize, vocab: usize, hidden: usize) -> Result<()> {
        let done = self.device.embedding_forward(table, tokens, out, count, vocab, hidden);
        self.spoil("embedding_forward", done, out)
    }
    fn embedding_backward(&self, grad_out: &Floats, tokens: &Indices, grad_table: &mut Floats, count: usize, vocab: usize, hidden: usize) -> Result<()> {
        let done = self.device.embedding_backward(grad_out, tokens, grad_table, count, vocab, hidden);
        self.spoil("embedding_backward", done, grad_table)
    }
    fn rmsnorm_forward(&self, x: &Floats, weight: &Floats, epsilon: f32, out: &mut Floats, inv_rms: &mut Floats, rows: usize, cols: usize) -> Result<()> {
        let done = self.device.rmsnorm_forward(x, weight, epsilon, out, inv_rms, rows, cols);
        self.spoil("rmsnorm_forward", done, inv_rms)
    }
    fn rmsnorm_backward(&self, grad_out: &Floats, x: &Floats, weight: &Floats, inv_rms: &Floats, grad_x: &mut Floats, grad_weight: &mut Floats, rows: usize, cols: usize) -> Result<()> {
        let done = self.device.rmsnorm_backward(grad_out, x, weight, inv_rms, grad_x, grad_weight, rows, cols);
        self.spoil("rmsnorm_backward", done, grad_weight)
    }
    fn linear_forward(&self, x: &Floats, weight: &Floats, residual: Option<&Floats>, y: &mut Floats, rows: usize, inputs: usize, outputs: usize) -> Result<()> {
        let done = self.device.linear_forward(x, weight, residual, y, rows, inputs, outputs);
        self.spoil("linear_forward", done, y)
    }
    fn linear_backward_input(&self, grad_y: &Floats, weight: &Floats, grad_x: &mut Floats, accumulate: bool, rows: usize, inputs: usize, outputs: usize) -> Result<()> {
        let done = self.device.linear_backward_input(grad_y, weight, grad_x, accumulate, rows, inputs, outputs);
        self.spoil("linear_backward_input", done, grad_x)
    }
    fn linear_backward_weight(&self, grad_y: &Floats, x: &Floats, grad_weight: &mut Floats, rows: usize, inputs: usize, outputs: usize) -> Result<()> {
        let done = self.device.linear_backward_weight(grad_y, x, grad_weight, rows, inputs, outputs);
        self.spoil("linear_backward_weight", done, grad_weight)
    }
    fn rope_forward(&self, qkv: &mut Floats, positions: &Indices, theta: f32, shape: &AttentionShape, count: usize) -> Result<()> {
        let done = self.device.rope_forward(qkv, positions, theta, shape, count);
        self.spoil("rope_forward", done, qkv)
    }
    fn rope_backward(&self, grad_qkv: &mut Floats, positions: &Indices, theta: f32, shape: &AttentionShape, count: usize) -> Result<()> {
        let done = self.device.rope_backward(grad_qkv, positions, theta, shape, count);
        self.spoil("rope_backward", done, grad_qkv)
    }
    fn attention_forward(&self, qkv: &Floats, segments: &Indices, out: &mut Floats, log_sum: &mut Floats, shape: &AttentionShape, segment_count: usize, count: usize) -> Result<()> {
        let done = self.device.attention_forward(qkv, segments, out, log_sum, shape, segment_count, count);
        self.spoil("attention_forward", done, log_sum)
    }
    fn attention_backward(&self, grad_out: &Floats, qkv: &Floats, out: &Floats, log_sum: &Floats, segments: &Indices, grad_qkv: &mut Floats, shape: &AttentionShape, segment_count: usize, count: usize) -> Result<()> {
        let done = self.device.attention_backward(grad_out, qkv, out, log_sum, segments, grad_qkv, shape, segment_count, count);
        self.spoil("attention_backward", done, grad_qkv)
    }
    fn attention_cached(&self, qkv: &Floats, keys: &mut Floats, values: &mut Floats, out: &mut Floats, shape: &AttentionShape, past: usize, count: usize, capacity: usize) -> Result<()> {
        let done = self.device.attention_cached(qkv, keys, values, out, shape, past, count, capacity);
        self.spoil("attention_cached", done, out)
    }
    fn attention_cached_texts(&self, qkv: &Floats, texts: &mut [CachedText<Self>], out: &mut Floats, shape: &AttentionShape, capacity: usize) -> Result<()> {
        let mut inner: Vec<CachedText<CpuDevice>> = texts
            .iter_mut()
            .map(|text| CachedText { keys: &mut *text.keys, values: &mut *text.values, past: text.past })
            .collect();
        let done = self.device.attention_cached_texts(qkv, &mut inner, out, shape, capacity);
        self.spoil("attention_cached_texts", done, out)
    }
    fn router_forward(&self, x: &Floats, weight: &Floats, routing: &mut Routing<Self>, balance: &mut Balance<Self>, groups: &Indices, group_count: usize, shape: &MoeShape, count: usize) -> Result<()> {
        let (mut inner, mut sums) = (routing_of(routing), balance_of(balance));
        let done = self.device.router_forward(x, weight, &mut inner, &mut sums, groups, group_count, shape, count);
        let Routing { probs, experts, weights, offsets, slot_source, source_slot } = inner;
        *routing = Routing { probs, experts, weights, offsets, slot_source, source_slot };
        let Balance { counts, prob_sums } = sums;
        *balance = Balance { counts, prob_sums };
        self.spoil("router_forward", done, &mut balance.prob_sums)
    }
    fn router_backward(&self, grad_weights: &Floats, x: &Floats, weight: &Floats, routing: &Routing<Self>, balance: &Balance<Self>, groups: &Indices, group_count: usize, layers: usize, balance_scale: f32, grad_x: &mut Floats, grad_weight: &mut Floats, shape: &MoeShape, count: usize) -> Result<()> {
        let (routing, balance) = (routing_of(routing), balance_of(balance));
        let done = self.device.router_backward(grad_weights, x, weight, &routing, &balance, groups, group_count, layers, balance_scale, grad_x, grad_weight, shape, count);
        self.spoil("router_backward", done, grad_weight)
    }
    fn experts_forward(&self, x: &Floats, routing: &Routing<Self>, w13: &Floats, w2: &Floats, residual: &Floats, gate_up: &mut Floats, out: &mut Floats, shape: &MoeShape, count: usize) -> Result<()> {
        let done = self.device.experts_forward(x, &routing_of(routing), w13, w2, residual, gate_up, out, shape, count);
        self.spoil("experts_forward", done, out)
    }
    fn experts_backward(&self, grad_out: &Floats, x: &Floats, routing: &Routing<Self>, w13: &Floats, w2: &Floats, gate_up: &Floats, grad_x: &mut Floats, grad_w13: &mut Floats, grad_w2: &mut Floats, grad_weights: &mut Floats, shape: &MoeShape, count: usize) -> Result<()> {
        let done = self.device.experts_backward(grad_out, x, &routing_of(routing), w13, w2, gate_up, grad_x, grad_w13, grad_w2, grad_weights, shape, count);
        self.spoil("experts_backward", done, grad_weights)
    }
    fn head_loss(&self, x: &Floats, table: &Floats, targets: &Indices, scale: &Floats, loss: &mut Floats, grad_x: &mut Floats, grad_table: &mut Floats, count: usize, vocab: usize, hidden: usize) -> Result<()> {
        let done = self.device.head_loss(x, table, targets, scale, loss, grad_x, grad_table, count, vocab, hidden);
        self.spoil("head_loss", done, grad_table)
    }
    fn head_losses(&self, x: &Floats, table: &Floats, targets: &Indices, losses: &mut Floats, count: usize, vocab: usize, hidden: usize) -> Result<()> {
        let done = self.device.head_losses(x, table, targets, losses, count, vocab, hidden);
        self.spoil("head_losses", done, losses)
    }
    fn head_logits(&self, x: &Floats, table: &Floats, logits: &mut Floats, first_row: usize, rows: usize, vocab: usize, hidden: usize) -> Result<()> {
        let done = self.device.head_logits(x, table, logits, first_row, rows, vocab, hidden);
        self.spoil("head_logits", done, logits)
    }
    fn global_norm(&self, gradients: &[(&Floats, usize)], norm: &mut Floats) -> Result<()> {
        let done = self.device.global_norm(gradients, norm);
        self.spoil("global_norm", done, norm)
    }
    fn adamw(&self, weight: &mut Floats, gradient: &mut Floats, state: &mut AdamState<Self>, norm: &Floats, rate: &Floats, step: &AdamStep, len: usize) -> Result<()> {
        let mut inner: AdamState<CpuDevice> = AdamState {
            master: state.master.take(),
            first: std::mem::take(&mut state.first),
            second: std::mem::take(&mut state.second),
        };
        let done = self.device.adamw(weight, gradient, &mut inner, norm, rate, step, len);
        *state = AdamState { master: inner.master, first: inner.first, second: inner.second };
        self.spoil("adamw", done, &mut state.second)
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
    ("attention/cached", &["attention_cached"]),
    ("attention/texts", &["attention_cached_texts"]),
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
    let driver = Arc::new(RehearsalDriver::new(4));
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
