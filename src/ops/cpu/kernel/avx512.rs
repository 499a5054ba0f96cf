//! Tiles of 12 x 32 with AVX-512F: 24 of the 32 registers are sums, two hold a row of `B`, two a
//! value of `A` each.

use super::{Rounds, Tile};
use std::arch::asm;
use std::arch::x86_64::*;

/// One step of the depth: a row of `B`, in two registers, times the twelve values of `A` at the
/// addresses given.
macro_rules! step {
    ($fma:literal, $b0:literal $b1:literal, [$($x0:literal)+] [$($x1:literal)+] [$($x2:literal)+]
     [$($x3:literal)+] [$($x4:literal)+] [$($x5:literal)+] [$($x6:literal)+] [$($x7:literal)+]
     [$($x8:literal)+] [$($x9:literal)+] [$($x10:literal)+] [$($x11:literal)+]) => {
        concat!(
            "vmovups {b0}, [{b} + ", $b0, "]\n",
            "vmovups {b1}, [{b} + ", $b1, "]\n",
            "vbroadcastss {x}, [", $($x0,)+ "]\n",
            "vbroadcastss {y}, [", $($x1,)+ "]\n",
            $fma, " {a0}, {b0}, {x}\n",
            $fma, " {a1}, {b1}, {x}\n",
            "vbroadcastss {x}, [", $($x2,)+ "]\n",
            $fma, " {a2}, {b0}, {y}\n",
            $fma, " {a3}, {b1}, {y}\n",
            "vbroadcastss {y}, [", $($x3,)+ "]\n",
            $fma, " {a4}, {b0}, {x}\n",
            $fma, " {a5}, {b1}, {x}\n",
            "vbroadcastss {x}, [", $($x4,)+ "]\n",
            $fma, " {a6}, {b0}, {y}\n",
            $fma, " {a7}, {b1}, {y}\n",
            "vbroadcastss {y}, [", $($x5,)+ "]\n",
            $fma, " {a8}, {b0}, {x}\n",
            $fma, " {a9}, {b1}, {x}\n",
            "vbroadcastss {x}, [", $($x6,)+ "]\n",
            $fma, " {a10}, {b0}, {y}\n",
            $fma, " {a11}, {b1}, {y}\n",
            "vbroadcastss {y}, [", $($x7,)+ "]\n",
            $fma, " {a12}, {b0}, {x}\n",
            $fma, " {a13}, {b1}, {x}\n",
            "vbroadcastss {x}, [", $($x8,)+ "]\n",
            $fma, " {a14}, {b0}, {y}\n",
            $fma, " {a15}, {b1}, {y}\n",
            "vbroadcastss {y}, [", $($x9,)+ "]\n",
            $fma, " {a16}, {b0}, {x}\n",
            $fma, " {a17}, {b1}, {x}\n",
            "vbroadcastss {x}, [", $($x10,)+ "]\n",
            $fma, " {a18}, {b0}, {y}\n",
            $fma, " {a19}, {b1}, {y}\n",
            "vbroadcastss {y}, [", $($x11,)+ "]\n",
            $fma, " {a20}, {b0}, {x}\n",
            $fma, " {a21}, {b1}, {x}\n",
            $fma, " {a22}, {b0}, {y}\n",
            $fma, " {a23}, {b1}, {y}\n",
        )
    };
}

/// A step where a row of `A` is contiguous: `$at` bytes further than the bases, which reach three
/// rows each.
macro_rules! across {
    ($fma:literal, $b0:literal $b1:literal, $at:literal) => {
        step!($fma, $b0 $b1, ["{r0} + " $at] ["{r0} + {row} + " $at] ["{r0} + 2*{row} + " $at]
            ["{r3} + " $at] ["{r3} + {row} + " $at] ["{r3} + 2*{row} + " $at] ["{r6} + " $at]
            ["{r6} + {row} + " $at] ["{r6} + 2*{row} + " $at] ["{r9} + " $at]
            ["{r9} + {row} + " $at] ["{r9} + 2*{row} + " $at])
    };
}

/// A step where a column of `A` is contiguous and begins at `$column`, an address and a plus sign.
macro_rules! down {
    ($fma:literal, $b0:literal $b1:literal, $column:literal) => {
        step!($fma, $b0 $b1, [$column "0"] [$column "4"] [$column "8"] [$column "12"]
            [$column "16"] [$column "20"] [$column "24"] [$column "28"] [$column "32"]
            [$column "36"] [$column "40"] [$column "44"])
    };
}

/// The whole tile's loop. Four steps of the depth make a turn, so that counting, asking for memory
/// and moving the addresses are few of its instructions: a virtual processor may share its core
/// with a neighbour's, and then instructions are what is short and not arithmetic units.
macro_rules! walk {
    ($tile:ident, $turn:expr, $one:expr, $($bases:tt)*) => {{
        let mut acc = [_mm512_setzero_ps(); 24];
        let rounds = Rounds::new(&$tile, 12);
        #[rustfmt::skip]
        let [
            a0, a1, a2, a3, a4, a5, a6, a7, a8, a9, a10, a11, a12, a13, a14, a15,
            a16, a17, a18, a19, a20, a21, a22, a23,
        ] = &mut acc;
        asm!(
            "cmp qword ptr [{rounds} + 16], 0",
            "je 4f",
            "3:",
            "prefetchw [{c}]",
            "prefetchw [{c} + 64]",
            "prefetchw [{c} + 124]",
            "add {c}, [{rounds}]",
            "mov {k}, [{rounds} + 8]",
            "cmp {c}, [{rounds} + 24]",
            "cmove {k}, [{rounds} + 16]",
            "2:",
            $turn,
            "add {b}, 512",
            "prefetcht1 [{ahead}]",
            "prefetcht1 [{ahead} + {pace}]",
            "lea {ahead}, [{ahead} + 2*{pace}]",
            "dec {k}",
            "jnz 2b",
            "cmp {c}, [{rounds} + 24]",
            "jne 3b",
            "4:",
            "mov {k}, [{rounds} + 32]",
            "test {k}, {k}",
            "jz 6f",
            "5:",
            $one,
            "add {b}, 128",
            "dec {k}",
            "jnz 5b",
            "6:",
            c = inout(reg) $tile.c => _,
            rounds = in(reg) &rounds,
            b = inout(reg) $tile.b => _,
            k = out(reg) _,
            ahead = inout(reg) $tile.ahead => _,
            pace = in(reg) 8 * $tile.pace,
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
            $($bases)*
            options(nostack, readonly),
        );
        acc
    }};
}

