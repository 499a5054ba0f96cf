// gemm.cuh - the tensor-core main loop that linear.cu, experts.cu and head.cu share.
//
// One block makes one tile C[M, N] += A[M, K] B[N, K]^T with fp32 sums. Operands are half-width
// numbers in global memory, each stored K-major (row m or n, k contiguous) or MN-major (row k, m or
// n contiguous); the three orientations of a linear layer are the pairs of these:
//   forward    y  = x w^T     A K-major,  B K-major
//   input      dx = dy w      A K-major,  B MN-major
//   weight     dw = dy^T x    A MN-major, B MN-major
// Rows may be gathered through an index. Sizes are any: what lies outside the matrix is zero-filled
// on the way to shared memory, nothing is read or written outside it.
//
// Pipeline: `Stages` buffers filled by cp.async, one barrier per 32 of depth. A buffer is written
// `Stages - 1` steps before it is read and one barrier after it was last read. In shared memory
// both are tiles of tile.cuh.
//
// The order of every sum depends on K alone, not on the tile's size: Large and Small tiles give the
// same bits.
#pragma once
#include "tile.cuh"

namespace gemm {

using tile::kPiece;

constexpr int kDepth = 32;  // depth of one stage
constexpr int kStages = 3;

// AnyAlignment: rows may begin at any element, at the price of slower loads where they do. Without
// it leading dimensions must be multiples of 8 elements.
template <int M_, int N_, int WarpM_, int WarpN_, bool AnyAlignment_>
struct Tile {
  TO_HOST static constexpr int M = M_, WarpN = WarpN_,
                               SharedBytes = kStages * (M_ + N_) * kDepth * 2;
  static constexpr int N = N_, WarpM = WarpM_;
  static constexpr bool AnyAlignment = AnyAlignment_;
  static constexpr int WarpsN = N / WarpN;
  static constexpr int Threads = 32 * (M / WarpM) * WarpsN;
  static constexpr int FragsM = WarpM / 16, FragsN = WarpN / 8;
  // Floats of one warp's staging area for the epilogue: 16 rows. A stride of 8 mod 32 keeps the
  // fragments' stores free of bank conflicts.
  static constexpr int StagingStride = WarpN + 8;
  static constexpr int Staging = 16 * StagingStride;
  static_assert(Threads / 32 * Staging * 4 <= SharedBytes, "the staging area lies over the stages");
};

// 48 KiB of shared memory: two blocks per multiprocessor from sm_86 on, without opting in to more.
using Large = Tile<128, 128, 64, 64, false>;
// 24 KiB; for small matrices, which would leave multiprocessors idle, and for rows at odd
// addresses.
using Small = Tile<64, 64, 32, 32, true>;
constexpr int kThreads = 128;
static_assert(Large::Threads == kThreads && Small::Threads == kThreads,
              "both tiles have the same launch bounds");
static_assert(Large::M == Large::N && Small::M == Small::N, "the host counts square tiles");

template <class S>
using Sums = float[S::FragsM][S::FragsN][4];

template <class S>
__device__ __forceinline__ void clear(Sums<S>& sums) {
#pragma unroll
  for (int i = 0; i < S::FragsM; ++i)
#pragma unroll
    for (int j = 0; j < S::FragsN; ++j)
#pragma unroll
      for (int r = 0; r < 4; ++r) sums[i][j][r] = 0.0f;
}

// The calling thread's warp, and its part of the block's tile.
template <class S>
struct WarpTile {
  int lane, number, row, col;
  __device__ __forceinline__ WarpTile()
      : lane(threadIdx.x % 32),
        number(threadIdx.x / 32),
        row(threadIdx.x / 32 / S::WarpsN * S::WarpM),
        col(threadIdx.x / 32 % S::WarpsN * S::WarpN) {}
  // Whether any of the warp's results lies within the `rows` x `cols` that are left from the tile's
  // corner on.
  __device__ __forceinline__ bool active(int rows, int cols) const {
    return row < rows && col < cols;
  }
};

// Row maps ----------------------------------------------------------------------------------------

struct Direct {
  static constexpr bool kGathers = false;
  __device__ __forceinline__ unsigned operator()(unsigned row) const { return row; }
};
struct Listed {
  static constexpr bool kGathers = true;
  const unsigned* index;
  __device__ __forceinline__ unsigned operator()(unsigned row) const { return index[row]; }
};
// The token of a slot: slot_source holds token * top_k + choice.
struct TokenOfSlot {
  static constexpr bool kGathers = true;
  const unsigned* slot_source;
  unsigned top_k;
  __device__ __forceinline__ unsigned operator()(unsigned slot) const {
    return slot_source[slot] / top_k;
  }
};

// Loads -------------------------------------------------------------------------------------------

// 8 elements to shared memory, of which the first `left` are valid (any number, also negative) and
// the others become 0.
template <bool AnyAlignment, class T>
__device__ __forceinline__ void copy8(T* to, const T* from, int left, bool aligned) {
  if (!AnyAlignment || aligned) {
    ptx::cp_async16_bytes(to, from, left >= 8 ? 16 : left > 0 ? 2 * left : 0);
  } else {
    Pack<T> pack;
#pragma unroll
    for (int i = 0; i < 8; ++i) pack.v[i] = i < left ? from[i] : from_float<T>(0.0f);
    store16(to, pack);
  }
}

// A K-major operand: element (row, k) at base[map(row) * stride + k]. Shared tile [Width, 32].
template <class S, class T, int Width, class Map = Direct>
struct KMajor {
  static constexpr bool kTrans = false;
  static constexpr int kPieces = kDepth / kPiece;
  static constexpr int kPer = Width * kPieces / S::Threads;
  const T* source[kPer];
  // Valid elements from this thread's piece of stage 0 on; negative for rows outside.
  int left[kPer];
  bool aligned;

