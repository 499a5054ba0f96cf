//! Register-tile kernels of the matrix product: `C[MR x NR] (+)= A[MR x k] B[k x NR]`, one per
//! instruction set.
//!
//! `B` comes packed in panels of `NR` columns (`k` rows of `NR` contiguous values); `A` is read in
//! place through strides and broadcast, so large weights that stand on the left need no packing at
//! all. Sizes of the register tiles: AVX2 has 16 registers, 6 x 16 uses 12 as accumulators; AVX-512
//! has 32, 12 x 32 uses 24. Both hide the FMA latency of 4 cycles.
//!
//! MatmulPrecision in `bf16` come as pairs along `k`, each pair in the place of one `f32`: a step
//! of the depth is then two, the loop is the same with another instruction, and whoever moves 32
//! bits moves a pair. See [`bf16`].

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub(crate) mod bf16;
mod portable;

use std::sync::OnceLock;

/// Instruction set that the kernels use; found once per process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    /// AVX-512F with FMA.
    Avx512,
    /// AVX2 with FMA.
    Avx2,
    /// Whatever the compiler makes of plain Rust.
    Portable,
}

impl Level {
    /// The best set of this processor. `MUNI_CPU=avx2` or `portable` asks for a smaller one.
    pub(crate) fn detect() -> Self {
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
    pub(crate) const fn mr(self) -> usize {
        match self {
            Level::Avx512 => 12,
            _ => 6,
        }
    }

    /// Columns of the register tile, and the width of a packed panel.
    pub(crate) const fn nr(self) -> usize {
        match self {
            Level::Avx512 => 32,
            _ => 16,
        }
    }
}

/// Precision of a product's operands. Sums are always `f32`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MatmulPrecision {
    /// `f32`: nothing is rounded.
    #[default]
    Single,
    /// `bf16`, 8 significant bits: twice as many products an instruction where the processor has
    /// AVX512_BF16.
    Bf16,
}

/// What computes a tile: an instruction set and what it multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kernel {
    level: Level,
    precision: MatmulPrecision,
}

impl Kernel {
    /// For this precision with the best instructions of this processor.
    pub(crate) fn new(precision: MatmulPrecision) -> Self {
        Self {
            level: Level::detect(),
            precision,
        }
    }

    /// Steps of the loop over a depth of `k`.
    pub(crate) const fn steps(self, k: usize) -> usize {
        match self.precision {
            MatmulPrecision::Single => k,
            MatmulPrecision::Bf16 => k.div_ceil(2),
        }
    }

    /// Rows of the register tile.
    pub(crate) const fn mr(self) -> usize {
        self.level.mr()
    }

    /// Columns of the register tile, and the width of a packed panel.
    pub(crate) const fn nr(self) -> usize {
        self.level.nr()
    }
}

/// Widest panel of any level.
pub(crate) const MAX_NR: usize = 32;

/// One tile's operands.
#[derive(Clone, Copy)]
pub(crate) struct Tile {
    /// Steps of the depth: numbers, or pairs of `bf16`, along `k`.
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
    /// Where this tile's share of the next panel begins. It waits in L2 or L3; each step of `k`
    /// counts for a little of it, asked for every four, or the next panel's first tile would spend
    /// longer on cache misses than on arithmetic. Any address is allowed.
    pub ahead: *const f32,
    /// Elements of that share per step of `k`.
    pub pace: usize,
}

/// Computes `count` whole tiles below one another on the same panel of `B`, the first of which is
/// `tile`: each next one has its rows of `A` `a_step` elements further, those of `C` and `init`
/// `mr` rows further, and asks for what the last one did not.
///
/// # Safety
/// As [`run_tile`] for each of them.
#[inline]
pub(crate) unsafe fn run_strip(kernel: Kernel, tile: &Tile, count: usize, a_step: usize) {
    // SAFETY: the caller promises the instruction set and the extents.
    unsafe {
        if kernel.precision == MatmulPrecision::Bf16 {
            return bf16::strip(kernel.level, tile, count, a_step);
        }
        match kernel.level {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => avx512_strip(tile, count, a_step),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => avx2_strip(tile, count, a_step),
            _ => for_strip(tile, count, a_step, 6, |tile| portable::tile::<6>(tile)),
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
        unsafe { avx512::whole(tile) }
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
        unsafe { avx2::whole(tile) }
    });
}

