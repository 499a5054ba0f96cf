//! Global gradient norm and AdamW, from their definitions.

use anyhow::Result;

use super::ReferenceDevice;
use crate::ops::checks::{expect_adam_step, prefix, prefix_mut};
use crate::ops::{AdamState, AdamStep};

pub(super) fn adam_state(values: &[f32]) -> AdamState<ReferenceDevice> {
    AdamState {
        master: None,
        first: vec![0.0; values.len()],
        second: vec![0.0; values.len()],
    }
}

pub(super) fn global_norm(gradients: &[(&Vec<f32>, usize)], norm: &mut [f32]) -> Result<()> {
    let op = "global_norm";
    let norm = prefix_mut(op, "norm", norm, &[2])?;
    let mut sum = 0.0_f64;
    for &(gradient, len) in gradients {
        for &value in prefix(op, "gradient", gradient, &[len])? {
            sum += f64::from(value) * f64::from(value);
        }
    }
    norm[0] = sum.sqrt() as f32;
    if norm[0].is_finite() {
        norm[1] += 1.0;
    }
    Ok(())
}

pub(super) fn adamw(
    weight: &mut [f32],
    gradient: &mut [f32],
    state: &mut AdamState<ReferenceDevice>,
    norm: &[f32],
    rate: &[f32],
    step: &AdamStep,
    len: usize,
) -> Result<()> {
    let op = "adamw";
    expect_adam_step(op, step)?;
    let weight = prefix_mut(op, "weight", weight, &[len])?;
    let gradient = prefix_mut(op, "gradient", gradient, &[len])?;
    let first = prefix_mut(op, "state.first", &mut state.first, &[len])?;
    let second = prefix_mut(op, "state.second", &mut state.second, &[len])?;
    let norm = prefix(op, "norm", norm, &[2])?;
    let rate = f64::from(prefix(op, "rate", rate, &[1])?[0]);
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
