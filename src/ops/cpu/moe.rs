//! Top-k gating and the experts. Tokens are gathered into slots sorted by expert, each expert is two dense products over
//! its own slots, and a token's result is gathered back from its slots: no token is dropped, nothing is padded.

use super::gemm::{Factors, Matrix, Start, gemm};
use super::scratch::Scratch;
use super::simd::{LANES, dot, exp, sum_lanes, vectorised};
use super::small;
use crate::ops::{Balance, MoeShape, Routing};
use rayon::prelude::*;

use super::CpuDevice;

/// Tokens per task; the unit in which the router's weight gradient is summed.
const TOKENS: usize = 64;

/// Softmax, top-k, renormalise, sort by expert, and the sums for the load-balancing loss.
pub fn router_forward(
    x: &[f32],
    weight: &[f32],
    routing: &mut Routing<CpuDevice>,
    balance: &mut Balance<CpuDevice>,
    groups: &[u32],
    shape: &MoeShape,
    count: usize,
) {
    let (e, k) = (shape.experts, shape.top_k);
    (
        x[..count * shape.hidden].par_chunks(TOKENS * shape.hidden),
        routing.probs[..count * e].par_chunks_mut(TOKENS * e),
        routing.experts[..count * k].par_chunks_mut(TOKENS * k),
        routing.weights[..count * k].par_chunks_mut(TOKENS * k),
    )
        .into_par_iter()
        .for_each(|(x, probs, experts, weights)| {
            let rows = x.chunks_exact(shape.hidden).zip(probs.chunks_exact_mut(e));
            let chosen = experts.chunks_exact_mut(k).zip(weights.chunks_exact_mut(k));
            for ((x, probs), (experts, weights)) in rows.zip(chosen) {
                for (p, w) in probs.iter_mut().zip(weight.chunks_exact(shape.hidden)) {
                    *p = dot(x, w);
                }
                super::attention::softmax(probs, 1.0);
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

/// See [`Device::router_backward`](crate::ops::Device::router_backward).
#[allow(clippy::too_many_arguments)]
pub fn router_backward(
    scratch: &Scratch,
    grad_weights: &[f32],
    x: &[f32],
    weight: &[f32],
    routing: &Routing<CpuDevice>,
    balance: &Balance<CpuDevice>,
    groups: &[u32],
    layers: usize,
    balance_scale: f32,
    grad_x: &mut [f32],
    grad_weight: &mut [f32],
    shape: &MoeShape,
    count: usize,
) {
    let (c, e, k) = (shape.hidden, shape.experts, shape.top_k);
    let mut grad_logits = scratch.take(count * e);
    for (g, pair) in groups.windows(2).enumerate() {
        let (from, to) = (pair[0] as usize, pair[1] as usize);
        let total = (layers * (to - from)) as f64;
        // d(E sum_e f_e P_e)/dp = E f_e / N, with f_e = counts / N.
        let push: Vec<f32> = balance.counts[g * e..(g + 1) * e]
            .iter()
            .map(|&n| (f64::from(balance_scale) * e as f64 * f64::from(n) / (total * total)) as f32)
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
    let chunks = count.div_ceil(TOKENS);
    let mut partial = scratch.zeroed(chunks * e * c);
    (
        x[..count * c].par_chunks(TOKENS * c),
        grad_x[..count * c].par_chunks_mut(TOKENS * c),
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
                    super::simd::add_scaled(grad_x, g, &weight[i * c..(i + 1) * c]);
                    super::simd::add_scaled(&mut partial[i * c..(i + 1) * c], g, x);
                }
            }
        });
    for partial in partial.chunks_exact(e * c) {
        for (total, part) in grad_weight.iter_mut().zip(partial) {
            *total += part;
        }
    }
}

/// Gradient of one token's logits. With `s` the sum of the chosen probabilities and `w_i = p_i / s`:
/// `dp_i = (dw_i - sum_j w_j dw_j) / s` for the chosen, plus the balance term for all; then through the softmax.
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

/// See [`Device::experts_forward`](crate::ops::Device::experts_forward).
#[allow(clippy::too_many_arguments)]
pub fn experts_forward(
    scratch: &Scratch,
    factors: Factors,
    x: &[f32],
    routing: &Routing<CpuDevice>,
    w13: &[f32],
    w2: &[f32],
    residual: &[f32],
    gate_up: &mut [f32],
    out: &mut [f32],
    shape: &MoeShape,
    count: usize,
) {
    let (c, f, k) = (shape.hidden, shape.intermediate, shape.top_k);
    let slots = count * k;
    let mut gathered = scratch.take(slots * c);
    gather(x, &routing.slot_source[..slots], k, c, &mut gathered);
    let mut expert_out = scratch.take(slots * c);
    let work = experts_of(&routing.offsets, shape);
    let gate_up = split_by(&mut gate_up[..slots * 2 * f], &work, 2 * f);
    let outs = split_by(&mut expert_out, &work, c);
    work.par_iter()
        .zip(gate_up)
        .zip(outs)
        .with_max_len(1)
        .for_each(|((&(e, from, to), gate_up), out)| {
            let rows = to - from;
            let (w13, w2) = (
                &w13[e * 2 * f * c..][..2 * f * c],
                &w2[e * c * f..][..c * f],
            );
            let x = &gathered[from * c..to * c];
            let mut act = scratch.take(rows * f);
            if small::fits(rows) {
                small::linear(x, w13, None, gate_up, rows, c, 2 * f);
                swiglu_rows(gate_up, &mut act, f);
                small::linear(&act, w2, None, out, rows, f, c);
            } else {
                gemm(
                    factors,
                    rows,
                    2 * f,
                    c,
                    Matrix::rows(x, c),
                    Matrix::transposed(w13, c),
                    Start::Zero,
                    gate_up,
                    2 * f,
                );
                act.par_chunks_mut(TOKENS * f)
                    .zip(gate_up.par_chunks(TOKENS * 2 * f))
                    .for_each(|(a, g)| swiglu_rows(g, a, f));
                gemm(
                    factors,
                    rows,
                    c,
                    f,
                    Matrix::rows(&act, f),
                    Matrix::transposed(w2, f),
                    Start::Zero,
                    out,
                    c,
                );
            }
        });
    let (source_slot, weights) = (&routing.source_slot[..slots], &routing.weights[..slots]);
    out[..count * c]
        .par_chunks_mut(c)
        .enumerate()
        .with_min_len(TOKENS)
        .for_each(|(t, out)| {
            out.copy_from_slice(&residual[t * c..(t + 1) * c]);
            for (&slot, &w) in source_slot[t * k..(t + 1) * k]
                .iter()
                .zip(&weights[t * k..])
            {
                super::simd::add_scaled(out, w, &expert_out[slot as usize * c..][..c]);
            }
        });
}

/// (expert, first slot, end slot) of the experts that have tokens, the largest first.
fn experts_of(offsets: &[u32], shape: &MoeShape) -> Vec<(usize, usize, usize)> {
    (0..shape.experts)
        .map(|e| (e, offsets[e] as usize, offsets[e + 1] as usize))
        .filter(|(_, from, to)| from < to)
        .collect()
}

/// The parts of a buffer with `width` elements per slot that belong to each expert of `work` (ascending slots).
fn split_by<'a>(
    mut buffer: &'a mut [f32],
    work: &[(usize, usize, usize)],
    width: usize,
) -> Vec<&'a mut [f32]> {
    let mut parts = Vec::with_capacity(work.len());
    for &(_, from, to) in work {
        let (part, rest) = buffer.split_at_mut((to - from) * width);
        parts.push(part);
        buffer = rest;
    }
    parts
}

