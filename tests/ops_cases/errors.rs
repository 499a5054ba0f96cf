//! Mistakes of a caller: every operation returns an error that begins with its name, and changes
//! nothing.

use super::*;
use anyhow::Result;
use muni_engine::ops::conformance::router::{self, HostRouting, Load};
use muni_engine::ops::*;

const ATTENTION: AttentionShape = AttentionShape {
    heads: 4,
    kv_heads: 2,
    head_dim: 6,
};
const MOE: MoeShape = router::shape(10, 12, 4, 2);

fn rig<D: Operations>(device: &D) -> TestDevice<'_, D> {
    TestDevice::new(device, Precision::Single)
}

fn float<D: Operations>(device: &D, values: &[f32]) -> D::Float {
    rig(device).float(values).unwrap()
}

fn single<D: Operations>(device: &D, values: &[f32]) -> D::Single {
    rig(device).single(values).unwrap()
}

fn input_index<D: Operations>(device: &D, values: &[u32]) -> D::Index {
    rig(device).input_index(values).unwrap()
}

/// A right routing of 5 tokens.
fn host_routing() -> HostRouting {
    router::routing(Precision::Single, &MOE, 5, Load::Random).unwrap()
}

/// The call was refused by the operation `name`.
fn expect_refused(name: &str, case: &str, result: Result<()>) {
    match result {
        Ok(()) => panic!("{name} accepts {case}"),
        Err(error) => {
            let message = error.to_string();
            assert!(
                message.starts_with(name),
                "{case}: {message:?} does not begin with {name}"
            );
        }
    }
}

/// Makes whole buffers, but the `short`-th (from 1) one element short.
struct Shortener {
    short: usize,
    buffers: usize,
}

impl Shortener {
    fn len(&mut self, len: usize) -> usize {
        self.buffers += 1;
        if self.buffers == self.short {
            len - 1
        } else {
            len
        }
    }

    fn float<D: Operations>(&mut self, device: &D, len: usize) -> D::Float {
        let len = self.len(len);
        float(device, &vec![0.5; len])
    }

    fn single<D: Operations>(&mut self, device: &D, len: usize) -> D::Single {
        let len = self.len(len);
        single(device, &vec![0.5; len])
    }

    fn index<D: Operations>(&mut self, device: &D, values: &[u32]) -> D::Index {
        let len = self.len(values.len());
        let mut buffer = device.zeros_index(len).unwrap();
        device.upload_index(&values[..len], &mut buffer).unwrap();
        buffer
    }

    fn routing<D: Operations>(
        &mut self,
        device: &D,
        host: &HostRouting,
    ) -> Routing<D::Single, D::Index> {
        Routing {
            probs: self.single(device, host.probs.len()),
            experts: self.index(device, &host.experts),
            weights: self.single(device, host.weights.len()),
            offsets: self.index(device, &host.offsets),
            slot_source: self.index(device, &host.slot_source),
            source_slot: self.index(device, &host.source_slot),
        }
    }

    fn balance<D: Operations>(&mut self, device: &D, len: usize) -> Balance<D::Single> {
        Balance {
            counts: self.single(device, len),
            prob_sums: self.single(device, len),
        }
    }
}

/// The call succeeds with whole buffers and is refused with any one of them an element short,
/// except the buffers (by number) that it does not need.
fn check_lengths(name: &str, not_needed: &[usize], call: impl Fn(&mut Shortener) -> Result<()>) {
    let mut whole = Shortener {
        short: 0,
        buffers: 0,
    };
    call(&mut whole).unwrap();
    for short in 1..=whole.buffers {
        if not_needed.contains(&short) {
            continue;
        }
        let mut shortener = Shortener { short, buffers: 0 };
        let result = call(&mut shortener);
        expect_refused(
            name,
            &format!("its buffer {short} one element short"),
            result,
        );
    }
}

