//! Steps from recordings: the same bits as steps issued one operation at a time, with batches of
//! other contents, lengths and numbers of examples, in the simulator. And padding, which makes
//! shapes come up again, changes nothing.

use super::training::{config, settings};
use half::f16;
use muni_engine::model::{Batch, Model, Parameters, random_weights};
use muni_engine::ops::cuda::driver::counting::{Counters, CountingDriver, Counts};
use muni_engine::ops::cuda::driver::simulator::SimDriver;
use muni_engine::ops::cuda::{CudaDevice, LossScaling};
use muni_engine::ops::issue;
use muni_engine::ops::{Buffer, Device, GlobalNorm, IGNORE_TARGET, Recorder, TrainingDevice};
use muni_engine::train::step::{Engine, StepResult};

const STEPS: u64 = 9;

/// Two logical batches of 37 to 64 tokens in 2 to 6 examples.
fn batches(step: u64) -> Vec<Batch> {
    let vocab = config().vocab_size as u32;
    (0..2)
        .map(|part| {
            let mut batch = Batch::new();
            let lengths: &[u32] = match (step + part) % 4 {
                0 => &[17, 1, 9, 24],
                1 => &[32, 32],
                2 => &[5, 6, 7, 8, 9, 10],
                _ => &[30, 7],
            };
            for (at, &length) in lengths.iter().enumerate() {
                let start = (step * 7 + part * 5) as u32 + at as u32 * 3;
                let token = |i: u32| (start * 8 + i * 11) % vocab;
                let tokens: Vec<u32> = (0..length).map(token).collect();
                let mut targets: Vec<u32> = (1..=length).map(token).collect();
                if at == 1 {
                    targets[0] = IGNORE_TARGET;
                }
                batch.push_segment(&tokens, &targets).unwrap();
            }
            batch
        })
        .collect()
}

fn engine<D: TrainingDevice>(device: &D) -> Engine<D> {
    let (config, weights) = (config(), random_weights(&config(), 3));
    let parameters = Parameters::upload(device, &config, &weights).unwrap();
    let model = Model::new(config, parameters).unwrap();
    Engine::new(device, model, &weights, &settings(), 1).unwrap()
}

/// What steps show, the weights after them, and what the driver was asked for from the fourth step
/// on.
fn train(recorded: bool) -> (Vec<StepResult>, Vec<Vec<f32>>, Counters) {
    let (counts, inner) = (Counts::default(), SimDriver::new(false).unwrap());
    let driver = match recorded {
        true => CountingDriver::new(inner, &counts),
        false => CountingDriver::without_recording(inner, &counts),
    };
    let device = CudaDevice::<f16>::new(driver, LossScaling::of::<f16>()).unwrap();
    let mut engine = engine(&device);
    for step in 1..=STEPS {
        if step == 4 {
            counts.take();
        }
        // A rate that differs: it is not part of what is recorded.
        let rate = 1e-3 * step as f32;
        engine.issue(&device, &batches(step), step, rate).unwrap();
    }
    let tally = counts.take();
    let results = engine.collect(&device).unwrap();
    let weights = engine
        .optimizer
        .weights(&device, &engine.model.parameters)
        .unwrap();
    (results, weights, tally)
}

#[test]
fn recorded_steps_have_the_bits_of_steps_issued_directly() {
    let (direct, direct_weights, one_by_one) = train(false);
    let (found, weights, tally) = train(true);
    let bits = |results: &[StepResult]| -> Vec<_> {
        results
            .iter()
            .map(|r| {
                (
                    r.loss.to_bits(),
                    r.router_loss.to_bits(),
                    r.grad_norm.to_bits(),
                )
            })
            .collect()
    };
    assert_eq!(bits(&found), bits(&direct));
    assert!(weights == direct_weights, "the weights differ");
    assert!(
        found
            .iter()
            .all(|r| r.grad_norm.is_finite() && r.loss > 0.0)
    );
    // The same kernels ran, most of them from recordings.
    assert_eq!(
        (tally.launches, tally.zeros),
        (one_by_one.launches, one_by_one.zeros)
    );
    assert_eq!(tally.operations, one_by_one.operations);
    assert_eq!(one_by_one.replays, 0);
    assert!(tally.replays >= 8, "{tally:?}");
    assert!(
        tally.issued * 2 < one_by_one.issued,
        "{} of {}",
        tally.issued,
        one_by_one.issued
    );
    // Nobody waited, and nothing was allocated.
    for tally in [&tally, &one_by_one] {
        let waits = (tally.downloads, tally.synchronisations, tally.uploads);
        assert_eq!((waits, tally.allocations), ((0, 0, 0), 0));
        // Per step the learning rate, and per micro-batch its inputs.
        assert_eq!(tally.staged, 3 * (STEPS - 3) as usize);
    }
}

