//! Every backward pass of the reference device against finite differences of its own forward pass.
//!
//! The loss is a random projection of the outputs, `sum(out * probe)` in f64. Each checked element
//! is moved up and down by `STEP` times the input's rms. An f32 output is rounded to 6e-8 of its
//! size, which the division by the step turns into about 1e-5; the curvature adds about `STEP^2`.
//! `TOLERANCE` is for the largest error over the rms of the differences.

use muni_engine::ops::reference::ReferenceDevice;
use muni_engine::ops::{
    AdamStep, AdamW, AttentionBackward, AttentionForward, AttentionShape, Balance, Buffer, Device,
    EmbeddingBackward, EmbeddingForward, ExpertsBackward, ExpertsForward, GlobalNorm, HeadLoss,
    HeadLosses, IGNORE_TARGET, LinearBackwardInput, LinearBackwardWeight, LinearForward, MoeShape,
    Offsets, RmsNormBackward, RmsNormForward, RopeBackward, RopeForward, RouterBackward,
    RouterForward, Routing, issue,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const DEVICE: ReferenceDevice = ReferenceDevice;
/// Step of the central differences, over the input's rms.
const STEP: f64 = 1e-2;
/// Largest `max|gradient - difference| / rms(difference)`.
const TOLERANCE: f64 = 1e-2;
/// Most elements checked of one input; they are spread evenly over it.
const CHECKED: usize = 300;

/// Seeded values, about normal with standard deviation `scale`.
fn random(seed: u64, len: usize, scale: f32) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut uniform = || (rng.next_u32() >> 8) as f32 / (1 << 24) as f32 - 0.5;
    (0..len)
        .map(|_| scale * 3.0_f32.sqrt() * (uniform() + uniform() + uniform() + uniform()))
        .collect()
}

/// `sum(out * probe)`.
fn project(out: &[f32], probe: &[f32]) -> f64 {
    assert_eq!(out.len(), probe.len());
    out.iter()
        .zip(probe)
        .map(|(&out, &probe)| f64::from(out) * f64::from(probe))
        .sum()
}

/// Compares `gradient` with the central differences of `loss` at `input`.
fn check(name: &str, input: &[f32], gradient: &[f32], loss: impl Fn(&[f32]) -> f64) {
    assert_eq!(gradient.len(), input.len(), "{name}");
    let rms = (project(input, input) / input.len() as f64).sqrt();
    // Odd, so that it is not always the same column of a matrix.
    let stride = input.len().div_ceil(CHECKED) | 1;
    let (mut largest, mut squares, mut count) = (0.0_f64, 0.0_f64, 0);
    let mut moved = input.to_vec();
    for i in (0..input.len()).step_by(stride) {
        let mut at = |step: f64| {
            moved[i] = (f64::from(input[i]) + step) as f32;
            (f64::from(moved[i]), loss(&moved))
        };
        let ((above, high), (below, low)) = (at(STEP * rms), at(-STEP * rms));
        moved[i] = input[i];
        let difference = (high - low) / (above - below);
        let error = (f64::from(gradient[i]) - difference).abs();
        assert!(error.is_finite(), "{name}: element {i}");
        largest = largest.max(error);
        squares += difference * difference;
        count += 1;
    }
    let size = (squares / f64::from(count)).sqrt();
    assert!(size > 0.0, "{name}: the loss does not depend on the input");
    assert!(
        largest / size <= TOLERANCE,
        "{name}: the gradient differs by {:.1e} of its size",
        largest / size
    );
}

#[test]
fn the_check_sees_a_wrong_gradient() {
    let input = random(1, 40, 1.0);
    let loss = |x: &[f32]| project(x, x);
    let right: Vec<f32> = input.iter().map(|x| 2.0 * x).collect();
    check("square", &input, &right, loss);
    let mut wrong = right.clone();
    wrong[7] += 0.05;
    assert!(std::panic::catch_unwind(|| check("square", &input, &wrong, loss)).is_err());
}

