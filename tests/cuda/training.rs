//! Whole training steps on the simulator, beside the CPU: the loss curve over 50 steps, an overflow
//! on the way, and two steps with every launch checked.

use muni_engine::model::{Batch, Model, ModelConfig, Parameters, random_weights};
use muni_engine::ops::cpu::{CpuDevice, MatmulPrecision};
use muni_engine::ops::cuda::memory::Element;
use muni_engine::ops::cuda::{CudaDevice, LossScaling};
use muni_engine::ops::{IGNORE_TARGET, LossScaler, TrainingDevice};
use muni_engine::train::step::Engine;
use muni_engine::train::{Stage, TrainSettings};

const STEPS: u64 = 50;

pub(super) fn config() -> ModelConfig {
    ModelConfig {
        vocab_size: 331,
        hidden_size: 48,
        intermediate_size: 40,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 16,
        num_local_experts: 4,
        max_position_embeddings: 32,
        bos_token_id: None,
        eos_token_id: None,
        ..ModelConfig::default_47m()
    }
}

pub(super) fn settings() -> TrainSettings {
    TrainSettings {
        batch_size: 2,
        gradient_accumulation_steps: 2,
        max_length: 32,
        ..TrainSettings::preset(Stage::Super)
    }
}

/// Two logical batches of packed examples of uneven length, one of a single token: each continues
/// by a rule that can be learned.
pub(super) fn batches(step: u64) -> Vec<Batch> {
    let vocab = config().vocab_size as u32;
    (0..2)
        .map(|part| {
            let mut batch = Batch::new();
            for (at, length) in [17_u32, 1, 9, 24].into_iter().enumerate() {
                let start = (step as u32 * 7 + part * 5 + at as u32 * 3) % 40;
                let token = |i: u32| (start * 8 + i * 11) % vocab;
                let tokens: Vec<u32> = (0..length).map(token).collect();
                let mut targets: Vec<u32> = (1..=length).map(token).collect();
                if at == 2 {
                    targets[..4].fill(IGNORE_TARGET);
                }
                batch.push_segment(&tokens, &targets).unwrap();
            }
            batch
        })
        .collect()
}

fn engine<D: TrainingDevice>(device: &D) -> Engine<D> {
    let config = config();
    let weights = random_weights(&config, 3);
    let parameters = Parameters::upload(device, &config, &weights).unwrap();
    let model = Model::new(config, parameters).unwrap();
    Engine::new(device, model, &weights, &settings(), 1).unwrap()
}

/// Losses of the first steps.
fn losses<D: TrainingDevice>(device: &D, steps: u64) -> Vec<f64> {
    let mut engine = engine(device);
    (1..=steps)
        .map(|step| {
            let result = engine.step(device, &batches(step), step, 3e-3).unwrap();
            assert!(result.grad_norm.is_finite(), "step {step}");
            result.loss
        })
        .collect()
}

fn simulator<E: Element>(verify: bool, scaling: LossScaling) -> CudaDevice<E> {
    CudaDevice::on(super::device::driver(verify), scaling).unwrap()
}

/// Largest difference of two curves, relative to the second.
fn largest_difference(found: &[f64], expected: &[f64]) -> f64 {
    let differences = found.iter().zip(expected).map(|(a, b)| (a / b - 1.0).abs());
    differences.fold(0.0, f64::max)
}

/// Largest relative difference of a step's loss from the CPU's over the 50 steps; docs/numerics.md
/// has what was measured.
const FP16_CURVE: f64 = 4e-3;
const BF16_CURVE: f64 = 6e-3;

#[test]
fn fifty_steps_follow_the_cpus_loss_curve() {
    let cpu = losses(&CpuDevice::new(), STEPS);
    assert!(
        cpu[49] < 0.6 * cpu[0],
        "the CPU learns nothing here: {} to {}",
        cpu[0],
        cpu[49]
    );
    let fp16 = losses(
        &simulator::<half::f16>(false, LossScaling::of::<half::f16>()),
        STEPS,
    );
    let bf16 = losses(
        &simulator::<half::bf16>(false, LossScaling::of::<half::bf16>()),
        STEPS,
    );
    let (fp16, bf16) = (
        largest_difference(&fp16, &cpu),
        largest_difference(&bf16, &cpu),
    );
    println!(
        "loss {} to {}, largest difference {fp16:.1e} in fp16, {bf16:.1e} in bf16",
        cpu[0], cpu[49]
    );
    assert!(fp16 <= FP16_CURVE, "fp16: {fp16:.1e}");
    assert!(bf16 <= BF16_CURVE, "bf16: {bf16:.1e}");
}

