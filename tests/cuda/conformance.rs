//! Every wrapper of `ptx.cuh` and every primitive of the simulator, each on its own, against the tables of the PTX manual and
//! of the programming guide. An error in the map of one fragment would cancel against the same error in another within a
//! matrix product; here registers are written and read as they are.

use half::{bf16, f16};
use muni_engine::ops::cuda::driver::Driver;
use muni_engine::ops::cuda::kernels;
use muni_engine::ops::cuda::memory::{DeviceBuffer, Element, Plain, Ptr, PtrMut};
use muni_engine::ops::cuda::sim_driver::SimDriver;
use std::sync::Arc;

fn driver() -> Arc<dyn Driver> {
    match std::env::var_os("MUNI_SIM_LIBRARY") {
        Some(path) => Arc::new(SimDriver::load(path.as_ref(), true).unwrap()),
        None => super::device::driver(true),
    }
}

fn buffer<T: Plain>(driver: &Arc<dyn Driver>, values: &[T]) -> DeviceBuffer<T> {
    let mut buffer = DeviceBuffer::new(driver, values.len(), true).unwrap();
    buffer.upload(values).unwrap();
    buffer
}

type MatrixProbe =
    unsafe fn(&dyn Driver, [u32; 3], u32, PtrMut<u32>, Ptr<u32>) -> anyhow::Result<()>;

/// 9.7.14.5.15: of matrix `m`, lane `l` holds row `l / 4`, columns `2 (l % 4)` and the next, the first in the lower half;
/// with `.trans` it is the element of the transposed matrix. Rows of matrix `m` are at the addresses of lanes `8 m ..`.
fn check_ldmatrix(matrices: usize, trans: bool, probe: MatrixProbe) {
    let driver = driver();
    // Each 16-bit element has a value of its own.
    let element = |m: usize, row: usize, column: usize| (m * 64 + row * 8 + column + 1) as u32;
    let mut rows = Vec::new();
    for m in 0..matrices {
        for row in 0..8 {
            for pair in 0..4 {
                rows.push(element(m, row, 2 * pair) | element(m, row, 2 * pair + 1) << 16);
            }
        }
    }
    let rows = buffer(&driver, &rows);
    let mut out = buffer(&driver, &vec![0_u32; 32 * matrices]);
    // SAFETY: the buffers are as long as the kernel's contract says.
    unsafe { probe(&*driver, [1, 1, 1], 0, out.ptr_mut(), rows.ptr()) }.unwrap();
    let out = out.download(32 * matrices).unwrap();
    for lane in 0..32 {
        for m in 0..matrices {
            let (i, j) = (lane / 4, 2 * (lane % 4));
            let at = |i: usize, j: usize| match trans {
                true => element(m, j, i),
                false => element(m, i, j),
            };
            let expected = at(i, j) | at(i, j + 1) << 16;
            assert_eq!(
                out[lane * matrices + m],
                expected,
                "x{matrices} trans {trans}: lane {lane}, register {m}"
            );
        }
    }
}

#[test]
fn ldmatrix_gives_each_lane_its_elements() {
    check_ldmatrix(1, false, kernels::probe_ldmatrix_x1);
    check_ldmatrix(2, false, kernels::probe_ldmatrix_x2);
    check_ldmatrix(4, false, kernels::probe_ldmatrix_x4);
    check_ldmatrix(1, true, kernels::probe_ldmatrix_x1_trans);
    check_ldmatrix(2, true, kernels::probe_ldmatrix_x2_trans);
    check_ldmatrix(4, true, kernels::probe_ldmatrix_x4_trans);
}

/// Row and column of A that half `h` of register `r` of lane `l` holds (9.7.14.5.8, m16n8k16).
fn place_in_a(l: usize, r: usize, h: usize) -> (usize, usize) {
    (l / 4 + 8 * (r % 2), 2 * (l % 4) + h + 8 * (r / 2))
}
fn place_in_b(l: usize, r: usize, h: usize) -> (usize, usize) {
    (2 * (l % 4) + h + 8 * r, l / 4)
}
fn place_in_c(l: usize, r: usize) -> (usize, usize) {
    (l / 4 + 8 * (r / 2), 2 * (l % 4) + r % 2)
}

