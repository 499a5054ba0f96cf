//! AdamW over a model's parameters: one state per fused parameter, the whole gradient clipped by
//! its norm.

use anyhow::{Context, Result, ensure};

use crate::model::{ModelConfig, Parameters};
use crate::ops::{
    self, AdamState, AdamStep, Buffer, Device, GlobalNorm, MemoryClass, Operations, Planner,
    allocating, issue,
};
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
    states: Vec<AdamState<D::Single>>,
    /// The newest norm, and the number of updates.
    norm: D::Single,
    /// Learning rate of the next update.
    rate: D::Single,
}

impl<D: Planner> AdamW<D> {
    /// Fresh state of a model with these weights, one vector per fused parameter.
    ///
    /// # Errors
    /// When they are not such a model's, or the device has no memory for it.
    pub(crate) fn new(device: &D, config: &ModelConfig, weights: &[Vec<f32>]) -> Result<Self> {
        let specs = config.parameters();
        ensure!(
            specs.len() == weights.len(),
            "optimizer state for {} weights, the model has {} parameters",
            weights.len(),
            specs.len()
        );
        let states = specs
            .iter()
            .zip(weights)
            .map(|(spec, values)| {
                ensure!(
                    values.len() == spec.len(),
                    "{} has {} weights, the model needs {}",
                    spec.name,
                    values.len(),
                    spec.len()
                );
                device
                    .adam_state(values)
                    .with_context(|| format!("optimizer state of {}", spec.name))
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            states,
            norm: allocating(device, MemoryClass::Moments, || device.zeros_single(2))?,
            rate: allocating(device, MemoryClass::Moments, || device.zeros_single(1))?,
        })
    }
}

impl<D: Operations> AdamW<D> {
    /// One update of all parameters from `gradients`, which are zero afterwards. A norm that is not
    /// finite means that no parameter was changed. Only issues operations, the same ones each time.
    ///
    /// # Errors
    /// Whatever the device says.
    pub(crate) fn update(
        &mut self,
        device: &D,
        parameters: &mut Parameters<D>,
        gradients: &mut Parameters<D>,
        settings: &TrainSettings,
    ) -> Result<()> {
        let lens: Vec<usize> = parameters.specs.iter().map(|spec| spec.len()).collect();
        let all = gradients.values.iter().zip(&lens);
        issue(
            device,
            GlobalNorm {
                gradients: all.map(|(gradient, &len)| gradient.vector(len)).collect(),
                norm: self.norm.vector_mut(2),
            },
        )?;
        for (index, state) in self.states.iter_mut().enumerate() {
            let (len, decay) = (lens[index], parameters.specs[index].decay);
            issue(
                device,
                ops::AdamW {
                    weight: parameters.values[index].vector_mut(len),
                    gradient: gradients.values[index].vector_mut(len),
                    state,
                    norm: self.norm.vector(2),
                    rate: self.rate.vector(1),
                    step: AdamStep {
                        beta1: settings.beta1,
                        beta2: settings.beta2,
                        epsilon: settings.epsilon,
                        weight_decay: if decay { settings.weight_decay } else { 0.0 },
                        max_norm: settings.max_grad_norm,
                    },
                },
            )?;
        }
        Ok(())
    }
}

impl<D: Device> AdamW<D> {
    /// The learning rate of the updates to come.
    ///
    /// # Errors
    /// Where it is none, or the device fails.
    pub(crate) fn set_rate(&mut self, device: &D, rate: f32) -> Result<()> {
        ensure!(
            rate.is_finite() && rate >= 0.0,
            "the learning rate is {rate}, it must be finite and not negative"
        );
        device.upload_inputs(&mut [], &mut [(&[rate], &mut self.rate)])
    }

    /// Copies the newest gradient's norm before clipping to `history[at]`, without waiting.
    ///
    /// # Errors
    /// Where the history ends before.
    pub(crate) fn copy_norm(&self, device: &D, history: &mut D::Single, at: usize) -> Result<()> {
        device.copy_single(&self.norm, 1, history, at)
    }

    /// Updates so far: steps whose gradient was finite.
    ///
    /// # Errors
    /// Whatever the device says.
    pub fn updates(&self, device: &D) -> Result<u64> {
        Ok(device.download_single(&self.norm, 2)?[1] as u64)
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

    /// Continues from saved weights (for the master copies), moments and number of updates.
    ///
    /// # Errors
    /// When their number or a length is not the model's.
    pub fn restore(
        &mut self,
        device: &D,
        config: &ModelConfig,
        weights: &[Vec<f32>],
        moments: &[Moments],
        updates: u64,
    ) -> Result<()> {
        // Beyond 2^24 both bias corrections have long been 1.
        let updates = updates.min(1 << 24) as f32;
        device.upload_single(&[0.0, updates], &mut self.norm)?;
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
