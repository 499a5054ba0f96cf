//! Embedding, RMSNorm, linear layers and rotary position embedding.

use super::*;
use muni_engine::ops::AttentionShape;
use muni_engine::ops::cpu::CpuDevice;

/// Row counts on both sides of the tiles' and chunks' edges.
const ROWS: [usize; 11] = [1, 2, 3, 5, 7, 17, 63, 64, 65, 130, 257];
/// (inputs, outputs): multiples of no vector, of some, and the model's own sizes.
const SIZES: [(usize, usize); 5] = [(36, 44), (40, 131), (48, 40), (1, 3), (257, 36)];

/// Every row count with small sizes, a few with the model's.
fn linear_shapes() -> Vec<(usize, usize, usize)> {
    let small = ROWS
        .into_iter()
        .flat_map(|rows| SIZES.into_iter().map(move |(i, o)| (rows, i, o)));
    let all = small.chain([(3, 384, 448), (65, 384, 448), (130, 448, 384)]);
    // On the simulator: both tiles, rows at odd addresses and at multiples of 16 bytes, one element beyond a tile.
    let simulated = vec![
        (1, 1, 3),
        (1, 36, 44),
        (2, 48, 40),
        (3, 40, 131),
        (5, 33, 257),
        (17, 257, 36),
        (64, 36, 44),
        (65, 40, 136),
        (129, 72, 24),
        (257, 48, 40),
        (33, 136, 264),
        (130, 448, 384),
    ];
    by_precision(all.collect(), simulated)
}

fn embedding_forward<D: Device>(
    device: &D,
    (count, vocab, hidden): (usize, usize, usize),
) -> Outputs {
    let mut values = Values::new(count);
    let table = input(device, &values.normal(vocab * hidden, 1.0));
    let mut tokens = values.indices(count, vocab);
    tokens[0] = vocab as u32 - 1;
    let tokens = input_index(device, &tokens);
    let mut out = written(device, count * hidden);
    device
        .embedding_forward(&table, &tokens, &mut out, count, vocab, hidden)
        .unwrap();
    vec![("out", read(device, &out, count * hidden))]
}

pub fn embedding_backward<D: Device>(
    device: &D,
    (count, vocab, hidden): (usize, usize, usize),
) -> Outputs {
    let mut values = Values::new(count);
    let grad_out = input(device, &values.normal(count * hidden, 1.0));
    // Few different tokens, so that rows meet.
    let tokens = input_index(device, &values.indices(count, vocab.min(9)));
    let mut grad_table = added(device, &values.normal(vocab * hidden, 1.0));
    device
        .embedding_backward(&grad_out, &tokens, &mut grad_table, count, vocab, hidden)
        .unwrap();
    vec![("grad_table", read(device, &grad_table, vocab * hidden))]
}

fn check_embedding<D: Device>(device: &D) {
    for (vocab, hidden) in [(131, 36), (257, 48), (9, 40), (1, 384)] {
        for rows in ROWS {
            let case = (rows, vocab, hidden);
            same_as_reference!("embedding_forward", case, embedding_forward, device, case);
            same_as_reference!("embedding_backward", case, embedding_backward, device, case);
        }
    }
}

#[test]
fn cpu_equals_reference_embedding() {
    check_embedding(&CpuDevice::new());
}

on_simulator!(sim_equals_reference_embedding, check_embedding);

/// Rows of `x`: as usual, of size 1e4, or every third row zero.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Rows {
    Usual,
    Large,
    Zero,
}

fn norm_rows(values: &mut Values, rows: usize, cols: usize, kind: Rows) -> Vec<f32> {
    let scale = if kind == Rows::Large { 1e4 } else { 1.0 };
    let mut x = values.normal(rows * cols, scale);
    if kind == Rows::Zero {
        for row in x.chunks_mut(cols).step_by(3) {
            row.fill(0.0);
        }
        // One row stays, so that the outputs have a size to measure errors by.
        x[rows * cols - 1] = 1.0;
    }
    x
}

fn rmsnorm_forward<D: Device>(device: &D, (rows, cols): (usize, usize), kind: Rows) -> Outputs {
    let mut values = Values::new(rows);
    let x = input(device, &norm_rows(&mut values, rows, cols, kind));
    let weight = input(device, &values.normal(cols, 1.0));
    let mut out = written(device, rows * cols);
    let mut inv_rms = written_single(device, rows);
    device
        .rmsnorm_forward(&x, &weight, 1e-5, &mut out, &mut inv_rms, rows, cols)
        .unwrap();
    vec![
        ("out", read(device, &out, rows * cols)),
        ("inv_rms", read_single(device, &inv_rms, rows)),
    ]
}

fn rmsnorm_backward_of<D: Device>(device: &D, (rows, cols): (usize, usize), kind: Rows) -> Outputs {
    let mut values = Values::new(rows + 1);
    let x = norm_rows(&mut values, rows, cols, kind);
    let inv_rms: Vec<f32> = x
        .chunks(cols)
        .map(|row| row.iter().map(|x| x * x).sum::<f32>() / cols as f32 + 1e-5)
        .map(|mean| 1.0 / mean.sqrt())
        .collect();
    let (x, inv_rms) = (input(device, &x), input_single(device, &inv_rms));
    let weight = input(device, &values.normal(cols, 1.0));
    let grad_out = input(device, &values.normal(rows * cols, 1.0));
    let mut grad_x = added(device, &values.normal(rows * cols, 1.0));
    let mut grad_weight = added(device, &values.normal(cols, 1.0));
    device
        .rmsnorm_backward(
            &grad_out,
            &x,
            &weight,
            &inv_rms,
            &mut grad_x,
            &mut grad_weight,
            rows,
            cols,
        )
        .unwrap();
    vec![
        ("grad_x", read(device, &grad_x, rows * cols)),
        ("grad_weight", read(device, &grad_weight, cols)),
    ]
}