/// A driver that keeps what it was asked to keep, and no more: a recording ends with an error where
/// its work fails.
#[test]
fn a_failed_recording_leaves_the_device_usable() {
    let driver = SimDriver::new(false).unwrap();
    let device = CudaDevice::<f16>::new(driver, LossScaling::Fixed(1.0)).unwrap();
    let mut buffer = device.zeros_single(4).unwrap();
    device.upload_single(&[1.0; 4], &mut buffer).unwrap();
    for (what, word) in [
        ("download", "copies from"),
        ("allocate", "memory is asked for"),
    ] {
        let mut work = || match what {
            "download" => device.download_single(&buffer, 1).map(|_| ()),
            _ => device.zeros_single(1).map(|_| ()),
        };
        let message = match device.record(&mut work) {
            Ok(_) => panic!("{what} was recorded"),
            Err(error) => format!("{error:#}"),
        };
        assert!(message.contains(word), "{message}");
    }
    let other = device.zeros_single(4).unwrap();
    let graph = device.record(&mut || device.copy_single(&other, 2, &mut buffer, 1));
    let graph = graph.unwrap().expect("the simulator records");
    assert_eq!(
        device.download_single(&buffer, 4).unwrap(),
        [1.0, 0.0, 0.0, 1.0]
    );
    device.upload_single(&[2.0; 4], &mut buffer).unwrap();
    assert!(device.replay(&graph).unwrap());
    assert_eq!(
        device.download_single(&buffer, 4).unwrap(),
        [2.0, 0.0, 0.0, 2.0]
    );
    let second = SimDriver::new(false).unwrap();
    let second = CudaDevice::<f16>::new(second, LossScaling::Fixed(1.0)).unwrap();
    assert!(second.replay(&graph).is_err());
}

/// Scratch memory that moved makes a recording stale, and it says so.
#[test]
fn a_recording_does_not_outlive_its_scratch_memory() {
    let driver = SimDriver::new(false).unwrap();
    let device = CudaDevice::<f16>::new(driver, LossScaling::Fixed(1.0)).unwrap();
    let norm_of = |len: usize| {
        let gradient = device.zeros_float(len).unwrap();
        let mut norm = device.zeros_single(2).unwrap();
        issue(
            &device,
            GlobalNorm {
                gradients: vec![gradient.vector(len)],
                norm: norm.vector_mut(2),
            },
        )
        .unwrap();
    };
    norm_of(100);
    let gradient = device.zeros_float(100).unwrap();
    let mut norm = device.zeros_single(2).unwrap();
    let graph = device
        .record(&mut || {
            issue(
                &device,
                GlobalNorm {
                    gradients: vec![gradient.vector(100)],
                    norm: norm.vector_mut(2),
                },
            )
        })
        .unwrap()
        .unwrap();
    assert!(device.replay(&graph).unwrap());
    // More parts than the 64 that 256 bytes hold: the scratch memory grows, and the old one is
    // given back.
    norm_of(65 * 16_384);
    assert!(!device.replay(&graph).unwrap());
}

/// The same step with and without padding: the simulator pads to 64 tokens, the CPU does not pad.
#[test]
fn padding_is_no_part_of_a_step() {
    use muni_engine::ops::cpu::CpuDevice;
    let (cpu, sim) = (CpuDevice::new(), SimDriver::new(false).unwrap());
    let sim = CudaDevice::<f16>::new(sim, LossScaling::Fixed(1024.0)).unwrap();
    let (mut expected, mut found) = (engine(&cpu), engine(&sim));
    let short: Vec<Batch> = batches(3)[..1].to_vec();
    assert!(short[0].len() < 64);
    let expected = expected.step(&cpu, &short, 1, 1e-3).unwrap();
    let found = found.step(&sim, &short, 1, 1e-3).unwrap();
    assert_eq!(found.tokens, expected.tokens);
    let close = |a: f64, b: f64, bound: f64| assert!((a / b - 1.0).abs() < bound, "{a} {b}");
    close(found.loss, expected.loss, 1e-3);
    close(found.router_loss, expected.router_loss, 1e-3);
    close(found.grad_norm.into(), expected.grad_norm.into(), 1e-2);
    // Shares are of real tokens: multiples of one in 2 layers x tokens x 2 choices.
    let routed = 4.0 * expected.tokens as f64;
    for share in &found.expert_share {
        let number = share * routed;
        assert!((number - number.round()).abs() < 1e-6, "{share}");
    }
}