/// 5 rows of 6 inputs and 7 outputs; 9 tokens in the vocabulary.
fn check_dense_lengths<D: Operations>(device: &D) {
    let (rows, inputs, outputs, vocab) = (5, 6, 7, 9);
    let tokens: Vec<u32> = vec![8, 0, 3, 3, 1];
    check_lengths("embedding_forward", &[], |b| {
        let (table, tokens) = (b.float(device, vocab * inputs), b.index(device, &tokens));
        let mut out = b.float(device, rows * inputs);
        issue(
            device,
            EmbeddingForward {
                table: table.matrix(vocab, inputs),
                tokens: tokens.vector(rows),
                out: out.matrix_mut(rows, inputs),
            },
        )
    });
    check_lengths("embedding_backward", &[], |b| {
        let (grad, tokens) = (b.float(device, rows * inputs), b.index(device, &tokens));
        let mut table = b.float(device, vocab * inputs);
        issue(
            device,
            EmbeddingBackward {
                grad_out: grad.matrix(rows, inputs),
                tokens: tokens.vector(rows),
                grad_table: table.matrix_mut(vocab, inputs),
            },
        )
    });
    check_lengths("rmsnorm_forward", &[], |b| {
        let (x, weight) = (b.float(device, rows * inputs), b.float(device, inputs));
        let (mut out, mut inv) = (b.float(device, rows * inputs), b.single(device, rows));
        issue(
            device,
            RmsNormForward {
                x: x.matrix(rows, inputs),
                weight: weight.vector(inputs),
                epsilon: 1e-5,
                out: out.matrix_mut(rows, inputs),
                inv_rms: inv.vector_mut(rows),
            },
        )
    });
    check_lengths("rmsnorm_backward", &[], |b| {
        let (grad, x) = (
            b.float(device, rows * inputs),
            b.float(device, rows * inputs),
        );
        let (weight, inv) = (b.float(device, inputs), b.single(device, rows));
        let (mut gx, mut gw) = (b.float(device, rows * inputs), b.float(device, inputs));
        issue(
            device,
            RmsNormBackward {
                grad_out: grad.matrix(rows, inputs),
                x: x.matrix(rows, inputs),
                weight: weight.vector(inputs),
                inv_rms: inv.vector(rows),
                grad_x: gx.matrix_mut(rows, inputs),
                grad_weight: gw.vector_mut(inputs),
            },
        )
    });
    check_lengths("linear_forward", &[], |b| {
        let (x, weight) = (
            b.float(device, rows * inputs),
            b.float(device, outputs * inputs),
        );
        let (r, mut y) = (
            b.float(device, rows * outputs),
            b.float(device, rows * outputs),
        );
        issue(
            device,
            LinearForward {
                x: x.matrix(rows, inputs),
                weight: weight.matrix(outputs, inputs),
                residual: Some(r.matrix(rows, outputs)),
                y: y.matrix_mut(rows, outputs),
            },
        )
    });
    check_lengths("linear_backward_input", &[], |b| {
        let (grad, weight) = (
            b.float(device, rows * outputs),
            b.float(device, outputs * inputs),
        );
        let mut gx = b.float(device, rows * inputs);
        issue(
            device,
            LinearBackwardInput {
                grad_y: grad.matrix(rows, outputs),
                weight: weight.matrix(outputs, inputs),
                grad_x: gx.matrix_mut(rows, inputs),
                accumulate: true,
            },
        )
    });
    check_lengths("linear_backward_weight", &[], |b| {
        let (grad, x) = (
            b.float(device, rows * outputs),
            b.float(device, rows * inputs),
        );
        let mut gw = b.float(device, outputs * inputs);
        issue(
            device,
            LinearBackwardWeight {
                grad_y: grad.matrix(rows, outputs),
                x: x.matrix(rows, inputs),
                grad_weight: gw.matrix_mut(outputs, inputs),
            },
        )
    });
}

