// experts.cu - the experts of a mixture: SwiGLU layers over ragged groups of rows, without a host
// round trip.
//
// A slot is a (token, choice) pair; slots are sorted by expert, expert e owns slots
// offsets[e]..offsets[e + 1] and slot_source[slot] is token * top_k + choice. With t the slot's
// token, p its routing weight, C hidden, F intermediate:
//
//   experts_up_fwd        [gate | up][slot] = x[t] w13[e]^T, act[slot] = silu(gate) up
//   experts_down_fwd      slot_out[slot] = p (act[slot] w2[e]^T)
//   experts_combine       out[t] = (residual[t] +) sum of slot_out over the token's slots
//   experts_act_bwd       d = grad_out[t] w2[e];  grad_gate_up[slot] = p d (SwiGLU)',
//                         weighted_act[slot] = p act[slot],
//                         parts[slot, i] = d . act over the i-th WarpN columns
//   experts_weights_bwd   grad_weights[t, k] = sum of parts of its slot
//   experts_x_bwd         slot_grad[slot] = grad_gate_up[slot] w13[e]; experts_combine makes grad_x
//   experts_w13_bwd       grad_w13[e] += grad_gate_up^T x[t]
//   experts_w2_bwd        grad_w2[e] += grad_out[t]^T weighted_act
//
// w13 [E, 2F, C], w2 [E, C, F], act [slots, F].
//
// Row-major, dense, 2-byte elements, fp32 sums; no atomics, every sum has a fixed order. `small`
// entry points (64 x 64 tiles) take any sizes, the others (128 x 128) want C and F to be multiples
// of 8. 128 threads (combine and weights: 256). up, down, act and x: any number of blocks; block b
// works on tiles b, b + gridDim.x, ... of all experts, counted from the offsets on the device. An
// expert with n slots has ceil(n / M) rows of tiles, so slots / M + E rows are a bound that the
// host knows. w13 and w2: one block per expert and tile of the result, the depth is the expert's
// slots. Shared memory gemm::Large::SharedBytes or gemm::Small::SharedBytes. Cost: per slot 6 C F
// FLOP forward and 12 C F backward.
#include "gemm.cuh"

/// Threads of the kernels that make no product.
TO_HOST constexpr int kThreads = 256;

// Finds tiles of all experts by their number, which must not fall from call to call.
template <class S>
struct GroupedTileScheduler {
  const unsigned* offsets;
  int experts, tiles_n;
  int expert = 0, before = 0;   // tiles of the experts before `expert`
  int m0 = 0, n0 = 0, end = 0;  // the tile's first slot and column, and the expert's last slot + 1

  __device__ __forceinline__ GroupedTileScheduler(const unsigned* offsets_, int experts_, int cols)
      : offsets(offsets_), experts(experts_), tiles_n((cols + S::N - 1) / S::N) {}
  __device__ __forceinline__ bool find(int tile) {
    for (; expert < experts; ++expert) {
      const int first = offsets[expert];
      end = offsets[expert + 1];
      const int tiles = (end - first + S::M - 1) / S::M * tiles_n;
      if (tile < before + tiles) {
        m0 = first + (tile - before) / tiles_n * S::M;
        n0 = (tile - before) % tiles_n * S::N;
        return true;
      }
      before += tiles;
    }
    return false;
  }
};

// Rows of w13 in the order in which SwiGLU wants them: each warp's columns are WarpN / 2 gates and
// then the ups of the same columns. Beyond F the last row is read again; those results are not
// stored.
template <class S>
struct GatesAndUps {
  unsigned intermediate;
  __device__ __forceinline__ unsigned operator()(unsigned row) const {
    constexpr unsigned kHalf = S::WarpN / 2;
    const unsigned column = row / S::WarpN * kHalf + row % kHalf;
    return (row % S::WarpN < kHalf ? 0 : intermediate) +
           (column < intermediate ? column : intermediate - 1);
  }
};

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

