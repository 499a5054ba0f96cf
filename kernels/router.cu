// router.cu - which experts serve a token: logits, softmax, the K best, their weights; the order of
// slots by expert; the sums for the load-balancing loss; and the gradients.
//
//   probs[t] = softmax(x[t] weight^T), the K largest are chosen (of equals the lower number),
//   weights = theirs / their sum                                                                (=)
//   slots are (token, choice) pairs by expert and, within one, by token: offsets [E + 1],
//   slot_source [T K] = token K + choice, source_slot its inverse                               (=)
//   counts[g,e] += pairs of group g's tokens sent to e;  prob_sums[g,e] += sum of their probs
// backward, with s = the sum of the chosen p and dw = grad_weights:
//   dp[e] = scale E counts[g,e] / (layers tokens_g)^2
//           + (dw[e] - sum_k dw_k p_k / s) / s, the latter for chosen e
//   dlogit[e] = p[e] (dp[e] - sum_e dp[e] p[e])
//   grad_x += dlogit weight;  grad_weight += dlogit^T x
//
// x, grad_x [T, C] and weight, grad_weight [E, C] in T; all else in f32 or u32; groups [group_count
// + 1] are token offsets; tokens behind the last are padding: routed, but of no group. At most
// kMaxExperts experts; any C, 16-byte accesses where it is a multiple of 8. Everything is counted
// and sorted on the device: the host never learns who got how many. Three launches forward (logits
// and choice; offsets and sums; slots), two backward (gradients with one part of grad_weight per
// kBackTokens tokens; the parts' sum in order). No atomics but integer counts in shared memory.
// FLOPs: 2 E C per token forward, 4 E C backward. Bytes: x once forward; x and grad_x once, twice
// x, backward.
#include "loss_scale.cuh"
#include "scan.cuh"
#include "segments.cuh"

TO_HOST constexpr int kThreads = 256;
TO_HOST constexpr int kWarps = kThreads / 32;
TO_HOST constexpr int kMaxExperts = 128;
/// Tokens of a block of the first two kernels: 4 per warp, and one per lane of the warp that
/// chooses.
TO_HOST constexpr int kTokens = 32;
/// Experts whose sums a thread holds at once.
TO_HOST constexpr int kExpertsAtOnce = 8;
/// Tokens of a block of the backward pass.
TO_HOST constexpr int kBackTokens = 64;

/// Sums 2 Half values per lane over the lanes that differ in the bits of 2 Half - 1, until one is
/// left: from 32 values on, lane l gets the warp's sum of the values v[l]. All sums have the same
/// tree, so equal values give equal bits.
template <int Half>
__device__ __forceinline__ void transposed_sums(float (&v)[32]) {
  const bool upper = threadIdx.x & Half;
#pragma unroll
  for (int i = 0; i < Half; ++i) {
    const float keep = upper ? v[i + Half] : v[i], give = upper ? v[i] : v[i + Half];
    v[i] = keep + __shfl_xor_sync(~0u, give, Half);
  }
  if constexpr (Half > 1) transposed_sums<Half / 2>(v);
}

/// Logits of the block's tokens into `logits [E][kTokens]`.
template <class T>
__device__ __forceinline__ void make_logits(float* logits, const T* x, const T* weight, int first,
                                            int count, int hidden, int experts) {
  constexpr int kPack = Pack<T>::kCount;
  const int lane = threadIdx.x % 32, row = threadIdx.x / 32 * 4,
            width = hidden % kPack == 0 ? kPack : 1;
  for (int e0 = 0; e0 < experts; e0 += 8) {
    float sums[32] = {};  // [4 tokens][8 experts]
    for (int c = lane * width; c < hidden; c += 32 * width) {
      float a[4][kPack];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        // Past the end: the last token again, which nobody reads.
        const T* from = x + size_t(min(first + row + j, count - 1)) * hidden + c;
        Pack<T> values;
        if (width > 1)
          values = load16(from);
        else
          values.v[0] = *from;
#pragma unroll
        for (int i = 0; i < kPack; ++i) a[j][i] = i < width ? to_float(values.v[i]) : 0.0f;
      }
#pragma unroll
      for (int e = 0; e < 8; ++e) {
        if (e0 + e >= experts) continue;
        const T* from = weight + size_t(e0 + e) * hidden + c;
        Pack<T> values;
        if (width > 1)
          values = load16(from);
        else
          values.v[0] = *from;
#pragma unroll
        for (int i = 0; i < kPack; ++i) {
          if (i >= width) continue;
          const float w = to_float(values.v[i]);
#pragma unroll
          for (int j = 0; j < 4; ++j) sums[8 * j + e] += a[j][i] * w;
        }
      }
    }
    transposed_sums<16>(sums);
    if (e0 + lane % 8 < experts) logits[(e0 + lane % 8) * kTokens + row + lane / 8] = sums[0];
  }
}

