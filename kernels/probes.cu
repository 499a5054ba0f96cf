// probes.cu - one instruction or primitive per kernel, its registers written out as they come, so
// that tests can hold each wrapper of ptx.cuh and each primitive of the simulator to NVIDIA's
// tables: in the simulator, and on a card where there is one. No part of training. One warp per
// block.
#include "common.cuh"

/// out [blocks, 32, X] = what each lane gets from the `rows [blocks, 8 * X, 8]`.
VARIANTS(X = 1 | 2 | 4, Trans = false | true)
LAUNCH_BOUNDS(32)
template <int X, bool Trans>
KERNEL probe_ldmatrix(unsigned* out, const unsigned* rows) {
  SHARED(uint4, tile, [8 * X]);
  const int lane = threadIdx.x;
  if (lane < 8 * X) tile[lane] = reinterpret_cast<const uint4*>(rows)[blockIdx.x * 8 * X + lane];
  __syncwarp();
  uint32_t r[X];
  // x1 and x2 ignore the addresses of the other lanes, but they must be valid.
  const void* row = &tile[lane % (8 * X)];
  if constexpr (X == 1) ptx::ldmatrix_x1<Trans>(r, row);
  if constexpr (X == 2) ptx::ldmatrix_x2<Trans>(r, row);
  if constexpr (X == 4) ptx::ldmatrix_x4<Trans>(r, row);
  for (int m = 0; m < X; ++m) out[(blockIdx.x * 32 + lane) * X + m] = r[m];
}

/// c [blocks, 32, 4] += the product of the registers a [blocks, 32, 4] and b [blocks, 32, 2].
VARIANTS(T = f16 | bf16)
LAUNCH_BOUNDS(32)
template <class T>
KERNEL probe_mma(float* c, const T* a, const T* b) {
  const size_t at = blockIdx.x * 32 + threadIdx.x;
  uint32_t left[4], right[2];
  float sums[4];
  for (int i = 0; i < 4; ++i) left[i] = reinterpret_cast<const uint32_t*>(a)[at * 4 + i];
  for (int i = 0; i < 2; ++i) right[i] = reinterpret_cast<const uint32_t*>(b)[at * 2 + i];
  for (int i = 0; i < 4; ++i) sums[i] = c[at * 4 + i];
  ptx::mma_m16n8k16<T>(sums, left, right);
  for (int i = 0; i < 4; ++i) c[at * 4 + i] = sums[i];
}

/// out [6, 32, 4] = 16-byte slots filled by each copy in turn, over words of 0xeeeeeeee: 16 bytes,
/// without taking, the first `lane % 17` bytes, 8 bytes, 4 bytes, 4 bytes without taking. from [32,
/// 4].
extern "C" __global__ void __launch_bounds__(32)
    probe_cp_async(unsigned* out, const unsigned* from) {
  SHARED(uint4, slots, [6][32]);
  const int lane = threadIdx.x;
  for (int i = 0; i < 6; ++i)
    slots[i][lane] = make_uint4(0xeeeeeeeeu, 0xeeeeeeeeu, 0xeeeeeeeeu, 0xeeeeeeeeu);
  __syncwarp();
  const unsigned* mine = from + lane * 4;
  ptx::cp_async16(&slots[0][lane], mine);
  ptx::cp_async_commit();
  ptx::cp_async16(&slots[1][lane], mine, false);
  ptx::cp_async16_bytes(&slots[2][lane], mine, unsigned(lane % 17));
  ptx::cp_async_commit();
  ptx::cp_async8(&slots[3][lane], mine);
  ptx::cp_async4(&slots[4][lane], mine);
  ptx::cp_async_commit();
  ptx::cp_async4(&slots[5][lane], mine, false);
  ptx::cp_async_wait<2>();
  reinterpret_cast<uint4*>(out)[lane] = slots[0][lane];
  ptx::cp_async_wait<1>();
  for (int i = 1; i < 3; ++i) reinterpret_cast<uint4*>(out)[i * 32 + lane] = slots[i][lane];
  ptx::cp_async_wait_all();
  for (int i = 3; i < 6; ++i) reinterpret_cast<uint4*>(out)[i * 32 + lane] = slots[i][lane];
}

/// out [18, 32]: primitives of a warp, on the values in [32].
extern "C" __global__ void __launch_bounds__(32) probe_warp(unsigned* out, const unsigned* in) {
  const unsigned lane = threadIdx.x, all = ~0u, value = in[lane];
  unsigned row = 0;
  auto put = [&](unsigned result) { out[32 * row++ + lane] = result; };
  put(__shfl_sync(all, value, 5));
  put(__shfl_sync(all, value, int(lane) / 2));
  put(__shfl_sync(all, value, 3, 8));
  put(__shfl_xor_sync(all, value, 1));
  put(__shfl_xor_sync(all, value, 17));
  put(__shfl_xor_sync(all, value, 4, 8));
  put(__shfl_down_sync(all, value, 3));
  put(__shfl_down_sync(all, value, 3, 16));
  put(__shfl_up_sync(all, value, 2));
  put(__shfl_up_sync(all, value, 2, 8));
  put(__ballot_sync(all, value % 3 == 0));
  put(unsigned(__any_sync(all, value == in[7])));
  put(unsigned(__all_sync(all, value % 2 == 0)));
  put(__match_any_sync(all, value % 5));
  put(__reduce_add_sync(all, value));
  put(__reduce_max_sync(all, value));
  // Two halves of the warp with masks of their own.
  const unsigned half = lane < 16 ? 0x0000ffffu : 0xffff0000u;
  put(__ballot_sync(half, value % 2 == 0));
  put(__reduce_min_sync(half, value));
}

/// wide [blocks * 128] = narrow widened; narrowed = wide_in rounded.
VARIANTS(T = f16 | bf16)
LAUNCH_BOUNDS(128)
template <class T>
KERNEL probe_convert(float* wide, T* narrowed, const T* narrow, const float* wide_in, int count) {
  const int i = blockIdx.x * 128 + threadIdx.x;
  if (i >= count) return;
  wide[i] = to_float(narrow[i]);
  narrowed[i] = from_float<T>(wide_in[i]);
}

/// out = 2^in.
extern "C" __global__ void __launch_bounds__(128)
    probe_ex2(float* out, const float* in, int count) {
  const int i = blockIdx.x * 128 + threadIdx.x;
  if (i < count) out[i] = ptx::ex2_approx(in[i]);
}

/// out [2, 256] = sum and largest of 256 values, as every thread sees them, and out [2, 256] = how
/// many are positive.
extern "C" __global__ void __launch_bounds__(256) probe_block(float* out, const float* in) {
  const float value = in[threadIdx.x];
  out[threadIdx.x] = block_sum<256>(value) + block_sum<256>(1.0f);
  out[256 + threadIdx.x] =
      float(__syncthreads_count(value > 0)) + 1000.0f * float(__syncthreads_or(value > 100.0f)) +
      10000.0f * float(__syncthreads_and(value < 100.0f)) + 0.0f * warp_max(value);
}

/// out [4, 32] = warp_sum, the same by shuffles, warp_max, the same by shuffles.
extern "C" __global__ void __launch_bounds__(32) probe_reduce(float* out, const float* in) {
  const int lane = threadIdx.x;
  float sum = in[lane], largest = in[lane];
  out[lane] = warp_sum(sum);
  out[64 + lane] = warp_max(largest);
  for (int with = 16; with; with >>= 1) {
    sum += __shfl_xor_sync(~0u, sum, with);
    largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, with));
  }
  out[32 + lane] = sum;
  out[96 + lane] = largest;
}