  // Rows first..rows of a matrix of depth `depth`.
  __device__ __forceinline__ KMajor(const T* base, int stride, int first, int rows, int depth,
                                    Map map = Map())
      : aligned(stride % 8 == 0) {
    const int piece = threadIdx.x % kPieces * kPiece;
#pragma unroll
    for (int i = 0; i < kPer; ++i) {
      const int row = first + int(threadIdx.x) / kPieces + i * (S::Threads / kPieces);
      const bool inside = row < rows;
      source[i] = base + size_t(inside ? map(row) : 0) * stride + piece;
      left[i] = inside ? depth - piece : 0;
    }
  }
  // Stages are asked for in order: k0 = 0, 32, ...
  __device__ __forceinline__ void load(T* tile, int k0) {
#pragma unroll
    for (int i = 0; i < kPer; ++i) {
      const int row = threadIdx.x / kPieces + i * (S::Threads / kPieces);
      copy8<S::AnyAlignment>(tile::at<kPieces>(tile, row, threadIdx.x % kPieces), source[i] + k0,
                             left[i] - k0, aligned);
    }
  }
};

// An MN-major operand: element (col, k) at base[map(k) * stride + col]. Shared tile [32, Width].
template <class S, class T, int Width, class Map = Direct>
struct MNMajor {
  static constexpr bool kTrans = true;
  static constexpr int kPieces = Width / kPiece;
  static constexpr int kRows = S::Threads / kPieces;  // rows that all threads fetch at once
  static constexpr int kPer = kDepth / kRows;
  const T* source;
  int stride, left, depth;
  bool aligned;
  Map map;
  unsigned next[Map::kGathers ? kPer : 1];  // rows of the next stage, fetched one stage ahead

