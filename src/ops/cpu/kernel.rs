//! Register-tile kernels of the matrix product: `C[MR x NR] (+)= A[MR x k] B[k x NR]`, one per instruction set.
//!
//! `B` comes packed in panels of `NR` columns (`k` rows of `NR` contiguous values); `A` is read in place through strides
//! and broadcast, so large weights that stand on the left need no packing at all. Sizes of the register tiles: AVX2 has
//! 16 registers, 6 x 16 uses 12 as accumulators; AVX-512 has 32, 12 x 32 uses 24. Both hide the FMA latency of 4 cycles.

use std::sync::OnceLock;

/// Instruction set that the kernels use; found once per process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// AVX-512F with FMA.
    Avx512,
    /// AVX2 with FMA.
    Avx2,
    /// Whatever the compiler makes of plain Rust.
    Portable,
}

impl Level {
    /// The best set of this processor. `MUNI_CPU=avx2` or `portable` asks for a smaller one.
    pub fn detect() -> Self {
        static LEVEL: OnceLock<Level> = OnceLock::new();
        *LEVEL.get_or_init(|| {
            let wish = std::env::var("MUNI_CPU").unwrap_or_default();
            #[cfg(target_arch = "x86_64")]
            {
                let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
                if avx2
                    && is_x86_feature_detected!("avx512f")
                    && !matches!(wish.as_str(), "avx2" | "portable")
                {
                    return Level::Avx512;
                }
                if avx2 && wish != "portable" {
                    return Level::Avx2;
                }
            }
            let _ = wish;
            Level::Portable
        })
    }

    /// Rows of the register tile.
    pub const fn mr(self) -> usize {
        match self {
            Level::Avx512 => 12,
            _ => 6,
        }
    }

    /// Columns of the register tile, and the width of a packed panel.
    pub const fn nr(self) -> usize {
        match self {
            Level::Avx512 => 32,
            _ => 16,
        }
    }
}

/// Widest panel of any level.
pub const MAX_NR: usize = 32;

/// One tile's operands.
#[derive(Clone, Copy)]
pub struct Tile {
    /// Depth of the product.
    pub k: usize,
    /// First element of the tile's rows of `A`.
    pub a: *const f32,
    /// Distance between rows of `A`.
    pub a_row: usize,
    /// Distance between columns of `A`.
    pub a_col: usize,
    /// Packed panel of `B`.
    pub b: *const f32,
    /// First element of the tile of `C`.
    pub c: *mut f32,
    /// Distance between rows of `C`.
    pub c_row: usize,
    /// Added to the product instead of the old `C` when not null; rows `init_row` apart.
    pub init: *const f32,
    /// Distance between rows of `init`.
    pub init_row: usize,
    /// Where this tile's share of the next panel begins. It waits in L2 or L3; each step of `k` asks for a little of it, or
    /// the next panel's first tile would spend longer on cache misses than on arithmetic. Any address is allowed.
    pub ahead: *const f32,
    /// Elements of that share per step of `k`.
    pub pace: usize,
}

/// Computes `count` whole tiles below one another on the same panel of `B`, the first of which is `tile`: each next one has
/// its rows of `A` `a_step` elements further, those of `C` and `init` `mr` rows further, and asks for what the last one did not.
///
/// # Safety
/// As [`run_tile`] for each of them.
#[inline]
pub unsafe fn run_strip(level: Level, tile: &Tile, count: usize, a_step: usize) {
    // SAFETY: the caller promises the instruction set and the extents.
    unsafe {
        match level {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => avx512_strip(tile, count, a_step),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => avx2_strip(tile, count, a_step),
            _ => for_strip(tile, count, a_step, 6, |tile| portable::<6>(tile)),
        }
    }
}

/// Calls `run` for each tile of a strip.
#[inline(always)]
fn for_strip(tile: &Tile, count: usize, a_step: usize, mr: usize, run: impl Fn(&Tile)) {
    let mut tile = *tile;
    for _ in 0..count {
        run(&tile);
        tile.a = tile.a.wrapping_add(a_step);
        tile.c = tile.c.wrapping_add(mr * tile.c_row);
        if !tile.init.is_null() {
            tile.init = tile.init.wrapping_add(mr * tile.init_row);
        }
        tile.ahead = tile.ahead.wrapping_add(tile.k * tile.pace);
    }
}

