//! Global norm and AdamW.

use super::*;
use muni_engine::ops::cpu::CpuDevice;
use muni_engine::ops::{AdamState, AdamStep};

/// Lengths on both sides of the CPU's chunk of 65,536.
const LENGTHS: [usize; 8] = [1, 3, 17, 65, 4097, 65_536, 65_537, 200_003];

/// Norm of several gradients, the first of `scale`.
pub fn global_norm<D: Device>(device: &D, lengths: &[usize], scale: f32) -> Outputs {
    let mut values = Values::new(lengths.len());
    let gradients: Vec<D::Float> = lengths
        .iter()
        .enumerate()
        .map(|(i, &len)| {
            input(
                device,
                &values.normal(len, if i == 0 { scale } else { 1.0 }),
            )
        })
        .collect();
    let gradients: Vec<(&D::Float, usize)> =
        gradients.iter().zip(lengths.iter().copied()).collect();
    let mut norm = added_single(device, &[0.0, 41.0]);
    device.global_norm(&gradients, &mut norm).unwrap();
    let both = read_single(device, &norm, 2);
    assert_eq!(both[1], 42.0);
    vec![("norm", both[..1].to_vec())]
}

fn check_global_norm<D: Device>(device: &D) {
    let cases: [&[usize]; 4] = [&[1], &[17, 1, 65], &LENGTHS, &[200_003, 70_000]];
    for lengths in cases {
        // fp16 goes from 6e-8 to 65504.
        for scale in by_precision([1.0, 1e-12, 1e12], [1.0, 1e-4, 1e3]) {
            let case = (lengths, scale);
            same_as_reference!("global_norm", case, global_norm, device, lengths, scale);
        }
    }
    for broken in [f32::NAN, f32::INFINITY] {
        let (sound, broken) = (input(device, &[1.0; 40]), input(device, &[1.0, broken]));
        let mut norm = added_single(device, &[0.0, 41.0]);
        let gradients = [(&sound, 40), (&broken, 2)];
        device.global_norm(&gradients, &mut norm).unwrap();
        let found = read_single(device, &norm, 2);
        assert!(!found[0].is_finite() && found[1] == 41.0, "{found:?}");
    }
}

#[test]
fn cpu_equals_reference_global_norm() {
    check_global_norm(&CpuDevice::new());
}

on_simulator!(sim_equals_reference_global_norm, check_global_norm);

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

fn adamw<D: Device>(
    device: &D,
    len: usize,
    norm: f32,
    (number, rate): When,
    step: &AdamStep,
) -> Outputs {
    let mut values = Values::new(len);
    let start = rounded(&values.normal(len, 1.0));
    let mut weight = added(device, &start);
    let gradient = values.normal(len, 1.0);
    // Moments as earlier updates left them; a second moment near 0 would make one element's update the whole error.
    let first = values.normal(len, 0.1);
    let second = values.normal(len, 0.1);
    let second: Vec<f32> = second.iter().map(|v| v * v + 1e-3).collect();
    let mut state: AdamState<D> = device.adam_state(&start).unwrap();
    state.first = added_single(device, &first);
    state.second = added_single(device, &second);
    device
        .adamw(
            &mut weight,
            &input(device, &gradient),
            &mut state,
            &input_single(device, &[norm, number]),
            &input_single(device, &[rate]),
            step,
            len,
        )
        .unwrap();
    let weight = read(device, &weight, len);
    let master = match &state.master {
        Some(master) => device.download_single(master, len).unwrap(),
        None => weight.clone(),
    };
    vec![
        ("weight", weight),
        ("master", master),
        ("first", read_single(device, &state.first, len)),
        ("second", read_single(device, &state.second, len)),
    ]
}

fn check_adamw<D: Device>(device: &D) {
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
            let mut found = adamw(device, len, norm, when, &step);
            let mut expected = adamw(&ReferenceDevice, len, norm, when, &step);
            // The weight may be stored in 16 bits; its master copy and the moments never are.
            let (state, expected_state) = (found.split_off(1), expected.split_off(1));
            let case = format!("{:?}", (len, norm, when, step));
            compare("adamw", &case, &found, &expected);
            compare("adamw, state", &case, &state, &expected_state);
        }
    }
}

#[test]
fn cpu_equals_reference_adamw() {
    check_adamw(&CpuDevice::new());
}

on_simulator!(sim_equals_reference_adamw, check_adamw);

