// common.cuh - what every kernel needs: conversions, 16-byte vectors, reductions in a fixed order.
#pragma once
#include "kernel.cuh"
#include "ptx.cuh"

/// Widens; exact.
__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(__half x) { return __half2float(x); }
__device__ __forceinline__ float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }

/// Rounds to nearest, ties to even.
template <class T>
__device__ __forceinline__ T from_float(float x);
template <>
__device__ __forceinline__ float from_float<float>(float x) {
  return x;
}
template <>
__device__ __forceinline__ __half from_float<__half>(float x) {
  return __float2half_rn(x);
}
template <>
__device__ __forceinline__ __nv_bfloat16 from_float<__nv_bfloat16>(float x) {
  return __float2bfloat16_rn(x);
}

/// Bytes that one thread moves at once.
TO_HOST constexpr int kPackBytes = 16;

/// kPackBytes of T.
template <class T>
struct __align__(16) Pack {
  static constexpr int kCount = kPackBytes / sizeof(T);
  T v[kCount];
};

/// True where 16-byte accesses to `p` are possible.
__device__ __forceinline__ bool aligned16(const void* p) {
  return (reinterpret_cast<uintptr_t>(p) & 15) == 0;
}

/// Reads 16 bytes; `p` is a multiple of 16.
template <class T>
__device__ __forceinline__ Pack<T> load16(const T* p) {
#ifndef __CUDACC__
  if (!aligned16(p))
    sim::fail(sim::Site{__FILE__, __LINE__, "load16"},
              "load16: the address is not a multiple of 16");
#endif
  return *reinterpret_cast<const Pack<T>*>(p);
}

/// Writes 16 bytes; `p` is a multiple of 16.
template <class T>
__device__ __forceinline__ void store16(T* p, const Pack<T>& pack) {
#ifndef __CUDACC__
  if (!aligned16(p))
    sim::fail(sim::Site{__FILE__, __LINE__, "store16"},
              "store16: the address is not a multiple of 16");
#endif
  *reinterpret_cast<Pack<T>*>(p) = pack;
}

/// Two values in one register, the first in the lower half: half an operand of mma.
template <class T>
__device__ __forceinline__ uint32_t pack2(float low, float high) {
  struct __align__(4) {
    T v[2];
  } both{{from_float<T>(low), from_float<T>(high)}};
  return *reinterpret_cast<uint32_t*>(&both);
}

#ifdef __CUDACC__  // the simulator's are in sim/cuda.h
/// Sum over the warp, the same bits in every lane. All 32 lanes.
__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
  for (int o = 16; o; o >>= 1) x += __shfl_xor_sync(~0u, x, o);
  return x;
}

/// Largest of the warp, in every lane; NaNs are passed over. All 32 lanes.
__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
  for (int o = 16; o; o >>= 1) x = fmaxf(x, __shfl_xor_sync(~0u, x, o));
  return x;
}
#endif

/// Sum over a block of `Threads` threads, a multiple of 32, the same bits in every thread. All
/// threads; may be called again at once.
template <int Threads>
__device__ __forceinline__ float block_sum(float x) {
  SHARED(float, parts, [Threads / 32]);
  x = warp_sum(x);
  __syncthreads();  // an earlier call's parts have been read
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
  __syncthreads();
  float sum = 0;
#pragma unroll
  for (int w = 0; w < Threads / 32; ++w) sum += parts[w];
  return sum;
}
