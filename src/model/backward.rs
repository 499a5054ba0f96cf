//! The backward pass, the forward pass read from the end. `grad_residual` is the gradient of the residual stream at the
//! point reached; each block adds what flows through it, the skip connection needs nothing.

use super::forward::{Attend, Pass};
use super::parameters::LayerParameters;
use super::workspace::{DeviceBatch, Inputs, LayerActivations, Training, clear_balance};
use super::{Batch, Model, Parameters, Workspace};
use crate::ops::Device;
use anyhow::{Result, bail, ensure};

/// Factors of the two losses of one micro-batch, so that a step's gradient does not depend on how it was cut.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepScales {
    /// 1 / counted targets of the whole accumulation.
    pub token: f32,
    /// `router_aux_loss_coef` / number of logical batches in the accumulation.
    pub balance: f32,
}

impl<D: Device> Model<D> {
    /// Adds the gradient of `scales.token * sum of token losses + scales.balance * sum of router losses` to `gradients`,
    /// and the unscaled sums to what [`Workspace::totals`] will return. Never waits for the device.
    ///
    /// # Errors
    /// If the batch is malformed or larger than the workspace, the workspace is for inference, `gradients` belong to a
    /// model of other sizes, or the device fails. After an error, `gradients` may be half updated.
    pub fn forward_backward(
        &self,
        device: &D,
        batch: &Batch,
        workspace: &mut Workspace<D>,
        gradients: &mut Parameters<D>,
        scales: StepScales,
    ) -> Result<()> {
        let uploaded = self.upload_batch(device, batch, workspace, scales)?;
        self.forward_backward_uploaded(device, &uploaded, workspace, gradients)
    }

    /// The first half of [`Model::forward_backward`]: everything that changes from one batch to the next goes to the device.
    ///
    /// # Errors
    /// If the batch is malformed or larger than the workspace, the workspace is for inference, or the device fails.
    pub fn upload_batch(
        &self,
        device: &D,
        batch: &Batch,
        workspace: &mut Workspace<D>,
        scales: StepScales,
    ) -> Result<DeviceBatch> {
        self.check_workspace(workspace)?;
        workspace.upload_batch(device, batch, scales.token, scales.balance)
    }

    /// The second half: the arithmetic on what was uploaded last. It only issues operations, the same ones for equal `uploaded`.
    ///
    /// # Errors
    /// As [`Model::forward_backward`].
    pub fn forward_backward_uploaded(
        &self,
        device: &D,
        uploaded: &DeviceBatch,
        workspace: &mut Workspace<D>,
        gradients: &mut Parameters<D>,
    ) -> Result<()> {
        self.check_workspace(workspace)?;
        ensure!(
            gradients.specs == self.parameters.specs,
            "the gradients belong to a model of other sizes"
        );
        let Some(training) = &mut workspace.training else {
            bail!("the workspace was made for inference, expected one for training");
        };
        let &DeviceBatch {
            tokens,
            segments,
            groups,
            balance,
            ..
        } = uploaded;
        let balance_scale = f32::from_bits(uploaded.balance_scale);
        clear_balance(
            device,
            &mut training.balances[balance],
            workspace.max_groups * self.config.num_local_experts,
        )?;
        let pass = Pass {
            config: &self.config,
            tokens,
            groups,
        };
        self.forward(
            device,
            workspace,
            Some(balance),
            pass,
            &mut Attend::Segments(segments),
        )?;

        let Workspace {
            inputs,
            residuals,
            layers,
            normed,
            normed_inv_rms,
            training: Some(training),
            ..
        } = workspace
        else {
            bail!("the workspace was made for inference, expected one for training");
        };
        self.head_backward(device, pass, inputs, normed, training, gradients)?;
        let (vocab, hidden) = (self.config.vocab_size, self.config.hidden_size);
        device.clear_float(&mut training.grad_residual, tokens * hidden)?;
        device.rmsnorm_backward(
            &training.grad_normed,
            &residuals[self.config.num_hidden_layers],
            self.parameters.final_norm(),
            normed_inv_rms,
            &mut training.grad_residual,
            gradients.final_norm_mut(),
            tokens,
            hidden,
        )?;
        for layer in (0..self.config.num_hidden_layers).rev() {
            let weights = self.parameters.layer(layer)?;
            let mut grads = gradients.layer_mut(layer)?;
            let activations = &layers[layer];
            experts_block(
                device,
                pass,
                inputs,
                &weights,
                &mut grads,
                activations,
                training,
                balance,
                balance_scale,
            )?;
            attention_block(
                device,
                pass,
                inputs,
                segments,
                &weights,
                &mut grads,
                &residuals[layer],
                activations,
                training,
            )?;
        }
        // The table's gradient as head is already there: both uses of the tied weight add up.
        let grad_table = gradients.embedding_mut();
        device.embedding_backward(
            &training.grad_residual,
            &inputs.tokens,
            grad_table,
            tokens,
            vocab,
            hidden,
        )
    }

