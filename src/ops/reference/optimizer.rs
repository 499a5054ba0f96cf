//! Global gradient norm and AdamW.

use anyhow::Result;

use super::ReferenceDevice;
use crate::ops::{AdamW, Checked, GlobalNorm, Run};

impl Run<GlobalNorm<'_, Vec<f32>, Vec<f32>>> for ReferenceDevice {
    fn run(&self, operation: Checked<GlobalNorm<'_, Vec<f32>, Vec<f32>>>) -> Result<()> {
        let GlobalNorm { gradients, norm } = operation.into_inner();
        let mut sum = 0.0_f64;
        for gradient in gradients {
            for &value in gradient.slice() {
                sum += f64::from(value) * f64::from(value);
            }
        }
        let norm = norm.slice_mut();
        norm[0] = sum.sqrt() as f32;
        if norm[0].is_finite() {
            norm[1] += 1.0;
        }
        Ok(())
    }
}

impl Run<AdamW<'_, Vec<f32>, Vec<f32>>> for ReferenceDevice {
    fn run(&self, operation: Checked<AdamW<'_, Vec<f32>, Vec<f32>>>) -> Result<()> {
        let AdamW {
            weight,
            gradient,
            state,
            norm,
            rate,
            step,
        } = operation.into_inner();
        let (len, norm, rate) = (weight.len, norm.slice(), f64::from(rate.slice()[0]));
        let (weight, gradient) = (weight.slice_mut(), gradient.slice_mut());
        let (first, second) = (&mut state.first[..len], &mut state.second[..len]);
        if !norm[0].is_finite() {
            gradient.fill(0.0);
            return Ok(());
        }
        let clip = (f64::from(step.max_norm) / (f64::from(norm[0]) + 1e-6)).min(1.0);
        let (beta1, beta2) = (f64::from(step.beta1), f64::from(step.beta2));
        let correction1 = 1.0 - beta1.powf(f64::from(norm[1]));
        let correction2 = 1.0 - beta2.powf(f64::from(norm[1]));
        for i in 0..len {
            let g = clip * f64::from(gradient[i]);
            let m = beta1 * f64::from(first[i]) + (1.0 - beta1) * g;
            let v = beta2 * f64::from(second[i]) + (1.0 - beta2) * g * g;
            let decayed = f64::from(weight[i]) * (1.0 - rate * f64::from(step.weight_decay));
            let root = (v / correction2).sqrt() + f64::from(step.epsilon);
            weight[i] = (decayed - rate * (m / correction1) / root) as f32;
            first[i] = m as f32;
            second[i] = v as f32;
            gradient[i] = 0.0;
        }
        Ok(())
    }
}
