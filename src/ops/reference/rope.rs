//! Rotary position embedding.

use anyhow::Result;

use super::ReferenceDevice;
use crate::ops::{AttentionShape, Checked, RopeBackward, RopeForward, Run};

impl Run<RopeForward<'_, Vec<f32>, Vec<u32>>> for ReferenceDevice {
    fn run(&self, operation: Checked<RopeForward<'_, Vec<f32>, Vec<u32>>>) -> Result<()> {
        let RopeForward {
            qkv,
            positions,
            theta,
            shape,
        } = operation.into_inner();
        rotate(qkv.slice_mut(), positions.slice(), theta, 1.0, &shape);
        Ok(())
    }
}

impl Run<RopeBackward<'_, Vec<f32>, Vec<u32>>> for ReferenceDevice {
    fn run(&self, operation: Checked<RopeBackward<'_, Vec<f32>, Vec<u32>>>) -> Result<()> {
        let RopeBackward {
            grad_qkv,
            positions,
            theta,
            shape,
        } = operation.into_inner();
        rotate(grad_qkv.slice_mut(), positions.slice(), theta, -1.0, &shape);
        Ok(())
    }
}

/// Rotates queries and keys by `direction * position * theta^(-2i/D)`.
fn rotate(qkv: &mut [f32], positions: &[u32], theta: f32, direction: f64, shape: &AttentionShape) {
    let (columns, half) = (shape.qkv_size(), shape.head_dim / 2);
    for t in 0..positions.len() {
        for head in 0..shape.heads + shape.kv_heads {
            let start = t * columns + head * shape.head_dim;
            for i in 0..half {
                let power = -2.0 * i as f64 / shape.head_dim as f64;
                let angle = f64::from(positions[t]) * f64::from(theta).powf(power);
                let (sin, cos) = (direction * angle).sin_cos();
                let low = f64::from(qkv[start + i]);
                let high = f64::from(qkv[start + half + i]);
                qkv[start + i] = (low * cos - high * sin) as f32;
                qkv[start + half + i] = (high * cos + low * sin) as f32;
            }
        }
    }
}
