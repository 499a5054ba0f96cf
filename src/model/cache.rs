//! Keys and values of a text so far, so that each new token costs one row and not the whole text again.

use super::ModelConfig;
use crate::ops::{AttentionShape, CachedText, Device, MemoryClass, allocating};
use anyhow::{Result, bail, ensure};

/// Keys and values of all layers for one text.
pub struct KvCache<D: Device> {
    config: ModelConfig,
    /// Keys and values `[capacity, G D]` of each layer.
    layers: Vec<(D::Float, D::Float)>,
    len: usize,
    capacity: usize,
}

impl<D: Device> KvCache<D> {
    /// An empty cache for up to `capacity` tokens.
    ///
    /// # Errors
    /// If `capacity` is 0 or more than the model has positions, or the device is out of memory.
    pub fn new(device: &D, config: &ModelConfig, capacity: usize) -> Result<Self> {
        config.validate()?;
        let most = config.max_position_embeddings;
        ensure!(
            (1..=most).contains(&capacity),
            "a cache for {capacity} tokens was asked for, expected 1 to max_position_embeddings, which is {most}"
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
            "the text is too long: {len} tokens and {count} more, expected at most {capacity}; shorten the prompt or ask for fewer new tokens"
        );
        Ok(())
    }

    /// One layer, for a step of several texts.
    fn text(&mut self, layer: usize) -> Result<CachedText<'_, D>> {
        let Some((keys, values)) = self.layers.get_mut(layer) else {
            bail!("the cache has no layer {layer}")
        };
        Ok(CachedText {
            keys,
            values,
            past: self.len,
        })
    }

    /// Appends the keys and values in `qkv` to one layer and attends to all of them.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn attend(
        &mut self,
        device: &D,
        layer: usize,
        qkv: &D::Float,
        out: &mut D::Float,
        shape: &AttentionShape,
        past: usize,
        count: usize,
    ) -> Result<()> {
        let Some((keys, values)) = self.layers.get_mut(layer) else {
            bail!("the cache has no layer {layer}")
        };
        device.attention_cached(qkv, keys, values, out, shape, past, count, self.capacity)
    }
}

/// Appends one row of `qkv` to one layer of each cache and attends to all of it. The caches have the same capacity.
pub(super) fn attend_texts<D: Device>(
    caches: &mut [&mut KvCache<D>],
    device: &D,
    layer: usize,
    qkv: &D::Float,
    out: &mut D::Float,
    shape: &AttentionShape,
) -> Result<()> {
    let capacity = caches.first().map_or(0, |cache| cache.capacity);
    let mut texts = caches
        .iter_mut()
        .map(|cache| cache.text(layer))
        .collect::<Result<Vec<_>>>()?;
    device.attention_cached_texts(qkv, &mut texts, out, shape, capacity)
}
