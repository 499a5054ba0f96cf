//! Factors in `bf16`: rounding `f32` to pairs of them, and tiles that multiply pairs.
//!
//! A pair stands in 32 bits, the number of the even place along `k` in the lower half, as VDPBF16PS
//! has it. That instruction adds the products of both halves to an `f32`; where the processor lacks
//! it, the same sums are made of ordinary ones, to the bit but for numbers below 2^-126, and slower
//! than in `f32`.

use super::{Level, MAX_NR, Tile, for_strip};
use crate::ops::cpu::simd::vectorised;

/// Whether this processor has instructions for it; AVX512BW moves halves of 32 bits.
pub(crate) fn has_instructions(level: Level) -> bool {
    #[cfg(target_arch = "x86_64")]
    if level == Level::Avx512 {
        return is_x86_feature_detected!("avx512bf16") && is_x86_feature_detected!("avx512bw");
    }
    let _ = level;
    false
}

/// As [`super::run_strip`].
///
/// # Safety
/// As [`super::run_strip`], `a` and `b` holding pairs.
#[inline]
pub(crate) unsafe fn strip(level: Level, tile: &Tile, count: usize, a_step: usize) {
    #[cfg(target_arch = "x86_64")]
    if has_instructions(level) {
        // SAFETY: as this function's contract.
        return unsafe { native_strip(tile, count, a_step) };
    }
    for_strip(tile, count, a_step, level.mr(), |tile| {
        // SAFETY: as this function's contract.
        unsafe { emulated(tile, level.mr(), level.nr()) };
    });
}

/// # Safety
/// As [`strip`], on a processor with AVX512_BF16.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn native_strip(tile: &Tile, count: usize, a_step: usize) {
    for_strip(tile, count, a_step, 12, |tile| {
        super::ask_for_init(tile, 12, 32);
        // SAFETY: as this function's contract.
        unsafe { super::avx512::whole_of_pairs(tile) }
    });
}

/// A tile with `rows` rows and all columns.
///
/// # Safety
/// As [`super::run_tile`], `a` and `b` holding pairs.
pub(crate) unsafe fn rows(level: Level, tile: &Tile, rows: usize) {
    #[cfg(target_arch = "x86_64")]
    if has_instructions(level) {
        use super::avx512::{fewer_of_pairs, whole_of_pairs};
        // SAFETY: as this function's contract.
        return unsafe {
            match rows {
                12 => whole_of_pairs(tile),
                11 => fewer_of_pairs::<11>(tile),
                10 => fewer_of_pairs::<10>(tile),
                9 => fewer_of_pairs::<9>(tile),
                8 => fewer_of_pairs::<8>(tile),
                7 => fewer_of_pairs::<7>(tile),
                6 => fewer_of_pairs::<6>(tile),
                5 => fewer_of_pairs::<5>(tile),
                4 => fewer_of_pairs::<4>(tile),
                3 => fewer_of_pairs::<3>(tile),
                2 => fewer_of_pairs::<2>(tile),
                _ => fewer_of_pairs::<1>(tile),
            }
        };
    }
    // SAFETY: as this function's contract.
    unsafe { emulated(tile, rows, level.nr()) };
}

/// As [`rows`] with ordinary instructions.
///
/// # Safety
/// As [`rows`].
unsafe fn emulated(tile: &Tile, rows: usize, nr: usize) {
    let t = *tile;
    for r in 0..rows {
        let (mut sums, mut x) = ([0.0f32; MAX_NR], [0u32; 64]);
        let sums = &mut sums[..nr];
        // SAFETY: every address lies inside the extents promised to `run_tile`.
        unsafe {
            for p in (0..t.k).step_by(x.len()) {
                let count = x.len().min(t.k - p);
                for (i, x) in x[..count].iter_mut().enumerate() {
                    *x = (*t.a.add(r * t.a_row + (p + i) * t.a_col)).to_bits();
                }
                let b = std::slice::from_raw_parts(t.b.add(p * nr), count * nr);
                add_rows(&x[..count], b, sums);
            }
            if !t.init.is_null() {
                let init = std::slice::from_raw_parts(t.init.add(r * t.init_row), nr);
                for (sum, x) in sums.iter_mut().zip(init) {
                    *sum += x;
                }
            }
            std::slice::from_raw_parts_mut(t.c.add(r * t.c_row), nr).copy_from_slice(sums);
        }
    }
}

vectorised! {
    /// `sums[c] += x[p] b[p, c]` over all pairs, for 16 or 32 columns.
    pub(crate) fn add_rows(x: &[u32], b: &[f32], sums: &mut [f32]) {
        if let Ok(sums) = <&mut [f32; MAX_NR]>::try_from(&mut *sums) {
            add_rows_of(x, b, sums);
        } else if let Ok(sums) = <&mut [f32; 16]>::try_from(sums) {
            add_rows_of(x, b, sums);
        }
    }
}

