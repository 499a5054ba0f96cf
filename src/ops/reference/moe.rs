//! Router and experts, token by token.

use anyhow::Result;

use super::attention::softmax;
use super::{ReferenceDevice, add, dot};
use crate::ops::checks::{
    RoutingIndices, expect_moe_shape, expect_nonzero, expect_offsets, expect_routing, prefix,
    prefix_mut,
};
use crate::ops::{Balance, MoeShape, Routing};

type RefRouting = Routing<ReferenceDevice>;
type RefBalance = Balance<ReferenceDevice>;

/// Probabilities of all experts for one token.
fn probabilities(x: &[f32], weight: &[f32], shape: &MoeShape) -> Vec<f64> {
    let logits: Vec<f64> = (0..shape.experts)
        .map(|e| dot(x, &weight[e * shape.hidden..][..shape.hidden]))
        .collect();
    softmax(&logits).0
}

#[allow(clippy::too_many_arguments)]
pub(super) fn router_forward(
    x: &[f32],
    weight: &[f32],
    routing: &mut RefRouting,
    balance: &mut RefBalance,
    groups: &[u32],
    group_count: usize,
    shape: &MoeShape,
    count: usize,
) -> Result<()> {
    let op = "router_forward";
    expect_moe_shape(op, shape, count)?;
    let (experts, top_k) = (shape.experts, shape.top_k);
    let x = prefix(op, "x", x, &[count, shape.hidden])?;
    let weight = prefix(op, "weight", weight, &[experts, shape.hidden])?;
    let groups = expect_offsets(op, "groups", groups, group_count, count)?;
    let probs = prefix_mut(op, "routing.probs", &mut routing.probs, &[count, experts])?;
    let chosen = prefix_mut(op, "routing.experts", &mut routing.experts, &[count, top_k])?;
    let weights = prefix_mut(op, "routing.weights", &mut routing.weights, &[count, top_k])?;
    let offsets = prefix_mut(op, "routing.offsets", &mut routing.offsets, &[experts + 1])?;
    let slot_source = prefix_mut(
        op,
        "routing.slot_source",
        &mut routing.slot_source,
        &[count, top_k],
    )?;
    let source_slot = prefix_mut(
        op,
        "routing.source_slot",
        &mut routing.source_slot,
        &[count, top_k],
    )?;
    let counts = prefix_mut(
        op,
        "balance.counts",
        &mut balance.counts,
        &[group_count, experts],
    )?;
    let prob_sums = prefix_mut(
        op,
        "balance.prob_sums",
        &mut balance.prob_sums,
        &[group_count, experts],
    )?;

    for t in 0..count {
        let exact = probabilities(&x[t * shape.hidden..][..shape.hidden], weight, shape);
        for e in 0..experts {
            probs[t * experts + e] = exact[e] as f32;
        }
        // Stable: of equal probabilities (as stored, in f32) the lower expert comes first.
        let stored = &probs[t * experts..][..experts];
        let mut order: Vec<usize> = (0..experts).collect();
        order.sort_by(|&a, &b| stored[b].total_cmp(&stored[a]));
        let sum: f64 = order[..top_k].iter().map(|&e| exact[e]).sum();
        for k in 0..top_k {
            chosen[t * top_k + k] = order[k] as u32;
            weights[t * top_k + k] = (exact[order[k]] / sum) as f32;
        }
    }

    let mut slot = 0;
    for e in 0..experts {
        offsets[e] = slot as u32;
        for source in 0..count * top_k {
            if chosen[source] as usize == e {
                slot_source[slot] = source as u32;
                source_slot[source] = slot as u32;
                slot += 1;
            }
        }
    }
    offsets[experts] = slot as u32;

    for (group, bounds) in groups.windows(2).enumerate() {
        let tokens = bounds[0] as usize..bounds[1] as usize;
        for e in 0..experts {
            let sent = chosen[tokens.start * top_k..tokens.end * top_k]
                .iter()
                .filter(|&&choice| choice as usize == e)
                .count();
            let sum = tokens
                .clone()
                .map(|t| f64::from(probs[t * experts + e]))
                .sum();
            add(&mut counts[group * experts + e], sent as f64);
            add(&mut prob_sums[group * experts + e], sum);
        }
    }
    Ok(())
}

