//! Everything a pass over one micro-batch writes, allocated once and reused.

use super::{Batch, ModelConfig};
use crate::ops::{Balance, Device, IGNORE_TARGET, MemoryClass, Planner, Routing, allocating};
use anyhow::{Result, bail, ensure};

/// Activations of one micro-batch, and the sums that it leaves for [`Workspace::totals`].
pub struct Workspace<D: Device> {
    pub(super) max_tokens: usize,
    pub(super) max_segments: usize,
    pub(super) max_groups: usize,
    /// Sizes this workspace was made for.
    pub(super) config: ModelConfig,
    pub(super) inputs: Inputs<D>,
    /// The residual stream `[T, C]` before each layer and after the last: layers + 1 buffers, or
    /// one for inference.
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
    pub(super) scratch_balance: Balance<D::Single>,
    pub(super) training: Option<Training<D>>,
}

/// The batch on the device.
pub(super) struct Inputs<D: Device> {
    pub tokens: D::Index,
    pub targets: D::Index,
    pub positions: D::Index,
    pub segments: D::Index,
    pub groups: D::Index,
    /// What the gradients of token losses are multiplied by `[1]`.
    pub token_scale: D::Single,
}

/// A micro-batch that lies on the device: the sizes of its pass. Passes of equal ones issue the
/// same operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct DeviceBatch {
    /// Tokens, padding included.
    pub(super) tokens: usize,
    /// Segments, the padding's and empty ones included.
    pub(super) segments: usize,
    /// Logical batches.
    pub(super) groups: usize,
    /// Which router sums it adds to.
    pub(super) balance: usize,
    /// Bits of the load-balancing loss's factor.
    pub(super) balance_scale: u32,
}

/// What was copied from the device's sums, for [`Workspace::totals_of`].
#[derive(Clone, Debug, Default)]
pub(crate) struct TotalsLayout {
    /// Tokens of each logical batch of each micro-batch.
    group_tokens: Vec<Vec<usize>>,
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
    pub routing: Routing<D::Single, D::Index>,
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
    /// Router sums of each micro-batch since the last totals; grown on demand, so that a step never
    /// waits for the device.
    pub balances: Vec<Balance<D::Single>>,
    /// Tokens of each logical batch, for each of the first `balances` in use.
    pub group_tokens: Vec<Vec<usize>>,
}

/// Sums over the micro-batches since the last call of [`Workspace::totals`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepTotals {
    /// Sum of the cross-entropy over all counted targets.
    pub token_loss_sum: f64,
    /// Sum over the logical batches of Transformers' `load_balancing_loss_func`, without its
    /// coefficient.
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
}

impl<D: Planner> Training<D> {
    /// Index of the router sums for the next micro-batch, which its pass clears.
    fn next_balance(
        &mut self,
        device: &D,
        config: &ModelConfig,
        batch: &Batch,
        max_groups: usize,
    ) -> Result<usize> {
        let index = self.group_tokens.len();
        if index == self.balances.len() {
            let balance = allocating(device, MemoryClass::Activations, || {
                Balance::new(device, &config.moe_shape(), max_groups)
            });
            self.balances.push(balance?);
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
    balance: &mut Balance<D::Single>,
    len: usize,
) -> Result<()> {
    device.clear_single(&mut balance.counts, len)?;
    device.clear_single(&mut balance.prob_sums, len)
}

impl<D: Planner> Workspace<D> {
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
        allocating(device, MemoryClass::Activations, || {
            let mut workspace =
                Self::with_layers(device, config, max_tokens, max_segments, max_groups, true)?;
            workspace.training = Some(Training::new(device, config, max_tokens)?);
            Ok(workspace)
        })
    }

    /// A workspace for the forward pass only: about a sixth of the memory at six layers, since
    /// layers share buffers.
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
        allocating(device, MemoryClass::Cache, || {
            Self::with_layers(device, config, max_tokens, max_segments, max_groups, false)
        })
    }

