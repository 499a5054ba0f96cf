// decode.cu - what generating token by token needs: attention over the KV cache, and products with
// few rows.
//
// attention:  row t of `count` new ones takes position past + t; its key and value are written to
//             the caches, then
//             out[t] = softmax(q[t] . k[s] / sqrt(D)) v[s] over the positions s <= past + t     (=)
// gemv:       y[r,o] = sum_i x[r,i] weight[o,i] (+ residual[r,o])                               (=)
//
// qkv [count, (H + 2G) D] after RoPE, keys and values [capacity, G D], out [count, H D] in T, any
// even D up to kMaxColumns. A block of 4 warps serves one (row, query head): each warp takes every
// fourth chunk of 32 positions, and the four results meet in shared memory, in one order. New keys
// are read from qkv, so no block waits for another's writes to the cache. x [rows, inputs], rows at
// most kMaxRows; weight [outputs, inputs]; y and residual [rows, outputs]; y in T or, for logits,
// in f32. A warp makes kOutputs outputs of all rows, so the weight is read once: bound by its
// bytes. 16-byte accesses where D or inputs is a multiple of 8.
#include "common.cuh"

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / 32;
/// Largest head size.
TO_HOST constexpr int kMaxColumns = 256;
constexpr int kLaneColumns = kMaxColumns / 32;
/// Most rows of gemv.
TO_HOST constexpr int kMaxRows = 4;
/// Outputs of a warp of gemv.
constexpr int kOutputs = 2;
TO_HOST constexpr int kBlockOutputs = kWarps * kOutputs;

/// query . key over `size` elements.
template <class T>
__device__ __forceinline__ float score_of(const float* query, const T* key, int size) {
  constexpr int kPack = Pack<T>::kCount;
  float sum = 0.0f;
  if (size % kPack == 0) {
    for (int c = 0; c < size; c += kPack) {
      const Pack<T> values = load16(key + c);
#pragma unroll
      for (int i = 0; i < kPack; ++i) sum += query[c + i] * to_float(values.v[i]);
    }
  } else {
    for (int c = 0; c < size; ++c) sum += query[c] * to_float(key[c]);
  }
  return sum;
}

// Grid (H, count).
VARIANTS(T = f16 | bf16)
LAUNCH_BOUNDS(kThreads)
template <class T>
KERNEL attention_cached(T* out, T* keys, T* values, const T* qkv, int past, int heads, int kv_heads,
                        int size, float scale) {
  SHARED(float, query, [kMaxColumns]);
  SHARED(float, sums, [kWarps][kMaxColumns]);
  SHARED(float, tops, [kWarps]);
  SHARED(float, totals, [kWarps]);
  const int head = blockIdx.x, t = blockIdx.y, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int group = heads / kv_heads, kv_head = head / group, last = past + t;
  const size_t columns = size_t(heads + 2 * kv_heads) * size, width = size_t(kv_heads) * size;
  const T* new_keys = qkv + size_t(heads + kv_head) * size;
  const T* new_values = new_keys + width;
  T* cached_keys = keys + size_t(kv_head) * size;
  T* cached_values = values + size_t(kv_head) * size;
  for (int c = threadIdx.x; c < size; c += kThreads) {
    query[c] = to_float(qkv[t * columns + size_t(head) * size + c]) * scale;
    if (head % group == 0) {
      cached_keys[last * width + c] = new_keys[t * columns + c];
      cached_values[last * width + c] = new_values[t * columns + c];
    }
  }
  __syncthreads();
  float acc[kLaneColumns] = {}, largest = -INFINITY, sum = 0.0f;
  for (int s0 = warp * 32; s0 <= last; s0 += kThreads) {
    const int s = s0 + lane;
    float score = -INFINITY;
    if (s <= last)
      score = score_of(query, s < past ? cached_keys + s * width : new_keys + (s - past) * columns,
                       size);
    const float high = fmaxf(largest, warp_max(score)), shrink = expf(largest - high);
    const float p = s <= last ? expf(score - high) : 0.0f;
    largest = high;
    sum = sum * shrink + warp_sum(p);
#pragma unroll
    for (int i = 0; i < kLaneColumns; ++i) acc[i] *= shrink;
    const int n = min(32, last - s0 + 1);
    for (int j = 0; j < n; ++j) {
      const float weight = __shfl_sync(~0u, p, j);
      const T* row =
          s0 + j < past ? cached_values + (s0 + j) * width : new_values + (s0 + j - past) * columns;
#pragma unroll
      for (int i = 0; i < kLaneColumns; ++i)
        if (lane + 32 * i < size) acc[i] += weight * to_float(row[lane + 32 * i]);
    }
  }
  if (lane == 0) {
    tops[warp] = largest;
    totals[warp] = sum;
  }
#pragma unroll
  for (int i = 0; i < kLaneColumns; ++i)
    if (lane + 32 * i < size) sums[warp][lane + 32 * i] = acc[i];
  __syncthreads();
  // The first warp has position 0, so this is finite unless a score is not.
  float top = tops[0], total = 0.0f;
  for (int w = 1; w < kWarps; ++w) top = fmaxf(top, tops[w]);
  for (int w = 0; w < kWarps; ++w) total += totals[w] * expf(tops[w] - top);
  for (int c = threadIdx.x; c < size; c += kThreads) {
    float value = 0.0f;
    for (int w = 0; w < kWarps; ++w) value += sums[w][c] * expf(tops[w] - top);
    out[(size_t(t) * heads + head) * size + c] = from_float<T>(value / total);
  }
}