/// The full tile of 12 rows at `$tile`; its loop is written out because the compiler chains the
/// addresses of the rows, one addition after another, which costs as many cycles as the arithmetic.
macro_rules! whole {
    ($fma:literal, $tile:ident) => {{
        let t = *$tile;
        debug_assert!(t.a_row == 1 || t.a_col == 1);
        // SAFETY: every address lies inside the extents promised to `run_tile`; prefetching any
        // address is allowed. The assembly reads `k` rows of 32 values at `b`, `k` columns of 12
        // values at `a`, and `rounds`, and writes registers only.
        let mut acc = unsafe {
            if t.a_col == 1 {
                walk!(
                    t,
                    concat!(
                        across!($fma, "0" "64", "0"),
                        across!($fma, "128" "192", "4"),
                        across!($fma, "256" "320", "8"),
                        across!($fma, "384" "448", "12"),
                        "add {r0}, 16\nadd {r3}, 16\nadd {r6}, 16\nadd {r9}, 16"
                    ),
                    concat!(across!($fma, "0" "64", "0"), "add {r0}, 4\nadd {r3}, 4\nadd {r6}, 4\n\
                        add {r9}, 4"),
                    r0 = inout(reg) t.a => _,
                    r3 = inout(reg) t.a.wrapping_add(3 * t.a_row) => _,
                    r6 = inout(reg) t.a.wrapping_add(6 * t.a_row) => _,
                    r9 = inout(reg) t.a.wrapping_add(9 * t.a_row) => _,
                    row = in(reg) 4 * t.a_row,
                )
            } else {
                walk!(
                    t,
                    concat!(
                        down!($fma, "0" "64", "{low} + "),
                        down!($fma, "128" "192", "{low} + {col} + "),
                        down!($fma, "256" "320", "{low} + 2*{col} + "),
                        down!($fma, "384" "448", "{low} + {three} + "),
                        "lea {low}, [{low} + 4*{col}]"
                    ),
                    concat!(down!($fma, "0" "64", "{low} + "), "add {low}, {col}"),
                    low = inout(reg) t.a => _,
                    col = in(reg) 4 * t.a_col,
                    three = in(reg) 12 * t.a_col,
                )
            }
        };
        for (r, pair) in acc.as_chunks_mut::<2>().0.iter_mut().enumerate() {
            // SAFETY: 12 rows of `init` and `c` are there by contract.
            unsafe {
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
    }};
}

/// The full tile of 12 rows.
///
/// # Safety
/// As [`super::run_tile`] with 12 rows and 32 columns, on a processor with AVX-512F.
#[target_feature(enable = "avx512f")]
#[inline]
pub(crate) unsafe fn whole(tile: &Tile) {
    whole!("vfmadd231ps", tile)
}

/// As [`whole`] where each number of `A` and `B` is a pair of `bf16`, whose products are both
/// added.
///
/// # Safety
/// As [`whole`], on a processor with AVX512_BF16 too.
#[target_feature(enable = "avx512f")]
#[inline]
pub(crate) unsafe fn whole_of_pairs(tile: &Tile) {
    whole!("vdpbf16ps", tile)
}

/// A tile of `M` rows.
///
/// # Safety
/// As [`super::run_tile`] with `M` rows and 32 columns, on a processor with AVX-512F.
#[target_feature(enable = "avx512f")]
pub(crate) unsafe fn fewer<const M: usize>(tile: &Tile) {
    // SAFETY: as this function's contract.
    unsafe { fewer_by::<M>(tile, |x, b, sum| _mm512_fmadd_ps(x, b, sum)) }
}

/// As [`fewer`] where each number of `A` and `B` is a pair of `bf16`.
///
/// # Safety
/// As [`fewer`], on a processor with AVX512_BF16 too.
#[target_feature(enable = "avx512f,avx512bf16")]
pub(crate) unsafe fn fewer_of_pairs<const M: usize>(tile: &Tile) {
    // SAFETY: both are 64 bytes, of which any pattern is a value.
    let pairs = |x: __m512| unsafe { std::mem::transmute::<__m512, __m512bh>(x) };
    // SAFETY: as this function's contract.
    unsafe { fewer_by::<M>(tile, |x, b, sum| _mm512_dpbf16_ps(sum, pairs(b), pairs(x))) }
}

/// A tile of `M` rows; `multiply` gives `x b + sum`.
///
/// # Safety
/// As [`fewer`].
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn fewer_by<const M: usize>(
    tile: &Tile,
    multiply: impl Fn(__m512, __m512, __m512) -> __m512,
) {
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
                row[0] = multiply(x, b0, row[0]);
                row[1] = multiply(x, b1, row[1]);
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
