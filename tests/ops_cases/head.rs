//! Head and cross-entropy.

use super::*;
use muni_engine::ops::IGNORE_TARGET;
use muni_engine::ops::cpu::CpuDevice;

/// One batch for the head.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    pub count: usize,
    pub vocab: usize,
    pub hidden: usize,
    /// Every so many-th target is ignored; 1: all, 0: none.
    pub ignored: usize,
    /// Standard deviation of the logits.
    pub logits: f32,
}

impl Case {
    pub const fn new(count: usize, vocab: usize, hidden: usize, ignored: usize) -> Self {
        Self {
            count,
            vocab,
            hidden,
            ignored,
            logits: 2.0,
        }
    }

    fn inputs(&self) -> (Vec<f32>, Vec<f32>, Vec<u32>) {
        let mut values = Values::new(self.count + self.vocab);
        let x = values.normal(self.count * self.hidden, 1.0);
        let scale = self.logits / (self.hidden as f32).sqrt();
        let table = values.normal(self.vocab * self.hidden, scale);
        let mut targets = values.indices(self.count, self.vocab);
        targets[self.count - 1] = self.vocab as u32 - 1;
        if self.ignored > 0 {
            let ignored = targets.iter_mut().step_by(self.ignored);
            ignored.for_each(|target| *target = IGNORE_TARGET);
        }
        (x, table, targets)
    }
}

pub fn head_loss<D: Device>(device: &D, case: Case) -> Outputs {
    let (x, table, targets) = case.inputs();
    let mut values = Values::new(case.count);
    let mut loss = added_single(device, &[1.5]);
    let mut grad_x = written(device, x.len());
    let mut grad_table = added(device, &values.normal(table.len(), 1.0));
    device
        .head_loss(
            &input(device, &x),
            &input(device, &table),
            &input_index(device, &targets),
            &input_single(device, &[0.37]),
            &mut loss,
            &mut grad_x,
            &mut grad_table,
            case.count,
            case.vocab,
            case.hidden,
        )
        .unwrap();
    vec![
        ("loss", read_single(device, &loss, 1)),
        ("grad_x", read(device, &grad_x, x.len())),
        ("grad_table", read(device, &grad_table, table.len())),
    ]
}

fn head_losses<D: Device>(device: &D, case: Case) -> Outputs {
    let (x, table, targets) = case.inputs();
    let mut losses = written_single(device, case.count);
    device
        .head_losses(
            &input(device, &x),
            &input(device, &table),
            &input_index(device, &targets),
            &mut losses,
            case.count,
            case.vocab,
            case.hidden,
        )
        .unwrap();
    vec![("losses", read_single(device, &losses, case.count))]
}

/// Logits of the rows from the `first`.
fn head_logits<D: Device>(device: &D, case: Case, first: usize) -> Outputs {
    let (x, table, _) = case.inputs();
    let rows = case.count - first;
    let mut logits = written_single(device, rows * case.vocab);
    device
        .head_logits(
            &input(device, &x),
            &input(device, &table),
            &mut logits,
            first,
            rows,
            case.vocab,
            case.hidden,
        )
        .unwrap();
    vec![("logits", read_single(device, &logits, rows * case.vocab))]
}

fn cases() -> Vec<Case> {
    let rows = [1, 2, 3, 5, 7, 17, 63, 64, 65, 130, 257];
    let mut cases: Vec<Case> = rows
        .into_iter()
        .flat_map(|rows| [Case::new(rows, 131, 40, 0), Case::new(rows, 257, 36, 3)])
        .collect();
    cases.extend([
        Case::new(7, 5003, 48, 2),
        Case::new(65, 5003, 36, 0),
        Case::new(3, 50257, 384, 0),
        Case::new(2, 1, 36, 0),
        // 600 counted tokens, and 600 of 900: two of the CPU's chunks of 512.
        Case::new(600, 257, 36, 0),
        Case::new(900, 257, 36, 3),
        // All ignored.
        Case::new(17, 257, 36, 1),
        Case::new(1, 257, 36, 1),
    ]);
    // On the simulator: both tiles, one token and one word beyond a tile, two of the CUDA device's chunks of 2,048.
    let simulated = vec![
        Case::new(1, 131, 40, 0),
        Case::new(3, 257, 36, 3),
        Case::new(65, 65, 33, 0),
        Case::new(130, 600, 40, 3),
        Case::new(129, 129, 72, 0),
        Case::new(7, 5003, 48, 2),
        Case::new(2, 1, 36, 0),
        Case::new(2100, 40, 16, 3),
        Case::new(17, 257, 36, 1),
        Case::new(1, 257, 36, 1),
    ];
    let mut cases = by_precision(cases, simulated);
    for count in [1, 17, 65] {
        cases.push(Case {
            logits: 80.0,
            ..Case::new(count, 257, 36, 0)
        });
    }
    cases
}

