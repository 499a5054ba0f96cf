//! Router: top-k gating, slots sorted by expert, and the sums of the load-balancing loss.

use super::attention::softmax;
use super::simd::{add_scaled, dot};
use super::{CpuDevice, Floats, Indices};
use crate::ops::{Balance, Checked, MoeShape, RouterBackward, RouterForward, Routing, Run};
use anyhow::Result;
use rayon::prelude::*;

/// Tokens per task; the unit in which the weight's gradient is summed.
const TOKENS: usize = 64;

impl Run<RouterForward<'_, Floats, Floats, Indices>> for CpuDevice {
    fn run(&self, operation: Checked<RouterForward<'_, Floats, Floats, Indices>>) -> Result<()> {
        let RouterForward {
            x,
            weight,
            routing,
            balance,
            groups,
            shape,
        } = operation.into_inner();
        let (count, c, e, k) = (x.rows, shape.hidden, shape.experts, shape.top_k);
        let (x, weight) = (x.slice(), weight.slice());
        (
            x.par_chunks(TOKENS * c),
            routing.probs[..count * e].par_chunks_mut(TOKENS * e),
            routing.experts[..count * k].par_chunks_mut(TOKENS * k),
            routing.weights[..count * k].par_chunks_mut(TOKENS * k),
        )
            .into_par_iter()
            .for_each(|(x, probs, experts, weights)| {
                let rows = x.chunks_exact(c).zip(probs.chunks_exact_mut(e));
                let chosen = experts.chunks_exact_mut(k).zip(weights.chunks_exact_mut(k));
                for ((x, probs), (experts, weights)) in rows.zip(chosen) {
                    for (p, w) in probs.iter_mut().zip(weight.chunks_exact(c)) {
                        *p = dot(x, w);
                    }
                    softmax(probs, 1.0);
                    choose(probs, experts, weights);
                }
            });
        sort_slots(
            &routing.experts[..count * k],
            e,
            &mut routing.offsets,
            &mut routing.slot_source,
            &mut routing.source_slot,
        );
        add_to_balance(routing, balance, groups.slice(), &shape);
        Ok(())
    }
}

/// Adds each group's counts and probabilities.
fn add_to_balance(
    routing: &Routing<Floats, Indices>,
    balance: &mut Balance<Floats>,
    groups: &[u32],
    shape: &MoeShape,
) {
    let (e, k) = (shape.experts, shape.top_k);
    for (g, pair) in groups.windows(2).enumerate() {
        let counts = &mut balance.counts[g * e..(g + 1) * e];
        let sums = &mut balance.prob_sums[g * e..(g + 1) * e];
        let (from, to) = (pair[0] as usize, pair[1] as usize);
        for &expert in &routing.experts[from * k..to * k] {
            counts[expert as usize] += 1.0;
        }
        let mut exact = vec![0.0f64; e];
        for probs in routing.probs[from * e..to * e].chunks_exact(e) {
            for (sum, p) in exact.iter_mut().zip(probs) {
                *sum += f64::from(*p);
            }
        }
        for (sum, exact) in sums.iter_mut().zip(exact) {
            *sum += exact as f32;
        }
    }
}

/// The `experts.len()` largest probabilities, the first of equals winning, renormalised to sum 1.
fn choose(probs: &[f32], experts: &mut [u32], weights: &mut [f32]) {
    for i in 0..experts.len() {
        let mut best = None::<usize>;
        for (e, &p) in probs.iter().enumerate() {
            let taken = experts[..i].contains(&(e as u32));
            // NaN compares false: the first free expert is taken, and the loss shows the NaN.
            if !taken && best.is_none_or(|b| p > probs[b]) {
                best = Some(e);
            }
        }
        let best = best.unwrap_or(0);
        experts[i] = best as u32;
        weights[i] = probs[best];
    }
    let sum: f32 = weights.iter().sum();
    for w in weights {
        *w /= sum;
    }
}

/// Counting sort of the (token, choice) pairs by expert.
fn sort_slots(
    experts: &[u32],
    count: usize,
    offsets: &mut [u32],
    slot_source: &mut [u32],
    source_slot: &mut [u32],
) {
    offsets[..=count].fill(0);
    for &e in experts {
        offsets[e as usize + 1] += 1;
    }
    for e in 0..count {
        offsets[e + 1] += offsets[e];
    }
    let mut next = offsets[..count].to_vec();
    for (source, &e) in experts.iter().enumerate() {
        let slot = next[e as usize];
        next[e as usize] += 1;
        slot_source[slot as usize] = source as u32;
        source_slot[source] = slot;
    }
}