/// # Safety
/// As [`run_strip`], on a processor with AVX-512F.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn avx512_strip(tile: &Tile, count: usize, a_step: usize) {
    for_strip(tile, count, a_step, 12, |tile| {
        ask_for_init(tile, 12, 32);
        // SAFETY: as this function's contract.
        unsafe { avx512_twelve(tile) }
    });
}

/// # Safety
/// As [`run_strip`], on a processor with AVX2 and FMA.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2_strip(tile: &Tile, count: usize, a_step: usize) {
    for_strip(tile, count, a_step, 6, |tile| {
        ask_for_init(tile, 6, 16);
        // SAFETY: as this function's contract.
        unsafe { avx2_six(tile) }
    });
}

/// Computes a tile with `rows <= mr` valid rows and `cols <= nr` valid columns.
///
/// # Safety
/// The processor has the instructions of `level`. `a` is readable for `rows` x `k` through its strides, `b` for `k * nr`, `c` is
/// writable (and `init`, unless null, readable) for `rows` x `cols` through their strides, and nobody else touches that part of `c`.
#[inline]
pub unsafe fn run_tile(level: Level, tile: &Tile, rows: usize, cols: usize) {
    if cols == level.nr() {
        // SAFETY: as this function's contract.
        return unsafe { run_full_width(level, tile, rows) };
    }
    // A narrow tile goes through a full-width copy: the panel is padded with zeros, so only C needs care.
    let mut copy = [0.0f32; 12 * MAX_NR];
    let nr = level.nr();
    if !tile.init.is_null() {
        for r in 0..rows {
            for c in 0..cols {
                // SAFETY: r < rows and c < cols lie inside `init` by contract.
                copy[r * nr + c] = unsafe { *tile.init.add(r * tile.init_row + c) };
            }
        }
    }
    let pointer = copy.as_mut_ptr();
    let init = if tile.init.is_null() {
        std::ptr::null()
    } else {
        pointer.cast_const()
    };
    let inner = Tile {
        c: pointer,
        c_row: nr,
        init,
        init_row: nr,
        ..*tile
    };
    // SAFETY: `copy` holds rows x nr values.
    unsafe { run_full_width(level, &inner, rows) };
    for r in 0..rows {
        for c in 0..cols {
            // SAFETY: r < rows and c < cols lie inside `c` by contract.
            unsafe { *tile.c.add(r * tile.c_row + c) = copy[r * nr + c] };
        }
    }
}

/// Fetches what the tile is added to, unless that is its old value.
#[cfg(target_arch = "x86_64")]
#[inline]
fn ask_for_init(tile: &Tile, rows: usize, cols: usize) {
    use std::arch::x86_64::*;
    if tile.init.is_null() || std::ptr::eq(tile.init, tile.c) {
        return;
    }
    for r in 0..rows {
        let from = tile.init.wrapping_add(r * tile.init_row);
        // SAFETY: prefetching any address is allowed.
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(from.cast());
            _mm_prefetch::<_MM_HINT_T0>(from.wrapping_add(cols - 1).cast());
        }
    }
}

/// The loop over a tile's depth in as many rounds as it has rows: each begins by asking for one row of the output. At its end one
/// row after another would wait for memory, which costs the logits of a large vocabulary two fifths of their time; asked for all at once,
/// they fill the queue of what is on its way, and the operands wait.
#[cfg(target_arch = "x86_64")]
#[repr(C)]
struct Rounds {
    /// Bytes from one row of the output to the next.
    row: usize,
    /// Steps of a round.
    steps: usize,
    /// Steps of the last round.
    last: usize,
    /// Address of the row after the last round's.
    end: usize,
}

#[cfg(target_arch = "x86_64")]
impl Rounds {
    #[inline]
    fn new(tile: &Tile, rows: usize) -> Self {
        // A loop shorter than that is over before the first row is there.
        let rounds = if tile.k >= 2 * rows { rows } else { 1 };
        let steps = tile.k / rounds;
        Self {
            row: 4 * tile.c_row,
            steps,
            last: tile.k - steps * (rounds - 1),
            end: tile.c.wrapping_add(rounds * tile.c_row).addr(),
        }
    }
}

