//! Checks of single instructions: every wrapper of `ptx.cuh` and every primitive of the simulator,
//! each on its own, against the tables of the PTX manual and of the programming guide. An error in
//! the map of one fragment would cancel against the same error in another within a matrix product;
//! here registers are written and read as they are. And the one check of operations that needs a
//! device of its own: the moving loss scale.
//!
//! Tests run them on the simulator, `muni-engine doctor --check-kernels` on a card.

use anyhow::{Result, ensure};
use half::{bf16, f16};
use std::sync::Arc;

use super::driver::Driver;
use super::memory::{DeviceBuffer, Element, Plain, Ptr, PtrMut};
use super::{CudaDevice, LossScaling, kernels};
use crate::ops::conformance::{CaseReport, Outcome, Precision, TestDevice, optimizer};

/// Something that a driver must do, with all its cases.
pub struct Check {
    /// `conformance/what`, or `file/what` as in the table of operations.
    pub name: &'static str,
    cases: usize,
    run: fn(&Arc<dyn Driver>, &mut CaseReport),
}

impl Check {
    /// Runs all cases; one that fails does not stop the others.
    pub fn run(&self, driver: &Arc<dyn Driver>) -> Outcome {
        Outcome::of(self.name, None, self.cases, |report| {
            (self.run)(driver, report)
        })
    }
}

const fn check(
    name: &'static str,
    cases: usize,
    run: fn(&Arc<dyn Driver>, &mut CaseReport),
) -> Check {
    Check { name, cases, run }
}

/// All of them.
pub static CHECKS: [Check; 9] = [
    check("conformance/ldmatrix", 6, check_ldmatrix),
    check("conformance/mma", 2, check_mma),
    check("conformance/cp-async", 1, check_cp_async),
    check("conformance/warp", 1, check_warp),
    check("conformance/convert", 4, check_conversions),
    check("conformance/ex2", 1, check_ex2),
    check("conformance/block", 1, check_block),
    check("conformance/reduce", 2, check_reduce),
    check("optimizer/loss-scale", 2, check_loss_scale),
];

fn buffer<T: Plain>(driver: &Arc<dyn Driver>, values: &[T]) -> Result<DeviceBuffer<T>> {
    let mut buffer = DeviceBuffer::new(driver, values.len(), true)?;
    buffer.upload(values)?;
    Ok(buffer)
}

type MatrixProbe = unsafe fn(&dyn Driver, [u32; 3], u32, PtrMut<u32>, Ptr<u32>) -> Result<()>;

/// 9.7.14.5.15: of matrix `m`, lane `l` holds row `l / 4`, columns `2 (l % 4)` and the next, the
/// first in the lower half; with `.trans` it is the element of the transposed matrix. Rows of
/// matrix `m` are at the addresses of lanes `8 m ..`.
fn ldmatrix(
    driver: &Arc<dyn Driver>,
    matrices: usize,
    trans: bool,
    probe: MatrixProbe,
) -> Result<usize> {
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
    let rows = buffer(driver, &rows)?;
    let mut out = buffer(driver, &vec![0_u32; 32 * matrices])?;
    // SAFETY: the buffers are as long as the kernel's contract says.
    unsafe { probe(&**driver, [1, 1, 1], 0, out.ptr_mut(), rows.ptr()) }?;
    let out = out.download(32 * matrices)?;
    for lane in 0..32 {
        for m in 0..matrices {
            let (i, j) = (lane / 4, 2 * (lane % 4));
            let at = |i: usize, j: usize| match trans {
                true => element(m, j, i),
                false => element(m, i, j),
            };
            let expected = at(i, j) | at(i, j + 1) << 16;
            let found = out[lane * matrices + m];
            ensure!(
                found == expected,
                "lane {lane}, register {m}: {found:#010x}, expected {expected:#010x}"
            );
        }
    }
    Ok(out.len())
}

