//! The experts. Tokens are gathered into slots sorted by expert, each expert is two dense products
//! over its own slots, and a token's result is gathered back from its slots: no token is dropped,
//! nothing is padded.

use super::gemm::{Start, Strided, Target, gemm};
use super::simd::{LANES, add_scaled, exp, sum_lanes, vectorised};
use super::{CpuDevice, Floats, Indices, small};
use crate::ops::{Checked, ExpertsBackward, ExpertsForward, MoeShape, Run};
use anyhow::Result;
use rayon::prelude::*;

/// Tokens per task.
const TOKENS: usize = 64;

/// An expert's slots.
#[derive(Clone, Copy)]
struct Work {
    expert: usize,
    /// First slot.
    from: usize,
    /// Slot after the last.
    to: usize,
}

impl Work {
    fn rows(&self) -> usize {
        self.to - self.from
    }

    /// The expert's part of a weight, which has `size` elements for each.
    fn weight<'a>(&self, all: &'a [f32], size: usize) -> &'a [f32] {
        &all[self.expert * size..][..size]
    }

    /// Its slots' part of a buffer with `width` elements per slot.
    fn slots<'a>(&self, all: &'a [f32], width: usize) -> &'a [f32] {
        &all[self.from * width..self.to * width]
    }
}

/// The experts that have tokens, ascending.
fn work_of(offsets: &[u32], shape: &MoeShape) -> Vec<Work> {
    let work = |expert| Work {
        expert,
        from: offsets[expert] as usize,
        to: offsets[expert + 1] as usize,
    };
    let all = (0..shape.experts).map(work);
    all.filter(|work| work.from < work.to).collect()
}

impl Run<ExpertsForward<'_, Floats, Floats, Indices>> for CpuDevice {
    fn run(&self, operation: Checked<ExpertsForward<'_, Floats, Floats, Indices>>) -> Result<()> {
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
        let (c, f, k) = (shape.hidden, shape.intermediate, shape.top_k);
        let slots = x.rows * k;
        let mut gathered = self.scratch.take(slots * c);
        gather(
            x.slice(),
            &routing.slot_source[..slots],
            k,
            c,
            &mut gathered,
        );
        let mut expert_out = self.scratch.take(slots * c);
        let work = work_of(&routing.offsets, &shape);
        let gate_up = split_by(gate_up.slice_mut(), &work, 2 * f);
        let outs = split_by(&mut expert_out, &work, c);
        let (w13, w2) = (w13.slice(), w2.slice());
        work.par_iter()
            .zip(gate_up)
            .zip(outs)
            .with_max_len(1)
            .for_each(|((work, gate_up), out)| {
                let x = work.slots(&gathered, c);
                let w13 = work.weight(w13, 2 * f * c);
                self.expert(x, w13, work.weight(w2, c * f), gate_up, out, &shape);
            });
        let (source_slot, weights) = (&routing.source_slot[..slots], &routing.weights[..slots]);
        let residual = residual.slice();
        out.slice_mut()
            .par_chunks_mut(c)
            .enumerate()
            .with_min_len(TOKENS)
            .for_each(|(t, out)| {
                out.copy_from_slice(&residual[t * c..(t + 1) * c]);
                for (&slot, &w) in source_slot[t * k..(t + 1) * k]
                    .iter()
                    .zip(&weights[t * k..])
                {
                    add_scaled(out, w, &expert_out[slot as usize * c..][..c]);
                }
            });
        Ok(())
    }
}

impl CpuDevice {
    /// One expert's rows: `out = swiglu(x w13^T) w2^T`.
    fn expert(
        &self,
        x: &[f32],
        w13: &[f32],
        w2: &[f32],
        gate_up: &mut [f32],
        out: &mut [f32],
        shape: &MoeShape,
    ) {
        let (c, f) = (shape.hidden, shape.intermediate);
        let rows = x.len() / c;
        let mut act = self.scratch.take(rows * f);
        if small::fits(rows) {
            small::linear(x, w13, None, gate_up, rows, c, 2 * f);
            swiglu_rows(gate_up, &mut act, f);
            small::linear(&act, w2, None, out, rows, f, c);
            return;
        }
        gemm(
            self.precision,
            (rows, 2 * f, c),
            Strided::rows(x, c),
            Strided::transposed(w13, c),
            Target {
                start: Start::Zero,
                c: gate_up,
                row: 2 * f,
            },
        );
        act.par_chunks_mut(TOKENS * f)
            .zip(gate_up.par_chunks(TOKENS * 2 * f))
            .for_each(|(act, gate_up)| swiglu_rows(gate_up, act, f));
        gemm(
            self.precision,
            (rows, c, f),
            Strided::rows(&act, f),
            Strided::transposed(w2, f),
            Target {
                start: Start::Zero,
                c: out,
                row: c,
            },
        );
    }
}

