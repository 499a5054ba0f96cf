// faults.cu - kernels with one mistake each, and a few without. tests/cuda/faults.rs says what the simulator must find.
// All take out [n], in [n], n, and scratch memory that nobody wrote; 64 threads.
#include "common.cuh"

#define FAULT(name)                        \
  extern "C" __global__ void __launch_bounds__(64) MAX_DYN_SMEM(1024) \
      name(float* out, const float* in, int n, float* scratch)

// No mistake: neighbours through shared memory.
FAULT(right) {
  SHARED(float, tile, [64]);
  const int t = threadIdx.x;
  tile[t] = in[t];
  __syncthreads();
  out[t] = tile[(t + 1) % 64];
}
// No mistake: some lanes return before the others meet, and the others say so.
FAULT(early_return) {
  const int t = threadIdx.x;
  if (t % 32 >= 24) return;
  const float sum = in[t] + __shfl_xor_sync(0x00ffffffu, in[t], 7);
  __syncthreads();
  out[t] = sum;
}
// No mistake: scratch memory written before it is read, and only there.
FAULT(scratch_right) {
  const int t = threadIdx.x;
  if (t < 32) scratch[t] = in[t];
  __syncthreads();
  out[t] = scratch[t % 32];
}

FAULT(missing_barrier) {
  SHARED(float, tile, [64]);
  const int t = threadIdx.x;
  tile[t] = in[t];
  out[t] = tile[(t + 33) % 64];
}
// The second round may overwrite what a slower warp still reads.
FAULT(overwritten_early) {
  SHARED(float, tile, [64]);
  const int t = threadIdx.x;
  float sum = 0;
  for (int round = 0; round < 2; ++round) {
    tile[t] = in[t] + float(round);
    __syncthreads();
    sum += tile[63 - t];
  }
  out[t] = sum;
}
FAULT(divergent_barrier) {
  if (threadIdx.x < 32)
    __syncthreads();
  else
    __syncthreads();
  out[threadIdx.x] = 0;
}
FAULT(deadlock) {
  if (threadIdx.x == 40)
    __syncthreads();
  else if (threadIdx.x >= 32)
    __syncwarp();
  out[threadIdx.x] = 0;
}
FAULT(lane_returned) {
  if (threadIdx.x == 3) return;
  out[threadIdx.x] = warp_sum(in[threadIdx.x]);
}
FAULT(divergent_warp) {
  const int t = threadIdx.x;
  float x = in[t];
  if (t % 2)
    x += __shfl_xor_sync(~0u, x, 1);
  else
    x -= __shfl_xor_sync(~0u, x, 1);
  out[t] = x;
}
FAULT(masks_differ) {
  const int t = threadIdx.x;
  out[t] = __shfl_xor_sync(t % 32 < 8 ? 0xffffffffu : 0xffffff00u, in[t], 1);
}
FAULT(not_in_mask) {
  const int t = threadIdx.x;
  out[t] = __shfl_xor_sync(0x0000ffffu, in[t], 1);
}
FAULT(reads_lane_outside) {
  const int t = threadIdx.x;
  float x = 0;
  if (t % 32 < 8) x = __shfl_sync(0x000000ffu, in[t], 9);
  out[t] = x;
}

FAULT(writes_behind) { out[threadIdx.x == 63 ? n : int(threadIdx.x)] = 1; }
FAULT(writes_before) { out[int(threadIdx.x) - (threadIdx.x == 0)] = 1; }
FAULT(reads_behind) { out[threadIdx.x] = in[threadIdx.x + 1]; }
FAULT(reads_unwritten_scratch) { out[threadIdx.x] = scratch[threadIdx.x]; }
FAULT(reads_unwritten_shared) {
  SHARED(float, tile, [64]);
  const int t = threadIdx.x;
  if (t < 63) tile[t] = in[t];
  __syncthreads();
  out[t] = fmaxf(tile[t], in[t]);
}
FAULT(reads_unwritten_dynamic) {
  DYN_SMEM(float, tile);
  out[threadIdx.x] = tile[threadIdx.x];
}
FAULT(shared_out_of_bounds) {
  SHARED(float, tile, [64]);
  tile[threadIdx.x + 1] = in[threadIdx.x];
  __syncthreads();
  out[threadIdx.x] = tile[1];
}
FAULT(too_much_shared) {
  SHARED(float, tile, [26000]);
  tile[threadIdx.x] = 1;
  out[threadIdx.x] = tile[threadIdx.x];
}
FAULT(blocks_meet) {
  // Block 1 reads what block 0 writes.
  if (blockIdx.x == 0) out[threadIdx.x] = in[threadIdx.x];
  if (blockIdx.x == 1) scratch[threadIdx.x] = out[threadIdx.x];
}

FAULT(copy_not_waited) {
  SHARED(float, tile, [256]);
  const int t = threadIdx.x;
  if (t < 16) ptx::cp_async16(&tile[4 * t], &in[4 * t]);
  ptx::cp_async_commit();
  ptx::cp_async_wait<1>();
  __syncthreads();
  out[t] = tile[t];
  ptx::cp_async_wait<0>();
}
FAULT(copy_without_barrier) {
  SHARED(float, tile, [256]);
  const int t = threadIdx.x;
  if (t < 16) ptx::cp_async16(&tile[4 * t], &in[4 * t]);
  ptx::cp_async_wait_all();
  out[t] = tile[t];
}
FAULT(copy_in_flight) {
  SHARED(float, tile, [256]);
  ptx::cp_async16(&tile[4 * threadIdx.x], in);
  ptx::cp_async_commit();
  out[threadIdx.x] = 0;
}
FAULT(copy_misaligned) {
  SHARED(float, tile, [256]);
  ptx::cp_async16(&tile[4 * threadIdx.x], in + 1);
  ptx::cp_async_wait_all();
  out[threadIdx.x] = tile[4 * threadIdx.x];
}
// The source changes between the copy and its wait.
FAULT(copy_source_changes) {
  SHARED(float, tile, [256]);
  const int t = threadIdx.x;
  scratch[t] = in[t];
  __syncthreads();
  if (t < 16) ptx::cp_async16(&tile[4 * t], &scratch[4 * t]);
  __syncthreads();
  scratch[t] = 0;
  ptx::cp_async_wait_all();
  __syncthreads();
  out[t] = tile[t];
}
FAULT(matrix_misaligned) {
  SHARED(float, tile, [512]);
  for (int i = threadIdx.x; i < 512; i += 64) tile[i] = 0;
  __syncthreads();
  uint32_t r[4];
  ptx::ldmatrix_x4<false>(r, &tile[threadIdx.x * 2]);
  out[threadIdx.x] = float(r[0]);
}
FAULT(vector_misaligned) { out[threadIdx.x] = load16(in + 1).v[0]; }