fn check_attention_lengths<D: Operations>(device: &D) {
    let (shape, count, segments) = (&ATTENTION, 5, [0, 2, 5]);
    let (qkv, out) = (count * shape.qkv_size(), count * shape.out_size());
    for (name, forward) in [("rope_forward", true), ("rope_backward", false)] {
        check_lengths(name, &[], |b| {
            let (mut qkv, positions) = (b.float(device, qkv), b.index(device, &[0, 1, 2, 3, 4]));
            match forward {
                true => issue(
                    device,
                    RopeForward {
                        qkv: qkv.matrix_mut(count, shape.qkv_size()),
                        positions: positions.vector(count),
                        theta: 1e4,
                        shape: *shape,
                    },
                ),
                false => issue(
                    device,
                    RopeBackward {
                        grad_qkv: qkv.matrix_mut(count, shape.qkv_size()),
                        positions: positions.vector(count),
                        theta: 1e4,
                        shape: *shape,
                    },
                ),
            }
        });
    }
    check_lengths("attention_forward", &[], |b| {
        let (qkv, segments) = (b.float(device, qkv), b.index(device, &segments));
        let (mut out, mut log_sum) = (b.float(device, out), b.single(device, count * 4));
        issue(
            device,
            AttentionForward {
                qkv: qkv.matrix(count, shape.qkv_size()),
                segments: Offsets::new(&segments, 2),
                out: out.matrix_mut(count, shape.out_size()),
                log_sum: log_sum.matrix_mut(count, shape.heads),
                shape: *shape,
            },
        )
    });
    check_lengths("attention_backward", &[], |b| {
        let (grad, qkv_in) = (b.float(device, out), b.float(device, qkv));
        let (out, log_sum) = (b.float(device, out), b.single(device, count * 4));
        let (segments, mut gq) = (b.index(device, &segments), b.float(device, qkv));
        issue(
            device,
            AttentionBackward {
                grad_out: grad.matrix(count, shape.out_size()),
                qkv: qkv_in.matrix(count, shape.qkv_size()),
                out: out.matrix(count, shape.out_size()),
                log_sum: log_sum.matrix(count, shape.heads),
                segments: Offsets::new(&segments, 2),
                grad_qkv: gq.matrix_mut(count, shape.qkv_size()),
                shape: *shape,
            },
        )
    });
    check_lengths("attention_prefill", &[], |b| {
        let qkv = b.float(device, qkv);
        let (mut keys, mut values) = (b.float(device, 9 * 12), b.float(device, 9 * 12));
        let mut out = b.float(device, out);
        issue(
            device,
            AttentionPrefill {
                qkv: qkv.matrix(count, shape.qkv_size()),
                sequence: CachedSequence {
                    keys: keys.matrix_mut(9, shape.kv_size()),
                    values: values.matrix_mut(9, shape.kv_size()),
                    past: 4,
                },
                out: out.matrix_mut(count, shape.out_size()),
                shape: *shape,
            },
        )
    });
    check_lengths("attention_decode", &[], |b| {
        let qkv = b.float(device, 2 * qkv / count);
        let (mut keys, mut values) = (b.float(device, 9 * 12), b.float(device, 9 * 12));
        let (mut more_keys, mut more_values) = (b.float(device, 9 * 12), b.float(device, 9 * 12));
        let mut out = b.float(device, 2 * out / count);
        let sequences = vec![
            CachedSequence {
                keys: keys.matrix_mut(9, 12),
                values: values.matrix_mut(9, 12),
                past: 8,
            },
            CachedSequence {
                keys: more_keys.matrix_mut(9, 12),
                values: more_values.matrix_mut(9, 12),
                past: 0,
            },
        ];
        issue(
            device,
            AttentionDecode {
                qkv: qkv.matrix(2, shape.qkv_size()),
                sequences,
                out: out.matrix_mut(2, shape.out_size()),
                shape: *shape,
            },
        )
    });
}

