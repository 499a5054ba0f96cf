//! Operands laid out as the tile loop reads them: `A` in groups of rows, `B` in panels of columns.

use super::{MC, Strided, depths};
use crate::ops::cpu::kernel::Level;
use crate::ops::cpu::memory::HostBuffer;
use rayon::prelude::*;

/// Rows of a transposed left operand that are packed side by side: three cache lines of each
/// column.
const STRIP: usize = 48;

/// Columns of a right operand that are packed side by side: a multiple of every panel's width.
const SIDE_BY_SIDE: usize = 128;

/// Where the kernel reads `A`: in place, or in panels of `mr` rows.
#[derive(Clone, Copy)]
pub(crate) struct Left {
    pub a: *const f32,
    pub a_row: usize,
    pub a_col: usize,
    /// Elements from one group of `mr` rows to the next.
    pub group: usize,
}

impl Left {
    /// Groups of `mr` rows packed one after another.
    pub(crate) fn packed(panels: &[f32], mr: usize, depth: usize) -> Self {
        Self {
            a: panels.as_ptr(),
            a_row: 1,
            a_col: mr,
            group: depth * mr,
        }
    }
}

/// Rows `rows` and columns `k0..k0 + depth` of a left operand: in place where the tile loop can
/// read them so, else packed.
pub(crate) fn pack_left(
    mr: usize,
    rows: (usize, usize),
    k0: usize,
    depth: usize,
    a: Strided,
    packed: &mut HostBuffer<f32>,
) -> Left {
    if a.col == 1 || depth == 0 {
        let from = &a.data[(rows.0 * a.row + k0).min(a.data.len())..];
        return Left {
            a: from.as_ptr(),
            a_row: a.row,
            a_col: 1,
            group: mr * a.row,
        };
    }
    if a.in_place(depth) {
        return Left {
            a: a.data[k0 * a.col + rows.0..].as_ptr(),
            a_row: 1,
            a_col: a.col,
            group: mr,
        };
    }
    // Columns are contiguous (a transpose): groups of mr rows become contiguous too, or each step
    // of k would touch another page.
    let groups = (rows.1 - rows.0).div_ceil(mr);
    packed.reserve(groups * mr * depth);
    pack_groups(mr, rows, k0, depth, a, packed);
    Left::packed(packed, mr, depth)
}

/// Packs the rows `0..m` of a left operand: for each block of the depth, all groups of `mr` rows,
/// on all threads.
pub(crate) fn pack_left_whole(
    mr: usize,
    m: usize,
    k: usize,
    a: Strided,
    packed: &mut HostBuffer<f32>,
) {
    let all = m.next_multiple_of(mr);
    packed.reserve(all * k);
    for (k0, depth) in depths(k) {
        packed[all * k0..][..all * depth]
            .par_chunks_mut(MC * depth)
            .enumerate()
            .for_each(|(i, to)| {
                let rows = (i * MC, ((i + 1) * MC).min(m));
                pack_groups(mr, rows, k0, depth, a, to);
            });
    }
}

/// Groups of `mr` rows, each contiguous and column by column.
fn pack_groups(
    mr: usize,
    rows: (usize, usize),
    k0: usize,
    depth: usize,
    a: Strided,
    packed: &mut [f32],
) {
    match (a.row, mr) {
        (1, 12) => pack_columns::<12>(rows, k0, depth, a, packed),
        (1, _) => pack_columns::<6>(rows, k0, depth, a, packed),
        _ => {
            for p in 0..depth {
                let column = &a.data[(k0 + p) * a.col + rows.0 * a.row..];
                for r in 0..rows.1 - rows.0 {
                    packed[(r / mr * depth + p) * mr + r % mr] = column[r * a.row];
                }
            }
        }
    }
}

/// Groups of `MR` rows, each contiguous, from a matrix with contiguous columns. Several groups side
/// by side, so that whole cache lines are read; a copy of a length known when compiling is a few
/// moves.
fn pack_columns<const MR: usize>(
    rows: (usize, usize),
    k0: usize,
    depth: usize,
    a: Strided,
    packed: &mut [f32],
) {
    let strip = STRIP / MR * MR;
    for (i, first) in (rows.0..rows.1).step_by(strip).enumerate() {
        let height = strip.min(rows.1 - first);
        let to = &mut packed[i * strip * depth..];
        for p in 0..depth {
            let column = &a.data[(k0 + p) * a.col + first..][..height];
            let (whole, rest) = column.as_chunks::<MR>();
            for (g, rows) in whole.iter().enumerate() {
                to[(g * depth + p) * MR..][..MR].copy_from_slice(rows);
            }
            if !rest.is_empty() {
                to[(whole.len() * depth + p) * MR..][..rest.len()].copy_from_slice(rest);
            }
        }
    }
}

