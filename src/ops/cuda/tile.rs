//! Which of the two tiles of `kernels/include/gemm.cuh` a product is made with. Both sum in the
//! same order.

use anyhow::Result;

use super::blocks;
use super::kernels::gemm::{large, small};

/// Tile of a product `[rows, cols]`, and what the host has to know about it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Tile {
    /// 128 x 128: four warps of 64 x 64. Wants rows of all matrices to begin at multiples of 16
    /// bytes.
    Large,
    /// 64 x 64: four warps of 32 x 32, rows may begin anywhere.
    Small,
}

impl Tile {
    /// The large tile where rows of `strides` elements allow it and `tiles` (of the large kind)
    /// give every multiprocessor work.
    pub(crate) fn choose(strides: &[usize], tiles: usize, multiprocessors: usize) -> Self {
        let aligned = strides.iter().all(|stride| stride.is_multiple_of(8));
        match aligned && tiles >= multiprocessors {
            true => Self::Large,
            false => Self::Small,
        }
    }

    /// The tile for a plain product `[rows, cols]`.
    pub(crate) fn for_product(
        strides: &[usize],
        rows: usize,
        cols: usize,
        multiprocessors: usize,
    ) -> Self {
        let tiles = Self::Large.count(rows, cols);
        Self::choose(strides, tiles, multiprocessors)
    }

    /// Rows of a tile, and columns.
    pub(crate) fn side(self) -> usize {
        match self {
            Self::Large => large::M,
            Self::Small => small::M,
        }
    }

    /// Columns of one warp's part: what partial sums along a row are made of.
    pub(crate) fn warp_cols(self) -> usize {
        match self {
            Self::Large => large::WARP_N,
            Self::Small => small::WARP_N,
        }
    }

    /// Dynamic shared memory in bytes: `SharedBytes` of the tile.
    pub(crate) fn shared_bytes(self) -> u32 {
        let bytes = match self {
            Self::Large => large::SHARED_BYTES,
            Self::Small => small::SHARED_BYTES,
        };
        bytes as u32
    }

    /// Blocks that one multiprocessor holds at once, at the least, by registers and shared memory.
    pub(crate) fn resident(self) -> usize {
        match self {
            Self::Large => 2,
            Self::Small => 4,
        }
    }

    /// Tiles of a product.
    pub(crate) fn count(self, rows: usize, cols: usize) -> usize {
        rows.div_ceil(self.side())
            .saturating_mul(cols.div_ceil(self.side()))
    }

    /// One block per tile.
    pub(crate) fn grid(self, op: &str, rows: usize, cols: usize) -> Result<[u32; 3]> {
        Ok([blocks(op, self.count(rows, cols), 1)?, 1, 1])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tile_follows_alignment_and_size() {
        // The model's projections for 1,024 tokens on 28 multiprocessors, and for 2,048.
        assert_eq!(Tile::for_product(&[384], 1024, 384, 28), Tile::Small);
        assert_eq!(Tile::for_product(&[384], 2048, 384, 28), Tile::Large);
        assert_eq!(Tile::for_product(&[384, 44], 2048, 384, 28), Tile::Small);
        assert_eq!(Tile::Large.count(129, 50257), 2 * 393);
    }
}
