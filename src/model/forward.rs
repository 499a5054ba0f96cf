//! The forward pass: pre-norm blocks of attention and experts on a residual stream.

use super::cache::attend_texts;
use super::parameters::LayerParameters;
use super::workspace::{Inputs, LayerActivations, clear_balance};
use super::{Batch, KvCache, Model, ModelConfig, Workspace};
use crate::ops::{Balance, Device};
use anyhow::{Result, ensure};

/// How a layer's queries find their keys.
pub(super) enum Attend<'a, D: Device> {
    /// Every example of the batch attends to itself.
    Segments(usize),
    /// One text goes on: the layer's keys and values in the cache, and how many are there already.
    Cached {
        cache: &'a mut KvCache<D>,
        past: usize,
    },
    /// Each row is the next token of a text of its own.
    Texts(&'a mut [&'a mut KvCache<D>]),
}

/// Sizes of the pass under way.
#[derive(Clone, Copy)]
pub(super) struct Pass<'a> {
    pub config: &'a ModelConfig,
    pub tokens: usize,
    pub groups: usize,
}

impl<D: Device> Model<D> {
    /// Cross-entropy of each position `[T]`, natural logarithm; 0 where the target carries no loss.
    ///
    /// # Errors
    /// If the batch is malformed or larger than the workspace, or the device fails.
    pub fn losses(
        &self,
        device: &D,
        batch: &Batch,
        workspace: &mut Workspace<D>,
    ) -> Result<Vec<f32>> {
        let count = self.forward_batch(device, batch, workspace)?;
        let config = &self.config;
        device.head_losses(
            &workspace.normed,
            self.parameters.embedding(),
            &workspace.inputs.targets,
            &mut workspace.losses,
            count,
            config.vocab_size,
            config.hidden_size,
        )?;
        device.download_single(&workspace.losses, count)
    }

    /// All logits `[T, V]`: for tests and small inputs, since the whole matrix is made.
    ///
    /// # Errors
    /// If the batch is malformed or larger than the workspace, or the device fails.
    pub fn logits(
        &self,
        device: &D,
        batch: &Batch,
        workspace: &mut Workspace<D>,
    ) -> Result<Vec<f32>> {
        let count = self.forward_batch(device, batch, workspace)?;
        let config = &self.config;
        let mut logits = device.zeros_single(count * config.vocab_size)?;
        device.head_logits(
            &workspace.normed,
            self.parameters.embedding(),
            &mut logits,
            0,
            count,
            config.vocab_size,
            config.hidden_size,
        )?;
        device.download_single(&logits, count * config.vocab_size)
    }

    /// A forward pass that nothing will be differentiated from; returns the number of tokens.
    pub(super) fn forward_batch(
        &self,
        device: &D,
        batch: &Batch,
        workspace: &mut Workspace<D>,
    ) -> Result<usize> {
        self.check_workspace(workspace)?;
        workspace.upload(device, batch)?;
        let pass = Pass {
            config: &self.config,
            tokens: batch.tokens.len(),
            groups: batch.groups.len() - 1,
        };
        self.forward(
            device,
            workspace,
            None,
            pass,
            &mut Attend::Segments(batch.segments.len() - 1),
        )?;
        Ok(pass.tokens)
    }

    /// Appends `tokens` to the cached text and returns the logits `[V]` that follow the last of them. More tokens than
    /// the workspace holds are taken in several passes. After an error the cache is as long as before.
    ///
    /// # Errors
    /// If there are no tokens, the cache is too small, a token is outside the vocabulary, or the device fails.
    pub fn forward_cached(
        &self,
        device: &D,
        tokens: &[u32],
        cache: &mut KvCache<D>,
        workspace: &mut Workspace<D>,
    ) -> Result<Vec<f32>> {
        let config = &self.config;
        self.check_workspace(workspace)?;
        cache.check(config, tokens.len())?;
        super::check::check_tokens(config, tokens)?;
        let mut past = cache.len();
        let mut last = 0;
        for piece in tokens.chunks(workspace.max_tokens) {
            let count = piece.len();
            let positions: Vec<u32> = (past as u32..(past + count) as u32).collect();
            device.upload_index(piece, &mut workspace.inputs.tokens)?;
            device.upload_index(&positions, &mut workspace.inputs.positions)?;
            device.upload_index(&[0, count as u32], &mut workspace.inputs.groups)?;
            let pass = Pass {
                config,
                tokens: count,
                groups: 1,
            };
            self.forward(
                device,
                workspace,
                None,
                pass,
                &mut Attend::Cached { cache, past },
            )?;
            past += count;
            last = count - 1;
        }
        device.head_logits(
            &workspace.normed,
            self.parameters.embedding(),
            &mut workspace.last_logits,
            last,
            1,
            config.vocab_size,
            config.hidden_size,
        )?;
        let logits = device.download_single(&workspace.last_logits, config.vocab_size)?;
        cache.set_len(past);
        Ok(logits)
    }