#[test]
fn the_cpus_bf16_products_follow_its_own_loss_curve() {
    let single = losses(&CpuDevice::new(), STEPS);
    let rounded = losses(&CpuDevice::with_precision(MatmulPrecision::Bf16), STEPS);
    let difference = largest_difference(&rounded, &single);
    println!("largest difference {difference:.1e}");
    // Without any the products would not have been rounded.
    assert!(
        difference > 0.0 && difference <= BF16_CURVE,
        "{difference:.1e}"
    );
}

#[test]
fn the_same_steps_give_the_same_bits_under_every_schedule() {
    let scaling = LossScaling::of::<half::f16>();
    let fast = losses(&simulator::<half::f16>(false, scaling), 2);
    let checked = losses(&simulator::<half::f16>(true, scaling), 2);
    let bits = |values: &[f64]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&fast), bits(&checked));
}

#[test]
fn an_overflow_skips_the_step_and_halves_the_scale() {
    let device = simulator::<half::f16>(
        false,
        LossScaling::Dynamic {
            initial: 16_777_216.0,
            growth_interval: 4,
        },
    );
    let mut engine = engine(&device);
    let weights = |engine: &Engine<_>| {
        engine
            .optimizer
            .weights(&device, &engine.model.parameters)
            .unwrap()
    };
    let scale = || device.loss_scale().unwrap().unwrap();
    let mut before = weights(&engine);
    let (mut skipped, mut doubled, mut updates) = (0, 0, 0);
    for step in 1..=24 {
        let earlier = scale();
        let result = engine.step(&device, &batches(step), step, 3e-3).unwrap();
        let (now, after) = (scale(), weights(&engine));
        updates += u64::from(result.grad_norm.is_finite());
        // Only real updates count for Adam's bias correction.
        assert_eq!(engine.optimizer.updates(&device).unwrap(), updates);
        assert!(result.loss.is_finite(), "step {step}");
        if result.grad_norm.is_finite() {
            assert_ne!(after, before, "step {step} changed nothing");
            doubled += u32::from(now.scale == 2.0 * earlier.scale && now.good_steps == 0);
        } else {
            assert_eq!(after, before, "step {step} was to be skipped");
            assert_eq!((now.scale, now.good_steps), (earlier.scale / 2.0, 0));
            skipped += 1;
        }
        before = after;
    }
    assert!(
        skipped > 0 && doubled > 0,
        "{skipped} skipped, {doubled} doubled"
    );
}

/// The first real update after skipped steps has Adam's first bias correction: with zeroed moments
/// it moves every weight by the learning rate times `g / (|g| + epsilon)`. Counted as a later
/// update, it would move them by another amount.
#[test]
fn skipped_steps_are_no_updates_to_adam() {
    let scaling = LossScaling::Dynamic {
        initial: 16_777_216.0,
        growth_interval: 1000,
    };
    let device = simulator::<half::f16>(false, scaling);
    let mut engine = engine(&device);
    let rate = 3e-3;
    let start = random_weights(&config(), 3);
    let mut skipped = 0;
    loop {
        let result = engine.step(&device, &batches(1), 1, rate).unwrap();
        if result.grad_norm.is_finite() {
            break;
        }
        skipped += 1;
        assert!(skipped < 24, "the scale never became small enough");
    }
    assert!(skipped >= 2, "nothing was skipped");
    let weights = engine
        .optimizer
        .weights(&device, &engine.model.parameters)
        .unwrap();
    let moments = engine
        .optimizer
        .moments(&device, &engine.model.parameters)
        .unwrap();
    let (settings, specs) = (settings(), config().parameters());
    for (((spec, now), before), moments) in specs.iter().zip(&weights).zip(&start).zip(&moments) {
        let decay = if spec.decay {
            settings.weight_decay
        } else {
            0.0
        };
        for at in 0..now.len() {
            let gradient = moments.first[at] / (1.0 - settings.beta1);
            let step = rate * gradient / (gradient.abs() + settings.epsilon);
            let expected = before[at] * (1.0 - rate * decay) - step;
            assert!(
                (now[at] - expected).abs() <= 2e-6,
                "{} [{at}]: {} to {}, expected {expected}",
                spec.name,
                before[at],
                now[at]
            );
        }
    }
}

