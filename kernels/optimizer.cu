// optimizer.cu - global gradient norm, the loss scale's update, AdamW.
//
// norm:   norm[0] = sqrt(sum of squares over all gradients) / loss scale; not finite as soon as one
//         gradient is not (=). Its last kernel then moves the loss scale, which AdamW does not
//         read: it divides by the one noted with the norm. It counts the update where the norm is
//         finite, norm[1] += 1, so that a skipped step is none to the bias correction.
// adamw:  n = norm[1], rate = rate[0], g = gradient / loss scale * min(1, max_norm / (norm + 1e-6))
//         m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2
//         master = master (1 - rate decay)
//                  - rate m / (1 - beta1^n) / (sqrt(v / (1 - beta2^n)) + epsilon)
//         weight = master, rounded; gradient = 0. Where norm[0] is not finite, only the gradient is
//         written.
//
// gradient and weight in T, all else in f32; any length. Each thread owns 8 neighbouring elements,
// 16 bytes per access. The norm's sums have one order: 16,384 squares per block in f32 (`parts`),
// the parts in f64 by one block. AdamW moves 30 bytes per parameter.
#include "common.cuh"
#include "loss_scale.cuh"

constexpr int kThreads = 256;
constexpr int kOwn = 8;
/// Packs of a thread in the norm.
constexpr int kRounds = 8;
/// Elements of a block of the norm.
TO_HOST constexpr int kNormElements = kThreads * kOwn * kRounds;
/// Elements of a block of AdamW.
TO_HOST constexpr int kAdamElements = kThreads * kOwn;

// Grid ceil(len / kNormElements): one part each.
VARIANTS(T = f16 | bf16)
LAUNCH_BOUNDS(kThreads)
template <class T>
KERNEL grad_squares(float* part, const T* gradient, int len) {
  static_assert(Pack<T>::kCount == kOwn, "a pack of 16-bit elements");
  float sum = 0.0f;
#pragma unroll
  for (int round = 0; round < kRounds; ++round) {
    const long long first =
        ((long long)(blockIdx.x) * kRounds + round) * (kThreads * kOwn) + threadIdx.x * kOwn;
    if (first + kOwn <= len) {
      const Pack<T> values = load16(gradient + first);
#pragma unroll
      for (int i = 0; i < kOwn; ++i) sum += to_float(values.v[i]) * to_float(values.v[i]);
    } else {
      for (long long i = first; i < len; ++i) sum += to_float(gradient[i]) * to_float(gradient[i]);
    }
  }
  sum = block_sum<kThreads>(sum);
  if (threadIdx.x == 0) part[blockIdx.x] = sum;
}

/// The scale's own bounds. A loss is a mean over thousands of tokens, so gradients begin at 1e-4 or
/// less: 2^24 of that still fits.
constexpr float kSmallestScale = 1.0f, kLargestScale = 16777216.0f;

/// Halves the scale after a norm that is not finite, doubles it after enough finite ones. Powers of
/// two, so scaling rounds nothing.
__device__ __forceinline__ void update_loss_scale(float* scale_state, bool finite) {
  const float interval = scale_state[kGrowthInterval];
  scale_state[kOverflow] = finite ? 0.0f : 1.0f;
  if (interval == 0.0f) return;
  float scale = scale_state[kLossScale], good = finite ? scale_state[kGoodSteps] + 1.0f : 0.0f;
  if (!finite) {
    scale = fmaxf(scale * 0.5f, kSmallestScale);
  } else if (good >= interval) {
    scale = fminf(scale * 2.0f, kLargestScale);
    good = 0.0f;
  }
  scale_state[kLossScale] = scale;
  scale_state[kGoodSteps] = good;
}

