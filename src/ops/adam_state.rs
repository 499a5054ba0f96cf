//! State of the optimizer for one tensor.

/// First and second moment of one tensor's gradient, and its `f32` master copy where the device
/// stores weights in fewer bits. Checkpoints hold all three as `f32`, so they move between devices.
pub struct AdamState<S> {
    /// Master copy; `None` where the weight itself is `f32`.
    pub master: Option<S>,
    /// Mean of the gradient.
    pub first: S,
    /// Mean of the squared gradient.
    pub second: S,
}
