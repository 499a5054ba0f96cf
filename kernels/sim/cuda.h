// cuda.h - what a kernel of ours may use of CUDA C++, for the host's compiler: qualifiers, built-in
// variables, vector and half types, warp and block primitives, integer atomics, fast mathematics.
// What is missing here does not compile in the simulator: add it with the meaning that NVIDIA's
// programming guide gives it, and a test.
#pragma once
#include <cmath>
#include <utility>

#include "fiber.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __restrict__ __restrict
#define __align__(n) alignas(n)
#define __CUDA_ALIGN__(n) alignas(n)

// Types -------------------------------------------------------------------------------------------

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};
#define SIM_VECTORS(T, name)                                 \
  struct name##2 { T x, y; };                                \
  struct name##4 { T x, y, z, w; };                          \
  inline name##2 make_##name##2(T x, T y) { return {x, y}; } \
  inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
SIM_VECTORS(float, float)
SIM_VECTORS(int, int)
SIM_VECTORS(unsigned, uint)
#undef SIM_VECTORS

inline uint32_t __float_as_uint(float value) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  return bits;
}
inline float __uint_as_float(uint32_t bits) {
  float value;
  memcpy(&value, &bits, 4);
  return value;
}
inline int __float_as_int(float value) { return int(__float_as_uint(value)); }
inline float __int_as_float(int bits) { return __uint_as_float(uint32_t(bits)); }

struct __half {
  uint16_t bits;
};
struct __nv_bfloat16 {
  uint16_t bits;
};