fn check_ldmatrix(driver: &Arc<dyn Driver>, report: &mut CaseReport) {
    let probes: [(usize, bool, MatrixProbe); 6] = [
        (1, false, kernels::probe_ldmatrix_x1),
        (2, false, kernels::probe_ldmatrix_x2),
        (4, false, kernels::probe_ldmatrix_x4),
        (1, true, kernels::probe_ldmatrix_x1_trans),
        (2, true, kernels::probe_ldmatrix_x2_trans),
        (4, true, kernels::probe_ldmatrix_x4_trans),
    ];
    for (matrices, trans, probe) in probes {
        let name = format_args!("ldmatrix x{matrices}, trans: {trans}");
        report.case(name, || ldmatrix(driver, matrices, trans, probe));
    }
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

/// One element of A is 1, in each of its 256 registers' halves in turn; all elements of B differ,
/// and so do those of C. So every element of the product names the row of A, the row and the column
/// of B and the place in C that it came from.
fn mma<E: Element>(driver: &Arc<dyn Driver>) -> Result<usize> {
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
    let a = buffer(driver, &E::narrow(&a_registers))?;
    let b = buffer(driver, &E::narrow(&b_registers.repeat(cases)))?;
    let mut c = buffer(driver, &c_registers.repeat(cases))?;
    // SAFETY: one block per case, and buffers of that many cases.
    unsafe {
        let grid = [cases as u32, 1, 1];
        kernels::probe_mma::<E>(&**driver, grid, 0, c.ptr_mut(), a.ptr(), b.ptr())?;
    }
    let c = c.download(cases * 128)?;
    for case in 0..cases {
        let (row, k) = place_in_a(case / 8, case / 2 % 4, case % 2);
        for at in 0..128 {
            let (i, j) = place_in_c(at / 4, at % 4);
            let product = if i == row { b_value(k, j) } else { 0.0 };
            let (found, expected) = (c[case * 128 + at], c_value(i, j) + product);
            ensure!(
                found == expected,
                "A[{row}][{k}] = 1: C[{i}][{j}] is {found}, expected {expected}"
            );
        }
    }
    Ok(c.len())
}

fn check_mma(driver: &Arc<dyn Driver>, report: &mut CaseReport) {
    report.case("mma in fp16", || mma::<f16>(driver));
    report.case("mma in bf16", || mma::<bf16>(driver));
}

fn check_cp_async(driver: &Arc<dyn Driver>, report: &mut CaseReport) {
    report.case("cp.async copies, fills and waits", || cp_async(driver));
}

fn cp_async(driver: &Arc<dyn Driver>) -> Result<usize> {
    let words: Vec<u32> = (0..128).map(|i| 0x0101_0101 * (i + 1)).collect();
    let from = buffer(driver, &words)?;
    let mut out = buffer(driver, &vec![0_u32; 6 * 128])?;
    // SAFETY: the buffers are as long as the kernel's contract says.
    unsafe { kernels::probe_cp_async(&**driver, [1, 1, 1], 0, out.ptr_mut(), from.ptr()) }?;
    let out = out.download(6 * 128)?;
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
                ensure!(
                    found == expected,
                    "slot {slot}, lane {lane}, byte {byte}: {found:#04x}, expected {expected:#04x}"
                );
            }
        }
    }
    Ok(bytes.len())
}

fn check_warp(driver: &Arc<dyn Driver>, report: &mut CaseReport) {
    report.case("shuffles, votes, matches and reductions", || warp(driver));
}

fn warp(driver: &Arc<dyn Driver>) -> Result<usize> {
    let values: Vec<u32> = (0..32)
        .map(|l: u32| l.wrapping_mul(2_654_435_761) >> 20)
        .collect();
    let input = buffer(driver, &values)?;
    let rows = 18;
    let mut out = buffer(driver, &vec![0_u32; rows * 32])?;
    // SAFETY: the buffers are as long as the kernel's contract says.
    unsafe { kernels::probe_warp(&**driver, [1, 1, 1], 0, out.ptr_mut(), input.ptr()) }?;
    let out = out.download(rows * 32)?;
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
            values.iter().copied().fold(0, u32::max),
            votes(own.clone(), &|x| x % 2 == 0),
            own.map(v).fold(u32::MAX, u32::min),
        ];
        for (row, expected) in expected.into_iter().enumerate() {
            let found = out[row * 32 + lane];
            ensure!(
                found == expected,
                "row {row}, lane {lane}: {found}, expected {expected}"
            );
        }
    }
    Ok(out.len())
}

/// All 65,536 values widen exactly; halves, neighbours of halves, overflow, subnormal numbers and
/// NaNs round as they should.
fn check_conversions(driver: &Arc<dyn Driver>, report: &mut CaseReport) {
    conversions::<f16>(driver, report, f16::from_bits, |bits| {
        f16::from_bits(bits).to_f32()
    });
    conversions::<bf16>(driver, report, bf16::from_bits, |bits| {
        bf16::from_bits(bits).to_f32()
    });
}

fn conversions<E: Element>(
    driver: &Arc<dyn Driver>,
    report: &mut CaseReport,
    bits: impl Fn(u16) -> E,
    widen: impl Fn(u16) -> f32,
) {
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
    let both = || -> Result<(Vec<f32>, Vec<E>)> {
        let narrow_in = buffer(driver, &narrow)?;
        let wide_in = buffer(driver, &given)?;
        let mut wide = buffer(driver, &vec![0.0_f32; count])?;
        let mut narrowed = buffer(driver, &vec![bits(0); count])?;
        // SAFETY: all buffers hold `count` elements.
        unsafe {
            kernels::probe_convert::<E>(
                &**driver,
                [count as u32 / 128, 1, 1],
                0,
                wide.ptr_mut(),
                narrowed.ptr_mut(),
                narrow_in.ptr(),
                wide_in.ptr(),
                count as i32,
            )
        }?;
        Ok((wide.download(count)?, narrowed.download(count)?))
    };
    let same = |a: f32, b: f32| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan();
    report.case(format_args!("{} to fp32", E::NAME), || {
        let (wide, _) = both()?;
        for (at, &found) in wide.iter().enumerate() {
            let expected = widen(at as u16);
            ensure!(
                same(found, expected),
                "{at:#06x} widens to {found}, not {expected}"
            );
        }
        Ok(wide.len())
    });
    report.case(format_args!("fp32 to {}", E::NAME), || {
        let (_, narrowed) = both()?;
        let expected = E::widen(&E::narrow(&given));
        for ((given, found), expected) in given.iter().zip(E::widen(&narrowed)).zip(expected) {
            ensure!(
                same(found, expected),
                "{given:e} rounds to {found}, not {expected}"
            );
        }
        Ok(narrowed.len())
    });
}