/// `out[slot] = rows[source[slot] / k]`.
fn gather(rows: &[f32], source: &[u32], k: usize, cols: usize, out: &mut [f32]) {
    out.par_chunks_mut(cols)
        .zip(source)
        .with_min_len(TOKENS)
        .for_each(|(out, &source)| {
            out.copy_from_slice(&rows[source as usize / k * cols..][..cols]);
        });
}

vectorised! {
    /// `act = silu(gate) * up` for rows `[gate | up]` of `2 f`.
    pub fn swiglu_rows(gate_up: &[f32], act: &mut [f32], f: usize) {
        for (row, act) in gate_up.chunks_exact(2 * f).zip(act.chunks_exact_mut(f)) {
            let (gate, up) = row.split_at(f);
            for i in 0..f {
                act[i] = gate[i] / (1.0 + exp::<FMA>(-gate[i])) * up[i];
            }
        }
    }
}

vectorised! {
    /// From the unweighted gradient of the activation (`grad_act`, overwritten by the weighted activation, which the weight
    /// gradient of the down projection needs) to `grad_gate_up`; returns each slot's routing-weight gradient in `grad_weight`.
    pub fn swiglu_backward_rows(gate_up: &[f32], grad_act: &mut [f32], weights: &[f32], grad_gate_up: &mut [f32], grad_weight: &mut [f32], f: usize) {
        let rows = gate_up.chunks_exact(2 * f).zip(grad_act.chunks_exact_mut(f)).zip(grad_gate_up.chunks_exact_mut(2 * f));
        for (((row, grad_act), grad_row), (&weight, grad_weight)) in rows.zip(weights.iter().zip(grad_weight)) {
            let (gate, up) = row.split_at(f);
            let (grad_gate, grad_up) = grad_row.split_at_mut(f);
            // Gate's and up's gradient, the unweighted activation times its gradient, the weighted activation.
            let slot = |g: f32, u: f32, da: f32| {
                let s = 1.0 / (1.0 + exp::<FMA>(-g));
                let act = g * s * u;
                let weighted = da * weight;
                (weighted * u * s * (1.0 + g * (1.0 - s)), weighted * g * s, act * da, act * weight)
            };
            let (gates, gate_rest) = gate.as_chunks::<LANES>();
            let (ups, up_rest) = up.as_chunks::<LANES>();
            let (acts, act_rest) = grad_act.as_chunks_mut::<LANES>();
            let (grad_gates, grad_gate_rest) = grad_gate.as_chunks_mut::<LANES>();
            let (grad_ups, grad_up_rest) = grad_up.as_chunks_mut::<LANES>();
            let mut lanes = [0.0f32; LANES];
            let lines = gates.iter().zip(ups).zip(acts).zip(grad_gates.iter_mut().zip(grad_ups));
            for (((gate, up), act), (grad_gate, grad_up)) in lines {
                // Arrays of their own: the compiler then knows that nothing overlaps.
                let (mut to_gate, mut to_up, mut to_act) = ([0.0; LANES], [0.0; LANES], [0.0; LANES]);
                for i in 0..LANES {
                    let product;
                    (to_gate[i], to_up[i], product, to_act[i]) = slot(gate[i], up[i], act[i]);
                    lanes[i] += product;
                }
                (*grad_gate, *grad_up, *act) = (to_gate, to_up, to_act);
            }
            let mut rest = 0.0f32;
            let ends = gate_rest.iter().zip(up_rest).zip(act_rest).zip(grad_gate_rest.iter_mut().zip(grad_up_rest));
            for (((&gate, &up), act), (grad_gate, grad_up)) in ends {
                let product;
                (*grad_gate, *grad_up, product, *act) = slot(gate, up, *act);
                rest += product;
            }
            *grad_weight = sum_lanes(lanes) + rest;
        }
    }
}

