// attention.cu - causal grouped-query attention over packed examples, forward and deterministic
// backward.
//
//   p[t,s] = softmax over s of (q[t] . k[s]) / sqrt(D), over the keys s <= t of t's own segment
//   out[t] = sum_s p[t,s] v[s]                                      (=)
//   log_sum[t,h] = log sum_s exp(q[t] . k[s] / sqrt(D))             (=)
//   grad_qkv = the gradients of queries, keys and values            (=)
//
// qkv and grad_qkv [count, (H + 2G) D]: queries, keys, values; out and grad_out [count, H D];
// log_sum and delta [count, H] in f32; segments [segment_count + 1] are offsets, 0 first and count
// last, as the host promises; offsets that break the promise give wrong values, but no access out
// of bounds. Query head h reads key/value head h / (H / G).
//
// On tensor cores, for D = 16, 32, 64 or 128. A block of 4 warps owns 64 queries (forward, dQ) or
// 64 keys (dK and dV) of one head, 16 per warp, and walks the other side in tiles that two cp.async
// stages bring. What a block owns lives in registers, so that every gradient is summed by one block
// in one order, without atomics. A block's tokens may belong to several segments: masks cut them
// apart, and the walk begins at the first one's start.
//   Launch: grid (H, ceil(count / kTile)), for dK and dV (G, ceil(count / kTile)); 128 threads;
//   shared memory MAX_DYN_SMEM.
//   The backward is dQ first, which also writes delta[t,h] = sum_d grad_out out, then dK and dV.
//   FLOPs: 4 D per (query, key) pair of a head forward, 14 D backward: 7 products where recomputing
//   S and dP twice saves the atomics.
//   Bytes: qkv once per head group from DRAM, tiles again from L2.
// Other head sizes: attention_any.cu.
#include "segments.cuh"
#include "tile.cuh"

TO_HOST constexpr int kTile = 64;  // tokens that a block owns
constexpr int kThreads = 128;      // 4 warps of 16 tokens
constexpr float kLog2E = 1.4426950408889634f;

// Starts the copy of ROWS rows from token `first` on; rows past the end become zeros.
template <class T, int D, int ROWS>
__device__ __forceinline__ void load_tile(T* tile, const T* matrix, size_t stride, int first,
                                          int count) {
  constexpr int kChunks = D / tile::kPiece;
#pragma unroll
  for (int i = threadIdx.x; i < ROWS * kChunks; i += kThreads) {
    const int row = i / kChunks, chunk = i % kChunks;
    const bool inside = first + row < count;
    ptx::cp_async16(tile::at<kChunks>(tile, row, chunk),
                    matrix + size_t(inside ? first + row : 0) * stride + chunk * tile::kPiece,
                    inside);
  }
}

template <class T>
__device__ __forceinline__ void mma_pair(float (&c0)[4], float (&c1)[4], const uint32_t (&a)[4],
                                         const uint32_t (&b)[4]) {
  const uint32_t low[2] = {b[0], b[1]}, high[2] = {b[2], b[3]};
  ptx::mma_m16n8k16<T>(c0, a, low);
  ptx::mma_m16n8k16<T>(c1, a, high);
}

// c[16 x N] = rows of a (fragments over D) times the tile's rows row..row+N-1, transposed.
template <class T, int D, int N>
__device__ __forceinline__ void multiply_rows(float (&c)[N / 8][4], const uint32_t (&a)[D / 16][4],
                                              const T* tile, int row) {
#pragma unroll
  for (int j = 0; j < N / 8; ++j)
#pragma unroll
    for (int r = 0; r < 4; ++r) c[j][r] = 0.0f;
#pragma unroll
  for (int step = 0; step < D / 16; ++step)
#pragma unroll
    for (int n = 0; n < N / 16; ++n) {
      uint32_t b[4];
      tile::fragment_b<D / tile::kPiece, false>(b, tile, row + 16 * n, 16 * step);
      mma_pair<T>(c[2 * n], c[2 * n + 1], a[step], b);
    }
}

