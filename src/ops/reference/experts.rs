//! Experts, token by token.

use anyhow::Result;

use super::{ReferenceDevice, add, dot};
use crate::ops::{Checked, ExpertsBackward, ExpertsForward, MoeShape, Run};

fn silu(gate: f64) -> f64 {
    gate / (1.0 + (-gate).exp())
}

fn silu_derivative(gate: f64) -> f64 {
    let sigmoid = 1.0 / (1.0 + (-gate).exp());
    sigmoid * (1.0 + gate * (1.0 - sigmoid))
}

/// Weights of one expert.
struct Expert<'a> {
    /// `[2F, C]`: gate rows, then up rows.
    w13: &'a [f32],
    /// `[C, F]`.
    w2: &'a [f32],
    hidden: usize,
    intermediate: usize,
}

impl<'a> Expert<'a> {
    fn new(w13: &'a [f32], w2: &'a [f32], expert: usize, shape: &MoeShape) -> Self {
        let (hidden, intermediate) = (shape.hidden, shape.intermediate);
        let size = hidden * intermediate;
        Self {
            w13: &w13[expert * 2 * size..][..2 * size],
            w2: &w2[expert * size..][..size],
            hidden,
            intermediate,
        }
    }

    /// `[gate | up]` of one token.
    fn gate_up(&self, x: &[f32]) -> Vec<f64> {
        self.w13
            .chunks_exact(self.hidden)
            .map(|row| dot(x, row))
            .collect()
    }

    /// `silu(gate) * up`.
    fn activation(&self, gate_up: &[f64]) -> Vec<f64> {
        let (gate, up) = gate_up.split_at(self.intermediate);
        gate.iter()
            .zip(up)
            .map(|(&gate, &up)| silu(gate) * up)
            .collect()
    }

    fn output(&self, activation: &[f64]) -> Vec<f64> {
        self.w2
            .chunks_exact(self.intermediate)
            .map(|row| {
                row.iter()
                    .zip(activation)
                    .map(|(&w, a)| f64::from(w) * a)
                    .sum()
            })
            .collect()
    }
}

impl Run<ExpertsForward<'_, Vec<f32>, Vec<f32>, Vec<u32>>> for ReferenceDevice {
    fn run(
        &self,
        operation: Checked<ExpertsForward<'_, Vec<f32>, Vec<f32>, Vec<u32>>>,
    ) -> Result<()> {
        let ExpertsForward {
            x,
            routing,
            w13,
            w2,
            residual,
            gate_up,
            out,
            shape,
        } = operation.into_inner();
        let (count, hidden) = (x.rows, shape.hidden);
        let (intermediate, top_k) = (shape.intermediate, shape.top_k);
        let (x, residual) = (x.slice(), residual.slice());
        let (w13, w2) = (w13.slice(), w2.slice());
        let (gate_up, out) = (gate_up.slice_mut(), out.slice_mut());
        for t in 0..count {
            let row = &x[t * hidden..][..hidden];
            let mut sum: Vec<f64> = (0..hidden)
                .map(|c| f64::from(residual[t * hidden + c]))
                .collect();
            for k in 0..top_k {
                let source = t * top_k + k;
                let expert = Expert::new(w13, w2, routing.experts[source] as usize, &shape);
                let inner = expert.gate_up(row);
                let slot = routing.source_slot[source] as usize;
                for (i, &value) in inner.iter().enumerate() {
                    gate_up[slot * 2 * intermediate + i] = value as f32;
                }
                let output = expert.output(&expert.activation(&inner));
                for c in 0..hidden {
                    sum[c] += f64::from(routing.weights[source]) * output[c];
                }
            }
            for c in 0..hidden {
                out[t * hidden + c] = sum[c] as f32;
            }
        }
        Ok(())
    }
}