// Grid 1: norm from `count` parts, and the scale of the gradients to come.
extern "C" __global__ void __launch_bounds__(kThreads)
    grad_norm(float* norm, float* scale_state, const float* parts, int count) {
  SHARED(double, sums, [kThreads]);
  double sum = 0.0;
  for (int i = threadIdx.x; i < count; i += kThreads) sum += double(parts[i]);
  sums[threadIdx.x] = sum;
  for (int half = kThreads / 2; half; half /= 2) {
    __syncthreads();
    if (int(threadIdx.x) < half) sums[threadIdx.x] += sums[threadIdx.x + half];
  }
  if (threadIdx.x == 0) {
    const float inverse = 1.0f / scale_state[kLossScale],
                value = float(sqrt(sums[0]) * double(inverse));
    norm[0] = value;
    if (isfinite(value)) norm[1] += 1.0f;
    scale_state[kInverseScale] = inverse;
    update_loss_scale(scale_state, isfinite(value));
  }
}

/// Numbers of one update that are the same for every element.
struct Update {
  float gradient_factor, beta1, beta2, keep, rate, inverse_correction2, epsilon;
};

__device__ __forceinline__ float update(const Update& u, float gradient, float& master,
                                        float& first, float& second) {
  const float g = gradient * u.gradient_factor;
  first = u.beta1 * first + (1.0f - u.beta1) * g;
  second = u.beta2 * second + (1.0f - u.beta2) * g * g;
  master = master * u.keep - u.rate * first / (sqrtf(second * u.inverse_correction2) + u.epsilon);
  return master;
}

/// A thread's elements, for the next step to add to.
template <class T>
__device__ __forceinline__ void clear(T* gradient, long long begin, int len, bool whole) {
  if (whole) {
    store16(gradient + begin, Pack<T>{});
    return;
  }
  for (long long i = begin; i < len; ++i) gradient[i] = from_float<T>(0.0f);
}

// Grid ceil(len / kAdamElements). norm [2], rate [1]; log_beta1 = ln beta1.
VARIANTS(T = f16 | bf16)
LAUNCH_BOUNDS(kThreads)
template <class T>
KERNEL adamw(T* weight, float* master, float* first, float* second, T* gradient, const float* norm,
             const float* scale_state, const float* rate, float beta1, float beta2, float log_beta1,
             float log_beta2, float decay, float epsilon, float max_norm, int len) {
  const long long begin = ((long long)(blockIdx.x) * kThreads + threadIdx.x) * kOwn;
  const bool whole = begin + kOwn <= len;
  const float n = norm[0];
  if (!isfinite(n)) {
    clear(gradient, begin, len, whole);
    return;
  }
  // 1 - beta^updates, without the cancellation of that difference.
  const float step = rate[0], updates = norm[1];
  const float correction1 = -expm1f(updates * log_beta1),
              correction2 = -expm1f(updates * log_beta2);
  const Update u{scale_state[kInverseScale] * fminf(1.0f, max_norm / (n + 1e-6f)),
                 beta1,
                 beta2,
                 1.0f - step * decay,
                 step / correction1,
                 1.0f / correction2,
                 epsilon};
  if (!whole) {
    for (long long i = begin; i < len; ++i)
      weight[i] = from_float<T>(update(u, to_float(gradient[i]), master[i], first[i], second[i]));
    clear(gradient, begin, len, whole);
    return;
  }
  // All reads before any write: the compiler cannot know that the buffers are apart.
  const Pack<T> g = load16(gradient + begin);
  Pack<float> p[2], m[2], v[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    p[half] = load16(master + begin + 4 * half);
    m[half] = load16(first + begin + 4 * half);
    v[half] = load16(second + begin + 4 * half);
  }
  Pack<T> w;
#pragma unroll
  for (int i = 0; i < kOwn; ++i)
    w.v[i] = from_float<T>(
        update(u, to_float(g.v[i]), p[i / 4].v[i % 4], m[i / 4].v[i % 4], v[i / 4].v[i % 4]));
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    store16(master + begin + 4 * half, p[half]);
    store16(first + begin + 4 * half, m[half]);
    store16(second + begin + 4 * half, v[half]);
  }
  store16(weight + begin, w);
  clear(gradient, begin, len, whole);
}