fn check_moe_lengths<D: Operations>(device: &D) {
    let (shape, count) = (&MOE, 5);
    let host = host_routing();
    let (x, w13, w2) = (count * 10, 4 * 24 * 10, 4 * 10 * 12);
    check_lengths("router_forward", &[], |b| {
        let (x, weight) = (b.float(device, x), b.float(device, 40));
        let (mut routing, mut balance) = (b.routing(device, &host), b.balance(device, 2 * 4));
        let groups = b.index(device, &[0, 2, 5]);
        issue(
            device,
            RouterForward {
                x: x.matrix(count, shape.hidden),
                weight: weight.matrix(shape.experts, shape.hidden),
                routing: &mut routing,
                balance: &mut balance,
                groups: Offsets::new(&groups, 2),
                shape: *shape,
            },
        )
    });
    check_lengths("router_backward", &[], |b| {
        let (grad, x_in, weight) = (
            b.single(device, 10),
            b.float(device, x),
            b.float(device, 40),
        );
        let (routing, balance) = (b.routing(device, &host), b.balance(device, 2 * 4));
        let groups = b.index(device, &[0, 2, 5]);
        let (mut gx, mut gw) = (b.float(device, x), b.float(device, 40));
        issue(
            device,
            RouterBackward {
                grad_weights: grad.matrix(count, shape.top_k),
                x: x_in.matrix(count, shape.hidden),
                weight: weight.matrix(shape.experts, shape.hidden),
                routing: &routing,
                balance: &balance,
                groups: Offsets::new(&groups, 2),
                layers: 3,
                balance_scale: 0.1,
                grad_x: gx.matrix_mut(count, shape.hidden),
                grad_weight: gw.matrix_mut(shape.experts, shape.hidden),
                shape: *shape,
            },
        )
    });
    // Buffer 2: the probabilities, which the experts do not read.
    check_lengths("experts_forward", &[2], |b| {
        let (x_in, routing) = (b.float(device, x), b.routing(device, &host));
        let (w13, w2, residual) = (
            b.float(device, w13),
            b.float(device, w2),
            b.float(device, x),
        );
        let (mut gate_up, mut out) = (b.float(device, 10 * 24), b.float(device, x));
        issue(
            device,
            ExpertsForward {
                x: x_in.matrix(count, shape.hidden),
                routing: &routing,
                w13: w13.matrix(shape.experts * 2 * shape.intermediate, shape.hidden),
                w2: w2.matrix(shape.experts * shape.hidden, shape.intermediate),
                residual: residual.matrix(count, shape.hidden),
                gate_up: gate_up.matrix_mut(count * shape.top_k, 2 * shape.intermediate),
                out: out.matrix_mut(count, shape.hidden),
                shape: *shape,
            },
        )
    });
    check_lengths("experts_backward", &[3], |b| {
        let (grad, x_in, routing) = (
            b.float(device, x),
            b.float(device, x),
            b.routing(device, &host),
        );
        let (w13_in, w2_in) = (b.float(device, w13), b.float(device, w2));
        let (gate_up, mut gx) = (b.float(device, 10 * 24), b.float(device, x));
        let (mut g13, mut g2) = (b.float(device, w13), b.float(device, w2));
        let mut gr = b.single(device, 10);
        issue(
            device,
            ExpertsBackward {
                grad_out: grad.matrix(count, shape.hidden),
                x: x_in.matrix(count, shape.hidden),
                routing: &routing,
                w13: w13_in.matrix(shape.experts * 2 * shape.intermediate, shape.hidden),
                w2: w2_in.matrix(shape.experts * shape.hidden, shape.intermediate),
                gate_up: gate_up.matrix(count * shape.top_k, 2 * shape.intermediate),
                grad_x: gx.matrix_mut(count, shape.hidden),
                grad_w13: g13.matrix_mut(shape.experts * 2 * shape.intermediate, shape.hidden),
                grad_w2: g2.matrix_mut(shape.experts * shape.hidden, shape.intermediate),
                grad_weights: gr.matrix_mut(count, shape.top_k),
                shape: *shape,
            },
        )
    });
}

const STEP: AdamStep = AdamStep {
    beta1: 0.9,
    beta2: 0.95,
    epsilon: 1e-8,
    weight_decay: 0.1,
    max_norm: 1.0,
};

