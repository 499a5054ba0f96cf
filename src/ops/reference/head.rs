//! Head and cross-entropy, with every logit of a row at once.

use anyhow::Result;

use super::attention::softmax;
use super::{ReferenceDevice, add, dot};
use crate::ops::{Checked, HeadLogits, HeadLoss, HeadLosses, IGNORE_TARGET, Run};

/// Logits of one row.
fn row_logits(x: &[f32], table: &[f32], hidden: usize) -> Vec<f64> {
    table.chunks_exact(hidden).map(|row| dot(x, row)).collect()
}

impl Run<HeadLoss<'_, Vec<f32>, Vec<f32>, Vec<u32>>> for ReferenceDevice {
    fn run(&self, operation: Checked<HeadLoss<'_, Vec<f32>, Vec<f32>, Vec<u32>>>) -> Result<()> {
        let HeadLoss {
            x,
            table,
            targets,
            scale,
            loss,
            grad_x,
            grad_table,
        } = operation.into_inner();
        let (count, vocab, hidden) = (x.rows, table.rows, table.cols);
        let (x, table, targets) = (x.slice(), table.slice(), targets.slice());
        let (scale, loss) = (scale.slice()[0], loss.slice_mut());
        let (grad_x, grad_table) = (grad_x.slice_mut(), grad_table.slice_mut());

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
}

impl Run<HeadLosses<'_, Vec<f32>, Vec<f32>, Vec<u32>>> for ReferenceDevice {
    fn run(&self, operation: Checked<HeadLosses<'_, Vec<f32>, Vec<f32>, Vec<u32>>>) -> Result<()> {
        let HeadLosses {
            x,
            table,
            targets,
            losses,
        } = operation.into_inner();
        let (count, hidden) = (x.rows, table.cols);
        let (x, table, targets) = (x.slice(), table.slice(), targets.slice());
        let losses = losses.slice_mut();
        for t in 0..count {
            losses[t] = 0.0;
            if targets[t] != IGNORE_TARGET {
                let logits = row_logits(&x[t * hidden..][..hidden], table, hidden);
                losses[t] = (softmax(&logits).1 - logits[targets[t] as usize]) as f32;
            }
        }
        Ok(())
    }
}

impl Run<HeadLogits<'_, Vec<f32>, Vec<f32>>> for ReferenceDevice {
    fn run(&self, operation: Checked<HeadLogits<'_, Vec<f32>, Vec<f32>>>) -> Result<()> {
        let HeadLogits {
            x,
            table,
            logits,
            first_row,
        } = operation.into_inner();
        let (rows, vocab, hidden) = (logits.rows, table.rows, table.cols);
        let (x, table, logits) = (x.slice(), table.slice(), logits.slice_mut());
        for r in 0..rows {
            let row = &x[(first_row + r) * hidden..][..hidden];
            for (v, logit) in row_logits(row, table, hidden).into_iter().enumerate() {
                logits[r * vocab + v] = logit as f32;
            }
        }
        Ok(())
    }
}