/// Does not use what the forward pass kept: the inner layers are made again.
impl Run<ExpertsBackward<'_, Vec<f32>, Vec<f32>, Vec<u32>>> for ReferenceDevice {
    fn run(
        &self,
        operation: Checked<ExpertsBackward<'_, Vec<f32>, Vec<f32>, Vec<u32>>>,
    ) -> Result<()> {
        let ExpertsBackward {
            grad_out,
            x,
            routing,
            w13,
            w2,
            grad_x,
            grad_w13,
            grad_w2,
            grad_weights,
            shape,
            ..
        } = operation.into_inner();
        let (count, hidden) = (x.rows, shape.hidden);
        let (intermediate, top_k) = (shape.intermediate, shape.top_k);
        let (grad_out, x) = (grad_out.slice(), x.slice());
        let (w13, w2) = (w13.slice(), w2.slice());
        let (grad_x, grad_weights) = (grad_x.slice_mut(), grad_weights.slice_mut());
        let (grad_w13, grad_w2) = (grad_w13.slice_mut(), grad_w2.slice_mut());
        let mut sum_w13 = vec![0.0_f64; grad_w13.len()];
        let mut sum_w2 = vec![0.0_f64; grad_w2.len()];
        for t in 0..count {
            let row = &x[t * hidden..][..hidden];
            let grad_row = &grad_out[t * hidden..][..hidden];
            let mut grad_input = vec![0.0_f64; hidden];
            for k in 0..top_k {
                let source = t * top_k + k;
                let e = routing.experts[source] as usize;
                let expert = Expert::new(w13, w2, e, &shape);
                let size = hidden * intermediate;
                grad_weights[source] = slot_backward(
                    &expert,
                    row,
                    grad_row,
                    f64::from(routing.weights[source]),
                    &mut grad_input,
                    &mut sum_w13[e * 2 * size..][..2 * size],
                    &mut sum_w2[e * size..][..size],
                ) as f32;
            }
            for c in 0..hidden {
                grad_x[t * hidden + c] = grad_input[c] as f32;
            }
        }
        for (target, sum) in grad_w13.iter_mut().zip(sum_w13) {
            add(target, sum);
        }
        for (target, sum) in grad_w2.iter_mut().zip(sum_w2) {
            add(target, sum);
        }
        Ok(())
    }
}

/// Adds the gradients of one token through one expert; returns the gradient of its routing weight.
fn slot_backward(
    expert: &Expert,
    x: &[f32],
    grad_out: &[f32],
    routing_weight: f64,
    grad_x: &mut [f64],
    grad_w13: &mut [f64],
    grad_w2: &mut [f64],
) -> f64 {
    let (hidden, intermediate) = (expert.hidden, expert.intermediate);
    let inner = expert.gate_up(x);
    let activation = expert.activation(&inner);
    let output = expert.output(&activation);
    let grad_routing_weight = grad_out
        .iter()
        .zip(&output)
        .map(|(&g, o)| f64::from(g) * o)
        .sum();

    // out = weight * (w2 activation)
    let grad_output: Vec<f64> = grad_out
        .iter()
        .map(|&g| routing_weight * f64::from(g))
        .collect();
    let mut grad_activation = vec![0.0_f64; intermediate];
    for c in 0..hidden {
        for f in 0..intermediate {
            let at = c * intermediate + f;
            grad_w2[at] += grad_output[c] * activation[f];
            grad_activation[f] += grad_output[c] * f64::from(expert.w2[at]);
        }
    }

    // activation = silu(gate) up
    let mut grad_inner = vec![0.0_f64; 2 * intermediate];
    for f in 0..intermediate {
        let (gate, up) = (inner[f], inner[intermediate + f]);
        grad_inner[f] = grad_activation[f] * up * silu_derivative(gate);
        grad_inner[intermediate + f] = grad_activation[f] * silu(gate);
    }

    // [gate | up] = w13 x
    for f in 0..2 * intermediate {
        for c in 0..hidden {
            let at = f * hidden + c;
            grad_w13[at] += grad_inner[f] * f64::from(x[c]);
            grad_x[c] += grad_inner[f] * f64::from(expert.w13[at]);
        }
    }
    grad_routing_weight
}
