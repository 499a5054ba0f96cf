//! Head and cross-entropy.

use anyhow::{Context, Result, ensure};

use super::{CaseReport, Outputs, Precision, TestDevice, Values, same_as_reference};
use crate::ops::{Buffer, HeadLogits, HeadLoss, HeadLosses, IGNORE_TARGET, Operations, issue};

/// One batch for the head.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Tokens.
    pub count: usize,
    /// Words.
    pub vocab: usize,
    /// Columns of a token and of a word.
    pub hidden: usize,
    /// Every so many-th target is ignored; 1: all, 0: none.
    pub ignored: usize,
    /// Standard deviation of the logits.
    pub logits: f32,
}

impl Case {
    /// With logits of the usual size.
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

/// Loss, which is added to, and gradients, at a scale of 0.37.
///
/// # Errors
/// When the device fails, or writes behind an output.
pub fn head_loss<D: Operations>(test: TestDevice<'_, D>, case: Case) -> Result<Outputs> {
    let (x, table, targets) = case.inputs();
    let mut values = Values::new(case.count);
    let mut loss = test.added_single(&[1.5])?;
    let mut grad_x = test.written(x.len())?;
    let mut grad_table = test.added(&values.normal(table.len(), 1.0))?;
    issue(
        test.device,
        HeadLoss {
            x: test.input(&x)?.matrix(case.count, case.hidden),
            table: test.input(&table)?.matrix(case.vocab, case.hidden),
            targets: test.input_index(&targets)?.vector(case.count),
            scale: test.input_single(&[0.37])?.vector(1),
            loss: loss.vector_mut(1),
            grad_x: grad_x.matrix_mut(case.count, case.hidden),
            grad_table: grad_table.matrix_mut(case.vocab, case.hidden),
        },
    )?;
    Ok(vec![
        ("loss", test.read_single(&loss, 1)?),
        ("grad_x", test.read(&grad_x, x.len())?),
        ("grad_table", test.read(&grad_table, table.len())?),
    ])
}

fn head_losses<D: Operations>(test: TestDevice<'_, D>, case: Case) -> Result<Outputs> {
    let (x, table, targets) = case.inputs();
    let mut losses = test.written_single(case.count)?;
    issue(
        test.device,
        HeadLosses {
            x: test.input(&x)?.matrix(case.count, case.hidden),
            table: test.input(&table)?.matrix(case.vocab, case.hidden),
            targets: test.input_index(&targets)?.vector(case.count),
            losses: losses.vector_mut(case.count),
        },
    )?;
    Ok(vec![("losses", test.read_single(&losses, case.count)?)])
}

/// Logits of the rows from the `first`.
fn head_logits<D: Operations>(
    test: TestDevice<'_, D>,
    case: Case,
    first: usize,
) -> Result<Outputs> {
    let (x, table, _) = case.inputs();
    let rows = case.count - first;
    let mut logits = test.written_single(rows * case.vocab)?;
    issue(
        test.device,
        HeadLogits {
            x: test.input(&x)?.matrix(first + rows, case.hidden),
            table: test.input(&table)?.matrix(case.vocab, case.hidden),
            logits: logits.matrix_mut(rows, case.vocab),
            first_row: first,
        },
    )?;
    Ok(vec![(
        "logits",
        test.read_single(&logits, rows * case.vocab)?,
    )])
}

fn cases(precision: Precision) -> Vec<Case> {
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
    // On the simulator: both tiles, one token and one word beyond a tile, two of the CUDA device's
    // chunks of 2,048.
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
    let mut cases = precision.choose(cases, simulated);
    for count in [1, 17, 65] {
        cases.push(Case {
            logits: 80.0,
            ..Case::new(count, 257, 36, 0)
        });
    }
    cases
}

pub(super) fn check_loss<D: Operations>(test: TestDevice<'_, D>, report: &mut CaseReport) {
    for case in cases(test.precision) {
        let operation = match case {
            Case { logits: 80.0, .. } => "head_loss, logits of 80",
            Case { vocab: 50257, .. } => "head_loss, 50,257 words",
            _ => "head_loss",
        };
        let mut losses = None;
        report.compare(test.precision, operation, case, || {
            let (found, expected) = (head_loss(test, case)?, head_loss(test.reference(), case)?);
            losses = Some((found[..1].to_vec(), expected[..1].to_vec()));
            Ok((found, expected))
        });
        // The sum of the losses is f32 also where gradients are rounded to 16 bits.
        report.compare(test.precision, "head_losses", case, || {
            losses.context("head_loss gave no loss")
        });
        same_as_reference!(report, test, "head_losses", case, head_losses, case);
        same_as_reference!(report, test, "head_logits", case, head_logits, case, 0);
        let last = case.count - 1;
        same_as_reference!(report, test, "head_logits", case, head_logits, case, last);
    }
}

/// GPT-2's vocabulary is odd and has 393 tiles.
pub(super) fn check_gpt2_vocabulary<D: Operations>(
    test: TestDevice<'_, D>,
    report: &mut CaseReport,
) {
    let case = Case::new(3, 50257, 16, 0);
    same_as_reference!(report, test, "head_loss", case, head_loss, case);
}

/// With every target ignored nothing may change, not even by a rounding.
pub(super) fn check_all_ignored<D: Operations>(test: TestDevice<'_, D>, report: &mut CaseReport) {
    let case = Case::new(65, 257, 36, 1);
    report.case("head_loss and head_losses", || {
        let outputs = head_loss(test, case)?;
        let before = test.rounded(&Values::new(case.count).normal(case.vocab * case.hidden, 1.0));
        let zeros = |values: &[f32]| values.iter().all(|&value| value == 0.0);
        let (loss, grad_x, grad_table) = (&outputs[0].1, &outputs[1].1, &outputs[2].1);
        ensure!(*loss == [1.5], "the loss went from 1.5 to {loss:?}");
        ensure!(zeros(grad_x), "the gradient of x is not zero");
        ensure!(*grad_table == before, "the gradient of the table changed");
        let losses = &head_losses(test, case)?[0].1;
        ensure!(zeros(losses), "head_losses: {losses:?} are not all 0");
        Ok(loss.len() + grad_x.len() + grad_table.len() + losses.len())
    });
}

/// A NaN or an infinity, in a counted row of `x` or anywhere in the table, must show in the loss.
pub(super) fn check_broken_input<D: Operations>(test: TestDevice<'_, D>, report: &mut CaseReport) {
    for case in [Case::new(5, 257, 36, 0), Case::new(130, 1000, 40, 3)] {
        for broken in [f32::NAN, f32::INFINITY] {
            for (in_x, at) in [
                (true, 4 * case.hidden + 1),
                (false, 0),
                (false, 200 * case.hidden + 7),
                (false, case.vocab * case.hidden - 1),
            ] {
                let name = format_args!("{case:?}: {broken} (in x: {in_x}) at {at}");
                report.case(name, || {
                    let loss = loss_of_broken(test, case, broken, in_x, at)?;
                    let shown = !loss.is_finite() && (broken.is_infinite() || loss.is_nan());
                    ensure!(shown, "it gave the loss {loss}");
                    Ok(1)
                });
            }
        }
    }
}

/// The loss with one element of `x` or the table replaced.
fn loss_of_broken<D: Operations>(
    test: TestDevice<'_, D>,
    case: Case,
    broken: f32,
    in_x: bool,
    at: usize,
) -> Result<f32> {
    let (mut x, mut table, targets) = case.inputs();
    let buffer = if in_x { &mut x } else { &mut table };
    buffer[at] = broken;
    let mut loss = test.added_single(&[0.0])?;
    issue(
        test.device,
        HeadLoss {
            x: test.input(&x)?.matrix(case.count, case.hidden),
            table: test.input(&table)?.matrix(case.vocab, case.hidden),
            targets: test.input_index(&targets)?.vector(case.count),
            scale: test.input_single(&[1.0])?.vector(1),
            loss: loss.vector_mut(1),
            grad_x: test.written(x.len())?.matrix_mut(case.count, case.hidden),
            grad_table: test
                .added(&vec![0.0; table.len()])?
                .matrix_mut(case.vocab, case.hidden),
        },
    )?;
    Ok(test.read_single(&loss, 1)?[0])
}
