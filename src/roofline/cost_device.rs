//! A device that adds up what operations cost: the model's own code on it gives the cost of a step.

use anyhow::Result;
use std::sync::{Mutex, PoisonError};

use crate::ops::{AdamState, Buffer, Checked, Device, IndexBuffer, KernelCost, Load, Operation};
use crate::ops::{Planner, Run};

/// A buffer without content.
pub(super) struct Length(usize);

impl Buffer for Length {
    fn len(&self) -> usize {
        self.0
    }
}

impl IndexBuffer for Length {
    const PADDED: bool = true;

    fn known(&self) -> Option<&[u32]> {
        None
    }
}

/// Computes nothing and notes every operation's kernels.
pub(super) struct CostDevice {
    load: Load,
    costs: Mutex<Vec<KernelCost>>,
}

impl CostDevice {
    /// A device on which operations have this load.
    pub(crate) fn new(load: Load) -> Self {
        Self {
            load,
            costs: Mutex::default(),
        }
    }

    /// The kernels of all operations since the last call, in order.
    pub(crate) fn take(&self) -> Vec<KernelCost> {
        std::mem::take(&mut self.costs.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<O: Operation> Run<O> for CostDevice {
    fn run(&self, operation: Checked<O>) -> Result<()> {
        let kernels = operation.into_inner().kernels(&self.load);
        let mut costs = self.costs.lock().unwrap_or_else(PoisonError::into_inner);
        costs.extend(kernels);
        Ok(())
    }
}

impl Planner for CostDevice {}

impl Device for CostDevice {
    type Float = Length;
    type Single = Length;
    type Index = Length;
    type Host = Vec<f32>;

    const STORAGE_BYTES: usize = 2;

    fn name(&self) -> String {
        "costs".to_owned()
    }
    fn zeros_float(&self, len: usize) -> Result<Length> {
        Ok(Length(len))
    }
    fn zeros_single(&self, len: usize) -> Result<Length> {
        Ok(Length(len))
    }
    fn zeros_index(&self, len: usize) -> Result<Length> {
        Ok(Length(len))
    }
    fn upload_float(&self, _values: &[f32], _buffer: &mut Length) -> Result<()> {
        Ok(())
    }
    fn host_buffer(&self, len: usize) -> Result<Vec<f32>> {
        Ok(vec![0.0; len])
    }
    fn adopt_float(&self, values: Vec<f32>) -> Result<Length> {
        Ok(Length(values.len()))
    }
    fn upload_single(&self, _values: &[f32], _buffer: &mut Length) -> Result<()> {
        Ok(())
    }
    fn upload_index(&self, _values: &[u32], _buffer: &mut Length) -> Result<()> {
        Ok(())
    }
    fn download_float(&self, _buffer: &Length, len: usize) -> Result<Vec<f32>> {
        Ok(vec![0.0; len])
    }
    fn download_single(&self, _buffer: &Length, len: usize) -> Result<Vec<f32>> {
        Ok(vec![0.0; len])
    }
    fn download_index(&self, _buffer: &Length, len: usize) -> Result<Vec<u32>> {
        Ok(vec![0; len])
    }
    fn clear_float(&self, _buffer: &mut Length, _len: usize) -> Result<()> {
        Ok(())
    }
    fn clear_single(&self, _buffer: &mut Length, _len: usize) -> Result<()> {
        Ok(())
    }
    fn copy_single(&self, _from: &Length, _len: usize, _to: &mut Length, _at: usize) -> Result<()> {
        Ok(())
    }
    fn adam_state(&self, values: &[f32]) -> Result<AdamState<Length>> {
        Ok(AdamState {
            master: Some(Length(values.len())),
            first: Length(values.len()),
            second: Length(values.len()),
        })
    }
}