    /// The same for decoding steps of up to `sequences` sequences at once; see
    /// [`Model::decode_batch`](super::Model::decode_batch).
    ///
    /// # Errors
    /// If `sequences` is 0 or more than the tokens the workspace was made for, or the device is out
    /// of memory.
    pub fn with_sequences(mut self, device: &D, sequences: usize) -> Result<Self> {
        let most = self.max_tokens;
        ensure!(
            (1..=most).contains(&sequences),
            "steps of {sequences} sequences were asked for, \
             expected 1 to {most}, the tokens of this workspace"
        );
        let logits = sequences * self.config.vocab_size;
        self.last_logits = allocating(device, MemoryClass::Cache, || device.zeros_single(logits))?;
        self.max_logit_rows = sequences;
        Ok(self)
    }

    /// Makes the router sums of so many micro-batches, so that no step has to.
    ///
    /// # Errors
    /// If the device is out of memory.
    pub(crate) fn reserve(&mut self, device: &D, micro_batches: usize) -> Result<()> {
        if let Some(training) = &mut self.training {
            while training.balances.len() < micro_batches {
                let shape = self.config.moe_shape();
                let balance = allocating(device, MemoryClass::Activations, || {
                    Balance::new(device, &shape, self.max_groups)
                });
                training.balances.push(balance?);
            }
        }
        Ok(())
    }

    /// As [`Workspace::upload`], for a pass that trains: padded to a shape that comes up again,
    /// with the factors of its losses.
    pub(super) fn upload_batch(
        &mut self,
        device: &D,
        batch: &Batch,
        token_scale: f32,
        balance_scale: f32,
    ) -> Result<DeviceBatch> {
        self.check(batch)?;
        let count = batch.tokens.len();
        let examples = batch.segments.len() - 1;
        let multiple = match examples < self.max_segments {
            true => device.token_multiple(self.max_tokens),
            false => 1,
        };
        let tokens = count.next_multiple_of(multiple).min(self.max_tokens);
        let mut segments = batch.segments.clone();
        if multiple > 1 {
            // The padding is an example of its own, and examples without tokens make the number a
            // rounder one.
            segments.push(tokens as u32);
            let parts = (examples + 1).next_power_of_two();
            segments.resize(
                parts.min(self.max_segments).min(tokens).max(examples) + 1,
                tokens as u32,
            );
        }
        let padded = |values: &[u32], filler: u32| {
            let mut values = values.to_vec();
            values.resize(tokens, filler);
            values
        };
        let mut positions = batch.positions.clone();
        positions.extend(0..(tokens - count) as u32);
        let Some(training) = &mut self.training else {
            bail!("the workspace was made for inference, expected one for training");
        };
        let balance = training.next_balance(device, &self.config, batch, self.max_groups)?;
        let inputs = &mut self.inputs;
        device.upload_inputs(
            &mut [
                (&padded(&batch.tokens, 0), &mut inputs.tokens),
                (&padded(&batch.targets, IGNORE_TARGET), &mut inputs.targets),
                (&positions, &mut inputs.positions),
                (&segments, &mut inputs.segments),
                (&batch.groups, &mut inputs.groups),
            ],
            &mut [(&[token_scale], &mut inputs.token_scale)],
        )?;
        Ok(DeviceBatch {
            tokens,
            segments: segments.len() - 1,
            groups: batch.groups.len() - 1,
            balance,
            balance_scale: balance_scale.to_bits(),
        })
    }
}

impl<D: Device> Workspace<D> {
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
            "a workspace for {max_tokens} tokens, {max_segments} examples and {max_groups} logical \
             batches was asked for; expected at least 1 of each"
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
                token_scale: device.zeros_single(1)?,
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

