//! Tiles of 6 x 16 with AVX2 and FMA: 12 of the 16 registers are sums, two hold a row of `B`, two a
//! value of `A` each.

use super::{Rounds, Tile};
use std::arch::asm;
use std::arch::x86_64::*;

/// One step of the depth: a row of `B`, in two registers, times the six values of `A` at the
/// addresses given.
macro_rules! step {
    ($b0:literal $b1:literal, [$($x0:literal)+] [$($x1:literal)+] [$($x2:literal)+]
     [$($x3:literal)+] [$($x4:literal)+] [$($x5:literal)+]) => {
        concat!(
            "vmovups {b0}, [{b} + ", $b0, "]\n",
            "vmovups {b1}, [{b} + ", $b1, "]\n",
            "vbroadcastss {x}, [", $($x0,)+ "]\n",
            "vbroadcastss {y}, [", $($x1,)+ "]\n",
            "vfmadd231ps {a0}, {b0}, {x}\n",
            "vfmadd231ps {a1}, {b1}, {x}\n",
            "vbroadcastss {x}, [", $($x2,)+ "]\n",
            "vfmadd231ps {a2}, {b0}, {y}\n",
            "vfmadd231ps {a3}, {b1}, {y}\n",
            "vbroadcastss {y}, [", $($x3,)+ "]\n",
            "vfmadd231ps {a4}, {b0}, {x}\n",
            "vfmadd231ps {a5}, {b1}, {x}\n",
            "vbroadcastss {x}, [", $($x4,)+ "]\n",
            "vfmadd231ps {a6}, {b0}, {y}\n",
            "vfmadd231ps {a7}, {b1}, {y}\n",
            "vbroadcastss {y}, [", $($x5,)+ "]\n",
            "vfmadd231ps {a8}, {b0}, {x}\n",
            "vfmadd231ps {a9}, {b1}, {x}\n",
            "vfmadd231ps {a10}, {b0}, {y}\n",
            "vfmadd231ps {a11}, {b1}, {y}\n",
        )
    };
}

/// A step where a row of `A` is contiguous: `$at` bytes further than the bases, which reach three
/// rows each.
macro_rules! across {
    ($b0:literal $b1:literal, $at:literal) => {
        step!($b0 $b1, ["{low} + " $at] ["{low} + {row} + " $at] ["{low} + 2*{row} + " $at]
            ["{high} + " $at] ["{high} + {row} + " $at] ["{high} + 2*{row} + " $at])
    };
}

/// A step where a column of `A` is contiguous and begins at `$column`, an address and a plus sign.
macro_rules! down {
    ($b0:literal $b1:literal, $column:literal) => {
        step!($b0 $b1, [$column "0"] [$column "4"] [$column "8"] [$column "12"] [$column "16"]
            [$column "20"])
    };
}

/// The whole tile's loop. Four steps of the depth make a turn, so that counting, asking for memory
/// and moving the addresses are few of its instructions: a virtual processor may share its core
/// with a neighbour's, and then instructions are what is short and not arithmetic units.
macro_rules! walk {
    ($tile:ident, $turn:expr, $one:expr, $($bases:tt)*) => {{
        let mut acc = [_mm256_setzero_ps(); 12];
        let rounds = Rounds::new(&$tile, 6);
        #[rustfmt::skip]
        let [a0, a1, a2, a3, a4, a5, a6, a7, a8, a9, a10, a11] = &mut acc;
        asm!(
            "cmp qword ptr [{rounds} + 16], 0",
            "je 4f",
            "3:",
            "prefetchw [{c}]",
            "prefetchw [{c} + 60]",
            "add {c}, [{rounds}]",
            "mov {k}, [{rounds} + 8]",
            "cmp {c}, [{rounds} + 24]",
            "cmove {k}, [{rounds} + 16]",
            "2:",
            $turn,
            "add {b}, 256",
            "prefetcht1 [{ahead}]",
            "add {ahead}, {pace}",
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
            "add {b}, 64",
            "dec {k}",
            "jnz 5b",
            "6:",
            c = inout(reg) $tile.c => _,
            rounds = in(reg) &rounds,
            b = inout(reg) $tile.b => _,
            k = out(reg) _,
            ahead = inout(reg) $tile.ahead => _,
            pace = in(reg) 16 * $tile.pace,
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
            $($bases)*
            options(nostack, readonly),
        );
        acc
    }};
}

/// The full tile of 6 rows; its loop is written out because the compiler chains the addresses of
/// the rows, one addition after another, which costs as many cycles as the arithmetic.
///
/// # Safety
/// As [`super::run_tile`] with 6 rows and 16 columns, on a processor with AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
#[inline]
pub(crate) unsafe fn whole(tile: &Tile) {
    let t = *tile;
    debug_assert!(t.a_row == 1 || t.a_col == 1);
    // SAFETY: every address lies inside the extents promised to `run_tile`; prefetching any address
    // is allowed. The assembly reads `k` rows of 16 values at `b`, `k` columns of 6 values at `a`,
    // and `rounds`, and writes registers only.
    let mut acc = unsafe {
        if t.a_col == 1 {
            walk!(
                t,
                concat!(
                    across!("0" "32", "0"),
                    across!("64" "96", "4"),
                    across!("128" "160", "8"),
                    across!("192" "224", "12"),
                    "add {low}, 16\nadd {high}, 16"
                ),
                concat!(across!("0" "32", "0"), "add {low}, 4\nadd {high}, 4"),
                low = inout(reg) t.a => _,
                high = inout(reg) t.a.wrapping_add(3 * t.a_row) => _,
                row = in(reg) 4 * t.a_row,
            )
        } else {
            walk!(
                t,
                concat!(
                    down!("0" "32", "{low} + "),
                    down!("64" "96", "{low} + {col} + "),
                    down!("128" "160", "{low} + 2*{col} + "),
                    down!("192" "224", "{low} + {three} + "),
                    "lea {low}, [{low} + 4*{col}]"
                ),
                concat!(down!("0" "32", "{low} + "), "add {low}, {col}"),
                low = inout(reg) t.a => _,
                col = in(reg) 4 * t.a_col,
                three = in(reg) 12 * t.a_col,
            )
        }
    };
    for (r, pair) in acc.as_chunks_mut::<2>().0.iter_mut().enumerate() {
        // SAFETY: 6 rows of `init` and `c` are there by contract.
        unsafe {
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

/// A tile of `M` rows.
///
/// # Safety
/// As [`super::run_tile`] with `M` rows and 16 columns, on a processor with AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
pub(crate) unsafe fn fewer<const M: usize>(tile: &Tile) {
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
