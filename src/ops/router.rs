//! Router of the mixture of experts: which experts a token goes to, and the load-balancing loss.

use anyhow::{Result, ensure};

use super::checks::{
    RoutingIndices, expect_len, expect_moe_shape, expect_nonzero, expect_offsets, expect_routing,
};
use super::device::Device;
use super::operation::{KernelCost, Kind, Load, Operation, SINGLE};
use super::view::{Buffer, IndexBuffer, Matrix, MatrixMut, Offsets, View};

/// Shape of the mixture-of-experts block.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MoeShape {
    /// Columns `C` of the residual stream.
    pub hidden: usize,
    /// Columns `F` of an expert's inner layer.
    pub intermediate: usize,
    /// Experts `E`.
    pub experts: usize,
    /// Experts chosen per token `K`.
    pub top_k: usize,
}

/// What the router decided for `T` tokens. Slots are (token, choice) pairs sorted by expert and,
/// within one expert, by token: expert `e` owns slots `offsets[e]..offsets[e + 1]`.
pub struct Routing<S, I> {
    /// Softmax over all experts `[T, E]`.
    pub probs: S,
    /// Chosen experts `[T, K]`, the most probable first; of equals the lower number.
    pub experts: I,
    /// Renormalised weights of the chosen experts `[T, K]`.
    pub weights: S,
    /// First slot of each expert `[E + 1]`.
    pub offsets: I,
    /// `token * K + choice` of each slot `[T K]`.
    pub slot_source: I,
    /// Slot of each (token, choice) `[T, K]`: the inverse of `slot_source`.
    pub source_slot: I,
}

/// Sums for the load-balancing loss, per logical batch ("group") and expert, over all layers.
pub struct Balance<S> {
    /// Number of (token, choice) pairs sent to each expert `[groups, E]`.
    pub counts: S,
    /// Sum of the softmax probabilities of each expert `[groups, E]`.
    pub prob_sums: S,
}

impl<S, I> Routing<S, I> {
    /// Buffers for up to `tokens` tokens.
    ///
    /// # Errors
    /// If there is no memory.
    pub fn new<D>(device: &D, shape: &MoeShape, tokens: usize) -> Result<Self>
    where
        D: Device<Single = S, Index = I> + ?Sized,
    {
        let slots = tokens * shape.top_k;
        Ok(Self {
            probs: device.zeros_single(tokens * shape.experts)?,
            experts: device.zeros_index(slots)?,
            weights: device.zeros_single(slots)?,
            offsets: device.zeros_index(shape.experts + 1)?,
            slot_source: device.zeros_index(slots)?,
            source_slot: device.zeros_index(slots)?,
        })
    }
}

impl<S> Balance<S> {
    /// Zeroed sums for up to `groups` logical batches.
    ///
    /// # Errors
    /// If there is no memory.
    pub fn new<D>(device: &D, shape: &MoeShape, groups: usize) -> Result<Self>
    where
        D: Device<Single = S> + ?Sized,
    {
        Ok(Self {
            counts: device.zeros_single(groups * shape.experts)?,
            prob_sums: device.zeros_single(groups * shape.experts)?,
        })
    }
}

/// `logits = x weight^T` in f32, softmax, the `K` largest renormalised to sum 1, slots sorted by
/// expert. Adds this layer's counts and probabilities to `balance`.
pub struct RouterForward<'a, F, S, I> {
    /// `[T, C]`
    pub x: Matrix<'a, F>,
    /// `[E, C]`
    pub weight: Matrix<'a, F>,
    /// Written.
    pub routing: &'a mut Routing<S, I>,
    /// Added to.
    pub balance: &'a mut Balance<S>,
    /// The logical batches.
    pub groups: Offsets<'a, I>,
    /// Sizes.
    pub shape: MoeShape,
}

/// Gradient of the router. The load-balancing loss of group `g` with `N_g = layers * tokens_g` is
/// `E sum_e (counts[g,e] / N_g) (prob_sums[g,e] / N_g)`; its gradient, times `balance_scale`, is
/// added to that of the probabilities (counts are constants). `grad_x += ...`, `grad_weight +=
/// ...`.
pub struct RouterBackward<'a, F, S, I> {
    /// Gradient of the renormalised weights `[T, K]`.
    pub grad_weights: Matrix<'a, S>,
    /// `[T, C]`
    pub x: Matrix<'a, F>,
    /// `[E, C]`
    pub weight: Matrix<'a, F>,
    /// Of the forward pass.
    pub routing: &'a Routing<S, I>,
    /// Sums over all layers.
    pub balance: &'a Balance<S>,
    /// The logical batches.
    pub groups: Offsets<'a, I>,
    /// Layers of the model.
    pub layers: usize,
    /// Factor of the load-balancing loss.
    pub balance_scale: f32,
    /// `[T, C]`
    pub grad_x: MatrixMut<'a, F>,
    /// `[E, C]`
    pub grad_weight: MatrixMut<'a, F>,
    /// Sizes.
    pub shape: MoeShape,
}

impl<S: Buffer, I: IndexBuffer> Routing<S, I> {
    /// All buffers are long enough for `tokens` tokens.
    fn check_lengths(&self, op: &str, shape: &MoeShape, tokens: usize) -> Result<()> {
        expect_moe_shape(op, shape, tokens)?;
        let slots = tokens * shape.top_k;
        for (name, found, needed) in [
            ("routing.probs", self.probs.len(), tokens * shape.experts),
            ("routing.experts", self.experts.len(), slots),
            ("routing.weights", self.weights.len(), slots),
            ("routing.offsets", self.offsets.len(), shape.experts + 1),
            ("routing.slot_source", self.slot_source.len(), slots),
            ("routing.source_slot", self.source_slot.len(), slots),
        ] {
            expect_len(op, name, found, needed)?;
        }
        Ok(())
    }

