// head.cu - tied head and cross-entropy in chunks of tokens, two thirds of a step's arithmetic.
//
//   logits[t, v] = x[t] . table[v]      x [T, C], table [V, C]
//   loss        += sum over counted t of log(sum_v exp(logits[t, v])) - logits[t, targets[t]]
//   dlogits      = scale loss_scale (softmax(logits) - one at the target)
//   grad_x       = dlogits table  (0 for ignored targets),  grad_table += dlogits^T x
//
// head_compact lists the counted tokens, in order, and their number `counted[0]`; everything after
// works on that list in chunks of `chunk` and does nothing beyond its end, so that ignored tokens
// cost nothing and the host need not know their number. A target that is neither a word nor the
// mark for no loss makes its loss and its gradient NaN.
//
// What a chunk keeps of its logits is exp(logit - greatest of its part) in T, where a part is what
// one warp makes: WarpN columns. fp16 holds a logit of 20 to 0.008, which is 0.8% of its
// probability; it holds this to 0.05%, and the second pass needs no exponential per element. The
// greatest logit and the sum of exponentials of each part stay fp32 (`stats`), are made in the
// product's epilogue and reduced in their order; losses come from fp32 alone.
//
//   head_logits_fwd   exponentials [chunk, ceil8(V)] (may be null: statistics only),
//                     stats [chunk, parts, 2], target_logit
//   head_losses_fwd   losses[t] = ...
//   head_loss_fwd     loss += sum of row_losses
//   head_grad_bwd     exponentials -> dlogits in place, row_losses
//   head_table_bwd    grad_table += dlogits^T x
//   head_x_bwd        sums of `splits` parts of the vocabulary in fp32
//   head_x_sum_bwd    adds them up and scatters to grad_x
//   head_rows_fwd     plain fp32 logits of some rows, for generation
//
// x, table, grad_x, grad_table dense, 2-byte elements. `small` entry points (64 x 64 tiles, parts
// of 32 columns) take any C; the others (128 x 128, parts of 64) want C to be a multiple of 8.
// Everything is summed in a fixed order. Cost per counted token: 6 C V FLOP; the chunk's logits are
// written, read and written again, and read twice.
#include "gemm.cuh"

/// Threads of the kernels that make no product.
TO_HOST constexpr int kThreads = 256;
TO_HOST constexpr unsigned kIgnoreTarget = 0xffffffffu;
constexpr float kLog2E = 1.44269504f;

// Counted tokens of the chunk that begins with the `first` one.
__device__ __forceinline__ int in_chunk(const unsigned* counted, int first, int chunk) {
  return min(chunk, int(counted[0]) - first);
}
__device__ __forceinline__ int row_length(int vocab) {
  return (vocab + gemm::kPiece - 1) / gemm::kPiece * gemm::kPiece;
}

VARIANTS(T = f16 | bf16, S = gemm::Large | gemm::Small)
LAUNCH_BOUNDS(gemm::kThreads)
MAX_DYN_SMEM(S::SharedBytes)
template <class T, class S>
KERNEL head_logits_fwd(T* exponentials, float* stats, float* target_logit, const T* x,
                       const T* table, const unsigned* rows, const unsigned* targets,
                       const unsigned* counted, int first, int chunk, int vocab, int hidden) {
  DYN_SMEM(T, shared);
  // Row tiles first: a chunk's few rows stay in L2 while the table passes once.
  const int tiles_m = (chunk + S::M - 1) / S::M;
  const int m0 = int(blockIdx.x) % tiles_m * S::M, n0 = int(blockIdx.x) / tiles_m * S::N;
  const int count = in_chunk(counted, first, chunk);
  if (m0 >= count) return;
  const gemm::WarpTile<S> warp;
  gemm::KMajor<S, T, S::M, gemm::Listed> a(x, hidden, m0, count, hidden, {rows + first});
  gemm::KMajor<S, T, S::N> b(table, hidden, n0, vocab, hidden);
  gemm::Sums<S> sums;
  gemm::clear<S>(sums);
  const bool active = warp.active(count - m0, vocab - n0);
  gemm::multiply<S>(shared, a, b, hidden, warp, active, sums);
  if (!active) return;

  const int begin = n0 + warp.col, left = vocab - begin, mine = warp.lane % 4 * 2;
  const int parts = (vocab + S::WarpN - 1) / S::WarpN, part = begin / S::WarpN;
#pragma unroll
  for (int i = 0; i < S::FragsM; ++i)
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int row = m0 + warp.row + 16 * i + 8 * h + warp.lane / 4;
      const int target = row < count ? int(targets[first + row]) - begin : -1;
      float greatest = -INFINITY;
#pragma unroll
      for (int j = 0; j < S::FragsN; ++j)
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          float& logit = sums[i][j][2 * h + r];
          const int col = 8 * j + mine + r;
          if (col >= left) logit = -INFINITY;
          if (col == target && col < left) target_logit[first + row] = logit;
          greatest = fmaxf(greatest, logit);
        }
      // The four lanes of a row. fmaxf passes NaNs over, the sum below keeps them.
      greatest = fmaxf(greatest, __shfl_xor_sync(0xffffffffu, greatest, 1));
      greatest = fmaxf(greatest, __shfl_xor_sync(0xffffffffu, greatest, 2));
      float sum = 0.0f;
