//! One optimizer step: gradients over the accumulation, whatever the physical micro-batch, and one
//! update. Steps are issued without waiting for their results, which are kept on the device until
//! somebody looks.

use anyhow::{Context, Result, bail, ensure};

use crate::model::{Batch, Model, Parameters, StepScales, TotalsLayout, Workspace};
use crate::ops::{MemoryClass, Operations, Planner, Recorder, allocating};
use crate::train::graphs::{GraphKey, Graphs};
use crate::train::optimizer::AdamW;
use crate::train::settings::{HISTORY, TrainSettings};

/// What a step computes with.
pub struct Engine<D: Recorder> {
    /// The weights.
    pub model: Model<D>,
    /// Their gradients: zeros between steps, because the update clears what it has used.
    pub gradients: Parameters<D>,
    /// Whether a step began and failed: the gradients are those of a part of it.
    unfinished: bool,
    /// Moments and master weights.
    pub optimizer: AdamW<D>,
    /// Activations of one micro-batch.
    pub workspace: Workspace<D>,
    settings: TrainSettings,
    micro_batch: usize,
    graphs: Graphs<GraphKey, D::Graph>,
    /// Results of the steps in `pending`, `result_len` numbers each.
    history: D::Single,
    result_len: usize,
    pending: Vec<Pending>,
}

/// What the host knows of a step whose results it has not seen.
struct Pending {
    tokens: u64,
    counted: usize,
    logical_batches: usize,
    totals: TotalsLayout,
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

impl<D: Operations + Recorder + Planner> Engine<D> {
    /// Gradients, zeroed moments and activations for a model with these `weights` (one vector per
    /// fused parameter), sized for micro-batches of `micro_batch` logical batches.
    ///
    /// # Errors
    /// When the device has no memory for them.
    pub fn new(
        device: &D,
        model: Model<D>,
        weights: &[Vec<f32>],
        settings: &TrainSettings,
        micro_batch: usize,
    ) -> Result<Self> {
        let micro_batch = micro_batch.min(settings.gradient_accumulation_steps);
        let tokens = micro_batch * settings.batch_size * settings.max_length;
        // An example has at least one position, so there are never more examples than tokens.
        let mut workspace = Workspace::new(device, &model.config, tokens, tokens, micro_batch)
            .with_context(|| format!("activations of {tokens} tokens"))?;
        let micro_batches = settings.gradient_accumulation_steps.div_ceil(micro_batch);
        workspace.reserve(device, micro_batches)?;
        // The norm stands before the sums.
        let result_len = 1 + workspace.totals_len(micro_batches);
        Ok(Self {
            gradients: allocating(device, MemoryClass::Gradients, || {
                Parameters::zeros(device, &model.config)
            })?,
            optimizer: AdamW::new(device, &model.config, weights)?,
            model,
            unfinished: false,
            workspace,
            settings: settings.clone(),
            micro_batch,
            graphs: Graphs::default(),
            history: allocating(device, MemoryClass::Activations, || {
                device.zeros_single(result_len * HISTORY)
            })?,
            result_len,
            pending: Vec::new(),
        })
    }

    /// Issues one step over logical batches, `micro_batch` of them at a time, and returns without
    /// waiting. Its result does not depend on `micro_batch`, except for rounding.
    ///
    /// # Errors
    /// When there is nothing to learn from in the batches, the results of earlier steps fill the
    /// history, or the device fails.
    pub fn issue(
        &mut self,
        device: &D,
        batches: &[Batch],
        step: u64,
        learning_rate: f32,
    ) -> Result<()> {
        let counted: usize = batches.iter().map(Batch::counted_targets).sum();
        ensure!(
            counted > 0,
            "step {step} has no token that carries loss; with --loss-on answers every example \
             needs an answer within --max-length {}",
            self.settings.max_length
        );
        ensure!(
            self.pending.len() < HISTORY,
            "step {step}: the results of {} steps wait to be collected, and there is no room for \
             more",
            self.pending.len()
        );
        let scales = StepScales {
            token: 1.0 / counted as f32,
            balance: self.model.config.router_aux_loss_coef / batches.len() as f32,
        };
        self.optimizer.set_rate(device, learning_rate)?;
        if std::mem::replace(&mut self.unfinished, true) {
            self.gradients.clear(device)?;
        }
        let micro_batches = batches.chunks(self.micro_batch);
        let count = micro_batches.len();
        for (index, logical) in micro_batches.enumerate() {
            let batch = Batch::concat(logical)?;
            let batch = self
                .model
                .upload_batch(device, &batch, &mut self.workspace, scales)?;
            self.run(
                device,
                GraphKey {
                    batch,
                    first: index == 0,
                    last: index + 1 == count,
                },
            )?;
        }
        self.unfinished = false;
        let at = self.pending.len() * self.result_len;
        self.optimizer.copy_norm(device, &mut self.history, at)?;
        let totals = self
            .workspace
            .copy_totals(device, &mut self.history, at + 1)?;
        self.pending.push(Pending {
            tokens: batches.iter().map(|batch| batch.tokens.len() as u64).sum(),
            counted,
            logical_batches: batches.len(),
            totals,
        });
        Ok(())
    }