  // Columns first..cols, rows 0..depth.
  __device__ __forceinline__ MNMajor(const T* base, int stride_, int first, int cols, int depth_,
                                     Map map_ = Map())
      : stride(stride_), depth(depth_), aligned(stride_ % 8 == 0), map(map_) {
    const int col = first + threadIdx.x % kPieces * kPiece;
    source = base + col;
    left = cols - col;
    if constexpr (Map::kGathers) look_up(0);
  }
  __device__ __forceinline__ void look_up(int k0) {
#pragma unroll
    for (int i = 0; i < kPer; ++i) {
      const int k = k0 + threadIdx.x / kPieces + i * kRows;
      next[Map::kGathers ? i : 0] = k < depth ? map(k) : 0;
    }
  }
  __device__ __forceinline__ void load(T* tile, int k0) {
#pragma unroll
    for (int i = 0; i < kPer; ++i) {
      const int row = threadIdx.x / kPieces + i * kRows;
      const unsigned k = Map::kGathers ? next[Map::kGathers ? i : 0] : k0 + row;
      copy8<S::AnyAlignment>(tile::at<kPieces>(tile, row, threadIdx.x % kPieces),
                             source + size_t(k) * stride, k0 + row < depth ? left : 0, aligned);
    }
    if constexpr (Map::kGathers) look_up(k0 + kDepth);
  }
};

// Main loop ---------------------------------------------------------------------------------------

// sums += A B^T over `depth`. `active` is the same for a whole warp; a warp that isn't helps to
// load only. All threads of the block call this together; afterwards the shared memory is free for
// all.
template <class S, class T, class A, class B>
__device__ __forceinline__ void multiply(T* shared, A& a, B& b, int depth, const WarpTile<S>& warp,
                                         bool active, Sums<S>& sums) {
  constexpr int kTileA = S::M * kDepth, kStage = (S::M + S::N) * kDepth;
  const int steps = (depth + kDepth - 1) / kDepth;
#pragma unroll
  for (int s = 0; s < kStages - 1; ++s) {
    if (s < steps) {
      a.load(shared + s * kStage, s * kDepth);
      b.load(shared + s * kStage + kTileA, s * kDepth);
    }
    ptx::cp_async_commit();
  }
  int reading = 0, writing = kStages - 1;
  for (int step = 0; step < steps; ++step) {
    ptx::cp_async_wait<kStages - 2>();
    __syncthreads();
    if (step + kStages - 1 < steps) {
      a.load(shared + writing * kStage, (step + kStages - 1) * kDepth);
      b.load(shared + writing * kStage + kTileA, (step + kStages - 1) * kDepth);
    }
    ptx::cp_async_commit();  // also when empty: the count of groups is what the wait goes by
    if (active) {
      const T* tile_a = shared + reading * kStage;
      const T* tile_b = tile_a + kTileA;
#pragma unroll
      for (int k = 0; k < kDepth; k += 16) {
        uint32_t fa[S::FragsM][4], fb[S::FragsN][2];
#pragma unroll
        for (int i = 0; i < S::FragsM; ++i)
          tile::fragment_a<A::kPieces, A::kTrans>(fa[i], tile_a, warp.row + 16 * i, k);
#pragma unroll
        for (int j = 0; j < S::FragsN; j += 2) {
          uint32_t r[4];
          tile::fragment_b<B::kPieces, B::kTrans>(r, tile_b, warp.col + 8 * j, k);
          fb[j][0] = r[0], fb[j][1] = r[1], fb[j + 1][0] = r[2], fb[j + 1][1] = r[3];
        }
#pragma unroll
        for (int i = 0; i < S::FragsM; ++i)
#pragma unroll
          for (int j = 0; j < S::FragsN; ++j) ptx::mma_m16n8k16<T>(sums[i][j], fa[i], fb[j]);
      }
    }
    reading = reading + 1 == kStages ? 0 : reading + 1;
    writing = writing + 1 == kStages ? 0 : writing + 1;
  }
  ptx::cp_async_wait<0>();
  __syncthreads();
}

// Epilogue ----------------------------------------------------------------------------------------

// Hands out 16 rows of the warp's results through its staging area, since fragments lie scattered
// over the lanes and memory wants 16 bytes of one row per lane: fragment row i is written by
// `stage_fragments`, read back by `read_staged`.
template <class S>
__device__ __forceinline__ void stage_fragments(float* staging, const Sums<S>& sums, int i,
                                                int lane) {
#pragma unroll
  for (int j = 0; j < S::FragsN; ++j)
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float* at = staging + (lane / 4 + 8 * h) * S::StagingStride + 8 * j + 2 * (lane % 4);
      at[0] = sums[i][j][2 * h];
      at[1] = sums[i][j][2 * h + 1];
    }
}
__device__ __forceinline__ void read_staged(float (&v)[8], const float* at) {
#pragma unroll
  for (int i = 0; i < 8; ++i) v[i] = at[i];
}

