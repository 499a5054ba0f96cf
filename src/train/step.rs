//! One optimizer step: gradients over the accumulation, whatever the physical micro-batch, and one update.

use anyhow::{Context, Result, ensure};

use crate::model::{Batch, Model, Parameters, StepScales, Workspace};
use crate::ops::{Device, MemoryClass, allocating};
use crate::train::optimizer::AdamW;
use crate::train::settings::TrainSettings;

/// What a step computes with.
pub struct Engine<D: Device> {
    /// The weights.
    pub model: Model<D>,
    /// Their gradients, cleared at each step.
    pub gradients: Parameters<D>,
    /// Moments and master weights.
    pub optimizer: AdamW<D>,
    /// Activations of one micro-batch.
    pub workspace: Workspace<D>,
}

/// What a step showed.
#[derive(Clone, Debug)]
pub struct StepResult {
    /// Positions computed.
    pub tokens: u64,
    /// Mean loss of the counted tokens, in nats.
    pub loss: f64,
    /// Mean load-balancing loss of the logical batches, before its coefficient.
    pub router_loss: f64,
    /// Norm of the gradient before clipping; not finite: the weights are unchanged.
    pub grad_norm: f32,
    /// Share of (token, choice) pairs that went to each expert.
    pub expert_share: Vec<f64>,
}

impl<D: Device> Engine<D> {
    /// Gradients, zeroed moments and activations for a model, sized for micro-batches of `micro_batch` logical batches.
    ///
    /// # Errors
    /// When the device has no memory for them.
    pub fn new(
        device: &D,
        model: Model<D>,
        settings: &TrainSettings,
        micro_batch: usize,
    ) -> Result<Self> {
        let micro_batch = micro_batch.min(settings.gradient_accumulation_steps);
        let tokens = micro_batch * settings.batch_size * settings.max_length;
        // An example has at least one position, so there are never more examples than tokens.
        let workspace = Workspace::new(device, &model.config, tokens, tokens, micro_batch)
            .with_context(|| format!("activations of {tokens} tokens"))?;
        Ok(Self {
            gradients: allocating(device, MemoryClass::Gradients, || {
                Parameters::zeros(device, &model.config)
            })?,
            optimizer: AdamW::new(device, &model.parameters)?,
            model,
            workspace,
        })
    }

    /// One step over logical batches, `micro_batch` of them at a time. Its result does not depend on `micro_batch`, except
    /// for rounding.
    ///
    /// # Errors
    /// When there is nothing to learn from in the batches, or the device fails.
    pub fn step(
        &mut self,
        device: &D,
        batches: &[Batch],
        micro_batch: usize,
        settings: &TrainSettings,
        step: u64,
        learning_rate: f32,
    ) -> Result<StepResult> {
        let counted: usize = batches.iter().map(Batch::counted_targets).sum();
        ensure!(
            counted > 0,
            "step {step} has no token that carries loss; with --loss-on answers every example needs an answer within --max-length {}",
            settings.max_length
        );
        let scales = StepScales {
            token: 1.0 / counted as f32,
            balance: self.model.config.router_aux_loss_coef / batches.len() as f32,
        };
        self.gradients.clear(device)?;
        for part in batches.chunks(micro_batch) {
            self.model.forward_backward(
                device,
                &Batch::concat(part)?,
                &mut self.workspace,
                &mut self.gradients,
                scales,
            )?;
        }
        let grad_norm = self.optimizer.step(
            device,
            &mut self.model.parameters,
            &self.gradients,
            settings,
            step,
            learning_rate,
        )?;
        let totals = self.workspace.totals(device)?;
        let routed: f64 = totals.expert_counts.iter().sum();
        Ok(StepResult {
            tokens: batches.iter().map(|batch| batch.tokens.len() as u64).sum(),
            loss: totals.token_loss_sum / counted as f64,
            router_loss: totals.router_loss_sum / batches.len() as f64,
            grad_norm,
            expert_share: totals
                .expert_counts
                .iter()
                .map(|count| count / routed)
                .collect(),
        })
    }

    /// Mean loss per counted token over `batches`, in nats; `None` when none is counted.
    ///
    /// # Errors
    /// When the device fails.
    pub fn validate(&mut self, device: &D, batches: &[Batch]) -> Result<Option<f64>> {
        let (mut sum, mut counted) = (0.0, 0);
        for batch in batches {
            let losses = self.model.losses(device, batch, &mut self.workspace)?;
            sum += losses.iter().map(|&loss| f64::from(loss)).sum::<f64>();
            counted += batch.counted_targets();
        }
        Ok((counted > 0).then(|| sum / counted as f64))
    }
}
