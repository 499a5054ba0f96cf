//! Every entry point against sums in f64, in both precisions, at sizes that leave edges on all
//! sides and depths of one and of several blocks.

use super::*;
use crate::ops::cpu::shared::SharedMut;

/// Numbers between -1 and 1 that look random.
fn numbers(len: usize, seed: usize) -> Vec<f32> {
    (0..len)
        .map(|i| ((i + seed) * 7919 % 1013) as f32 / 506.0 - 1.0)
        .collect()
}

fn to<'a>(start: Start<'a>, c: &'a mut [f32], row: usize) -> Target<'a> {
    Target { start, c, row }
}

/// An element as the product sees it.
fn at(precision: MatmulPrecision, matrix: &Strided, r: usize, c: usize) -> f64 {
    let x = matrix.data[r * matrix.row + c * matrix.col];
    match precision {
        MatmulPrecision::Single => f64::from(x),
        MatmulPrecision::Bf16 => half::bf16::from_f32(x).to_f64(),
    }
}

const BOTH: [MatmulPrecision; 2] = [MatmulPrecision::Single, MatmulPrecision::Bf16];

/// Holds the `m` x `n` elements of `c` to `start + a b`, and the rest of `c` to what it was.
fn expect(
    precision: MatmulPrecision,
    (m, n, k): (usize, usize, usize),
    a: Strided,
    b: Strided,
    start: impl Fn(usize, usize) -> f32,
    (before, c, from, row): (&[f32], &[f32], usize, usize),
) {
    let mut own = vec![false; c.len()];
    for i in 0..m {
        for j in 0..n {
            let sum: f64 = (0..k)
                .map(|p| at(precision, &a, i, p) * at(precision, &b, p, j))
                .sum();
            let (want, got) = (
                sum + f64::from(start(i, j)),
                f64::from(c[from + i * row + j]),
            );
            let bound = 1e-6 * (2.0 + k as f64).sqrt() * 20.0;
            assert!(
                (want - got).abs() < bound,
                "{m} x {n} x {k} {precision:?} at ({i}, {j}): {got}, expected {want}"
            );
            own[from + i * row + j] = true;
        }
    }
    for ((own, before), now) in own.iter().zip(before).zip(c) {
        assert!(
            *own || before == now,
            "{m} x {n} x {k} wrote beyond its part"
        );
    }
}

/// Sizes around the tiles of every instruction set, and depths of none, one and three blocks.
const SIZES: [(usize, usize, usize); 10] = [
    (1, 1, 1),
    (12, 32, 2),
    (12, 32, 5),
    (12, 32, 23),
    (13, 33, 64),
    (24, 64, 384),
    (37, 70, 100),
    (150, 130, 17),
    (6, 16, 0),
    (29, 45, 1100),
];

#[test]
fn products_are_the_sums_in_every_layout() {
    for ((m, n, k), precision) in SIZES.into_iter().flat_map(|size| BOTH.map(|f| (size, f))) {
        let (a, b) = (numbers(m * k + 1, 1), numbers(k * n + 1, 2));
        for (a, b) in [
            (Strided::rows(&a, k), Strided::rows(&b, n)),
            (Strided::transposed(&a, m), Strided::rows(&b, n)),
            (Strided::rows(&a, k), Strided::transposed(&b, k)),
            (Strided::transposed(&a, m), Strided::transposed(&b, k)),
        ] {
            let row = n + 5;
            let (before, other) = (numbers(m * row, 3), numbers(m * n, 4));
            let mut c = before.clone();
            gemm(precision, (m, n, k), a, b, to(Start::Zero, &mut c, row));
            expect(
                precision,
                (m, n, k),
                a,
                b,
                |_, _| 0.0,
                (&before, &c, 0, row),
            );
            let mut c = before.clone();
            gemm(
                precision,
                (m, n, k),
                a,
                b,
                to(Start::Accumulate, &mut c, row),
            );
            let old = |i: usize, j: usize| before[i * row + j];
            expect(precision, (m, n, k), a, b, old, (&before, &c, 0, row));
            let mut c = before.clone();
            gemm(
                precision,
                (m, n, k),
                a,
                b,
                to(Start::From(&other, n), &mut c, row),
            );
            let start = |i: usize, j: usize| other[i * n + j];
            expect(precision, (m, n, k), a, b, start, (&before, &c, 0, row));
        }
    }
}

#[test]
fn a_packed_operand_serves_products_of_fewer_rows_and_columns() {
    for ((m, n, depth), precision) in SIZES.into_iter().flat_map(|size| BOTH.map(|f| (size, f))) {
        let b = numbers(depth * n + 1, 2);
        for b in [Strided::rows(&b, n), Strided::transposed(&b, depth)] {
            let mut packed = Packed::new(precision);
            packed.pack(depth, n, b);
            for k in [0, 1, depth / 3, depth * 2 / 3, depth] {
                let k = k.min(depth);
                let a = numbers(m * k + 1, 1);
                let a = Strided::rows(&a, k);
                let (row, from) = (n + 3, 7);
                let before = numbers(m * row + from, 3);
                let mut c = before.clone();
                let target = to(Start::Accumulate, &mut c[from..], row);
                gemm_packed_to(k, m, a, &packed, target, Fetch::NOTHING);
                let old = |i: usize, j: usize| before[from + i * row + j];
                expect(precision, (m, n, k), a, b, old, (&before, &c, from, row));
                let mut c = before.clone();
                let to = Shared {
                    all: SharedMut::new(&mut c),
                    at: from,
                    row,
                };
                // SAFETY: nobody else has `c`.
                unsafe { gemm_packed_shared(k, m, a, &packed, to) };
                expect(
                    precision,
                    (m, n, k),
                    a,
                    b,
                    |_, _| 0.0,
                    (&before, &c, from, row),
                );
            }
            let a = numbers(m * depth + 1, 1);
            let a = Strided::rows(&a, depth);
            for n in [1, n / 2, n] {
                let before = numbers(m * n, 3);
                let mut c = before.clone();
                gemm_packed_columns(m, n, a, &packed, &mut c, n);
                expect(
                    precision,
                    (m, n, depth),
                    a,
                    b,
                    |_, _| 0.0,
                    (&before, &c, 0, n),
                );
            }
        }
    }
}

#[test]
fn a_part_of_a_shared_matrix_is_added_to() {
    let (m, n, k, row, from) = (25, 33, 40, 50, 9);
    let (a, b) = (numbers(m * k, 1), numbers(k * n, 2));
    let (a, b) = (Strided::transposed(&a, m), Strided::rows(&b, n));
    let before = numbers(m * row + from, 3);
    let mut c = before.clone();
    let to = Shared {
        all: SharedMut::new(&mut c),
        at: from,
        row,
    };
    // SAFETY: nobody else has `c`.
    unsafe { gemm_shared((m, n, k), a, b, true, to) };
    let old = |i: usize, j: usize| before[from + i * row + j];
    expect(
        MatmulPrecision::Single,
        (m, n, k),
        a,
        b,
        old,
        (&before, &c, from, row),
    );
}

#[test]
#[should_panic(expected = "there are not 9 x 4 of 8 x 4 packed elements")]
fn more_rows_than_were_packed_are_refused() {
    let mut packed = Packed::default();
    packed.pack(8, 4, Strided::rows(&[0.0; 32], 4));
    let a = [0.0; 9];
    let mut c = [0.0; 4];
    let (a, target) = (Strided::rows(&a, 9), to(Start::Zero, &mut c, 4));
    gemm_packed_to(9, 1, a, &packed, target, Fetch::NOTHING);
}
