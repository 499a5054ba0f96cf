//! The backward pass, the forward pass read from the end. `grad_residual` is the gradient of the
//! residual stream at the point reached; each block adds what flows through it, the skip connection
//! needs nothing.

use super::forward::{KvSource, Pass};
use super::parameters::LayerParameters;
use super::workspace::{DeviceBatch, Inputs, LayerActivations, Training, clear_balance};
use super::{Batch, Model, Parameters, Workspace};
use crate::ops::{
    AttentionBackward, Buffer, Device, EmbeddingBackward, ExpertsBackward, HeadLoss,
    LinearBackwardInput, LinearBackwardWeight, Offsets, Operations, Planner, RmsNormBackward,
    RopeBackward, RouterBackward, issue,
};
use anyhow::{Result, bail, ensure};

/// Factors of the two losses of one micro-batch, so that a step's gradient does not depend on how
/// it was cut.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepScales {
    /// 1 / counted targets of the whole accumulation.
    pub token: f32,
    /// `router_aux_loss_coef` / number of logical batches in the accumulation.
    pub balance: f32,
}

impl<D: Operations + Planner> Model<D> {
    /// Adds the gradient of `scales.token * sum of token losses + scales.balance * sum of router
    /// losses` to `gradients`, and the unscaled sums to what [`Workspace::totals`] will return.
    /// Never waits for the device.
    ///
    /// # Errors
    /// If the batch is malformed or larger than the workspace, the workspace is for inference,
    /// `gradients` belong to a model of other sizes, or the device fails. After an error,
    /// `gradients` may be half updated.
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

    /// The first half of [`Model::forward_backward`]: everything that changes from one batch to the
    /// next goes to the device.
    ///
    /// # Errors
    /// If the batch is malformed or larger than the workspace, the workspace is for inference, or
    /// the device fails.
    pub(crate) fn upload_batch(
        &self,
        device: &D,
        batch: &Batch,
        workspace: &mut Workspace<D>,
        scales: StepScales,
    ) -> Result<DeviceBatch> {
        self.check_workspace(workspace)?;
        workspace.upload_batch(device, batch, scales.token, scales.balance)
    }
}

impl<D: Operations> Model<D> {
    /// The second half: the arithmetic on what was uploaded last. It only issues operations, the
    /// same ones for equal `uploaded`.
    ///
    /// # Errors
    /// As [`Model::forward_backward`].
    pub(crate) fn forward_backward_uploaded(
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
        let source = &mut KvSource::Segments(segments);
        self.forward(device, workspace, Some(balance), pass, source)?;

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
        let config = &self.config;
        let (vocab, hidden) = (config.vocab_size, config.hidden_size);
        issue(
            device,
            HeadLoss {
                x: normed.matrix(tokens, hidden),
                table: self.parameters.embedding().matrix(vocab, hidden),
                targets: inputs.targets.vector(tokens),
                scale: inputs.token_scale.vector(1),
                loss: training.loss.vector_mut(1),
                grad_x: training.grad_normed.matrix_mut(tokens, hidden),
                grad_table: gradients.embedding_mut().matrix_mut(vocab, hidden),
            },
        )?;
        device.clear_float(&mut training.grad_residual, tokens * hidden)?;
        issue(
            device,
            RmsNormBackward {
                grad_out: training.grad_normed.matrix(tokens, hidden),
                x: residuals[config.num_hidden_layers].matrix(tokens, hidden),
                weight: self.parameters.final_norm().vector(hidden),
                inv_rms: normed_inv_rms.vector(tokens),
                grad_x: training.grad_residual.matrix_mut(tokens, hidden),
                grad_weight: gradients.final_norm_mut().vector_mut(hidden),
            },
        )?;
        for index in (0..config.num_hidden_layers).rev() {
            let mut layer = Layer {
                device,
                pass,
                uploaded,
                inputs,
                weights: self.parameters.layer(index)?,
                grads: gradients.layer_mut(index)?,
                activations: &layers[index],
                training,
            };
            layer.experts()?;
            layer.attention(&residuals[index])?;
        }
        // The table's gradient as head is already there: both uses of the tied weight add up.
        issue(
            device,
            EmbeddingBackward {
                grad_out: training.grad_residual.matrix(tokens, hidden),
                tokens: inputs.tokens.vector(tokens),
                grad_table: gradients.embedding_mut().matrix_mut(vocab, hidden),
            },
        )
    }
}

/// One layer of a pass, with the gradients of its weights.
struct Layer<'a, D: Device> {
    device: &'a D,
    pass: Pass<'a>,
    uploaded: &'a DeviceBatch,
    inputs: &'a Inputs<D>,
    weights: LayerParameters<&'a D::Float>,
    grads: LayerParameters<&'a mut D::Float>,
    activations: &'a LayerActivations<D>,
    training: &'a mut Training<D>,
}

