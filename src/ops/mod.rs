//! The operation set: everything the model and the trainer compute, as one trait with explicit forward and backward
//! pairs. `model` and `train` are written once over [`Device`]; `cpu` and `cuda` implement it; `reference` is the
//! slow, obvious twin that `cases` holds them to.
//!
//! Rules of the trait
//! - Matrices are row-major and dense; a weight is `[out, in]`, an activation `[tokens, features]`.
//! - Buffers may be longer than the operation needs (they are sized for the largest batch): an operation reads and
//!   writes the first `rows * cols` elements only.
//! - `=` or `+=` is said per output. Gradients of weights are always `+=`: they are made of zeros, and the update that has used
//!   them leaves zeros behind.
//! - An operation checks lengths and ranges that it can see and returns an error naming itself and the values.
//! - Operations are issued in order and may run asynchronously; only `download_*` waits.

pub mod cases;
pub mod checks;
pub mod cpu;
pub mod cuda;
mod memory;
pub mod reference;

pub use memory::{MemoryClass, MemoryUse, allocating};

use anyhow::Result;
use serde::{Deserialize, Serialize};

/// Target value of a position that carries no loss.
pub const IGNORE_TARGET: u32 = u32::MAX;

/// Shape of grouped-query attention.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionShape {
    /// Query heads `H`.
    pub heads: usize,
    /// Key/value heads `G`; `H` is a multiple of it. Query head `h` reads key/value head `h / (H / G)`.
    pub kv_heads: usize,
    /// Elements per head `D`, even.
    pub head_dim: usize,
}