fn check_ex2(driver: &Arc<dyn Driver>, report: &mut CaseReport) {
    report.case("powers of two are within two units", || ex2(driver));
}

fn ex2(driver: &Arc<dyn Driver>) -> Result<usize> {
    let given: Vec<f32> = (0..2000).map(|i| (i as f32 - 1000.0) * 0.1237).collect();
    let input = buffer(driver, &given)?;
    let mut out = buffer(driver, &vec![0.0_f32; given.len()])?;
    let count = given.len() as i32;
    // SAFETY: both buffers hold `count` elements.
    unsafe { kernels::probe_ex2(&**driver, [16, 1, 1], 0, out.ptr_mut(), input.ptr(), count) }?;
    let out = out.download(given.len())?;
    for (x, &y) in given.iter().zip(&out) {
        let exact = f64::from(*x).exp2();
        let unit = exact * f64::from(f32::EPSILON);
        ensure!((f64::from(y) - exact).abs() <= 2.0 * unit, "2^{x} = {y}");
    }
    Ok(out.len())
}

fn check_block(driver: &Arc<dyn Driver>, report: &mut CaseReport) {
    report.case("block primitives see all threads", || block(driver));
}

fn block(driver: &Arc<dyn Driver>) -> Result<usize> {
    let given: Vec<f32> = (0..256).map(|i| ((i * 37) % 101) as f32 - 50.0).collect();
    let input = buffer(driver, &given)?;
    let mut out = buffer(driver, &vec![0.0_f32; 512])?;
    // SAFETY: the buffers are as long as the kernel's contract says.
    unsafe { kernels::probe_block(&**driver, [1, 1, 1], 0, out.ptr_mut(), input.ptr()) }?;
    let out = out.download(512)?;
    let sum: f32 = given.iter().sum::<f32>() + 256.0;
    let positive = given.iter().filter(|&&x| x > 0.0).count() as f32;
    for thread in 0..256 {
        let (found, expected) = ([out[thread], out[256 + thread]], [sum, positive + 10_000.0]);
        ensure!(
            found == expected,
            "thread {thread}: {found:?}, expected {expected:?}"
        );
    }
    Ok(out.len())
}

fn check_reduce(driver: &Arc<dyn Driver>, report: &mut CaseReport) {
    let sound: Vec<f32> = (0..32).map(|i| ((i * 37) % 101) as f32 * 0.137).collect();
    let mut broken = sound.clone();
    (broken[3], broken[17]) = (f32::NAN, f32::INFINITY);
    report.case("reductions are those of the shuffles", || {
        reduce(driver, &sound, false)
    });
    report.case("reductions of a NaN", || reduce(driver, &broken, true));
}

fn reduce(driver: &Arc<dyn Driver>, given: &[f32], broken: bool) -> Result<usize> {
    let input = buffer(driver, given)?;
    let mut out = buffer(driver, &[0.0_f32; 128])?;
    // SAFETY: the buffers are as long as the kernel's contract says.
    unsafe { kernels::probe_reduce(&**driver, [1, 1, 1], 0, out.ptr_mut(), input.ptr()) }?;
    let out = out.download(128)?;
    let same = |a: f32, b: f32| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan();
    // Two that do nothing would be equal too.
    let most = given.iter().copied().fold(0.0, f32::max);
    ensure!(
        broken || out[64..].iter().all(|&found| found == most),
        "{:?} are not all the greatest, {most}",
        &out[64..]
    );
    for lane in 0..32 {
        for (one, other) in [(lane, 32 + lane), (64 + lane, 96 + lane)] {
            let (one, other) = (out[one], out[other]);
            ensure!(same(one, other), "lane {lane}: {one} and {other}");
        }
        let found = out[lane];
        ensure!(found.is_nan() == broken, "lane {lane}: {found}");
    }
    Ok(out.len())
}

fn check_loss_scale(driver: &Arc<dyn Driver>, report: &mut CaseReport) {
    let scaling = LossScaling::Dynamic {
        initial: 1024.0,
        growth_interval: 2,
    };
    match CudaDevice::<f16>::on(driver.clone(), scaling) {
        Ok(device) => {
            optimizer::check_loss_scale(TestDevice::new(&device, Precision::Half), report)
        }
        Err(error) => report.case("a device with a loss scale", || Err(error)),
    }
}
