//! Global norm and AdamW.

use anyhow::{Context, Result, ensure};

use super::{CaseReport, Outputs, TestDevice, Values, same_as_reference};
use crate::ops::reference::ReferenceDevice;
use crate::ops::{AdamStep, AdamW, Buffer, GlobalNorm, Operations, issue};

/// Lengths on both sides of the CPU's chunks of 16,384 and 65,536.
const LENGTHS: [usize; 9] = [1, 3, 17, 65, 4097, 16_385, 65_536, 65_537, 200_003];

/// Norm of several gradients, the first of `scale`.
///
/// # Errors
/// When the device fails, or writes behind an output.
pub fn global_norm<D: Operations>(
    test: TestDevice<'_, D>,
    lengths: &[usize],
    scale: f32,
) -> Result<Outputs> {
    let mut values = Values::new(lengths.len());
    let scales = [scale].into_iter().chain(std::iter::repeat(1.0));
    let gradients = lengths.iter().zip(scales);
    let gradients: Vec<D::Float> = gradients
        .map(|(&len, scale)| test.input(&values.normal(len, scale)))
        .collect::<Result<_>>()?;
    let gradients: Vec<(&D::Float, usize)> =
        gradients.iter().zip(lengths.iter().copied()).collect();
    let mut norm = test.added_single(&[0.0, 41.0])?;
    issue(
        test.device,
        GlobalNorm {
            gradients: gradients
                .iter()
                .map(|&(gradient, len)| gradient.vector(len))
                .collect(),
            norm: norm.vector_mut(2),
        },
    )?;
    let both = test.read_single(&norm, 2)?;
    ensure!(both[1] == 42.0, "41 updates and one more are {}", both[1]);
    Ok(vec![("norm", both[..1].to_vec())])
}

pub(super) fn check_global_norm<D: Operations>(test: TestDevice<'_, D>, report: &mut CaseReport) {
    let cases: [&[usize]; 4] = [&[1], &[17, 1, 65], &LENGTHS, &[200_003, 70_000]];
    for lengths in cases {
        // fp16 goes from 6e-8 to 65504.
        for scale in test.precision.choose([1.0, 1e-12, 1e12], [1.0, 1e-4, 1e3]) {
            let case = (lengths, scale);
            same_as_reference!(
                report,
                test,
                "global_norm",
                case,
                global_norm,
                lengths,
                scale
            );
        }
    }
    for broken in [f32::NAN, f32::INFINITY] {
        report.case(
            format_args!("global_norm of a gradient with {broken}"),
            || {
                let (sound, broken) = (test.input(&[1.0; 40])?, test.input(&[1.0, broken])?);
                let mut norm = test.added_single(&[0.0, 41.0])?;
                let gradients = [(&sound, 40), (&broken, 2)];
                issue(
                    test.device,
                    GlobalNorm {
                        gradients: gradients
                            .iter()
                            .map(|&(gradient, len)| gradient.vector(len))
                            .collect(),
                        norm: norm.vector_mut(2),
                    },
                )?;
                let found = test.read_single(&norm, 2)?;
                let shown = !found[0].is_finite() && found[1] == 41.0;
                ensure!(shown, "norm and number of updates are {found:?}");
                Ok(found.len())
            },
        );
    }
}

/// Number of the update and learning rate.
type When = (f32, f32);

const FIRST: When = (1.0, 3e-4);
const STEP: AdamStep = AdamStep {
    beta1: 0.9,
    beta2: 0.95,
    epsilon: 1e-8,
    weight_decay: 0.1,
    max_norm: 1.0,
};