VARIANTS(T = f16 | bf16, S = gemm::Large | gemm::Small)
LAUNCH_BOUNDS(gemm::kThreads)
MAX_DYN_SMEM(S::SharedBytes)
template <class T, class S>
KERNEL experts_up_fwd(T* gate_up, T* act, const T* x, const T* w13, const unsigned* offsets,
                      const unsigned* slot_source, int experts, int top_k, int hidden,
                      int intermediate) {
  DYN_SMEM(T, shared);
  const gemm::WarpTile<S> warp;
  const bool aligned = intermediate % 8 == 0;
  const size_t expert_size = size_t(2) * intermediate * hidden;
  // N columns of a tile are N / 2 gates and N / 2 ups.
  const int cols = (intermediate + S::N / 2 - 1) / (S::N / 2) * S::N;
  GroupedTileScheduler<S> scheduler(offsets, experts, cols);
  for (int tile = blockIdx.x; scheduler.find(tile); tile += gridDim.x) {
    const int m0 = scheduler.m0, n0 = scheduler.n0, end = scheduler.end;
    gemm::KMajor<S, T, S::M, gemm::TokenOfSlot> a(x, hidden, m0, end, hidden,
                                                  {slot_source, unsigned(top_k)});
    gemm::KMajor<S, T, S::N, GatesAndUps<S>> b(w13 + scheduler.expert * expert_size, hidden, n0,
                                               cols, hidden, {unsigned(intermediate)});
    gemm::Sums<S> sums;
    gemm::clear<S>(sums);
    const bool active = warp.active(end - m0, 2 * intermediate - n0);
    gemm::multiply<S>(shared, a, b, hidden, warp, active, sums);
    if (active)
      gemm::epilogue_pair<S>(
          shared, sums, warp, [&](int row, int col, float(&gate)[8], float(&up)[8]) {
            if (m0 + row >= end) return;
            const int column = n0 / 2 + col, left = intermediate - column;
            T* to = gate_up + size_t(m0 + row) * 2 * intermediate + column;
            gemm::store8(to, gate, left, aligned);
            gemm::store8(to + intermediate, up, left, aligned);
#pragma unroll
            for (int i = 0; i < 8; ++i) up[i] *= gate[i] * sigmoid(gate[i]);
            gemm::store8(act + size_t(m0 + row) * intermediate + column, up, left, aligned);
          });
    __syncthreads();  // the next tile's stages lie where the results were handed out
  }
}

VARIANTS(T = f16 | bf16, S = gemm::Large | gemm::Small)
LAUNCH_BOUNDS(gemm::kThreads)
MAX_DYN_SMEM(S::SharedBytes)
template <class T, class S>
KERNEL experts_down_fwd(T* slot_out, const T* act, const T* w2, const float* weights,
                        const unsigned* offsets, const unsigned* slot_source, int experts,
                        int hidden, int intermediate) {
  DYN_SMEM(T, shared);
  const gemm::WarpTile<S> warp;
  GroupedTileScheduler<S> scheduler(offsets, experts, hidden);
  for (int tile = blockIdx.x; scheduler.find(tile); tile += gridDim.x) {
    const int m0 = scheduler.m0, n0 = scheduler.n0, end = scheduler.end;
    gemm::KMajor<S, T, S::M> a(act, intermediate, m0, end, intermediate);
    gemm::KMajor<S, T, S::N> b(w2 + scheduler.expert * size_t(hidden) * intermediate, intermediate,
                               n0, hidden, intermediate);
    gemm::Sums<S> sums;
    gemm::clear<S>(sums);
    const bool active = warp.active(end - m0, hidden - n0);
    gemm::multiply<S>(shared, a, b, intermediate, warp, active, sums);
    if (active)
      gemm::epilogue<S>(shared, sums, warp, [&](int row, int col, float(&v)[8]) {
        const int slot = m0 + row;
        if (slot >= end) return;
        const float weight = weights[slot_source[slot]];
#pragma unroll
        for (int i = 0; i < 8; ++i) v[i] *= weight;
        gemm::store8(slot_out + size_t(slot) * hidden + n0 + col, v, hidden - n0 - col,
                     hidden % 8 == 0);
      });
    __syncthreads();
  }
}

// One thread per 8 columns of a token; residual may be null.
VARIANTS(T = f16 | bf16)
LAUNCH_BOUNDS(kThreads)
template <class T>
KERNEL experts_combine_fwd(T* out, const T* slot_rows, const T* residual,
                           const unsigned* source_slot, int count, int top_k, int hidden) {
  const int pieces = (hidden + gemm::kPiece - 1) / gemm::kPiece;
  const long long at = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  if (at >= (long long)count * pieces) return;
  const int token = int(at / pieces), col = int(at % pieces) * gemm::kPiece, left = hidden - col;
  const bool aligned = hidden % 8 == 0;
  float sum[8] = {};
  if (residual) gemm::load8(sum, residual + size_t(token) * hidden + col, left, aligned);
  for (int k = 0; k < top_k; ++k) {
    float v[8];
    gemm::load8(v, slot_rows + size_t(source_slot[size_t(token) * top_k + k]) * hidden + col, left,
                aligned);
#pragma unroll
    for (int i = 0; i < 8; ++i) sum[i] += v[i];
  }
  gemm::store8(out + size_t(token) * hidden + col, sum, left, aligned);
}

