//! Embedding, RMSNorm, linear layers and rotary position embedding.

use anyhow::Result;

use super::{Outputs, Precision, Rig, Tally, Values, same_as_reference};
use crate::ops::{AttentionShape, Device};

/// Row counts on both sides of the tiles' and chunks' edges.
const ROWS: [usize; 11] = [1, 2, 3, 5, 7, 17, 63, 64, 65, 130, 257];
/// (inputs, outputs): multiples of no vector, of some, and the model's own sizes.
const SIZES: [(usize, usize); 5] = [(36, 44), (40, 131), (48, 40), (1, 3), (257, 36)];

/// Every row count with small sizes, a few with the model's.
fn linear_shapes(precision: Precision) -> Vec<(usize, usize, usize)> {
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
    precision.choose(all.collect(), simulated)
}

fn embedding_forward<D: Device>(
    rig: Rig<'_, D>,
    (count, vocab, hidden): (usize, usize, usize),
) -> Result<Outputs> {
    let mut values = Values::new(count);
    let table = rig.input(&values.normal(vocab * hidden, 1.0))?;
    let mut tokens = values.indices(count, vocab);
    tokens[0] = vocab as u32 - 1;
    let tokens = rig.input_index(&tokens)?;
    let mut out = rig.written(count * hidden)?;
    rig.device
        .embedding_forward(&table, &tokens, &mut out, count, vocab, hidden)?;
    Ok(vec![("out", rig.read(&out, count * hidden)?)])
}

/// Gradient of the table, which begins with random values.
///
/// # Errors
/// When the device fails, or writes behind an output.
pub fn embedding_backward<D: Device>(
    rig: Rig<'_, D>,
    (count, vocab, hidden): (usize, usize, usize),
) -> Result<Outputs> {
    let mut values = Values::new(count);
    let grad_out = rig.input(&values.normal(count * hidden, 1.0))?;
    // Few different tokens, so that rows meet.
    let tokens = rig.input_index(&values.indices(count, vocab.min(9)))?;
    let mut grad_table = rig.added(&values.normal(vocab * hidden, 1.0))?;
    rig.device
        .embedding_backward(&grad_out, &tokens, &mut grad_table, count, vocab, hidden)?;
    Ok(vec![("grad_table", rig.read(&grad_table, vocab * hidden)?)])
}

pub(super) fn check_embedding<D: Device>(rig: Rig<'_, D>, tally: &mut Tally) {
    for (vocab, hidden) in [(131, 36), (257, 48), (9, 40), (1, 384)] {
        for rows in ROWS {
            let case = (rows, vocab, hidden);
            same_as_reference!(
                tally,
                rig,
                "embedding_forward",
                case,
                embedding_forward,
                case
            );
            same_as_reference!(
                tally,
                rig,
                "embedding_backward",
                case,
                embedding_backward,
                case
            );
        }
    }
}

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

fn rmsnorm_forward<D: Device>(
    rig: Rig<'_, D>,
    (rows, cols): (usize, usize),
    kind: Rows,
) -> Result<Outputs> {
    let mut values = Values::new(rows);
    let x = rig.input(&norm_rows(&mut values, rows, cols, kind))?;
    let weight = rig.input(&values.normal(cols, 1.0))?;
    let mut out = rig.written(rows * cols)?;
    let mut inv_rms = rig.written_single(rows)?;
    rig.device
        .rmsnorm_forward(&x, &weight, 1e-5, &mut out, &mut inv_rms, rows, cols)?;
    Ok(vec![
        ("out", rig.read(&out, rows * cols)?),
        ("inv_rms", rig.read_single(&inv_rms, rows)?),
    ])
}

fn rmsnorm_backward_of<D: Device>(
    rig: Rig<'_, D>,
    (rows, cols): (usize, usize),
    kind: Rows,
) -> Result<Outputs> {
    let mut values = Values::new(rows + 1);
    let x = norm_rows(&mut values, rows, cols, kind);
    let inv_rms: Vec<f32> = x
        .chunks(cols)
        .map(|row| row.iter().map(|x| x * x).sum::<f32>() / cols as f32 + 1e-5)
        .map(|mean| 1.0 / mean.sqrt())
        .collect();
    let (x, inv_rms) = (rig.input(&x)?, rig.input_single(&inv_rms)?);
    let weight = rig.input(&values.normal(cols, 1.0))?;
    let grad_out = rig.input(&values.normal(rows * cols, 1.0))?;
    let mut grad_x = rig.added(&values.normal(rows * cols, 1.0))?;
    let mut grad_weight = rig.added(&values.normal(cols, 1.0))?;
    rig.device.rmsnorm_backward(
        &grad_out,
        &x,
        &weight,
        &inv_rms,
        &mut grad_x,
        &mut grad_weight,
        rows,
        cols,
    )?;
    Ok(vec![
        ("grad_x", rig.read(&grad_x, rows * cols)?),
        ("grad_weight", rig.read(&grad_weight, cols)?),
    ])
}

/// Gradients of RMSNorm of rows of the usual size.
///
/// # Errors
/// When the device fails, or writes behind an output.
pub fn rmsnorm_backward<D: Device>(rig: Rig<'_, D>, shape: (usize, usize)) -> Result<Outputs> {
    rmsnorm_backward_of(rig, shape, Rows::Usual)
}

