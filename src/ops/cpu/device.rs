//! [`Device`] for the CPU: memory and transfer.

use super::kernel::{Level, bf16};
use super::{CpuDevice, Floats, HostBuffer, Indices, MatmulPrecision, memory};
use crate::ops::checks::{prefix, prefix_mut};
use crate::ops::{AdamState, Device, LossScaler, Planner, Recorder};
use anyhow::Result;
use rayon::prelude::*;

/// Elements that fit into a core's second cache: a smaller buffer is cleared where it will be read.
const IN_CACHE: usize = 1 << 18;

fn upload<T: Copy>(values: &[T], buffer: &mut [T]) -> Result<()> {
    prefix_mut("upload", "buffer", buffer, &[values.len()])?.copy_from_slice(values);
    Ok(())
}

fn download<T: Copy>(buffer: &[T], len: usize) -> Result<Vec<T>> {
    Ok(prefix("download", "buffer", buffer, &[len])?.to_vec())
}

/// Zeros, on several threads and past the caches where there are many.
pub(super) fn clear(buffer: &mut [f32]) {
    if buffer.len() < IN_CACHE {
        buffer.fill(0.0);
    } else {
        buffer.par_chunks_mut(1 << 16).for_each(memory::clear);
    }
}

impl Device for CpuDevice {
    type Float = Floats;
    type Single = Floats;
    type Index = Indices;
    type Host = Floats;

    const STORAGE_BYTES: usize = 4;

    fn name(&self) -> String {
        let level = match Level::detect() {
            Level::Avx512 => "AVX-512",
            Level::Avx2 => "AVX2",
            Level::Portable => "portable",
        };
        let precision = match self.precision {
            MatmulPrecision::Single => "",
            MatmulPrecision::Bf16 if bf16::has_instructions(Level::detect()) => ", bf16 products",
            MatmulPrecision::Bf16 => ", emulated bf16 products",
        };
        let threads = rayon::current_num_threads();
        format!(
            "cpu ({level}{precision}, {threads} thread{})",
            if threads == 1 { "" } else { "s" }
        )
    }

    fn zeros_float(&self, len: usize) -> Result<Floats> {
        HostBuffer::zeroed(len)
    }

    fn zeros_single(&self, len: usize) -> Result<Floats> {
        HostBuffer::zeroed(len)
    }

    fn zeros_index(&self, len: usize) -> Result<Indices> {
        HostBuffer::zeroed(len)
    }

    fn upload_float(&self, values: &[f32], buffer: &mut Floats) -> Result<()> {
        upload(values, buffer)
    }

    fn host_buffer(&self, len: usize) -> Result<Floats> {
        HostBuffer::zeroed(len)
    }

    fn adopt_float(&self, values: Floats) -> Result<Floats> {
        Ok(values)
    }

    fn upload_single(&self, values: &[f32], buffer: &mut Floats) -> Result<()> {
        upload(values, buffer)
    }

    fn upload_index(&self, values: &[u32], buffer: &mut Indices) -> Result<()> {
        upload(values, buffer)
    }

    fn download_float(&self, buffer: &Floats, len: usize) -> Result<Vec<f32>> {
        download(buffer, len)
    }

    fn download_single(&self, buffer: &Floats, len: usize) -> Result<Vec<f32>> {
        download(buffer, len)
    }

    fn download_index(&self, buffer: &Indices, len: usize) -> Result<Vec<u32>> {
        download(buffer, len)
    }

    fn clear_float(&self, buffer: &mut Floats, len: usize) -> Result<()> {
        clear(prefix_mut("clear", "buffer", buffer, &[len])?);
        Ok(())
    }

    fn clear_single(&self, buffer: &mut Floats, len: usize) -> Result<()> {
        self.clear_float(buffer, len)
    }

    fn copy_single(&self, from: &Floats, len: usize, to: &mut Floats, at: usize) -> Result<()> {
        let op = "copy_single";
        let from = prefix(op, "from", from, &[len])?;
        prefix_mut(op, "to", to, &[at.saturating_add(len)])?[at..].copy_from_slice(from);
        Ok(())
    }

    fn adam_state(&self, values: &[f32]) -> Result<AdamState<Floats>> {
        Ok(AdamState {
            master: None,
            first: HostBuffer::zeroed(values.len())?,
            second: HostBuffer::zeroed(values.len())?,
        })
    }
}

impl Recorder for CpuDevice {
    type Graph = ();
}

impl Planner for CpuDevice {}

impl LossScaler for CpuDevice {}
