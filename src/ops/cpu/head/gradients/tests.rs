//! The head's gradients beside the reference, where much is left out.

use super::*;
use crate::ops::cpu::CpuDevice;
use crate::ops::reference::ReferenceDevice;
use crate::ops::{Buffer, HeadLoss, Operations, issue};
use anyhow::Result;

const HIDDEN: usize = 8;

/// Loss and both gradients of the fast head and of the reference.
fn both(x: &[f32], table: &[f32], targets: &[u32]) -> [(Vec<f32>, Vec<f32>, Vec<f32>); 2] {
    fn run<D: Operations>(
        device: &D,
        x: &[f32],
        table: &[f32],
        targets: &[u32],
    ) -> Result<(Vec<f32>, Vec<f32>, Vec<f32>)> {
        let (count, vocab) = (targets.len(), table.len() / HIDDEN);
        let uploaded = |values: &[f32]| {
            let mut buffer = device.zeros_float(values.len())?;
            device.upload_float(values, &mut buffer)?;
            anyhow::Ok(buffer)
        };
        let (mut loss, mut scale) = (device.zeros_single(1)?, device.zeros_single(1)?);
        device.upload_single(&[0.5], &mut scale)?;
        let mut indices = device.zeros_index(count)?;
        device.upload_index(targets, &mut indices)?;
        let mut grad_x = device.zeros_float(x.len())?;
        let mut grad_table = device.zeros_float(table.len())?;
        issue(
            device,
            HeadLoss {
                x: uploaded(x)?.matrix(count, HIDDEN),
                table: uploaded(table)?.matrix(vocab, HIDDEN),
                targets: indices.vector(count),
                scale: scale.vector(1),
                loss: loss.vector_mut(1),
                grad_x: grad_x.matrix_mut(count, HIDDEN),
                grad_table: grad_table.matrix_mut(vocab, HIDDEN),
            },
        )?;
        Ok((
            device.download_single(&loss, 1)?,
            device.download_float(&grad_x, x.len())?,
            device.download_float(&grad_table, table.len())?,
        ))
    }
    [
        run(&CpuDevice::new(), x, table, targets).unwrap(),
        run(&ReferenceDevice, x, table, targets).unwrap(),
    ]
}

/// Norm of the difference over the norm of what is right.
fn error(found: &[f32], right: &[f32]) -> f64 {
    let square = |x: f32| f64::from(x) * f64::from(x);
    let difference: f64 = found.iter().zip(right).map(|(f, r)| square(f - r)).sum();
    (difference / right.iter().map(|&r| square(r)).sum::<f64>()).sqrt()
}

/// Tokens from wholly uncertain to certain, in no order; 2,950 of 3,000 words are the less probable
/// the more certain a token is. Some are targets.
#[test]
fn what_is_left_out_is_replaced() {
    let (count, vocab) = (700, 3000);
    let noise = |i: usize| ((i * 7919 % 1009) as f32 / 504.0 - 1.0) * 0.5;
    let mut x: Vec<f32> = (0..count * HIDDEN).map(noise).collect();
    let mut table: Vec<f32> = (0..vocab * HIDDEN).map(|i| noise(i + 13)).collect();
    for (t, row) in x.chunks_exact_mut(HIDDEN).enumerate() {
        row[0] = (t * 389 % count) as f32 / count as f32 * 30.0;
    }
    for (word, row) in table.chunks_exact_mut(HIDDEN).enumerate() {
        row[0] = if word % 60 == 7 { 0.5 } else { -0.5 };
    }
    let targets: Vec<u32> = (0..count as u32)
        .map(|t| {
            if t % 50 == 3 {
                t * 4 % 3000
            } else {
                t % 50 * 60 + 7
            }
        })
        .collect();
    let [(loss, gx, gt), (right_loss, right_gx, right_gt)] = both(&x, &table, &targets);
    assert!((loss[0] - right_loss[0]).abs() < 1e-5 * right_loss[0]);
    assert!(error(&gx, &right_gx) < 1e-5, "{}", error(&gx, &right_gx));
    assert!(error(&gt, &right_gt) < 1e-5, "{}", error(&gt, &right_gt));
    for (word, (row, right)) in gt
        .chunks_exact(HIDDEN)
        .zip(right_gt.chunks_exact(HIDDEN))
        .enumerate()
    {
        assert!(
            error(row, right) < 0.01,
            "word {word}: {}",
            error(row, right)
        );
    }
}

/// Words that are improbable everywhere take part in no product, and are unlearnt all the same.
#[test]
fn words_that_are_improbable_everywhere() {
    let (count, vocab) = (40, 700);
    let mut x = vec![0.1f32; count * HIDDEN];
    let mut table = vec![0.0f32; vocab * HIDDEN];
    for (i, value) in x.iter_mut().enumerate() {
        *value = if i % HIDDEN == 0 {
            1.0
        } else {
            ((i * 37 % 19) as f32 - 9.0) * 0.1
        };
    }
    for (i, value) in table.iter_mut().enumerate() {
        let improbable = (i / HIDDEN).is_multiple_of(3) && i.is_multiple_of(HIDDEN);
        *value = if improbable {
            -40.0
        } else {
            ((i * 53 % 23) as f32 - 11.0) * 0.1
        };
    }
    // One target is improbable.
    let targets: Vec<u32> = (0..count as u32)
        .map(|t| if t == 5 { 33 } else { t * 3 + 1 })
        .collect();
    let [(_, gx, gt), (_, right_gx, right_gt)] = both(&x, &table, &targets);
    assert!(error(&gx, &right_gx) < 1e-5 && error(&gt, &right_gt) < 1e-5);
    for word in [0, 3, 33, 699] {
        let row = word * HIDDEN..(word + 1) * HIDDEN;
        let error = error(&gt[row.clone()], &right_gt[row]);
        assert!(error < 0.5, "word {word}: {error}");
    }
}

#[test]
fn reach_and_mass() {
    let exponentials: Vec<f32> = (0..37)
        .map(|t| if t % 5 == 0 { 1.0 } else { 1e-9 })
        .collect();
    let factors = vec![0.5; 37];
    let reach: Vec<u32> = (0..37).map(|t| 37 - t).collect();
    assert_eq!(needed_reach(&exponentials, &factors, &reach), 37);
    assert_eq!(
        needed_reach(&exponentials[1..], &factors[1..], &reach[1..]),
        32
    );
    assert_eq!(needed_reach(&[1e-9], &[1.0], &[4]), 0);
    assert_eq!(needed_reach(&[f32::NAN], &[1.0], &[4]), 4);
    let mut mass = vec![1.0; 37];
    // Tokens 0, 5 .. 20 are beyond 16.
    assert_eq!(
        add_left_out(&exponentials, &factors, &reach, 16, &mut mass),
        5.0 * 0.5 + 16.0 * 5e-10
    );
    assert!(mass[20] == 1.5 && mass[25] == 1.0);
}