    /// Most tokens of one batch.
    pub(crate) fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    /// Downloads the sums that `forward_backward` has left since the last call, and starts new
    /// ones. This is the only place where training waits for the device.
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
        totals.token_loss_sum = f64::from(device.download_single(&training.loss, 1)?[0]);
        for (balance, group_tokens) in training.balances.iter().zip(&training.group_tokens) {
            let counts = device.download_single(&balance.counts, group_tokens.len() * experts)?;
            let prob_sums =
                device.download_single(&balance.prob_sums, group_tokens.len() * experts)?;
            totals.add(
                group_tokens,
                &counts,
                &prob_sums,
                self.config.num_hidden_layers,
            );
        }
        training.group_tokens.clear();
        device.clear_single(&mut training.loss, 1)?;
        Ok(totals)
    }

    /// Elements that [`Workspace::copy_totals`] writes for a step of so many micro-batches.
    pub(crate) fn totals_len(&self, micro_batches: usize) -> usize {
        1 + micro_batches * 2 * self.balance_len()
    }

    fn balance_len(&self) -> usize {
        self.max_groups * self.config.num_local_experts
    }

    /// As [`Workspace::totals`], but the sums are copied on the device, to `history` from `at` on,
    /// without waiting. The sum of losses goes on unless [`Workspace::clear_loss`] is called.
    ///
    /// # Errors
    /// If the history is too short, or the device fails.
    pub(crate) fn copy_totals(
        &mut self,
        device: &D,
        history: &mut D::Single,
        at: usize,
    ) -> Result<TotalsLayout> {
        let len = self.balance_len();
        let Some(training) = &mut self.training else {
            return Ok(TotalsLayout::default());
        };
        device.copy_single(&training.loss, 1, history, at)?;
        let group_tokens = std::mem::take(&mut training.group_tokens);
        for (index, balance) in training.balances[..group_tokens.len()].iter().enumerate() {
            let at = at + 1 + index * 2 * len;
            device.copy_single(&balance.counts, len, history, at)?;
            device.copy_single(&balance.prob_sums, len, history, at + len)?;
        }
        Ok(TotalsLayout { group_tokens })
    }

    /// The sums of a step, from what [`Workspace::copy_totals`] wrote.
    ///
    /// # Errors
    /// Where there are fewer values than it wrote.
    pub(crate) fn totals_of(&self, layout: &TotalsLayout, values: &[f32]) -> Result<StepTotals> {
        let (experts, len) = (self.config.num_local_experts, self.balance_len());
        let needed = self.totals_len(layout.group_tokens.len());
        ensure!(
            values.len() >= needed,
            "sums of {} micro-batches are {needed} numbers, found {}",
            layout.group_tokens.len(),
            values.len()
        );
        let mut totals = StepTotals {
            token_loss_sum: f64::from(values[0]),
            expert_counts: vec![0.0; experts],
            ..StepTotals::default()
        };
        for (group_tokens, sums) in layout.group_tokens.iter().zip(values[1..].chunks(2 * len)) {
            let (counts, prob_sums) = sums.split_at(len);
            totals.add(
                group_tokens,
                counts,
                prob_sums,
                self.config.num_hidden_layers,
            );
        }
        Ok(totals)
    }

    /// Begins a new sum of token losses.
    ///
    /// # Errors
    /// If the device fails.
    pub(crate) fn clear_loss(&mut self, device: &D) -> Result<()> {
        match &mut self.training {
            Some(training) => device.clear_single(&mut training.loss, 1),
            None => Ok(()),
        }
    }

    /// Checks a batch against this workspace and the model's sizes, and puts it on the device.
    pub(super) fn upload(&mut self, device: &D, batch: &Batch) -> Result<()> {
        self.check(batch)?;
        device.upload_index(&batch.tokens, &mut self.inputs.tokens)?;
        device.upload_index(&batch.targets, &mut self.inputs.targets)?;
        device.upload_index(&batch.positions, &mut self.inputs.positions)?;
        device.upload_index(&batch.segments, &mut self.inputs.segments)?;
        device.upload_index(&batch.groups, &mut self.inputs.groups)
    }

    fn check(&self, batch: &Batch) -> Result<()> {
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
        Ok(())
    }
}

impl StepTotals {
    /// Adds the router's sums of one micro-batch.
    fn add(&mut self, group_tokens: &[usize], counts: &[f32], prob_sums: &[f32], layers: usize) {
        let experts = self.expert_counts.len();
        let groups = counts.chunks(experts).zip(prob_sums.chunks(experts));
        for (&tokens, (counts, prob_sums)) in group_tokens.iter().zip(groups) {
            self.router_loss_sum += load_balancing_loss(counts, prob_sums, tokens * layers);
            for (total, &count) in self.expert_counts.iter_mut().zip(counts) {
                *total += f64::from(count);
            }
        }
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