template <class Y, class T>
__device__ __forceinline__ void multiply_rows(Y* y, const T* x, const T* weight, const T* residual,
                                              int add_residual, int rows, int inputs, int outputs) {
  constexpr int kPack = Pack<T>::kCount;
  const int lane = threadIdx.x % 32, width = inputs % kPack == 0 ? kPack : 1;
  const int first = (blockIdx.x * kWarps + threadIdx.x / 32) * kOutputs;
  if (first >= outputs) return;
  float sums[kOutputs][kMaxRows] = {};
#pragma unroll 2
  for (int c = lane * width; c < inputs; c += 32 * width) {
    Pack<T> w[kOutputs];
#pragma unroll
    for (int o = 0; o < kOutputs; ++o) {
      // Behind the last output: the last one again, which is not stored.
      const T* from = weight + size_t(min(first + o, outputs - 1)) * inputs + c;
      if (width > 1)
        w[o] = load16(from);
      else
        w[o].v[0] = *from;
    }
#pragma unroll
    for (int r = 0; r < kMaxRows; ++r) {
      if (r >= rows) continue;
      Pack<T> a;
      if (width > 1)
        a = load16(x + size_t(r) * inputs + c);
      else
        a.v[0] = x[size_t(r) * inputs + c];
#pragma unroll
      for (int i = 0; i < kPack; ++i) {
        if (i >= width) continue;
        const float value = to_float(a.v[i]);
#pragma unroll
        for (int o = 0; o < kOutputs; ++o) sums[o][r] += value * to_float(w[o].v[i]);
      }
    }
  }
#pragma unroll
  for (int o = 0; o < kOutputs; ++o)
#pragma unroll
    for (int r = 0; r < kMaxRows; ++r) {
      if (r >= rows) continue;
      float sum = warp_sum(sums[o][r]);
      const size_t at = size_t(r) * outputs + first + o;
      if (lane != 0 || first + o >= outputs) continue;
      if (add_residual) sum += to_float(residual[at]);
      y[at] = from_float<Y>(sum);
    }
}

// Grid ceil(outputs / kBlockOutputs). Without `add_residual`, `residual` is not read. y may be the
// residual itself.
VARIANTS(T = f16 | bf16)
LAUNCH_BOUNDS(kThreads)
template <class T>
KERNEL gemv(T* y, const T* x, const T* weight, const T* residual, int add_residual, int rows,
            int inputs, int outputs) {
  multiply_rows(y, x, weight, residual, add_residual, rows, inputs, outputs);
}

// As gemv, to f32. Grid ceil(outputs / kBlockOutputs).
VARIANTS(T = f16 | bf16)
LAUNCH_BOUNDS(kThreads)
template <class T>
KERNEL gemv_logits(float* y, const T* x, const T* weight, int rows, int inputs, int outputs) {
  multiply_rows(y, x, weight, weight, 0, rows, inputs, outputs);
}