    /// Appends one token to each of several cached texts in one pass and returns the logits `[texts, V]` that follow. Each
    /// text's are those of [`Model::forward_cached`] with its token alone, to the bit where the device's products do not depend
    /// on the number of rows (the CPU's, up to 64 rows). After an error the caches are as long as before.
    ///
    /// # Errors
    /// If there are no texts, not one token each, more than the workspace holds, caches of unequal capacity or a full one, a token
    /// is outside the vocabulary, or the device fails.
    pub fn forward_texts(
        &self,
        device: &D,
        tokens: &[u32],
        caches: &mut [&mut KvCache<D>],
        workspace: &mut Workspace<D>,
    ) -> Result<Vec<f32>> {
        let config = &self.config;
        let count = tokens.len();
        self.check_workspace(workspace)?;
        self.check_texts(tokens, caches, workspace)?;
        let positions: Vec<u32> = caches.iter().map(|cache| cache.len() as u32).collect();
        device.upload_index(tokens, &mut workspace.inputs.tokens)?;
        device.upload_index(&positions, &mut workspace.inputs.positions)?;
        device.upload_index(&[0, count as u32], &mut workspace.inputs.groups)?;
        let pass = Pass {
            config,
            tokens: count,
            groups: 1,
        };
        // The caches are borrowed for the pass only.
        let mut texts: Vec<&mut KvCache<D>> = caches.iter_mut().map(|cache| &mut **cache).collect();
        self.forward(
            device,
            workspace,
            None,
            pass,
            &mut Attend::Texts(&mut texts),
        )?;
        device.head_logits(
            &workspace.normed,
            self.parameters.embedding(),
            &mut workspace.last_logits,
            0,
            count,
            config.vocab_size,
            config.hidden_size,
        )?;
        let logits = device.download_single(&workspace.last_logits, count * config.vocab_size)?;
        for cache in caches {
            cache.set_len(cache.len() + 1);
        }
        Ok(logits)
    }

    fn check_texts(
        &self,
        tokens: &[u32],
        caches: &[&mut KvCache<D>],
        workspace: &Workspace<D>,
    ) -> Result<()> {
        let (texts, most) = (caches.len(), workspace.max_logit_rows);
        ensure!(
            texts == tokens.len() && (1..=most).contains(&texts),
            "{} tokens for {texts} texts, expected one each of at most {most} texts",
            tokens.len()
        );
        for cache in caches {
            cache.check(&self.config, 1)?;
            ensure!(
                cache.capacity() == caches[0].capacity(),
                "the texts' caches hold {} and {} tokens, expected equal ones",
                caches[0].capacity(),
                cache.capacity()
            );
        }
        super::check::check_tokens(&self.config, tokens)
    }

    /// Runs all layers and the last norm over what lies in `workspace.inputs`. The router's sums go to the training
    /// balance of that number, or to scratch.
    pub(super) fn forward(
        &self,
        device: &D,
        workspace: &mut Workspace<D>,
        training_balance: Option<usize>,
        pass: Pass<'_>,
        attend: &mut Attend<'_, D>,
    ) -> Result<()> {
        let Workspace {
            inputs,
            residuals,
            layers,
            normed,
            normed_inv_rms,
            scratch_balance,
            training,
            ..
        } = workspace;
        let Pass {
            config,
            tokens,
            groups,
        } = pass;
        let balance = match (training, training_balance) {
            (Some(training), Some(index)) => &mut training.balances[index],
            _ => {
                clear_balance(device, scratch_balance, groups * config.num_local_experts)?;
                scratch_balance
            }
        };
        let (vocab, hidden) = (config.vocab_size, config.hidden_size);
        device.embedding_forward(
            self.parameters.embedding(),
            &inputs.tokens,
            &mut residuals[0],
            tokens,
            vocab,
            hidden,
        )?;
        // For inference there is one residual buffer and one set of activations, which every layer overwrites.
        let (residual_count, kept) = (residuals.len(), layers.len());
        for layer in 0..config.num_hidden_layers {
            let weights = self.parameters.layer(layer)?;
            let activations = &mut layers[layer % kept];
            let residual = &residuals[layer % residual_count];
            attention_block(
                device,
                pass,
                &weights,
                inputs,
                residual,
                activations,
                attend,
                layer,
            )?;
            let next = &mut residuals[(layer + 1) % residual_count];
            experts_block(device, pass, &weights, inputs, activations, balance, next)?;
        }
        let last = &residuals[config.num_hidden_layers % residual_count];
        let epsilon = config.rms_norm_eps;
        device.rmsnorm_forward(
            last,
            self.parameters.final_norm(),
            epsilon,
            normed,
            normed_inv_rms,
            tokens,
            hidden,
        )
    }

