// rope.cu - rotary position embedding of queries and keys, in place.
//
// forward:   low' = low cos a - high sin a,  high' = high cos a + low sin a
// backward:  the same with -a
//
// with a = position theta^(-2i/D), for elements low = i and high = i + D/2 of each of the first
// `heads` heads of a row (the half-split form).
//
// qkv [count, columns] in T: heads of `size` elements, queries and keys first; positions [count];
// log_theta is log2(theta). Any even size; 16 bytes per thread where size / 2 and columns are
// multiples of 8. A thread owns its pairs, so in place is safe. Launch: one thread per (token,
// head, 8 pairs or 1), 256 per block. Moves 4 bytes per element; about 30 FLOPs per pair.
#include "common.cuh"

TO_HOST constexpr int kThreads = 256;

/// Sine and cosine in f32, to about one unit in the last place for |angle| < 1e5: the library's go
/// through local memory for angles that no position has.
__device__ __forceinline__ void sine_cosine(float angle, float& sine, float& cosine) {
  // angle = quarters pi/2 + x, |x| <= pi/4; pi/2 in two parts, whose first product is exact in the
  // fused operation.
  const float quarters = rintf(angle * 0.636619772f);
  float x = fmaf(quarters, -1.57079637f, angle);
  x = fmaf(quarters, 4.37113883e-8f, x);
  const float z = x * x;
  float s = fmaf(fmaf(fmaf(-1.95152959e-4f, z, 8.33216087e-3f), z, -1.66666546e-1f), z * x, x);
  float c = fmaf(fmaf(fmaf(2.44331571e-5f, z, -1.38873163e-3f), z, 4.16666456e-2f), z * z,
                 fmaf(-0.5f, z, 1.0f));
  const int quadrant = int(quarters) & 3;
  if (quadrant & 1) {
    const float swap = s;
    s = c;
    c = swap;
  }
  sine = quadrant & 2 ? -s : s;
  cosine = (quadrant + 1) & 2 ? -c : c;
}

template <class T>
__device__ __forceinline__ void rotate(T* qkv, const unsigned* positions, float log_theta,
                                       float direction, int count, int heads, int size,
                                       int columns) {
  constexpr int kPack = Pack<T>::kCount;
  const int half = size / 2;
  const bool packed = half % kPack == 0 && columns % kPack == 0;
  const int parts = packed ? half / kPack : half;
  const unsigned item = blockIdx.x * kThreads + threadIdx.x;
  const unsigned row = item / parts;
  if (row >= unsigned(count) * heads) return;
  const int t = int(row / heads), head = int(row % heads), width = packed ? kPack : 1,
            first = int(item % parts) * width;
  T* at = qkv + size_t(t) * columns + size_t(head) * size + first;
  const float position = float(positions[t]), step = -2.0f / float(size) * log_theta;
  Pack<T> low, high;
  if (packed) {
    low = load16(at);
    high = load16(at + half);
  } else {
    low.v[0] = at[0];
    high.v[0] = at[half];
  }
#pragma unroll
  for (int i = 0; i < kPack; ++i) {
    if (i >= width) continue;
    float s, c;
    sine_cosine(position * exp2f(step * float(first + i)), s, c);
    s *= direction;
    const float a = to_float(low.v[i]), b = to_float(high.v[i]);
    low.v[i] = from_float<T>(a * c - b * s);
    high.v[i] = from_float<T>(b * c + a * s);
  }
  if (packed) {
    store16(at, low);
    store16(at + half, high);
  } else {
    at[0] = low.v[0];
    at[half] = high.v[0];
  }
}

// Grid ceil(count heads parts / kThreads), parts = size / 16 where 16-byte accesses are possible,
// else size / 2.
VARIANTS(T = f16 | bf16)
LAUNCH_BOUNDS(kThreads)
template <class T>
KERNEL rope_fwd(T* qkv, const unsigned* positions, float log_theta, int count, int heads, int size,
                int columns) {
  rotate(qkv, positions, log_theta, 1.0f, count, heads, size, columns);
}
VARIANTS(T = f16 | bf16)
LAUNCH_BOUNDS(kThreads)
template <class T>
KERNEL rope_bwd(T* qkv, const unsigned* positions, float log_theta, int count, int heads, int size,
                int columns) {
  rotate(qkv, positions, log_theta, -1.0f, count, heads, size, columns);
}
