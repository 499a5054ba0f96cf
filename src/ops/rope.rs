//! Rotary position embedding (Su et al. 2021), half-split form: elements `i` and `i + D/2` of a
//! head turn by `position * theta^(-2i/D)`.

use anyhow::{Result, ensure};

use super::attention::AttentionShape;
use super::checks::expect_attention_shape;
use super::operation::{KernelCost, Kind, Load, Operation};
use super::view::{Buffer, IndexBuffer, MatrixMut, Vector, View};

/// Rotates queries and keys in place.
pub struct RopeForward<'a, F, I> {
    /// `[T, (H + 2G) D]`
    pub qkv: MatrixMut<'a, F>,
    /// `[T]`
    pub positions: Vector<'a, I>,
    /// Base of the frequencies.
    pub theta: f32,
    /// Heads.
    pub shape: AttentionShape,
}

/// The inverse rotation of the gradients of queries and keys, in place.
pub struct RopeBackward<'a, F, I> {
    /// `[T, (H + 2G) D]`
    pub grad_qkv: MatrixMut<'a, F>,
    /// `[T]`
    pub positions: Vector<'a, I>,
    /// Base of the frequencies.
    pub theta: f32,
    /// Heads.
    pub shape: AttentionShape,
}

fn check<F: Buffer, I: IndexBuffer>(
    op: &str,
    name: &str,
    qkv: &MatrixMut<'_, F>,
    positions: &Vector<'_, I>,
    theta: f32,
    shape: &AttentionShape,
) -> Result<()> {
    expect_attention_shape(op, shape)?;
    ensure!(
        theta.is_finite() && theta > 0.0,
        "{op}: theta is {theta}, it must be finite and positive"
    );
    positions.fits(op, "positions")?;
    qkv.expect(op, name, &[positions.len, shape.qkv_size()])
}

/// Elements of the rotated columns.
fn rotated(count: usize, shape: &AttentionShape) -> usize {
    count * (shape.heads + shape.kv_heads) * shape.head_dim
}

fn bytes(count: usize, shape: &AttentionShape, storage: usize) -> usize {
    2 * storage * rotated(count, shape) + 4 * count
}

fn kernels(count: usize, shape: &AttentionShape, load: &Load) -> Vec<KernelCost> {
    vec![KernelCost {
        name: "rotary embedding, both ways",
        families: &["rope_fwd", "rope_bwd"],
        kind: Kind::Memory,
        flops: 0.0,
        bytes: 2.0 * load.storage * rotated(count, shape) as f64,
    }]
}

impl<F: Buffer, I: IndexBuffer> Operation for RopeForward<'_, F, I> {
    const NAME: &'static str = "rope_forward";

    fn check(&self) -> Result<()> {
        let (qkv, positions) = (&self.qkv, &self.positions);
        check(Self::NAME, "qkv", qkv, positions, self.theta, &self.shape)
    }

    fn bytes(&self, storage: usize) -> usize {
        bytes(self.positions.len, &self.shape, storage)
    }

    fn kernels(&self, load: &Load) -> Vec<KernelCost> {
        kernels(self.positions.len, &self.shape, load)
    }
}

impl<F: Buffer, I: IndexBuffer> Operation for RopeBackward<'_, F, I> {
    const NAME: &'static str = "rope_backward";

    fn check(&self) -> Result<()> {
        let (name, qkv) = ("grad_qkv", &self.grad_qkv);
        check(
            Self::NAME,
            name,
            qkv,
            &self.positions,
            self.theta,
            &self.shape,
        )
    }

    fn bytes(&self, storage: usize) -> usize {
        bytes(self.positions.len, &self.shape, storage)
    }

    fn kernels(&self, load: &Load) -> Vec<KernelCost> {
        kernels(self.positions.len, &self.shape, load)
    }
}
