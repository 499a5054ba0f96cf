//! AdamW over a model's parameters: one state per fused parameter, the whole gradient clipped by its norm.

use anyhow::{Context, Result, ensure};

use crate::model::{ModelConfig, Parameters};
use crate::ops::{AdamState, AdamStep, Device, MemoryClass, allocating};
use crate::train::settings::TrainSettings;

/// Both moments of one fused parameter, on the host.
pub struct Moments {
    /// Mean of the gradient.
    pub first: Vec<f32>,
    /// Mean of the squared gradient.
    pub second: Vec<f32>,
}

/// Optimizer state of a model.
pub struct AdamW<D: Device> {
    states: Vec<AdamState<D>>,
    norm: D::Single,
}

impl<D: Device> AdamW<D> {
    /// Fresh state.
    ///
    /// # Errors
    /// When the device has no memory for it.
    pub fn new(device: &D, parameters: &Parameters<D>) -> Result<Self> {
        let states = parameters
            .specs
            .iter()
            .zip(&parameters.values)
            .map(|(spec, value)| {
                device
                    .adam_state(value, spec.len())
                    .with_context(|| format!("optimizer state of {}", spec.name))
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            states,
            norm: allocating(device, MemoryClass::Moments, || device.zeros_single(1))?,
        })
    }

    /// One update of all parameters from `gradients`; returns the gradient's norm before clipping. A norm that is not finite
    /// means that nothing was changed.
    ///
    /// # Errors
    /// Whatever the device says.
    pub fn step(
        &mut self,
        device: &D,
        parameters: &mut Parameters<D>,
        gradients: &Parameters<D>,
        settings: &TrainSettings,
        step: u64,
        learning_rate: f32,
    ) -> Result<f32> {
        let lens: Vec<usize> = parameters.specs.iter().map(|spec| spec.len()).collect();
        let all: Vec<_> = gradients.values.iter().zip(lens.iter().copied()).collect();
        device.global_norm(&all, &mut self.norm)?;
        for (index, state) in self.states.iter_mut().enumerate() {
            let decay = parameters.specs[index].decay;
            let update = AdamStep {
                // Beyond four billion steps both bias corrections have long been 1.
                step: u32::try_from(step).unwrap_or(u32::MAX),
                learning_rate,
                beta1: settings.beta1,
                beta2: settings.beta2,
                epsilon: settings.epsilon,
                weight_decay: if decay { settings.weight_decay } else { 0.0 },
                max_norm: settings.max_grad_norm,
            };
            let weight = &mut parameters.values[index];
            let gradient = &gradients.values[index];
            device.adamw(weight, gradient, state, &self.norm, &update, lens[index])?;
        }
        // After all updates are issued, so that a device that runs ahead waits once per step.
        Ok(device.download_single(&self.norm, 1)?[0])
    }

    /// The weights as the optimizer knows them: the master copies where the device has them.
    ///
    /// # Errors
    /// Whatever the device says.
    pub fn weights(&self, device: &D, parameters: &Parameters<D>) -> Result<Vec<Vec<f32>>> {
        let mut weights = Vec::with_capacity(self.states.len());
        for ((spec, value), state) in parameters
            .specs
            .iter()
            .zip(&parameters.values)
            .zip(&self.states)
        {
            let len = spec.len();
            weights.push(match &state.master {
                Some(master) => device.download_single(master, len)?,
                None => device.download_float(value, len)?,
            });
        }
        Ok(weights)
    }

    /// Both moments of every parameter.
    ///
    /// # Errors
    /// Whatever the device says.
    pub fn moments(&self, device: &D, parameters: &Parameters<D>) -> Result<Vec<Moments>> {
        parameters
            .specs
            .iter()
            .zip(&self.states)
            .map(|(spec, state)| {
                let len = spec.len();
                Ok(Moments {
                    first: device.download_single(&state.first, len)?,
                    second: device.download_single(&state.second, len)?,
                })
            })
            .collect()
    }

    /// Continues from saved weights (for the master copies) and moments.
    ///
    /// # Errors
    /// When their number or a length is not the model's.
    pub fn restore(
        &mut self,
        device: &D,
        config: &ModelConfig,
        weights: &[Vec<f32>],
        moments: &[Moments],
    ) -> Result<()> {
        let specs = config.parameters();
        ensure!(
            specs.len() == moments.len() && specs.len() == weights.len(),
            "optimizer state of {} parameters with {} weights, the model has {}",
            moments.len(),
            weights.len(),
            specs.len()
        );
        for (((spec, state), weight), moments) in
            specs.iter().zip(&mut self.states).zip(weights).zip(moments)
        {
            let len = spec.len();
            for (what, found) in [
                ("weights", weight.len()),
                ("first moments", moments.first.len()),
                ("second moments", moments.second.len()),
            ] {
                ensure!(
                    found == len,
                    "{} has {found} {what}, the model needs {len}",
                    spec.name
                );
            }
            device.upload_single(&moments.first, &mut state.first)?;
            device.upload_single(&moments.second, &mut state.second)?;
            if let Some(master) = &mut state.master {
                device.upload_single(weight, master)?;
            }
        }
        Ok(())
    }
}