fn check_head<D: Device>(device: &D) {
    for case in cases() {
        let operation = match case {
            Case { logits: 80.0, .. } => "head_loss, logits of 80",
            Case { vocab: 50257, .. } => "head_loss, 50,257 words",
            _ => "head_loss",
        };
        let (found, expected) = (head_loss(device, case), head_loss(&ReferenceDevice, case));
        compare(operation, &format!("{case:?}"), &found, &expected);
        // The sum of the losses is f32 also where gradients are rounded to 16 bits.
        let (found, expected) = (found[..1].to_vec(), expected[..1].to_vec());
        compare("head_losses", &format!("{case:?}"), &found, &expected);
        same_as_reference!("head_losses", case, head_losses, device, case);
        same_as_reference!("head_logits", case, head_logits, device, case, 0);
        let last = case.count - 1;
        same_as_reference!("head_logits", case, head_logits, device, case, last);
    }
}

#[test]
fn cpu_equals_reference_head() {
    check_head(&CpuDevice::new());
}

on_simulator!(sim_equals_reference_head, check_head);

/// GPT-2's vocabulary is odd and has 393 tiles.
#[test]
fn sim_equals_reference_head_gpt2_vocabulary() {
    with_precision(Precision::Half, || {
        let case = Case::new(3, 50257, 16, 0);
        same_as_reference!("head_loss", case, head_loss, &simulator::<f16>(), case);
    });
}

/// With every target ignored nothing may change, not even by a rounding.
fn check_all_ignored<D: Device>(device: &D) {
    let case = Case::new(65, 257, 36, 1);
    let outputs = head_loss(device, case);
    let before = rounded(&Values::new(case.count).normal(case.vocab * case.hidden, 1.0));
    assert_eq!(outputs[0].1, [1.5]);
    assert!(outputs[1].1.iter().all(|&gradient| gradient == 0.0));
    assert_eq!(outputs[2].1, before);
    assert!(
        head_losses(device, case)[0]
            .1
            .iter()
            .all(|&loss| loss == 0.0)
    );
}

#[test]
fn cpu_head_ignores_all_targets() {
    check_all_ignored(&CpuDevice::new());
    check_all_ignored(&ReferenceDevice);
}

on_simulator!(sim_head_ignores_all_targets, check_all_ignored);

/// A NaN or an infinity, in a counted row of `x` or anywhere in the table, must show in the loss.
fn check_broken_input<D: Device>(device: &D) {
    for case in [Case::new(5, 257, 36, 0), Case::new(130, 1000, 40, 3)] {
        for broken in [f32::NAN, f32::INFINITY] {
            for (in_x, at) in [
                (true, 4 * case.hidden + 1),
                (false, 0),
                (false, 200 * case.hidden + 7),
                (false, case.vocab * case.hidden - 1),
            ] {
                let (mut x, mut table, targets) = case.inputs();
                let buffer = if in_x { &mut x } else { &mut table };
                buffer[at] = broken;
                let mut loss = added_single(device, &[0.0]);
                device
                    .head_loss(
                        &input(device, &x),
                        &input(device, &table),
                        &input_index(device, &targets),
                        &input_single(device, &[1.0]),
                        &mut loss,
                        &mut written(device, x.len()),
                        &mut added(device, &vec![0.0; table.len()]),
                        case.count,
                        case.vocab,
                        case.hidden,
                    )
                    .unwrap();
                let loss = read_single(device, &loss, 1)[0];
                let shown = !loss.is_finite() && (broken.is_infinite() || loss.is_nan());
                assert!(
                    shown,
                    "{case:?}: {broken} (in x: {in_x}) at {at} gave the loss {loss}"
                );
            }
        }
    }
}

#[test]
fn cpu_head_shows_broken_input() {
    check_broken_input(&CpuDevice::new());
    check_broken_input(&ReferenceDevice);
}

on_simulator!(sim_head_shows_broken_input, check_broken_input);
