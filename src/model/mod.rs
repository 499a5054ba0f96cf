//! The model: Mixtral as Transformers defines it, written once over
//! [`Operations`](crate::ops::Operations), with its backward pass by hand.
//!
//! One layer, for the residual stream `x`: `h = x + Wo attention(rope(Wqkv rmsnorm(x)))`, `y = h +
//! sum_k p_k Wdown_k (silu(Wgate_k n) * Wup_k n)` with `n = rmsnorm(h)` and `p` the renormalised
//! probabilities of the chosen experts. Then a last norm and the embedding table as head.

mod backward;
mod batch;
mod cache;
mod check;
mod config;
mod config_json;
mod forward;
mod initialization;
mod inspect;
mod parameters;
mod workspace;

pub use backward::StepScales;
pub use batch::Batch;
pub use cache::KvCache;
pub use config::ModelConfig;
pub use initialization::random_weights;
pub(crate) use inspect::LayerRoutes;
pub(crate) use parameters::TensorSpec;
pub use parameters::{Parameters, fused_from_hf, hf_tensor};
pub(crate) use workspace::{DeviceBatch, TotalsLayout};
pub use workspace::{StepTotals, Workspace};

use crate::ops::Device;
use anyhow::{Result, ensure};

/// A model on a device.
pub struct Model<D: Device> {
    /// Its sizes.
    pub config: ModelConfig,
    /// Its weights.
    pub parameters: Parameters<D>,
}

impl<D: Device> Model<D> {
    /// A model of checked sizes with these weights.
    ///
    /// # Errors
    /// If the sizes are invalid or the weights are not those of such a model.
    pub fn new(config: ModelConfig, parameters: Parameters<D>) -> Result<Self> {
        config.validate()?;
        ensure!(
            parameters.specs == config.parameters(),
            "the parameters belong to a model of other sizes"
        );
        Ok(Self { config, parameters })
    }
}
