//! The experts: SwiGLU blocks, each on the tokens that the router sent to it.

use anyhow::Result;

use super::operation::{KernelCost, Kind, Load, Operation};
use super::router::{MoeShape, Routing};
use super::view::{Buffer, IndexBuffer, Matrix, MatrixMut, View};

/// For each slot with expert `e`: `[gate | up] = x w13[e]^T`, `act = silu(gate) * up`, `expert_out
/// = act w2[e]^T`; `out[t] = residual[t] + sum_k weights[t,k] expert_out`.
pub struct ExpertsForward<'a, F, S, I> {
    /// `[T, C]`
    pub x: Matrix<'a, F>,
    /// Of the same tokens.
    pub routing: &'a Routing<S, I>,
    /// `[E 2F, C]`: of each expert the gate rows, then the up rows.
    pub w13: Matrix<'a, F>,
    /// `[E C, F]`
    pub w2: Matrix<'a, F>,
    /// `[T, C]`
    pub residual: Matrix<'a, F>,
    /// `[T K, 2F]` in slot order; kept for the backward pass.
    pub gate_up: MatrixMut<'a, F>,
    /// `[T, C]`
    pub out: MatrixMut<'a, F>,
    /// Sizes.
    pub shape: MoeShape,
}

/// `grad_x =` (written), `grad_w13 +=`, `grad_w2 +=`, `grad_weights =` (written). The residual's
/// gradient is `grad_out` itself and is left to the caller.
pub struct ExpertsBackward<'a, F, S, I> {
    /// `[T, C]`
    pub grad_out: Matrix<'a, F>,
    /// `[T, C]`
    pub x: Matrix<'a, F>,
    /// Of the forward pass.
    pub routing: &'a Routing<S, I>,
    /// `[E 2F, C]`
    pub w13: Matrix<'a, F>,
    /// `[E C, F]`
    pub w2: Matrix<'a, F>,
    /// `[T K, 2F]`
    pub gate_up: Matrix<'a, F>,
    /// `[T, C]`
    pub grad_x: MatrixMut<'a, F>,
    /// `[E 2F, C]`
    pub grad_w13: MatrixMut<'a, F>,
    /// `[E C, F]`
    pub grad_w2: MatrixMut<'a, F>,
    /// `[T, K]`
    pub grad_weights: MatrixMut<'a, S>,
    /// Sizes.
    pub shape: MoeShape,
}

/// Elements of what experts read and write.
struct Elements {
    /// `[T, C]`
    tokens: usize,
    /// `[T K, F]`
    inner: usize,
    /// `[T K]`
    slots: usize,
    /// Of all experts' down projections; the up projections have twice as many.
    w2: usize,
}

impl Elements {
    fn new(shape: &MoeShape, tokens: usize) -> Self {
        let slots = tokens * shape.top_k;
        Self {
            tokens: tokens * shape.hidden,
            inner: slots * shape.intermediate,
            slots,
            w2: shape.experts * shape.hidden * shape.intermediate,
        }
    }
}

impl<F: Buffer, S: Buffer, I: IndexBuffer> Operation for ExpertsForward<'_, F, S, I> {
    const NAME: &'static str = "experts_forward";

    fn check(&self) -> Result<()> {
        let (op, shape, count) = (Self::NAME, &self.shape, self.x.rows);
        self.routing.check(op, shape, count)?;
        let (e, f, c) = (shape.experts, shape.intermediate, shape.hidden);
        self.x.expect(op, "x", &[count, c])?;
        self.w13.expect(op, "w13", &[e * 2 * f, c])?;
        self.w2.expect(op, "w2", &[e * c, f])?;
        self.residual.expect(op, "residual", &[count, c])?;
        self.gate_up
            .expect(op, "gate_up", &[count * shape.top_k, 2 * f])?;
        self.out.expect(op, "out", &[count, c])
    }

    fn bytes(&self, storage: usize) -> usize {
        let of = Elements::new(&self.shape, self.x.rows);
        storage * (3 * of.tokens + 3 * of.w2 + 2 * of.inner) + 12 * of.slots
    }

    fn kernels(&self, load: &Load) -> Vec<KernelCost> {
        let [tokens, c, f, e, k] = sizes(self.x.rows, &self.shape);
        let (slots, row) = (tokens * k, load.storage * tokens * c);
        let half = load.storage;
        vec![
            KernelCost {
                name: "experts, up with SwiGLU",
                families: &["experts_up_fwd"],
                kind: Kind::Experts,
                flops: 4.0 * slots * c * f,
                bytes: row + half * (2.0 * e * f * c + 3.0 * slots * f),
            },
            KernelCost {
                name: "experts, down",
                families: &["experts_down_fwd"],
                kind: Kind::Experts,
                flops: 2.0 * slots * c * f,
                bytes: half * (slots * f + e * f * c + slots * c),
            },
            combine(half * slots * c + 2.0 * row),
        ]
    }
}

