//! RMSNorm.

use anyhow::Result;

use super::{ReferenceDevice, add, dot};
use crate::ops::{Checked, RmsNormBackward, RmsNormForward, Run};

impl Run<RmsNormForward<'_, Vec<f32>, Vec<f32>>> for ReferenceDevice {
    fn run(&self, operation: Checked<RmsNormForward<'_, Vec<f32>, Vec<f32>>>) -> Result<()> {
        let RmsNormForward {
            x,
            weight,
            epsilon,
            out,
            inv_rms,
        } = operation.into_inner();
        let (rows, cols) = (x.rows, x.cols);
        let (x, weight) = (x.slice(), weight.slice());
        let (out, inv_rms) = (out.slice_mut(), inv_rms.slice_mut());
        for r in 0..rows {
            let row = &x[r * cols..][..cols];
            let inverse = 1.0 / (dot(row, row) / cols as f64 + f64::from(epsilon)).sqrt();
            inv_rms[r] = inverse as f32;
            for c in 0..cols {
                out[r * cols + c] = (f64::from(row[c]) * inverse * f64::from(weight[c])) as f32;
            }
        }
        Ok(())
    }
}

impl Run<RmsNormBackward<'_, Vec<f32>, Vec<f32>>> for ReferenceDevice {
    fn run(&self, operation: Checked<RmsNormBackward<'_, Vec<f32>, Vec<f32>>>) -> Result<()> {
        let RmsNormBackward {
            grad_out,
            x,
            weight,
            inv_rms,
            grad_x,
            grad_weight,
        } = operation.into_inner();
        let (rows, cols) = (x.rows, x.cols);
        let (grad_out, x) = (grad_out.slice(), x.slice());
        let (weight, inv_rms) = (weight.slice(), inv_rms.slice());
        let (grad_x, grad_weight) = (grad_x.slice_mut(), grad_weight.slice_mut());

        // n = x inv_rms, g = grad_out weight
        let n = |r: usize, c: usize| f64::from(x[r * cols + c]) * f64::from(inv_rms[r]);
        let g = |r: usize, c: usize| f64::from(grad_out[r * cols + c]) * f64::from(weight[c]);
        for r in 0..rows {
            let mean = (0..cols).map(|c| g(r, c) * n(r, c)).sum::<f64>() / cols as f64;
            for c in 0..cols {
                let gradient = f64::from(inv_rms[r]) * (g(r, c) - n(r, c) * mean);
                add(&mut grad_x[r * cols + c], gradient);
            }
        }
        for c in 0..cols {
            let sum = (0..rows)
                .map(|r| f64::from(grad_out[r * cols + c]) * n(r, c))
                .sum();
            add(&mut grad_weight[c], sum);
        }
        Ok(())
    }
}
