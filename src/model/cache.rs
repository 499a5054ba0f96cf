//! Keys and values of a sequence so far, so that each new token costs one row and not the whole
//! sequence again.

use super::ModelConfig;
use crate::ops::{Buffer, CachedSequence, Device, MemoryClass, Planner, allocating};
use anyhow::{Result, bail, ensure};

/// Keys and values of all layers for one sequence.
pub struct KvCache<D: Device> {
    config: ModelConfig,
    /// Keys and values `[capacity, G D]` of each layer.
    layers: Vec<(D::Float, D::Float)>,
    len: usize,
    capacity: usize,
}

impl<D: Planner> KvCache<D> {
    /// An empty cache for up to `capacity` tokens.
    ///
    /// # Errors
    /// If `capacity` is 0 or more than the model has positions, or the device is out of memory.
    pub fn new(device: &D, config: &ModelConfig, capacity: usize) -> Result<Self> {
        config.validate()?;
        let most = config.max_position_embeddings;
        ensure!(
            (1..=most).contains(&capacity),
            "a cache for {capacity} tokens was asked for, \
             expected 1 to max_position_embeddings, which is {most}"
        );
        let size = capacity * config.attention_shape().kv_size();
        let layers = allocating(device, MemoryClass::Cache, || {
            (0..config.num_hidden_layers)
                .map(|_| Ok((device.zeros_float(size)?, device.zeros_float(size)?)))
                .collect::<Result<_>>()
        })?;
        Ok(Self {
            config: config.clone(),
            layers,
            len: 0,
            capacity,
        })
    }
}

impl<D: Device> KvCache<D> {
    /// Tokens in the cache.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no tokens.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Most tokens.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Forgets all but the first `len` tokens; more than there are changes nothing.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    pub(super) fn set_len(&mut self, len: usize) {
        self.len = len;
    }

    /// Checks that `count` more tokens of a model of these sizes fit.
    pub(super) fn check(&self, config: &ModelConfig, count: usize) -> Result<()> {
        ensure!(
            count > 0,
            "there are no tokens to append, expected at least one"
        );
        ensure!(
            self.config == *config,
            "the cache was made for {:?}, the model is {:?}",
            self.config,
            config
        );
        let (len, capacity) = (self.len, self.capacity);
        ensure!(
            count <= capacity - len,
            "the text is too long: {len} tokens and {count} more, expected at most {capacity}; \
             shorten the prompt or ask for fewer new tokens"
        );
        Ok(())
    }

    /// One layer, of which the first `past` positions count.
    pub(super) fn sequence(
        &mut self,
        layer: usize,
        past: usize,
    ) -> Result<CachedSequence<'_, D::Float>> {
        let (rows, cols) = (self.capacity, self.config.attention_shape().kv_size());
        let Some((keys, values)) = self.layers.get_mut(layer) else {
            bail!("the cache has no layer {layer}")
        };
        Ok(CachedSequence {
            keys: keys.matrix_mut(rows, cols),
            values: values.matrix_mut(rows, cols),
            past,
        })
    }
}