    /// A routing that [`RouterForward`] could have made for `tokens` tokens, as far as the host
    /// knows the values.
    ///
    /// # Errors
    /// Names the buffer that is too short, or the first value that is wrong.
    pub(crate) fn check(&self, op: &str, shape: &MoeShape, tokens: usize) -> Result<()> {
        self.check_lengths(op, shape, tokens)?;
        if let (Some(experts), Some(offsets), Some(slot_source), Some(source_slot)) = (
            self.experts.known(),
            self.offsets.known(),
            self.slot_source.known(),
            self.source_slot.known(),
        ) {
            let indices = RoutingIndices {
                experts,
                offsets,
                slot_source,
                source_slot,
            };
            expect_routing(op, indices, shape, tokens)?;
        }
        Ok(())
    }
}

impl<S: Buffer> Balance<S> {
    fn check(&self, op: &str, groups: usize, experts: usize) -> Result<()> {
        let needed = super::checks::element_count(op, "balance", &[groups, experts])?;
        expect_len(op, "balance.counts", self.counts.len(), needed)?;
        expect_len(op, "balance.prob_sums", self.prob_sums.len(), needed)
    }
}

/// The groups cut the first of `total` tokens into logical batches; all of them where batches are
/// not padded.
fn check_groups<I: IndexBuffer>(op: &str, groups: &Offsets<'_, I>, total: usize) -> Result<()> {
    let (name, parts) = ("groups", groups.parts);
    expect_len(op, name, groups.buffer.len(), parts.saturating_add(1))?;
    ensure!(
        parts <= total && (parts > 0 || total == 0),
        "{op}: {name} cuts {total} tokens into {parts} parts, \
         but every part needs at least one token"
    );
    let Some(known) = groups.buffer.known() else {
        return Ok(());
    };
    let end = if I::PADDED {
        known[parts] as usize
    } else {
        total
    };
    ensure!(
        end <= total,
        "{op}: {name}[{parts}] is {end}, but there are {total} tokens"
    );
    expect_offsets(op, name, known, parts, end)?;
    Ok(())
}

impl<F: Buffer, S: Buffer, I: IndexBuffer> Operation for RouterForward<'_, F, S, I> {
    const NAME: &'static str = "router_forward";

    fn check(&self) -> Result<()> {
        let (op, shape, count) = (Self::NAME, &self.shape, self.x.rows);
        self.routing.check_lengths(op, shape, count)?;
        self.x.expect(op, "x", &[count, shape.hidden])?;
        self.weight
            .expect(op, "weight", &[shape.experts, shape.hidden])?;
        check_groups(op, &self.groups, count)?;
        self.balance.check(op, self.groups.parts, shape.experts)
    }

    fn bytes(&self, storage: usize) -> usize {
        let (shape, count) = (&self.shape, self.x.rows);
        let rows = storage * (count + shape.experts) * shape.hidden;
        let routing = 4 * count * shape.experts + 16 * count * shape.top_k;
        rows + routing + 16 * self.groups.parts * shape.experts
    }

    fn kernels(&self, load: &Load) -> Vec<KernelCost> {
        let [tokens, c, e, k] = [
            self.x.rows,
            self.shape.hidden,
            self.shape.experts,
            self.shape.top_k,
        ]
        .map(|n| n as f64);
        vec![KernelCost {
            name: "router",
            families: &["router_fwd", "router_offsets", "router_slots"],
            kind: Kind::Memory,
            flops: 2.0 * tokens * c * e,
            bytes: load.storage * (tokens * c + c * e) + SINGLE * (tokens * e + 4.0 * tokens * k),
        }]
    }
}

impl<F: Buffer, S: Buffer, I: IndexBuffer> Operation for RouterBackward<'_, F, S, I> {
    const NAME: &'static str = "router_backward";

    fn check(&self) -> Result<()> {
        let (op, shape, count) = (Self::NAME, &self.shape, self.x.rows);
        self.routing.check(op, shape, count)?;
        expect_nonzero(op, "the number of layers", self.layers)?;
        let (rows, weight) = ([count, shape.hidden], [shape.experts, shape.hidden]);
        self.grad_weights
            .expect(op, "grad_weights", &[count, shape.top_k])?;
        self.x.expect(op, "x", &rows)?;
        self.weight.expect(op, "weight", &weight)?;
        check_groups(op, &self.groups, count)?;
        self.balance.check(op, self.groups.parts, shape.experts)?;
        self.grad_x.expect(op, "grad_x", &rows)?;
        self.grad_weight.expect(op, "grad_weight", &weight)
    }

    fn bytes(&self, storage: usize) -> usize {
        let (shape, count) = (&self.shape, self.x.rows);
        let rows = 3 * storage * (count + shape.experts) * shape.hidden;
        rows + 4 * count * shape.experts + 8 * count * shape.top_k
    }

    fn kernels(&self, load: &Load) -> Vec<KernelCost> {
        let [tokens, c, e, k] = [
            self.x.rows,
            self.shape.hidden,
            self.shape.experts,
            self.shape.top_k,
        ]
        .map(|n| n as f64);
        let statistics = SINGLE * (tokens * e + 2.0 * tokens * k);
        vec![KernelCost {
            name: "router, backward",
            families: &["router_bwd", "router_bwd_sum"],
            kind: Kind::Memory,
            flops: 4.0 * tokens * c * e,
            bytes: load.storage * (3.0 * tokens * c + 2.0 * c * e) + statistics,
        }]
    }
}
