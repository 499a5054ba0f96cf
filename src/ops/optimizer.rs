//! AdamW (Loshchilov & Hutter 2019, as `torch.optim.AdamW` computes it) and the norm that clips
//! gradients.

use anyhow::Result;

use super::adam_state::AdamState;
use super::checks::{expect_adam_step, expect_len};
use super::operation::{KernelCost, Kind, Load, Operation, SINGLE};
use super::view::{Buffer, Vector, VectorMut, View};

/// Numbers of AdamW that stay the same over a run. The learning rate and the number of updates
/// change with each and lie on the device, so that a recorded update can be repeated.
#[derive(Clone, Copy, Debug)]
pub struct AdamStep {
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub epsilon: f32,
    /// Decoupled weight decay; 0 for norms.
    pub weight_decay: f32,
    /// Gradients are scaled by `min(1, max_norm / (norm + 1e-6))`; infinite: no clipping.
    pub max_norm: f32,
}

/// `norm[0] = sqrt(sum of squares over all gradients)`; NaN or infinity shows in it. Where it is
/// finite, `norm[1] += 1`: the number of updates so far, the one to come included (exact up to
/// 2^24).
pub struct GlobalNorm<'a, F, S> {
    /// All gradients.
    pub gradients: Vec<Vector<'a, F>>,
    /// `[2]`
    pub norm: VectorMut<'a, S>,
}

/// One AdamW update of a weight, number `norm[1]` (from 1), with the learning rate `rate[0]`; the
/// gradient is clipped by `norm[0]` as `step.max_norm` says. Where `norm[0]` is not finite neither
/// weight nor state is changed: the trainer sees it in the norm. The gradient is zero afterwards,
/// whatever the norm: clearing what has just been read is cheaper than doing so before the next
/// step.
pub struct AdamW<'a, F, S> {
    /// `[len]`
    pub weight: VectorMut<'a, F>,
    /// `[len]`
    pub gradient: VectorMut<'a, F>,
    /// Of the weight.
    pub state: &'a mut AdamState<S>,
    /// `[2]`, of [`GlobalNorm`].
    pub norm: Vector<'a, S>,
    /// `[1]`
    pub rate: Vector<'a, S>,
    /// The run's numbers.
    pub step: AdamStep,
}

impl<F: Buffer, S: Buffer> Operation for GlobalNorm<'_, F, S> {
    const NAME: &'static str = "global_norm";

    fn check(&self) -> Result<()> {
        let op = Self::NAME;
        for gradient in &self.gradients {
            gradient.fits(op, "gradient")?;
        }
        self.norm.expect(op, "norm", &[2])
    }

    fn bytes(&self, storage: usize) -> usize {
        let elements: usize = self.gradients.iter().map(|gradient| gradient.len).sum();
        storage * elements + 8
    }

    fn kernels(&self, load: &Load) -> Vec<KernelCost> {
        let elements: usize = self.gradients.iter().map(|gradient| gradient.len).sum();
        vec![KernelCost {
            name: "global norm",
            families: &["grad_squares", "grad_norm"],
            kind: Kind::Memory,
            flops: 0.0,
            bytes: load.storage * elements as f64,
        }]
    }
}

impl<F: Buffer, S: Buffer> Operation for AdamW<'_, F, S> {
    const NAME: &'static str = "adamw";

    fn check(&self) -> Result<()> {
        let (op, len) = (Self::NAME, self.weight.len);
        expect_adam_step(op, &self.step)?;
        self.weight.fits(op, "weight")?;
        self.gradient.expect(op, "gradient", &[len])?;
        if let Some(master) = &self.state.master {
            expect_len(op, "state.master", master.len(), len)?;
        }
        expect_len(op, "state.first", self.state.first.len(), len)?;
        expect_len(op, "state.second", self.state.second.len(), len)?;
        self.norm.expect(op, "norm", &[2])?;
        self.rate.expect(op, "rate", &[1])
    }

    fn bytes(&self, storage: usize) -> usize {
        let master = 8 * usize::from(self.state.master.is_some());
        // Weight written, gradient read and zeroed, moments (and master) read and written.
        (3 * storage + master + 16) * self.weight.len
    }

    fn kernels(&self, load: &Load) -> Vec<KernelCost> {
        vec![KernelCost {
            name: "AdamW",
            families: &["adamw"],
            kind: Kind::Memory,
            flops: 0.0,
            // Weight written, gradient, master and both moments read and written.
            bytes: self.weight.len as f64 * (3.0 * load.storage + 6.0 * SINGLE),
        }]
    }
}