#pragma unroll
      for (int j = 0; j < S::FragsN; ++j)
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          float& logit = sums[i][j][2 * h + r];
          logit = ptx::ex2_approx((logit - greatest) * kLog2E);
          sum += logit;
        }
      sum += __shfl_xor_sync(0xffffffffu, sum, 1);
      sum += __shfl_xor_sync(0xffffffffu, sum, 2);
      if (mine == 0 && row < count) {
        float* to = stats + (size_t(row) * parts + part) * 2;
        to[0] = greatest;
        to[1] = sum;
      }
    }
  if (!exponentials) return;
  const int length = row_length(vocab);
  gemm::epilogue<S>(shared, sums, warp, [&](int row, int col, float(&v)[8]) {
    if (m0 + row < count && n0 + col < length)
      gemm::store8(exponentials + size_t(m0 + row) * length + n0 + col, v, 8, true);
  });
}

VARIANTS(T = f16 | bf16, S = gemm::Large | gemm::Small)
LAUNCH_BOUNDS(gemm::kThreads)
MAX_DYN_SMEM(S::SharedBytes)
template <class T, class S>
KERNEL head_x_bwd(float* sums_of_splits, const T* dlogits, const T* table, const unsigned* counted,
                  int first, int chunk, int vocab, int hidden, int splits) {
  DYN_SMEM(T, shared);
  const int tiles_m = (chunk + S::M - 1) / S::M, tiles_n = (hidden + S::N - 1) / S::N;
  const int split = int(blockIdx.x) / (tiles_m * tiles_n);
  const int m0 = int(blockIdx.x) / tiles_n % tiles_m * S::M, n0 = int(blockIdx.x) % tiles_n * S::N;
  const int count = in_chunk(counted, first, chunk);
  if (m0 >= count) return;
  const int steps = (vocab + gemm::kDepth - 1) / gemm::kDepth,
            each = (steps + splits - 1) / splits * gemm::kDepth;
  const int begin = min(vocab, split * each), depth = min(vocab - begin, each);
  const int length = row_length(vocab);
  const gemm::WarpTile<S> warp;
  gemm::KMajor<S, T, S::M> a(dlogits + begin, length, m0, count, depth);
  gemm::MNMajor<S, T, S::N> b(table + size_t(begin) * hidden, hidden, n0, hidden, depth);
  gemm::Sums<S> sums;
  gemm::clear<S>(sums);
  const bool active = warp.active(count - m0, hidden - n0);
  gemm::multiply<S>(shared, a, b, depth, warp, active, sums);
  if (!active) return;
  float* result = sums_of_splits + size_t(split) * chunk * hidden;
  gemm::epilogue<S>(shared, sums, warp, [&](int row, int col, float(&v)[8]) {
    if (m0 + row < count)
      gemm::store8(result + size_t(m0 + row) * hidden + n0 + col, v, hidden - n0 - col,
                   hidden % 8 == 0);
  });
}