// As multiply_rows, with the fragments of a read from `rows` as they are needed: where registers
// are short.
template <class T, int D, int N>
__device__ __forceinline__ void multiply_tiles(float (&c)[N / 8][4], const T* rows, int first,
                                               const T* tile, int row) {
#pragma unroll
  for (int j = 0; j < N / 8; ++j)
#pragma unroll
    for (int r = 0; r < 4; ++r) c[j][r] = 0.0f;
#pragma unroll
  for (int step = 0; step < D / 16; ++step) {
    uint32_t a[4];
    tile::fragment_a<D / tile::kPiece, false>(a, rows, first, 16 * step);
#pragma unroll
    for (int n = 0; n < N / 16; ++n) {
      uint32_t b[4];
      tile::fragment_b<D / tile::kPiece, false>(b, tile, row + 16 * n, 16 * step);
      mma_pair<T>(c[2 * n], c[2 * n + 1], a, b);
    }
  }
}

// acc[16 x D] += p[16 x N] times the tile's rows row..row+N-1, p rounded to T.
template <class T, int D, int N>
__device__ __forceinline__ void multiply_add(float (&acc)[D / 8][4], const float (&p)[N / 8][4],
                                             const T* tile, int row) {
#pragma unroll
  for (int step = 0; step < N / 16; ++step) {
    // An accumulator's layout is operand A's: two 8-wide products make 16 columns.
    const uint32_t a[4] = {pack2<T>(p[2 * step][0], p[2 * step][1]),
                           pack2<T>(p[2 * step][2], p[2 * step][3]),
                           pack2<T>(p[2 * step + 1][0], p[2 * step + 1][1]),
                           pack2<T>(p[2 * step + 1][2], p[2 * step + 1][3])};
#pragma unroll
    for (int n = 0; n < D / 16; ++n) {
      uint32_t b[4];
      tile::fragment_b<D / tile::kPiece, true>(b, tile, 16 * n, row + 16 * step);
      mma_pair<T>(acc[2 * n], acc[2 * n + 1], a, b);
    }
  }
}

// Writes a warp's accumulator, times low for rows 0-7 and times high for rows 8-15 of each half,
// through its 16 rows of `tile` to tokens first.. of a matrix, in whole 16-byte chunks.
template <class T, int D>
__device__ __forceinline__ void store_rows(T* matrix, size_t stride, T* tile,
                                           const float (&acc)[D / 8][4], float low, float high,
                                           int first, int count) {
  constexpr int kChunks = D / tile::kPiece;
  const int lane = threadIdx.x % 32, row = threadIdx.x / 32 * 16;
#pragma unroll
  for (int j = 0; j < D / 8; ++j) {
    const int column = 2 * (lane % 4);
    *reinterpret_cast<uint32_t*>(tile::at<kChunks>(tile, row + lane / 4, j) + column) =
        pack2<T>(acc[j][0] * low, acc[j][1] * low);
    *reinterpret_cast<uint32_t*>(tile::at<kChunks>(tile, row + lane / 4 + 8, j) + column) =
        pack2<T>(acc[j][2] * high, acc[j][3] * high);
  }
  __syncwarp();
#pragma unroll
  for (int i = lane; i < 16 * kChunks; i += 32) {
    const int t = first + row + i / kChunks;
    if (t < count)
      store16(matrix + size_t(t) * stride + i % kChunks * tile::kPiece,
              load16(tile::at<kChunks>(tile, row + i / kChunks, i % kChunks)));
  }
}

// Sum and maximum over the four lanes that hold one row of an accumulator.
__device__ __forceinline__ float quad_sum(float value) {
  value += __shfl_xor_sync(~0u, value, 1);
  return value + __shfl_xor_sync(~0u, value, 2);
}
__device__ __forceinline__ float quad_max(float value) {
  value = fmaxf(value, __shfl_xor_sync(~0u, value, 1));
  return fmaxf(value, __shfl_xor_sync(~0u, value, 2));
}

// Rows and columns of an accumulator's element r of product j: row lane / 4 + 8 (r / 2), column 8 j
// + 2 (lane % 4) + r % 2.
__device__ __forceinline__ int element_column(int j, int r) {
  return 8 * j + 2 * int(threadIdx.x % 4) + (r & 1);
}