/// # Safety
/// As [`run_tile`] with `cols == nr`.
#[inline]
unsafe fn run_full_width(level: Level, tile: &Tile, rows: usize) {
    #[cfg(target_arch = "x86_64")]
    ask_for_init(tile, rows, level.nr());
    // SAFETY: the caller promises the instruction set and the extents.
    unsafe {
        match level {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => match rows {
                12 => avx512_twelve(tile),
                11 => avx512::<11>(tile),
                10 => avx512::<10>(tile),
                9 => avx512::<9>(tile),
                8 => avx512::<8>(tile),
                7 => avx512::<7>(tile),
                6 => avx512::<6>(tile),
                5 => avx512::<5>(tile),
                4 => avx512::<4>(tile),
                3 => avx512::<3>(tile),
                2 => avx512::<2>(tile),
                _ => avx512::<1>(tile),
            },
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => match rows {
                6 => avx2_six(tile),
                5 => avx2::<5>(tile),
                4 => avx2::<4>(tile),
                3 => avx2::<3>(tile),
                2 => avx2::<2>(tile),
                _ => avx2::<1>(tile),
            },
            _ => match rows {
                6 => portable::<6>(tile),
                5 => portable::<5>(tile),
                4 => portable::<4>(tile),
                3 => portable::<3>(tile),
                2 => portable::<2>(tile),
                _ => portable::<1>(tile),
            },
        }
    }
}