// One thread per 8 columns of a row.
VARIANTS(T = f16 | bf16)
LAUNCH_BOUNDS(kThreads)
template <class T>
KERNEL head_x_sum_bwd(T* grad_x, const float* sums_of_splits, const unsigned* rows,
                      const unsigned* counted, int first, int chunk, int hidden, int splits) {
  const int pieces = (hidden + gemm::kPiece - 1) / gemm::kPiece,
            at = int(blockIdx.x * blockDim.x + threadIdx.x);
  const int row = at / pieces, col = at % pieces * gemm::kPiece, left = hidden - col;
  if (row >= in_chunk(counted, first, chunk)) return;
  const bool aligned = hidden % 8 == 0;
  float sum[8] = {};
  for (int split = 0; split < splits; ++split) {
    float v[8];
    gemm::load8(v, sums_of_splits + (size_t(split) * chunk + row) * hidden + col, left, aligned);
#pragma unroll
    for (int i = 0; i < 8; ++i) sum[i] += v[i];
  }
  gemm::store8(grad_x + size_t(rows[first + row]) * hidden + col, sum, left, aligned);
}

VARIANTS(T = f16 | bf16, S = gemm::Large | gemm::Small)
LAUNCH_BOUNDS(gemm::kThreads)
MAX_DYN_SMEM(S::SharedBytes)
template <class T, class S>
KERNEL head_table_bwd(T* grad_table, const T* dlogits, const T* x, const unsigned* rows,
                      const unsigned* counted, int first, int chunk, int vocab, int hidden) {
  DYN_SMEM(T, shared);
  const int tiles_n = (hidden + S::N - 1) / S::N;
  const int m0 = int(blockIdx.x) / tiles_n * S::M, n0 = int(blockIdx.x) % tiles_n * S::N;
  const int count = in_chunk(counted, first, chunk);
  if (count <= 0) return;
  const gemm::WarpTile<S> warp;
  gemm::MNMajor<S, T, S::M> a(dlogits, row_length(vocab), m0, vocab, count);
  gemm::MNMajor<S, T, S::N, gemm::Listed> b(x, hidden, n0, hidden, count, {rows + first});
  gemm::Sums<S> sums;
  gemm::clear<S>(sums);
  const bool active = warp.active(vocab - m0, hidden - n0);
  gemm::multiply<S>(shared, a, b, count, warp, active, sums);
  if (active) gemm::store_tile<S>(grad_table, shared, sums, warp, m0, n0, vocab, hidden, true);
}

VARIANTS(T = f16 | bf16, S = gemm::Large | gemm::Small)
LAUNCH_BOUNDS(gemm::kThreads)
MAX_DYN_SMEM(S::SharedBytes)
template <class T, class S>
KERNEL head_rows_fwd(float* logits, const T* x, const T* table, int first, int rows, int vocab,
                     int hidden) {
  DYN_SMEM(T, shared);
  const int tiles_m = (rows + S::M - 1) / S::M;
  const int m0 = int(blockIdx.x) % tiles_m * S::M, n0 = int(blockIdx.x) / tiles_m * S::N;
  const gemm::WarpTile<S> warp;
  gemm::KMajor<S, T, S::M> a(x + size_t(first) * hidden, hidden, m0, rows, hidden);
  gemm::KMajor<S, T, S::N> b(table, hidden, n0, vocab, hidden);
  gemm::Sums<S> sums;
  gemm::clear<S>(sums);
  const bool active = warp.active(rows - m0, vocab - n0);
  gemm::multiply<S>(shared, a, b, hidden, warp, active, sums);
  if (active) gemm::store_tile<S>(logits, shared, sums, warp, m0, n0, rows, vocab, false);
}

// Greatest logit and sum of exp(logit - greatest) of a row, the same in all threads of the block.
struct RowStatistics {
  float greatest, sum;
  __device__ __forceinline__ float loss(float target_logit) const {
    return greatest + logf(sum) - target_logit;
  }
};
__device__ __forceinline__ RowStatistics row_statistics(const float* stats, int parts) {
  SHARED(float, warps, [kThreads / 32]);
  float greatest = -INFINITY;
  for (int p = threadIdx.x; p < parts; p += kThreads) greatest = fmaxf(greatest, stats[2 * p]);
  greatest = warp_max(greatest);
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = greatest;
  __syncthreads();
#pragma unroll
  for (int w = 0; w < kThreads / 32; ++w) greatest = fmaxf(greatest, warps[w]);
  float sum = 0.0f;
  for (int p = threadIdx.x; p < parts; p += kThreads)
    sum += stats[2 * p + 1] * ptx::ex2_approx((stats[2 * p] - greatest) * kLog2E);
  return {greatest, block_sum<kThreads>(sum)};
}