fn check_head_and_optimizer_lengths<D: Operations>(device: &D) {
    let (count, vocab, hidden) = (5, 9, 6);
    let (x, table) = (count * hidden, vocab * hidden);
    let targets: Vec<u32> = vec![8, 0, u32::MAX, 3, 1];
    check_lengths("head_loss", &[], |b| {
        let (x_in, table_in) = (b.float(device, x), b.float(device, table));
        let (targets, mut loss) = (b.index(device, &targets), b.single(device, 1));
        let scale = b.single(device, 1);
        let (mut gx, mut gt) = (b.float(device, x), b.float(device, table));
        issue(
            device,
            HeadLoss {
                x: x_in.matrix(count, hidden),
                table: table_in.matrix(vocab, hidden),
                targets: targets.vector(count),
                scale: scale.vector(1),
                loss: loss.vector_mut(1),
                grad_x: gx.matrix_mut(count, hidden),
                grad_table: gt.matrix_mut(vocab, hidden),
            },
        )
    });
    check_lengths("head_losses", &[], |b| {
        let (x, table) = (b.float(device, x), b.float(device, table));
        let (targets, mut losses) = (b.index(device, &targets), b.single(device, count));
        issue(
            device,
            HeadLosses {
                x: x.matrix(count, hidden),
                table: table.matrix(vocab, hidden),
                targets: targets.vector(count),
                losses: losses.vector_mut(count),
            },
        )
    });
    check_lengths("head_logits", &[], |b| {
        let (x, table) = (b.float(device, x), b.float(device, table));
        let mut logits = b.single(device, 2 * vocab);
        issue(
            device,
            HeadLogits {
                x: x.matrix(3 + 2, hidden),
                table: table.matrix(vocab, hidden),
                logits: logits.matrix_mut(2, vocab),
                first_row: 3,
            },
        )
    });
    check_lengths("global_norm", &[], |b| {
        let (one, two) = (b.float(device, 7), b.float(device, 3));
        let mut norm = b.single(device, 2);
        issue(
            device,
            GlobalNorm {
                gradients: vec![one.vector(7), two.vector(3)],
                norm: norm.vector_mut(2),
            },
        )
    });
    check_lengths("adamw", &[], |b| {
        let (mut weight, mut gradient) = (b.float(device, 7), b.float(device, 7));
        let mut state = device.adam_state(&[0.5; 7]).unwrap();
        (state.first, state.second) = (b.single(device, 7), b.single(device, 7));
        let (norm, rate) = (b.single(device, 2), b.single(device, 1));
        issue(
            device,
            AdamW {
                weight: weight.vector_mut(7),
                gradient: gradient.vector_mut(7),
                state: &mut state,
                norm: norm.vector(2),
                rate: rate.vector(1),
                step: STEP,
            },
        )
    });
    check_lengths("copy_single", &[], |b| {
        let (from, mut to) = (b.single(device, 3), b.single(device, 7));
        device.copy_single(&from, 3, &mut to, 4)
    });
}

#[test]
fn short_buffers_are_refused() {
    fn check<D: Operations>(device: &D) {
        check_dense_lengths(device);
        check_attention_lengths(device);
        check_moe_lengths(device);
        check_head_and_optimizer_lengths(device);
        let values = [0.5; 4];
        assert!(
            device
                .upload_float(&values, &mut float(device, &[0.0; 3]))
                .is_err()
        );
        assert!(
            device
                .upload_single(&values, &mut single(device, &[0.0; 3]))
                .is_err()
        );
        assert!(device.download_float(&float(device, &values), 5).is_err());
        assert!(device.download_single(&single(device, &values), 5).is_err());
        assert!(device.clear_float(&mut float(device, &values), 5).is_err());
        assert!(
            device
                .clear_single(&mut single(device, &values), 5)
                .is_err()
        );
    }
    check(&CpuDevice::new());
    check(&ReferenceDevice);
    check(&simulator::<f16>());
}