/// The parts of a buffer with `width` elements per slot that belong to each expert of `work`
/// (ascending slots).
fn split_by<'a>(mut buffer: &'a mut [f32], work: &[Work], width: usize) -> Vec<&'a mut [f32]> {
    let mut parts = Vec::with_capacity(work.len());
    for of in work {
        let (part, rest) = buffer.split_at_mut(of.rows() * width);
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
    pub(crate) fn swiglu_rows(gate_up: &[f32], act: &mut [f32], f: usize) {
        for (row, act) in gate_up.chunks_exact(2 * f).zip(act.chunks_exact_mut(f)) {
            let (gate, up) = row.split_at(f);
            for i in 0..f {
                act[i] = gate[i] / (1.0 + exp::<FMA>(-gate[i])) * up[i];
            }
        }
    }
}

vectorised! {
    /// From the unweighted gradient of the activation (`grad_act`, overwritten by the weighted
    /// activation, which the weight gradient of the down projection needs) to `grad_gate_up`;
    /// returns each slot's routing-weight gradient in `grad_weight`.
    pub(crate) fn swiglu_backward_rows(
        gate_up: &[f32],
        grad_act: &mut [f32],
        weights: &[f32],
        grad_gate_up: &mut [f32],
        grad_weight: &mut [f32],
        f: usize,
    ) {
        let rows = gate_up
            .chunks_exact(2 * f)
            .zip(grad_act.chunks_exact_mut(f))
            .zip(grad_gate_up.chunks_exact_mut(2 * f))
            .zip(weights.iter().zip(grad_weight));
        for (((row, grad_act), grad_row), (&weight, grad_weight)) in rows {
            let (gate, up) = row.split_at(f);
            let (grad_gate, grad_up) = grad_row.split_at_mut(f);
            // Gate's and up's gradient, the unweighted activation times its gradient, the weighted
            // activation.
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
                let (mut to_gate, mut to_up) = ([0.0; LANES], [0.0; LANES]);
                let mut to_act = [0.0; LANES];
                for i in 0..LANES {
                    let product;
                    (to_gate[i], to_up[i], product, to_act[i]) = slot(gate[i], up[i], act[i]);
                    lanes[i] += product;
                }
                (*grad_gate, *grad_up, *act) = (to_gate, to_up, to_act);
            }
            let mut rest = 0.0f32;
            let ends = gate_rest
                .iter()
                .zip(up_rest)
                .zip(act_rest)
                .zip(grad_gate_rest.iter_mut().zip(grad_up_rest));
            for (((&gate, &up), act), (grad_gate, grad_up)) in ends {
                let product;
                (*grad_gate, *grad_up, product, *act) = slot(gate, up, *act);
                rest += product;
            }
            *grad_weight = sum_lanes(lanes) + rest;
        }
    }
}

