//! RMSNorm (Zhang & Sennrich 2019) over the columns of each row.

use anyhow::Result;

use super::checks::expect_nonzero;
use super::operation::{KernelCost, Kind, Load, Operation, SINGLE};
use super::view::{Buffer, Matrix, MatrixMut, Vector, VectorMut, View};

/// `inv_rms[r] = 1 / sqrt(mean_c x[r,c]^2 + epsilon)`, `out[r,c] = x[r,c] inv_rms[r] weight[c]`.
pub struct RmsNormForward<'a, F, S> {
    /// `[R, C]`
    pub x: Matrix<'a, F>,
    /// `[C]`
    pub weight: Vector<'a, F>,
    /// Added to the mean square.
    pub epsilon: f32,
    /// `[R, C]`
    pub out: MatrixMut<'a, F>,
    /// `[R]`
    pub inv_rms: VectorMut<'a, S>,
}

/// With `n = x inv_rms`, `g = grad_out weight`: `grad_x += inv_rms (g - n mean_c(g n))`,
/// `grad_weight += sum_r grad_out n`.
pub struct RmsNormBackward<'a, F, S> {
    /// `[R, C]`
    pub grad_out: Matrix<'a, F>,
    /// `[R, C]`
    pub x: Matrix<'a, F>,
    /// `[C]`
    pub weight: Vector<'a, F>,
    /// `[R]`
    pub inv_rms: Vector<'a, S>,
    /// `[R, C]`
    pub grad_x: MatrixMut<'a, F>,
    /// `[C]`
    pub grad_weight: VectorMut<'a, F>,
}

impl<F: Buffer, S: Buffer> Operation for RmsNormForward<'_, F, S> {
    const NAME: &'static str = "rmsnorm_forward";

    fn check(&self) -> Result<()> {
        let op = Self::NAME;
        let (rows, cols) = (self.x.rows, self.x.cols);
        expect_nonzero(op, "the number of columns", cols)?;
        self.x.fits(op, "x")?;
        self.weight.expect(op, "weight", &[cols])?;
        self.out.expect(op, "out", &[rows, cols])?;
        self.inv_rms.expect(op, "inv_rms", &[rows])
    }

    fn bytes(&self, storage: usize) -> usize {
        let (rows, cols) = (self.x.rows, self.x.cols);
        storage * (2 * rows + 1) * cols + 4 * rows
    }

    fn kernels(&self, load: &Load) -> Vec<KernelCost> {
        let rows = self.x.rows as f64;
        let row = load.storage * rows * self.x.cols as f64;
        vec![KernelCost {
            name: "norms",
            families: &["rmsnorm_fwd"],
            kind: Kind::Memory,
            flops: 0.0,
            bytes: 2.0 * row + rows * SINGLE,
        }]
    }
}

impl<F: Buffer, S: Buffer> Operation for RmsNormBackward<'_, F, S> {
    const NAME: &'static str = "rmsnorm_backward";

    fn check(&self) -> Result<()> {
        let op = Self::NAME;
        let (rows, cols) = (self.x.rows, self.x.cols);
        expect_nonzero(op, "the number of columns", cols)?;
        self.grad_out.expect(op, "grad_out", &[rows, cols])?;
        self.x.fits(op, "x")?;
        self.weight.expect(op, "weight", &[cols])?;
        self.inv_rms.expect(op, "inv_rms", &[rows])?;
        self.grad_x.expect(op, "grad_x", &[rows, cols])?;
        self.grad_weight.expect(op, "grad_weight", &[cols])
    }

    fn bytes(&self, storage: usize) -> usize {
        let (rows, cols) = (self.x.rows, self.x.cols);
        storage * (4 * rows + 3) * cols + 4 * rows
    }

    fn kernels(&self, load: &Load) -> Vec<KernelCost> {
        let rows = self.x.rows as f64;
        let row = load.storage * rows * self.x.cols as f64;
        vec![KernelCost {
            name: "norms, backward",
            families: &["rmsnorm_bwd", "rmsnorm_bwd_sum"],
            kind: Kind::Memory,
            flops: 0.0,
            bytes: 4.0 * row + rows * SINGLE,
        }]
    }
}