/// Packs columns `cols` and rows `k0..k0 + depth` of `b` into panels of `nr` columns, the last
/// padded with zeros.
pub(crate) fn pack_panels(
    nr: usize,
    depth: usize,
    cols: (usize, usize),
    k0: usize,
    b: Strided,
    packed: &mut [f32],
) {
    let count = cols.1 - cols.0;
    if depth == 0 || count == 0 {
        return;
    }
    let from = &b.data[k0 * b.row + cols.0 * b.col..];
    if b.col == 1 {
        match nr {
            32 => pack_rows::<32>(depth, count, from, b.row, packed),
            _ => pack_rows::<16>(depth, count, from, b.row, packed),
        }
        return;
    }
    for (panel, to) in packed
        .chunks_exact_mut(nr * depth)
        .enumerate()
        .take(count.div_ceil(nr))
    {
        let c0 = panel * nr;
        pack_transposed(
            nr,
            depth,
            nr.min(count - c0),
            &from[c0 * b.col..],
            b.row,
            b.col,
            to,
        );
    }
}

/// Panels from a row-major matrix, [`SIDE_BY_SIDE`] columns at a time: a large matrix is then read
/// from memory nearly as it lies there, and the lines that are written, which often fall into the
/// same set of L1, are too few to throw out each other.
fn pack_rows<const NR: usize>(
    depth: usize,
    count: usize,
    from: &[f32],
    row: usize,
    packed: &mut [f32],
) {
    let strips = packed.chunks_mut(SIDE_BY_SIDE * depth);
    for (first, packed) in (0..count).step_by(SIDE_BY_SIDE).zip(strips) {
        let width = SIDE_BY_SIDE.min(count - first);
        for p in 0..depth {
            let (whole, rest) = from[p * row + first..][..width].as_chunks::<NR>();
            let mut at = p * NR;
            for line in whole {
                packed[at..at + NR].copy_from_slice(line);
                at += NR * depth;
            }
            if !rest.is_empty() {
                packed[at..at + rest.len()].copy_from_slice(rest);
                packed[at + rest.len()..at + NR].fill(0.0);
            }
        }
    }
}

/// One panel from a matrix whose columns are contiguous (`row == 1` in practice): a transpose in
/// squares.
fn pack_transposed(
    nr: usize,
    depth: usize,
    width: usize,
    from: &[f32],
    row: usize,
    col: usize,
    to: &mut [f32],
) {
    if width < nr {
        to.fill(0.0);
    }
    let side = if nr == 32 { 16 } else { 8 };
    let (square_k, square_c) = if row == 1 {
        (depth / side * side, width / side * side)
    } else {
        (0, 0)
    };
    for c in (0..square_c).step_by(side) {
        for p in (0..square_k).step_by(side) {
            let source = &from[c * col + p..(c + side - 1) * col + p + side];
            let target = &mut to[p * nr + c..(p + side - 1) * nr + c + side];
            transpose_square(Level::detect(), side, source, col, target, nr);
        }
    }
    for c in 0..width {
        let start = if c < square_c { square_k } else { 0 };
        for p in start..depth {
            to[p * nr + c] = from[c * col + p * row];
        }
    }
}

