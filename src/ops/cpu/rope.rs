//! Rotary position embedding (Su et al. 2021), half-split as Transformers' `rotate_half`.

use super::simd::vectorised;
use super::{CpuDevice, Floats, Indices};
use crate::ops::{AttentionShape, Checked, Operation, RopeBackward, RopeForward, Run};
use anyhow::{Result, bail};
use rayon::prelude::*;
use std::sync::{Arc, Mutex};

/// Positions from which a caller's mistake is likelier than a text: 2^20 positions of angles take
/// 256 MB at a head size of 64.
const MAX_POSITION: u32 = 1 << 20;

impl Run<RopeForward<'_, Floats, Indices>> for CpuDevice {
    fn run(&self, operation: Checked<RopeForward<'_, Floats, Indices>>) -> Result<()> {
        let RopeForward {
            qkv,
            positions,
            theta,
            shape,
        } = operation.into_inner();
        let (op, positions) = (RopeForward::<Floats, Indices>::NAME, positions.slice());
        expect_angles(op, positions)?;
        self.rope
            .rotate(qkv.slice_mut(), positions, theta, &shape, 1.0);
        Ok(())
    }
}

impl Run<RopeBackward<'_, Floats, Indices>> for CpuDevice {
    fn run(&self, operation: Checked<RopeBackward<'_, Floats, Indices>>) -> Result<()> {
        let RopeBackward {
            grad_qkv,
            positions,
            theta,
            shape,
        } = operation.into_inner();
        let (op, positions) = (RopeBackward::<Floats, Indices>::NAME, positions.slice());
        expect_angles(op, positions)?;
        let grad_qkv = grad_qkv.slice_mut();
        self.rope.rotate(grad_qkv, positions, theta, &shape, -1.0);
        Ok(())
    }
}

/// That this device keeps angles for these positions.
fn expect_angles(op: &str, positions: &[u32]) -> Result<()> {
    match positions.iter().find(|&&position| position >= MAX_POSITION) {
        None => Ok(()),
        Some(position) => bail!(
            "{op}: position {position} is beyond the {MAX_POSITION} \
             that this device keeps angles for"
        ),
    }
}

/// Cosines and sines `[positions, D/2]`, grown on demand.
#[derive(Default)]
pub(crate) struct RopeCache {
    table: Mutex<Option<Arc<Table>>>,
}

struct Table {
    theta: f32,
    half: usize,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl RopeCache {
    fn table(&self, theta: f32, half: usize, positions: usize) -> Arc<Table> {
        let mut slot = self
            .table
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(table) = slot.as_ref()
            && table.theta == theta
            && table.half == half
            && table.cos.len() >= positions * half
        {
            return table.clone();
        }
        let positions = positions.next_power_of_two().max(256);
        let mut table = Table {
            theta,
            half,
            cos: Vec::new(),
            sin: Vec::new(),
        };
        for position in 0..positions {
            for i in 0..half {
                // In f32 like Transformers, so that long positions agree with it.
                let frequency = 1.0 / theta.powf(2.0 * i as f32 / (2 * half) as f32);
                let angle = position as f32 * frequency;
                table.cos.push(angle.cos());
                table.sin.push(angle.sin());
            }
        }
        let table = Arc::new(table);
        *slot = Some(table.clone());
        table
    }

    /// Rotates queries and keys in place; by the negative angles where `sign` is -1.
    fn rotate(
        &self,
        qkv: &mut [f32],
        positions: &[u32],
        theta: f32,
        shape: &AttentionShape,
        sign: f32,
    ) {
        let half = shape.head_dim / 2;
        let last = positions.iter().copied().max().unwrap_or(0) as usize;
        let table = self.table(theta, half, last + 1);
        let heads = shape.heads + shape.kv_heads;
        qkv.par_chunks_mut(shape.qkv_size())
            .zip(positions)
            .with_min_len(32)
            .for_each(|(row, &position)| {
                let at = position as usize * half;
                rotate_row(
                    &mut row[..heads * shape.head_dim],
                    &table.cos[at..at + half],
                    &table.sin[at..at + half],
                    sign,
                );
            });
    }
}

vectorised! {
    /// Rotates each head of one token.
    pub(crate) fn rotate_row(row: &mut [f32], cos: &[f32], sin: &[f32], sign: f32) {
        let half = cos.len();
        for head in row.chunks_exact_mut(2 * half) {
            let (low, high) = head.split_at_mut(half);
            for i in 0..half {
                let (a, b, s) = (low[i], high[i], sign * sin[i]);
                low[i] = a * cos[i] - b * s;
                high[i] = b * cos[i] + a * s;
            }
        }
    }
}
