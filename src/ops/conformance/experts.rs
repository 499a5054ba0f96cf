//! Experts.

use anyhow::Result;

use super::router::{Load, routing, shape};
use super::{CaseReport, Outputs, Precision, TestDevice, Values, same_as_reference};
use crate::ops::{Buffer, ExpertsBackward, ExpertsForward, MoeShape, Operations, issue};

struct Experts {
    x: Vec<f32>,
    w13: Vec<f32>,
    w2: Vec<f32>,
    residual: Vec<f32>,
}

fn experts_input(shape: &MoeShape, count: usize, scale: f32) -> Experts {
    let size = shape.experts * shape.hidden * shape.intermediate;
    let mut values = Values::new(count + 5);
    Experts {
        x: values.normal(count * shape.hidden, scale),
        w13: values.normal(2 * size, 0.2),
        w2: values.normal(size, 0.2),
        residual: values.normal(count * shape.hidden, scale),
    }
}

/// `scale` is the standard deviation of the input.
///
/// # Errors
/// When the device fails, or writes behind an output.
pub fn experts_forward<D: Operations>(
    test: TestDevice<'_, D>,
    shape: &MoeShape,
    count: usize,
    load: Load,
    scale: f32,
) -> Result<Outputs> {
    let given = experts_input(shape, count, scale);
    let kept = count * shape.top_k * 2 * shape.intermediate;
    let mut gate_up = test.written(kept)?;
    let mut out = test.written(count * shape.hidden)?;
    issue(
        test.device,
        ExpertsForward {
            x: test.input(&given.x)?.matrix(count, shape.hidden),
            routing: &routing(test.precision, shape, count, load)?.upload(test)?,
            w13: test
                .input(&given.w13)?
                .matrix(shape.experts * 2 * shape.intermediate, shape.hidden),
            w2: test
                .input(&given.w2)?
                .matrix(shape.experts * shape.hidden, shape.intermediate),
            residual: test.input(&given.residual)?.matrix(count, shape.hidden),
            gate_up: gate_up.matrix_mut(count * shape.top_k, 2 * shape.intermediate),
            out: out.matrix_mut(count, shape.hidden),
            shape: *shape,
        },
    )?;
    Ok(vec![
        ("gate_up", test.read(&gate_up, kept)?),
        ("out", test.read(&out, count * shape.hidden)?),
    ])
}

/// Both devices get the reference's `gate_up`.
///
/// # Errors
/// When the device fails, or writes behind an output.
pub fn experts_backward<D: Operations>(
    test: TestDevice<'_, D>,
    shape: &MoeShape,
    count: usize,
    load: Load,
    scale: f32,
) -> Result<Outputs> {
    let given = experts_input(shape, count, scale);
    let gate_up = &experts_forward(test.reference(), shape, count, load, scale)?[0].1;
    let size = shape.experts * shape.hidden * shape.intermediate;
    let mut values = Values::new(count + 6);
    let grad_out = values.normal(count * shape.hidden, 1.0);
    let mut grad_x = test.written(count * shape.hidden)?;
    let mut grad_w13 = test.added(&values.normal(2 * size, 1.0))?;
    let mut grad_w2 = test.added(&values.normal(size, 1.0))?;
    let mut grad_weights = test.written_single(count * shape.top_k)?;
    issue(
        test.device,
        ExpertsBackward {
            grad_out: test.input(&grad_out)?.matrix(count, shape.hidden),
            x: test.input(&given.x)?.matrix(count, shape.hidden),
            routing: &routing(test.precision, shape, count, load)?.upload(test)?,
            w13: test
                .input(&given.w13)?
                .matrix(shape.experts * 2 * shape.intermediate, shape.hidden),
            w2: test
                .input(&given.w2)?
                .matrix(shape.experts * shape.hidden, shape.intermediate),
            gate_up: test
                .input(gate_up)?
                .matrix(count * shape.top_k, 2 * shape.intermediate),
            grad_x: grad_x.matrix_mut(count, shape.hidden),
            grad_w13: grad_w13.matrix_mut(shape.experts * 2 * shape.intermediate, shape.hidden),
            grad_w2: grad_w2.matrix_mut(shape.experts * shape.hidden, shape.intermediate),
            grad_weights: grad_weights.matrix_mut(count, shape.top_k),
            shape: *shape,
        },
    )?;
    Ok(vec![
        ("grad_x", test.read(&grad_x, count * shape.hidden)?),
        ("grad_w13", test.read(&grad_w13, 2 * size)?),
        ("grad_w2", test.read(&grad_w2, size)?),
        (
            "grad_weights",
            test.read_single(&grad_weights, count * shape.top_k)?,
        ),
    ])
}

/// (hidden, intermediate, tokens)
fn experts_sizes(precision: Precision) -> Vec<(usize, usize, usize)> {
    let small = [1, 2, 3, 5, 7, 17, 63, 64, 65, 130, 257].map(|rows| (36, 44, rows));
    let all = small.into_iter().chain([(40, 36, 33), (384, 448, 65)]);
    // On the simulator: both tiles, rows at odd addresses and at multiples of 16 bytes, several
    // tiles per expert.
    let simulated = vec![
        (36, 44, 1),
        (36, 44, 3),
        (33, 45, 17),
        (36, 44, 70),
        (40, 48, 130),
        (136, 72, 33),
    ];
    precision.choose(all.collect(), simulated)
}

pub(super) fn check<D: Operations>(test: TestDevice<'_, D>, report: &mut CaseReport) {
    for (hidden, intermediate, rows) in experts_sizes(test.precision) {
        for (experts, top_k, load, scale) in [
            (8, 2, Load::Random, 1.0),
            (5, 3, Load::OneTakesAll, 1.0),
            (5, 2, Load::Empty, 1.0),
            // Gates of about 1e4: silu is 0 or the gate itself. In fp16 the squares of such gates
            // are infinite.
            (3, 1, Load::Random, test.precision.choose(1e4, 16.0)),
        ] {
            if hidden == 384 && load != Load::Random {
                continue;
            }
            let shape = shape(hidden, intermediate, experts, top_k);
            let case = (shape, rows, load, scale);
            let run = (&shape, rows, load, scale);
            same_as_reference!(
                report,
                test,
                "experts_forward",
                case,
                experts_forward,
                run.0,
                run.1,
                run.2,
                run.3
            );
            same_as_reference!(
                report,
                test,
                "experts_backward",
                case,
                experts_backward,
                run.0,
                run.1,
                run.2,
                run.3
            );
        }
    }
}