#[allow(clippy::too_many_arguments)]
pub(super) fn router_backward(
    grad_weights: &[f32],
    x: &[f32],
    weight: &[f32],
    routing: &RefRouting,
    balance: &RefBalance,
    groups: &[u32],
    group_count: usize,
    layers: usize,
    balance_scale: f32,
    grad_x: &mut [f32],
    grad_weight: &mut [f32],
    shape: &MoeShape,
    count: usize,
) -> Result<()> {
    let op = "router_backward";
    let (experts, top_k, hidden) = (shape.experts, shape.top_k, shape.hidden);
    let indices = checked_routing(op, routing, shape, count)?;
    expect_nonzero(op, "the number of layers", layers)?;
    let grad_weights = prefix(op, "grad_weights", grad_weights, &[count, top_k])?;
    let x = prefix(op, "x", x, &[count, hidden])?;
    let weight = prefix(op, "weight", weight, &[experts, hidden])?;
    prefix(op, "routing.probs", &routing.probs, &[count, experts])?;
    let groups = expect_offsets(op, "groups", groups, group_count, count)?;
    let counts = prefix(
        op,
        "balance.counts",
        &balance.counts,
        &[group_count, experts],
    )?;
    prefix(
        op,
        "balance.prob_sums",
        &balance.prob_sums,
        &[group_count, experts],
    )?;
    let grad_x = prefix_mut(op, "grad_x", grad_x, &[count, hidden])?;
    let grad_weight = prefix_mut(op, "grad_weight", grad_weight, &[experts, hidden])?;

    let mut grad_logits = vec![0.0_f64; count * experts];
    for (group, bounds) in groups.windows(2).enumerate() {
        let routed = layers as f64 * f64::from(bounds[1] - bounds[0]);
        for t in bounds[0] as usize..bounds[1] as usize {
            let probs = probabilities(&x[t * hidden..][..hidden], weight, shape);
            let mut grad_probs: Vec<f64> = (0..experts)
                .map(|e| {
                    let sent = f64::from(counts[group * experts + e]);
                    f64::from(balance_scale) * experts as f64 * sent / (routed * routed)
                })
                .collect();

            // weights[k] = p[k] / sum of the chosen p
            let chosen = &indices.experts[t * top_k..][..top_k];
            let sum: f64 = chosen.iter().map(|&e| probs[e as usize]).sum();
            let mean: f64 = (0..top_k)
                .map(|k| f64::from(grad_weights[t * top_k + k]) * probs[chosen[k] as usize] / sum)
                .sum();
            for k in 0..top_k {
                let gradient = f64::from(grad_weights[t * top_k + k]);
                grad_probs[chosen[k] as usize] += (gradient - mean) / sum;
            }

            let mean: f64 = (0..experts).map(|e| grad_probs[e] * probs[e]).sum();
            for e in 0..experts {
                grad_logits[t * experts + e] = probs[e] * (grad_probs[e] - mean);
            }
        }
    }

    for t in 0..count {
        for c in 0..hidden {
            let sum = (0..experts)
                .map(|e| grad_logits[t * experts + e] * f64::from(weight[e * hidden + c]))
                .sum();
            add(&mut grad_x[t * hidden + c], sum);
        }
    }
    for e in 0..experts {
        for c in 0..hidden {
            let sum = (0..count)
                .map(|t| grad_logits[t * experts + e] * f64::from(x[t * hidden + c]))
                .sum();
            add(&mut grad_weight[e * hidden + c], sum);
        }
    }
    Ok(())
}

