//! Router, token by token.

use anyhow::Result;

use super::attention::softmax;
use super::{ReferenceDevice, add, dot};
use crate::ops::{Balance, Checked, MoeShape, RouterBackward, RouterForward, Routing, Run};

/// Probabilities of all experts for one token.
fn probabilities(x: &[f32], weight: &[f32], shape: &MoeShape) -> Vec<f64> {
    let logits: Vec<f64> = (0..shape.experts)
        .map(|e| dot(x, &weight[e * shape.hidden..][..shape.hidden]))
        .collect();
    softmax(&logits).0
}

impl Run<RouterForward<'_, Vec<f32>, Vec<f32>, Vec<u32>>> for ReferenceDevice {
    fn run(
        &self,
        operation: Checked<RouterForward<'_, Vec<f32>, Vec<f32>, Vec<u32>>>,
    ) -> Result<()> {
        let RouterForward {
            x,
            weight,
            routing,
            balance,
            groups,
            shape,
        } = operation.into_inner();
        let (count, experts, top_k) = (x.rows, shape.experts, shape.top_k);
        let (x, weight) = (x.slice(), weight.slice());
        for t in 0..count {
            let exact = probabilities(&x[t * shape.hidden..][..shape.hidden], weight, &shape);
            for e in 0..experts {
                routing.probs[t * experts + e] = exact[e] as f32;
            }
            // Stable: of equal probabilities (as stored, in f32) the lower expert comes first.
            let stored = &routing.probs[t * experts..][..experts];
            let mut order: Vec<usize> = (0..experts).collect();
            order.sort_by(|&a, &b| stored[b].total_cmp(&stored[a]));
            let sum: f64 = order[..top_k].iter().map(|&e| exact[e]).sum();
            for k in 0..top_k {
                routing.experts[t * top_k + k] = order[k] as u32;
                routing.weights[t * top_k + k] = (exact[order[k]] / sum) as f32;
            }
        }

        sort_slots(routing, experts, count * top_k);
        add_to_balance(routing, balance, groups.slice(), &shape);
        Ok(())
    }
}

/// Numbers the slots, expert by expert.
fn sort_slots(routing: &mut Routing<Vec<f32>, Vec<u32>>, experts: usize, slots: usize) {
    let mut slot = 0;
    for e in 0..experts {
        routing.offsets[e] = slot as u32;
        for source in 0..slots {
            if routing.experts[source] as usize == e {
                routing.slot_source[slot] = source as u32;
                routing.source_slot[source] = slot as u32;
                slot += 1;
            }
        }
    }
    routing.offsets[experts] = slot as u32;
}

/// Adds each group's counts and probabilities.
fn add_to_balance(
    routing: &Routing<Vec<f32>, Vec<u32>>,
    balance: &mut Balance<Vec<f32>>,
    groups: &[u32],
    shape: &MoeShape,
) {
    let (experts, top_k) = (shape.experts, shape.top_k);
    for (group, bounds) in groups.windows(2).enumerate() {
        let tokens = bounds[0] as usize..bounds[1] as usize;
        for e in 0..experts {
            let sent = routing.experts[tokens.start * top_k..tokens.end * top_k]
                .iter()
                .filter(|&&choice| choice as usize == e)
                .count();
            let sum = tokens
                .clone()
                .map(|t| f64::from(routing.probs[t * experts + e]))
                .sum();
            add(&mut balance.counts[group * experts + e], sent as f64);
            add(&mut balance.prob_sums[group * experts + e], sum);
        }
    }
}

impl Run<RouterBackward<'_, Vec<f32>, Vec<f32>, Vec<u32>>> for ReferenceDevice {
    fn run(
        &self,
        operation: Checked<RouterBackward<'_, Vec<f32>, Vec<f32>, Vec<u32>>>,
    ) -> Result<()> {
        let operation = operation.into_inner();
        let grad_logits = gradient_of_logits(&operation);
        let RouterBackward {
            x,
            weight,
            grad_x,
            grad_weight,
            shape,
            ..
        } = operation;
        let (count, experts, hidden) = (x.rows, shape.experts, shape.hidden);
        let (x, weight) = (x.slice(), weight.slice());
        let (grad_x, grad_weight) = (grad_x.slice_mut(), grad_weight.slice_mut());
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
}

/// Gradient of all logits `[T, E]`, through the weights and the load-balancing loss. Does not use
/// the probabilities that the forward pass kept: they are made again.
fn gradient_of_logits(operation: &RouterBackward<'_, Vec<f32>, Vec<f32>, Vec<u32>>) -> Vec<f64> {
    let RouterBackward {
        routing,
        balance,
        layers,
        balance_scale,
        shape,
        ..
    } = *operation;
    let (x, weight) = (operation.x.slice(), operation.weight.slice());
    let (groups, grad_weights) = (operation.groups.slice(), operation.grad_weights.slice());
    let (count, experts) = (operation.x.rows, shape.experts);
    let (top_k, hidden) = (shape.top_k, shape.hidden);
    let mut grad_logits = vec![0.0_f64; count * experts];
    for (group, bounds) in groups.windows(2).enumerate() {
        let routed = layers as f64 * f64::from(bounds[1] - bounds[0]);
        for t in bounds[0] as usize..bounds[1] as usize {
            let probs = probabilities(&x[t * hidden..][..hidden], weight, &shape);
            let mut grad_probs: Vec<f64> = (0..experts)
                .map(|e| {
                    let sent = f64::from(balance.counts[group * experts + e]);
                    f64::from(balance_scale) * experts as f64 * sent / (routed * routed)
                })
                .collect();

            // weights[k] = p[k] / sum of the chosen p
            let chosen = &routing.experts[t * top_k..][..top_k];
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
    grad_logits
}