/// See [`Device::experts_backward`](crate::ops::Device::experts_backward).
#[allow(clippy::too_many_arguments)]
pub fn experts_backward(
    scratch: &Scratch,
    factors: Factors,
    grad_out: &[f32],
    x: &[f32],
    routing: &Routing<CpuDevice>,
    w13: &[f32],
    w2: &[f32],
    gate_up: &[f32],
    grad_x: &mut [f32],
    grad_w13: &mut [f32],
    grad_w2: &mut [f32],
    grad_weights: &mut [f32],
    shape: &MoeShape,
    count: usize,
) {
    let (c, f, k) = (shape.hidden, shape.intermediate, shape.top_k);
    let slots = count * k;
    let sources = &routing.slot_source[..slots];
    let mut slot_x = scratch.take(slots * c);
    gather(x, sources, k, c, &mut slot_x);
    let mut slot_grad = scratch.take(slots * c);
    gather(grad_out, sources, k, c, &mut slot_grad);
    let mut slot_weight = scratch.take(slots);
    for (w, &source) in slot_weight.iter_mut().zip(sources) {
        *w = routing.weights[source as usize];
    }
    let mut slot_grad_weight = scratch.take(slots);
    let work = experts_of(&routing.offsets, shape);
    let grads_w13 = grad_w13[..shape.experts * 2 * f * c]
        .chunks_exact_mut(2 * f * c)
        .enumerate();
    let grads_w2 = grad_w2[..shape.experts * c * f]
        .chunks_exact_mut(c * f)
        .enumerate();
    let used = |e: usize| routing.offsets[e] < routing.offsets[e + 1];
    let grads_w13: Vec<_> = grads_w13
        .filter(|(e, _)| used(*e))
        .map(|(_, g)| g)
        .collect();
    let grads_w2: Vec<_> = grads_w2.filter(|(e, _)| used(*e)).map(|(_, g)| g).collect();
    // The gathered gradient is not needed once the expert has used it: the gradient of x takes its place.
    let slot_grads = split_by(&mut slot_grad, &work, c);
    let slot_grad_weights = split_by(&mut slot_grad_weight, &work, 1);
    let tasks = work
        .par_iter()
        .zip(slot_grads)
        .zip(slot_grad_weights)
        .zip(grads_w13)
        .zip(grads_w2);
    tasks.with_max_len(1).for_each(
        |((((&(e, from, to), grad), grad_weight), grad_w13), grad_w2)| {
            let rows = to - from;
            let (w13, w2) = (
                &w13[e * 2 * f * c..][..2 * f * c],
                &w2[e * c * f..][..c * f],
            );
            let mut act = scratch.take(rows * f);
            let mut grad_gate_up = scratch.take(rows * 2 * f);
            gemm(
                factors,
                rows,
                f,
                c,
                Matrix::rows(grad, c),
                Matrix::rows(w2, f),
                Start::Zero,
                &mut act,
                f,
            );
            (
                gate_up[from * 2 * f..to * 2 * f].par_chunks(TOKENS * 2 * f),
                act.par_chunks_mut(TOKENS * f),
                slot_weight[from..to].par_chunks(TOKENS),
                grad_gate_up.par_chunks_mut(TOKENS * 2 * f),
                grad_weight.par_chunks_mut(TOKENS),
            )
                .into_par_iter()
                .for_each(|(gate_up, act, w, grad_gate_up, grad_weight)| {
                    swiglu_backward_rows(gate_up, act, w, grad_gate_up, grad_weight, f);
                });
            let slot_x = Matrix::rows(&slot_x[from * c..to * c], c);
            gemm(
                factors,
                c,
                f,
                rows,
                Matrix::transposed(grad, c),
                Matrix::rows(&act, f),
                Start::Accumulate,
                grad_w2,
                f,
            );
            let left = Matrix::transposed(&grad_gate_up, 2 * f);
            gemm(
                factors,
                2 * f,
                c,
                rows,
                left,
                slot_x,
                Start::Accumulate,
                grad_w13,
                c,
            );
            gemm(
                factors,
                rows,
                c,
                2 * f,
                Matrix::rows(&grad_gate_up, 2 * f),
                Matrix::rows(w13, c),
                Start::Zero,
                grad,
                c,
            );
        },
    );
    let source_slot = &routing.source_slot[..slots];
    for (grad, &slot) in grad_weights[..slots].iter_mut().zip(source_slot) {
        *grad = slot_grad_weight[slot as usize];
    }
    grad_x[..count * c]
        .par_chunks_mut(c)
        .enumerate()
        .with_min_len(TOKENS)
        .for_each(|(t, grad_x)| {
            grad_x.fill(0.0);
            for &slot in &source_slot[t * k..(t + 1) * k] {
                super::simd::add_scaled(grad_x, 1.0, &slot_grad[slot as usize * c..][..c]);
            }
        });
}
