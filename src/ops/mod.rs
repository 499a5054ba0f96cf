//! The operation set: everything the model and the trainer compute, each operation a value with its
//! operands.
//!
//! A file per family says what its operations are: formula, shapes, check, cost. [`issue`] checks
//! an operation once and hands it to a device, which implements [`Run`] for it in the file of the
//! same name: `cpu` is fast, `cuda` launches kernels, `reference` is slow and obvious, and
//! `conformance` holds the others to it. `model` and `train` are written once over [`Operations`].
//!
//! Rules
//! - Matrices are row-major and dense; a weight is `[out, in]`, an activation `[tokens, features]`.
//! - Buffers may be longer than their view: an operation reads and writes the view only.
//! - `=` or `+=` is said per output. Gradients of weights are always `+=`: they are made of zeros,
//!   and the update that has used them leaves zeros behind.

mod adam_state;
mod attention;
pub(crate) mod checks;
pub mod conformance;
pub mod cpu;
pub mod cuda;
mod device;
mod embedding;
mod experts;
mod head;
mod linear;
mod loss_scaler;
mod operation;
mod optimizer;
mod planner;
mod recorder;
pub mod reference;
mod rmsnorm;
mod rope;
mod router;
mod view;

pub use adam_state::AdamState;
pub use attention::{
    AttentionBackward, AttentionDecode, AttentionForward, AttentionPrefill, AttentionShape,
    CachedSequence,
};
pub use device::Device;
pub use embedding::{EmbeddingBackward, EmbeddingForward};
pub use experts::{ExpertsBackward, ExpertsForward};
pub(crate) use head::HEAD_CHUNK;
pub use head::{HeadLogits, HeadLoss, HeadLosses, IGNORE_TARGET};
pub use linear::{LinearBackwardInput, LinearBackwardWeight, LinearForward};
pub(crate) use loss_scaler::LossScale;
pub use loss_scaler::LossScaler;
pub use operation::{Checked, Operation, Run, issue};
pub(crate) use operation::{KernelCost, Kind, Load};
pub use optimizer::{AdamStep, AdamW, GlobalNorm};
pub use planner::{MemoryClass, Planner};
pub(crate) use planner::{MemoryUse, allocating};
pub use recorder::Recorder;
pub use rmsnorm::{RmsNormBackward, RmsNormForward};
pub use rope::{RopeBackward, RopeForward};
pub use router::{Balance, MoeShape, RouterBackward, RouterForward, Routing};
pub use view::{Buffer, Offsets};
pub(crate) use view::{IndexBuffer, Matrix, MatrixMut, Vector, VectorMut};

/// A device that a model can be trained on.
pub trait TrainingDevice: Operations + Recorder + Planner + LossScaler {}
impl<D: Operations + Recorder + Planner + LossScaler> TrainingDevice for D {}

/// Lists the operations: the bound of model code, and the list of those that a device implements.
macro_rules! operations {
    ($($operation:ident<$lifetime:lifetime $(, $buffer:ident)*>,)*) => {
        /// A device that computes every operation. The only bound that model code needs.
        pub trait Operations: Device
        where
            $(for<'a> Self: Run<$operation<'a $(, <Self as Device>::$buffer)*>>,)*
        {
        }
        impl<D: Device> Operations for D
        where
            $(for<'a> D: Run<$operation<'a $(, <D as Device>::$buffer)*>>,)*
        {
        }
    };
}
operations! {
    EmbeddingForward<'a, Float, Index>,
    EmbeddingBackward<'a, Float, Index>,
    RmsNormForward<'a, Float, Single>,
    RmsNormBackward<'a, Float, Single>,
    LinearForward<'a, Float>,
    LinearBackwardInput<'a, Float>,
    LinearBackwardWeight<'a, Float>,
    RopeForward<'a, Float, Index>,
    RopeBackward<'a, Float, Index>,
    AttentionForward<'a, Float, Single, Index>,
    AttentionBackward<'a, Float, Single, Index>,
    AttentionPrefill<'a, Float>,
    AttentionDecode<'a, Float>,
    RouterForward<'a, Float, Single, Index>,
    RouterBackward<'a, Float, Single, Index>,
    ExpertsForward<'a, Float, Single, Index>,
    ExpertsBackward<'a, Float, Single, Index>,
    HeadLoss<'a, Float, Single, Index>,
    HeadLosses<'a, Float, Single, Index>,
    HeadLogits<'a, Float, Single>,
    GlobalNorm<'a, Float, Single>,
    AdamW<'a, Float, Single>,
}