/// One element of A is 1, in each of its 256 registers' halves in turn; all elements of B differ, and so do those of C. So
/// every element of the product names the row of A, the row and the column of B and the place in C that it came from.
fn check_mma<E: Element>() {
    let driver = driver();
    let b_value = |k: usize, j: usize| (8 * k + j + 1) as f32;
    let c_value = |i: usize, j: usize| (8 * i + j) as f32 / 1024.0;
    // Registers in memory: [lane][register][half].
    let mut b_registers = vec![0.0; 32 * 2 * 2];
    for (at, value) in b_registers.iter_mut().enumerate() {
        let (k, j) = place_in_b(at / 4, at / 2 % 2, at % 2);
        *value = b_value(k, j);
    }
    let c_registers: Vec<f32> = (0..32 * 4)
        .map(|at| place_in_c(at / 4, at % 4))
        .map(|(i, j)| c_value(i, j))
        .collect();
    let cases = 32 * 4 * 2;
    let mut a_registers = vec![0.0; cases * cases];
    for case in 0..cases {
        a_registers[case * cases + case] = 1.0;
    }
    let a = buffer(&driver, &E::narrow(&a_registers));
    let b = buffer(&driver, &E::narrow(&b_registers.repeat(cases)));
    let mut c = buffer(&driver, &c_registers.repeat(cases));
    // SAFETY: one block per case, and buffers of that many cases.
    unsafe {
        let grid = [cases as u32, 1, 1];
        kernels::probe_mma::<E>(&*driver, grid, 0, c.ptr_mut(), a.ptr(), b.ptr()).unwrap();
    }
    let c = c.download(cases * 128).unwrap();
    for case in 0..cases {
        let (row, k) = place_in_a(case / 8, case / 2 % 4, case % 2);
        for at in 0..128 {
            let (i, j) = place_in_c(at / 4, at % 4);
            let product = if i == row { b_value(k, j) } else { 0.0 };
            assert_eq!(
                c[case * 128 + at],
                c_value(i, j) + product,
                "{}: A[{row}][{k}] = 1, C[{i}][{j}]",
                E::NAME
            );
        }
    }
}

#[test]
fn mma_multiplies_what_its_registers_hold() {
    check_mma::<f16>();
    check_mma::<bf16>();
}

#[test]
fn cp_async_copies_fills_and_waits() {
    let driver = driver();
    let words: Vec<u32> = (0..128).map(|i| 0x0101_0101 * (i + 1)).collect();
    let from = buffer(&driver, &words);
    let mut out = buffer(&driver, &vec![0_u32; 6 * 128]);
    // SAFETY: the buffers are as long as the kernel's contract says.
    unsafe { kernels::probe_cp_async(&*driver, [1, 1, 1], 0, out.ptr_mut(), from.ptr()) }.unwrap();
    let out = out.download(6 * 128).unwrap();
    let bytes: &[u8] = bytemuck::cast_slice(&out);
    let source: &[u8] = bytemuck::cast_slice(&words);
    // (bytes taken, bytes written) of each slot; what is not written keeps 0xee.
    for lane in 0..32 {
        for (slot, (taken, written)) in [(16, 16), (0, 16), (lane % 17, 16), (8, 8), (4, 4), (0, 4)]
            .into_iter()
            .enumerate()
        {
            for byte in 0..16 {
                let expected = match byte {
                    _ if byte < taken => source[lane * 16 + byte],
                    _ if byte < written => 0,
                    _ => 0xee,
                };
                let found = bytes[(slot * 32 + lane) * 16 + byte];
                assert_eq!(found, expected, "slot {slot}, lane {lane}, byte {byte}");
            }
        }
    }
}

#[test]
fn warp_primitives_follow_the_programming_guide() {
    let driver = driver();
    let values: Vec<u32> = (0..32)
        .map(|l: u32| l.wrapping_mul(2_654_435_761) >> 20)
        .collect();
    let input = buffer(&driver, &values);
    let rows = 18;
    let mut out = buffer(&driver, &vec![0_u32; rows * 32]);
    // SAFETY: the buffers are as long as the kernel's contract says.
    unsafe { kernels::probe_warp(&*driver, [1, 1, 1], 0, out.ptr_mut(), input.ptr()) }.unwrap();
    let out = out.download(rows * 32).unwrap();
    let v = |l: usize| values[l];
    let votes = |lanes: std::ops::Range<usize>, p: &dyn Fn(u32) -> bool| -> u32 {
        lanes.map(|l| u32::from(p(v(l))) << l).sum()
    };
    for lane in 0..32 {
        let own = if lane < 16 { 0..16 } else { 16..32 };
        let xor8 = lane ^ 4;
        let expected: [u32; 18] = [
            v(5),
            v(lane / 2),
            v(lane / 8 * 8 + 3),
            v(lane ^ 1),
            v(lane ^ 17),
            v(xor8),
            v(if lane + 3 < 32 { lane + 3 } else { lane }),
            v(if lane % 16 + 3 < 16 { lane + 3 } else { lane }),
            v(if lane >= 2 { lane - 2 } else { lane }),
            v(if lane % 8 >= 2 { lane - 2 } else { lane }),
            votes(0..32, &|x| x % 3 == 0),
            1,
            u32::from((0..32).all(|l| v(l) % 2 == 0)),
            votes(0..32, &|x| x % 5 == v(lane) % 5),
            values.iter().sum(),
            *values.iter().max().unwrap(),
            votes(own.clone(), &|x| x % 2 == 0),
            own.map(v).min().unwrap(),
        ];
        for (row, expected) in expected.into_iter().enumerate() {
            assert_eq!(out[row * 32 + lane], expected, "row {row}, lane {lane}");
        }
    }
}

