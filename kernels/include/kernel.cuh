// kernel.cuh - the words that build.rs reads: kernels with variants, and constants for the host.
#pragma once

// A kernel with variants is a template, with its variants and launch bounds in front:
//
//   VARIANTS(T = f16 | bf16, D = 64 | 128)
//   LAUNCH_BOUNDS(128)
//   MAX_DYN_SMEM(512 * D)
//   template <class T, int D>
//   KERNEL attention_fwd(T* out, ...) { ... }
//
// build.rs writes an entry point for each combination, for nvcc and for the simulator:
//
//   extern "C" __global__ void __launch_bounds__(128) attention_fwd_d64_f16(__half* out, ...) {
//     attention_fwd<__half, 64>(out, ...);
//   }
//
// README.md has the rules of the names.
#define VARIANTS(...)
#define LAUNCH_BOUNDS(...)
#define KERNEL __device__ __forceinline__ void

// Most bytes of dynamic shared memory of a kernel that uses DYN_SMEM, behind its launch bounds. No
// launch gets more, and the table of docs/generated/kernels.md counts it.
#define MAX_DYN_SMEM(bytes)

// `TO_HOST constexpr int kRows = 32;` is `kernels::FILE::ROWS` on the Rust side. A member of a
// class template is `kernels::FILE::ALIAS::MEMBER` for each alias that fills the template in.
#define TO_HOST [[maybe_unused]]
