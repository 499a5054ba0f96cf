//! Linear layers.

use anyhow::Result;

use super::{ReferenceDevice, add, dot};
use crate::ops::{Checked, LinearBackwardInput, LinearBackwardWeight, LinearForward, Run};

impl Run<LinearForward<'_, Vec<f32>>> for ReferenceDevice {
    fn run(&self, operation: Checked<LinearForward<'_, Vec<f32>>>) -> Result<()> {
        let LinearForward {
            x,
            weight,
            residual,
            y,
        } = operation.into_inner();
        let (rows, inputs, outputs) = (x.rows, x.cols, weight.rows);
        let (x, weight, y) = (x.slice(), weight.slice(), y.slice_mut());
        let residual = residual.map(|residual| residual.slice());
        for r in 0..rows {
            for o in 0..outputs {
                let product = dot(&x[r * inputs..][..inputs], &weight[o * inputs..][..inputs]);
                let added = residual.map_or(0.0, |residual| f64::from(residual[r * outputs + o]));
                y[r * outputs + o] = (product + added) as f32;
            }
        }
        Ok(())
    }
}

impl Run<LinearBackwardInput<'_, Vec<f32>>> for ReferenceDevice {
    fn run(&self, operation: Checked<LinearBackwardInput<'_, Vec<f32>>>) -> Result<()> {
        let LinearBackwardInput {
            grad_y,
            weight,
            grad_x,
            accumulate,
        } = operation.into_inner();
        let (rows, inputs, outputs) = (grad_y.rows, weight.cols, weight.rows);
        let (grad_y, weight, grad_x) = (grad_y.slice(), weight.slice(), grad_x.slice_mut());
        for r in 0..rows {
            for i in 0..inputs {
                let sum: f64 = (0..outputs)
                    .map(|o| f64::from(grad_y[r * outputs + o]) * f64::from(weight[o * inputs + i]))
                    .sum();
                let target = &mut grad_x[r * inputs + i];
                if accumulate {
                    add(target, sum);
                } else {
                    *target = sum as f32;
                }
            }
        }
        Ok(())
    }
}

impl Run<LinearBackwardWeight<'_, Vec<f32>>> for ReferenceDevice {
    fn run(&self, operation: Checked<LinearBackwardWeight<'_, Vec<f32>>>) -> Result<()> {
        let LinearBackwardWeight {
            grad_y,
            x,
            grad_weight,
        } = operation.into_inner();
        let (rows, inputs, outputs) = (x.rows, x.cols, grad_y.cols);
        let (grad_y, x, grad_weight) = (grad_y.slice(), x.slice(), grad_weight.slice_mut());
        for o in 0..outputs {
            for i in 0..inputs {
                let sum = (0..rows)
                    .map(|r| f64::from(grad_y[r * outputs + o]) * f64::from(x[r * inputs + i]))
                    .sum();
                add(&mut grad_weight[o * inputs + i], sum);
            }
        }
        Ok(())
    }
}
