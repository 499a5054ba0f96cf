//! Operations.

/// A target that carries no loss.
pub const IGNORE_TARGET: u32 = u32::MAX;
