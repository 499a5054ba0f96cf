// rmsnorm.cu - root-mean-square normalisation of rows, forward and backward.
//
// forward:   inv_rms[r] = 1 / sqrt(mean_c x[r,c]^2 + epsilon)                                   (=)
//            out[r,c] = x[r,c] inv_rms[r] weight[c]                                             (=)
// backward:  n = x inv_rms, g = grad_out weight
//            grad_x += inv_rms (g - n mean_c(g n));  grad_weight += sum_r grad_out n
//
// x, out, grad_out, grad_x [rows, cols] and weight, grad_weight [cols] in T; inv_rms [rows] and all
// sums in f32. Any sizes; columns that are a multiple of 8 move 16 bytes per thread. A warp owns a
// row, so a row's sum has one order. The gradient of the weight is summed per block of kRows rows
// into `parts [blocks, width]` (=), then over the blocks in their order. Forward moves 2 elements
// per element, backward 4; both are bound by memory.
#include "common.cuh"

TO_HOST constexpr int kThreads = 128;
/// Rows of one block of the forward pass, one per warp.
TO_HOST constexpr int kWarps = kThreads / 32;
/// Rows of one block of the backward pass.
TO_HOST constexpr int kRows = 32;
/// Columns of the weight's gradient that one launch of the backward pass sums.
TO_HOST constexpr int kWidth = 1024;

/// Calls `f(c, count)` for this lane's columns of a row: packs of 8 where the row allows it, single
/// columns otherwise.
template <class T, class F>
__device__ __forceinline__ void for_columns(int cols, int lane, F f) {
  constexpr int kPack = Pack<T>::kCount;
  if (cols % kPack == 0) {
    for (int c = lane * kPack; c < cols; c += 32 * kPack) f(c, kPack);
  } else {
    for (int c = lane; c < cols; c += 32) f(c, 1);
  }
}

/// The `count` elements from `p` on, 1 or a pack.
template <class T>
__device__ __forceinline__ Pack<T> load(const T* p, int count) {
  if (count > 1) return load16(p);
  Pack<T> one;
  one.v[0] = *p;
  return one;
}
template <class T>
__device__ __forceinline__ void store(T* p, const Pack<T>& pack, int count) {
  if (count > 1)
    store16(p, pack);
  else
    *p = pack.v[0];
}

// Grid ceil(rows / kWarps).
VARIANTS(T = f16 | bf16)
LAUNCH_BOUNDS(kThreads)
template <class T>
KERNEL rmsnorm_fwd(T* __restrict__ out, float* __restrict__ inv_rms, const T* __restrict__ x,
                   const T* __restrict__ weight, float epsilon, int rows, int cols) {
  const int lane = threadIdx.x % 32, row = blockIdx.x * kWarps + threadIdx.x / 32;
  if (row >= rows) return;
  const T* from = x + size_t(row) * cols;
  float squares = 0;
  for_columns<T>(cols, lane, [&](int c, int count) {
    const Pack<T> a = load(from + c, count);
#pragma unroll
    for (int i = 0; i < Pack<T>::kCount; ++i)
      if (i < count) squares += to_float(a.v[i]) * to_float(a.v[i]);
  });
  const float scale = 1.0f / sqrtf(warp_sum(squares) / float(cols) + epsilon);
  if (lane == 0) inv_rms[row] = scale;
  T* to = out + size_t(row) * cols;
  for_columns<T>(cols, lane, [&](int c, int count) {
    const Pack<T> a = load(from + c, count), w = load(weight + c, count);
    Pack<T> y;
#pragma unroll
    for (int i = 0; i < Pack<T>::kCount; ++i)
      if (i < count) y.v[i] = from_float<T>(to_float(a.v[i]) * scale * to_float(w.v[i]));
    store(to + c, y, count);
  });
}

/// `first` and `width` are the columns whose weight gradient is summed; `add_x` is 0 in all
/// launches but one.
// Grid ceil(rows / kRows), 4 kWarps width bytes of dynamic shared memory, width at most kWidth.
VARIANTS(T = f16 | bf16)
LAUNCH_BOUNDS(kThreads, 4)
MAX_DYN_SMEM(4 * kWarps * kWidth)
template <class T>
KERNEL rmsnorm_bwd(T* __restrict__ grad_x, float* __restrict__ parts,
                   const T* __restrict__ grad_out, const T* __restrict__ x,
                   const T* __restrict__ weight, const float* __restrict__ inv_rms, int rows,
                   int cols, int first, int width, int add_x) {
  DYN_SMEM(float, sums);  // [kWarps, width]: each warp adds its own rows
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  float* mine = sums + warp * width;
  for (int c = lane; c < width; c += 32) mine[c] = 0;
  __syncwarp();
  const int end = min(rows, (int(blockIdx.x) + 1) * kRows);
  for (int row = blockIdx.x * kRows + warp; row < end; row += kWarps) {
    const size_t at = size_t(row) * cols;
    const float scale = inv_rms[row];
    float dot = 0;
    for_columns<T>(cols, lane, [&](int c, int count) {
      const Pack<T> dy = load(grad_out + at + c, count), a = load(x + at + c, count),
                    w = load(weight + c, count);
#pragma unroll
      for (int i = 0; i < Pack<T>::kCount; ++i) {
        if (i >= count) continue;
        const float n = to_float(a.v[i]) * scale, g = to_float(dy.v[i]);
        dot += g * to_float(w.v[i]) * n;
        // A column belongs to one lane of the warp, so nobody else adds here.
        if (c + i >= first && c + i < first + width) mine[c + i - first] += g * n;
      }
    });
    if (!add_x) continue;
    const float mean = warp_sum(dot) / float(cols);
    for_columns<T>(cols, lane, [&](int c, int count) {
      const Pack<T> dy = load(grad_out + at + c, count), a = load(x + at + c, count),
                    w = load(weight + c, count);
      Pack<T> dx = load(grad_x + at + c, count);
#pragma unroll
      for (int i = 0; i < Pack<T>::kCount; ++i) {
        if (i >= count) continue;
        const float n = to_float(a.v[i]) * scale, g = to_float(dy.v[i]) * to_float(w.v[i]);
        dx.v[i] = from_float<T>(to_float(dx.v[i]) + scale * (g - n * mean));
      }
      store(grad_x + at + c, dx, count);
    });
  }
  __syncthreads();
  for (int c = threadIdx.x; c < width; c += kThreads) {
    float sum = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) sum += sums[w * width + c];
    parts[size_t(blockIdx.x) * width + c] = sum;
  }
}

// Grid ceil(width / kThreads).
VARIANTS(T = f16 | bf16)
LAUNCH_BOUNDS(kThreads)
template <class T>
KERNEL rmsnorm_bwd_sum(T* __restrict__ grad_weight, const float* __restrict__ parts, int blocks,
                       int first, int width) {
  const int c = blockIdx.x * kThreads + threadIdx.x;
  if (c >= width) return;
  float sum = 0;
  for (int b = 0; b < blocks; ++b) sum += parts[size_t(b) * width + c];
  grad_weight[first + c] = from_float<T>(to_float(grad_weight[first + c]) + sum);
}