#[test]
fn embedding() {
    let (count, vocab, hidden) = (7, 5, 6);
    let tokens = vec![4, 0, 2, 2, 4, 4, 1];
    let (table, probe) = (
        random(1, vocab * hidden, 1.0),
        random(2, count * hidden, 1.0),
    );
    let mut gradient = vec![0.0; table.len()];
    issue(
        &DEVICE,
        EmbeddingBackward {
            grad_out: probe.matrix(count, hidden),
            tokens: tokens.vector(count),
            grad_table: gradient.matrix_mut(vocab, hidden),
        },
    )
    .unwrap();
    check("table", &table, &gradient, |table| {
        let mut out = vec![0.0; probe.len()];
        issue(
            &DEVICE,
            EmbeddingForward {
                table: table.to_vec().matrix(vocab, hidden),
                tokens: tokens.vector(count),
                out: out.matrix_mut(count, hidden),
            },
        )
        .unwrap();
        project(&out, &probe)
    });
}

#[test]
fn rmsnorm() {
    let (rows, cols) = (5, 12);
    let (x, weight) = (random(1, rows * cols, 1.0), random(2, cols, 1.0));
    let probe = random(3, rows * cols, 1.0);
    let forward = |x: &[f32], weight: &[f32]| {
        let (mut out, mut inv_rms) = (vec![0.0; rows * cols], vec![0.0; rows]);
        let (x, weight) = (x.to_vec(), weight.to_vec());
        issue(
            &DEVICE,
            RmsNormForward {
                x: x.matrix(rows, cols),
                weight: weight.vector(cols),
                epsilon: 1e-5,
                out: out.matrix_mut(rows, cols),
                inv_rms: inv_rms.vector_mut(rows),
            },
        )
        .unwrap();
        (out, inv_rms)
    };
    let (_, inv_rms) = forward(&x, &weight);
    let (mut grad_x, mut grad_weight) = (vec![0.0; x.len()], vec![0.0; cols]);
    issue(
        &DEVICE,
        RmsNormBackward {
            grad_out: probe.matrix(rows, cols),
            x: x.matrix(rows, cols),
            weight: weight.vector(cols),
            inv_rms: inv_rms.vector(rows),
            grad_x: grad_x.matrix_mut(rows, cols),
            grad_weight: grad_weight.vector_mut(cols),
        },
    )
    .unwrap();
    check("x", &x, &grad_x, |x| {
        project(&forward(x, &weight).0, &probe)
    });
    check("weight", &weight, &grad_weight, |weight| {
        project(&forward(&x, weight).0, &probe)
    });
}

#[test]
fn linear() {
    let (rows, inputs, outputs) = (5, 7, 9);
    let (x, weight) = (
        random(1, rows * inputs, 1.0),
        random(2, outputs * inputs, 1.0),
    );
    let (residual, probe) = (
        random(3, rows * outputs, 1.0),
        random(4, rows * outputs, 1.0),
    );
    let loss = |x: &[f32], weight: &[f32]| {
        let mut y = vec![0.0; rows * outputs];
        let (x, weight) = (x.to_vec(), weight.to_vec());
        issue(
            &DEVICE,
            LinearForward {
                x: x.matrix(rows, inputs),
                weight: weight.matrix(outputs, inputs),
                residual: Some(residual.matrix(rows, outputs)),
                y: y.matrix_mut(rows, outputs),
            },
        )
        .unwrap();
        project(&y, &probe)
    };
    let (mut grad_x, mut grad_weight) = (vec![0.0; x.len()], vec![0.0; weight.len()]);
    issue(
        &DEVICE,
        LinearBackwardInput {
            grad_y: probe.matrix(rows, outputs),
            weight: weight.matrix(outputs, inputs),
            grad_x: grad_x.matrix_mut(rows, inputs),
            accumulate: false,
        },
    )
    .unwrap();
    issue(
        &DEVICE,
        LinearBackwardWeight {
            grad_y: probe.matrix(rows, outputs),
            x: x.matrix(rows, inputs),
            grad_weight: grad_weight.matrix_mut(outputs, inputs),
        },
    )
    .unwrap();
    check("x", &x, &grad_x, |x| loss(x, &weight));
    check("weight", &weight, &grad_weight, |weight| loss(&x, weight));
}

