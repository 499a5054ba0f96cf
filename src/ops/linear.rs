//! Linear layers: products with a weight `[outputs, inputs]`.

use anyhow::Result;

use super::operation::{KernelCost, Kind, Load, Operation};
use super::view::{Buffer, Matrix, MatrixMut, View};

/// `y = x weight^T (+ residual)`
pub struct LinearForward<'a, F> {
    /// `[rows, inputs]`
    pub x: Matrix<'a, F>,
    /// `[outputs, inputs]`
    pub weight: Matrix<'a, F>,
    /// `[rows, outputs]`
    pub residual: Option<Matrix<'a, F>>,
    /// `[rows, outputs]`
    pub y: MatrixMut<'a, F>,
}

/// `grad_x = grad_y weight`, or `+=` with `accumulate`.
pub struct LinearBackwardInput<'a, F> {
    /// `[rows, outputs]`
    pub grad_y: Matrix<'a, F>,
    /// `[outputs, inputs]`
    pub weight: Matrix<'a, F>,
    /// `[rows, inputs]`
    pub grad_x: MatrixMut<'a, F>,
    /// Whether the result is added to what is there.
    pub accumulate: bool,
}

/// `grad_weight += grad_y^T x`
pub struct LinearBackwardWeight<'a, F> {
    /// `[rows, outputs]`
    pub grad_y: Matrix<'a, F>,
    /// `[rows, inputs]`
    pub x: Matrix<'a, F>,
    /// `[outputs, inputs]`
    pub grad_weight: MatrixMut<'a, F>,
}

/// A projection's cost: `2 rows inputs outputs` FLOPs, and these elements.
fn projection(
    name: &'static str,
    families: &'static [&'static str],
    [rows, inputs, outputs]: [usize; 3],
    elements: usize,
    load: &Load,
) -> Vec<KernelCost> {
    vec![KernelCost {
        name,
        families,
        kind: Kind::Projection,
        flops: 2.0 * rows as f64 * inputs as f64 * outputs as f64,
        bytes: load.storage * elements as f64,
    }]
}

impl<F: Buffer> LinearForward<'_, F> {
    fn elements(&self) -> usize {
        let (rows, inputs, outputs) = (self.x.rows, self.x.cols, self.weight.rows);
        let residual = self.residual.map_or(0, |_| rows * outputs);
        rows * inputs + outputs * inputs + rows * outputs + residual
    }
}

impl<F: Buffer> Operation for LinearForward<'_, F> {
    const NAME: &'static str = "linear_forward";

    fn check(&self) -> Result<()> {
        let op = Self::NAME;
        let (rows, inputs, outputs) = (self.x.rows, self.x.cols, self.weight.rows);
        self.x.fits(op, "x")?;
        self.weight.expect(op, "weight", &[outputs, inputs])?;
        if let Some(residual) = &self.residual {
            residual.expect(op, "residual", &[rows, outputs])?;
        }
        self.y.expect(op, "y", &[rows, outputs])
    }

    fn bytes(&self, storage: usize) -> usize {
        storage * self.elements()
    }

    fn kernels(&self, load: &Load) -> Vec<KernelCost> {
        projection(
            "projections (queries, keys, values; attention's output)",
            &["linear_fwd"],
            [self.x.rows, self.x.cols, self.weight.rows],
            self.elements(),
            load,
        )
    }
}

impl<F: Buffer> LinearBackwardInput<'_, F> {
    fn elements(&self) -> usize {
        let (rows, outputs, inputs) = (self.grad_y.rows, self.grad_y.cols, self.grad_x.cols);
        let passes = 1 + usize::from(self.accumulate);
        rows * outputs + outputs * inputs + passes * rows * inputs
    }
}

impl<F: Buffer> Operation for LinearBackwardInput<'_, F> {
    const NAME: &'static str = "linear_backward_input";

    fn check(&self) -> Result<()> {
        let op = Self::NAME;
        let (rows, outputs, inputs) = (self.grad_y.rows, self.grad_y.cols, self.weight.cols);
        self.grad_y.fits(op, "grad_y")?;
        self.weight.expect(op, "weight", &[outputs, inputs])?;
        self.grad_x.expect(op, "grad_x", &[rows, inputs])
    }

    fn bytes(&self, storage: usize) -> usize {
        storage * self.elements()
    }

    fn kernels(&self, load: &Load) -> Vec<KernelCost> {
        projection(
            "projections, gradient of the input",
            &["linear_input_bwd"],
            [self.grad_y.rows, self.weight.cols, self.weight.rows],
            self.elements(),
            load,
        )
    }
}

impl<F: Buffer> LinearBackwardWeight<'_, F> {
    fn elements(&self) -> usize {
        let (rows, outputs, inputs) = (self.x.rows, self.grad_y.cols, self.x.cols);
        rows * outputs + rows * inputs + 2 * outputs * inputs
    }
}

impl<F: Buffer> Operation for LinearBackwardWeight<'_, F> {
    const NAME: &'static str = "linear_backward_weight";

    fn check(&self) -> Result<()> {
        let op = Self::NAME;
        let (rows, outputs, inputs) = (self.grad_y.rows, self.grad_y.cols, self.x.cols);
        self.grad_y.fits(op, "grad_y")?;
        self.x.expect(op, "x", &[rows, inputs])?;
        self.grad_weight
            .expect(op, "grad_weight", &[outputs, inputs])
    }

    fn bytes(&self, storage: usize) -> usize {
        storage * self.elements()
    }

    fn kernels(&self, load: &Load) -> Vec<KernelCost> {
        projection(
            "projections, gradient of the weights",
            &["linear_weight_bwd"],
            [self.x.rows, self.x.cols, self.grad_y.cols],
            self.elements(),
            load,
        )
    }
}