VARIANTS(T = f16 | bf16, (D, KEYS) = (16, 64) | (32, 64) | (64, 64) | (128, 32))
LAUNCH_BOUNDS(kThreads)
MAX_DYN_SMEM(2 * 2 * KEYS * D * 2)
template <class T, int D, int KEYS>
KERNEL attention_fwd(T* out, float* log_sum, const T* qkv, const unsigned* segments,
                     int segment_count, int count, int heads, int kv_heads, float scale) {
  // [2 stages][keys, values][KEYS][D]; the queries pass through it first, the outputs last.
  DYN_SMEM(T, smem);
  SHARED(int, first_keys, [kTile]);
  const int head = blockIdx.x, q0 = blockIdx.y * kTile, warp_row = threadIdx.x / 32 * 16,
            lane = threadIdx.x % 32;
  const size_t stride = size_t(heads + 2 * kv_heads) * D;
  const T* keys = qkv + size_t(heads + head / (heads / kv_heads)) * D;
  const T* values = keys + size_t(kv_heads) * D;
  const int q_end = min(q0 + kTile, count);

  load_tile<T, D, kTile>(smem, qkv + size_t(head) * D, stride, q0, count);
  ptx::cp_async_commit();
  // Rows past the end get the last row's first key: they are computed like it and not stored.
  if (threadIdx.x < kTile)
    first_keys[threadIdx.x] =
        first_key(segments, segment_count, min(q0 + int(threadIdx.x), count - 1));
  ptx::cp_async_wait<0>();
  __syncthreads();
  uint32_t q[D / 16][4];
#pragma unroll
  for (int step = 0; step < D / 16; ++step)
    tile::fragment_a<D / tile::kPiece, false>(q[step], smem, warp_row, 16 * step);
  const int begin = first_keys[0], last_begin = first_keys[kTile - 1];
  // A query past the end sees what the last one sees.
  const int limit[2] = {min(q0 + warp_row + lane / 4, count - 1),
                        min(q0 + warp_row + lane / 4 + 8, count - 1)};
  const int first[2] = {first_keys[warp_row + lane / 4], first_keys[warp_row + lane / 4 + 8]};
  __syncthreads();

  auto load = [&](int stage, int k0) {
    T* tile = smem + stage * 2 * KEYS * D;
    load_tile<T, D, KEYS>(tile, keys, stride, k0, count);
    load_tile<T, D, KEYS>(tile + KEYS * D, values, stride, k0, count);
  };
  float acc[D / 8][4] = {};
  float largest[2] = {-INFINITY, -INFINITY}, sum[2] = {};
  const float factor = scale * kLog2E;
  load(0, begin);
  ptx::cp_async_commit();
  for (int k0 = begin, stage = 0; k0 < q_end; k0 += KEYS, stage ^= 1) {
    if (k0 + KEYS < q_end) load(stage ^ 1, k0 + KEYS);
    ptx::cp_async_commit();
    ptx::cp_async_wait<1>();
    __syncthreads();
    const T* tile = smem + stage * 2 * KEYS * D;
    float s[KEYS / 8][4];
    multiply_rows<T, D, KEYS>(s, q, tile, 0);
    if (k0 + KEYS - 1 > q0 || k0 < last_begin) {
#pragma unroll
      for (int j = 0; j < KEYS / 8; ++j)
#pragma unroll
        for (int r = 0; r < 4; ++r) {
          const int key = k0 + element_column(j, r);
          if (key < first[r / 2] || key > limit[r / 2]) s[j][r] = -INFINITY;
        }
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float high = largest[half];
#pragma unroll
      for (int j = 0; j < KEYS / 8; ++j)
        high = fmaxf(high, fmaxf(s[j][2 * half], s[j][2 * half + 1]));
      high = quad_max(high);
      // A row that has met none of its keys yet: any finite number keeps its zeros.
      const float base = high == -INFINITY ? 0.0f : high * factor;
      const float shrink = ptx::ex2_approx(largest[half] * factor - base);
      largest[half] = high;
      sum[half] *= shrink;
#pragma unroll
      for (int j = 0; j < D / 8; ++j) {
        acc[j][2 * half] *= shrink;
        acc[j][2 * half + 1] *= shrink;
      }
#pragma unroll
      for (int j = 0; j < KEYS / 8; ++j)
#pragma unroll
        for (int r = 2 * half; r < 2 * half + 2; ++r) {
          s[j][r] = ptx::ex2_approx(s[j][r] * factor - base);
          sum[half] += s[j][r];
        }
    }
    multiply_add<T, D, KEYS>(acc, s, tile + KEYS * D, 0);
    __syncthreads();
  }
  sum[0] = quad_sum(sum[0]);
  sum[1] = quad_sum(sum[1]);
  if (lane % 4 < 2) {
    const int half = lane % 4, t = q0 + warp_row + lane / 4 + 8 * half;
    const float top = half == 0 ? largest[0] : largest[1], total = half == 0 ? sum[0] : sum[1];
    if (t < count) log_sum[size_t(t) * heads + head] = top * scale + logf(total);
  }
  store_rows<T, D>(out + size_t(head) * D, size_t(heads) * D, smem, acc, 1.0f / sum[0],
                   1.0f / sum[1], q0, count);
}