/// All 65,536 values widen exactly; halves, neighbours of halves, overflow, subnormal numbers and NaNs round as they should.
fn check_conversions<E: Element>(bits: impl Fn(u16) -> E, widen: impl Fn(u16) -> f32) {
    let driver = driver();
    let count = 65_536;
    let narrow: Vec<E> = (0..=u16::MAX).map(&bits).collect();
    let mut given = Vec::with_capacity(count);
    for at in 0..=u16::MAX {
        // Half-way to the next number, or just beside it, or an odd place.
        let (low, high) = (widen(at), widen(at.wrapping_add(1)));
        let middle = (f64::from(low) + f64::from(high)) as f32 / 2.0;
        given.push(match at % 4 {
            0 | 1 => middle,
            2 => f32::from_bits(middle.to_bits().wrapping_add(1)),
            _ => f32::from_bits(middle.to_bits().wrapping_sub(1)),
        });
    }
    given[..4].copy_from_slice(&[f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 1e-30]);
    let narrow_in = buffer(&driver, &narrow);
    let wide_in = buffer(&driver, &given);
    let mut wide = buffer(&driver, &vec![0.0_f32; count]);
    let mut narrowed = buffer(&driver, &vec![bits(0); count]);
    // SAFETY: all buffers hold `count` elements.
    unsafe {
        kernels::probe_convert::<E>(
            &*driver,
            [count as u32 / 128, 1, 1],
            0,
            wide.ptr_mut(),
            narrowed.ptr_mut(),
            narrow_in.ptr(),
            wide_in.ptr(),
            count as i32,
        )
    }
    .unwrap();
    let wide = wide.download(count).unwrap();
    for (at, found) in wide.iter().enumerate() {
        let expected = widen(at as u16);
        let same = found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan();
        assert!(
            same,
            "{} {at:#06x} widens to {found}, not {expected}",
            E::NAME
        );
    }
    let narrowed = E::widen(&narrowed.download(count).unwrap());
    let expected = E::widen(&E::narrow(&given));
    for ((&given, found), expected) in given.iter().zip(narrowed).zip(expected) {
        let same = found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan();
        assert!(
            same,
            "{given:e} rounds to {found} in {}, not {expected}",
            E::NAME
        );
    }
}

#[test]
fn conversions_are_exact_one_way_and_rounded_the_other() {
    check_conversions::<f16>(f16::from_bits, |bits| f16::from_bits(bits).to_f32());
    check_conversions::<bf16>(bf16::from_bits, |bits| bf16::from_bits(bits).to_f32());
}

#[test]
fn powers_of_two_are_within_two_units() {
    let driver = driver();
    let given: Vec<f32> = (0..2000).map(|i| (i as f32 - 1000.0) * 0.1237).collect();
    let input = buffer(&driver, &given);
    let mut out = buffer(&driver, &vec![0.0_f32; given.len()]);
    let count = given.len() as i32;
    // SAFETY: both buffers hold `count` elements.
    unsafe { kernels::probe_ex2(&*driver, [16, 1, 1], 0, out.ptr_mut(), input.ptr(), count) }
        .unwrap();
    for (x, y) in given.iter().zip(out.download(given.len()).unwrap()) {
        let exact = f64::from(*x).exp2();
        let unit = exact * f64::from(f32::EPSILON);
        assert!((f64::from(y) - exact).abs() <= 2.0 * unit, "2^{x} = {y}");
    }
}

#[test]
fn block_primitives_see_all_threads() {
    let driver = driver();
    let given: Vec<f32> = (0..256).map(|i| ((i * 37) % 101) as f32 - 50.0).collect();
    let input = buffer(&driver, &given);
    let mut out = buffer(&driver, &vec![0.0_f32; 512]);
    // SAFETY: the buffers are as long as the kernel's contract says.
    unsafe { kernels::probe_block(&*driver, [1, 1, 1], 0, out.ptr_mut(), input.ptr()) }.unwrap();
    let out = out.download(512).unwrap();
    let sum: f32 = given.iter().sum::<f32>() + 256.0;
    let positive = given.iter().filter(|&&x| x > 0.0).count() as f32;
    for thread in 0..256 {
        assert_eq!(out[thread], sum);
        assert_eq!(out[256 + thread], positive + 10_000.0);
    }
}

#[test]
fn reductions_are_those_of_the_shuffles() {
    let driver = driver();
    let mut given: Vec<f32> = (0..32).map(|i| ((i * 37) % 101) as f32 * 0.137).collect();
    for broken in [false, true] {
        if broken {
            (given[3], given[17]) = (f32::NAN, f32::INFINITY);
        }
        let input = buffer(&driver, &given);
        let mut out = buffer(&driver, &[0.0_f32; 128]);
        // SAFETY: the buffers are as long as the kernel's contract says.
        unsafe { kernels::probe_reduce(&*driver, [1, 1, 1], 0, out.ptr_mut(), input.ptr()) }
            .unwrap();
        let out = out.download(128).unwrap();
        let same = |a: f32, b: f32| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan();
        for lane in 0..32 {
            assert!(same(out[lane], out[32 + lane]), "lane {lane}: {out:?}");
            assert!(same(out[64 + lane], out[96 + lane]), "lane {lane}: {out:?}");
            assert_eq!(out[lane].is_nan(), broken);
        }
    }
}
