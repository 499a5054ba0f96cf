//! Everything a pass over one micro-batch writes, allocated once and reused.

use super::{Batch, ModelConfig};
use crate::ops::{Balance, Device, Routing};
use anyhow::{Result, ensure};

/// Activations of one micro-batch, and the sums that it leaves for [`Workspace::totals`].
pub struct Workspace<D: Device> {
    pub(super) max_tokens: usize,
    pub(super) max_segments: usize,
    pub(super) max_groups: usize,
    /// Sizes this workspace was made for.
    pub(super) config: ModelConfig,
    pub(super) inputs: Inputs<D>,
    /// The residual stream `[T, C]` before each layer and after the last: layers + 1 buffers, or one for inference.
    pub(super) residuals: Vec<D::Float>,
    /// What each layer keeps for its backward; one for all layers in inference.
    pub(super) layers: Vec<LayerActivations<D>>,
    /// The last norm's output `[T, C]` and statistics `[T]`.
    pub(super) normed: D::Float,
    pub(super) normed_inv_rms: D::Single,
    /// Loss per position `[T]`, for the forward pass alone.
    pub(super) losses: D::Single,
    /// Logits of single positions `[max_logit_rows, V]`.
    pub(super) last_logits: D::Single,
    pub(super) max_logit_rows: usize,
    /// Router sums of passes that train nothing.
    pub(super) scratch_balance: Balance<D>,
    pub(super) training: Option<Training<D>>,
}

/// The batch on the device.
pub(super) struct Inputs<D: Device> {
    pub tokens: D::Index,
    pub targets: D::Index,
    pub positions: D::Index,
    pub segments: D::Index,
    pub groups: D::Index,
}

/// What the backward pass of one layer reads.
pub(super) struct LayerActivations<D: Device> {
    /// Normalised input of the attention `[T, C]`.
    pub attention_input: D::Float,
    pub attention_inv_rms: D::Single,
    /// Queries, keys and values after RoPE `[T, (H + 2G) D]`.
    pub qkv: D::Float,
    /// `[T, H D]`
    pub attention: D::Float,
    /// `[T, H]`
    pub log_sum: D::Single,
    /// The residual stream between attention and experts `[T, C]`.
    pub middle: D::Float,
    /// Normalised input of router and experts `[T, C]`.
    pub moe_input: D::Float,
    pub moe_inv_rms: D::Single,
    pub routing: Routing<D>,
    /// `[T K, 2F]`
    pub gate_up: D::Float,
}

/// What only training needs: gradients of activations, and sums.
pub(super) struct Training<D: Device> {
    /// Gradient of the residual stream `[T, C]`.
    pub grad_residual: D::Float,
    /// Gradient of a norm's output `[T, C]`.
    pub grad_normed: D::Float,
    /// `[T, H D]`
    pub grad_attention: D::Float,
    /// `[T, (H + 2G) D]`
    pub grad_qkv: D::Float,
    /// `[T, K]`
    pub grad_weights: D::Single,
    /// Sum of the token losses since the last totals `[1]`.
    pub loss: D::Single,
    /// Router sums of each micro-batch since the last totals; grown on demand, so that a step never waits for the device.
    pub balances: Vec<Balance<D>>,
    /// Tokens of each logical batch, for each of the first `balances` in use.
    pub group_tokens: Vec<Vec<usize>>,
}

/// Sums over the micro-batches since the last call of [`Workspace::totals`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepTotals {
    /// Sum of the cross-entropy over all counted targets.
    pub token_loss_sum: f64,
    /// Sum over the logical batches of Transformers' `load_balancing_loss_func`, without its coefficient.
    pub router_loss_sum: f64,
    /// Tokens sent to each expert, over all layers `[E]`.
    pub expert_counts: Vec<f64>,
}

impl<D: Device> LayerActivations<D> {
    fn new(device: &D, config: &ModelConfig, tokens: usize) -> Result<Self> {
        let (attention, moe) = (config.attention_shape(), config.moe_shape());
        let residual = tokens * config.hidden_size;
        Ok(Self {
            attention_input: device.zeros_float(residual)?,
            attention_inv_rms: device.zeros_single(tokens)?,
            qkv: device.zeros_float(tokens * attention.qkv_size())?,
            attention: device.zeros_float(tokens * attention.out_size())?,
            log_sum: device.zeros_single(tokens * attention.heads)?,
            middle: device.zeros_float(residual)?,
            moe_input: device.zeros_float(residual)?,
            moe_inv_rms: device.zeros_single(tokens)?,
            routing: Routing::new(device, &moe, tokens)?,
            gate_up: device.zeros_float(tokens * moe.top_k * 2 * moe.intermediate)?,
        })
    }
}