fn check_ranges<D: Operations>(device: &D) {
    let (count, vocab, hidden) = (3, 9, 6);
    let whole = |len: usize| float(device, &vec![0.5; len]);
    let index = |values: &[u32]| input_index(device, values);
    for wrong in [9, u32::MAX - 1, u32::MAX] {
        let tokens = index(&[1, wrong, 2]);
        let (mut out, mut table) = (whole(18), whole(54));
        let result = issue(
            device,
            EmbeddingForward {
                table: whole(54).matrix(vocab, hidden),
                tokens: tokens.vector(count),
                out: out.matrix_mut(count, hidden),
            },
        );
        expect_refused("embedding_forward", "a token out of range", result);
        let result = issue(
            device,
            EmbeddingBackward {
                grad_out: whole(18).matrix(3, hidden),
                tokens: tokens.vector(3),
                grad_table: table.matrix_mut(vocab, hidden),
            },
        );
        expect_refused("embedding_backward", "a token out of range", result);
    }
    for wrong in [9, u32::MAX - 1] {
        let targets = index(&[1, wrong, 2]);
        let (mut loss, mut losses) = (single(device, &[0.0]), single(device, &[0.0; 3]));
        let result = issue(
            device,
            HeadLoss {
                x: whole(18).matrix(3, 6),
                table: whole(54).matrix(9, 6),
                targets: targets.vector(3),
                scale: single(device, &[1.0]).vector(1),
                loss: loss.vector_mut(1),
                grad_x: whole(18).matrix_mut(3, 6),
                grad_table: whole(54).matrix_mut(9, 6),
            },
        );
        expect_refused("head_loss", "a target out of range", result);
        let result = issue(
            device,
            HeadLosses {
                x: whole(18).matrix(3, 6),
                table: whole(54).matrix(9, 6),
                targets: targets.vector(3),
                losses: losses.vector_mut(3),
            },
        );
        expect_refused("head_losses", "a target out of range", result);
    }
    let result = issue(
        device,
        AttentionPrefill {
            qkv: whole(500).matrix(3, ATTENTION.qkv_size()),
            sequence: CachedSequence {
                keys: whole(500).matrix_mut(9, ATTENTION.kv_size()),
                values: whole(500).matrix_mut(9, ATTENTION.kv_size()),
                past: 7,
            },
            out: whole(500).matrix_mut(3, ATTENTION.out_size()),
            shape: ATTENTION,
        },
    );
    expect_refused("attention_prefill", "more than the capacity", result);
    let result = issue(
        device,
        AttentionPrefill {
            qkv: whole(500).matrix(3, ATTENTION.qkv_size()),
            sequence: CachedSequence {
                keys: whole(500).matrix_mut(9, ATTENTION.kv_size()),
                values: whole(500).matrix_mut(9, ATTENTION.kv_size()),
                past: usize::MAX,
            },
            out: whole(500).matrix_mut(3, ATTENTION.out_size()),
            shape: ATTENTION,
        },
    );
    expect_refused("attention_prefill", "an overflowing past", result);
    for past in [9, usize::MAX] {
        let (mut keys, mut values) = (whole(500), whole(500));
        let sequence = CachedSequence {
            keys: keys.matrix_mut(9, ATTENTION.kv_size()),
            values: values.matrix_mut(9, ATTENTION.kv_size()),
            past,
        };
        let result = issue(
            device,
            AttentionDecode {
                qkv: whole(500).matrix(1, ATTENTION.qkv_size()),
                sequences: vec![sequence],
                out: whole(500).matrix_mut(1, ATTENTION.out_size()),
                shape: ATTENTION,
            },
        );
        expect_refused("attention_decode", "more than the capacity", result);
    }
    for shape in [
        AttentionShape {
            heads: 5,
            ..ATTENTION
        },
        AttentionShape {
            heads: 0,
            ..ATTENTION
        },
        AttentionShape {
            kv_heads: 0,
            ..ATTENTION
        },
        AttentionShape {
            head_dim: 5,
            ..ATTENTION
        },
    ] {
        let result = issue(
            device,
            AttentionForward {
                qkv: whole(900).matrix(3, shape.qkv_size()),
                segments: Offsets::new(&index(&[0, 3]), 1),
                out: whole(900).matrix_mut(3, shape.out_size()),
                log_sum: single(device, &[0.0; 90]).matrix_mut(3, shape.heads),
                shape,
            },
        );
        expect_refused("attention_forward", &format!("{shape:?}"), result);
    }
}