    /// Refuses a workspace made for other sizes, whose buffers would be too short or, worse, long enough.
    pub(super) fn check_workspace(&self, workspace: &Workspace<D>) -> Result<()> {
        ensure!(
            workspace.config == self.config,
            "the workspace was made for {:?}, the model is {:?}",
            workspace.config,
            self.config
        );
        Ok(())
    }
}

/// `middle = residual + Wo attention(rope(Wqkv rmsnorm(residual)))`
#[allow(clippy::too_many_arguments)]
fn attention_block<D: Device>(
    device: &D,
    pass: Pass<'_>,
    weights: &LayerParameters<&D::Float>,
    inputs: &Inputs<D>,
    residual: &D::Float,
    activations: &mut LayerActivations<D>,
    attend: &mut Attend<'_, D>,
    layer: usize,
) -> Result<()> {
    let Pass { config, tokens, .. } = pass;
    let (shape, hidden) = (config.attention_shape(), config.hidden_size);
    let LayerActivations {
        attention_input,
        attention_inv_rms,
        qkv,
        attention,
        log_sum,
        middle,
        ..
    } = activations;
    let epsilon = config.rms_norm_eps;
    device.rmsnorm_forward(
        residual,
        weights.input_norm,
        epsilon,
        attention_input,
        attention_inv_rms,
        tokens,
        hidden,
    )?;
    device.linear_forward(
        attention_input,
        weights.qkv,
        None,
        qkv,
        tokens,
        hidden,
        shape.qkv_size(),
    )?;
    device.rope_forward(qkv, &inputs.positions, config.rope_theta, &shape, tokens)?;
    match attend {
        Attend::Segments(count) => {
            device.attention_forward(
                qkv,
                &inputs.segments,
                attention,
                log_sum,
                &shape,
                *count,
                tokens,
            )?;
        }
        Attend::Cached { cache, past } => {
            cache.attend(device, layer, qkv, attention, &shape, *past, tokens)?
        }
        Attend::Texts(caches) => attend_texts(caches, device, layer, qkv, attention, &shape)?,
    }
    device.linear_forward(
        attention,
        weights.attention_out,
        Some(residual),
        middle,
        tokens,
        shape.out_size(),
        hidden,
    )
}

/// `next = middle + experts(rmsnorm(middle))`
fn experts_block<D: Device>(
    device: &D,
    pass: Pass<'_>,
    weights: &LayerParameters<&D::Float>,
    inputs: &Inputs<D>,
    activations: &mut LayerActivations<D>,
    balance: &mut Balance<D>,
    next: &mut D::Float,
) -> Result<()> {
    let Pass {
        config,
        tokens,
        groups,
    } = pass;
    let shape = config.moe_shape();
    let LayerActivations {
        middle,
        moe_input,
        moe_inv_rms,
        routing,
        gate_up,
        ..
    } = activations;
    let epsilon = config.rms_norm_eps;
    device.rmsnorm_forward(
        middle,
        weights.post_attention_norm,
        epsilon,
        moe_input,
        moe_inv_rms,
        tokens,
        shape.hidden,
    )?;
    device.router_forward(
        moe_input,
        weights.router,
        routing,
        balance,
        &inputs.groups,
        groups,
        &shape,
        tokens,
    )?;
    device.experts_forward(
        moe_input,
        routing,
        weights.w13,
        weights.w2,
        middle,
        gate_up,
        next,
        &shape,
        tokens,
    )
}