/// Exact.
inline float __half2float(__half value) {
  const uint32_t sign = uint32_t(value.bits & 0x8000u) << 16, rest = value.bits & 0x7fffu;
  if (rest >= 0x7c00u) return __uint_as_float(sign | 0x7f800000u | (rest & 0x3ffu) << 13);
  // The exponent is rebiased by a product, which also normalises subnormal numbers.
  return __uint_as_float(sign | __float_as_uint(__uint_as_float(rest << 13) * 0x1p112f));
}
/// To nearest, ties to even; beyond 65504 + 16 infinity; a NaN stays one.
inline __half __float2half(float value) {
  const uint32_t bits = __float_as_uint(value), sign = bits >> 16 & 0x8000u,
                 rest = bits & 0x7fffffffu;
  if (rest > 0x7f800000u) return {0x7fff};
  if (rest >= 0x477ff000u) return {uint16_t(sign | 0x7c00u)};
  if (rest < 0x38800000u) {
    // Below 2^-14: adding 0.5 leaves the 10-bit integer in the lowest bits, rounded.
    const uint32_t small = __float_as_uint(__uint_as_float(rest) + 0.5f) - 0x3f000000u;
    return {uint16_t(sign | small)};
  }
  return {uint16_t(sign | (rest - 0x38000000u + 0xfffu + (rest >> 13 & 1u)) >> 13)};
}
inline __half __float2half_rn(float value) { return __float2half(value); }
/// Exact.
inline float __bfloat162float(__nv_bfloat16 value) {
  return __uint_as_float(uint32_t(value.bits) << 16);
}
/// To nearest, ties to even; a NaN stays one.
inline __nv_bfloat16 __float2bfloat16(float value) {
  const uint32_t bits = __float_as_uint(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return {0x7fff};
  return {uint16_t((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16)};
}
inline __nv_bfloat16 __float2bfloat16_rn(float value) { return __float2bfloat16(value); }

// Built-in variables ------------------------------------------------------------------------------

namespace sim {
inline dim3 thread_index() { return {runner->current->thread, 0, 0}; }
inline dim3 block_index() { return {runner->block[0], runner->block[1], runner->block[2]}; }
inline dim3 block_size() { return {runner->request->threads, 1, 1}; }
inline dim3 grid_size() {
  const uint32_t* grid = runner->request->grid;
  return {grid[0], grid[1], grid[2]};
}
}  // namespace sim
#define threadIdx (::sim::thread_index())
#define blockIdx (::sim::block_index())
#define blockDim (::sim::block_size())
#define gridDim (::sim::grid_size())
constexpr int warpSize = 32;

// Shared memory -----------------------------------------------------------------------------------

// SHARED(float, sums, [4][8]) declares `__shared__ float sums[4][8]`. The key tells declarations
// apart; each instance of a template has its own.
#define SHARED(T, name, dims)                                                               \
  auto& name = *reinterpret_cast<typename ::sim::Array<T dims>::type*>(::sim::shared_array( \
      [] {                                                                                  \
        static char key;                                                                    \
        return static_cast<const void*>(&key);                                              \
      }(),                                                                                  \
      sizeof(T dims), ::sim::Site{__FILE__, __LINE__, "SHARED"}))
#define DYN_SMEM(T, name)                                                                  \
  T* name = reinterpret_cast<T*>(::sim::shared_array(&::sim::dynamic_key,                  \
                                                     ::sim::runner->request->shared_bytes, \
                                                     ::sim::Site{__FILE__, __LINE__, "DYN_SMEM"}))
namespace sim {
inline char dynamic_key;
template <class T>
struct Array {
  using type = T;
};
}  // namespace sim

// Barriers and warp primitives --------------------------------------------------------------------

inline void __syncthreads(SIM_HERE) { sim::barrier(SIM_SITE("__syncthreads"), 0); }
inline int __syncthreads_and(int predicate, SIM_HERE) {
  sim::barrier(SIM_SITE("__syncthreads_and"), predicate);
  return sim::runner->outcome[0];
}
inline int __syncthreads_or(int predicate, SIM_HERE) {
  sim::barrier(SIM_SITE("__syncthreads_or"), predicate);
  return sim::runner->outcome[1];
}
inline int __syncthreads_count(int predicate, SIM_HERE) {
  sim::barrier(SIM_SITE("__syncthreads_count"), predicate);
  return sim::runner->outcome[2];
}
inline void __syncwarp(unsigned mask = ~0u, SIM_HERE) {
  sim::collective(mask, SIM_SITE("__syncwarp"), nullptr, nullptr, [](sim::Gathering&) {});
}
inline void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
inline void __threadfence_block() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

namespace sim {
/// `source(lane)` is the lane whose value `lane` gets, itself where the primitive keeps its own.
template <class T, class Source>
T shuffle(unsigned mask, T value, Site at, Source&& source) {
  T result;
  collective(mask, at, &value, &result, [&](Gathering& group) {
    for (unsigned lane = 0; lane < kWarp; ++lane) {
      if (!(group.mask >> lane & 1)) continue;
      const unsigned from = source(lane);
      if (!(group.mask >> from & 1))
        fail(at, "%s with mask %08x: lane %u reads lane %u, which is not in it", at.what,
             group.mask, lane, from);
      memcpy(group.out[lane], group.in[from], sizeof(T));
    }
  });
  return result;
}
/// Runs `op(lane, value)` over all lanes in order and hands every lane what `result(lane)` says.
template <class T, class R, class Op, class Result>
R vote(unsigned mask, T value, Site at, Op&& op, Result&& result) {
  R mine;
  collective(mask, at, &value, &mine, [&](Gathering& group) {
    for (unsigned lane = 0; lane < kWarp; ++lane)
      if (group.mask >> lane & 1) op(lane, *static_cast<const T*>(group.in[lane]));
    for (unsigned lane = 0; lane < kWarp; ++lane)
      if (group.mask >> lane & 1)
        *static_cast<R*>(group.out[lane]) = result(*static_cast<const T*>(group.in[lane]));
  });
  return mine;
}
}  // namespace sim

template <class T>
T __shfl_sync(unsigned mask, T value, int from, int width = 32, SIM_HERE) {
  // Every lane names its own source, so the sources travel with the values.
  struct Given {
    T value;
    unsigned from;
  } given{value, unsigned(from)};
  T result;
  const sim::Site at = SIM_SITE("__shfl_sync");
  sim::collective(mask, at, &given, &result, [&](sim::Gathering& group) {
    for (unsigned lane = 0; lane < sim::kWarp; ++lane) {
      if (!(group.mask >> lane & 1)) continue;
      const unsigned w = unsigned(width), first = lane & ~(w - 1);
      const unsigned from = first + (static_cast<const Given*>(group.in[lane])->from & (w - 1));
      if (!(group.mask >> from & 1))
        sim::fail(at, "__shfl_sync with mask %08x: lane %u reads lane %u, which is not in it",
                  group.mask, lane, from);
      memcpy(group.out[lane], &static_cast<const Given*>(group.in[from])->value, sizeof(T));
    }
  });
  return result;
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int with, int width = 32, SIM_HERE) {
  return sim::shuffle(mask, value, SIM_SITE("__shfl_xor_sync"), [=](unsigned lane) {
    const unsigned from = lane ^ unsigned(with);
    return from / unsigned(width) > lane / unsigned(width) ? lane : from;
  });
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, SIM_HERE) {
  return sim::shuffle(mask, value, SIM_SITE("__shfl_down_sync"), [=](unsigned lane) {
    return lane % unsigned(width) + delta < unsigned(width) ? lane + delta : lane;
  });
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, SIM_HERE) {
  return sim::shuffle(mask, value, SIM_SITE("__shfl_up_sync"), [=](unsigned lane) {
    return lane % unsigned(width) >= delta ? lane - delta : lane;
  });
}

// The reductions of include/common.cuh as one meeting of the warp instead of five, with the same
// sums in the same order.
namespace sim {
template <class Op>
float warp_reduce(float value, Site at, Op&& op) {
  float result;
  collective(~0u, at, &value, &result, [&](Gathering& group) {
    float now[kWarp], next[kWarp];
    for (unsigned lane = 0; lane < kWarp; ++lane)
      now[lane] = *static_cast<const float*>(group.in[lane]);
    for (unsigned with = 16; with; with >>= 1) {
      for (unsigned lane = 0; lane < kWarp; ++lane) next[lane] = op(now[lane], now[lane ^ with]);
      memcpy(now, next, sizeof now);
    }
    for (unsigned lane = 0; lane < kWarp; ++lane) *static_cast<float*>(group.out[lane]) = now[lane];
  });
  return result;
}
}  // namespace sim
inline float warp_sum(float x, SIM_HERE) {
  return sim::warp_reduce(x, SIM_SITE("warp_sum"), [](float a, float b) { return a + b; });
}
inline float warp_max(float x, SIM_HERE) {
  return sim::warp_reduce(x, SIM_SITE("warp_max"), [](float a, float b) { return fmaxf(a, b); });
}

inline unsigned __ballot_sync(unsigned mask, int predicate, SIM_HERE) {
  unsigned all = 0;
  return sim::vote<int, unsigned>(
      mask, predicate, SIM_SITE("__ballot_sync"),
      [&](unsigned lane, int p) { all |= unsigned(p != 0) << lane; }, [&](int) { return all; });
}
inline int __any_sync(unsigned mask, int predicate, SIM_HERE) {
  int any = 0;
  return sim::vote<int, int>(
      mask, predicate, SIM_SITE("__any_sync"), [&](unsigned, int p) { any |= p != 0; },
      [&](int) { return any; });
}
inline int __all_sync(unsigned mask, int predicate, SIM_HERE) {
  int all = 1;
  return sim::vote<int, int>(
      mask, predicate, SIM_SITE("__all_sync"), [&](unsigned, int p) { all &= p != 0; },
      [&](int) { return all; });
}
template <class T>
unsigned __match_any_sync(unsigned mask, T value, SIM_HERE) {
  T values[sim::kWarp] = {};
  unsigned present = 0;
  return sim::vote<T, unsigned>(
      mask, value, SIM_SITE("__match_any_sync"),
      [&](unsigned lane, T v) {
        values[lane] = v;
        present |= 1u << lane;
      },
      [&](T mine) {
        unsigned same = 0;
        for (unsigned lane = 0; lane < sim::kWarp; ++lane)
          if (present >> lane & 1 && values[lane] == mine) same |= 1u << lane;
        return same;
      });
}
#define SIM_REDUCE(name, expression)         \
  template <class T>                         \
  T name(unsigned mask, T value, SIM_HERE) { \
    T all{};                                 \
    bool first = true;                       \
    return sim::vote<T, T>(                  \
        mask, value, SIM_SITE(#name),        \
        [&](unsigned, T v) {                 \
          all = first ? v : T(expression);   \
          first = false;                     \
        },                                   \
        [&](T) { return all; });             \
  }
SIM_REDUCE(__reduce_add_sync, all + v)
SIM_REDUCE(__reduce_min_sync, v < all ? v : all)
SIM_REDUCE(__reduce_max_sync, v > all ? v : all)
SIM_REDUCE(__reduce_or_sync, all | v)
SIM_REDUCE(__reduce_and_sync, all& v)
#undef SIM_REDUCE

// Atomics: integers only. A sum of floats in the order of arrival would differ from run to run. ---

inline int atomicAdd(int* at, int value) { return __atomic_fetch_add(at, value, __ATOMIC_RELAXED); }
inline unsigned atomicAdd(unsigned* at, unsigned value) {
  return __atomic_fetch_add(at, value, __ATOMIC_RELAXED);
}
inline unsigned atomicOr(unsigned* at, unsigned value) {
  return __atomic_fetch_or(at, value, __ATOMIC_RELAXED);
}
inline unsigned atomicAnd(unsigned* at, unsigned value) {
  return __atomic_fetch_and(at, value, __ATOMIC_RELAXED);
}
inline unsigned atomicExch(unsigned* at, unsigned value) {
  return __atomic_exchange_n(at, value, __ATOMIC_RELAXED);
}
inline unsigned atomicCAS(unsigned* at, unsigned expected, unsigned value) {
  __atomic_compare_exchange_n(at, &expected, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
  return expected;
}
inline unsigned atomicMax(unsigned* at, unsigned value) {
  unsigned old = __atomic_load_n(at, __ATOMIC_RELAXED);
  while (old < value &&
         !__atomic_compare_exchange_n(at, &old, value, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
  return old;
}
inline unsigned atomicMin(unsigned* at, unsigned value) {
  unsigned old = __atomic_load_n(at, __ATOMIC_RELAXED);
  while (old > value &&
         !__atomic_compare_exchange_n(at, &old, value, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
  return old;
}

// Arithmetic --------------------------------------------------------------------------------------

inline float __expf(float x) { return expf(x); }
inline float __exp2f(float x) { return exp2f(x); }
inline float __logf(float x) { return logf(x); }
inline float __log2f(float x) { return log2f(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline void sincospif(float x, float* s, float* c) {
  *s = float(std::sin(3.14159265358979323846 * x));
  *c = float(std::cos(3.14159265358979323846 * x));
}
using std::isfinite;
using std::isinf;
using std::isnan;
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __clz(int x) { return x ? __builtin_clz(unsigned(x)) : 32; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned(uint64_t(a) * b >> 32); }
template <class T>
T __ldg(const T* at) {
  return *at;
}
inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }
inline unsigned min(unsigned a, unsigned b) { return a < b ? a : b; }
inline unsigned max(unsigned a, unsigned b) { return a > b ? a : b; }
inline size_t min(size_t a, size_t b) { return a < b ? a : b; }
inline size_t max(size_t a, size_t b) { return a > b ? a : b; }
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