#[inline(always)]
fn add_rows_of<const NR: usize>(x: &[u32], b: &[f32], sums: &mut [f32; NR]) {
    let mut own = *sums;
    for (&x, b) in x.iter().zip(b.as_chunks::<NR>().0) {
        for (sum, b) in own.iter_mut().zip(b) {
            *sum = add_products(*sum, x, b.to_bits());
        }
    }
    *sums = own;
}

/// `sum + x y` of both halves, the upper one first. A product of two numbers of 8 bits is exact, so
/// that each sum rounds once.
#[inline(always)]
fn add_products(sum: f32, x: u32, y: u32) -> f32 {
    let upper = |pair: u32| f32::from_bits(pair & 0xFFFF_0000);
    let lower = |pair: u32| f32::from_bits(pair << 16);
    (sum + upper(x) * upper(y)) + lower(x) * lower(y)
}

/// To the nearest `bf16`, ties to even, as the processor does it: below 2^-126 to 0, and a NaN
/// stays one.
#[inline(always)]
fn round(x: f32) -> u32 {
    let bits = x.to_bits();
    let nearest = bits.wrapping_add(0x7FFF + ((bits >> 16) & 1)) >> 16;
    let magnitude = bits & 0x7FFF_FFFF;
    if magnitude < 0x0080_0000 {
        (bits & 0x8000_0000) >> 16
    } else if magnitude > 0x7F80_0000 {
        (bits >> 16) | 0x40
    } else {
        nearest
    }
}

/// Pairs of neighbours: `to[i]` holds `from[2 i]` and `from[2 i + 1]`, or 0 beyond the end.
///
/// # Panics
/// Unless `to` has half as many elements as `from`, rounded up.
pub(crate) fn pair_neighbours(level: Level, from: &[f32], to: &mut [u32]) {
    assert_eq!(to.len(), from.len().div_ceil(2), "pairs of {}", from.len());
    #[cfg(target_arch = "x86_64")]
    if has_instructions(level) {
        // SAFETY: the processor has the instructions.
        return unsafe { native_neighbours(from, to) };
    }
    let _ = level;
    emulated_neighbours(from, to);
}

/// Pairs of two rows: `to[i]` holds `even[i]` and `odd[i]`, or 0 where there is no odd row.
///
/// # Panics
/// If the rows are shorter than `to`.
pub(crate) fn pair_rows(level: Level, even: &[f32], odd: Option<&[f32]>, to: &mut [u32]) {
    let even = &even[..to.len()];
    let Some(odd) = odd else {
        for (to, &x) in to.iter_mut().zip(even) {
            *to = round(x);
        }
        return;
    };
    let odd = &odd[..to.len()];
    #[cfg(target_arch = "x86_64")]
    if has_instructions(level) {
        // SAFETY: the processor has the instructions.
        return unsafe { native_rows(even, odd, to) };
    }
    let _ = level;
    emulated_pair_rows(even, odd, to);
}

vectorised! {
    /// See [`pair_neighbours`].
    pub(crate) fn emulated_neighbours(from: &[f32], to: &mut [u32]) {
        let (pairs, rest) = from.as_chunks::<2>();
        for (to, &[x, y]) in to.iter_mut().zip(pairs) {
            *to = round(x) | round(y) << 16;
        }
        if let ([x], Some(to)) = (rest, to.last_mut()) {
            *to = round(*x);
        }
    }
}

vectorised! {
    /// See [`pair_rows`].
    pub(crate) fn emulated_pair_rows(even: &[f32], odd: &[f32], to: &mut [u32]) {
        for (to, (&x, &y)) in to.iter_mut().zip(even.iter().zip(odd)) {
            *to = round(x) | round(y) << 16;
        }
    }
}

/// # Safety
/// AVX512_BF16; `to` has half as many elements as `from`, rounded up.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn native_neighbours(from: &[f32], to: &mut [u32]) {
    use std::arch::x86_64::*;
    let (lines, rest) = from.as_chunks::<32>();
    let (to_lines, to_rest) = to.split_at_mut(lines.len() * 16);
    for (to, from) in to_lines.as_chunks_mut::<16>().0.iter_mut().zip(lines) {
        // SAFETY: 32 numbers become 16 pairs.
        unsafe {
            let lower = _mm512_loadu_ps(from.as_ptr());
            let upper = _mm512_loadu_ps(from.as_ptr().add(16));
            let both = _mm512_cvtne2ps_pbh(upper, lower);
            _mm512_storeu_si512(
                to.as_mut_ptr().cast(),
                std::mem::transmute::<__m512bh, __m512i>(both),
            );
        }
    }
    emulated_neighbours(rest, to_rest);
}

