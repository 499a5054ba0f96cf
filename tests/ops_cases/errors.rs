//! Mistakes of a caller: every operation returns an error that begins with its name, and changes nothing.

use super::*;
use anyhow::Result;
use muni_engine::ops::cases::moe::{self, HostRouting, Load};
use muni_engine::ops::{AdamStep, AttentionShape, Balance, CachedText, MoeShape, Routing};

const ATTENTION: AttentionShape = AttentionShape {
    heads: 4,
    kv_heads: 2,
    head_dim: 6,
};
const MOE: MoeShape = moe::shape(10, 12, 4, 2);

fn rig<D: Device>(device: &D) -> Rig<'_, D> {
    Rig::new(device, Precision::Single)
}

fn float<D: Device>(device: &D, values: &[f32]) -> D::Float {
    rig(device).float(values).unwrap()
}

fn single<D: Device>(device: &D, values: &[f32]) -> D::Single {
    rig(device).single(values).unwrap()
}

fn input_index<D: Device>(device: &D, values: &[u32]) -> D::Index {
    rig(device).input_index(values).unwrap()
}

/// A right routing of 5 tokens.
fn host_routing() -> HostRouting {
    moe::routing(Precision::Single, &MOE, 5, Load::Random).unwrap()
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

    fn float<D: Device>(&mut self, device: &D, len: usize) -> D::Float {
        let len = self.len(len);
        float(device, &vec![0.5; len])
    }

    fn single<D: Device>(&mut self, device: &D, len: usize) -> D::Single {
        let len = self.len(len);
        single(device, &vec![0.5; len])
    }

    fn index<D: Device>(&mut self, device: &D, values: &[u32]) -> D::Index {
        let len = self.len(values.len());
        let mut buffer = device.zeros_index(len).unwrap();
        device.upload_index(&values[..len], &mut buffer).unwrap();
        buffer
    }

    fn routing<D: Device>(&mut self, device: &D, host: &HostRouting) -> Routing<D> {
        Routing {
            probs: self.single(device, host.probs.len()),
            experts: self.index(device, &host.experts),
            weights: self.single(device, host.weights.len()),
            offsets: self.index(device, &host.offsets),
            slot_source: self.index(device, &host.slot_source),
            source_slot: self.index(device, &host.source_slot),
        }
    }

    fn balance<D: Device>(&mut self, device: &D, len: usize) -> Balance<D> {
        Balance {
            counts: self.single(device, len),
            prob_sums: self.single(device, len),
        }
    }
}

/// The call succeeds with whole buffers and is refused with any one of them an element short, except the buffers (by
/// number) that it does not need.
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
fn check_dense_lengths<D: Device>(device: &D) {
    let (rows, inputs, outputs, vocab) = (5, 6, 7, 9);
    let tokens: Vec<u32> = vec![8, 0, 3, 3, 1];
    check_lengths("embedding_forward", &[], |b| {
        let (table, tokens) = (b.float(device, vocab * inputs), b.index(device, &tokens));
        let mut out = b.float(device, rows * inputs);
        device.embedding_forward(&table, &tokens, &mut out, rows, vocab, inputs)
    });
    check_lengths("embedding_backward", &[], |b| {
        let (grad, tokens) = (b.float(device, rows * inputs), b.index(device, &tokens));
        let mut table = b.float(device, vocab * inputs);
        device.embedding_backward(&grad, &tokens, &mut table, rows, vocab, inputs)
    });
    check_lengths("rmsnorm_forward", &[], |b| {
        let (x, weight) = (b.float(device, rows * inputs), b.float(device, inputs));
        let (mut out, mut inv) = (b.float(device, rows * inputs), b.single(device, rows));
        device.rmsnorm_forward(&x, &weight, 1e-5, &mut out, &mut inv, rows, inputs)
    });
    check_lengths("rmsnorm_backward", &[], |b| {
        let (grad, x) = (
            b.float(device, rows * inputs),
            b.float(device, rows * inputs),
        );
        let (weight, inv) = (b.float(device, inputs), b.single(device, rows));
        let (mut gx, mut gw) = (b.float(device, rows * inputs), b.float(device, inputs));
        device.rmsnorm_backward(&grad, &x, &weight, &inv, &mut gx, &mut gw, rows, inputs)
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
        device.linear_forward(&x, &weight, Some(&r), &mut y, rows, inputs, outputs)
    });
    check_lengths("linear_backward_input", &[], |b| {
        let (grad, weight) = (
            b.float(device, rows * outputs),
            b.float(device, outputs * inputs),
        );
        let mut gx = b.float(device, rows * inputs);
        device.linear_backward_input(&grad, &weight, &mut gx, true, rows, inputs, outputs)
    });
    check_lengths("linear_backward_weight", &[], |b| {
        let (grad, x) = (
            b.float(device, rows * outputs),
            b.float(device, rows * inputs),
        );
        let mut gw = b.float(device, outputs * inputs);
        device.linear_backward_weight(&grad, &x, &mut gw, rows, inputs, outputs)
    });
}

