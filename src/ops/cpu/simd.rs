//! One body, compiled for each instruction set and chosen at run time; and an exponential that
//! vectorises.

/// Defines `fn name(args)` whose body is compiled three times (AVX-512, AVX2 + FMA, baseline) and
/// dispatched by [`Level`](super::kernel::Level). Inside the body the constant `FMA` says whether
/// fused multiply-add is an instruction.
macro_rules! vectorised {
    (
        $(#[$meta:meta])*
        pub(crate) fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block
    ) => {
        $(#[$meta])*
        pub(crate) fn $name($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            #[allow(clippy::extra_unused_type_parameters)]
            fn body<const FMA: bool>($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma")]
                        fn avx2($($arg: $ty),*) $(-> $ret)? { body::<true>($($arg),*) }
                #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx2,fma")]
                        fn avx512($($arg: $ty),*) $(-> $ret)? { body::<true>($($arg),*) }
                match $crate::ops::cpu::kernel::Level::detect() {
                    // SAFETY: `detect` found these instructions.
                    $crate::ops::cpu::kernel::Level::Avx512 => return unsafe { avx512($($arg),*) },
                    // SAFETY: as above.
                    $crate::ops::cpu::kernel::Level::Avx2 => return unsafe { avx2($($arg),*) },
                    $crate::ops::cpu::kernel::Level::Portable => {}
                }
            }
            body::<{ cfg!(target_arch = "aarch64") }>($($arg),*)
        }
    };
}
pub(crate) use vectorised;

/// `a * b + c`, fused where that is one instruction.
#[inline(always)]
pub(crate) fn fma<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// `e^x` within 2 units in the last place; below -87.3 it is 0-ish (2^-126), above 88 it saturates
/// near the largest finite value. Range reduction by `ln 2` in two parts and a degree-6 polynomial
/// (Cephes `expf`), without branches so that loops over it vectorise.
#[inline(always)]
pub(crate) fn exp<const FMA: bool>(x: f32) -> f32 {
    let x = x.clamp(-87.336_54, 88.376_26);
    // Adding 1.5 * 2^23 rounds to the nearest integer, which then stands in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let shifted = fma::<FMA>(x, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = fma::<FMA>(n, -0.693_359_4, x);
    let r = fma::<FMA>(n, 2.121_944_4e-4, r);
    let mut p = 1.987_569_1e-4;
    p = fma::<FMA>(p, r, 1.398_2e-3);
    p = fma::<FMA>(p, r, 8.333_452e-3);
    p = fma::<FMA>(p, r, 4.166_579_6e-2);
    p = fma::<FMA>(p, r, 1.666_666_5e-1);
    p = fma::<FMA>(p, r, 0.5);
    let y = fma::<FMA>(p * r, r, r) + 1.0;
    let scale = f32::from_bits(
        (shifted
            .to_bits()
            .wrapping_sub(ROUND.to_bits())
            .wrapping_add(127))
            << 23,
    );
    y * scale
}

/// Lanes that sums are kept in: a fixed number, so that a sum's order does not depend on the
/// instruction set's width.
pub(crate) const LANES: usize = 16;

/// Sum of the lanes by halving.
#[inline(always)]
pub(crate) fn sum_lanes(lanes: [f32; LANES]) -> f32 {
    // Hidden from the compiler, which else also computes the lanes two by two because they are
    // added up so.
    let mut lanes = std::hint::black_box(lanes);
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// `sum_i a[i] b[i]`, inlined into a `vectorised!` body.
#[inline(always)]
pub(crate) fn dot_body<const FMA: bool>(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [[0.0f32; LANES]; 2];
    let (a2, b2) = (a.chunks_exact(2 * LANES), b.chunks_exact(2 * LANES));
    let (ar, br) = (a2.remainder(), b2.remainder());
    for (x, y) in a2.zip(b2) {
        for i in 0..LANES {
            lanes[0][i] = fma::<FMA>(x[i], y[i], lanes[0][i]);
            lanes[1][i] = fma::<FMA>(x[LANES + i], y[LANES + i], lanes[1][i]);
        }
    }
    let mut total = [0.0f32; LANES];
    for i in 0..LANES {
        total[i] = lanes[0][i] + lanes[1][i];
    }
    let mut sum = sum_lanes(total);
    for (x, y) in ar.iter().zip(br) {
        sum = fma::<FMA>(*x, *y, sum);
    }
    sum
}

vectorised! {
    /// `sum_i a[i] b[i]`.
    pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
        dot_body::<FMA>(a, b)
    }
}

vectorised! {
    /// `y[i] += s x[i]`.
    pub(crate) fn add_scaled(y: &mut [f32], s: f32, x: &[f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y = fma::<FMA>(s, *x, *y);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_two_ulp_over_its_range() {
        let mut worst = 0.0f64;
        for i in 0..200_000 {
            let x = -87.0 + 175.0 * i as f32 / 200_000.0;
            let want = f64::from(x).exp();
            for got in [exp::<true>(x), exp::<false>(x)] {
                worst = worst.max((f64::from(got) - want).abs() / want);
            }
        }
        assert!(
            worst < 2.0 * f64::from(f32::EPSILON),
            "relative error {worst:e}"
        );
        assert!(exp::<true>(-1e30) < 1.2e-38 && exp::<true>(1e30).is_finite());
    }

    #[test]
    fn dot_sums_every_element() {
        for n in [0, 1, 15, 16, 31, 32, 33, 64, 100] {
            let a: Vec<f32> = (0..n).map(|i| i as f32).collect();
            let b = vec![2.0; n];
            assert_eq!(dot(&a, &b), (n * n) as f32 - n as f32);
        }
    }
}