// One block per row of the chunk.
VARIANTS(T = f16 | bf16)
LAUNCH_BOUNDS(kThreads)
template <class T>
KERNEL head_grad_bwd(T* exponentials, float* row_losses, const float* stats,
                     const float* target_logit, const unsigned* targets, const unsigned* counted,
                     const float* loss_scale, const float* scale, int first, int chunk, int vocab,
                     int part_width) {
  const int row = blockIdx.x;
  if (row >= in_chunk(counted, first, chunk)) return;
  const int parts = (vocab + part_width - 1) / part_width;
  stats += size_t(row) * parts * 2;
  const RowStatistics whole = row_statistics(stats, parts);
  if (threadIdx.x == 0) row_losses[first + row] = whole.loss(target_logit[first + row]);
  const unsigned target = targets[first + row];
  const float unit = target < unsigned(vocab) ? scale[0] * loss_scale[0] : NAN,
              share = unit / whole.sum;
  const int length = row_length(vocab);
  T* logits = exponentials + size_t(row) * length;
  for (int col = threadIdx.x * 8; col < length; col += kThreads * 8) {
    const float factor =
        share * ptx::ex2_approx((stats[col / part_width * 2] - whole.greatest) * kLog2E);
    float v[8];
    gemm::load8(v, logits + col, 8, true);
#pragma unroll
    for (int i = 0; i < 8; ++i) v[i] = v[i] * factor - (unsigned(col + i) == target ? unit : 0.0f);
    gemm::store8(logits + col, v, 8, true);
  }
}

// One block. rows[i], row_targets[i] = the i-th counted token and its target, counted[0] = their
// number, target_logit = NaN.
extern "C" __global__ void __launch_bounds__(kThreads)
    head_compact(unsigned* rows, unsigned* row_targets, float* target_logit, unsigned* counted,
                 const unsigned* targets, int count) {
  SHARED(unsigned, warps, [kThreads / 32]);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  unsigned before = 0;
  for (int begin = 0; begin < count; begin += kThreads) {
    const int token = begin + int(threadIdx.x);
    const unsigned target = token < count ? targets[token] : kIgnoreTarget;
    const unsigned votes = __ballot_sync(0xffffffffu, target != kIgnoreTarget);
    __syncthreads();
    if (lane == 0) warps[warp] = __popc(votes);
    __syncthreads();
    unsigned at = before + __popc(votes & ((1u << lane) - 1));
    for (int w = 0; w < kThreads / 32; ++w) {
      if (w < warp) at += warps[w];
      before += warps[w];
    }
    if (target != kIgnoreTarget) {
      rows[at] = token;
      row_targets[at] = target;
      target_logit[at] = NAN;
    }
  }
  if (threadIdx.x == 0) counted[0] = before;
}

// One block per row of the chunk: losses of the counted tokens at their positions; the others are
// left as they are.
extern "C" __global__ void __launch_bounds__(kThreads)
    head_losses_fwd(float* losses, const float* stats, const float* target_logit,
                    const unsigned* rows, const unsigned* counted, int first, int chunk,
                    int parts) {
  const int row = blockIdx.x;
  if (row >= in_chunk(counted, first, chunk)) return;
  const RowStatistics whole = row_statistics(stats + size_t(row) * parts * 2, parts);
  if (threadIdx.x == 0) losses[rows[first + row]] = whole.loss(target_logit[first + row]);
}

// One block: loss[0] += sum of row_losses.
extern "C" __global__ void __launch_bounds__(kThreads)
    head_loss_fwd(float* loss, const float* row_losses, const unsigned* counted) {
  const int count = counted[0];
  float sum = 0.0f;
  for (int i = threadIdx.x; i < count; i += kThreads) sum += row_losses[i];
  sum = block_sum<kThreads>(sum);
  if (threadIdx.x == 0) loss[0] += sum;
}