// Calls store(row, col, v) for each 8 neighbouring results of the warp; row and col count from the
// tile's corner. All lanes call it equally often and together.
template <class S, class T, class Store>
__device__ __forceinline__ void epilogue(T* shared, const Sums<S>& sums, const WarpTile<S>& warp,
                                         Store&& store) {
  float* staging = reinterpret_cast<float*>(shared) + warp.number * S::Staging;
  constexpr int kPieces = S::WarpN / 8;
#pragma unroll
  for (int i = 0; i < S::FragsM; ++i) {
    stage_fragments<S>(staging, sums, i, warp.lane);
    __syncwarp();
#pragma unroll
    for (int piece = 0; piece < 16 * kPieces; piece += 32) {
      const int row = (piece + warp.lane) / kPieces, col = (piece + warp.lane) % kPieces * 8;
      float v[8];
      read_staged(v, staging + row * S::StagingStride + col);
      store(warp.row + 16 * i + row, warp.col + col, v);
    }
    __syncwarp();
  }
}

// As epilogue for tiles whose warps hold gates in their left half and the ups of the same columns
// in their right half: store(row, col, gate, up), with col counted in gates.
template <class S, class T, class Store>
__device__ __forceinline__ void epilogue_pair(T* shared, const Sums<S>& sums,
                                              const WarpTile<S>& warp, Store&& store) {
  float* staging = reinterpret_cast<float*>(shared) + warp.number * S::Staging;
  constexpr int kPieces = S::WarpN / 16;
#pragma unroll
  for (int i = 0; i < S::FragsM; ++i) {
    stage_fragments<S>(staging, sums, i, warp.lane);
    __syncwarp();
#pragma unroll
    for (int piece = 0; piece < 16 * kPieces; piece += 32) {
      const int row = (piece + warp.lane) / kPieces, col = (piece + warp.lane) % kPieces * 8;
      float gate[8], up[8];
      read_staged(gate, staging + row * S::StagingStride + col);
      read_staged(up, staging + row * S::StagingStride + S::WarpN / 2 + col);
      store(warp.row + 16 * i + row, warp.col / 2 + col, gate, up);
    }
    __syncwarp();
  }
}

// v = the first `left` of 8 elements, 0 for the others. `aligned`: `from` is at a multiple of 16
// bytes.
template <class T>
__device__ __forceinline__ void load8(float (&v)[8], const T* from, int left, bool aligned) {
  constexpr int kPack = Pack<T>::kCount;
  if (aligned && left >= 8) {
#pragma unroll
    for (int p = 0; p < 8; p += kPack) {
      const Pack<T> pack = load16(from + p);
#pragma unroll
      for (int i = 0; i < kPack; ++i) v[p + i] = to_float(pack.v[i]);
    }
  } else {
#pragma unroll
    for (int i = 0; i < 8; ++i) v[i] = i < left ? to_float(from[i]) : 0.0f;
  }
}
// The first `left` of 8 elements.
template <class T>
__device__ __forceinline__ void store8(T* to, const float (&v)[8], int left, bool aligned) {
  constexpr int kPack = Pack<T>::kCount;
  if (aligned && left >= 8) {
#pragma unroll
    for (int p = 0; p < 8; p += kPack) {
      Pack<T> pack;
#pragma unroll
      for (int i = 0; i < kPack; ++i) pack.v[i] = from_float<T>(v[p + i]);
      store16(to + p, pack);
    }
  } else {
#pragma unroll
    for (int i = 0; i < 8; ++i)
      if (i < left) to[i] = from_float<T>(v[i]);
  }
}
// result[rows, cols] = sums, or += with `accumulate`, for the tile at (m0, n0); `result` has `cols`
// elements per row.
template <class S, class U, class T>
__device__ __forceinline__ void store_tile(U* result, T* shared, const Sums<S>& sums,
                                           const WarpTile<S>& warp, int m0, int n0, int rows,
                                           int cols, bool accumulate) {
  epilogue<S>(shared, sums, warp, [&](int row, int col, float(&v)[8]) {
    if (m0 + row >= rows) return;
    const int left = cols - n0 - col;
    U* at = result + size_t(m0 + row) * cols + n0 + col;
    if (accumulate) {
      float old[8];
      load8(old, at, left, cols % 8 == 0);
#pragma unroll
      for (int i = 0; i < 8; ++i) v[i] += old[i];
    }
    store8(at, v, left, cols % 8 == 0);
  });
}

}  // namespace gemm