impl<D: Device> Training<D> {
    fn new(device: &D, config: &ModelConfig, tokens: usize) -> Result<Self> {
        let attention = config.attention_shape();
        Ok(Self {
            grad_residual: device.zeros_float(tokens * config.hidden_size)?,
            grad_normed: device.zeros_float(tokens * config.hidden_size)?,
            grad_attention: device.zeros_float(tokens * attention.out_size())?,
            grad_qkv: device.zeros_float(tokens * attention.qkv_size())?,
            grad_weights: device.zeros_single(tokens * config.num_experts_per_tok)?,
            loss: device.zeros_single(1)?,
            balances: Vec::new(),
            group_tokens: Vec::new(),
        })
    }

    /// Index of the cleared router sums for the next micro-batch.
    pub fn next_balance(
        &mut self,
        device: &D,
        config: &ModelConfig,
        batch: &Batch,
        max_groups: usize,
    ) -> Result<usize> {
        let index = self.group_tokens.len();
        if index == self.balances.len() {
            self.balances
                .push(Balance::new(device, &config.moe_shape(), max_groups)?);
        } else {
            clear_balance(
                device,
                &mut self.balances[index],
                max_groups * config.num_local_experts,
            )?;
        }
        self.group_tokens.push(
            batch
                .groups
                .windows(2)
                .map(|ends| (ends[1] - ends[0]) as usize)
                .collect(),
        );
        Ok(index)
    }
}

/// Sets the first `len` router sums to zero.
pub(super) fn clear_balance<D: Device>(
    device: &D,
    balance: &mut Balance<D>,
    len: usize,
) -> Result<()> {
    device.clear_single(&mut balance.counts, len)?;
    device.clear_single(&mut balance.prob_sums, len)
}

impl<D: Device> Workspace<D> {
    /// A workspace for training, and for everything else, on batches of up to the given sizes.
    ///
    /// # Errors
    /// If a size is 0 or the device is out of memory.
    pub fn new(
        device: &D,
        config: &ModelConfig,
        max_tokens: usize,
        max_segments: usize,
        max_groups: usize,
    ) -> Result<Self> {
        let mut workspace =
            Self::with_layers(device, config, max_tokens, max_segments, max_groups, true)?;
        workspace.training = Some(Training::new(device, config, max_tokens)?);
        Ok(workspace)
    }

    /// A workspace for the forward pass only: about a sixth of the memory at six layers, since layers share buffers.
    ///
    /// # Errors
    /// If a size is 0 or the device is out of memory.
    pub fn for_inference(
        device: &D,
        config: &ModelConfig,
        max_tokens: usize,
        max_segments: usize,
        max_groups: usize,
    ) -> Result<Self> {
        Self::with_layers(device, config, max_tokens, max_segments, max_groups, false)
    }

    /// Buffers for everything but training; with `keep_layers` each layer has its own.
    pub(super) fn with_layers(
        device: &D,
        config: &ModelConfig,
        max_tokens: usize,
        max_segments: usize,
        max_groups: usize,
        keep_layers: bool,
    ) -> Result<Self> {
        config.validate()?;
        ensure!(
            max_tokens >= 1 && max_segments >= 1 && max_groups >= 1,
            "a workspace for {max_tokens} tokens, {max_segments} examples and {max_groups} logical batches was asked for; expected at least 1 of each"
        );
        let layers = if keep_layers {
            config.num_hidden_layers
        } else {
            1
        };
        let residuals = if keep_layers { layers + 1 } else { 1 };
        Ok(Self {
            max_tokens,
            max_segments,
            max_groups,
            config: config.clone(),
            inputs: Inputs {
                tokens: device.zeros_index(max_tokens)?,
                targets: device.zeros_index(max_tokens)?,
                positions: device.zeros_index(max_tokens)?,
                segments: device.zeros_index(max_segments + 1)?,
                groups: device.zeros_index(max_groups + 1)?,
            },
            residuals: (0..residuals)
                .map(|_| device.zeros_float(max_tokens * config.hidden_size))
                .collect::<Result<_>>()?,
            layers: (0..layers)
                .map(|_| LayerActivations::new(device, config, max_tokens))
                .collect::<Result<_>>()?,
            normed: device.zeros_float(max_tokens * config.hidden_size)?,
            normed_inv_rms: device.zeros_single(max_tokens)?,
            losses: device.zeros_single(max_tokens)?,
            last_logits: device.zeros_single(config.vocab_size)?,
            max_logit_rows: 1,
            scratch_balance: Balance::new(device, &config.moe_shape(), max_groups)?,
            training: None,
        })
    }

