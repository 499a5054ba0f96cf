// ptx.h - the host bodies of include/ptx.cuh: what each instruction does, by the tables of NVIDIA's
// PTX manual. The fragment maps are held by src/ops/cuda/conformance.rs, each on its own: an error
// that A and B share would cancel in a product.
#pragma once
#include "cuda.h"

namespace ptx {

namespace host {
inline void copy(void* to, const void* from, unsigned bytes, unsigned filled, sim::Site at) {
  if ((uintptr_t(to) | (filled ? uintptr_t(from) : 0)) & (bytes - 1))
    sim::fail(at, "%s: an address is not a multiple of %u bytes", at.what, bytes);
  if (filled > bytes)
    sim::fail(at, "%s: %u source bytes, at most %u are possible", at.what, filled, bytes);
  sim::Copy copy{to, from, bytes, filled, {}};
  if (filled) memcpy(copy.early, from, filled);
  sim::runner->current->copies.push_back(copy);
  memset(to, sim::runner->request->poison, bytes);  // nobody may look before the wait
}
inline void land(unsigned groups_left) {
  sim::Fiber& me = *sim::runner->current;
  if (me.commits.size() <= groups_left) return;
  const size_t landed = me.commits.size() - groups_left;
  const unsigned count = me.commits[landed - 1];
  for (unsigned i = 0; i < count; ++i) {
    const sim::Copy& copy = me.copies[i];
    memset(copy.to, 0, copy.bytes);
    if (copy.filled)
      memcpy(copy.to, sim::runner->request->late_reads ? copy.from : copy.early, copy.filled);
  }
  me.copies.erase(me.copies.begin(), me.copies.begin() + count);
  me.commits.erase(me.commits.begin(), me.commits.begin() + landed);
  for (unsigned& end : me.commits) end -= count;
}
template <int Matrices, bool Trans>
void load_matrices(uint32_t (&r)[Matrices], const void* row, sim::Site at) {
  sim::collective(~0u, at, row, r, [&](sim::Gathering& group) {
    for (int m = 0; m < Matrices; ++m)
      for (int lane = 0; lane < 32; ++lane)
        for (int h = 0; h < 2; ++h) {
          int i = lane / 4, j = 2 * (lane % 4) + h;
          if (Trans) std::swap(i, j);
          const char* from = static_cast<const char*>(group.in[8 * m + i]);
          if (uintptr_t(from) & 15)
            sim::fail(at, "%s: lane %d's row address is not a multiple of 16 bytes", at.what,
                      8 * m + i);
          memcpy(static_cast<char*>(group.out[lane]) + 4 * m + 2 * h, from + 2 * j, 2);
        }
  });
}
inline float widen(uint32_t pair, int h, __half) {
  return __half2float(__half{uint16_t(pair >> 16 * h)});
}
inline float widen(uint32_t pair, int h, __nv_bfloat16) {
  return __bfloat162float(__nv_bfloat16{uint16_t(pair >> 16 * h)});
}
}  // namespace host

inline void cp_async16(void* to, const void* from, bool take = true, SIM_HERE) {
  host::copy(to, from, 16, take ? 16 : 0, SIM_SITE("cp.async 16"));
}
inline void cp_async16_bytes(void* to, const void* from, unsigned bytes, SIM_HERE) {
  host::copy(to, from, 16, bytes, SIM_SITE("cp.async 16"));
}
inline void cp_async8(void* to, const void* from, bool take = true, SIM_HERE) {
  host::copy(to, from, 8, take ? 8 : 0, SIM_SITE("cp.async 8"));
}
inline void cp_async4(void* to, const void* from, bool take = true, SIM_HERE) {
  host::copy(to, from, 4, take ? 4 : 0, SIM_SITE("cp.async 4"));
}
inline void cp_async_commit() {
  sim::Fiber& me = *sim::runner->current;
  me.commits.push_back(unsigned(me.copies.size()));
}
template <int N>
void cp_async_wait() {
  host::land(N);
}
inline void cp_async_wait_all() {
  cp_async_commit();
  host::land(0);
}

template <bool Trans>
void ldmatrix_x1(uint32_t (&r)[1], const void* row, SIM_HERE) {
  host::load_matrices<1, Trans>(r, row, SIM_SITE("ldmatrix.x1"));
}
template <bool Trans>
void ldmatrix_x2(uint32_t (&r)[2], const void* row, SIM_HERE) {
  host::load_matrices<2, Trans>(r, row, SIM_SITE("ldmatrix.x2"));
}
template <bool Trans>
void ldmatrix_x4(uint32_t (&r)[4], const void* row, SIM_HERE) {
  host::load_matrices<4, Trans>(r, row, SIM_SITE("ldmatrix.x4"));
}

template <class T>
void mma_m16n8k16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], SIM_HERE) {
  struct Given {
    const uint32_t *a, *b;
  } given{a, b};
  sim::collective(~0u, SIM_SITE("mma.m16n8k16"), &given, c, [](sim::Gathering& group) {
    float left[16][16], right[16][8];
    for (int lane = 0; lane < 32; ++lane) {
      const Given& mine = *static_cast<const Given*>(group.in[lane]);
      const int g = lane / 4, t = 2 * (lane % 4);
      for (int h = 0; h < 2; ++h) {
        for (int r = 0; r < 4; ++r)
          left[g + 8 * (r & 1)][t + h + 8 * (r >> 1)] = host::widen(mine.a[r], h, T{});
        for (int r = 0; r < 2; ++r) right[t + h + 8 * r][g] = host::widen(mine.b[r], h, T{});
      }
    }
    float sums[16][8] = {};
    for (int i = 0; i < 16; ++i)
      for (int k = 0; k < 16; ++k)
        for (int j = 0; j < 8; ++j) sums[i][j] += left[i][k] * right[k][j];
    for (int lane = 0; lane < 32; ++lane) {
      float* d = static_cast<float*>(group.out[lane]);
      const int g = lane / 4, t = 2 * (lane % 4);
      for (int r = 0; r < 4; ++r) d[r] += sums[g + 8 * (r >> 1)][t + (r & 1)];
    }
  });
}

inline float ex2_approx(float x) { return exp2f(x); }

}  // namespace ptx