pub(super) fn check_rmsnorm<D: Device>(rig: Rig<'_, D>, tally: &mut Tally) {
    for cols in [36, 40, 48, 384, 3] {
        for rows in ROWS {
            for kind in [Rows::Usual, Rows::Large, Rows::Zero] {
                let (case, shape) = ((rows, cols, kind), (rows, cols));
                same_as_reference!(
                    tally,
                    rig,
                    "rmsnorm_forward",
                    case,
                    rmsnorm_forward,
                    shape,
                    kind
                );
                same_as_reference!(
                    tally,
                    rig,
                    "rmsnorm_backward",
                    case,
                    rmsnorm_backward_of,
                    shape,
                    kind
                );
            }
        }
    }
}

/// A product of large activations, with or without a residual.
///
/// # Errors
/// When the device fails, or writes behind an output.
pub fn linear_forward<D: Device>(
    rig: Rig<'_, D>,
    (rows, inputs, outputs): (usize, usize, usize),
    with_residual: bool,
) -> Result<Outputs> {
    let mut values = Values::new(rows * inputs);
    // Large activations: the error is relative to them.
    let x = rig.input(&values.normal(rows * inputs, rig.precision.choose(1e4, 1e3)))?;
    let weight = rig.input(&values.normal(outputs * inputs, 0.1))?;
    let residual = rig.input(&values.normal(rows * outputs, 1e3))?;
    let mut y = rig.written(rows * outputs)?;
    let residual = with_residual.then_some(&residual);
    rig.device
        .linear_forward(&x, &weight, residual, &mut y, rows, inputs, outputs)?;
    Ok(vec![("y", rig.read(&y, rows * outputs)?)])
}

/// Gradient of the input, added or written.
///
/// # Errors
/// When the device fails, or writes behind an output.
pub fn linear_backward_input<D: Device>(
    rig: Rig<'_, D>,
    (rows, inputs, outputs): (usize, usize, usize),
    accumulate: bool,
) -> Result<Outputs> {
    let mut values = Values::new(rows * outputs);
    let grad_y = rig.input(&values.normal(rows * outputs, 1.0))?;
    let weight = rig.input(&values.normal(outputs * inputs, 0.1))?;
    let mut grad_x = match accumulate {
        true => rig.added(&values.normal(rows * inputs, 1.0))?,
        false => rig.written(rows * inputs)?,
    };
    rig.device.linear_backward_input(
        &grad_y,
        &weight,
        &mut grad_x,
        accumulate,
        rows,
        inputs,
        outputs,
    )?;
    Ok(vec![("grad_x", rig.read(&grad_x, rows * inputs)?)])
}

/// Gradient of the weight.
///
/// # Errors
/// When the device fails, or writes behind an output.
pub fn linear_backward_weight<D: Device>(
    rig: Rig<'_, D>,
    (rows, inputs, outputs): (usize, usize, usize),
) -> Result<Outputs> {
    let mut values = Values::new(inputs * outputs);
    let grad_y = rig.input(&values.normal(rows * outputs, 1.0))?;
    let x = rig.input(&values.normal(rows * inputs, 1.0))?;
    let mut grad_weight = rig.added(&values.normal(outputs * inputs, 1.0))?;
    rig.device
        .linear_backward_weight(&grad_y, &x, &mut grad_weight, rows, inputs, outputs)?;
    Ok(vec![(
        "grad_weight",
        rig.read(&grad_weight, outputs * inputs)?,
    )])
}

pub(super) fn check_linear<D: Device>(rig: Rig<'_, D>, tally: &mut Tally) {
    for shape in linear_shapes(rig.precision) {
        for flag in [false, true] {
            let case = (shape, flag);
            same_as_reference!(
                tally,
                rig,
                "linear_forward",
                case,
                linear_forward,
                shape,
                flag
            );
            same_as_reference!(
                tally,
                rig,
                "linear_backward_input",
                case,
                linear_backward_input,
                shape,
                flag
            );
        }
        same_as_reference!(
            tally,
            rig,
            "linear_backward_weight",
            shape,
            linear_backward_weight,
            shape
        );
    }
}

fn rope<D: Device>(
    rig: Rig<'_, D>,
    shape: &AttentionShape,
    count: usize,
    forward: bool,
) -> Result<Outputs> {
    let mut values = Values::new(count);
    let len = count * shape.qkv_size();
    let mut qkv = rig.added(&values.normal(len, 1.0))?;
    let positions: Vec<u32> = (0..count as u32).map(|t| t * 37 % 256).collect();
    let positions = rig.input_index(&positions)?;
    match forward {
        true => rig
            .device
            .rope_forward(&mut qkv, &positions, 1e4, shape, count),
        false => rig
            .device
            .rope_backward(&mut qkv, &positions, 1e4, shape, count),
    }?;
    Ok(vec![("qkv", rig.read(&qkv, len)?)])
}

pub(super) fn check_rope<D: Device>(rig: Rig<'_, D>, tally: &mut Tally) {
    for (heads, kv_heads, head_dim) in [(6, 3, 64), (2, 1, 2), (3, 3, 10), (4, 2, 36)] {
        let shape = AttentionShape {
            heads,
            kv_heads,
            head_dim,
        };
        for rows in ROWS {
            let case = (shape, rows);
            same_as_reference!(tally, rig, "rope_forward", case, rope, &shape, rows, true);
            same_as_reference!(tally, rig, "rope_backward", case, rope, &shape, rows, false);
        }
    }
}