pub fn rmsnorm_backward<D: Device>(device: &D, shape: (usize, usize)) -> Outputs {
    rmsnorm_backward_of(device, shape, Rows::Usual)
}

fn check_rmsnorm<D: Device>(device: &D) {
    for cols in [36, 40, 48, 384, 3] {
        for rows in ROWS {
            for kind in [Rows::Usual, Rows::Large, Rows::Zero] {
                let (case, shape) = ((rows, cols, kind), (rows, cols));
                same_as_reference!(
                    "rmsnorm_forward",
                    case,
                    rmsnorm_forward,
                    device,
                    shape,
                    kind
                );
                same_as_reference!(
                    "rmsnorm_backward",
                    case,
                    rmsnorm_backward_of,
                    device,
                    shape,
                    kind
                );
            }
        }
    }
}

#[test]
fn cpu_equals_reference_rmsnorm() {
    check_rmsnorm(&CpuDevice::new());
}

on_simulator!(sim_equals_reference_rmsnorm, check_rmsnorm);

pub fn linear_forward<D: Device>(
    device: &D,
    (rows, inputs, outputs): (usize, usize, usize),
    with_residual: bool,
) -> Outputs {
    let mut values = Values::new(rows * inputs);
    // Large activations: the error is relative to them.
    let x = input(
        device,
        &values.normal(rows * inputs, by_precision(1e4, 1e3)),
    );
    let weight = input(device, &values.normal(outputs * inputs, 0.1));
    let residual = input(device, &values.normal(rows * outputs, 1e3));
    let mut y = written(device, rows * outputs);
    let residual = with_residual.then_some(&residual);
    device
        .linear_forward(&x, &weight, residual, &mut y, rows, inputs, outputs)
        .unwrap();
    vec![("y", read(device, &y, rows * outputs))]
}

pub fn linear_backward_input<D: Device>(
    device: &D,
    (rows, inputs, outputs): (usize, usize, usize),
    accumulate: bool,
) -> Outputs {
    let mut values = Values::new(rows * outputs);
    let grad_y = input(device, &values.normal(rows * outputs, 1.0));
    let weight = input(device, &values.normal(outputs * inputs, 0.1));
    let mut grad_x = match accumulate {
        true => added(device, &values.normal(rows * inputs, 1.0)),
        false => written(device, rows * inputs),
    };
    device
        .linear_backward_input(
            &grad_y,
            &weight,
            &mut grad_x,
            accumulate,
            rows,
            inputs,
            outputs,
        )
        .unwrap();
    vec![("grad_x", read(device, &grad_x, rows * inputs))]
}

pub fn linear_backward_weight<D: Device>(
    device: &D,
    (rows, inputs, outputs): (usize, usize, usize),
) -> Outputs {
    let mut values = Values::new(inputs * outputs);
    let grad_y = input(device, &values.normal(rows * outputs, 1.0));
    let x = input(device, &values.normal(rows * inputs, 1.0));
    let mut grad_weight = added(device, &values.normal(outputs * inputs, 1.0));
    device
        .linear_backward_weight(&grad_y, &x, &mut grad_weight, rows, inputs, outputs)
        .unwrap();
    vec![("grad_weight", read(device, &grad_weight, outputs * inputs))]
}

fn check_linear<D: Device>(device: &D) {
    for shape in linear_shapes() {
        for flag in [false, true] {
            let case = (shape, flag);
            same_as_reference!("linear_forward", case, linear_forward, device, shape, flag);
            same_as_reference!(
                "linear_backward_input",
                case,
                linear_backward_input,
                device,
                shape,
                flag
            );
        }
        same_as_reference!(
            "linear_backward_weight",
            shape,
            linear_backward_weight,
            device,
            shape
        );
    }
}

#[test]
fn cpu_equals_reference_linear() {
    check_linear(&CpuDevice::new());
}

on_simulator!(sim_equals_reference_linear, check_linear);

fn rope<D: Device>(device: &D, shape: &AttentionShape, count: usize, forward: bool) -> Outputs {
    let mut values = Values::new(count);
    let len = count * shape.qkv_size();
    let mut qkv = added(device, &values.normal(len, 1.0));
    let positions: Vec<u32> = (0..count as u32).map(|t| t * 37 % 256).collect();
    let positions = input_index(device, &positions);
    match forward {
        true => device.rope_forward(&mut qkv, &positions, 1e4, shape, count),
        false => device.rope_backward(&mut qkv, &positions, 1e4, shape, count),
    }
    .unwrap();
    vec![("qkv", read(device, &qkv, len))]
}

fn check_rope<D: Device>(device: &D) {
    for (heads, kv_heads, head_dim) in [(6, 3, 64), (2, 1, 2), (3, 3, 10), (4, 2, 36)] {
        let shape = AttentionShape {
            heads,
            kv_heads,
            head_dim,
        };
        for rows in ROWS {
            let case = (shape, rows);
            same_as_reference!("rope_forward", case, rope, device, &shape, rows, true);
            same_as_reference!("rope_backward", case, rope, device, &shape, rows, false);
        }
    }
}

#[test]
fn cpu_equals_reference_rope() {
    check_rope(&CpuDevice::new());
}

on_simulator!(sim_equals_reference_rope, check_rope);