fn check_offsets<D: Operations>(device: &D) {
    let whole = |len: usize| float(device, &vec![0.5; len]);
    let host = host_routing();
    for wrong in [
        [0, 3, 2, 5],
        [0, 3, 3, 5],
        [1, 2, 3, 5],
        [0, 2, 3, 4],
        [0, 2, 3, 6],
        [0, 9, 3, 5],
    ] {
        let case = format!("offsets {wrong:?}");
        let offsets = input_index(device, &wrong);
        let mut log_sum = single(device, &[0.0; 20]);
        let result = issue(
            device,
            AttentionForward {
                qkv: whole(300).matrix(5, ATTENTION.qkv_size()),
                segments: Offsets::new(&offsets, 3),
                out: whole(300).matrix_mut(5, ATTENTION.out_size()),
                log_sum: log_sum.matrix_mut(5, ATTENTION.heads),
                shape: ATTENTION,
            },
        );
        expect_refused("attention_forward", &case, result);
        let result = issue(
            device,
            AttentionBackward {
                grad_out: whole(300).matrix(5, ATTENTION.out_size()),
                qkv: whole(300).matrix(5, ATTENTION.qkv_size()),
                out: whole(300).matrix(5, ATTENTION.out_size()),
                log_sum: log_sum.matrix(5, ATTENTION.heads),
                segments: Offsets::new(&offsets, 3),
                grad_qkv: whole(300).matrix_mut(5, ATTENTION.qkv_size()),
                shape: ATTENTION,
            },
        );
        expect_refused("attention_backward", &case, result);
        // Where batches are padded, the tokens behind the last group are the padding.
        if device.token_multiple(64) > 1 && wrong == [0, 2, 3, 4] {
            continue;
        }
        let mut routing = host.upload(rig(device)).unwrap();
        let mut balance = Balance::new(device, &MOE, 3).unwrap();
        let result = issue(
            device,
            RouterForward {
                x: whole(50).matrix(5, MOE.hidden),
                weight: whole(40).matrix(MOE.experts, MOE.hidden),
                routing: &mut routing,
                balance: &mut balance,
                groups: Offsets::new(&offsets, 3),
                shape: MOE,
            },
        );
        expect_refused("router_forward", &case, result);
        let grad = single(device, &[0.5; 10]);
        let result = issue(
            device,
            RouterBackward {
                grad_weights: grad.matrix(5, MOE.top_k),
                x: whole(50).matrix(5, MOE.hidden),
                weight: whole(40).matrix(MOE.experts, MOE.hidden),
                routing: &host.upload(rig(device)).unwrap(),
                balance: &balance,
                groups: Offsets::new(&offsets, 3),
                layers: 2,
                balance_scale: 0.1,
                grad_x: whole(50).matrix_mut(5, MOE.hidden),
                grad_weight: whole(40).matrix_mut(MOE.experts, MOE.hidden),
                shape: MOE,
            },
        );
        expect_refused("router_backward", &case, result);
    }
}