const ATTENTION: AttentionShape = AttentionShape {
    heads: 4,
    kv_heads: 2,
    head_dim: 6,
};

#[test]
fn rope() {
    let (shape, positions) = (&ATTENTION, vec![0, 1, 2, 0, 77]);
    let count = positions.len();
    let len = count * shape.qkv_size();
    let (qkv, probe) = (random(1, len, 1.0), random(2, len, 1.0));
    let mut gradient = probe.clone();
    issue(
        &DEVICE,
        RopeBackward {
            grad_qkv: gradient.matrix_mut(count, shape.qkv_size()),
            positions: positions.vector(count),
            theta: 1e4,
            shape: *shape,
        },
    )
    .unwrap();
    check("qkv", &qkv, &gradient, |qkv| {
        let mut qkv = qkv.to_vec();
        issue(
            &DEVICE,
            RopeForward {
                qkv: qkv.matrix_mut(count, shape.qkv_size()),
                positions: positions.vector(count),
                theta: 1e4,
                shape: *shape,
            },
        )
        .unwrap();
        project(&qkv, &probe)
    });
}

/// Queries, keys and values are checked apart, so that small gradients of one do not hide behind
/// another's.
#[test]
fn attention() {
    let (shape, segments) = (&ATTENTION, vec![0, 1, 8, 9, 14]);
    let (count, parts) = (14, 4);
    let columns = shape.qkv_size();
    let qkv = random(1, count * columns, 1.0);
    let probe = random(2, count * shape.out_size(), 1.0);
    let forward = |qkv: &[f32]| {
        let mut out = vec![0.0; count * shape.out_size()];
        let mut log_sum = vec![0.0; count * shape.heads];
        let qkv = qkv.to_vec();
        issue(
            &DEVICE,
            AttentionForward {
                qkv: qkv.matrix(count, shape.qkv_size()),
                segments: Offsets::new(&segments, parts),
                out: out.matrix_mut(count, shape.out_size()),
                log_sum: log_sum.matrix_mut(count, shape.heads),
                shape: *shape,
            },
        )
        .unwrap();
        (out, log_sum)
    };
    let (out, log_sum) = forward(&qkv);
    let mut gradient = vec![f32::NAN; qkv.len()];
    issue(
        &DEVICE,
        AttentionBackward {
            grad_out: probe.matrix(count, shape.out_size()),
            qkv: qkv.matrix(count, shape.qkv_size()),
            out: out.matrix(count, shape.out_size()),
            log_sum: log_sum.matrix(count, shape.heads),
            segments: Offsets::new(&segments, parts),
            grad_qkv: gradient.matrix_mut(count, shape.qkv_size()),
            shape: *shape,
        },
    )
    .unwrap();
    let (queries, keys) = (shape.out_size(), shape.kv_size());
    for (name, from, width) in [
        ("queries", 0, queries),
        ("keys", queries, keys),
        ("values", queries + keys, keys),
    ] {
        let part = |all: &[f32]| -> Vec<f32> {
            let rows = all.chunks(columns);
            rows.flat_map(|row| row[from..from + width].to_vec())
                .collect()
        };
        check(name, &part(&qkv), &part(&gradient), |moved| {
            let mut all = qkv.clone();
            for (row, moved) in all.chunks_mut(columns).zip(moved.chunks(width)) {
                row[from..from + width].copy_from_slice(moved);
            }
            project(&forward(&all).0, &probe)
        });
    }
}

const MOE: MoeShape = MoeShape {
    hidden: 6,
    intermediate: 5,
    experts: 5,
    top_k: 2,
};
const TOKENS: usize = 11;
/// Two logical batches.
const GROUPS: [u32; 3] = [0, 4, 11];
const LAYERS: usize = 3;

/// Router input and weight whose choice does not change under the steps: the last chosen and the
/// first not chosen expert's logits lie well apart.
fn router_input() -> (Vec<f32>, Vec<f32>) {
    let weight = random(2, MOE.experts * MOE.hidden, 0.7);
    let mut x = Vec::new();
    for seed in 100.. {
        let row = random(seed, MOE.hidden, 1.0);
        let mut logits: Vec<f64> = weight
            .chunks(MOE.hidden)
            .map(|weight| project(&row, weight))
            .collect();
        logits.sort_by(|a, b| b.total_cmp(a));
        if logits[1] - logits[2] > 0.2 {
            x.extend(row);
        }
        if x.len() == TOKENS * MOE.hidden {
            break;
        }
    }
    (x, weight)
}