    /// The same for steps of up to `texts` texts at once; see [`Model::forward_texts`](super::Model::forward_texts).
    ///
    /// # Errors
    /// If `texts` is 0 or more than the tokens the workspace was made for, or the device is out of memory.
    pub fn with_texts(mut self, device: &D, texts: usize) -> Result<Self> {
        let most = self.max_tokens;
        ensure!(
            (1..=most).contains(&texts),
            "steps of {texts} texts were asked for, expected 1 to {most}, the tokens of this workspace"
        );
        self.last_logits = device.zeros_single(texts * self.config.vocab_size)?;
        self.max_logit_rows = texts;
        Ok(self)
    }

    /// Most tokens of one batch.
    pub fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    /// Downloads the sums that `forward_backward` has left since the last call, and starts new ones. This is the only
    /// place where training waits for the device.
    ///
    /// # Errors
    /// If the device fails.
    pub fn totals(&mut self, device: &D) -> Result<StepTotals> {
        let experts = self.config.num_local_experts;
        let mut totals = StepTotals {
            expert_counts: vec![0.0; experts],
            ..StepTotals::default()
        };
        let Some(training) = &mut self.training else {
            return Ok(totals);
        };
        totals.token_loss_sum = device
            .download_single(&training.loss, 1)?
            .iter()
            .copied()
            .map(f64::from)
            .sum();
        for (balance, group_tokens) in training.balances.iter().zip(&training.group_tokens) {
            let counts = device.download_single(&balance.counts, group_tokens.len() * experts)?;
            let prob_sums =
                device.download_single(&balance.prob_sums, group_tokens.len() * experts)?;
            let groups = counts.chunks(experts).zip(prob_sums.chunks(experts));
            for (&tokens, (counts, prob_sums)) in group_tokens.iter().zip(groups) {
                totals.router_loss_sum +=
                    load_balancing_loss(counts, prob_sums, tokens * self.config.num_hidden_layers);
                for (total, &count) in totals.expert_counts.iter_mut().zip(counts) {
                    *total += f64::from(count);
                }
            }
        }
        training.group_tokens.clear();
        device.clear_single(&mut training.loss, 1)?;
        Ok(totals)
    }

    /// Checks a batch against this workspace and the model's sizes, and puts it on the device.
    pub(super) fn upload(&mut self, device: &D, batch: &Batch) -> Result<()> {
        super::check::check_batch(&self.config, batch)?;
        for (what, found, most) in [
            ("tokens", batch.tokens.len(), self.max_tokens),
            ("examples", batch.segments.len() - 1, self.max_segments),
            ("logical batches", batch.groups.len() - 1, self.max_groups),
        ] {
            ensure!(
                found <= most,
                "the batch has {found} {what}, the workspace was made for at most {most}"
            );
        }
        device.upload_index(&batch.tokens, &mut self.inputs.tokens)?;
        device.upload_index(&batch.targets, &mut self.inputs.targets)?;
        device.upload_index(&batch.positions, &mut self.inputs.positions)?;
        device.upload_index(&batch.segments, &mut self.inputs.segments)?;
        device.upload_index(&batch.groups, &mut self.inputs.groups)
    }
}

/// Transformers' `load_balancing_loss_func` of one logical batch: `rows` is layers times tokens.
fn load_balancing_loss(counts: &[f32], prob_sums: &[f32], rows: usize) -> f64 {
    let products: f64 = counts
        .iter()
        .zip(prob_sums)
        .map(|(&count, &sum)| f64::from(count) * f64::from(sum))
        .sum();
    counts.len() as f64 * products / (rows as f64).powi(2)
}
