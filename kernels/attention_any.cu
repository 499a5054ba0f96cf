// attention_any.cu - causal grouped-query attention for any head size up to kMaxColumns: formulas,
// buffers and order of launches as in attention.cu, arithmetic in f32 outside the tensor cores. One
// warp per (token, head): its lanes share out the other side's tokens for the scores, and the
// columns for the sums, so every gradient is summed by one warp in one order.
//   Launch: grid ceil(count * heads / kWarps), where heads is H, for dK and dV G; 128 threads.
//   FLOPs as attention.cu; every key and value is read once per query: for head sizes that no
//   model of ours has.
#include "common.cuh"
#include "segments.cuh"

constexpr int kThreads = 128;
/// (token, head) pairs of a block, one per warp.
TO_HOST constexpr int kWarps = kThreads / 32;
/// Largest head size.
TO_HOST constexpr int kMaxColumns = 256;
constexpr int kLaneColumns = kMaxColumns / 32;

// The (token, head) of this warp, or false behind the last one.
__device__ __forceinline__ bool warp_item(int count, int heads, int& t, int& head) {
  const unsigned item = blockIdx.x * kWarps + threadIdx.x / 32;
  t = int(item / unsigned(heads));
  head = int(item % unsigned(heads));
  return t < count;
}

template <class T>
__device__ __forceinline__ float dot(const T* a, const T* b, int size) {
  float sum = 0.0f;
  for (int i = 0; i < size; ++i) sum += to_float(a[i]) * to_float(b[i]);
  return sum;
}

// acc[column] += weight of each of the `n` lanes times row[column] of that lane's token.
template <class T>
__device__ __forceinline__ void add_rows(float (&acc)[kLaneColumns], float weight, int n,
                                         const T* rows, size_t stride, int size) {
  const int lane = threadIdx.x % 32;
  for (int j = 0; j < n; ++j) {
    const float w = __shfl_sync(~0u, weight, j);
#pragma unroll
    for (int i = 0; i < kLaneColumns; ++i)
      if (lane + 32 * i < size) acc[i] += w * to_float(rows[size_t(j) * stride + lane + 32 * i]);
  }
}

template <class T>
__device__ __forceinline__ void store_columns(T* row, const float (&acc)[kLaneColumns],
                                              float factor, int size) {
#pragma unroll
  for (int i = 0; i < kLaneColumns; ++i) {
    const int column = threadIdx.x % 32 + 32 * i;
    if (column < size) row[column] = from_float<T>(acc[i] * factor);
  }
}

VARIANTS(T = f16 | bf16)
LAUNCH_BOUNDS(kThreads)
template <class T>
KERNEL attention_fwd_any(T* out, float* log_sum, const T* qkv, const unsigned* segments,
                         int segment_count, int count, int heads, int kv_heads, int size,
                         float scale) {
  int t, head;
  if (!warp_item(count, heads, t, head)) return;
  const int lane = threadIdx.x % 32;
  const size_t stride = size_t(heads + 2 * kv_heads) * size;
  const T* query = qkv + size_t(t) * stride + size_t(head) * size;
  const T* keys = qkv + size_t(heads + head / (heads / kv_heads)) * size;
  const T* values = keys + size_t(kv_heads) * size;
  float acc[kLaneColumns] = {}, largest = -INFINITY, sum = 0.0f;
  for (int k0 = first_key(segments, segment_count, t); k0 <= t; k0 += 32) {
    const bool seen = k0 + lane <= t;
    const float score =
        seen ? scale * dot(query, keys + size_t(k0 + lane) * stride, size) : -INFINITY;
    const float high = fmaxf(largest, warp_max(score)), shrink = expf(largest - high);
    const float p = seen ? expf(score - high) : 0.0f;
    largest = high;
    sum = sum * shrink + warp_sum(p);
#pragma unroll
    for (int i = 0; i < kLaneColumns; ++i) acc[i] *= shrink;
    add_rows(acc, p, min(32, t - k0 + 1), values + size_t(k0) * stride, stride, size);
  }
  if (lane == 0) log_sum[size_t(t) * heads + head] = largest + logf(sum);
  store_columns(out + (size_t(t) * heads + head) * size, acc, 1.0f / sum, size);
}