/// Computes a tile with `rows <= mr` valid rows and `cols <= nr` valid columns.
///
/// # Safety
/// The processor has the instructions of `kernel`. `a` is readable for `rows` x `k` through its
/// strides, `b` for `k * nr`, `c` is writable (and `init`, unless null, readable) for `rows` x
/// `cols` through their strides, and nobody else touches that part of `c`.
#[inline]
pub(crate) unsafe fn run_tile(kernel: Kernel, tile: &Tile, rows: usize, cols: usize) {
    if cols == kernel.nr() {
        // SAFETY: as this function's contract.
        return unsafe { run_full_width(kernel, tile, rows) };
    }
    // A narrow tile goes through a full-width copy: the panel is padded with zeros, so only C needs
    // care.
    let mut copy = [0.0f32; 12 * MAX_NR];
    let nr = kernel.nr();
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
    unsafe { run_full_width(kernel, &inner, rows) };
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

/// The loop over a tile's depth in as many rounds as it has rows: each begins by asking for one row
/// of the output. At its end one row after another would wait for memory, which costs the logits of
/// a large vocabulary two fifths of their time; asked for all at once, they fill the queue of what
/// is on its way, and the operands wait.
#[cfg(target_arch = "x86_64")]
#[repr(C)]
struct Rounds {
    /// Bytes from one row of the output to the next.
    row: usize,
    /// Turns of a round, four steps of the depth each.
    turns: usize,
    /// Turns of the last round.
    last: usize,
    /// Address of the row after the last round's.
    end: usize,
    /// Steps that make no whole turn.
    rest: usize,
}

#[cfg(target_arch = "x86_64")]
impl Rounds {
    #[inline]
    fn new(tile: &Tile, rows: usize) -> Self {
        // A loop with fewer turns is over before the first row is there.
        let all = tile.k / 4;
        let rounds = if all >= rows { rows } else { 1 };
        let turns = all / rounds;
        Self {
            row: 4 * tile.c_row,
            turns,
            last: all - turns * (rounds - 1),
            end: tile.c.wrapping_add(rounds * tile.c_row).addr(),
            rest: tile.k % 4,
        }
    }
}

/// # Safety
/// As [`run_tile`] with `cols == nr`.
#[inline]
unsafe fn run_full_width(kernel: Kernel, tile: &Tile, rows: usize) {
    #[cfg(target_arch = "x86_64")]
    ask_for_init(tile, rows, kernel.nr());
    // SAFETY: the caller promises the instruction set and the extents.
    unsafe {
        if kernel.precision == MatmulPrecision::Bf16 {
            return bf16::rows(kernel.level, tile, rows);
        }
        match kernel.level {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => match rows {
                12 => avx512::whole(tile),
                11 => avx512::fewer::<11>(tile),
                10 => avx512::fewer::<10>(tile),
                9 => avx512::fewer::<9>(tile),
                8 => avx512::fewer::<8>(tile),
                7 => avx512::fewer::<7>(tile),
                6 => avx512::fewer::<6>(tile),
                5 => avx512::fewer::<5>(tile),
                4 => avx512::fewer::<4>(tile),
                3 => avx512::fewer::<3>(tile),
                2 => avx512::fewer::<2>(tile),
                _ => avx512::fewer::<1>(tile),
            },
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => match rows {
                6 => avx2::whole(tile),
                5 => avx2::fewer::<5>(tile),
                4 => avx2::fewer::<4>(tile),
                3 => avx2::fewer::<3>(tile),
                2 => avx2::fewer::<2>(tile),
                _ => avx2::fewer::<1>(tile),
            },
            _ => match rows {
                6 => portable::tile::<6>(tile),
                5 => portable::tile::<5>(tile),
                4 => portable::tile::<4>(tile),
                3 => portable::tile::<3>(tile),
                2 => portable::tile::<2>(tile),
                _ => portable::tile::<1>(tile),
            },
        }
    }
}