// Gradient of the queries of one head, and delta.
VARIANTS(T = f16 | bf16, (D, KEYS) = (16, 32) | (32, 32) | (64, 32) | (128, 32))
LAUNCH_BOUNDS(kThreads)
MAX_DYN_SMEM(2 * 2 * KEYS * D * 2)
template <class T, int D, int KEYS>
KERNEL attention_dq(T* grad_qkv, float* delta, const T* grad_out, const T* qkv, const T* out,
                    const float* log_sum, const unsigned* segments, int segment_count, int count,
                    int heads, int kv_heads, float scale) {
  // [2 stages][keys, values][KEYS][D]; queries and grad_out pass through it first.
  DYN_SMEM(T, smem);
  SHARED(int, first_keys, [kTile]);
  SHARED(float, deltas, [kTile]);
  const int head = blockIdx.x, q0 = blockIdx.y * kTile, warp_row = threadIdx.x / 32 * 16,
            lane = threadIdx.x % 32;
  const size_t stride = size_t(heads + 2 * kv_heads) * D, out_stride = size_t(heads) * D;
  const T* keys = qkv + size_t(heads + head / (heads / kv_heads)) * D;
  const T* values = keys + size_t(kv_heads) * D;
  const int q_end = min(q0 + kTile, count);

  load_tile<T, D, kTile>(smem, qkv + size_t(head) * D, stride, q0, count);
  load_tile<T, D, kTile>(smem + kTile * D, grad_out + size_t(head) * D, out_stride, q0, count);
  ptx::cp_async_commit();
  if (threadIdx.x < kTile)
    first_keys[threadIdx.x] =
        first_key(segments, segment_count, min(q0 + int(threadIdx.x), count - 1));
  {  // Two threads per row.
    const int row = threadIdx.x / 2, t = q0 + row;
    const size_t at =
        size_t(min(t, count - 1)) * out_stride + size_t(head) * D + threadIdx.x % 2 * (D / 2);
    float total = 0.0f;
#pragma unroll
    for (int i = 0; i < D / 2; i += 8) {
      const Pack<T> a = load16(grad_out + at + i), b = load16(out + at + i);
#pragma unroll
      for (int e = 0; e < 8; ++e) total += to_float(a.v[e]) * to_float(b.v[e]);
    }
    total += __shfl_xor_sync(~0u, total, 1);
    if (threadIdx.x % 2 == 0) {
      deltas[row] = total;
      if (t < count) delta[size_t(t) * heads + head] = total;
    }
  }
  ptx::cp_async_wait<0>();
  __syncthreads();
  uint32_t q[D / 16][4], g[D / 16][4];
#pragma unroll
  for (int step = 0; step < D / 16; ++step) {
    tile::fragment_a<D / tile::kPiece, false>(q[step], smem, warp_row, 16 * step);
    tile::fragment_a<D / tile::kPiece, false>(g[step], smem + kTile * D, warp_row, 16 * step);
  }
  const int begin = first_keys[0], last_begin = first_keys[kTile - 1];
  int limit[2], first[2];
  float row_delta[2], row_log[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = warp_row + lane / 4 + 8 * half;
    limit[half] = min(q0 + row, count - 1);
    first[half] = first_keys[row];
    row_delta[half] = deltas[row];
    row_log[half] = log_sum[size_t(limit[half]) * heads + head] * kLog2E;
  }
  __syncthreads();

  auto load = [&](int stage, int k0) {
    T* tile = smem + stage * 2 * KEYS * D;
    load_tile<T, D, KEYS>(tile, keys, stride, k0, count);
    load_tile<T, D, KEYS>(tile + KEYS * D, values, stride, k0, count);
  };
  float acc[D / 8][4] = {};
  const float factor = scale * kLog2E;
  load(0, begin);
  ptx::cp_async_commit();
  for (int k0 = begin, stage = 0; k0 < q_end; k0 += KEYS, stage ^= 1) {
    if (k0 + KEYS < q_end) load(stage ^ 1, k0 + KEYS);
    ptx::cp_async_commit();
    ptx::cp_async_wait<1>();
    __syncthreads();
    const T* tile = smem + stage * 2 * KEYS * D;
    const bool masked = k0 + KEYS - 1 > q0 || k0 < last_begin;
    float s[KEYS / 8][4], d[KEYS / 8][4];
    multiply_rows<T, D, KEYS>(s, q, tile, 0);
    multiply_rows<T, D, KEYS>(d, g, tile + KEYS * D, 0);
#pragma unroll
    for (int j = 0; j < KEYS / 8; ++j)
#pragma unroll
      for (int r = 0; r < 4; ++r) {
        const int key = k0 + element_column(j, r);
        const bool seen = !masked || (key >= first[r / 2] && key <= limit[r / 2]);
        const float p = seen ? ptx::ex2_approx(s[j][r] * factor - row_log[r / 2]) : 0.0f;
        s[j][r] = p * (d[j][r] - row_delta[r / 2]);
      }
    multiply_add<T, D, KEYS>(acc, s, tile, 0);
    __syncthreads();
  }
  store_rows<T, D>(grad_qkv + size_t(head) * D, stride, smem, acc, scale, scale, q0, count);
}