impl Run<RouterBackward<'_, Floats, Floats, Indices>> for CpuDevice {
    fn run(&self, operation: Checked<RouterBackward<'_, Floats, Floats, Indices>>) -> Result<()> {
        let operation = operation.into_inner();
        let shape = operation.shape;
        let (count, c, e) = (operation.x.rows, shape.hidden, shape.experts);
        let mut grad_logits = self.scratch.take(count * e);
        gradient_of_logits(&operation, &mut grad_logits);
        let RouterBackward {
            x,
            weight,
            grad_x,
            grad_weight,
            ..
        } = operation;
        let (x, weight) = (x.slice(), weight.slice());
        let chunks = count.div_ceil(TOKENS);
        let mut partial = self.scratch.zeroed(chunks * e * c);
        (
            x.par_chunks(TOKENS * c),
            grad_x.slice_mut().par_chunks_mut(TOKENS * c),
            grad_logits.par_chunks(TOKENS * e),
            partial.par_chunks_mut(e * c),
        )
            .into_par_iter()
            .for_each(|(x, grad_x, grad_logits, partial)| {
                let rows = x
                    .chunks_exact(c)
                    .zip(grad_x.chunks_exact_mut(c))
                    .zip(grad_logits.chunks_exact(e));
                for ((x, grad_x), grad_logits) in rows {
                    for (i, &g) in grad_logits.iter().enumerate() {
                        add_scaled(grad_x, g, &weight[i * c..(i + 1) * c]);
                        add_scaled(&mut partial[i * c..(i + 1) * c], g, x);
                    }
                }
            });
        let grad_weight = grad_weight.slice_mut();
        for partial in partial.chunks_exact(e * c) {
            for (total, part) in grad_weight.iter_mut().zip(partial) {
                *total += part;
            }
        }
        Ok(())
    }
}

/// Gradient of all logits `[T, E]`, through the weights and the load-balancing loss.
fn gradient_of_logits(
    operation: &RouterBackward<'_, Floats, Floats, Indices>,
    grad_logits: &mut [f32],
) {
    let (routing, balance) = (operation.routing, operation.balance);
    let (e, k) = (operation.shape.experts, operation.shape.top_k);
    let grad_weights = operation.grad_weights.slice();
    let scale = f64::from(operation.balance_scale);
    for (g, pair) in operation.groups.slice().windows(2).enumerate() {
        let (from, to) = (pair[0] as usize, pair[1] as usize);
        let total = (operation.layers * (to - from)) as f64;
        // d(E sum_e f_e P_e)/dp = E f_e / N, with f_e = counts / N.
        let push: Vec<f32> = balance.counts[g * e..(g + 1) * e]
            .iter()
            .map(|&n| (scale * e as f64 * f64::from(n) / (total * total)) as f32)
            .collect();
        for t in from..to {
            let probs = &routing.probs[t * e..(t + 1) * e];
            let experts = &routing.experts[t * k..(t + 1) * k];
            let weights = &routing.weights[t * k..(t + 1) * k];
            let grad = &grad_weights[t * k..(t + 1) * k];
            let to = &mut grad_logits[t * e..(t + 1) * e];
            gate_gradient(probs, experts, weights, grad, &push, to);
        }
    }
}

/// Gradient of one token's logits. With `s` the sum of the chosen probabilities and `w_i = p_i /
/// s`: `dp_i = (dw_i - sum_j w_j dw_j) / s` for the chosen, plus the balance term for all; then
/// through the softmax.
fn gate_gradient(
    probs: &[f32],
    experts: &[u32],
    weights: &[f32],
    grad: &[f32],
    push: &[f32],
    out: &mut [f32],
) {
    out.copy_from_slice(push);
    let sum: f32 = experts.iter().map(|&e| probs[e as usize]).sum();
    let mean: f32 = weights.iter().zip(grad).map(|(w, g)| w * g).sum();
    for (&e, g) in experts.iter().zip(grad) {
        out[e as usize] += (g - mean) / sum;
    }
    let inner: f32 = probs.iter().zip(out.iter()).map(|(p, g)| p * g).sum();
    for (g, p) in out.iter_mut().zip(probs) {
        *g = p * (*g - inner);
    }
}