/// The full tile of 6 rows. Its loop is written out because the compiler chains the addresses of the rows, one addition
/// after another, which costs as many cycles as the arithmetic; here two bases reach six rows.
///
/// # Safety
/// As [`run_tile`] with 6 rows and 16 columns, on a processor with AVX2 and FMA.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
#[inline]
unsafe fn avx2_six(tile: &Tile) {
    use std::arch::x86_64::*;
    let t = *tile;
    let mut acc = [_mm256_setzero_ps(); 12];
    let rounds = Rounds::new(tile, 6);
    // SAFETY: every address lies inside the extents promised to `run_tile`; prefetching any address is allowed. The
    // assembly reads `k` rows of 16 values at `b` and `k` columns of 6 values at `a` and `rounds`, and writes registers only.
    unsafe {
        if t.k > 0 {
            let [a0, a1, a2, a3, a4, a5, a6, a7, a8, a9, a10, a11] = &mut acc;
            std::arch::asm!(
                "3:",
                "prefetchw [{c}]",
                "prefetchw [{c} + 60]",
                "add {c}, [{rounds}]",
                "mov {k}, [{rounds} + 8]",
                "cmp {c}, [{rounds} + 24]",
                "cmove {k}, [{rounds} + 16]",
                "2:",
                "vmovups {b0}, [{b}]",
                "vmovups {b1}, [{b} + 32]",
                "vbroadcastss {x}, [{low}]",
                "vbroadcastss {y}, [{low} + {row}]",
                "vfmadd231ps {a0}, {b0}, {x}",
                "vfmadd231ps {a1}, {b1}, {x}",
                "vbroadcastss {x}, [{low} + 2*{row}]",
                "vfmadd231ps {a2}, {b0}, {y}",
                "vfmadd231ps {a3}, {b1}, {y}",
                "vbroadcastss {y}, [{high}]",
                "add {low}, {col}",
                "vfmadd231ps {a4}, {b0}, {x}",
                "vfmadd231ps {a5}, {b1}, {x}",
                "vbroadcastss {x}, [{high} + {row}]",
                "add {b}, 64",
                "vfmadd231ps {a6}, {b0}, {y}",
                "vfmadd231ps {a7}, {b1}, {y}",
                "vbroadcastss {y}, [{high} + 2*{row}]",
                "add {high}, {col}",
                "vfmadd231ps {a8}, {b0}, {x}",
                "vfmadd231ps {a9}, {b1}, {x}",
                "vfmadd231ps {a10}, {b0}, {y}",
                "vfmadd231ps {a11}, {b1}, {y}",
                "prefetcht1 [{ahead}]",
                "add {ahead}, {pace}",
                "dec {k}",
                "jnz 2b",
                "cmp {c}, [{rounds} + 24]",
                "jne 3b",
                c = inout(reg) t.c => _,
                rounds = in(reg) &rounds,
                b = inout(reg) t.b => _,
                low = inout(reg) t.a => _,
                high = inout(reg) t.a.wrapping_add(3 * t.a_row) => _,
                row = in(reg) 4 * t.a_row,
                col = in(reg) 4 * t.a_col,
                k = out(reg) _,
                ahead = inout(reg) t.ahead => _,
                pace = in(reg) 4 * t.pace,
                b0 = out(ymm_reg) _,
                b1 = out(ymm_reg) _,
                x = out(ymm_reg) _,
                y = out(ymm_reg) _,
                a0 = inout(ymm_reg) *a0,
                a1 = inout(ymm_reg) *a1,
                a2 = inout(ymm_reg) *a2,
                a3 = inout(ymm_reg) *a3,
                a4 = inout(ymm_reg) *a4,
                a5 = inout(ymm_reg) *a5,
                a6 = inout(ymm_reg) *a6,
                a7 = inout(ymm_reg) *a7,
                a8 = inout(ymm_reg) *a8,
                a9 = inout(ymm_reg) *a9,
                a10 = inout(ymm_reg) *a10,
                a11 = inout(ymm_reg) *a11,
                options(nostack, readonly),
            );
        }
        for (r, pair) in acc.as_chunks_mut::<2>().0.iter_mut().enumerate() {
            if !t.init.is_null() {
                let from = t.init.add(r * t.init_row);
                pair[0] = _mm256_add_ps(pair[0], _mm256_loadu_ps(from));
                pair[1] = _mm256_add_ps(pair[1], _mm256_loadu_ps(from.add(8)));
            }
            let to = t.c.add(r * t.c_row);
            _mm256_storeu_ps(to, pair[0]);
            _mm256_storeu_ps(to.add(8), pair[1]);
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2<const M: usize>(tile: &Tile) {
    use std::arch::x86_64::*;
    let t = *tile;
    let mut acc = [[_mm256_setzero_ps(); 2]; M];
    // SAFETY: every address lies inside the extents promised to `run_tile`.
    unsafe {
        let (mut b, mut a, mut ahead) = (t.b, t.a, t.ahead);
        for _ in 0..t.k {
            _mm_prefetch::<_MM_HINT_T1>(ahead.cast());
            ahead = ahead.wrapping_add(t.pace);
            let b0 = _mm256_loadu_ps(b);
            let b1 = _mm256_loadu_ps(b.add(8));
            for (r, row) in acc.iter_mut().enumerate() {
                let x = _mm256_broadcast_ss(&*a.add(r * t.a_row));
                row[0] = _mm256_fmadd_ps(x, b0, row[0]);
                row[1] = _mm256_fmadd_ps(x, b1, row[1]);
            }
            b = b.add(16);
            a = a.add(t.a_col);
        }
        if !t.init.is_null() {
            for (r, row) in acc.iter_mut().enumerate() {
                let from = t.init.add(r * t.init_row);
                row[0] = _mm256_add_ps(row[0], _mm256_loadu_ps(from));
                row[1] = _mm256_add_ps(row[1], _mm256_loadu_ps(from.add(8)));
            }
        }
        for (r, row) in acc.iter().enumerate() {
            let to = t.c.add(r * t.c_row);
            _mm256_storeu_ps(to, row[0]);
            _mm256_storeu_ps(to.add(8), row[1]);
        }
    }
}

/// The full tile of 12 rows, written out for the same reason: the compiler's chain of twelve additions is as long as the
/// loop's arithmetic. Four bases reach three rows each.
///
/// # Safety
/// As [`run_tile`] with 12 rows and 32 columns, on a processor with AVX-512F.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn avx512_twelve(tile: &Tile) {
    use std::arch::x86_64::*;
    let t = *tile;
    let mut acc = [_mm512_setzero_ps(); 24];
    let rounds = Rounds::new(tile, 12);
    // SAFETY: every address lies inside the extents promised to `run_tile`; prefetching any address is allowed. The
    // assembly reads `k` rows of 32 values at `b` and `k` columns of 12 values at `a` and `rounds`, and writes registers only.
    unsafe {
        if t.k > 0 {
            #[rustfmt::skip]
            let [a0, a1, a2, a3, a4, a5, a6, a7, a8, a9, a10, a11, a12, a13, a14, a15, a16, a17, a18, a19, a20, a21, a22, a23] = &mut acc;
            std::arch::asm!(
                "3:",
                "prefetchw [{c}]",
                "prefetchw [{c} + 64]",
                "prefetchw [{c} + 124]",
                "add {c}, [{rounds}]",
                "mov {k}, [{rounds} + 8]",
                "cmp {c}, [{rounds} + 24]",
                "cmove {k}, [{rounds} + 16]",
                "2:",
                "vmovups {b0}, [{b}]",
                "vmovups {b1}, [{b} + 64]",
                "vbroadcastss {x}, [{r0}]",
                "vbroadcastss {y}, [{r0} + {row}]",
                "vfmadd231ps {a0}, {b0}, {x}",
                "vfmadd231ps {a1}, {b1}, {x}",
                "vbroadcastss {x}, [{r0} + 2*{row}]",
                "vfmadd231ps {a2}, {b0}, {y}",
                "vfmadd231ps {a3}, {b1}, {y}",
                "vbroadcastss {y}, [{r3}]",
                "vfmadd231ps {a4}, {b0}, {x}",
                "vfmadd231ps {a5}, {b1}, {x}",
                "add {r0}, {col}",
                "vbroadcastss {x}, [{r3} + {row}]",
                "vfmadd231ps {a6}, {b0}, {y}",
                "vfmadd231ps {a7}, {b1}, {y}",
                "vbroadcastss {y}, [{r3} + 2*{row}]",
                "vfmadd231ps {a8}, {b0}, {x}",
                "vfmadd231ps {a9}, {b1}, {x}",
                "add {b}, 128",
                "vbroadcastss {x}, [{r6}]",
                "vfmadd231ps {a10}, {b0}, {y}",
                "vfmadd231ps {a11}, {b1}, {y}",
                "add {r3}, {col}",
                "vbroadcastss {y}, [{r6} + {row}]",
                "vfmadd231ps {a12}, {b0}, {x}",
                "vfmadd231ps {a13}, {b1}, {x}",
                "vbroadcastss {x}, [{r6} + 2*{row}]",
                "vfmadd231ps {a14}, {b0}, {y}",
                "vfmadd231ps {a15}, {b1}, {y}",
                "prefetcht1 [{ahead}]",
                "add {ahead}, {pace}",
                "vbroadcastss {y}, [{r9}]",
                "vfmadd231ps {a16}, {b0}, {x}",
                "vfmadd231ps {a17}, {b1}, {x}",
                "add {r6}, {col}",
                "vbroadcastss {x}, [{r9} + {row}]",
                "vfmadd231ps {a18}, {b0}, {y}",
                "vfmadd231ps {a19}, {b1}, {y}",
                "vbroadcastss {y}, [{r9} + 2*{row}]",
                "vfmadd231ps {a20}, {b0}, {x}",
                "vfmadd231ps {a21}, {b1}, {x}",
                "vfmadd231ps {a22}, {b0}, {y}",
                "vfmadd231ps {a23}, {b1}, {y}",
                "add {r9}, {col}",
                "dec {k}",
                "jnz 2b",
                "cmp {c}, [{rounds} + 24]",
                "jne 3b",
                c = inout(reg) t.c => _,
                rounds = in(reg) &rounds,
                b = inout(reg) t.b => _,
                r0 = inout(reg) t.a => _,
                r3 = inout(reg) t.a.wrapping_add(3 * t.a_row) => _,
                r6 = inout(reg) t.a.wrapping_add(6 * t.a_row) => _,
                r9 = inout(reg) t.a.wrapping_add(9 * t.a_row) => _,
                row = in(reg) 4 * t.a_row,
                col = in(reg) 4 * t.a_col,
                k = out(reg) _,
                ahead = inout(reg) t.ahead => _,
                pace = in(reg) 4 * t.pace,
                b0 = out(zmm_reg) _,
                b1 = out(zmm_reg) _,
                x = out(zmm_reg) _,
                y = out(zmm_reg) _,
                a0 = inout(zmm_reg) *a0,
                a1 = inout(zmm_reg) *a1,
                a2 = inout(zmm_reg) *a2,
                a3 = inout(zmm_reg) *a3,
                a4 = inout(zmm_reg) *a4,
                a5 = inout(zmm_reg) *a5,
                a6 = inout(zmm_reg) *a6,
                a7 = inout(zmm_reg) *a7,
                a8 = inout(zmm_reg) *a8,
                a9 = inout(zmm_reg) *a9,
                a10 = inout(zmm_reg) *a10,
                a11 = inout(zmm_reg) *a11,
                a12 = inout(zmm_reg) *a12,
                a13 = inout(zmm_reg) *a13,
                a14 = inout(zmm_reg) *a14,
                a15 = inout(zmm_reg) *a15,
                a16 = inout(zmm_reg) *a16,
                a17 = inout(zmm_reg) *a17,
                a18 = inout(zmm_reg) *a18,
                a19 = inout(zmm_reg) *a19,
                a20 = inout(zmm_reg) *a20,
                a21 = inout(zmm_reg) *a21,
                a22 = inout(zmm_reg) *a22,
                a23 = inout(zmm_reg) *a23,
                options(nostack, readonly),
            );
        }
        for (r, pair) in acc.as_chunks_mut::<2>().0.iter_mut().enumerate() {
            if !t.init.is_null() {
                let from = t.init.add(r * t.init_row);
                pair[0] = _mm512_add_ps(pair[0], _mm512_loadu_ps(from));
                pair[1] = _mm512_add_ps(pair[1], _mm512_loadu_ps(from.add(16)));
            }
            let to = t.c.add(r * t.c_row);
            _mm512_storeu_ps(to, pair[0]);
            _mm512_storeu_ps(to.add(16), pair[1]);
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn avx512<const M: usize>(tile: &Tile) {
    use std::arch::x86_64::*;
    let t = *tile;
    let mut acc = [[_mm512_setzero_ps(); 2]; M];
    // SAFETY: every address lies inside the extents promised to `run_tile`.
    unsafe {
        let (mut b, mut a, mut ahead) = (t.b, t.a, t.ahead);
        for _ in 0..t.k {
            _mm_prefetch::<_MM_HINT_T1>(ahead.cast());
            ahead = ahead.wrapping_add(t.pace);
            let b0 = _mm512_loadu_ps(b);
            let b1 = _mm512_loadu_ps(b.add(16));
            for (r, row) in acc.iter_mut().enumerate() {
                let x = _mm512_set1_ps(*a.add(r * t.a_row));
                row[0] = _mm512_fmadd_ps(x, b0, row[0]);
                row[1] = _mm512_fmadd_ps(x, b1, row[1]);
            }
            b = b.add(32);
            a = a.add(t.a_col);
        }
        if !t.init.is_null() {
            for (r, row) in acc.iter_mut().enumerate() {
                let from = t.init.add(r * t.init_row);
                row[0] = _mm512_add_ps(row[0], _mm512_loadu_ps(from));
                row[1] = _mm512_add_ps(row[1], _mm512_loadu_ps(from.add(16)));
            }
        }
        for (r, row) in acc.iter().enumerate() {
            let to = t.c.add(r * t.c_row);
            _mm512_storeu_ps(to, row[0]);
            _mm512_storeu_ps(to.add(16), row[1]);
        }
    }
}

/// # Safety
/// As [`run_tile`] with `cols == 16`.
unsafe fn portable<const M: usize>(tile: &Tile) {
    let t = *tile;
    let mut acc = [[0.0f32; 16]; M];
    // SAFETY: every address lies inside the extents promised to `run_tile`.
    unsafe {
        for p in 0..t.k {
            let b = std::slice::from_raw_parts(t.b.add(p * 16), 16);
            for (r, row) in acc.iter_mut().enumerate() {
                let x = *t.a.add(r * t.a_row + p * t.a_col);
                for (sum, &y) in row.iter_mut().zip(b) {
                    *sum += x * y;
                }
            }
        }
        for (r, row) in acc.iter_mut().enumerate() {
            if !t.init.is_null() {
                for (sum, x) in row
                    .iter_mut()
                    .zip(std::slice::from_raw_parts(t.init.add(r * t.init_row), 16))
                {
                    *sum += x;
                }
            }
            std::slice::from_raw_parts_mut(t.c.add(r * t.c_row), 16).copy_from_slice(row);
        }
    }
}