// Gradients of the keys and values of one key/value head. Products are made transposed, keys as
// rows: so that the probabilities come out in the layout that the sums over queries read. KEEP: the
// block's keys and values stay in registers, else in shared memory.
VARIANTS(T = f16 | bf16,
         (D, QUERIES, KEEP) = (16, 32, true) | (32, 32, true) | (64, 32, true) | (128, 32, false))
LAUNCH_BOUNDS(kThreads)
MAX_DYN_SMEM(2 * 2 * QUERIES * D * 2 + (KEEP ? 0 : 2 * kTile * D * 2))
template <class T, int D, int QUERIES, bool KEEP>
KERNEL attention_dkv(T* grad_qkv, const T* grad_out, const T* qkv, const float* log_sum,
                     const float* delta, const unsigned* segments, int segment_count, int count,
                     int heads, int kv_heads, float scale) {
  // [2 stages][queries, grad_out][QUERIES][D]; keys and values [kTile][D] before that (KEEP: in its
  // place).
  DYN_SMEM(T, smem);
  SHARED(int, query_ends, [kTile]);
  SHARED(float, logs, [2][QUERIES]);
  SHARED(float, deltas, [2][QUERIES]);
  const int group = heads / kv_heads, kv_head = blockIdx.x, k0 = blockIdx.y * kTile;
  const int warp_row = threadIdx.x / 32 * 16, lane = threadIdx.x % 32;
  const size_t stride = size_t(heads + 2 * kv_heads) * D, out_stride = size_t(heads) * D;
  const size_t key_column = size_t(heads + kv_head) * D,
               value_column = key_column + size_t(kv_heads) * D;
  T* own_keys = smem;
  T* own_values = smem + kTile * D;
  T* stages = KEEP ? smem : smem + 2 * kTile * D;

  load_tile<T, D, kTile>(own_keys, qkv + key_column, stride, k0, count);
  load_tile<T, D, kTile>(own_values, qkv + value_column, stride, k0, count);
  ptx::cp_async_commit();
  // Keys past the end have no query.
  if (threadIdx.x < kTile) {
    const int key = k0 + int(threadIdx.x);
    query_ends[threadIdx.x] = key < count ? query_end(segments, segment_count, count, key) : 0;
  }
  ptx::cp_async_wait<0>();
  __syncthreads();
  constexpr int STEPS = KEEP ? D / 16 : 1;
  uint32_t k[STEPS][4], v[STEPS][4];
  if constexpr (KEEP) {
#pragma unroll
    for (int step = 0; step < STEPS; ++step) {
      tile::fragment_a<D / tile::kPiece, false>(k[step], own_keys, warp_row, 16 * step);
      tile::fragment_a<D / tile::kPiece, false>(v[step], own_values, warp_row, 16 * step);
    }
  }
  const int first_end = query_ends[0], last_end = query_ends[min(k0 + kTile, count) - 1 - k0];
  const int key[2] = {k0 + warp_row + lane / 4, k0 + warp_row + lane / 4 + 8};
  const int end[2] = {query_ends[warp_row + lane / 4], query_ends[warp_row + lane / 4 + 8]};
  __syncthreads();

  const int blocks = (last_end - k0 + QUERIES - 1) / QUERIES, total = blocks * group;
  auto load = [&](int stage, int i) {
    const int head = kv_head * group + i / blocks, q0 = k0 + i % blocks * QUERIES;
    T* tile = stages + stage * 2 * QUERIES * D;
    load_tile<T, D, QUERIES>(tile, qkv + size_t(head) * D, stride, q0, count);
    load_tile<T, D, QUERIES>(tile + QUERIES * D, grad_out + size_t(head) * D, out_stride, q0,
                             count);
    if (threadIdx.x < QUERIES) {
      // Past the end: any value, no key reads it.
      const size_t at = size_t(min(q0 + int(threadIdx.x), count - 1)) * heads + head;
      logs[stage][threadIdx.x] = log_sum[at] * kLog2E;
      deltas[stage][threadIdx.x] = delta[at];
    }
  };
  float grad_k[D / 8][4] = {}, grad_v[D / 8][4] = {};
  const float factor = scale * kLog2E;
  load(0, 0);
  ptx::cp_async_commit();
  for (int i = 0, stage = 0; i < total; ++i, stage ^= 1) {
    if (i + 1 < total) load(stage ^ 1, i + 1);
    ptx::cp_async_commit();
    ptx::cp_async_wait<1>();
    __syncthreads();
    const int q0 = k0 + i % blocks * QUERIES;
    const T* queries = stages + stage * 2 * QUERIES * D;
    const T* grads = queries + QUERIES * D;
    const bool masked = q0 < k0 + kTile - 1 || q0 + QUERIES > first_end;
    float p[QUERIES / 8][4], d[QUERIES / 8][4];
    if constexpr (KEEP)
      multiply_rows<T, D, QUERIES>(p, k, queries, 0);
    else
      multiply_tiles<T, D, QUERIES>(p, own_keys, warp_row, queries, 0);
#pragma unroll
    for (int j = 0; j < QUERIES / 8; ++j)
#pragma unroll
      for (int r = 0; r < 4; ++r) {
        const int column = element_column(j, r), query = q0 + column;
        const bool seen = !masked || (query >= key[r / 2] && query < end[r / 2]);
        p[j][r] = seen ? ptx::ex2_approx(p[j][r] * factor - logs[stage][column]) : 0.0f;
      }
    multiply_add<T, D, QUERIES>(grad_v, p, grads, 0);
    if constexpr (KEEP)
      multiply_rows<T, D, QUERIES>(d, v, grads, 0);
    else
      multiply_tiles<T, D, QUERIES>(d, own_values, warp_row, grads, 0);
#pragma unroll
    for (int j = 0; j < QUERIES / 8; ++j)
#pragma unroll
      for (int r = 0; r < 4; ++r) p[j][r] *= d[j][r] - deltas[stage][element_column(j, r)];
    multiply_add<T, D, QUERIES>(grad_k, p, queries, 0);
    __syncthreads();
  }
  store_rows<T, D>(grad_qkv + key_column, stride, smem, grad_k, scale, scale, k0, count);
  __syncwarp();
  store_rows<T, D>(grad_qkv + value_column, stride, smem, grad_v, 1.0f, 1.0f, k0, count);
}
