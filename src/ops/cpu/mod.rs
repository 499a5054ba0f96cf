//! Fast operations on the CPU: blocked products with register tiles for AVX2 and AVX-512,
//! everything else vectorised and spread over rayon's threads. The same bits whatever the number of
//! threads: sums are cut into parts of fixed size and added in order.

mod attention;
mod device;
mod embedding;
mod experts;
pub(crate) mod gemm;
mod head;
pub(crate) mod kernel;
mod linear;
mod memory;
mod optimizer;
mod rmsnorm;
mod rope;
mod router;
mod scratch;
mod shared;
pub(crate) mod simd;
mod small;

pub use kernel::MatmulPrecision;
pub use memory::HostBuffer;

/// Weights, activations and statistics.
type Floats = HostBuffer<f32>;
/// Tokens, positions and offsets.
type Indices = HostBuffer<u32>;

/// The CPU as a [`Device`](crate::ops::Device): every buffer is a [`HostBuffer`], all numbers are
/// `f32`.
#[derive(Default)]
pub struct CpuDevice {
    precision: MatmulPrecision,
    scratch: scratch::Scratch,
    rope: rope::RopeCache,
}

impl CpuDevice {
    /// The device; it computes on rayon's current pool.
    pub fn new() -> Self {
        Self::default()
    }

    /// As [`Self::new`], with the operands of large products rounded: those of projections, experts
    /// and the head's losses, except for the forward ones of up to 64 rows. Attention, the router,
    /// the head's logits and everything that is no product stay as they are.
    pub fn with_precision(precision: MatmulPrecision) -> Self {
        Self {
            precision,
            ..Self::default()
        }
    }
}
