//! Batches of a run, from a shard folder.

use anyhow::Result;

use crate::model::Batch;

pub struct Source {}

impl Source {
    pub fn batches_per_epoch(&self, _epochs: usize) -> Result<Vec<usize>> {
        anyhow::bail!("stub")
    }
    pub fn batch(&self, _epoch: usize, _index: usize) -> Result<Batch> {
        anyhow::bail!("stub")
    }
    pub fn validation(&self, _limit: usize) -> Result<Vec<Batch>> {
        anyhow::bail!("stub")
    }
}