// Grid tiles = ceil(count / kTokens); E * 128 bytes of dynamic shared memory.
VARIANTS(T = f16 | bf16)
LAUNCH_BOUNDS(kThreads)
MAX_DYN_SMEM(4 * kMaxExperts * kTokens)
template <class T>
KERNEL router_fwd(float* probs, unsigned* chosen, float* weights, unsigned* tile_counts, const T* x,
                  const T* weight, int count, int hidden, int experts, int top_k) {
  DYN_SMEM(float, p);  // [E][kTokens]
  SHARED(unsigned, counts, [kMaxExperts]);
  const int first = blockIdx.x * kTokens, lane = threadIdx.x % 32;
  for (int e = threadIdx.x; e < experts; e += kThreads) counts[e] = 0;
  make_logits(p, x, weight, first, count, hidden, experts);
  __syncthreads();
  if (threadIdx.x < kTokens && first + lane < count) {
    const size_t t = size_t(first) + lane;
    float* mine = p + lane;
    float largest = -INFINITY, sum = 0.0f, kept = 0.0f;
    for (int e = 0; e < experts; ++e) largest = fmaxf(largest, mine[e * kTokens]);
    for (int e = 0; e < experts; ++e) {
      const float value = expf(mine[e * kTokens] - largest);
      mine[e * kTokens] = value;
      sum += value;
    }
    for (int e = 0; e < experts; ++e) mine[e * kTokens] /= sum;
    // Each choice is the first one in the order (probability down, number up) behind the one
    // before.
    float bound = INFINITY;
    int last = -1;
    for (int k = 0; k < top_k; ++k) {
      float best = -1.0f;
      // Where logits are not finite nothing compares, and any choice of different experts will do.
      int at = k;
      for (int e = 0; e < experts; ++e) {
        const float value = mine[e * kTokens];
        if (value > best && (value < bound || (value == bound && e > last))) {
          best = value;
          at = e;
        }
      }
      bound = best;
      last = at;
      kept += mine[at * kTokens];
      chosen[t * top_k + k] = unsigned(at);
      atomicAdd(&counts[at], 1u);
    }
    for (int k = 0; k < top_k; ++k)
      weights[t * top_k + k] = mine[int(chosen[t * top_k + k]) * kTokens] / kept;
  }
  __syncthreads();
  const int values = min(kTokens, count - first) * experts;
  for (int i = threadIdx.x; i < values; i += kThreads)
    probs[size_t(first) * experts + i] = p[i % experts * kTokens + i / experts];
  for (int e = threadIdx.x; e < experts; e += kThreads)
    tile_counts[size_t(e) * gridDim.x + blockIdx.x] = counts[e];
}

// Block 0: tile_counts [E, tiles], the choices per expert and tile of kTokens tokens, becomes the
// tile's first slot of the expert; offsets. Block 1 + g: the sums of group g. Grid 1 + group_count.
extern "C" __global__ void __launch_bounds__(kThreads)
    router_offsets(unsigned* offsets, unsigned* tile_counts, float* counts, float* prob_sums,
                   const float* probs, const unsigned* chosen, const unsigned* groups, int count,
                   int tiles, int experts, int top_k) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  if (blockIdx.x > 0) {
    const int group = blockIdx.x - 1, begin = min(groups[group], unsigned(count)),
              end = min(groups[group + 1], unsigned(count));
    for (int e = warp; e < experts; e += kWarps) {
      unsigned sent = 0;
      float sum = 0.0f;
      for (int t = begin + lane; t < end; t += 32) {
        sum += probs[size_t(t) * experts + e];
        for (int k = 0; k < top_k; ++k) sent += chosen[size_t(t) * top_k + k] == unsigned(e);
      }
      sum = warp_sum(sum);
      sent = __shfl_sync(~0u, warp_prefix_sum(sent), 31);
      if (lane == 0) {
        counts[size_t(group) * experts + e] += float(sent);
        prob_sums[size_t(group) * experts + e] += sum;
      }
    }
    return;
  }
  SHARED(unsigned, firsts, [kMaxExperts]);
  for (int e = warp; e < experts; e += kWarps) {
    unsigned total = 0;
    for (int i = lane; i < tiles; i += 32) total += tile_counts[size_t(e) * tiles + i];
    total = warp_prefix_sum(total);
    if (lane == 31) firsts[e] = total;
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    unsigned slot = 0;
    for (int e = 0; e < experts; ++e) {
      const unsigned n = firsts[e];
      firsts[e] = slot;
      offsets[e] = slot;
      slot += n;
    }
    offsets[experts] = slot;
  }
  __syncthreads();
  for (int e = warp; e < experts; e += kWarps) {
    unsigned slot = firsts[e];
    for (int i = lane; i - lane < tiles; i += 32) {
      const unsigned n = i < tiles ? tile_counts[size_t(e) * tiles + i] : 0,
                     through = warp_prefix_sum(n);
      if (i < tiles) tile_counts[size_t(e) * tiles + i] = slot + through - n;
      slot += __shfl_sync(~0u, through, 31);
    }
  }
}