VARIANTS(T = f16 | bf16)
LAUNCH_BOUNDS(kThreads)
template <class T>
KERNEL attention_dq_any(T* grad_qkv, float* delta, const T* grad_out, const T* qkv, const T* out,
                        const float* log_sum, const unsigned* segments, int segment_count,
                        int count, int heads, int kv_heads, int size, float scale) {
  int t, head;
  if (!warp_item(count, heads, t, head)) return;
  const int lane = threadIdx.x % 32;
  const size_t stride = size_t(heads + 2 * kv_heads) * size, row = size_t(t) * heads + head;
  const T* query = qkv + size_t(t) * stride + size_t(head) * size;
  const T* keys = qkv + size_t(heads + head / (heads / kv_heads)) * size;
  const T* values = keys + size_t(kv_heads) * size;
  const T* grad = grad_out + row * size;
  float part = 0.0f;
  for (int i = lane; i < size; i += 32) part += to_float(grad[i]) * to_float(out[row * size + i]);
  const float row_delta = warp_sum(part), row_log = log_sum[row];
  if (lane == 0) delta[row] = row_delta;
  float acc[kLaneColumns] = {};
  for (int k0 = first_key(segments, segment_count, t); k0 <= t; k0 += 32) {
    float d = 0.0f;
    if (k0 + lane <= t) {
      const size_t at = size_t(k0 + lane) * stride;
      d = expf(scale * dot(query, keys + at, size) - row_log) *
          (dot(grad, values + at, size) - row_delta);
    }
    add_rows(acc, d, min(32, t - k0 + 1), keys + size_t(k0) * stride, stride, size);
  }
  store_columns(grad_qkv + size_t(t) * stride + size_t(head) * size, acc, scale, size);
}

VARIANTS(T = f16 | bf16)
LAUNCH_BOUNDS(kThreads)
template <class T>
KERNEL attention_dkv_any(T* grad_qkv, const T* grad_out, const T* qkv, const float* log_sum,
                         const float* delta, const unsigned* segments, int segment_count, int count,
                         int heads, int kv_heads, int size, float scale) {
  int t, kv_head;
  if (!warp_item(count, kv_heads, t, kv_head)) return;
  const int lane = threadIdx.x % 32, group = heads / kv_heads;
  const size_t stride = size_t(heads + 2 * kv_heads) * size, out_stride = size_t(heads) * size;
  const size_t key_at = size_t(t) * stride + size_t(heads + kv_head) * size,
               value_at = key_at + size_t(kv_heads) * size;
  const int end = query_end(segments, segment_count, count, t);
  float grad_k[kLaneColumns] = {}, grad_v[kLaneColumns] = {};
  for (int head = kv_head * group; head < (kv_head + 1) * group; ++head) {
    const T* queries = qkv + size_t(head) * size;
    const T* grads = grad_out + size_t(head) * size;
    for (int q0 = t; q0 < end; q0 += 32) {
      float p = 0.0f, d = 0.0f;
      if (q0 + lane < end) {
        const size_t row = size_t(q0 + lane) * heads + head;
        p = expf(scale * dot(queries + size_t(q0 + lane) * stride, qkv + key_at, size) -
                 log_sum[row]);
        d = p * (dot(grads + size_t(q0 + lane) * out_stride, qkv + value_at, size) - delta[row]);
      }
      const int n = min(32, end - q0);
      add_rows(grad_v, p, n, grads + size_t(q0) * out_stride, out_stride, size);
      add_rows(grad_k, d, n, queries + size_t(q0) * stride, stride, size);
    }
  }
  store_columns(grad_qkv + key_at, grad_k, scale, size);
  store_columns(grad_qkv + value_at, grad_v, 1.0f, size);
}