    /// A micro-batch's share of the step. All of it is the same for equal keys, so a device may
    /// record it.
    fn run(&mut self, device: &D, key: GraphKey) -> Result<()> {
        let Self {
            model,
            gradients,
            optimizer,
            workspace,
            settings,
            graphs,
            ..
        } = self;
        graphs.run(device, key, &mut || {
            if key.first {
                workspace.clear_loss(device)?;
            }
            model.forward_backward_uploaded(device, &key.batch, workspace, gradients)?;
            if key.last {
                optimizer.update(device, &mut model.parameters, gradients, settings)?;
            }
            Ok(())
        })
    }

    /// The results of all steps issued since the last call, in their order. This is the only place
    /// where training waits for the device.
    ///
    /// # Errors
    /// When the device fails.
    pub fn collect(&mut self, device: &D) -> Result<Vec<StepResult>> {
        let pending = std::mem::take(&mut self.pending);
        if pending.is_empty() {
            return Ok(Vec::new());
        }
        let values = device.download_single(&self.history, pending.len() * self.result_len)?;
        let results = values.chunks(self.result_len);
        pending
            .into_iter()
            .zip(results)
            .map(|(step, values)| {
                let totals = self.workspace.totals_of(&step.totals, &values[1..])?;
                let routed: f64 = totals.expert_counts.iter().sum();
                Ok(StepResult {
                    tokens: step.tokens,
                    loss: totals.token_loss_sum / step.counted as f64,
                    router_loss: totals.router_loss_sum / step.logical_batches as f64,
                    grad_norm: values[0],
                    expert_share: totals
                        .expert_counts
                        .iter()
                        .map(|count| count / routed)
                        .collect(),
                })
            })
            .collect()
    }

    /// One step, and its result.
    ///
    /// # Errors
    /// As [`Engine::issue`] and [`Engine::collect`]; or when results of earlier steps were not
    /// collected.
    pub fn step(
        &mut self,
        device: &D,
        batches: &[Batch],
        step: u64,
        learning_rate: f32,
    ) -> Result<StepResult> {
        self.issue(device, batches, step, learning_rate)?;
        match <[StepResult; 1]>::try_from(self.collect(device)?) {
            Ok([result]) => Ok(result),
            Err(results) => bail!(
                "step {step}: {} earlier results were not collected",
                results.len().saturating_sub(1)
            ),
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ModelConfig, random_weights};
    use crate::ops::cpu::CpuDevice;
    use crate::train::Stage;

    fn engine(device: &CpuDevice) -> Engine<CpuDevice> {
        let config = ModelConfig {
            vocab_size: 50,
            hidden_size: 16,
            intermediate_size: 24,
            num_hidden_layers: 1,
            num_attention_heads: 2,
            num_key_value_heads: 1,
            head_dim: 8,
            num_local_experts: 2,
            num_experts_per_tok: 1,
            max_position_embeddings: 8,
            ..ModelConfig::default_47m()
        };
        let settings = TrainSettings {
            batch_size: 1,
            max_length: 8,
            gradient_accumulation_steps: 2,
            ..TrainSettings::preset(Stage::Massive)
        };
        let weights = random_weights(&config, 5);
        let parameters = Parameters::upload(device, &config, &weights).unwrap();
        let model = Model::new(config, parameters).unwrap();
        Engine::new(device, model, &weights, &settings, 1).unwrap()
    }

    fn batch(tokens: [u32; 4]) -> Batch {
        let mut batch = Batch::new();
        batch.push_segment(&tokens, &[1, 2, 3, 4]).unwrap();
        batch
    }

    #[test]
    fn gradients_are_zero_after_a_step_and_a_failed_step_leaves_none() {
        let device = CpuDevice::new();
        let good = [batch([5, 6, 7, 8]), batch([9, 10, 11, 12])];
        let mut whole = engine(&device);
        let expected = whole.step(&device, &good, 1, 1e-3).unwrap();
        for gradient in &whole.gradients.values {
            assert!(gradient.iter().all(|&value| value == 0.0));
        }
        // The second micro-batch has a token that the model does not know.
        let mut failing = engine(&device);
        let broken = [batch([20, 21, 22, 23]), batch([9, 10, 99, 12])];
        failing.step(&device, &broken, 1, 1e-3).unwrap_err();
        failing.workspace.totals(&device).unwrap();
        let found = failing.step(&device, &good, 1, 1e-3).unwrap();
        assert_eq!(found.grad_norm.to_bits(), expected.grad_norm.to_bits());
        let bits = |engine: &Engine<CpuDevice>| -> Vec<Vec<f32>> {
            engine.model.parameters.download(&device).unwrap()
        };
        assert!(bits(&failing) == bits(&whole), "the weights differ");
    }
}