/// A norm that is not finite leaves weights and moments bit by bit as they were.
fn check_broken_norm<D: Device>(device: &D) {
    let len = 70_000;
    let mut gradient = Values::new(1).normal(len, 1.0);
    gradient[66_000] = f32::NAN;
    for broken in [f32::NAN, f32::INFINITY] {
        gradient[66_000] = broken;
        let before = rounded(&Values::new(2).normal(len, 1.0));
        let (mut weight, gradient) = (added(device, &before), input(device, &gradient));
        let mut state = device.adam_state(&before).unwrap();
        let mut norm = added_single(device, &[0.0, 0.0]);
        device.global_norm(&[(&gradient, len)], &mut norm).unwrap();
        let rate = input_single(device, &[FIRST.1]);
        device
            .adamw(&mut weight, &gradient, &mut state, &norm, &rate, &STEP, len)
            .unwrap();
        assert_eq!(read(device, &weight, len), before);
        for moment in [&state.first, &state.second] {
            let moment = device.download_single(moment, len).unwrap();
            assert!(moment.iter().all(|&value| value == 0.0));
        }
    }
}

#[test]
fn cpu_adamw_refuses_a_broken_norm() {
    check_broken_norm(&CpuDevice::new());
    check_broken_norm(&ReferenceDevice);
}

on_simulator!(sim_adamw_refuses_a_broken_norm, check_broken_norm);

/// Norms of `gradient` times a loss scale that begins at 1024 and doubles after two sound norms; AdamW right after the norm at
/// which it doubles, and after one that is not finite.
#[test]
fn sim_loss_scale_follows_the_norms() {
    with_precision(Precision::Half, || {
        let scaling = LossScaling::Dynamic {
            initial: 1024.0,
            growth_interval: 2,
        };
        let device = CudaDevice::<f16>::new(SimDriver::new(true).unwrap(), scaling).unwrap();
        let len = 65;
        let values = rounded(&Values::new(4).normal(len, 1.0));
        let scaled: Vec<f32> = values.iter().map(|value| value * 1024.0).collect();
        let (sound, broken) = (
            input(&device, &scaled),
            input(&device, &[f32::INFINITY; 65]),
        );
        let mut norm = added_single(&device, &[0.0, 0.0]);
        let mut norm_of = |gradient| {
            device.global_norm(&[(gradient, len)], &mut norm).unwrap();
            read_single(&device, &norm, 2)[0]
        };

        let first = norm_of(&sound);
        let expected = values
            .iter()
            .map(|&v| f64::from(v).powi(2))
            .sum::<f64>()
            .sqrt();
        assert!(
            (f64::from(first) / expected - 1.0).abs() < 5e-7,
            "{first} {expected}"
        );
        assert_eq!(norm_of(&sound), first, "one sound norm changes nothing");
        // The scale is 2048 by now, but these gradients were made with 1024.
        let before = rounded(&Values::new(5).normal(len, 1.0));
        let mut weight = added(&device, &before);
        let mut state = device.adam_state(&before).unwrap();
        let first_norm = input_single(&device, &[first, FIRST.0]);
        let rate = input_single(&device, &[FIRST.1]);
        device
            .adamw(
                &mut weight,
                &sound,
                &mut state,
                &first_norm,
                &rate,
                &STEP,
                len,
            )
            .unwrap();
        let mut twin = added(&ReferenceDevice, &before);
        let mut twin_state = ReferenceDevice.adam_state(&before).unwrap();
        let gradient = input(&ReferenceDevice, &values);
        ReferenceDevice
            .adamw(
                &mut twin,
                &gradient,
                &mut twin_state,
                &vec![first, FIRST.0],
                &vec![FIRST.1],
                &STEP,
                len,
            )
            .unwrap();
        let moments = device.download_single(&state.first, len).unwrap();
        compare(
            "adamw, state",
            "scaled by 1024",
            &vec![("first", moments)],
            &vec![("first", twin_state.first[..len].to_vec())],
        );

        assert_eq!(
            norm_of(&sound) * 2.0,
            first,
            "after two sound norms the scale is 2048"
        );
        assert!(!norm_of(&broken).is_finite());
        assert_eq!(
            norm_of(&sound),
            first,
            "after a broken norm the scale is 1024 again"
        );
        assert_eq!(norm_of(&sound), first, "growth starts over");
        assert_eq!(norm_of(&sound) * 2.0, first, "and comes again");
    });
}
