//! Linear layers: the blocked product, or dot products where there are few rows.

use super::gemm::{Start, Strided, Target, gemm};
use super::{CpuDevice, Floats, small};
use crate::ops::{Checked, LinearBackwardInput, LinearBackwardWeight, LinearForward, Run};
use anyhow::Result;

impl Run<LinearForward<'_, Floats>> for CpuDevice {
    fn run(&self, operation: Checked<LinearForward<'_, Floats>>) -> Result<()> {
        let LinearForward {
            x,
            weight,
            residual,
            y,
        } = operation.into_inner();
        let (rows, inputs, outputs) = (x.rows, x.cols, weight.rows);
        let (x, weight, y) = (x.slice(), weight.slice(), y.slice_mut());
        let residual = residual.map(|residual| residual.slice());
        if small::fits(rows) && inputs > 0 {
            small::linear(x, weight, residual, y, rows, inputs, outputs);
            return Ok(());
        }
        gemm(
            self.precision,
            (rows, outputs, inputs),
            Strided::rows(x, inputs),
            Strided::transposed(weight, inputs),
            Target {
                start: residual.map_or(Start::Zero, |residual| Start::From(residual, outputs)),
                c: y,
                row: outputs,
            },
        );
        Ok(())
    }
}

impl Run<LinearBackwardInput<'_, Floats>> for CpuDevice {
    fn run(&self, operation: Checked<LinearBackwardInput<'_, Floats>>) -> Result<()> {
        let LinearBackwardInput {
            grad_y,
            weight,
            grad_x,
            accumulate,
        } = operation.into_inner();
        let (rows, inputs, outputs) = (grad_y.rows, weight.cols, weight.rows);
        gemm(
            self.precision,
            (rows, inputs, outputs),
            Strided::rows(grad_y.slice(), outputs),
            Strided::rows(weight.slice(), inputs),
            Target {
                start: if accumulate {
                    Start::Accumulate
                } else {
                    Start::Zero
                },
                c: grad_x.slice_mut(),
                row: inputs,
            },
        );
        Ok(())
    }
}

impl Run<LinearBackwardWeight<'_, Floats>> for CpuDevice {
    fn run(&self, operation: Checked<LinearBackwardWeight<'_, Floats>>) -> Result<()> {
        let LinearBackwardWeight {
            grad_y,
            x,
            grad_weight,
        } = operation.into_inner();
        let (rows, inputs, outputs) = (x.rows, x.cols, grad_y.cols);
        gemm(
            self.precision,
            (outputs, inputs, rows),
            Strided::transposed(grad_y.slice(), outputs),
            Strided::rows(x.slice(), inputs),
            Target {
                start: Start::Accumulate,
                c: grad_weight.slice_mut(),
                row: inputs,
            },
        );
        Ok(())
    }
}