/// What a checkpoint holds is enough: weights, moments, number of updates, loss scale; also behind
/// steps that were skipped.
#[test]
fn a_run_resumed_after_skipped_steps_has_the_same_bits() {
    let scaling = LossScaling::Dynamic {
        initial: 16_777_216.0,
        growth_interval: 3,
    };
    let (device, second) = (
        simulator::<half::f16>(false, scaling),
        simulator::<half::f16>(false, scaling),
    );
    let mut engine = engine(&device);
    let mut finite = 0;
    let mut step = 0;
    while finite < 2 {
        step += 1;
        let result = engine.step(&device, &batches(step), step, 3e-3).unwrap();
        finite += u32::from(result.grad_norm.is_finite());
        assert!(step < 24, "the scale never became small enough");
    }
    assert!(step > 2, "nothing was skipped");
    let parameters = &engine.model.parameters;
    let weights = engine.optimizer.weights(&device, parameters).unwrap();
    let moments = engine.optimizer.moments(&device, parameters).unwrap();
    let updates = engine.optimizer.updates(&device).unwrap();
    assert_eq!(updates, 2);

    let parameters = Parameters::upload(&second, &config(), &weights).unwrap();
    let model = Model::new(config(), parameters).unwrap();
    let mut resumed = Engine::new(&second, model, &weights, &settings(), 1).unwrap();
    resumed
        .optimizer
        .restore(&second, &config(), &weights, &moments, updates)
        .unwrap();
    second
        .set_loss_scale(&device.loss_scale().unwrap().unwrap())
        .unwrap();
    for step in step + 1..step + 4 {
        let expected = engine.step(&device, &batches(step), step, 3e-3).unwrap();
        let found = resumed.step(&second, &batches(step), step, 3e-3).unwrap();
        assert_eq!(found.loss.to_bits(), expected.loss.to_bits(), "step {step}");
        assert_eq!(found.grad_norm.to_bits(), expected.grad_norm.to_bits());
    }
    assert_eq!(
        resumed.optimizer.updates(&second).unwrap(),
        engine.optimizer.updates(&device).unwrap()
    );
    assert_eq!(second.loss_scale().unwrap(), device.loss_scale().unwrap());
    let after = |engine: &Engine<CudaDevice<half::f16>>, device: &CudaDevice<half::f16>| {
        engine
            .optimizer
            .weights(device, &engine.model.parameters)
            .unwrap()
    };
    assert!(after(&resumed, &second) == after(&engine, &device));
}

/// Rounded to fp16 they would differ from the start in the fourth digit.
#[test]
fn master_copies_begin_with_the_exact_weights() {
    let device = simulator::<half::f16>(false, LossScaling::of::<half::f16>());
    let mut engine = engine(&device);
    let weights = |engine: &Engine<_>| {
        engine
            .optimizer
            .weights(&device, &engine.model.parameters)
            .unwrap()
    };
    let start = random_weights(&config(), 3);
    assert_eq!(weights(&engine), start);
    // And so do those of a run that goes on, with its number of updates.
    let other = random_weights(&config(), 4);
    let moments = engine
        .optimizer
        .moments(&device, &engine.model.parameters)
        .unwrap();
    engine
        .optimizer
        .restore(&device, &config(), &other, &moments, 7)
        .unwrap();
    assert_eq!(weights(&engine), other);
    assert_eq!(engine.optimizer.updates(&device).unwrap(), 7);
}

#[test]
fn a_saved_scale_is_gone_on_with() {
    let scaling = LossScaling::of::<half::f16>();
    let device = simulator::<half::f16>(false, scaling);
    let mut saved = device.loss_scale().unwrap().unwrap();
    assert_eq!((saved.scale, saved.good_steps), (65_536.0, 0));
    (saved.scale, saved.good_steps) = (1024.0, 1999);
    device.set_loss_scale(&saved).unwrap();
    assert_eq!(device.loss_scale().unwrap(), Some(saved));
    let mut engine = engine(&device);
    engine.step(&device, &batches(1), 1, 3e-3).unwrap();
    let now = device.loss_scale().unwrap().unwrap();
    assert_eq!((now.scale, now.good_steps), (2048.0, 0));
    saved.scale = f32::NAN;
    assert!(device.set_loss_scale(&saved).is_err());
    let unscaled = simulator::<half::bf16>(false, LossScaling::of::<half::bf16>());
    assert_eq!(unscaled.loss_scale().unwrap(), None);
    assert_eq!(CpuDevice::new().loss_scale().unwrap(), None);
}