fn adamw<D: Operations>(
    test: TestDevice<'_, D>,
    len: usize,
    norm: f32,
    (number, rate): When,
    step: &AdamStep,
) -> Result<Outputs> {
    let mut values = Values::new(len);
    let start = test.rounded(&values.normal(len, 1.0));
    let mut weight = test.added(&start)?;
    let mut gradient = test.added(&values.normal(len, 1.0))?;
    // Moments as earlier updates left them; a second moment near 0 would make one element's update
    // the whole error.
    let first = values.normal(len, 0.1);
    let second = values.normal(len, 0.1);
    let second: Vec<f32> = second.iter().map(|v| v * v + 1e-3).collect();
    let mut state = test.device.adam_state(&start)?;
    state.first = test.added_single(&first)?;
    state.second = test.added_single(&second)?;
    issue(
        test.device,
        AdamW {
            weight: weight.vector_mut(len),
            gradient: gradient.vector_mut(len),
            state: &mut state,
            norm: test.input_single(&[norm, number])?.vector(2),
            rate: test.input_single(&[rate])?.vector(1),
            step: *step,
        },
    )?;
    let weight = test.read(&weight, len)?;
    let master = match &state.master {
        Some(master) => test.device.download_single(master, len)?,
        None => weight.clone(),
    };
    Ok(vec![
        ("weight", weight),
        ("master", master),
        ("first", test.read_single(&state.first, len)?),
        ("second", test.read_single(&state.second, len)?),
        ("gradient", test.read(&gradient, len)?),
    ])
}

pub(super) fn check_adamw<D: Operations>(test: TestDevice<'_, D>, report: &mut CaseReport) {
    for len in LENGTHS {
        for (norm, when, step) in [
            (7.0, FIRST, STEP),
            (0.5, FIRST, STEP),
            (
                7.0,
                (1000.0, 3e-4),
                AdamStep {
                    weight_decay: 0.0,
                    max_norm: f32::INFINITY,
                    ..STEP
                },
            ),
            // A large rate, so that the update's own error is seen.
            (
                7.0,
                (3.0, 0.5),
                AdamStep {
                    beta2: 0.999,
                    ..STEP
                },
            ),
        ] {
            let case = (len, norm, when, step);
            let mut states = None;
            report.compare(test.precision, "adamw", case, || {
                let mut found = adamw(test, len, norm, when, &step)?;
                let mut expected = adamw(test.reference(), len, norm, when, &step)?;
                // The weight may be stored in 16 bits; its master copy and the moments never are.
                states = Some((found.split_off(1), expected.split_off(1)));
                Ok((found, expected))
            });
            report.compare(test.precision, "adamw, state", case, || {
                states.context("adamw gave no state")
            });
        }
    }
}

/// A norm that is not finite leaves weights and moments bit by bit as they were.
pub(super) fn check_broken_norm<D: Operations>(test: TestDevice<'_, D>, report: &mut CaseReport) {
    for broken in [f32::NAN, f32::INFINITY] {
        report.case(format_args!("adamw after a gradient with {broken}"), || {
            let len = 70_000;
            let mut gradient = Values::new(1).normal(len, 1.0);
            gradient[66_000] = broken;
            let before = test.rounded(&Values::new(2).normal(len, 1.0));
            let (mut weight, mut gradient) = (test.added(&before)?, test.added(&gradient)?);
            let mut state = test.device.adam_state(&before)?;
            let mut norm = test.added_single(&[0.0, 0.0])?;
            issue(
                test.device,
                GlobalNorm {
                    gradients: vec![gradient.vector(len)],
                    norm: norm.vector_mut(2),
                },
            )?;
            let rate = test.input_single(&[FIRST.1])?;
            issue(
                test.device,
                AdamW {
                    weight: weight.vector_mut(len),
                    gradient: gradient.vector_mut(len),
                    state: &mut state,
                    norm: norm.vector(2),
                    rate: rate.vector(1),
                    step: STEP,
                },
            )?;
            ensure!(test.read(&weight, len)? == before, "the weight changed");
            let cleared = test.read(&gradient, len)?.iter().all(|&value| value == 0.0);
            ensure!(cleared, "the gradient is not zero");
            for moment in [&state.first, &state.second] {
                let moment = test.device.download_single(moment, len)?;
                ensure!(moment.iter().all(|&value| value == 0.0), "a moment changed");
            }
            Ok(4 * len)
        });
    }
}