/// A routing that contradicts itself would make an expert read or write outside its rows.
fn check_routings<D: Operations>(device: &D) {
    let whole = |len: usize| float(device, &vec![0.5; len]);
    let spoil: [fn(&mut HostRouting); 6] = [
        |r| r.experts[3] = 4,
        |r| r.offsets[4] = 11,
        |r| r.offsets[1] = 9,
        |r| r.slot_source[2] = 10,
        |r| r.source_slot[2] = 10,
        |r| r.slot_source.swap(0, 9),
    ];
    for (i, spoil) in spoil.into_iter().enumerate() {
        let mut host = host_routing();
        spoil(&mut host);
        let (routing, case) = (
            host.upload(rig(device)).unwrap(),
            format!("spoilt routing {i}"),
        );
        let result = issue(
            device,
            ExpertsForward {
                x: whole(50).matrix(5, MOE.hidden),
                routing: &routing,
                w13: whole(960).matrix(MOE.experts * 2 * MOE.intermediate, MOE.hidden),
                w2: whole(480).matrix(MOE.experts * MOE.hidden, MOE.intermediate),
                residual: whole(50).matrix(5, MOE.hidden),
                gate_up: whole(240).matrix_mut(5 * MOE.top_k, 2 * MOE.intermediate),
                out: whole(50).matrix_mut(5, MOE.hidden),
                shape: MOE,
            },
        );
        expect_refused("experts_forward", &case, result);
        let result = issue(
            device,
            ExpertsBackward {
                grad_out: whole(50).matrix(5, MOE.hidden),
                x: whole(50).matrix(5, MOE.hidden),
                routing: &routing,
                w13: whole(960).matrix(MOE.experts * 2 * MOE.intermediate, MOE.hidden),
                w2: whole(480).matrix(MOE.experts * MOE.hidden, MOE.intermediate),
                gate_up: whole(240).matrix(5 * MOE.top_k, 2 * MOE.intermediate),
                grad_x: whole(50).matrix_mut(5, MOE.hidden),
                grad_w13: whole(960).matrix_mut(MOE.experts * 2 * MOE.intermediate, MOE.hidden),
                grad_w2: whole(480).matrix_mut(MOE.experts * MOE.hidden, MOE.intermediate),
                grad_weights: single(device, &[0.0; 10]).matrix_mut(5, MOE.top_k),
                shape: MOE,
            },
        );
        expect_refused("experts_backward", &case, result);
    }
    for shape in [
        MoeShape { top_k: 5, ..MOE },
        MoeShape { top_k: 0, ..MOE },
        MoeShape { experts: 0, ..MOE },
    ] {
        let mut routing = host_routing().upload(rig(device)).unwrap();
        let mut balance = Balance::new(device, &MOE, 1).unwrap();
        let groups = input_index(device, &[0, 5]);
        let result = issue(
            device,
            RouterForward {
                x: whole(50).matrix(5, shape.hidden),
                weight: whole(40).matrix(shape.experts, shape.hidden),
                routing: &mut routing,
                balance: &mut balance,
                groups: Offsets::new(&groups, 1),
                shape,
            },
        );
        expect_refused("router_forward", &format!("{shape:?}"), result);
    }
}

fn check_adam_steps<D: Operations>(device: &D) {
    for step in [
        AdamStep { beta1: 1.0, ..STEP },
        AdamStep {
            beta2: -0.1,
            ..STEP
        },
        AdamStep {
            epsilon: -1.0,
            ..STEP
        },
        AdamStep {
            weight_decay: f32::INFINITY,
            ..STEP
        },
        AdamStep {
            max_norm: -1.0,
            ..STEP
        },
        AdamStep {
            max_norm: f32::NAN,
            ..STEP
        },
    ] {
        let mut weight = float(device, &[0.5; 7]);
        let mut state = device.adam_state(&[0.5; 7]).unwrap();
        let (mut gradient, norm) = (float(device, &[1.0; 7]), single(device, &[1.0, 1.0]));
        let rate = single(device, &[1e-3]);
        let result = issue(
            device,
            AdamW {
                weight: weight.vector_mut(7),
                gradient: gradient.vector_mut(7),
                state: &mut state,
                norm: norm.vector(2),
                rate: rate.vector(1),
                step,
            },
        );
        expect_refused("adamw", &format!("{step:?}"), result);
        assert_eq!(device.download_float(&weight, 7).unwrap(), [0.5; 7]);
        assert_eq!(device.download_float(&gradient, 7).unwrap(), [1.0; 7]);
    }
}

#[test]
fn values_out_of_range_are_refused() {
    fn check<D: Operations>(device: &D) {
        check_ranges(device);
        check_offsets(device);
        check_routings(device);
        check_adam_steps(device);
    }
    check(&CpuDevice::new());
    check(&ReferenceDevice);
    check(&simulator::<f16>());
}