/// # Safety
/// AVX512_BF16 and AVX512BW; all have the same length.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn native_rows(even: &[f32], odd: &[f32], to: &mut [u32]) {
    use std::arch::x86_64::*;
    // Even numbers come out below the odd ones, and change places with them.
    let places: [u16; 32] = std::array::from_fn(|i| (i / 2 + i % 2 * 16) as u16);
    let whole = to.len() / 16 * 16;
    // SAFETY: the loads and stores are of 16 numbers that are there.
    unsafe {
        let places = _mm512_loadu_si512(places.as_ptr().cast());
        for i in (0..whole).step_by(16) {
            let even = _mm512_loadu_ps(even.as_ptr().add(i));
            let odd = _mm512_loadu_ps(odd.as_ptr().add(i));
            let both = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(odd, even));
            let pairs = _mm512_permutexvar_epi16(places, both);
            _mm512_storeu_si512(to.as_mut_ptr().add(i).cast(), pairs);
        }
    }
    emulated_pair_rows(&even[whole..], &odd[whole..], &mut to[whole..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers of many sizes and both signs, none of which becomes less than 2^-126 in a product.
    fn numbers(len: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state >> 8
        };
        (0..len)
            .map(|_| {
                let exponent = 117 + next() % 20;
                f32::from_bits((next() & 1) << 31 | exponent << 23 | next() & 0x7F_FFFF)
            })
            .collect()
    }

    fn pairs(numbers: &[f32]) -> Vec<f32> {
        let mut to = vec![0; numbers.len().div_ceil(2)];
        emulated_neighbours(numbers, &mut to);
        to.into_iter().map(f32::from_bits).collect()
    }

    #[test]
    fn rounding_is_to_the_nearest_even() {
        for x in numbers(10_000, 1) {
            assert_eq!(
                round(x),
                u32::from(half::bf16::from_f32(x).to_bits()),
                "{x}"
            );
        }
        for (x, want) in [
            (0.0, 0),
            (-0.0, 0x8000),
            (f32::from_bits(0x3F80_8000), 0x3F80),
            (f32::from_bits(0x3F81_8000), 0x3F82),
            (f32::from_bits(0x3F80_8001), 0x3F81),
            (f32::MAX, 0x7F80),
            (f32::INFINITY, 0x7F80),
            (f32::NEG_INFINITY, 0xFF80),
            (f32::from_bits(0x8000_0001), 0x8000),
            (f32::MIN_POSITIVE, 0x0080),
        ] {
            assert_eq!(round(x), want, "{x:e}");
        }
        for nan in [
            f32::NAN,
            f32::from_bits(0x7F80_0001),
            f32::from_bits(0xFFFF_FFFF),
        ] {
            assert!(half::bf16::from_bits(round(nan) as u16).is_nan());
        }
    }

    #[test]
    fn pairs_are_the_same_with_and_without_the_instructions() {
        let level = Level::detect();
        for len in [0, 1, 2, 15, 16, 31, 32, 33, 64, 70, 101] {
            let mut from = numbers(len, 2);
            let special = [f32::NAN, f32::INFINITY, 1e-40, -1e-40, f32::MAX, 0.0, -0.0];
            for (x, special) in from.iter_mut().zip(special).skip(1) {
                *x = special;
            }
            let odd = numbers(len, 3);
            let (mut one, mut other) = (vec![7; len.div_ceil(2)], vec![8; len.div_ceil(2)]);
            pair_neighbours(level, &from, &mut one);
            emulated_neighbours(&from, &mut other);
            assert_eq!(one, other, "{len} neighbours");
            let (mut one, mut other) = (vec![7; len], vec![8; len]);
            pair_rows(level, &from, Some(&odd), &mut one);
            emulated_pair_rows(&from, &odd, &mut other);
            assert_eq!(one, other, "two rows of {len}");
            pair_rows(level, &from, None, &mut one);
            emulated_pair_rows(&from, &vec![0.0; len], &mut other);
            assert_eq!(one, other, "a row of {len}");
        }
    }

    #[test]
    fn tiles_are_the_same_with_and_without_the_instructions() {
        let level = Level::detect();
        let (mr, nr) = (level.mr(), level.nr());
        for k in [1, 2, 7, 50, 192, 300] {
            let (a, b) = (
                pairs(&numbers(2 * k * mr, 4)),
                pairs(&numbers(2 * k * nr, 5)),
            );
            let start = numbers(mr * nr, 6);
            for height in 1..=mr {
                let tile = |c: &mut [f32], init: *const f32, (a_row, a_col)| Tile {
                    k,
                    a: a.as_ptr(),
                    a_row,
                    a_col,
                    b: b.as_ptr(),
                    c: c.as_mut_ptr(),
                    c_row: nr,
                    init,
                    init_row: nr,
                    ahead: b.as_ptr(),
                    pace: 1,
                };
                for (init, strides) in [
                    (std::ptr::null(), (k, 1)),
                    (start.as_ptr(), (k, 1)),
                    (start.as_ptr(), (1, mr)),
                ] {
                    let (mut one, mut other) = (vec![9.0; mr * nr], vec![9.0; mr * nr]);
                    // SAFETY: all parts have the extents of a whole tile.
                    unsafe {
                        rows(level, &tile(&mut one, init, strides), height);
                        emulated(&tile(&mut other, init, strides), height, nr);
                    }
                    let bits = |c: &[f32]| c.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                    assert_eq!(
                        bits(&one),
                        bits(&other),
                        "{height} rows, {k} pairs, {strides:?}"
                    );
                }
            }
        }
    }
}