/// Norms of a gradient times a loss scale that begins at 1024 and doubles after two sound norms;
/// AdamW right after the norm at which it doubles, and after one that is not finite. For a device
/// with such a scale.
pub(crate) fn check_loss_scale<D: Operations>(test: TestDevice<'_, D>, report: &mut CaseReport) {
    let mut moments = None;
    report.case("global_norm: a loss scale of 1024", || {
        let (compared, both) = follow_loss_scale(test)?;
        moments = Some(both);
        Ok(compared)
    });
    report.compare(test.precision, "adamw, state", "scaled by 1024", || {
        moments.context("adamw gave no moments")
    });
}

/// Number of norms that were as they must be; the moment after the scale doubled, and what the
/// reference has.
fn follow_loss_scale<D: Operations>(
    test: TestDevice<'_, D>,
) -> Result<(usize, (Outputs, Outputs))> {
    let len = 65;
    let values = test.rounded(&Values::new(4).normal(len, 1.0));
    let scaled: Vec<f32> = values.iter().map(|value| value * 1024.0).collect();
    let (sound, broken) = (test.input(&scaled)?, test.input(&[f32::INFINITY; 65])?);
    let mut norm = test.added_single(&[0.0, 0.0])?;
    let mut compared = 0;
    let mut norm_of = |gradient: &D::Float| -> Result<f32> {
        compared += 1;
        issue(
            test.device,
            GlobalNorm {
                gradients: vec![gradient.vector(len)],
                norm: norm.vector_mut(2),
            },
        )?;
        Ok(test.read_single(&norm, 2)?[0])
    };

    let first = norm_of(&sound)?;
    let squares: f64 = values.iter().map(|&v| f64::from(v).powi(2)).sum();
    let expected = squares.sqrt();
    let error = (f64::from(first) / expected - 1.0).abs();
    ensure!(error < 5e-7, "the norm is {first}, not {expected}");
    ensure!(
        norm_of(&sound)? == first,
        "one sound norm changed the scale"
    );
    // The scale is 2048 by now, but these gradients were made with 1024.
    let before = test.rounded(&Values::new(5).normal(len, 1.0));
    let moment = first_moment(test, &before, &scaled, first)?;
    let twin = TestDevice::new(&ReferenceDevice, test.precision);
    let moments = (
        vec![("first", moment)],
        vec![("first", first_moment(twin, &before, &values, first)?)],
    );

    let doubled = norm_of(&sound)? * 2.0;
    ensure!(
        doubled == first,
        "after two sound norms the scale is not 2048"
    );
    let overflowed = norm_of(&broken)?;
    ensure!(
        !overflowed.is_finite(),
        "the norm of infinities is {overflowed}"
    );
    let halved = norm_of(&sound)?;
    ensure!(
        halved == first,
        "after a broken norm the scale is not 1024 again"
    );
    ensure!(norm_of(&sound)? == first, "growth did not start over");
    ensure!(norm_of(&sound)? * 2.0 == first, "growth did not come again");
    Ok((compared, moments))
}

/// The first moment after the first update with a gradient of this norm.
fn first_moment<D: Operations>(
    test: TestDevice<'_, D>,
    before: &[f32],
    gradient: &[f32],
    norm: f32,
) -> Result<Vec<f32>> {
    let len = before.len();
    let mut gradient = test.added(gradient)?;
    let mut weight = test.added(before)?;
    let mut state = test.device.adam_state(before)?;
    let norm = test.input_single(&[norm, FIRST.0])?;
    let rate = test.input_single(&[FIRST.1])?;
    issue(
        test.device,
        AdamW {
            weight: weight.vector_mut(len),
            gradient: gradient.vector_mut(len),
            state: &mut state,
            norm: norm.vector(2),
            rate: rate.vector(1),
            step: STEP,
        },
    )?;
    test.device.download_single(&state.first, len)
}
