//! RMSNorm.

use anyhow::Result;

use super::{CaseReport, Outputs, ROWS, TestDevice, Values, same_as_reference};
use crate::ops::{Buffer, Operations, RmsNormBackward, RmsNormForward, issue};

/// Rows of `x`: as usual, of size 1e4, or every third row zero.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Rows {
    Usual,
    Large,
    Zero,
}

fn norm_rows(values: &mut Values, rows: usize, cols: usize, kind: Rows) -> Vec<f32> {
    let scale = if kind == Rows::Large { 1e4 } else { 1.0 };
    let mut x = values.normal(rows * cols, scale);
    if kind == Rows::Zero {
        for row in x.chunks_mut(cols).step_by(3) {
            row.fill(0.0);
        }
        // One row stays, so that the outputs have a size to measure errors by.
        x[rows * cols - 1] = 1.0;
    }
    x
}

fn rmsnorm_forward<D: Operations>(
    test: TestDevice<'_, D>,
    (rows, cols): (usize, usize),
    kind: Rows,
) -> Result<Outputs> {
    let mut values = Values::new(rows);
    let x = test.input(&norm_rows(&mut values, rows, cols, kind))?;
    let weight = test.input(&values.normal(cols, 1.0))?;
    let mut out = test.written(rows * cols)?;
    let mut inv_rms = test.written_single(rows)?;
    issue(
        test.device,
        RmsNormForward {
            x: x.matrix(rows, cols),
            weight: weight.vector(cols),
            epsilon: 1e-5,
            out: out.matrix_mut(rows, cols),
            inv_rms: inv_rms.vector_mut(rows),
        },
    )?;
    Ok(vec![
        ("out", test.read(&out, rows * cols)?),
        ("inv_rms", test.read_single(&inv_rms, rows)?),
    ])
}

fn rmsnorm_backward_of<D: Operations>(
    test: TestDevice<'_, D>,
    (rows, cols): (usize, usize),
    kind: Rows,
) -> Result<Outputs> {
    let mut values = Values::new(rows + 1);
    let x = norm_rows(&mut values, rows, cols, kind);
    let inv_rms: Vec<f32> = x
        .chunks(cols)
        .map(|row| row.iter().map(|x| x * x).sum::<f32>() / cols as f32 + 1e-5)
        .map(|mean| 1.0 / mean.sqrt())
        .collect();
    let (x, inv_rms) = (test.input(&x)?, test.input_single(&inv_rms)?);
    let weight = test.input(&values.normal(cols, 1.0))?;
    let grad_out = test.input(&values.normal(rows * cols, 1.0))?;
    let mut grad_x = test.added(&values.normal(rows * cols, 1.0))?;
    let mut grad_weight = test.added(&values.normal(cols, 1.0))?;
    issue(
        test.device,
        RmsNormBackward {
            grad_out: grad_out.matrix(rows, cols),
            x: x.matrix(rows, cols),
            weight: weight.vector(cols),
            inv_rms: inv_rms.vector(rows),
            grad_x: grad_x.matrix_mut(rows, cols),
            grad_weight: grad_weight.vector_mut(cols),
        },
    )?;
    Ok(vec![
        ("grad_x", test.read(&grad_x, rows * cols)?),
        ("grad_weight", test.read(&grad_weight, cols)?),
    ])
}

/// Gradients of RMSNorm of rows of the usual size.
///
/// # Errors
/// When the device fails, or writes behind an output.
pub fn rmsnorm_backward<D: Operations>(
    test: TestDevice<'_, D>,
    shape: (usize, usize),
) -> Result<Outputs> {
    rmsnorm_backward_of(test, shape, Rows::Usual)
}

pub(super) fn check<D: Operations>(test: TestDevice<'_, D>, report: &mut CaseReport) {
    for cols in [36, 40, 48, 384, 3] {
        for rows in ROWS {
            for kind in [Rows::Usual, Rows::Large, Rows::Zero] {
                let (case, shape) = ((rows, cols, kind), (rows, cols));
                same_as_reference!(
                    report,
                    test,
                    "rmsnorm_forward",
                    case,
                    rmsnorm_forward,
                    shape,
                    kind
                );
                same_as_reference!(
                    report,
                    test,
                    "rmsnorm_backward",
                    case,
                    rmsnorm_backward_of,
                    shape,
                    kind
                );
            }
        }
    }
}
