//! Slow, obvious operations: every formula as its operation says it, sums in `f64`, whole softmax
//! rows, nothing kept that can be computed again. The conformance tests hold the fast devices to
//! it; it is never optimised.

// Loops over named indices are the formulas; iterator chains would hide them.
#![allow(clippy::needless_range_loop)]

mod attention;
mod embedding;
mod experts;
mod head;
mod linear;
mod optimizer;
mod rmsnorm;
mod rope;
mod router;

use anyhow::{Context, Result};

use super::checks::{prefix, prefix_mut};
use super::{AdamState, Buffer, Device, IndexBuffer, LossScaler, Planner, Recorder};

/// The reference device: `f32` storage on the host, one thread.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReferenceDevice;

/// Sum of products in `f64`.
fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter()
        .zip(b)
        .map(|(&a, &b)| f64::from(a) * f64::from(b))
        .sum()
}

/// `target += value`, rounded once.
fn add(target: &mut f32, value: f64) {
    *target = (f64::from(*target) + value) as f32;
}

fn zeros<T: Clone + Default>(len: usize) -> Result<Vec<T>> {
    let mut buffer = Vec::new();
    buffer
        .try_reserve_exact(len)
        .with_context(|| format!("zeros: no memory for {len} elements"))?;
    buffer.resize(len, T::default());
    Ok(buffer)
}

fn upload<T: Copy>(values: &[T], buffer: &mut [T]) -> Result<()> {
    prefix_mut("upload", "buffer", buffer, &[values.len()])?.copy_from_slice(values);
    Ok(())
}

fn download<T: Copy>(buffer: &[T], len: usize) -> Result<Vec<T>> {
    Ok(prefix("download", "buffer", buffer, &[len])?.to_vec())
}

fn clear(buffer: &mut [f32], len: usize) -> Result<()> {
    prefix_mut("clear", "buffer", buffer, &[len])?.fill(0.0);
    Ok(())
}

impl<T> Buffer for Vec<T> {
    fn len(&self) -> usize {
        self.len()
    }
}

impl IndexBuffer for Vec<u32> {
    const PADDED: bool = false;

    fn known(&self) -> Option<&[u32]> {
        Some(self)
    }
}

impl Device for ReferenceDevice {
    type Float = Vec<f32>;
    type Single = Vec<f32>;
    type Index = Vec<u32>;
    type Host = Vec<f32>;

    const STORAGE_BYTES: usize = 4;

    fn name(&self) -> String {
        "reference".to_owned()
    }

    fn zeros_float(&self, len: usize) -> Result<Vec<f32>> {
        zeros(len)
    }
    fn zeros_single(&self, len: usize) -> Result<Vec<f32>> {
        zeros(len)
    }
    fn zeros_index(&self, len: usize) -> Result<Vec<u32>> {
        zeros(len)
    }
    fn upload_float(&self, values: &[f32], buffer: &mut Vec<f32>) -> Result<()> {
        upload(values, buffer)
    }
    fn host_buffer(&self, len: usize) -> Result<Vec<f32>> {
        Ok(vec![0.0; len])
    }
    fn adopt_float(&self, values: Vec<f32>) -> Result<Vec<f32>> {
        Ok(values)
    }
    fn upload_single(&self, values: &[f32], buffer: &mut Vec<f32>) -> Result<()> {
        upload(values, buffer)
    }
    fn upload_index(&self, values: &[u32], buffer: &mut Vec<u32>) -> Result<()> {
        upload(values, buffer)
    }
    fn download_float(&self, buffer: &Vec<f32>, len: usize) -> Result<Vec<f32>> {
        download(buffer, len)
    }
    fn download_single(&self, buffer: &Vec<f32>, len: usize) -> Result<Vec<f32>> {
        download(buffer, len)
    }
    fn download_index(&self, buffer: &Vec<u32>, len: usize) -> Result<Vec<u32>> {
        download(buffer, len)
    }
    fn clear_float(&self, buffer: &mut Vec<f32>, len: usize) -> Result<()> {
        clear(buffer, len)
    }
    fn clear_single(&self, buffer: &mut Vec<f32>, len: usize) -> Result<()> {
        clear(buffer, len)
    }

    fn copy_single(&self, from: &Vec<f32>, len: usize, to: &mut Vec<f32>, at: usize) -> Result<()> {
        let op = "copy_single";
        let from = prefix(op, "from", from, &[len])?;
        prefix_mut(op, "to", to, &[at.saturating_add(len)])?[at..].copy_from_slice(from);
        Ok(())
    }

    fn adam_state(&self, values: &[f32]) -> Result<AdamState<Vec<f32>>> {
        Ok(AdamState {
            master: None,
            first: zeros(values.len())?,
            second: zeros(values.len())?,
        })
    }
}

impl Recorder for ReferenceDevice {
    type Graph = ();
}

impl Planner for ReferenceDevice {}

impl LossScaler for ReferenceDevice {}