    /// Loss, and its gradient at the last norm's output.
    #[allow(clippy::too_many_arguments)]
    fn head_backward(
        &self,
        device: &D,
        pass: Pass<'_>,
        inputs: &Inputs<D>,
        normed: &D::Float,
        training: &mut Training<D>,
        gradients: &mut Parameters<D>,
    ) -> Result<()> {
        device.head_loss(
            normed,
            self.parameters.embedding(),
            &inputs.targets,
            &inputs.token_scale,
            &mut training.loss,
            &mut training.grad_normed,
            gradients.embedding_mut(),
            pass.tokens,
            self.config.vocab_size,
            self.config.hidden_size,
        )
    }
}

/// Backward of `next = middle + experts(rmsnorm(middle))`, router and load-balancing loss included.
#[allow(clippy::too_many_arguments)]
fn experts_block<D: Device>(
    device: &D,
    pass: Pass<'_>,
    inputs: &Inputs<D>,
    weights: &LayerParameters<&D::Float>,
    grads: &mut LayerParameters<&mut D::Float>,
    activations: &LayerActivations<D>,
    training: &mut Training<D>,
    balance: usize,
    balance_scale: f32,
) -> Result<()> {
    let (shape, tokens) = (pass.config.moe_shape(), pass.tokens);
    let LayerActivations {
        middle,
        moe_input,
        moe_inv_rms,
        routing,
        gate_up,
        ..
    } = activations;
    let Training {
        grad_residual,
        grad_normed,
        grad_weights,
        balances,
        ..
    } = training;
    device.experts_backward(
        grad_residual,
        moe_input,
        routing,
        weights.w13,
        weights.w2,
        gate_up,
        grad_normed,
        grads.w13,
        grads.w2,
        grad_weights,
        &shape,
        tokens,
    )?;
    device.router_backward(
        grad_weights,
        moe_input,
        weights.router,
        routing,
        &balances[balance],
        &inputs.groups,
        pass.groups,
        pass.config.num_hidden_layers,
        balance_scale,
        grad_normed,
        grads.router,
        &shape,
        tokens,
    )?;
    device.rmsnorm_backward(
        grad_normed,
        middle,
        weights.post_attention_norm,
        moe_inv_rms,
        grad_residual,
        grads.post_attention_norm,
        tokens,
        shape.hidden,
    )
}

/// Backward of `middle = residual + Wo attention(rope(Wqkv rmsnorm(residual)))`.
#[allow(clippy::too_many_arguments)]
fn attention_block<D: Device>(
    device: &D,
    pass: Pass<'_>,
    inputs: &Inputs<D>,
    segments: usize,
    weights: &LayerParameters<&D::Float>,
    grads: &mut LayerParameters<&mut D::Float>,
    residual: &D::Float,
    activations: &LayerActivations<D>,
    training: &mut Training<D>,
) -> Result<()> {
    let (shape, tokens, hidden) = (
        pass.config.attention_shape(),
        pass.tokens,
        pass.config.hidden_size,
    );
    let (q, qkv_size) = (shape.out_size(), shape.qkv_size());
    let LayerActivations {
        attention_input,
        attention_inv_rms,
        qkv,
        attention,
        log_sum,
        ..
    } = activations;
    let Training {
        grad_residual,
        grad_normed,
        grad_attention,
        grad_qkv,
        ..
    } = training;
    device.linear_backward_weight(
        grad_residual,
        attention,
        grads.attention_out,
        tokens,
        q,
        hidden,
    )?;
    device.linear_backward_input(
        grad_residual,
        weights.attention_out,
        grad_attention,
        false,
        tokens,
        q,
        hidden,
    )?;
    device.attention_backward(
        grad_attention,
        qkv,
        attention,
        log_sum,
        &inputs.segments,
        grad_qkv,
        &shape,
        segments,
        tokens,
    )?;
    device.rope_backward(
        grad_qkv,
        &inputs.positions,
        pass.config.rope_theta,
        &shape,
        tokens,
    )?;
    device.linear_backward_weight(
        grad_qkv,
        attention_input,
        grads.qkv,
        tokens,
        hidden,
        qkv_size,
    )?;
    device.linear_backward_input(
        grad_qkv,
        weights.qkv,
        grad_normed,
        false,
        tokens,
        hidden,
        qkv_size,
    )?;
    device.rmsnorm_backward(
        grad_normed,
        residual,
        weights.input_norm,
        attention_inv_rms,
        grad_residual,
        grads.input_norm,
        tokens,
        hidden,
    )
}
