//! Fast operations on the CPU: blocked products with register tiles for AVX2 and AVX-512, everything else vectorised and
//! spread over rayon's threads. The same bits whatever the number of threads: sums are cut into parts of fixed size and
//! added in order.

mod attention;
mod device;
pub mod gemm;
mod head;
pub mod kernel;
mod memory;
mod moe;
mod norm;
mod optimizer;
mod rope;
mod scratch;
mod shared;
pub mod simd;
mod small;

pub use memory::Buffer;

pub use kernel::Factors;

/// The CPU as a [`Device`](crate::ops::Device): every buffer is a [`Buffer`], all numbers are `f32`.
#[derive(Default)]
pub struct CpuDevice {
    factors: Factors,
    scratch: scratch::Scratch,
    rope: rope::RopeCache,
}

impl CpuDevice {
    /// The device; it computes on rayon's current pool.
    pub fn new() -> Self {
        Self::default()
    }

    /// As [`Self::new`], with the factors of large products rounded: those of projections, experts and the head's losses, except for
    /// the forward ones of up to 64 rows. Attention, the router, `head_logits` and everything that is no product stay as they are.
    pub fn with_factors(factors: Factors) -> Self {
        Self {
            factors,
            ..Self::default()
        }
    }
}
