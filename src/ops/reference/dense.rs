//! Embedding, RMSNorm and linear layers, from their definitions.

use anyhow::Result;

use super::{add, dot};
use crate::ops::checks::{expect_nonzero, expect_tokens_in_range, prefix, prefix_mut};

pub(super) fn embedding_forward(
    table: &[f32],
    tokens: &[u32],
    out: &mut [f32],
    count: usize,
    vocab: usize,
    hidden: usize,
) -> Result<()> {
    let op = "embedding_forward";
    let table = prefix(op, "table", table, &[vocab, hidden])?;
    let tokens = prefix(op, "tokens", tokens, &[count])?;
    let out = prefix_mut(op, "out", out, &[count, hidden])?;
    expect_tokens_in_range(op, "tokens", tokens, vocab)?;

    for t in 0..count {
        for c in 0..hidden {
            out[t * hidden + c] = table[tokens[t] as usize * hidden + c];
        }
    }
    Ok(())
}

pub(super) fn embedding_backward(
    grad_out: &[f32],
    tokens: &[u32],
    grad_table: &mut [f32],
    count: usize,
    vocab: usize,
    hidden: usize,
) -> Result<()> {
    let op = "embedding_backward";
    let grad_out = prefix(op, "grad_out", grad_out, &[count, hidden])?;
    let tokens = prefix(op, "tokens", tokens, &[count])?;
    let grad_table = prefix_mut(op, "grad_table", grad_table, &[vocab, hidden])?;
    expect_tokens_in_range(op, "tokens", tokens, vocab)?;

    let mut sums = vec![0.0_f64; vocab * hidden];
    for t in 0..count {
        for c in 0..hidden {
            sums[tokens[t] as usize * hidden + c] += f64::from(grad_out[t * hidden + c]);
        }
    }
    for (target, sum) in grad_table.iter_mut().zip(sums) {
        add(target, sum);
    }
    Ok(())
}

pub(super) fn rmsnorm_forward(
    x: &[f32],
    weight: &[f32],
    epsilon: f32,
    out: &mut [f32],
    inv_rms: &mut [f32],
    rows: usize,
    cols: usize,
) -> Result<()> {
    let op = "rmsnorm_forward";
    expect_nonzero(op, "the number of columns", cols)?;
    let x = prefix(op, "x", x, &[rows, cols])?;
    let weight = prefix(op, "weight", weight, &[cols])?;
    let out = prefix_mut(op, "out", out, &[rows, cols])?;
    let inv_rms = prefix_mut(op, "inv_rms", inv_rms, &[rows])?;

    for r in 0..rows {
        let row = &x[r * cols..][..cols];
        let inverse = 1.0 / (dot(row, row) / cols as f64 + f64::from(epsilon)).sqrt();
        inv_rms[r] = inverse as f32;
        for c in 0..cols {
            out[r * cols + c] = (f64::from(row[c]) * inverse * f64::from(weight[c])) as f32;
        }
    }
    Ok(())
}

#[allow(clippy::too_many_arguments)]
pub(super) fn rmsnorm_backward(
    grad_out: &[f32],
    x: &[f32],
    weight: &[f32],
    inv_rms: &[f32],
    grad_x: &mut [f32],
    grad_weight: &mut [f32],
    rows: usize,
    cols: usize,
) -> Result<()> {
    let op = "rmsnorm_backward";
    expect_nonzero(op, "the number of columns", cols)?;
    let grad_out = prefix(op, "grad_out", grad_out, &[rows, cols])?;
    let x = prefix(op, "x", x, &[rows, cols])?;
    let weight = prefix(op, "weight", weight, &[cols])?;
    let inv_rms = prefix(op, "inv_rms", inv_rms, &[rows])?;
    let grad_x = prefix_mut(op, "grad_x", grad_x, &[rows, cols])?;
    let grad_weight = prefix_mut(op, "grad_weight", grad_weight, &[cols])?;

    // n = x inv_rms, g = grad_out weight
    let n = |r: usize, c: usize| f64::from(x[r * cols + c]) * f64::from(inv_rms[r]);
    let g = |r: usize, c: usize| f64::from(grad_out[r * cols + c]) * f64::from(weight[c]);
    for r in 0..rows {
        let mean = (0..cols).map(|c| g(r, c) * n(r, c)).sum::<f64>() / cols as f64;
        for c in 0..cols {
            let gradient = f64::from(inv_rms[r]) * (g(r, c) - n(r, c) * mean);
            add(&mut grad_x[r * cols + c], gradient);
        }
    }
    for c in 0..cols {
        let sum = (0..rows)
            .map(|r| f64::from(grad_out[r * cols + c]) * n(r, c))
            .sum();
        add(&mut grad_weight[c], sum);
    }
    Ok(())
}

pub(super) fn linear_forward(
    x: &[f32],
    weight: &[f32],
    residual: Option<&[f32]>,
    y: &mut [f32],
    rows: usize,
    inputs: usize,
    outputs: usize,
) -> Result<()> {
    let op = "linear_forward";
    let x = prefix(op, "x", x, &[rows, inputs])?;
    let weight = prefix(op, "weight", weight, &[outputs, inputs])?;
    let residual = residual
        .map(|residual| prefix(op, "residual", residual, &[rows, outputs]))
        .transpose()?;
    let y = prefix_mut(op, "y", y, &[rows, outputs])?;

    for r in 0..rows {
        for o in 0..outputs {
            let product = dot(&x[r * inputs..][..inputs], &weight[o * inputs..][..inputs]);
            let added = residual.map_or(0.0, |residual| f64::from(residual[r * outputs + o]));
            y[r * outputs + o] = (product + added) as f32;
        }
    }
    Ok(())
}

pub(super) fn linear_backward_input(
    grad_y: &[f32],
    weight: &[f32],
    grad_x: &mut [f32],
    accumulate: bool,
    rows: usize,
    inputs: usize,
    outputs: usize,
) -> Result<()> {
    let op = "linear_backward_input";
    let grad_y = prefix(op, "grad_y", grad_y, &[rows, outputs])?;
    let weight = prefix(op, "weight", weight, &[outputs, inputs])?;
    let grad_x = prefix_mut(op, "grad_x", grad_x, &[rows, inputs])?;

    for r in 0..rows {
        for i in 0..inputs {
            let sum: f64 = (0..outputs)
                .map(|o| f64::from(grad_y[r * outputs + o]) * f64::from(weight[o * inputs + i]))
                .sum();
            let target = &mut grad_x[r * inputs + i];
            if accumulate {
                add(target, sum);
            } else {
                *target = sum as f32;
            }
        }
    }
    Ok(())
}

pub(super) fn linear_backward_weight(
    grad_y: &[f32],
    x: &[f32],
    grad_weight: &mut [f32],
    rows: usize,
    inputs: usize,
    outputs: usize,
) -> Result<()> {
    let op = "linear_backward_weight";
    let grad_y = prefix(op, "grad_y", grad_y, &[rows, outputs])?;
    let x = prefix(op, "x", x, &[rows, inputs])?;
    let grad_weight = prefix_mut(op, "grad_weight", grad_weight, &[outputs, inputs])?;

    for o in 0..outputs {
        for i in 0..inputs {
            let sum = (0..rows)
                .map(|r| f64::from(grad_y[r * outputs + o]) * f64::from(x[r * inputs + i]))
                .sum();
            add(&mut grad_weight[o * inputs + i], sum);
        }
    }
    Ok(())
}
