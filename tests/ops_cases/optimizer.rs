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
    let mut norm = written_single(device, 1);
    device.global_norm(&gradients, &mut norm).unwrap();
    vec![("norm", read_single(device, &norm, 1))]
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
        let mut norm = written_single(device, 1);
        let gradients = [(&sound, 40), (&broken, 2)];
        device.global_norm(&gradients, &mut norm).unwrap();
        assert!(!read_single(device, &norm, 1)[0].is_finite());
    }
}

#[test]
fn cpu_equals_reference_global_norm() {
    check_global_norm(&CpuDevice::new());
}

on_simulator!(sim_equals_reference_global_norm, check_global_norm);

const STEP: AdamStep = AdamStep {
    step: 1,
    learning_rate: 3e-4,
    beta1: 0.9,
    beta2: 0.95,
    epsilon: 1e-8,
    weight_decay: 0.1,
    max_norm: 1.0,
};

fn adamw<D: Device>(device: &D, len: usize, norm: f32, step: &AdamStep) -> Outputs {
    let mut values = Values::new(len);
    let mut weight = added(device, &values.normal(len, 1.0));
    let gradient = values.normal(len, 1.0);
    // Moments as earlier updates left them; a second moment near 0 would make one element's update the whole error.
    let first = values.normal(len, 0.1);
    let second = values.normal(len, 0.1);
    let second: Vec<f32> = second.iter().map(|v| v * v + 1e-3).collect();
    let mut state: AdamState<D> = device.adam_state(&weight, len).unwrap();
    state.first = added_single(device, &first);
    state.second = added_single(device, &second);
    device
        .adamw(
            &mut weight,
            &input(device, &gradient),
            &mut state,
            &input_single(device, &[norm]),
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
        for (norm, step) in [
            (7.0, STEP),
            (0.5, STEP),
            (
                7.0,
                AdamStep {
                    step: 1000,
                    weight_decay: 0.0,
                    max_norm: f32::INFINITY,
                    ..STEP
                },
            ),
            // A large rate, so that the update's own error is seen.
            (
                7.0,
                AdamStep {
                    step: 3,
                    learning_rate: 0.5,
                    beta2: 0.999,
                    ..STEP
                },
            ),
        ] {
            let mut found = adamw(device, len, norm, &step);
            let mut expected = adamw(&ReferenceDevice, len, norm, &step);
            // The weight may be stored in 16 bits; its master copy and the moments never are.
            let (state, expected_state) = (found.split_off(1), expected.split_off(1));
            let case = format!("{:?}", (len, norm, step));
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
        let mut state = device.adam_state(&weight, len).unwrap();
        let mut norm = written_single(device, 1);
        device.global_norm(&[(&gradient, len)], &mut norm).unwrap();
        device
            .adamw(&mut weight, &gradient, &mut state, &norm, &STEP, len)
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