// A warp per tile of kTokens tokens: its choices, in order, take the slots from first_slots [E,
// tiles] on. Grid ceil(tiles / kWarps).
extern "C" __global__ void __launch_bounds__(kThreads)
    router_slots(unsigned* slot_source, unsigned* source_slot, const unsigned* first_slots,
                 const unsigned* chosen, int count, int tiles, int experts, int top_k) {
  SHARED(unsigned, next, [kWarps][kMaxExperts]);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, tile = blockIdx.x * kWarps + warp;
  if (tile >= tiles) return;
  for (int e = lane; e < experts; e += 32) next[warp][e] = first_slots[size_t(e) * tiles + tile];
  __syncwarp();
  const unsigned begin = unsigned(tile) * kTokens * top_k,
                 end = unsigned(min((tile + 1) * kTokens, count)) * top_k;
  for (unsigned first = begin; first < end; first += 32) {
    const unsigned source = first + lane;
    const bool valid = source < end;
    const unsigned slot = take_place(next[warp], valid ? chosen[source] : 0, valid);
    if (valid) {
      slot_source[slot] = source;
      source_slot[source] = slot;
    }
  }
}

/// Gradients of the logits of a block's tokens into `grads [experts to a multiple of
/// 8][kBackTokens]`, zeros where there is no expert or token.
__device__ __forceinline__ void grad_logits(float* grads, const float* grad_weights,
                                            const float* probs, const unsigned* chosen,
                                            const float* counts, const unsigned* groups,
                                            const float* scale_state, int group_count, int layers,
                                            float balance_scale, int first, int count, int experts,
                                            int top_k) {
  const int padded = (experts + kExpertsAtOnce - 1) / kExpertsAtOnce * kExpertsAtOnce,
            row = threadIdx.x;
  if (row >= kBackTokens) return;
  float* mine = grads + row;
  const int t = first + row;
  if (t >= count) {
    for (int e = 0; e < padded; ++e) mine[e * kBackTokens] = 0.0f;
    return;
  }
  const int group = segment_of(groups, group_count, t);
  const float routed = float(layers) * float(groups[group + 1] - groups[group]);
  // Tokens behind the last group are padding, which no loss is taken over.
  const bool padding = unsigned(t) >= groups[group_count];
  const float factor =
      padding ? 0.0f : scale_state[kLossScale] * balance_scale * float(experts) / (routed * routed);
  const float* p = probs + size_t(t) * experts;
  for (int e = 0; e < padded; ++e)
    mine[e * kBackTokens] = e < experts ? factor * counts[size_t(group) * experts + e] : 0.0f;
  float sum = 0.0f, mean = 0.0f;
  // A number that is no expert's is a mistake of the caller; it must not become one of addressing.
  const auto expert = [&](int k) {
    return min(chosen[size_t(t) * top_k + k], unsigned(experts) - 1);
  };
  for (int k = 0; k < top_k; ++k) {
    const float value = p[expert(k)];
    sum += value;
    mean += grad_weights[size_t(t) * top_k + k] * value;
  }
  mean /= sum;
  for (int k = 0; k < top_k; ++k)
    mine[expert(k) * kBackTokens] += (grad_weights[size_t(t) * top_k + k] - mean) / sum;
  float all = 0.0f;
  for (int e = 0; e < experts; ++e) all += mine[e * kBackTokens] * p[e];
  for (int e = 0; e < experts; ++e) mine[e * kBackTokens] = p[e] * (mine[e * kBackTokens] - all);
}