type Routed = (Routing<Vec<f32>, Vec<u32>>, Balance<Vec<f32>>);

fn route(x: &[f32], weight: &[f32]) -> Routed {
    let mut routing = Routing::new(&DEVICE, &MOE, TOKENS).unwrap();
    let mut balance = Balance::new(&DEVICE, &MOE, 2).unwrap();
    let (x, weight, groups) = (x.to_vec(), weight.to_vec(), GROUPS.to_vec());
    issue(
        &DEVICE,
        RouterForward {
            x: x.matrix(TOKENS, MOE.hidden),
            weight: weight.matrix(MOE.experts, MOE.hidden),
            routing: &mut routing,
            balance: &mut balance,
            groups: Offsets::new(&groups, 2),
            shape: MOE,
        },
    )
    .unwrap();
    (routing, balance)
}

/// Sum over groups of `E sum_e (counts / N) (prob_sums / N)`.
fn balance_loss(counts: &[f32], prob_sums: &[f32]) -> f64 {
    let groups = counts
        .chunks(MOE.experts)
        .zip(prob_sums.chunks(MOE.experts));
    groups
        .zip(GROUPS.windows(2))
        .map(|((counts, prob_sums), bounds)| {
            let tokens = LAYERS as f64 * f64::from(bounds[1] - bounds[0]);
            MOE.experts as f64 * project(counts, prob_sums) / (tokens * tokens)
        })
        .sum()
}

fn check_router(probe: &[f32], balance_scale: f32) {
    let (x, weight) = router_input();
    let (routing, balance) = route(&x, &weight);
    let (mut grad_x, mut grad_weight) = (vec![0.0; x.len()], vec![0.0; weight.len()]);
    issue(
        &DEVICE,
        RouterBackward {
            grad_weights: probe.to_vec().matrix(TOKENS, MOE.top_k),
            x: x.matrix(TOKENS, MOE.hidden),
            weight: weight.matrix(MOE.experts, MOE.hidden),
            routing: &routing,
            balance: &balance,
            groups: Offsets::new(&GROUPS.to_vec(), 2),
            layers: LAYERS,
            balance_scale,
            grad_x: grad_x.matrix_mut(TOKENS, MOE.hidden),
            grad_weight: grad_weight.matrix_mut(MOE.experts, MOE.hidden),
            shape: MOE,
        },
    )
    .unwrap();
    let loss = |x: &[f32], weight: &[f32]| {
        let (moved, sums) = route(x, weight);
        assert_eq!(moved.experts, routing.experts, "a step changed the choice");
        // The counts are constants: those of the backward pass.
        let pushed = balance_loss(&balance.counts, &sums.prob_sums);
        project(&moved.weights, probe) + f64::from(balance_scale) * pushed
    };
    check("x", &x, &grad_x, |x| loss(x, &weight));
    check("weight", &weight, &grad_weight, |weight| loss(&x, weight));
}

#[test]
fn router_through_the_weights() {
    check_router(&random(3, TOKENS * MOE.top_k, 1.0), 0.0);
}

#[test]
fn router_through_the_balance() {
    check_router(&[0.0; TOKENS * MOE.top_k], 0.7);
}

#[test]
fn router_through_both() {
    check_router(&random(3, TOKENS * MOE.top_k, 0.1), 5.0);
}

