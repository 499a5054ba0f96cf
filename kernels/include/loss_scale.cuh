// loss_scale.cuh - places in the device's loss-scale state, f32: gradients are kept times the
// scale, so that small ones survive fp16, and nobody on the host waits for it.
#pragma once
#include "kernel.cuh"

/// What gradients are multiplied by where they begin: in the head and in the load-balancing loss.
TO_HOST constexpr int kLossScale = 0;
/// 1 / the scale that the gradients of the newest global norm were made with: what AdamW multiplies
/// them by.
TO_HOST constexpr int kInverseScale = 1;
/// Norms without overflow since the scale changed last.
TO_HOST constexpr int kGoodSteps = 2;
/// 1 where the newest norm is not finite, else 0.
TO_HOST constexpr int kOverflow = 3;
/// Norms without overflow after which the scale doubles; 0: it never changes.
TO_HOST constexpr int kGrowthInterval = 4;
/// Elements of the state.
TO_HOST constexpr int kStateLength = 8;