/// The `kWidth` neighbouring elements from `at` on, widened.
template <int kWidth, class T>
__device__ __forceinline__ void load_columns(float (&to)[kWidth], const T* at) {
  if constexpr (kWidth == 2) {
    struct __align__(4) {
      T v[2];
    } both;
    *reinterpret_cast<uint32_t*>(&both) = *reinterpret_cast<const uint32_t*>(at);
    to[0] = to_float(both.v[0]);
    to[1] = to_float(both.v[1]);
  } else {
    to[0] = to_float(*at);
  }
}

/// One thread's columns: grad_x of all the block's tokens, and the block's part of grad_weight.
template <int kWidth, class T>
__device__ __forceinline__ void spread(T* grad_x, float* part, const float* grads, const T* x,
                                       const T* weight, int first, int count, int hidden,
                                       int experts) {
  const int tokens = min(kBackTokens, count - first);
  for (int c = threadIdx.x * kWidth; c < hidden; c += kThreads * kWidth) {
    T* out = grad_x + size_t(first) * hidden + c;
    for (int t0 = 0; t0 < tokens; t0 += 8) {
      float sums[8][kWidth] = {};
      for (int e = 0; e < experts; ++e) {
        float w[kWidth];
        load_columns(w, weight + size_t(e) * hidden + c);
#pragma unroll
        for (int j = 0; j < 8; ++j)
#pragma unroll
          for (int i = 0; i < kWidth; ++i) sums[j][i] += grads[e * kBackTokens + t0 + j] * w[i];
      }
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        if (t0 + j >= tokens) continue;
        T* at = out + size_t(t0 + j) * hidden;
        float old[kWidth];
        load_columns(old, at);
        if constexpr (kWidth == 2)
          *reinterpret_cast<uint32_t*>(at) = pack2<T>(old[0] + sums[j][0], old[1] + sums[j][1]);
        else
          *at = from_float<T>(old[0] + sums[j][0]);
      }
    }
    const T* in = x + size_t(first) * hidden + c;
    for (int e0 = 0; e0 < experts; e0 += kExpertsAtOnce) {
      float sums[kExpertsAtOnce][kWidth] = {};
#pragma unroll 4
      for (int t = 0; t < tokens; ++t) {
        float a[kWidth];
        load_columns(a, in + size_t(t) * hidden);
#pragma unroll
        for (int e = 0; e < kExpertsAtOnce; ++e)
#pragma unroll
          for (int i = 0; i < kWidth; ++i) sums[e][i] += grads[(e0 + e) * kBackTokens + t] * a[i];
      }
#pragma unroll
      for (int e = 0; e < kExpertsAtOnce; ++e)
#pragma unroll
        for (int i = 0; i < kWidth; ++i)
          if (e0 + e < experts) part[size_t(e0 + e) * hidden + c + i] = sums[e][i];
    }
  }
}

// Grid blocks = ceil(count / kBackTokens), parts [blocks, E, C]; E rounded up to a multiple of 8,
// times 256 bytes of dynamic shared memory.
VARIANTS(T = f16 | bf16)
LAUNCH_BOUNDS(kThreads)
MAX_DYN_SMEM(4 * kMaxExperts * kBackTokens)
template <class T>
KERNEL router_bwd(T* grad_x, float* parts, const float* grad_weights, const T* x, const T* weight,
                  const float* probs, const unsigned* chosen, const float* counts,
                  const unsigned* groups, const float* scale_state, int group_count, int layers,
                  float balance_scale, int count, int hidden, int experts, int top_k) {
  DYN_SMEM(float, grads);
  const int first = blockIdx.x * kBackTokens;
  grad_logits(grads, grad_weights, probs, chosen, counts, groups, scale_state, group_count, layers,
              balance_scale, first, count, experts, top_k);
  __syncthreads();
  float* part = parts + size_t(blockIdx.x) * experts * hidden;
  if (hidden % 2 == 0)
    spread<2>(grad_x, part, grads, x, weight, first, count, hidden, experts);
  else
    spread<1>(grad_x, part, grads, x, weight, first, count, hidden, experts);
}

// Grid ceil(size / kThreads), size = E C.
VARIANTS(T = f16 | bf16)
LAUNCH_BOUNDS(kThreads)
template <class T>
KERNEL router_bwd_sum(T* grad_weight, const float* parts, int blocks, int size) {
  const int i = blockIdx.x * kThreads + threadIdx.x;
  if (i >= size) return;
  float sum = 0.0f;
#pragma unroll 8
  for (int b = 0; b < blocks; ++b) sum += parts[size_t(b) * size + i];
  grad_weight[i] = from_float<T>(to_float(grad_weight[i]) + sum);
}
