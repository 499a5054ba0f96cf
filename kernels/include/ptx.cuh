// ptx.cuh - the only file with inline PTX: one function per instruction, named after it. The host bodies, for the simulator,
// stand in ../sim/ptx.h with the same signatures. Section numbers are those of "Parallel Thread Execution ISA" 8.x.
#pragma once

#ifndef __CUDACC__
#include "../sim/ptx.h"
#else

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

// Shared memory. SHARED(float, sums, [4][8]) is `__shared__ float sums[4][8]`; DYN_SMEM(T, name) is the launch's dynamic
// shared memory, 128-byte aligned. A kernel that uses it says MAX_DYN_SMEM(bytes) behind its launch bounds: no launch gets
// more, and the table of docs/generated/kernels.md counts it.
#define SHARED(T, name, dims) __shared__ T name dims
#define DYN_SMEM(T, name)                                      \
  extern __shared__ __align__(128) unsigned char dyn_smem_[]; \
  T* name = reinterpret_cast<T*>(dyn_smem_)
#define MAX_DYN_SMEM(bytes)

namespace ptx {

__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// 9.7.9.25 cp.async: global to shared, past the registers. The destination may not be read before the wait, nor by other
// threads before a barrier after it. Without `take` the source is not read and zeros arrive.

/// 16 bytes, cached in L2 only; both addresses are multiples of 16.
__device__ __forceinline__ void cp_async16(void* to, const void* from, bool take = true) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(take ? 16 : 0)
               : "memory");
}
/// 16 bytes, of which the first `bytes` (0 to 16) are read and the others arrive as zeros.
__device__ __forceinline__ void cp_async16_bytes(void* to, const void* from, unsigned bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(bytes)
               : "memory");
}
/// 8 bytes; both addresses are multiples of 8.
__device__ __forceinline__ void cp_async8(void* to, const void* from, bool take = true) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(shared_address(to)), "l"(from), "r"(take ? 8 : 0)
               : "memory");
}
/// 4 bytes; both addresses are multiples of 4.
__device__ __forceinline__ void cp_async4(void* to, const void* from, bool take = true) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(to)), "l"(from), "r"(take ? 4 : 0)
               : "memory");
}
/// Closes the group of this thread's copies since the last commit.
__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/// Waits until at most the N newest groups of this thread are under way.
template <int N>
__device__ __forceinline__ void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}
/// Waits for all copies of this thread, committed or not.
__device__ __forceinline__ void cp_async_wait_all() { asm volatile("cp.async.wait_all;" ::: "memory"); }

// 9.7.14.5.15 ldmatrix: 8x8 matrices of 16-bit elements. Lanes 8m..8m+7 give the addresses of the rows of matrix m, 16-byte
// aligned; lane l gets elements (l / 4, 2 (l % 4)) and the one behind it, of the transposed matrix with Trans. All 32 lanes.

template <bool Trans>
__device__ __forceinline__ void ldmatrix_x1(uint32_t (&r)[1], const void* row) {
  if constexpr (Trans)
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];"
                 : "=r"(r[0])
                 : "r"(shared_address(row))
                 : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];" : "=r"(r[0]) : "r"(shared_address(row)) : "memory");
}
template <bool Trans>
__device__ __forceinline__ void ldmatrix_x2(uint32_t (&r)[2], const void* row) {
  if constexpr (Trans)
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(shared_address(row))
                 : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(shared_address(row))
                 : "memory");
}
template <bool Trans>
__device__ __forceinline__ void ldmatrix_x4(uint32_t (&r)[4], const void* row) {
  if constexpr (Trans)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// 9.7.14.5.8 mma.m16n8k16: C += A B, A 16x16 by rows, B 16x8 by columns, T in (two per register, the lower column or row in
// the lower half), f32 out. With g = lane / 4, t = 2 (lane % 4): a[0] = A[g][t..], a[1] = A[g+8][t..], a[2] = A[g][t+8..],
// a[3] = A[g+8][t+8..]; b[0] = B[t..][g], b[1] = B[t+8..][g]; c = C[g][t], C[g][t+1], C[g+8][t], C[g+8][t+1]. All 32 lanes.

template <class T>
__device__ __forceinline__ void mma_m16n8k16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);
template <>
__device__ __forceinline__ void mma_m16n8k16<__half>(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
template <>
__device__ __forceinline__ void mma_m16n8k16<__nv_bfloat16>(float (&c)[4], const uint32_t (&a)[4],
                                                            const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/// 9.7.3.22 ex2.approx.ftz: 2^x within 2 units in the last place, 0 below 2^-126.
__device__ __forceinline__ float ex2_approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

}  // namespace ptx
#endif