impl Run<ExpertsBackward<'_, Floats, Floats, Indices>> for CpuDevice {
    fn run(&self, operation: Checked<ExpertsBackward<'_, Floats, Floats, Indices>>) -> Result<()> {
        let ExpertsBackward {
            grad_out,
            x,
            routing,
            w13,
            w2,
            gate_up,
            grad_x,
            grad_w13,
            grad_w2,
            grad_weights,
            shape,
        } = operation.into_inner();
        let (c, f, k) = (shape.hidden, shape.intermediate, shape.top_k);
        let slots = x.rows * k;
        let sources = &routing.slot_source[..slots];
        let mut slot_x = self.scratch.take(slots * c);
        gather(x.slice(), sources, k, c, &mut slot_x);
        let mut slot_grad = self.scratch.take(slots * c);
        gather(grad_out.slice(), sources, k, c, &mut slot_grad);
        let mut slot_weight = self.scratch.take(slots);
        for (w, &source) in slot_weight.iter_mut().zip(sources) {
            *w = routing.weights[source as usize];
        }
        let mut slot_grad_weight = self.scratch.take(slots);
        let work = work_of(&routing.offsets, &shape);
        let grads_w13 = parts_of(grad_w13.slice_mut(), &work, 2 * f * c);
        let grads_w2 = parts_of(grad_w2.slice_mut(), &work, c * f);
        // The gathered gradient is not needed once the expert has used it: the gradient of x takes
        // its place.
        let slot_grads = split_by(&mut slot_grad, &work, c);
        let slot_grad_weights = split_by(&mut slot_grad_weight, &work, 1);
        let (w13, w2, gate_up) = (w13.slice(), w2.slice(), gate_up.slice());
        let tasks = work
            .par_iter()
            .zip(slot_grads)
            .zip(slot_grad_weights)
            .zip(grads_w13)
            .zip(grads_w2);
        tasks
            .with_max_len(1)
            .for_each(|((((work, grad), grad_weight), grad_w13), grad_w2)| {
                let expert = ExpertBackward {
                    x: work.slots(&slot_x, c),
                    w13: work.weight(w13, 2 * f * c),
                    w2: work.weight(w2, c * f),
                    gate_up: work.slots(gate_up, 2 * f),
                    weight: work.slots(&slot_weight, 1),
                    grad,
                    grad_w13,
                    grad_w2,
                    grad_weight,
                };
                self.expert_backward(expert, &shape);
            });
        let source_slot = &routing.source_slot[..slots];
        for (grad, &slot) in grad_weights.slice_mut().iter_mut().zip(source_slot) {
            *grad = slot_grad_weight[slot as usize];
        }
        grad_x
            .slice_mut()
            .par_chunks_mut(c)
            .enumerate()
            .with_min_len(TOKENS)
            .for_each(|(t, grad_x)| {
                grad_x.fill(0.0);
                for &slot in &source_slot[t * k..(t + 1) * k] {
                    add_scaled(grad_x, 1.0, &slot_grad[slot as usize * c..][..c]);
                }
            });
        Ok(())
    }
}

/// The parts of a weight's gradient, `size` elements each, of the experts that have tokens.
fn parts_of<'a>(all: &'a mut [f32], work: &[Work], size: usize) -> Vec<&'a mut [f32]> {
    let mut work = work.iter().peekable();
    all.chunks_exact_mut(size)
        .enumerate()
        .filter(|(expert, _)| work.next_if(|work| work.expert == *expert).is_some())
        .map(|(_, part)| part)
        .collect()
}

/// One expert's rows, slot by slot, and its weights.
struct ExpertBackward<'a> {
    x: &'a [f32],
    w13: &'a [f32],
    w2: &'a [f32],
    gate_up: &'a [f32],
    /// Routing weight of each slot.
    weight: &'a [f32],
    /// Gradient of the unweighted output; becomes that of `x`.
    grad: &'a mut [f32],
    grad_w13: &'a mut [f32],
    grad_w2: &'a mut [f32],
    grad_weight: &'a mut [f32],
}

impl CpuDevice {
    fn expert_backward(&self, expert: ExpertBackward, shape: &MoeShape) {
        let ExpertBackward {
            x,
            w13,
            w2,
            gate_up,
            weight,
            grad,
            grad_w13,
            grad_w2,
            grad_weight,
        } = expert;
        let (c, f, rows) = (shape.hidden, shape.intermediate, weight.len());
        let mut act = self.scratch.take(rows * f);
        let mut grad_gate_up = self.scratch.take(rows * 2 * f);
        gemm(
            self.precision,
            (rows, f, c),
            Strided::rows(grad, c),
            Strided::rows(w2, f),
            Target {
                start: Start::Zero,
                c: &mut act,
                row: f,
            },
        );
        (
            gate_up.par_chunks(TOKENS * 2 * f),
            act.par_chunks_mut(TOKENS * f),
            weight.par_chunks(TOKENS),
            grad_gate_up.par_chunks_mut(TOKENS * 2 * f),
            grad_weight.par_chunks_mut(TOKENS),
        )
            .into_par_iter()
            .for_each(|(gate_up, act, w, grad_gate_up, grad_weight)| {
                swiglu_backward_rows(gate_up, act, w, grad_gate_up, grad_weight, f);
            });
        gemm(
            self.precision,
            (c, f, rows),
            Strided::transposed(grad, c),
            Strided::rows(&act, f),
            Target {
                start: Start::Accumulate,
                c: grad_w2,
                row: f,
            },
        );
        gemm(
            self.precision,
            (2 * f, c, rows),
            Strided::transposed(&grad_gate_up, 2 * f),
            Strided::rows(x, c),
            Target {
                start: Start::Accumulate,
                c: grad_w13,
                row: c,
            },
        );
        gemm(
            self.precision,
            (rows, c, 2 * f),
            Strided::rows(&grad_gate_up, 2 * f),
            Strided::rows(w13, c),
            Target {
                start: Start::Zero,
                c: grad,
                row: c,
            },
        );
    }
}
