// loss_scale.cuh - the device's loss-scale state, f32 [kLossScaleState]. Gradients of activations and weights are kept times
// the scale, so that they fit 16 bits; the update divides by it. Nobody on the host waits for it.
#pragma once

/// What losses' gradients are multiplied by where they begin: in the head and in the load-balancing loss.
constexpr int kLossScale = 0;
/// 1 / the scale.
constexpr int kInverseScale = 1;
/// Updates since the scale changed last.
constexpr int kGoodSteps = 2;
/// Updates that were left out because a gradient was not finite, since the start.
constexpr int kSkippedSteps = 3;
/// 1 / the scale that the gradients of the last global norm carry: the update of the scale comes before AdamW reads this.
constexpr int kUnscale = 4;
constexpr int kLossScaleState = 8;