#[test]
fn experts() {
    let (shape, size) = (&MOE, MOE.experts * MOE.hidden * MOE.intermediate);
    let (x, router) = router_input();
    let (mut routing, _) = route(&x, &router);
    let (w13, w2) = (random(4, 2 * size, 0.7), random(5, size, 0.7));
    let (residual, probe) = (random(6, x.len(), 1.0), random(7, x.len(), 1.0));
    let forward = |x: &[f32], routing: &Routing<_, _>, w13: &[f32], w2: &[f32]| {
        let mut gate_up = vec![0.0; TOKENS * MOE.top_k * 2 * MOE.intermediate];
        let mut out = vec![0.0; probe.len()];
        let (x, w13, w2) = (x.to_vec(), w13.to_vec(), w2.to_vec());
        issue(
            &DEVICE,
            ExpertsForward {
                x: x.matrix(TOKENS, shape.hidden),
                routing,
                w13: w13.matrix(shape.experts * 2 * shape.intermediate, shape.hidden),
                w2: w2.matrix(shape.experts * shape.hidden, shape.intermediate),
                residual: residual.matrix(TOKENS, shape.hidden),
                gate_up: gate_up.matrix_mut(TOKENS * shape.top_k, 2 * shape.intermediate),
                out: out.matrix_mut(TOKENS, shape.hidden),
                shape: *shape,
            },
        )
        .unwrap();
        (project(&out, &probe), gate_up)
    };
    let (_, gate_up) = forward(&x, &routing, &w13, &w2);
    let (mut grad_x, mut grad_weights) = (vec![f32::NAN; x.len()], vec![f32::NAN; 2 * TOKENS]);
    let (mut grad_w13, mut grad_w2) = (vec![0.0; 2 * size], vec![0.0; size]);
    issue(
        &DEVICE,
        ExpertsBackward {
            grad_out: probe.matrix(TOKENS, shape.hidden),
            x: x.matrix(TOKENS, shape.hidden),
            routing: &routing,
            w13: w13.matrix(shape.experts * 2 * shape.intermediate, shape.hidden),
            w2: w2.matrix(shape.experts * shape.hidden, shape.intermediate),
            gate_up: gate_up.matrix(TOKENS * shape.top_k, 2 * shape.intermediate),
            grad_x: grad_x.matrix_mut(TOKENS, shape.hidden),
            grad_w13: grad_w13.matrix_mut(shape.experts * 2 * shape.intermediate, shape.hidden),
            grad_w2: grad_w2.matrix_mut(shape.experts * shape.hidden, shape.intermediate),
            grad_weights: grad_weights.matrix_mut(TOKENS, shape.top_k),
            shape: *shape,
        },
    )
    .unwrap();
    check("x", &x, &grad_x, |x| forward(x, &routing, &w13, &w2).0);
    check("w13", &w13, &grad_w13, |w13| {
        forward(&x, &routing, w13, &w2).0
    });
    check("w2", &w2, &grad_w2, |w2| forward(&x, &routing, &w13, w2).0);
    let weights = std::mem::take(&mut routing.weights);
    let routing = std::cell::RefCell::new(routing);
    check("routing weights", &weights, &grad_weights, |weights| {
        routing.borrow_mut().weights = weights.to_vec();
        forward(&x, &routing.borrow(), &w13, &w2).0
    });
}

#[test]
fn head_loss() {
    let (count, vocab, hidden, scale) = (7, 9, 6, 0.3);
    let targets = vec![8, IGNORE_TARGET, 0, 3, 3, IGNORE_TARGET, 1];
    let (x, table) = (
        random(1, count * hidden, 1.0),
        random(2, vocab * hidden, 1.0),
    );
    let (mut loss, mut grad_x) = (vec![0.0], vec![f32::NAN; x.len()]);
    let mut grad_table = vec![0.0; table.len()];
    issue(
        &DEVICE,
        HeadLoss {
            x: x.matrix(count, hidden),
            table: table.matrix(vocab, hidden),
            targets: targets.vector(count),
            scale: vec![scale].vector(1),
            loss: loss.vector_mut(1),
            grad_x: grad_x.matrix_mut(count, hidden),
            grad_table: grad_table.matrix_mut(vocab, hidden),
        },
    )
    .unwrap();
    // From the losses of each position, summed in f64: finer than the f32 sum that head_loss
    // returns.
    let sum = |x: &[f32], table: &[f32]| -> f64 {
        let mut losses = vec![0.0; count];
        let (x, table) = (x.to_vec(), table.to_vec());
        issue(
            &DEVICE,
            HeadLosses {
                x: x.matrix(count, hidden),
                table: table.matrix(vocab, hidden),
                targets: targets.vector(count),
                losses: losses.vector_mut(count),
            },
        )
        .unwrap();
        losses.iter().copied().map(f64::from).sum()
    };
    assert!((sum(&x, &table) - f64::from(loss[0])).abs() < 1e-5);
    assert!(
        grad_x[hidden..2 * hidden]
            .iter()
            .all(|&gradient| gradient == 0.0)
    );
    let scale = f64::from(scale);
    check("x", &x, &grad_x, |x| scale * sum(x, &table));
    check("table", &table, &grad_table, |table| scale * sum(&x, table));
}

