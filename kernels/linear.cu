// linear.cu - linear layers on tensor cores: forward, gradient of the input, gradient of the
// weight.
//
//   forward        y[R, O]  = x[R, I] w[O, I]^T (+ residual[R, O])
//   input          dx[R, I] = dy[R, O] w[O, I], or += with `accumulate`
//   weight         dw[O, I] += dy[R, O]^T x[R, I]
//
// Row-major, dense, 2-byte elements, fp32 sums, one rounding at the end (residual and old value are
// added before it). `small` entry points (64 x 64 tiles) take any sizes; the others (128 x 128)
// want I and O to be multiples of 8. Launch: 128 threads, one block per tile, tiles counted along
// the columns of the result first; shared memory gemm::Large::SharedBytes or
// gemm::Small::SharedBytes. Outputs don't overlap inputs. Cost: 2 R I O FLOP; each input is read
// once per row (column) of tiles, mostly from L2.
#include "gemm.cuh"

VARIANTS(T = f16 | bf16, S = gemm::Large | gemm::Small)
LAUNCH_BOUNDS(gemm::kThreads)
MAX_DYN_SMEM(S::SharedBytes)
template <class T, class S>
KERNEL linear_fwd(T* y, const T* x, const T* weight, const T* residual, int rows, int inputs,
                  int outputs) {
  DYN_SMEM(T, shared);
  const int tiles = (outputs + S::N - 1) / S::N;
  const int m0 = int(blockIdx.x) / tiles * S::M, n0 = int(blockIdx.x) % tiles * S::N;
  const gemm::WarpTile<S> warp;
  gemm::KMajor<S, T, S::M> a(x, inputs, m0, rows, inputs);
  gemm::KMajor<S, T, S::N> b(weight, inputs, n0, outputs, inputs);
  gemm::Sums<S> sums;
  gemm::clear<S>(sums);
  const bool active = warp.active(rows - m0, outputs - n0);
  gemm::multiply<S>(shared, a, b, inputs, warp, active, sums);
  if (!active) return;
  gemm::epilogue<S>(shared, sums, warp, [&](int row, int col, float(&v)[8]) {
    if (m0 + row >= rows) return;
    const int left = outputs - n0 - col;
    const size_t at = size_t(m0 + row) * outputs + n0 + col;
    if (residual) {
      float add[8];
      gemm::load8(add, residual + at, left, outputs % 8 == 0);
#pragma unroll
      for (int i = 0; i < 8; ++i) v[i] += add[i];
    }
    gemm::store8(y + at, v, left, outputs % 8 == 0);
  });
}

// What both gradients share: result[M, N] = A B^T (+ result).
template <class T, class S, class A, class B>
__device__ __forceinline__ void gradient(T* result, T* shared, A& a, B& b, bool accumulate, int m0,
                                         int n0, int rows, int cols, int depth) {
  const gemm::WarpTile<S> warp;
  gemm::Sums<S> sums;
  gemm::clear<S>(sums);
  const bool active = warp.active(rows - m0, cols - n0);
  gemm::multiply<S>(shared, a, b, depth, warp, active, sums);
  if (!active) return;
  gemm::store_tile<S>(result, shared, sums, warp, m0, n0, rows, cols, accumulate);
}

VARIANTS(T = f16 | bf16, S = gemm::Large | gemm::Small)
LAUNCH_BOUNDS(gemm::kThreads)
MAX_DYN_SMEM(S::SharedBytes)
template <class T, class S>
KERNEL linear_input_bwd(T* grad_x, const T* grad_y, const T* weight, int accumulate, int rows,
                        int inputs, int outputs) {
  DYN_SMEM(T, shared);
  const int tiles = (inputs + S::N - 1) / S::N;
  const int m0 = int(blockIdx.x) / tiles * S::M, n0 = int(blockIdx.x) % tiles * S::N;
  gemm::KMajor<S, T, S::M> a(grad_y, outputs, m0, rows, outputs);
  gemm::MNMajor<S, T, S::N> b(weight, inputs, n0, inputs, outputs);
  gradient<T, S>(grad_x, shared, a, b, accumulate != 0, m0, n0, rows, inputs, outputs);
}

VARIANTS(T = f16 | bf16, S = gemm::Large | gemm::Small)
LAUNCH_BOUNDS(gemm::kThreads)
MAX_DYN_SMEM(S::SharedBytes)
template <class T, class S>
KERNEL linear_weight_bwd(T* grad_weight, const T* grad_y, const T* x, int rows, int inputs,
                         int outputs) {
  DYN_SMEM(T, shared);
  const int tiles = (inputs + S::N - 1) / S::N;
  const int m0 = int(blockIdx.x) / tiles * S::M, n0 = int(blockIdx.x) % tiles * S::N;
  gemm::MNMajor<S, T, S::M> a(grad_y, outputs, m0, outputs, rows);
  gemm::MNMajor<S, T, S::N> b(x, inputs, n0, inputs, rows);
  gradient<T, S>(grad_weight, shared, a, b, true, m0, n0, outputs, inputs, rows);
}