/// `side` rows of `side`, `col` apart, become columns of `to`, whose rows are `nr` apart.
fn transpose_square(
    level: Level,
    side: usize,
    from: &[f32],
    col: usize,
    to: &mut [f32],
    nr: usize,
) {
    assert!(from.len() >= (side - 1) * col + side && to.len() >= (side - 1) * nr + side);
    match (level, side) {
        // SAFETY: the processor has the level's instructions, and both slices hold the square.
        #[cfg(target_arch = "x86_64")]
        (Level::Avx512, 16) => unsafe { transpose16_avx512(from, col, to, nr) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        (Level::Avx512 | Level::Avx2, 8) => unsafe { transpose8_avx2(from, col, to, nr) },
        _ => {
            for i in 0..side {
                for j in 0..side {
                    to[j * nr + i] = from[i * col + j];
                }
            }
        }
    }
}

/// # Safety
/// AVX-512F; both slices hold 16 rows of 16, `col` and `nr` apart.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn transpose16_avx512(from: &[f32], col: usize, to: &mut [f32], nr: usize) {
    use std::arch::x86_64::*;
    // Quarters of a row of 16: first pairs of rows, then fours, then quarters change places.
    // SAFETY: 16 rows of 16 by contract.
    let rows: [__m512; 16] =
        std::array::from_fn(|i| unsafe { _mm512_loadu_ps(from.as_ptr().add(i * col)) });
    let pairs: [__m512; 16] = std::array::from_fn(|i| {
        let (a, b) = (rows[i / 2 * 2], rows[i / 2 * 2 + 1]);
        if i % 2 == 0 {
            _mm512_unpacklo_ps(a, b)
        } else {
            _mm512_unpackhi_ps(a, b)
        }
    });
    // fours[4 g + j] holds, in quarter q, column 4 q + j of the rows 4 g..4 g + 4.
    let fours: [__m512; 16] = std::array::from_fn(|i| {
        let (g, j) = (i / 4, i % 4);
        let (a, b) = (pairs[4 * g + j / 2], pairs[4 * g + 2 + j / 2]);
        let (a, b) = (_mm512_castps_pd(a), _mm512_castps_pd(b));
        _mm512_castpd_ps(if j % 2 == 0 {
            _mm512_unpacklo_pd(a, b)
        } else {
            _mm512_unpackhi_pd(a, b)
        })
    });
    for j in 0..4 {
        let (a, b, c, d) = (fours[j], fours[4 + j], fours[8 + j], fours[12 + j]);
        let low = [
            _mm512_shuffle_f32x4::<0x44>(a, b),
            _mm512_shuffle_f32x4::<0x44>(c, d),
        ];
        let high = [
            _mm512_shuffle_f32x4::<0xEE>(a, b),
            _mm512_shuffle_f32x4::<0xEE>(c, d),
        ];
        let columns = [
            _mm512_shuffle_f32x4::<0x88>(low[0], low[1]),
            _mm512_shuffle_f32x4::<0xDD>(low[0], low[1]),
            _mm512_shuffle_f32x4::<0x88>(high[0], high[1]),
            _mm512_shuffle_f32x4::<0xDD>(high[0], high[1]),
        ];
        for (q, column) in columns.into_iter().enumerate() {
            // SAFETY: as above.
            unsafe { _mm512_storeu_ps(to.as_mut_ptr().add((4 * q + j) * nr), column) };
        }
    }
}

/// # Safety
/// AVX2; both slices hold 8 rows of 8, `col` and `nr` apart.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn transpose8_avx2(from: &[f32], col: usize, to: &mut [f32], nr: usize) {
    use std::arch::x86_64::*;
    // SAFETY: 8 rows of 8 by contract.
    unsafe {
        let row = |i: usize| _mm256_loadu_ps(from.as_ptr().add(i * col));
        let pairs = |a, b| (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
        let (a0, a1) = pairs(row(0), row(1));
        let (a2, a3) = pairs(row(2), row(3));
        let (a4, a5) = pairs(row(4), row(5));
        let (a6, a7) = pairs(row(6), row(7));
        let quads = |a, b| {
            (
                _mm256_shuffle_ps::<0x44>(a, b),
                _mm256_shuffle_ps::<0xEE>(a, b),
            )
        };
        let (b0, b1) = quads(a0, a2);
        let (b2, b3) = quads(a1, a3);
        let (b4, b5) = quads(a4, a6);
        let (b6, b7) = quads(a5, a7);
        let low = |a, b| _mm256_permute2f128_ps::<0x20>(a, b);
        let high = |a, b| _mm256_permute2f128_ps::<0x31>(a, b);
        let columns = [
            low(b0, b4),
            low(b1, b5),
            low(b2, b6),
            low(b3, b7),
            high(b0, b4),
            high(b1, b5),
            high(b2, b6),
            high(b3, b7),
        ];
        for (j, column) in columns.into_iter().enumerate() {
            _mm256_storeu_ps(to.as_mut_ptr().add(j * nr), column);
        }
    }
}