fn check_attention_lengths<D: Device>(device: &D) {
    let (shape, count, segments) = (&ATTENTION, 5, [0, 2, 5]);
    let (qkv, out) = (count * shape.qkv_size(), count * shape.out_size());
    for (name, forward) in [("rope_forward", true), ("rope_backward", false)] {
        check_lengths(name, &[], |b| {
            let (mut qkv, positions) = (b.float(device, qkv), b.index(device, &[0, 1, 2, 3, 4]));
            match forward {
                true => device.rope_forward(&mut qkv, &positions, 1e4, shape, count),
                false => device.rope_backward(&mut qkv, &positions, 1e4, shape, count),
            }
        });
    }
    check_lengths("attention_forward", &[], |b| {
        let (qkv, segments) = (b.float(device, qkv), b.index(device, &segments));
        let (mut out, mut log_sum) = (b.float(device, out), b.single(device, count * 4));
        device.attention_forward(&qkv, &segments, &mut out, &mut log_sum, shape, 2, count)
    });
    check_lengths("attention_backward", &[], |b| {
        let (grad, qkv_in) = (b.float(device, out), b.float(device, qkv));
        let (out, log_sum) = (b.float(device, out), b.single(device, count * 4));
        let (segments, mut gq) = (b.index(device, &segments), b.float(device, qkv));
        device.attention_backward(
            &grad, &qkv_in, &out, &log_sum, &segments, &mut gq, shape, 2, count,
        )
    });
    check_lengths("attention_cached", &[], |b| {
        let qkv = b.float(device, qkv);
        let (mut keys, mut values) = (b.float(device, 9 * 12), b.float(device, 9 * 12));
        let mut out = b.float(device, out);
        device.attention_cached(&qkv, &mut keys, &mut values, &mut out, shape, 4, count, 9)
    });
    check_lengths("attention_cached_texts", &[], |b| {
        let qkv = b.float(device, 2 * qkv / count);
        let (mut keys, mut values) = (b.float(device, 9 * 12), b.float(device, 9 * 12));
        let (mut more_keys, mut more_values) = (b.float(device, 9 * 12), b.float(device, 9 * 12));
        let mut out = b.float(device, 2 * out / count);
        let texts = &mut [
            CachedText {
                keys: &mut keys,
                values: &mut values,
                past: 8,
            },
            CachedText {
                keys: &mut more_keys,
                values: &mut more_values,
                past: 0,
            },
        ];
        device.attention_cached_texts(&qkv, texts, &mut out, shape, 9)
    });
}

