//! Head and cross-entropy, with every logit of a row at once.

use anyhow::Result;

use super::attention::softmax;
use super::{add, dot};
use crate::ops::IGNORE_TARGET;
use crate::ops::checks::{expect_nonzero, expect_targets_in_range, prefix, prefix_mut};

/// Logits of one row.
fn row_logits(x: &[f32], table: &[f32], hidden: usize) -> Vec<f64> {
    table.chunks_exact(hidden).map(|row| dot(x, row)).collect()
}

#[allow(clippy::too_many_arguments)]
pub(super) fn head_loss(
    x: &[f32],
    table: &[f32],
    targets: &[u32],
    scale: &[f32],
    loss: &mut [f32],
    grad_x: &mut [f32],
    grad_table: &mut [f32],
    count: usize,
    vocab: usize,
    hidden: usize,
) -> Result<()> {
    let op = "head_loss";
    expect_nonzero(op, "the hidden size", hidden)?;
    let x = prefix(op, "x", x, &[count, hidden])?;
    let table = prefix(op, "table", table, &[vocab, hidden])?;
    let targets = prefix(op, "targets", targets, &[count])?;
    let scale = prefix(op, "scale", scale, &[1])?[0];
    let loss = prefix_mut(op, "loss", loss, &[1])?;
    let grad_x = prefix_mut(op, "grad_x", grad_x, &[count, hidden])?;
    let grad_table = prefix_mut(op, "grad_table", grad_table, &[vocab, hidden])?;
    expect_targets_in_range(op, "targets", targets, vocab)?;

    let mut sum = 0.0_f64;
    let mut sum_table = vec![0.0_f64; vocab * hidden];
    for t in 0..count {
        let mut grad_row = vec![0.0_f64; hidden];
        if targets[t] != IGNORE_TARGET {
            let target = targets[t] as usize;
            let row = &x[t * hidden..][..hidden];
            let logits = row_logits(row, table, hidden);
            let (probabilities, log_sum) = softmax(&logits);
            sum += log_sum - logits[target];
            for v in 0..vocab {
                let hit = if v == target { 1.0 } else { 0.0 };
                let grad_logit = f64::from(scale) * (probabilities[v] - hit);
                for c in 0..hidden {
                    grad_row[c] += grad_logit * f64::from(table[v * hidden + c]);
                    sum_table[v * hidden + c] += grad_logit * f64::from(row[c]);
                }
            }
        }
        for c in 0..hidden {
            grad_x[t * hidden + c] = grad_row[c] as f32;
        }
    }
    add(&mut loss[0], sum);
    for (target, sum) in grad_table.iter_mut().zip(sum_table) {
        add(target, sum);
    }
    Ok(())
}

pub(super) fn head_losses(
    x: &[f32],
    table: &[f32],
    targets: &[u32],
    losses: &mut [f32],
    count: usize,
    vocab: usize,
    hidden: usize,
) -> Result<()> {
    let op = "head_losses";
    expect_nonzero(op, "the hidden size", hidden)?;
    let x = prefix(op, "x", x, &[count, hidden])?;
    let table = prefix(op, "table", table, &[vocab, hidden])?;
    let targets = prefix(op, "targets", targets, &[count])?;
    let losses = prefix_mut(op, "losses", losses, &[count])?;
    expect_targets_in_range(op, "targets", targets, vocab)?;

    for t in 0..count {
        losses[t] = 0.0;
        if targets[t] != IGNORE_TARGET {
            let logits = row_logits(&x[t * hidden..][..hidden], table, hidden);
            losses[t] = (softmax(&logits).1 - logits[targets[t] as usize]) as f32;
        }
    }
    Ok(())
}

pub(super) fn head_logits(
    x: &[f32],
    table: &[f32],
    logits: &mut [f32],
    first_row: usize,
    rows: usize,
    vocab: usize,
    hidden: usize,
) -> Result<()> {
    let op = "head_logits";
    expect_nonzero(op, "the hidden size", hidden)?;
    let x = prefix(op, "x", x, &[first_row.saturating_add(rows), hidden])?;
    let table = prefix(op, "table", table, &[vocab, hidden])?;
    let logits = prefix_mut(op, "logits", logits, &[rows, vocab])?;

    for r in 0..rows {
        let row = &x[(first_row + r) * hidden..][..hidden];
        for (v, logit) in row_logits(row, table, hidden).into_iter().enumerate() {
            logits[r * vocab + v] = logit as f32;
        }
    }
    Ok(())
}