VARIANTS(T = f16 | bf16, S = gemm::Large | gemm::Small)
LAUNCH_BOUNDS(gemm::kThreads)
MAX_DYN_SMEM(S::SharedBytes)
template <class T, class S>
KERNEL experts_act_bwd(T* grad_gate_up, T* weighted_act, float* parts, const T* grad_out,
                       const T* gate_up, const T* w2, const float* weights, const unsigned* offsets,
                       const unsigned* slot_source, int experts, int top_k, int hidden,
                       int intermediate) {
  DYN_SMEM(T, shared);
  const gemm::WarpTile<S> warp;
  const bool aligned = intermediate % 8 == 0;
  const int part_count = (intermediate + S::WarpN - 1) / S::WarpN;
  GroupedTileScheduler<S> scheduler(offsets, experts, intermediate);
  for (int tile = blockIdx.x; scheduler.find(tile); tile += gridDim.x) {
    const int m0 = scheduler.m0, n0 = scheduler.n0, end = scheduler.end;
    gemm::KMajor<S, T, S::M, gemm::TokenOfSlot> a(grad_out, hidden, m0, end, hidden,
                                                  {slot_source, unsigned(top_k)});
    gemm::MNMajor<S, T, S::N> b(w2 + scheduler.expert * size_t(hidden) * intermediate, intermediate,
                                n0, intermediate, hidden);
    gemm::Sums<S> sums;
    gemm::clear<S>(sums);
    const bool active = warp.active(end - m0, intermediate - n0);
    gemm::multiply<S>(shared, a, b, hidden, warp, active, sums);
    if (active)
      gemm::epilogue<S>(shared, sums, warp, [&](int row, int col, float(&v)[8]) {
        // No early return: all lanes meet in the shuffles. Rows and columns outside have zeros
        // everywhere.
        const bool inside = m0 + row < end;
        const int slot = inside ? m0 + row : m0, column = n0 + col,
                  left = inside ? intermediate - column : 0;
        const float weight = weights[slot_source[slot]];
        const size_t at = size_t(slot) * 2 * intermediate + column;
        float gate[8], up[8], act[8];
        gemm::load8(gate, gate_up + at, left, aligned);
        gemm::load8(up, gate_up + at + intermediate, left, aligned);
        float dot = 0.0f;
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          const float s = sigmoid(gate[i]), silu = gate[i] * s, grad = weight * v[i];
          dot += v[i] * (silu * up[i]);
          act[i] = weight * (silu * up[i]);
          gate[i] = grad * up[i] * (s * (1.0f + gate[i] * (1.0f - s)));
          up[i] = grad * silu;
        }
        gemm::store8(grad_gate_up + at, gate, left, aligned);
        gemm::store8(grad_gate_up + at + intermediate, up, left, aligned);
        gemm::store8(weighted_act + size_t(slot) * intermediate + column, act, left, aligned);
#pragma unroll
        for (int mask = 1; mask < S::WarpN / 8; mask *= 2)
          dot += __shfl_xor_sync(0xffffffffu, dot, mask);
        if (inside && col == warp.col) parts[size_t(slot) * part_count + column / S::WarpN] = dot;
      });
    __syncthreads();
  }
}

VARIANTS(T = f16 | bf16, S = gemm::Large | gemm::Small)
LAUNCH_BOUNDS(gemm::kThreads)
MAX_DYN_SMEM(S::SharedBytes)
template <class T, class S>
KERNEL experts_x_bwd(T* slot_grad, const T* grad_gate_up, const T* w13, const unsigned* offsets,
                     int experts, int hidden, int intermediate) {
  DYN_SMEM(T, shared);
  const gemm::WarpTile<S> warp;
  const int depth = 2 * intermediate;
  GroupedTileScheduler<S> scheduler(offsets, experts, hidden);
  for (int tile = blockIdx.x; scheduler.find(tile); tile += gridDim.x) {
    gemm::KMajor<S, T, S::M> a(grad_gate_up, depth, scheduler.m0, scheduler.end, depth);
    gemm::MNMajor<S, T, S::N> b(w13 + scheduler.expert * size_t(depth) * hidden, hidden,
                                scheduler.n0, hidden, depth);
    gemm::Sums<S> sums;
    gemm::clear<S>(sums);
    const bool active = warp.active(scheduler.end - scheduler.m0, hidden - scheduler.n0);
    gemm::multiply<S>(shared, a, b, depth, warp, active, sums);
    if (active)
      gemm::store_tile<S>(slot_grad, shared, sums, warp, scheduler.m0, scheduler.n0, scheduler.end,
                          hidden, false);
    __syncthreads();
  }
}