fn check_moe_lengths<D: Device>(device: &D) {
    let (shape, count) = (&MOE, 5);
    let host = host_routing();
    let (x, w13, w2) = (count * 10, 4 * 24 * 10, 4 * 10 * 12);
    check_lengths("router_forward", &[], |b| {
        let (x, weight) = (b.float(device, x), b.float(device, 40));
        let (mut routing, mut balance) = (b.routing(device, &host), b.balance(device, 2 * 4));
        let groups = b.index(device, &[0, 2, 5]);
        device.router_forward(
            &x,
            &weight,
            &mut routing,
            &mut balance,
            &groups,
            2,
            shape,
            count,
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
        device.router_backward(
            &grad, &x_in, &weight, &routing, &balance, &groups, 2, 3, 0.1, &mut gx, &mut gw, shape,
            count,
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
        device.experts_forward(
            &x_in,
            &routing,
            &w13,
            &w2,
            &residual,
            &mut gate_up,
            &mut out,
            shape,
            count,
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
        device.experts_backward(
            &grad, &x_in, &routing, &w13_in, &w2_in, &gate_up, &mut gx, &mut g13, &mut g2, &mut gr,
            shape, count,
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

fn check_head_and_optimizer_lengths<D: Device>(device: &D) {
    let (count, vocab, hidden) = (5, 9, 6);
    let (x, table) = (count * hidden, vocab * hidden);
    let targets: Vec<u32> = vec![8, 0, u32::MAX, 3, 1];
    check_lengths("head_loss", &[], |b| {
        let (x_in, table_in) = (b.float(device, x), b.float(device, table));
        let (targets, mut loss) = (b.index(device, &targets), b.single(device, 1));
        let scale = b.single(device, 1);
        let (mut gx, mut gt) = (b.float(device, x), b.float(device, table));
        device.head_loss(
            &x_in, &table_in, &targets, &scale, &mut loss, &mut gx, &mut gt, count, vocab, hidden,
        )
    });
    check_lengths("head_losses", &[], |b| {
        let (x, table) = (b.float(device, x), b.float(device, table));
        let (targets, mut losses) = (b.index(device, &targets), b.single(device, count));
        device.head_losses(&x, &table, &targets, &mut losses, count, vocab, hidden)
    });
    check_lengths("head_logits", &[], |b| {
        let (x, table) = (b.float(device, x), b.float(device, table));
        let mut logits = b.single(device, 2 * vocab);
        device.head_logits(&x, &table, &mut logits, 3, 2, vocab, hidden)
    });
    check_lengths("global_norm", &[], |b| {
        let (one, two) = (b.float(device, 7), b.float(device, 3));
        let mut norm = b.single(device, 2);
        device.global_norm(&[(&one, 7), (&two, 3)], &mut norm)
    });
    check_lengths("adamw", &[], |b| {
        let (mut weight, mut gradient) = (b.float(device, 7), b.float(device, 7));
        let mut state = device.adam_state(&[0.5; 7]).unwrap();
        (state.first, state.second) = (b.single(device, 7), b.single(device, 7));
        let (norm, rate) = (b.single(device, 2), b.single(device, 1));
        device.adamw(
            &mut weight,
            &mut gradient,
            &mut state,
            &norm,
            &rate,
            &STEP,
            7,
        )
    });
    check_lengths("copy_single", &[], |b| {
        let (from, mut to) = (b.single(device, 3), b.single(device, 7));
        device.copy_single(&from, 3, &mut to, 4)
    });
}

#[test]
fn short_buffers_are_refused() {
    fn check<D: Device>(device: &D) {
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

fn check_ranges<D: Device>(device: &D) {
    let (count, vocab, hidden) = (3, 9, 6);
    let whole = |len: usize| float(device, &vec![0.5; len]);
    let index = |values: &[u32]| input_index(device, values);
    for wrong in [9, u32::MAX - 1, u32::MAX] {
        let tokens = index(&[1, wrong, 2]);
        let (mut out, mut table) = (whole(18), whole(54));
        let result = device.embedding_forward(&whole(54), &tokens, &mut out, count, vocab, hidden);
        expect_refused("embedding_forward", "a token out of range", result);
        let result = device.embedding_backward(&whole(18), &tokens, &mut table, 3, vocab, hidden);
        expect_refused("embedding_backward", "a token out of range", result);
    }
    for wrong in [9, u32::MAX - 1] {
        let targets = index(&[1, wrong, 2]);
        let (mut loss, mut losses) = (single(device, &[0.0]), single(device, &[0.0; 3]));
        let result = device.head_loss(
            &whole(18),
            &whole(54),
            &targets,
            &single(device, &[1.0]),
            &mut loss,
            &mut whole(18),
            &mut whole(54),
            3,
            9,
            6,
        );
        expect_refused("head_loss", "a target out of range", result);
        let result = device.head_losses(&whole(18), &whole(54), &targets, &mut losses, 3, 9, 6);
        expect_refused("head_losses", "a target out of range", result);
    }
    let result = device.attention_cached(
        &whole(500),
        &mut whole(500),
        &mut whole(500),
        &mut whole(500),
        &ATTENTION,
        7,
        3,
        9,
    );
    expect_refused("attention_cached", "more than the capacity", result);
    let result = device.attention_cached(
        &whole(500),
        &mut whole(500),
        &mut whole(500),
        &mut whole(500),
        &ATTENTION,
        usize::MAX,
        3,
        9,
    );
    expect_refused("attention_cached", "an overflowing past", result);
    for past in [9, usize::MAX] {
        let text = CachedText {
            keys: &mut whole(500),
            values: &mut whole(500),
            past,
        };
        let result =
            device.attention_cached_texts(&whole(500), &mut [text], &mut whole(500), &ATTENTION, 9);
        expect_refused("attention_cached_texts", "more than the capacity", result);
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
        let result = device.attention_forward(
            &whole(900),
            &index(&[0, 3]),
            &mut whole(900),
            &mut single(device, &[0.0; 90]),
            &shape,
            1,
            3,
        );
        expect_refused("attention_forward", &format!("{shape:?}"), result);
    }
}

fn check_offsets<D: Device>(device: &D) {
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
        let result = device.attention_forward(
            &whole(300),
            &offsets,
            &mut whole(300),
            &mut log_sum,
            &ATTENTION,
            3,
            5,
        );
        expect_refused("attention_forward", &case, result);
        let result = device.attention_backward(
            &whole(300),
            &whole(300),
            &whole(300),
            &log_sum,
            &offsets,
            &mut whole(300),
            &ATTENTION,
            3,
            5,
        );
        expect_refused("attention_backward", &case, result);
        // Where batches are padded, the tokens behind the last group are the padding.
        if device.token_granule(64) > 1 && wrong == [0, 2, 3, 4] {
            continue;
        }
        let mut routing = host.upload(rig(device)).unwrap();
        let mut balance = Balance::new(device, &MOE, 3).unwrap();
        let result = device.router_forward(
            &whole(50),
            &whole(40),
            &mut routing,
            &mut balance,
            &offsets,
            3,
            &MOE,
            5,
        );
        expect_refused("router_forward", &case, result);
        let grad = single(device, &[0.5; 10]);
        let result = device.router_backward(
            &grad,
            &whole(50),
            &whole(40),
            &host.upload(rig(device)).unwrap(),
            &balance,
            &offsets,
            3,
            2,
            0.1,
            &mut whole(50),
            &mut whole(40),
            &MOE,
            5,
        );
        expect_refused("router_backward", &case, result);
    }
}

/// A routing that contradicts itself would make an expert read or write outside its rows.
fn check_routings<D: Device>(device: &D) {
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
        let result = device.experts_forward(
            &whole(50),
            &routing,
            &whole(960),
            &whole(480),
            &whole(50),
            &mut whole(240),
            &mut whole(50),
            &MOE,
            5,
        );
        expect_refused("experts_forward", &case, result);
        let result = device.experts_backward(
            &whole(50),
            &whole(50),
            &routing,
            &whole(960),
            &whole(480),
            &whole(240),
            &mut whole(50),
            &mut whole(960),
            &mut whole(480),
            &mut single(device, &[0.0; 10]),
            &MOE,
            5,
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
        let result = device.router_forward(
            &whole(50),
            &whole(40),
            &mut routing,
            &mut balance,
            &groups,
            1,
            &shape,
            5,
        );
        expect_refused("router_forward", &format!("{shape:?}"), result);
    }
}

fn check_adam_steps<D: Device>(device: &D) {
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
        let result = device.adamw(
            &mut weight,
            &mut gradient,
            &mut state,
            &norm,
            &rate,
            &step,
            7,
        );
        expect_refused("adamw", &format!("{step:?}"), result);
        assert_eq!(device.download_float(&weight, 7).unwrap(), [0.5; 7]);
        assert_eq!(device.download_float(&gradient, 7).unwrap(), [1.0; 7]);
    }
}

#[test]
fn values_out_of_range_are_refused() {
    fn check<D: Device>(device: &D) {
        check_ranges(device);
        check_offsets(device);
        check_routings(device);
        check_adam_steps(device);
    }
    check(&CpuDevice::new());
    check(&ReferenceDevice);
    check(&simulator::<f16>());
}
