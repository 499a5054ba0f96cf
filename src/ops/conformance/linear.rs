//! Linear layers.

use anyhow::Result;

use super::{CaseReport, Outputs, Precision, ROWS, TestDevice, Values, same_as_reference};
use crate::ops::{
    Buffer, LinearBackwardInput, LinearBackwardWeight, LinearForward, Operations, issue,
};

/// (inputs, outputs): multiples of no vector, of some, and the model's own sizes.
const SIZES: [(usize, usize); 5] = [(36, 44), (40, 131), (48, 40), (1, 3), (257, 36)];

/// Every row count with small sizes, a few with the model's.
fn linear_shapes(precision: Precision) -> Vec<(usize, usize, usize)> {
    let small = ROWS
        .into_iter()
        .flat_map(|rows| SIZES.into_iter().map(move |(i, o)| (rows, i, o)));
    let all = small.chain([(3, 384, 448), (65, 384, 448), (130, 448, 384)]);
    // On the simulator: both tiles, rows at odd addresses and at multiples of 16 bytes, one element
    // beyond a tile.
    let simulated = vec![
        (1, 1, 3),
        (1, 36, 44),
        (2, 48, 40),
        (3, 40, 131),
        (5, 33, 257),
        (17, 257, 36),
        (64, 36, 44),
        (65, 40, 136),
        (129, 72, 24),
        (257, 48, 40),
        (33, 136, 264),
        (130, 448, 384),
    ];
    precision.choose(all.collect(), simulated)
}

/// A product of large activations, with or without a residual.
///
/// # Errors
/// When the device fails, or writes behind an output.
pub fn linear_forward<D: Operations>(
    test: TestDevice<'_, D>,
    (rows, inputs, outputs): (usize, usize, usize),
    with_residual: bool,
) -> Result<Outputs> {
    let mut values = Values::new(rows * inputs);
    // Large activations: the error is relative to them.
    let x = test.input(&values.normal(rows * inputs, test.precision.choose(1e4, 1e3)))?;
    let weight = test.input(&values.normal(outputs * inputs, 0.1))?;
    let residual = test.input(&values.normal(rows * outputs, 1e3))?;
    let mut y = test.written(rows * outputs)?;
    let residual = with_residual.then_some(&residual);
    issue(
        test.device,
        LinearForward {
            x: x.matrix(rows, inputs),
            weight: weight.matrix(outputs, inputs),
            residual: residual.map(|residual| residual.matrix(rows, outputs)),
            y: y.matrix_mut(rows, outputs),
        },
    )?;
    Ok(vec![("y", test.read(&y, rows * outputs)?)])
}

/// Gradient of the input, added or written.
///
/// # Errors
/// When the device fails, or writes behind an output.
pub fn linear_backward_input<D: Operations>(
    test: TestDevice<'_, D>,
    (rows, inputs, outputs): (usize, usize, usize),
    accumulate: bool,
) -> Result<Outputs> {
    let mut values = Values::new(rows * outputs);
    let grad_y = test.input(&values.normal(rows * outputs, 1.0))?;
    let weight = test.input(&values.normal(outputs * inputs, 0.1))?;
    let mut grad_x = match accumulate {
        true => test.added(&values.normal(rows * inputs, 1.0))?,
        false => test.written(rows * inputs)?,
    };
    issue(
        test.device,
        LinearBackwardInput {
            grad_y: grad_y.matrix(rows, outputs),
            weight: weight.matrix(outputs, inputs),
            grad_x: grad_x.matrix_mut(rows, inputs),
            accumulate,
        },
    )?;
    Ok(vec![("grad_x", test.read(&grad_x, rows * inputs)?)])
}

/// Gradient of the weight.
///
/// # Errors
/// When the device fails, or writes behind an output.
pub fn linear_backward_weight<D: Operations>(
    test: TestDevice<'_, D>,
    (rows, inputs, outputs): (usize, usize, usize),
) -> Result<Outputs> {
    let mut values = Values::new(inputs * outputs);
    let grad_y = test.input(&values.normal(rows * outputs, 1.0))?;
    let x = test.input(&values.normal(rows * inputs, 1.0))?;
    let mut grad_weight = test.added(&values.normal(outputs * inputs, 1.0))?;
    issue(
        test.device,
        LinearBackwardWeight {
            grad_y: grad_y.matrix(rows, outputs),
            x: x.matrix(rows, inputs),
            grad_weight: grad_weight.matrix_mut(outputs, inputs),
        },
    )?;
    Ok(vec![(
        "grad_weight",
        test.read(&grad_weight, outputs * inputs)?,
    )])
}

pub(super) fn check<D: Operations>(test: TestDevice<'_, D>, report: &mut CaseReport) {
    for shape in linear_shapes(test.precision) {
        for flag in [false, true] {
            let case = (shape, flag);
            same_as_reference!(
                report,
                test,
                "linear_forward",
                case,
                linear_forward,
                shape,
                flag
            );
            same_as_reference!(
                report,
                test,
                "linear_backward_input",
                case,
                linear_backward_input,
                shape,
                flag
            );
        }
        same_as_reference!(
            report,
            test,
            "linear_backward_weight",
            shape,
            linear_backward_weight,
            shape
        );
    }
}
