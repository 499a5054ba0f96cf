// scan.cuh - counting sort's pieces: prefix sums and ranks within a warp.
#pragma once
#include "common.cuh"

/// Sum over this lane and those before it. All 32 lanes.
__device__ __forceinline__ unsigned warp_prefix_sum(unsigned value) {
#pragma unroll
  for (int o = 1; o < 32; o *= 2) {
    const unsigned before = __shfl_up_sync(~0u, value, o);
    if (int(threadIdx.x % 32) >= o) value += before;
  }
  return value;
}

/// Places the lanes that are `valid` behind those already counted: returns counts[key] plus the
/// number of valid lanes before this one with the same key, and then adds to counts. So walking
/// items in order, 32 at a time, sorts them stably. `counts` belongs to this warp. All 32 lanes.
__device__ __forceinline__ unsigned take_place(unsigned* counts, unsigned key, bool valid) {
  const unsigned lane = threadIdx.x % 32;
  // What is not valid matches only itself and its like.
  const unsigned peers = __match_any_sync(~0u, valid ? key : ~0u);
  const unsigned before = __popc(peers & ((1u << lane) - 1));
  const unsigned place = valid ? counts[key] + before : 0;
  __syncwarp();
  if (valid && before == 0) counts[key] += __popc(peers);
  __syncwarp();
  return place;
}