impl<F: Buffer, S: Buffer, I: IndexBuffer> Operation for ExpertsBackward<'_, F, S, I> {
    const NAME: &'static str = "experts_backward";

    fn check(&self) -> Result<()> {
        let (op, shape, count) = (Self::NAME, &self.shape, self.x.rows);
        self.routing.check(op, shape, count)?;
        let (e, f, c) = (shape.experts, shape.intermediate, shape.hidden);
        let (rows, w13, w2) = ([count, c], [e * 2 * f, c], [e * c, f]);
        self.grad_out.expect(op, "grad_out", &rows)?;
        self.x.expect(op, "x", &rows)?;
        self.w13.expect(op, "w13", &w13)?;
        self.w2.expect(op, "w2", &w2)?;
        self.gate_up
            .expect(op, "gate_up", &[count * shape.top_k, 2 * f])?;
        self.grad_x.expect(op, "grad_x", &rows)?;
        self.grad_w13.expect(op, "grad_w13", &w13)?;
        self.grad_w2.expect(op, "grad_w2", &w2)?;
        self.grad_weights
            .expect(op, "grad_weights", &[count, shape.top_k])
    }

    fn bytes(&self, storage: usize) -> usize {
        let of = Elements::new(&self.shape, self.x.rows);
        storage * (3 * of.tokens + 2 * of.inner + 9 * of.w2) + 16 * of.slots
    }

    fn kernels(&self, load: &Load) -> Vec<KernelCost> {
        let [tokens, c, f, e, k] = sizes(self.x.rows, &self.shape);
        let (slots, row) = (tokens * k, load.storage * tokens * c);
        let half = load.storage;
        vec![
            KernelCost {
                name: "experts, gradient of the activation",
                families: &["experts_act_bwd", "experts_weights_bwd"],
                kind: Kind::Experts,
                flops: 2.0 * slots * c * f,
                bytes: row + half * (e * f * c + 5.0 * slots * f),
            },
            KernelCost {
                name: "experts, gradient of the input",
                families: &["experts_x_bwd"],
                kind: Kind::Experts,
                flops: 4.0 * slots * c * f,
                bytes: half * (2.0 * slots * f + 2.0 * e * f * c + slots * c),
            },
            KernelCost {
                name: "experts, gradient of the up weights",
                families: &["experts_w13_bwd"],
                kind: Kind::Experts,
                flops: 4.0 * slots * c * f,
                bytes: half * (2.0 * slots * f + 4.0 * e * f * c) + row,
            },
            KernelCost {
                name: "experts, gradient of the down weights",
                families: &["experts_w2_bwd"],
                kind: Kind::Experts,
                flops: 2.0 * slots * c * f,
                bytes: half * (slots * f + 2.0 * e * f * c) + row,
            },
            combine(half * slots * c + row),
        ]
    }
}

fn sizes(tokens: usize, shape: &MoeShape) -> [f64; 5] {
    let &MoeShape {
        hidden,
        intermediate,
        experts,
        top_k,
    } = shape;
    [tokens, hidden, intermediate, experts, top_k].map(|n| n as f64)
}

/// The sum of a token's slots, and of its residual in the forward pass.
fn combine(bytes: f64) -> KernelCost {
    KernelCost {
        name: "combining slots, both ways",
        families: &["experts_combine_fwd"],
        kind: Kind::Memory,
        flops: 0.0,
        bytes,
    }
}
