//! What happens inside a forward pass, for those who want to look: which experts the router chose.

use super::{Batch, Model, ModelConfig, Workspace};
use crate::ops::{Device, Operations};
use anyhow::{Result, ensure};

/// What one layer's router decided for T tokens, with E experts of which K serve a token.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct LayerRoutes {
    /// Chosen experts `[T, K]`, the most probable first.
    pub experts: Vec<u32>,
    /// Softmax over all experts `[T, E]`.
    pub probs: Vec<f32>,
}

impl<D: Device> Workspace<D> {
    /// A workspace for [`Model::routes`], where every layer keeps what it computed.
    ///
    /// # Errors
    /// If a size is 0 or the device is out of memory.
    pub(crate) fn for_inspection(
        device: &D,
        config: &ModelConfig,
        max_tokens: usize,
        max_segments: usize,
    ) -> Result<Self> {
        Self::with_layers(device, config, max_tokens, max_segments, 1, true)
    }
}

impl<D: Operations> Model<D> {
    /// The router's decisions in every layer, for a batch of whole texts.
    ///
    /// # Errors
    /// If the batch is malformed or larger than the workspace, the workspace was not made by
    /// [`Workspace::for_inspection`] (or for training), or the device fails.
    pub(crate) fn routes(
        &self,
        device: &D,
        batch: &Batch,
        workspace: &mut Workspace<D>,
    ) -> Result<Vec<LayerRoutes>> {
        let layers = self.config.num_hidden_layers;
        ensure!(
            workspace.layers.len() == layers,
            "the workspace keeps {} layers, the model has {layers}: make it with \
             Workspace::for_inspection",
            workspace.layers.len()
        );
        let tokens = self.forward_batch(device, batch, workspace)?;
        let shape = self.config.moe_shape();
        workspace
            .layers
            .iter()
            .map(|layer| {
                Ok(LayerRoutes {
                    experts: device.download_index(&layer.routing.experts, tokens * shape.top_k)?,
                    probs: device.download_single(&layer.routing.probs, tokens * shape.experts)?,
                })
            })
            .collect()
    }
}