#[test]
fn global_norm() {
    let (a, b) = (vec![3.0, 0.0, 100.0], vec![-4.0, 12.0]);
    let mut norm = vec![0.0, 4.0];
    // The third element of the first stands behind its used part.
    issue(
        &DEVICE,
        GlobalNorm {
            gradients: vec![a.vector(2), b.vector(2)],
            norm: norm.vector_mut(2),
        },
    )
    .unwrap();
    assert_eq!(norm, [13.0, 5.0]);
    // What is not finite is no update.
    issue(
        &DEVICE,
        GlobalNorm {
            gradients: vec![vec![f32::NAN].vector(1)],
            norm: norm.vector_mut(2),
        },
    )
    .unwrap();
    assert!(norm[0].is_nan() && norm[1] == 5.0);
}

/// Three updates against the formula of `torch.optim.AdamW` after `clip_grad_norm_`, written out in
/// f64.
#[test]
fn adamw() {
    let len = 50;
    let mut weight = random(1, len, 1.0);
    let mut state = DEVICE.adam_state(&weight).unwrap();
    let mut expected: Vec<f64> = weight.iter().copied().map(f64::from).collect();
    let (mut first, mut second) = (vec![0.0_f64; len], vec![0.0_f64; len]);
    let (beta1, beta2, epsilon) = (f64::from(0.9_f32), f64::from(0.95_f32), f64::from(1e-8_f32));
    let (decay, max_norm) = (f64::from(0.1_f32), 1.0);

    // Scales on both sides of the clipping, rates as a schedule gives them.
    for (i, (scale, rate)) in [(2.0, 1e-2_f32), (0.05, 2e-2), (1.0, 1.5e-2)]
        .into_iter()
        .enumerate()
    {
        let gradient = random(10 + i as u64, len, scale);
        let mut norm = vec![0.0, i as f32];
        issue(
            &DEVICE,
            GlobalNorm {
                gradients: vec![gradient.vector(len)],
                norm: norm.vector_mut(2),
            },
        )
        .unwrap();
        let exact_norm = project(&gradient, &gradient).sqrt();
        assert!((f64::from(norm[0]) / exact_norm - 1.0).abs() < 1e-6);
        assert_eq!(exact_norm > max_norm, scale > 0.5);
        let step = AdamStep {
            beta1: 0.9,
            beta2: 0.95,
            epsilon: 1e-8,
            weight_decay: 0.1,
            max_norm: max_norm as f32,
        };
        issue(
            &DEVICE,
            AdamW {
                weight: weight.vector_mut(len),
                gradient: gradient.clone().vector_mut(len),
                state: &mut state,
                norm: norm.vector(2),
                rate: vec![rate].vector(1),
                step,
            },
        )
        .unwrap();

        let (t, rate) = (i as i32 + 1, f64::from(rate));
        let clip = f64::min(1.0, max_norm / (exact_norm + 1e-6));
        for j in 0..len {
            let g = clip * f64::from(gradient[j]);
            expected[j] -= rate * decay * expected[j];
            first[j] += (1.0 - beta1) * (g - first[j]);
            second[j] = beta2 * second[j] + (1.0 - beta2) * g * g;
            let corrected = second[j].sqrt() / (1.0 - beta2.powi(t)).sqrt() + epsilon;
            expected[j] -= rate / (1.0 - beta1.powi(t)) * first[j] / corrected;
            let error = (f64::from(weight[j]) - expected[j]).abs();
            assert!(error < 1e-6, "update {t}, element {j}: off by {error:.1e}");
        }
    }
}