impl AttentionShape {
    /// Columns of the fused projection `[q | k | v]`: `(H + 2 G) D`.
    pub fn qkv_size(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    /// Columns of the attention output: `H D`.
    pub fn out_size(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Columns of the keys, and of the values: `G D`.
    pub fn kv_size(&self) -> usize {
        self.kv_heads * self.head_dim
    }
}

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

/// What the router decided for `T` tokens. Slots are (token, choice) pairs sorted by expert and, within one expert,
/// by token: expert `e` owns slots `offsets[e]..offsets[e + 1]`.
pub struct Routing<D: Device + ?Sized> {
    /// Softmax over all experts `[T, E]`.
    pub probs: D::Single,
    /// Chosen experts `[T, K]`, the most probable first; of equals the lower number.
    pub experts: D::Index,
    /// Renormalised weights of the chosen experts `[T, K]`.
    pub weights: D::Single,
    /// First slot of each expert `[E + 1]`.
    pub offsets: D::Index,
    /// `token * K + choice` of each slot `[T K]`.
    pub slot_source: D::Index,
    /// Slot of each (token, choice) `[T, K]`: the inverse of `slot_source`.
    pub source_slot: D::Index,
}

impl<D: Device + ?Sized> Routing<D> {
    /// Buffers for up to `tokens` tokens.
    pub fn new(device: &D, shape: &MoeShape, tokens: usize) -> Result<Self> {
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

/// Sums for the load-balancing loss, per logical batch ("group") and expert, over all layers.
pub struct Balance<D: Device + ?Sized> {
    /// Number of (token, choice) pairs sent to each expert `[groups, E]`.
    pub counts: D::Single,
    /// Sum of the softmax probabilities of each expert `[groups, E]`.
    pub prob_sums: D::Single,
}

impl<D: Device + ?Sized> Balance<D> {
    /// Zeroed sums for up to `groups` logical batches.
    pub fn new(device: &D, shape: &MoeShape, groups: usize) -> Result<Self> {
        Ok(Self {
            counts: device.zeros_single(groups * shape.experts)?,
            prob_sums: device.zeros_single(groups * shape.experts)?,
        })
    }
}

/// First and second moment of one tensor's gradient, and its `f32` master copy where the device stores weights in fewer
/// bits. Checkpoints hold all three as `f32`, so they move between devices.
pub struct AdamState<D: Device + ?Sized> {
    /// Master copy; `None` where the weight itself is `f32`.
    pub master: Option<D::Single>,
    /// Mean of the gradient.
    pub first: D::Single,
    /// Mean of the squared gradient.
    pub second: D::Single,
}

/// Numbers of AdamW (Loshchilov & Hutter 2019, as `torch.optim.AdamW` computes it) that stay the same over a run. The learning
/// rate and the number of updates change with each and lie on the device, so that a recorded update can be repeated.
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

/// One of several texts that go on by one token each: its cache, as [`Device::attention_cached`] fills it.
pub struct CachedText<'a, D: Device + ?Sized> {
    /// Keys `[capacity, G D]`.
    pub keys: &'a mut D::Float,
    /// Values `[capacity, G D]`.
    pub values: &'a mut D::Float,
    /// Positions in the cache.
    pub past: usize,
}

/// Where a moving loss scale stands: part of a checkpoint, because a resumed run must go on with it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LossScale {
    /// What gradients are multiplied by: a power of two.
    pub scale: f32,
    /// Steps without overflow since it last changed.
    pub good_steps: u32,
}

/// A place where arithmetic happens. See the module's text for the rules.
pub trait Device: Sync {
    /// Weights, activations and their gradients, in the device's storage precision.
    type Float: Send + Sync;
    /// Always `f32`: statistics, router, losses, optimizer state.
    type Single: Send + Sync;
    /// Always `u32`: tokens, positions, offsets.
    type Index: Send + Sync;
    /// Memory on the host from which weights come; see [`Device::adopt_float`].
    type Host: std::ops::DerefMut<Target = [f32]>;
    /// Operations that [`Device::record`] kept.
    type Graph: Send;

    /// Name for people, e.g. `cpu (AVX2, 2 threads)`.
    fn name(&self) -> String;

    // Memory -----------------------------------------------------------------------------------------------------

    /// A zeroed buffer of `len` elements.
    fn zeros_float(&self, len: usize) -> Result<Self::Float>;
    /// A zeroed buffer of `len` elements.
    fn zeros_single(&self, len: usize) -> Result<Self::Single>;
    /// A zeroed buffer of `len` elements.
    fn zeros_index(&self, len: usize) -> Result<Self::Index>;
    /// Rounds `values` into the first elements of `buffer`.
    fn upload_float(&self, values: &[f32], buffer: &mut Self::Float) -> Result<()>;
    /// Zeros on the host, for values that [`Device::adopt_float`] will take over.
    ///
    /// # Errors
    /// If there is no memory.
    fn host_buffer(&self, len: usize) -> Result<Self::Host>;
    /// A buffer with these values. A device that computes on the host takes the memory itself: a model of 187 MB is then not copied.
    ///
    /// # Errors
    /// If there is no memory.
    fn adopt_float(&self, values: Self::Host) -> Result<Self::Float>;
    /// Copies `values` into the first elements of `buffer`.
    fn upload_single(&self, values: &[f32], buffer: &mut Self::Single) -> Result<()>;
    /// Copies `values` into the first elements of `buffer`.
    fn upload_index(&self, values: &[u32], buffer: &mut Self::Index) -> Result<()>;
    /// The first `len` elements.
    fn download_float(&self, buffer: &Self::Float, len: usize) -> Result<Vec<f32>>;
    /// The first `len` elements.
    fn download_single(&self, buffer: &Self::Single, len: usize) -> Result<Vec<f32>>;
    /// The first `len` elements.
    fn download_index(&self, buffer: &Self::Index, len: usize) -> Result<Vec<u32>>;
    /// Sets the first `len` elements to zero.
    fn clear_float(&self, buffer: &mut Self::Float, len: usize) -> Result<()>;
    /// Sets the first `len` elements to zero.
    fn clear_single(&self, buffer: &mut Self::Single, len: usize) -> Result<()>;

    /// `to[at..at + len] = from[..len]`.
    fn copy_single(
        &self,
        from: &Self::Single,
        len: usize,
        to: &mut Self::Single,
        at: usize,
    ) -> Result<()>;
    /// Copies what the operations to come work on: each piece into the first elements of its buffer. A device that runs
    /// ahead has taken the values when this returns, and copies them while earlier operations still run.
    fn upload_inputs(
        &self,
        indices: &mut [(&[u32], &mut Self::Index)],
        singles: &mut [(&[f32], &mut Self::Single)],
    ) -> Result<()> {
        for (values, buffer) in indices {
            self.upload_index(values, buffer)?;
        }
        for (values, buffer) in singles {
            self.upload_single(values, buffer)?;
        }
        Ok(())
    }

    // Running ahead ----------------------------------------------------------------------------------------------

    /// Whether the host should look at results every few steps only, because looking waits for everything issued so far.
    fn runs_ahead(&self) -> bool {
        false
    }
    /// Training batches are padded to a multiple of this, in a workspace of so many tokens, so that few different shapes
    /// come up and recorded operations serve again. Where it is not 1, the last segments may be empty, and groups may end
    /// before the last token: the tokens behind them belong to no logical batch.
    fn token_granule(&self, _capacity: usize) -> usize {
        1
    }
    /// Runs `work` once. `work` only issues operations on buffers that stay where they are; a device that can keeps them,
    /// to be issued again at once by [`Device::replay`]. `None`: it cannot.
    fn record(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Option<Self::Graph>> {
        work()?;
        Ok(None)
    }
    /// Issues the operations again. `false`: nothing was done, because memory that they use has moved since.
    fn replay(&self, _graph: &Self::Graph) -> Result<bool> {
        Ok(false)
    }

    // Memory plan ------------------------------------------------------------------------------------------------

    /// Says what buffers made from now on are for; returns what it was. See [`allocating`].
    fn set_memory_class(&self, class: MemoryClass) -> MemoryClass {
        class
    }
    /// Most that was in use since the device was made or an arena reserved, by class; zeros where nobody counts.
    fn memory_use(&self) -> MemoryUse {
        MemoryUse::default()
    }
    /// Bytes that are free on the device now; `None` where they are not to be planned.
    ///
    /// # Errors
    /// When the device fails.
    fn free_memory(&self) -> Result<Option<u64>> {
        Ok(None)
    }
    /// A device of the same kind and size that computes nothing: what is done with it shows in [`Device::memory_use`] what
    /// this device would need for it. `None` where memory is not planned.
    ///
    /// # Errors
    /// When it cannot be made.
    fn rehearsal(&self) -> Result<Option<Self>>
    where
        Self: Sized,
    {
        Ok(None)
    }
    /// Makes one arena for everything that a plan holds; buffers made from now on are parts of it. What it has no room for is
    /// allocated beside it while both stay below `limit` bytes.
    ///
    /// # Errors
    /// When the device has not so much memory.
    fn reserve(&self, _plan: &MemoryUse, _limit: Option<u64>) -> Result<()> {
        Ok(())
    }

    /// Where the device is profiled: whether what comes now is part of the profile. Each change to `true` begins a step.
    fn profile(&self, _on: bool) {}

    // Loss scale -------------------------------------------------------------------------------------------------

    /// Where the device's loss scale stands; `None` where gradients are not scaled, or always by the same. Devices whose
    /// gradients overflow early (fp16) multiply them by a scale from the head on and divide by it in [`Device::global_norm`]
    /// and [`Device::adamw`]; a norm that is not finite halves it. Waits for the device.
    ///
    /// # Errors
    /// When the device fails.
    fn loss_scale(&self) -> Result<Option<LossScale>> {
        Ok(None)
    }
    /// Continues with a saved scale; without effect where [`Device::loss_scale`] is `None`.
    ///
    /// # Errors
    /// When it is none that a device could have, or the device fails.
    fn set_loss_scale(&self, _scale: &LossScale) -> Result<()> {
        Ok(())
    }

    // Embedding --------------------------------------------------------------------------------------------------

    /// `out[t] = table[tokens[t]]`: table `[V, C]`, tokens `[T]`, out `[T, C]`.
    fn embedding_forward(
        &self,
        table: &Self::Float,
        tokens: &Self::Index,
        out: &mut Self::Float,
        count: usize,
        vocab: usize,
        hidden: usize,
    ) -> Result<()>;
    /// `grad_table[tokens[t]] += grad_out[t]`, summed in the order of `t`.
    fn embedding_backward(
        &self,
        grad_out: &Self::Float,
        tokens: &Self::Index,
        grad_table: &mut Self::Float,
        count: usize,
        vocab: usize,
        hidden: usize,
    ) -> Result<()>;

    // RMSNorm ----------------------------------------------------------------------------------------------------

    /// `inv_rms[r] = 1 / sqrt(mean_c x[r,c]^2 + epsilon)`, `out[r,c] = x[r,c] inv_rms[r] weight[c]`.
    #[allow(clippy::too_many_arguments)]
    fn rmsnorm_forward(
        &self,
        x: &Self::Float,
        weight: &Self::Float,
        epsilon: f32,
        out: &mut Self::Float,
        inv_rms: &mut Self::Single,
        rows: usize,
        cols: usize,
    ) -> Result<()>;
    /// With `n = x inv_rms`, `g = grad_out weight`: `grad_x += inv_rms (g - n mean_c(g n))`,
    /// `grad_weight += sum_r grad_out n`.
    #[allow(clippy::too_many_arguments)]
    fn rmsnorm_backward(
        &self,
        grad_out: &Self::Float,
        x: &Self::Float,
        weight: &Self::Float,
        inv_rms: &Self::Single,
        grad_x: &mut Self::Float,
        grad_weight: &mut Self::Float,
        rows: usize,
        cols: usize,
    ) -> Result<()>;

    // Linear -----------------------------------------------------------------------------------------------------

    /// `y = x weight^T (+ residual)`: x `[rows, inputs]`, weight `[outputs, inputs]`, y and residual `[rows, outputs]`.
    #[allow(clippy::too_many_arguments)]
    fn linear_forward(
        &self,
        x: &Self::Float,
        weight: &Self::Float,
        residual: Option<&Self::Float>,
        y: &mut Self::Float,
        rows: usize,
        inputs: usize,
        outputs: usize,
    ) -> Result<()>;
    /// `grad_x = grad_y weight`, or `+=` with `accumulate`.
    #[allow(clippy::too_many_arguments)]
    fn linear_backward_input(
        &self,
        grad_y: &Self::Float,
        weight: &Self::Float,
        grad_x: &mut Self::Float,
        accumulate: bool,
        rows: usize,
        inputs: usize,
        outputs: usize,
    ) -> Result<()>;
    /// `grad_weight += grad_y^T x`.
    fn linear_backward_weight(
        &self,
        grad_y: &Self::Float,
        x: &Self::Float,
        grad_weight: &mut Self::Float,
        rows: usize,
        inputs: usize,
        outputs: usize,
    ) -> Result<()>;

    // Rotary position embedding ----------------------------------------------------------------------------------

    /// Rotates queries and keys of `qkv [T, (H + 2G) D]` in place, half-split form: elements `i` and `i + D/2` turn by
    /// `position * theta^(-2i/D)`.
    fn rope_forward(
        &self,
        qkv: &mut Self::Float,
        positions: &Self::Index,
        theta: f32,
        shape: &AttentionShape,
        count: usize,
    ) -> Result<()>;
    /// The inverse rotation of the gradients of queries and keys, in place.
    fn rope_backward(
        &self,
        grad_qkv: &mut Self::Float,
        positions: &Self::Index,
        theta: f32,
        shape: &AttentionShape,
        count: usize,
    ) -> Result<()>;

    // Attention --------------------------------------------------------------------------------------------------

    /// Causal attention within each segment, scale `1 / sqrt(D)`: qkv `[T, (H + 2G) D]` after RoPE, segments `[S + 1]`
    /// offsets, out `[T, H D]`, `log_sum [T, H]` the logarithm of each query's softmax denominator (with the scaled scores).
    #[allow(clippy::too_many_arguments)]
    fn attention_forward(
        &self,
        qkv: &Self::Float,
        segments: &Self::Index,
        out: &mut Self::Float,
        log_sum: &mut Self::Single,
        shape: &AttentionShape,
        segment_count: usize,
        count: usize,
    ) -> Result<()>;
    /// `grad_qkv =` the gradients of queries, keys and values, all written.
    #[allow(clippy::too_many_arguments)]
    fn attention_backward(
        &self,
        grad_out: &Self::Float,
        qkv: &Self::Float,
        out: &Self::Float,
        log_sum: &Self::Single,
        segments: &Self::Index,
        grad_qkv: &mut Self::Float,
        shape: &AttentionShape,
        segment_count: usize,
        count: usize,
    ) -> Result<()>;
    /// Attention over a KV cache, for generation: the `count` new rows of `qkv` (after RoPE) take positions
    /// `past..past + count`; their keys and values are written to `keys` and `values` `[capacity, G D]`, then each new
    /// query attends to all cached positions up to its own. out `[count, H D]`.
    #[allow(clippy::too_many_arguments)]
    fn attention_cached(
        &self,
        qkv: &Self::Float,
        keys: &mut Self::Float,
        values: &mut Self::Float,
        out: &mut Self::Float,
        shape: &AttentionShape,
        past: usize,
        count: usize,
        capacity: usize,
    ) -> Result<()>;
    /// One new position of each of several texts, as a server's batch has them: row `r` of `qkv` (after RoPE) takes position
    /// `texts[r].past` of its own cache; otherwise as [`Device::attention_cached`], to which every row is equal to the bit.
    /// All caches have the same capacity; out `[texts, H D]`.
    fn attention_cached_texts(
        &self,
        qkv: &Self::Float,
        texts: &mut [CachedText<'_, Self>],
        out: &mut Self::Float,
        shape: &AttentionShape,
        capacity: usize,
    ) -> Result<()>;

    // Mixture of experts -----------------------------------------------------------------------------------------

    /// Router: `logits = x weight^T` in f32, softmax, the `K` largest renormalised to sum 1, slots sorted by expert.
    /// x `[T, C]`, weight `[E, C]`. Adds this layer's counts and probabilities to `balance`; `groups [G + 1]` are the
    /// logical batches' token offsets.
    #[allow(clippy::too_many_arguments)]
    fn router_forward(
        &self,
        x: &Self::Float,
        weight: &Self::Float,
        routing: &mut Routing<Self>,
        balance: &mut Balance<Self>,
        groups: &Self::Index,
        group_count: usize,
        shape: &MoeShape,
        count: usize,
    ) -> Result<()>;
    /// Gradient of the router. `grad_weights [T, K]` is the gradient of the renormalised weights. The load-balancing loss
    /// of group `g` with `N_g = layers * tokens_g` is `E sum_e (counts[g,e] / N_g) (prob_sums[g,e] / N_g)`; its gradient,
    /// times `balance_scale`, is added to that of the probabilities (counts are constants).
    /// `grad_x += ...`, `grad_weight += ...`.
    #[allow(clippy::too_many_arguments)]
    fn router_backward(
        &self,
        grad_weights: &Self::Single,
        x: &Self::Float,
        weight: &Self::Float,
        routing: &Routing<Self>,
        balance: &Balance<Self>,
        groups: &Self::Index,
        group_count: usize,
        layers: usize,
        balance_scale: f32,
        grad_x: &mut Self::Float,
        grad_weight: &mut Self::Float,
        shape: &MoeShape,
        count: usize,
    ) -> Result<()>;
    /// Experts: for each slot with expert `e`: `[gate | up] = x w13[e]^T`, `act = silu(gate) * up`, `expert_out = act w2[e]^T`;
    /// `out[t] = residual[t] + sum_k weights[t,k] expert_out`. w13 `[E, 2F, C]` (gate rows, then up rows), w2 `[E, C, F]`,
    /// `gate_up [T K, 2F]` is kept for the backward, in slot order.
    #[allow(clippy::too_many_arguments)]
    fn experts_forward(
        &self,
        x: &Self::Float,
        routing: &Routing<Self>,
        w13: &Self::Float,
        w2: &Self::Float,
        residual: &Self::Float,
        gate_up: &mut Self::Float,
        out: &mut Self::Float,
        shape: &MoeShape,
        count: usize,
    ) -> Result<()>;
    /// Gradients of the experts: `grad_x =` (written), `grad_w13 +=`, `grad_w2 +=`, `grad_weights [T, K] =` (written).
    /// The residual's gradient is `grad_out` itself and is left to the caller.
    #[allow(clippy::too_many_arguments)]
    fn experts_backward(
        &self,
        grad_out: &Self::Float,
        x: &Self::Float,
        routing: &Routing<Self>,
        w13: &Self::Float,
        w2: &Self::Float,
        gate_up: &Self::Float,
        grad_x: &mut Self::Float,
        grad_w13: &mut Self::Float,
        grad_w2: &mut Self::Float,
        grad_weights: &mut Self::Single,
        shape: &MoeShape,
        count: usize,
    ) -> Result<()>;

    // Head and loss ----------------------------------------------------------------------------------------------

    /// Head and cross-entropy with gradients, in chunks: `logits = x table^T`, `loss += sum_t -log softmax(logits[t])[targets[t]]`
    /// over targets that are not [`IGNORE_TARGET`] (`loss` is `[1]`, natural logarithm, not scaled);
    /// `grad_x = scale[0] * d loss`, `grad_table += scale[0] * d loss`. x `[T, C]`, table `[V, C]`.
    #[allow(clippy::too_many_arguments)]
    fn head_loss(
        &self,
        x: &Self::Float,
        table: &Self::Float,
        targets: &Self::Index,
        scale: &Self::Single,
        loss: &mut Self::Single,
        grad_x: &mut Self::Float,
        grad_table: &mut Self::Float,
        count: usize,
        vocab: usize,
        hidden: usize,
    ) -> Result<()>;
    /// Losses only: `losses[t] = -log softmax(logits[t])[targets[t]]`, 0 for ignored targets.
    #[allow(clippy::too_many_arguments)]
    fn head_losses(
        &self,
        x: &Self::Float,
        table: &Self::Float,
        targets: &Self::Index,
        losses: &mut Self::Single,
        count: usize,
        vocab: usize,
        hidden: usize,
    ) -> Result<()>;
    /// `logits[r] = x[row_r] table^T` for the `rows` rows from `first_row` on, in f32, for generation.
    #[allow(clippy::too_many_arguments)]
    fn head_logits(
        &self,
        x: &Self::Float,
        table: &Self::Float,
        logits: &mut Self::Single,
        first_row: usize,
        rows: usize,
        vocab: usize,
        hidden: usize,
    ) -> Result<()>;

    // Optimizer --------------------------------------------------------------------------------------------------

    /// Fresh optimizer state of a weight of these values: moments zero, master (if any) exactly the values, before the device
    /// rounds them.
    fn adam_state(&self, values: &[f32]) -> Result<AdamState<Self>>;
    /// `norm[0] = sqrt(sum of squares over all gradients)`, `(gradient, len)` each; NaN or infinity shows in it. Where it is
    /// finite, `norm[1] += 1`: the number of updates so far, the one to come included (exact up to 2^24).
    fn global_norm(
        &self,
        gradients: &[(&Self::Float, usize)],
        norm: &mut Self::Single,
    ) -> Result<()>;
    /// One AdamW update of a weight, number `norm[1]` (from 1), with the learning rate `rate[0]`; the gradient is clipped by
    /// `norm[0]` as `step.max_norm` says. Where `norm[0]` is not finite neither weight nor state is changed: the trainer sees it
    /// in the norm. The gradient is zero afterwards, whatever the norm: clearing what has just been read is cheaper than doing so
    /// before the next step.
    #[allow(clippy::too_many_arguments)]
    fn adamw(
        &self,
        weight: &mut Self::Float,
        gradient: &mut Self::Float,
        state: &mut AdamState<Self>,
        norm: &Self::Single,
        rate: &Self::Single,
        step: &AdamStep,
        len: usize,
    ) -> Result<()>;
}
