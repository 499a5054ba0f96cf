// embedding.cu - rows of a table by token, and the gradient of the table.
//
// forward:   out[t] = table[tokens[t]]                                                       (=)
// backward:  grad_table[v] += sum of grad_out[t] over the t with tokens[t] = v, in the order of t
//
// table and grad_table [vocab, hidden], out and grad_out [count, hidden] in T, tokens [count]. Any
// sizes; 16 bytes per thread where hidden is a multiple of 8. A token that is not below vocab gives
// a row of NaN forward, which loss and gradient norm show, and nothing backward.
//
// The backward pass sorts first: `embedding_sort` leaves in `order` the t's by token, those of one
// token ascending (a stable radix sort of 8 bits per pass; one block, since a step has some
// thousands of tokens and six kernels would cost more than they save). Then a warp per sorted place
// and 256 columns sums a token's rows in f32, if the place is the token's first, and adds once: no
// atomics, one order.
#include "scan.cuh"

TO_HOST constexpr int kThreads = 256;
/// Warps of a block of the backward pass, each with its own place.
TO_HOST constexpr int kWarps = kThreads / 32;
constexpr int kSortThreads = 512;
constexpr int kSortWarps = kSortThreads / 32;
/// Bits that a pass of the sort goes by.
TO_HOST constexpr int kDigitBits = 8;
constexpr int kDigits = 1 << kDigitBits;

// Grid ceil(count parts / kThreads), parts = hidden / 8 where 16-byte accesses are possible, else
// hidden.
VARIANTS(T = f16 | bf16)
LAUNCH_BOUNDS(kThreads)
template <class T>
KERNEL embedding_fwd(T* out, const T* table, const unsigned* tokens, int count, int vocab,
                     int hidden) {
  constexpr int kPack = Pack<T>::kCount;
  const int width = hidden % kPack == 0 ? kPack : 1, parts = hidden / width;
  const unsigned item = blockIdx.x * kThreads + threadIdx.x;
  const unsigned t = item / parts;
  if (t >= unsigned(count)) return;
  const int column = int(item % parts) * width;
  const unsigned token = tokens[t];
  T* to = out + size_t(t) * hidden + column;
  if (token >= unsigned(vocab)) {
    for (int i = 0; i < width; ++i) to[i] = from_float<T>(NAN);
    return;
  }
  const T* from = table + size_t(token) * hidden + column;
  if (width > 1)
    store16(to, load16(from));
  else
    *to = *from;
}

// Grid 1. `order` and `spare` [count]; passes = number of digits of `vocab`, at least 1.
extern "C" __global__ void __launch_bounds__(kSortThreads)
    embedding_sort(unsigned* order, unsigned* spare, const unsigned* tokens, int count, int vocab,
                   int passes) {
  SHARED(unsigned, counts, [kSortWarps][kDigits]);
  SHARED(unsigned, sums, [kDigits / 32]);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, digit = threadIdx.x;
  // Each warp walks its own part of the items, in order.
  const int share = (count + kSortWarps * 32 - 1) / (kSortWarps * 32) * 32;
  const int begin = min(warp * share, count), end = min(begin + share, count);
  for (int pass = 0; pass < passes; ++pass) {
    // The last pass writes `order`.
    unsigned* to = (passes - pass) % 2 == 1 ? order : spare;
    const unsigned* from = (passes - pass) % 2 == 1 ? spare : order;
    for (int i = lane; i < kDigits; i += 32) counts[warp][i] = 0;
    __syncwarp();
    for (int i = begin + lane; i < end; i += 32) {
      const unsigned token = tokens[pass == 0 ? unsigned(i) : from[i]];
      atomicAdd(&counts[warp][min(token, unsigned(vocab)) >> kDigitBits * pass & (kDigits - 1u)],
                1u);
    }
    __syncthreads();
    // counts[w][d] becomes the first place of warp w's items with digit d.
    unsigned total = 0, inclusive = 0;
    if (digit < kDigits) {
      for (int w = 0; w < kSortWarps; ++w) total += counts[w][digit];
      inclusive = warp_prefix_sum(total);
      if (lane == 31) sums[warp] = inclusive;
    }
    __syncthreads();
    if (digit < kDigits) {
      unsigned place = inclusive - total;
      for (int w = 0; w < warp; ++w) place += sums[w];
      for (int w = 0; w < kSortWarps; ++w) {
        const unsigned n = counts[w][digit];
        counts[w][digit] = place;
        place += n;
      }
    }
    __syncthreads();
    for (int first = begin; first < end; first += 32) {
      const bool valid = first + lane < end;
      const unsigned t = !valid ? 0 : pass == 0 ? unsigned(first + lane) : from[first + lane];
      const unsigned key =
          valid ? min(tokens[t], unsigned(vocab)) >> kDigitBits * pass & (kDigits - 1u) : 0;
      const unsigned place = take_place(counts[warp], key, valid);
      if (valid) to[place] = t;
    }
    __syncthreads();
  }
}

// Grid ceil(count chunks / kWarps), chunks = ceil(hidden / 256) where 16-byte accesses are
// possible, else ceil(hidden / 32).
VARIANTS(T = f16 | bf16)
LAUNCH_BOUNDS(kThreads)
template <class T>
KERNEL embedding_bwd(T* grad_table, const T* grad_out, const unsigned* tokens,
                     const unsigned* order, int count, int vocab, int hidden) {
  constexpr int kPack = Pack<T>::kCount;
  const int lane = threadIdx.x % 32, width = hidden % kPack == 0 ? kPack : 1;
  const int chunks = (hidden + 32 * width - 1) / (32 * width);
  const unsigned item = blockIdx.x * kWarps + threadIdx.x / 32;
  const int place = int(item / chunks);
  if (place >= count) return;
  const unsigned token = tokens[order[place]];
  if (token >= unsigned(vocab) || (place > 0 && tokens[order[place - 1]] == token)) return;
  const int column = (int(item % chunks) * 32 + lane) * width;
  float sums[kPack] = {};
  for (int first = place; first < count; first += 32) {
    // 32 places at a time: how many of them are still this token's?
    const unsigned t = first + lane < count ? order[first + lane] : 0;
    const int n = __popc(__ballot_sync(~0u, first + lane < count && tokens[t] == token));
#pragma unroll 4
    for (int i = 0; i < n; ++i) {
      const T* row = grad_out + size_t(__shfl_sync(~0u, t, i)) * hidden + column;
      if (column >= hidden) continue;
      if (width > 1) {
        const Pack<T> values = load16(row);
#pragma unroll
        for (int e = 0; e < kPack; ++e) sums[e] += to_float(values.v[e]);
      } else {
        sums[0] += to_float(*row);
      }
    }
    if (n < 32) break;
  }
  if (column >= hidden) return;
  T* to = grad_table + size_t(token) * hidden + column;
  if (width > 1) {
    Pack<T> values = load16(to);
#pragma unroll
    for (int e = 0; e < kPack; ++e) values.v[e] = from_float<T>(to_float(values.v[e]) + sums[e]);
    store16(to, values);
  } else {
    *to = from_float<T>(to_float(*to) + sums[0]);
  }
}
