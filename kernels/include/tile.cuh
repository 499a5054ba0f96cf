// tile.cuh - tiles of half-width numbers in shared memory, and the mma fragments read from them.
//
// A tile has rows of `Pieces` 16-byte pieces, 8 elements each. `swizzle` permutes the pieces of a
// row, so that the eight rows that one phase of ldmatrix reads lie in eight different groups of
// four banks.
//
// mma takes its operands with the depth k along a lane's pairs. A tile whose rows run along k
// (K-major) is read as it lies; one whose rows run along m or n (MN-major, `Trans`) is transposed
// on the way.
#pragma once
#include "common.cuh"

namespace tile {

/// Elements of a 16-byte piece of a row.
TO_HOST constexpr int kPiece = 8;

/// Position, in pieces, of piece `piece` of row `row`. Rows shorter than 128 bytes share a line of
/// all banks with their neighbours: the permutation goes by the number of the line.
template <int Pieces>
__device__ __forceinline__ int swizzle(int row, int piece) {
  static_assert(Pieces == 2 || Pieces == 4 || Pieces % 8 == 0, "other widths share lines unevenly");
  // 1, 2 or 4 rows per line.
  constexpr int kShift = Pieces == 2 ? 2 : Pieces == 4 ? 1 : 0, kMask = Pieces < 8 ? Pieces - 1 : 7;
  const int key = row >> kShift & kMask;
  // The same number. Of short rows the first form costs fewer registers, of long ones the second.
  return Pieces < 8 ? row * Pieces + (piece ^ key) : (row * Pieces + piece) ^ key;
}

/// Address of a piece.
template <int Pieces, class T>
__device__ __forceinline__ T* at(T* tile, int row, int piece) {
  return tile + swizzle<Pieces>(row, piece) * kPiece;
}

/// Operand A, 16 x 16, at (m, k) of a tile [m][k], or [k][m] with Trans. All 32 lanes.
template <int Pieces, bool Trans, class T>
__device__ __forceinline__ void fragment_a(uint32_t (&a)[4], const T* tile, int m, int k) {
  const int lane = threadIdx.x % 32;
  const T* row = Trans ? at<Pieces>(tile, k + lane % 8 + lane / 16 * 8, m / kPiece + lane / 8 % 2)
                       : at<Pieces>(tile, m + lane % 16, k / kPiece + lane / 16);
  ptx::ldmatrix_x4<Trans>(a, row);
}

/// Operand B of two products, 16 x 8 at (k, n) and at (k, n + 8), of a tile [n][k], or [k][n] with
/// Trans: b[0], b[1] are the first one's. All 32 lanes.
template <int Pieces, bool Trans, class T>
__device__ __forceinline__ void fragment_b(uint32_t (&b)[4], const T* tile, int n, int k) {
  const int lane = threadIdx.x % 32;
  const T* row = Trans ? at<Pieces>(tile, k + lane % 16, n / kPiece + lane / 16)
                       : at<Pieces>(tile, n + lane % 8 + lane / 16 * 8, k / kPiece + lane / 8 % 2);
  ptx::ldmatrix_x4<Trans>(b, row);
}

}  // namespace tile