fn checked_routing<'a>(
    op: &str,
    routing: &'a RefRouting,
    shape: &MoeShape,
    count: usize,
) -> Result<RoutingIndices<'a>> {
    let indices = RoutingIndices {
        experts: &routing.experts,
        offsets: &routing.offsets,
        slot_source: &routing.slot_source,
        source_slot: &routing.source_slot,
    };
    let used = expect_routing(op, indices, shape, count)?;
    prefix(
        op,
        "routing.weights",
        &routing.weights,
        &[count, shape.top_k],
    )?;
    Ok(used)
}

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

#[allow(clippy::too_many_arguments)]
pub(super) fn experts_forward(
    x: &[f32],
    routing: &RefRouting,
    w13: &[f32],
    w2: &[f32],
    residual: &[f32],
    gate_up: &mut [f32],
    out: &mut [f32],
    shape: &MoeShape,
    count: usize,
) -> Result<()> {
    let op = "experts_forward";
    let &MoeShape {
        hidden,
        intermediate,
        experts,
        top_k,
    } = shape;
    let indices = checked_routing(op, routing, shape, count)?;
    let x = prefix(op, "x", x, &[count, hidden])?;
    let w13 = prefix(op, "w13", w13, &[experts, 2, intermediate, hidden])?;
    let w2 = prefix(op, "w2", w2, &[experts, hidden, intermediate])?;
    let residual = prefix(op, "residual", residual, &[count, hidden])?;
    let gate_up = prefix_mut(op, "gate_up", gate_up, &[count, top_k, 2, intermediate])?;
    let out = prefix_mut(op, "out", out, &[count, hidden])?;

    for t in 0..count {
        let row = &x[t * hidden..][..hidden];
        let mut sum: Vec<f64> = (0..hidden)
            .map(|c| f64::from(residual[t * hidden + c]))
            .collect();
        for k in 0..top_k {
            let source = t * top_k + k;
            let expert = Expert::new(w13, w2, indices.experts[source] as usize, shape);
            let inner = expert.gate_up(row);
            let slot = indices.source_slot[source] as usize;
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

#[allow(clippy::too_many_arguments)]
pub(super) fn experts_backward(
    grad_out: &[f32],
    x: &[f32],
    routing: &RefRouting,
    w13: &[f32],
    w2: &[f32],
    gate_up: &[f32],
    grad_x: &mut [f32],
    grad_w13: &mut [f32],
    grad_w2: &mut [f32],
    grad_weights: &mut [f32],
    shape: &MoeShape,
    count: usize,
) -> Result<()> {
    let op = "experts_backward";
    let &MoeShape {
        hidden,
        intermediate,
        experts,
        top_k,
    } = shape;
    let indices = checked_routing(op, routing, shape, count)?;
    let grad_out = prefix(op, "grad_out", grad_out, &[count, hidden])?;
    let x = prefix(op, "x", x, &[count, hidden])?;
    let w13 = prefix(op, "w13", w13, &[experts, 2, intermediate, hidden])?;
    let w2 = prefix(op, "w2", w2, &[experts, hidden, intermediate])?;
    // What the forward pass kept is checked and not used: here it is made again.
    prefix(op, "gate_up", gate_up, &[count, top_k, 2, intermediate])?;
    let grad_x = prefix_mut(op, "grad_x", grad_x, &[count, hidden])?;
    let grad_w13 = prefix_mut(
        op,
        "grad_w13",
        grad_w13,
        &[experts, 2, intermediate, hidden],
    )?;
    let grad_w2 = prefix_mut(op, "grad_w2", grad_w2, &[experts, hidden, intermediate])?;
    let grad_weights = prefix_mut(op, "grad_weights", grad_weights, &[count, top_k])?;

    let mut sum_w13 = vec![0.0_f64; grad_w13.len()];
    let mut sum_w2 = vec![0.0_f64; grad_w2.len()];
    for t in 0..count {
        let row = &x[t * hidden..][..hidden];
        let grad_row = &grad_out[t * hidden..][..hidden];
        let mut grad_input = vec![0.0_f64; hidden];
        for k in 0..top_k {
            let source = t * top_k + k;
            let e = indices.experts[source] as usize;
            let expert = Expert::new(w13, w2, e, shape);
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