impl<D: Operations> Layer<'_, D> {
    /// Backward of `next = middle + experts(rmsnorm(middle))`, router and load-balancing loss
    /// included.
    fn experts(&mut self) -> Result<()> {
        let (device, weights, grads) = (self.device, &self.weights, &mut self.grads);
        let Pass {
            config,
            tokens,
            groups,
        } = self.pass;
        let shape = config.moe_shape();
        let (hidden, experts) = (shape.hidden, shape.experts);
        let (inner, slots) = (shape.intermediate, tokens * shape.top_k);
        let LayerActivations {
            middle,
            moe_input,
            moe_inv_rms,
            routing,
            gate_up,
            ..
        } = self.activations;
        let Training {
            grad_residual,
            grad_normed,
            grad_weights,
            balances,
            ..
        } = &mut *self.training;
        issue(
            device,
            ExpertsBackward {
                grad_out: grad_residual.matrix(tokens, hidden),
                x: moe_input.matrix(tokens, hidden),
                routing,
                w13: weights.w13.matrix(experts * 2 * inner, hidden),
                w2: weights.w2.matrix(experts * hidden, inner),
                gate_up: gate_up.matrix(slots, 2 * inner),
                grad_x: grad_normed.matrix_mut(tokens, hidden),
                grad_w13: grads.w13.matrix_mut(experts * 2 * inner, hidden),
                grad_w2: grads.w2.matrix_mut(experts * hidden, inner),
                grad_weights: grad_weights.matrix_mut(tokens, shape.top_k),
                shape,
            },
        )?;
        issue(
            device,
            RouterBackward {
                grad_weights: grad_weights.matrix(tokens, shape.top_k),
                x: moe_input.matrix(tokens, hidden),
                weight: weights.router.matrix(experts, hidden),
                routing,
                balance: &balances[self.uploaded.balance],
                groups: Offsets::new(&self.inputs.groups, groups),
                layers: config.num_hidden_layers,
                balance_scale: f32::from_bits(self.uploaded.balance_scale),
                grad_x: grad_normed.matrix_mut(tokens, hidden),
                grad_weight: grads.router.matrix_mut(experts, hidden),
                shape,
            },
        )?;
        issue(
            device,
            RmsNormBackward {
                grad_out: grad_normed.matrix(tokens, hidden),
                x: middle.matrix(tokens, hidden),
                weight: weights.post_attention_norm.vector(hidden),
                inv_rms: moe_inv_rms.vector(tokens),
                grad_x: grad_residual.matrix_mut(tokens, hidden),
                grad_weight: grads.post_attention_norm.vector_mut(hidden),
            },
        )
    }

    /// Backward of `middle = residual + Wo attention(rope(Wqkv rmsnorm(residual)))`.
    fn attention(&mut self, residual: &D::Float) -> Result<()> {
        let device = self.device;
        let Pass { config, tokens, .. } = self.pass;
        let (shape, hidden) = (config.attention_shape(), config.hidden_size);
        let out_size = shape.out_size();
        let grad_middle = self.training.grad_residual.matrix(tokens, hidden);
        issue(
            device,
            LinearBackwardInput {
                grad_y: grad_middle,
                weight: self.weights.attention_out.matrix(hidden, out_size),
                grad_x: self.training.grad_attention.matrix_mut(tokens, out_size),
                accumulate: false,
            },
        )?;
        issue(
            device,
            LinearBackwardWeight {
                grad_y: grad_middle,
                x: self.activations.attention.matrix(tokens, out_size),
                grad_weight: self.grads.attention_out.matrix_mut(hidden, out_size),
            },
        )?;
        self.attend()?;
        self.project(residual)
    }

    /// Backward of `attention(rope(qkv))`.
    fn attend(&mut self) -> Result<()> {
        let Pass { config, tokens, .. } = self.pass;
        let shape = config.attention_shape();
        let (qkv_size, out_size) = (shape.qkv_size(), shape.out_size());
        let LayerActivations {
            qkv,
            attention,
            log_sum,
            ..
        } = self.activations;
        let Training {
            grad_attention,
            grad_qkv,
            ..
        } = &mut *self.training;
        issue(
            self.device,
            AttentionBackward {
                grad_out: grad_attention.matrix(tokens, out_size),
                qkv: qkv.matrix(tokens, qkv_size),
                out: attention.matrix(tokens, out_size),
                log_sum: log_sum.matrix(tokens, shape.heads),
                segments: Offsets::new(&self.inputs.segments, self.uploaded.segments),
                grad_qkv: grad_qkv.matrix_mut(tokens, qkv_size),
                shape,
            },
        )?;
        issue(
            self.device,
            RopeBackward {
                grad_qkv: grad_qkv.matrix_mut(tokens, qkv_size),
                positions: self.inputs.positions.vector(tokens),
                theta: config.rope_theta,
                shape,
            },
        )
    }

    /// Backward of `qkv = Wqkv rmsnorm(residual)`.
    fn project(&mut self, residual: &D::Float) -> Result<()> {
        let (device, weights, grads) = (self.device, &self.weights, &mut self.grads);
        let Pass { config, tokens, .. } = self.pass;
        let (qkv_size, hidden) = (config.attention_shape().qkv_size(), config.hidden_size);
        let LayerActivations {
            attention_input,
            attention_inv_rms,
            ..
        } = self.activations;
        let Training {
            grad_residual,
            grad_normed,
            grad_qkv,
            ..
        } = &mut *self.training;
        issue(
            device,
            LinearBackwardInput {
                grad_y: grad_qkv.matrix(tokens, qkv_size),
                weight: weights.qkv.matrix(qkv_size, hidden),
                grad_x: grad_normed.matrix_mut(tokens, hidden),
                accumulate: false,
            },
        )?;
        issue(
            device,
            LinearBackwardWeight {
                grad_y: grad_qkv.matrix(tokens, qkv_size),
                x: attention_input.matrix(tokens, hidden),
                grad_weight: grads.qkv.matrix_mut(qkv_size, hidden),
            },
        )?;
        issue(
            device,
            RmsNormBackward {
                grad_out: grad_normed.matrix(tokens, hidden),
                x: residual.matrix(tokens, hidden),
                weight: weights.input_norm.vector(hidden),
                inv_rms: attention_inv_rms.vector(tokens),
                grad_x: grad_residual.matrix_mut(tokens, hidden),
                grad_weight: grads.input_norm.vector_mut(hidden),
            },
        )
    }
}