VARIANTS(T = f16 | bf16, S = gemm::Large | gemm::Small)
LAUNCH_BOUNDS(gemm::kThreads)
MAX_DYN_SMEM(S::SharedBytes)
template <class T, class S>
KERNEL experts_w13_bwd(T* grad_w13, const T* grad_gate_up, const T* x, const unsigned* offsets,
                       const unsigned* slot_source, int top_k, int hidden, int intermediate) {
  DYN_SMEM(T, shared);
  const gemm::WarpTile<S> warp;
  const int rows = 2 * intermediate, tiles_n = (hidden + S::N - 1) / S::N;
  const int tiles = (rows + S::M - 1) / S::M * tiles_n, expert = int(blockIdx.x) / tiles;
  const int m0 = int(blockIdx.x) % tiles / tiles_n * S::M, n0 = int(blockIdx.x) % tiles_n * S::N;
  const int first = offsets[expert], depth = int(offsets[expert + 1]) - first;
  if (depth == 0) return;
  gemm::MNMajor<S, T, S::M> a(grad_gate_up + size_t(first) * rows, rows, m0, rows, depth);
  gemm::MNMajor<S, T, S::N, gemm::TokenOfSlot> b(x, hidden, n0, hidden, depth,
                                                 {slot_source + first, unsigned(top_k)});
  gemm::Sums<S> sums;
  gemm::clear<S>(sums);
  const bool active = warp.active(rows - m0, hidden - n0);
  gemm::multiply<S>(shared, a, b, depth, warp, active, sums);
  if (active)
    gemm::store_tile<S>(grad_w13 + expert * size_t(rows) * hidden, shared, sums, warp, m0, n0, rows,
                        hidden, true);
}

VARIANTS(T = f16 | bf16, S = gemm::Large | gemm::Small)
LAUNCH_BOUNDS(gemm::kThreads)
MAX_DYN_SMEM(S::SharedBytes)
template <class T, class S>
KERNEL experts_w2_bwd(T* grad_w2, const T* grad_out, const T* weighted_act, const unsigned* offsets,
                      const unsigned* slot_source, int top_k, int hidden, int intermediate) {
  DYN_SMEM(T, shared);
  const gemm::WarpTile<S> warp;
  const int tiles_n = (intermediate + S::N - 1) / S::N;
  const int tiles = (hidden + S::M - 1) / S::M * tiles_n, expert = int(blockIdx.x) / tiles;
  const int m0 = int(blockIdx.x) % tiles / tiles_n * S::M, n0 = int(blockIdx.x) % tiles_n * S::N;
  const int first = offsets[expert], depth = int(offsets[expert + 1]) - first;
  if (depth == 0) return;
  gemm::MNMajor<S, T, S::M, gemm::TokenOfSlot> a(grad_out, hidden, m0, hidden, depth,
                                                 {slot_source + first, unsigned(top_k)});
  gemm::MNMajor<S, T, S::N> b(weighted_act + size_t(first) * intermediate, intermediate, n0,
                              intermediate, depth);
  gemm::Sums<S> sums;
  gemm::clear<S>(sums);
  const bool active = warp.active(hidden - m0, intermediate - n0);
  gemm::multiply<S>(shared, a, b, depth, warp, active, sums);
  if (active)
    gemm::store_tile<S>(grad_w2 + expert * size_t(hidden) * intermediate, shared, sums, warp, m0,
                        n0, hidden, intermediate, true);
}

// One thread per (token, choice).
extern "C" __global__ void __launch_bounds__(kThreads)
    experts_weights_bwd(float* grad_weights, const float* parts, const unsigned* source_slot,
                        int slots, int part_count) {
  const int source = int(blockIdx.x * blockDim.x + threadIdx.x);
  if (source >= slots) return;
  const float* from = parts + size_t(source_slot[source]) * part_count;
  float sum = 0.0f;
  for (int i = 0; i < part_count; ++i) sum += from[i];
  grad_weights[source] = sum;
}
