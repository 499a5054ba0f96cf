//! The memory plan: what a dry run says is what a run takes, in one allocation, and limits hold.

use anyhow::Result;
use half::f16;
use std::ffi::c_void;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::training::{batches, config, settings};
use muni_engine::generate::{GenerateSettings, Generator};
use muni_engine::model::{Batch, Model, ModelConfig, Parameters, StepScales, random_weights};
use muni_engine::ops::cuda::driver::simulator::SimDriver;
use muni_engine::ops::cuda::driver::{Driver, Kernel};
use muni_engine::ops::cuda::{CudaDevice, LossScaling};
use muni_engine::ops::{Device, MemoryClass, Planner, TrainingDevice};
use muni_engine::train::memory::{self, MemoryPlan};
use muni_engine::train::step::Engine;
use muni_engine::train::{Stage, TrainSettings};

/// The simulator with so much memory, that counts what it is asked for.
struct Counting {
    inner: SimDriver,
    free: Option<u64>,
    allocations: Arc<AtomicUsize>,
}

impl Driver for Counting {
    fn name(&self) -> String {
        self.inner.name()
    }
    fn multiprocessors(&self) -> usize {
        self.inner.multiprocessors()
    }
    fn allocate(&self, bytes: usize, zeroed: bool) -> Result<u64> {
        self.allocations.fetch_add(1, Ordering::Relaxed);
        self.inner.allocate(bytes, zeroed)
    }
    unsafe fn free(&self, address: u64) {
        // SAFETY: the caller's promise is the same.
        unsafe { self.inner.free(address) }
    }
    unsafe fn upload(&self, bytes: &[u8], to: u64) -> Result<()> {
        // SAFETY: the caller's promise is the same.
        unsafe { self.inner.upload(bytes, to) }
    }
    unsafe fn download(&self, from: u64, bytes: &mut [u8]) -> Result<()> {
        // SAFETY: the caller's promise is the same.
        unsafe { self.inner.download(from, bytes) }
    }
    unsafe fn copy(&self, from: u64, to: u64, bytes: usize) -> Result<()> {
        // SAFETY: the caller's promise is the same.
        unsafe { self.inner.copy(from, to, bytes) }
    }
    unsafe fn zero(&self, address: u64, bytes: usize) -> Result<()> {
        // SAFETY: the caller's promise is the same.
        unsafe { self.inner.zero(address, bytes) }
    }
    unsafe fn launch(
        &self,
        kernel: &'static Kernel,
        grid: [u32; 3],
        shared_bytes: u32,
        arguments: &mut [*mut c_void],
    ) -> Result<()> {
        // SAFETY: the caller's promise is the same.
        unsafe { self.inner.launch(kernel, grid, shared_bytes, arguments) }
    }
    fn synchronize(&self) -> Result<()> {
        self.inner.synchronize()
    }
    fn free_memory(&self) -> Result<Option<u64>> {
        Ok(self.free)
    }
}

fn device(free: Option<u64>) -> (CudaDevice<f16>, Arc<AtomicUsize>) {
    let allocations = Arc::new(AtomicUsize::new(0));
    let driver = Counting {
        inner: SimDriver::new(false).unwrap(),
        free,
        allocations: allocations.clone(),
    };
    let device = CudaDevice::new(driver, LossScaling::of::<f16>()).unwrap();
    (device, allocations)
}

/// A question's answer, as a run gives at each validation.
fn answer<D: TrainingDevice>(device: &D, model: &Model<D>) -> Result<()> {
    let settings = GenerateSettings {
        max_new_tokens: Some(3),
        ..GenerateSettings::default()
    };
    let mut generator = Generator::new(device, model)?;
    generator.generate_ids(&[1, 2, 3, 4, 5], &settings, &mut |_| {
        Ok(std::ops::ControlFlow::Continue(()))
    })?;
    Ok(())
}

/// A logical batch of 64 tokens in two examples.
fn full(step: u32) -> Batch {
    let mut batch = Batch::new();
    for example in 0..2 {
        let tokens: Vec<u32> = (0..32)
            .map(|i| (i * 7 + step * 5 + example) % 331)
            .collect();
        batch.push_segment(&tokens, &tokens).unwrap();
    }
    batch
}

fn train(device: &CudaDevice<f16>, micro_batch: usize) -> Vec<f64> {
    let config = config();
    let weights = random_weights(&config, 3);
    let parameters = Parameters::upload(device, &config, &weights).unwrap();
    let model = Model::new(config, parameters).unwrap();
    let mut engine = Engine::new(device, model, &weights, &settings(), micro_batch).unwrap();
    let mut losses = Vec::new();
    for step in 1..=3 {
        // Ragged batches, and one that fills every row.
        let batches = match step {
            2 => vec![full(1), full(2)],
            _ => batches(step),
        };
        let result = engine.step(device, &batches, step, 3e-3);
        losses.push(result.unwrap().loss);
        engine.validate(device, &batches[..1]).unwrap();
        answer(device, &engine.model).unwrap();
    }
    losses
}

#[test]
fn a_run_takes_what_was_planned_in_one_allocation() {
    let (device, allocations) = device(None);
    let before = allocations.load(Ordering::Relaxed);
    let plan = memory::prepare(&device, &config(), &settings(), None, None, &answer)
        .unwrap()
        .unwrap();
    assert_eq!((plan.micro_batch, plan.tokens), (2, 128));
    assert_eq!(allocations.load(Ordering::Relaxed), before + 1);
    let first = train(&device, plan.micro_batch);
    assert_eq!(allocations.load(Ordering::Relaxed), before + 1);
    // Class by class, to the byte: plan and run allocate by the same code, in 256-byte parts.
    assert_eq!(device.memory_use(), plan.memory);
    assert_eq!(device.memory_use().unplanned, 0);
    // All of it came back: the next run, on memory that holds anything, is the same.
    let again = train(&device, plan.micro_batch);
    assert_eq!(allocations.load(Ordering::Relaxed), before + 1);
    assert_eq!(first, again);
}

#[test]
fn no_size_of_batch_needs_more_scratch_memory_than_planned() {
    let configs = [
        config(),
        ModelConfig {
            num_hidden_layers: 1,
            ..ModelConfig::default_47m()
        },
    ];
    for (config, multiprocessors, rows, step) in
        [(&configs[0], 3, 40, 1), (&configs[1], 46, 48, 37)]
    {
        let settings = TrainSettings {
            batch_size: rows,
            gradient_accumulation_steps: 1,
            max_length: 32,
            ..settings()
        };
        let dry = CudaDevice::<f16>::dry(multiprocessors).unwrap();
        let plan = memory::plan(&dry, config, &settings, 1, &|_, _| Ok(())).unwrap();
        let run = CudaDevice::<f16>::dry(multiprocessors).unwrap();
        let parameters = Parameters::zeros(&run, config).unwrap();
        let model = Model::new(config.clone(), parameters).unwrap();
        let mut engine =
            Engine::new(&run, model, &memory::no_weights(config), &settings, 1).unwrap();
        for count in (1..=rows * 32).step_by(step) {
            let mut batch = Batch::new();
            for first in (0..count).step_by(32) {
                let length = 32.min(count - first);
                batch
                    .push_segment(&vec![0; length], &vec![0; length])
                    .unwrap();
            }
            let scales = StepScales {
                token: 1.0,
                balance: 1.0,
            };
            engine
                .model
                .forward_backward(
                    &run,
                    &batch,
                    &mut engine.workspace,
                    &mut engine.gradients,
                    scales,
                )
                .unwrap();
            engine.workspace.totals(&run).unwrap();
            let (took, planned) = (
                run.memory_use().of(MemoryClass::Scratch),
                plan.memory.of(MemoryClass::Scratch),
            );
            assert!(took <= planned, "{count} tokens: {took}, planned {planned}");
        }
    }
}

#[test]
fn a_run_that_does_not_fit_says_what_would() {
    let prepare = |free, micro_batch, limit| {
        let (device, _) = device(free);
        memory::prepare(&device, &config(), &settings(), micro_batch, limit, &answer)
    };
    let need = |micro_batch| -> MemoryPlan {
        let (device, _) = device(None);
        memory::prepare(
            &device,
            &config(),
            &settings(),
            Some(micro_batch),
            None,
            &answer,
        )
        .unwrap()
        .unwrap()
    };
    let (small, large) = (need(1).memory.total(), need(2).memory.total());
    assert!(small < large);
    // As many as fit, chosen by itself.
    let chosen = |limit| {
        prepare(None, None, Some(limit))
            .unwrap()
            .unwrap()
            .micro_batch
    };
    assert_eq!(chosen(large), 2);
    assert_eq!(chosen(large - 1), 1);
    assert_eq!(chosen(small), 1);
    let message = |found: Result<Option<MemoryPlan>>| format!("{:#}", found.unwrap_err());
    let said = message(prepare(None, Some(2), Some(large - 1)));
    assert!(
        said.contains("--vram-limit allows") && said.contains("--micro-batch 1"),
        "{said}"
    );
    let said = message(prepare(None, None, Some(small - 1)));
    assert!(
        said.contains("needs at least") && said.contains("--batch-size (now 2)"),
        "{said}"
    );
    let said = message(prepare(Some(257 << 20), Some(2), Some(1 << 40)));
    assert!(said.contains("only 1.0 MiB free"), "{said}");
}

#[test]
fn nothing_beyond_the_limit_is_taken_beside_the_arena() {
    let (device, allocations) = device(None);
    let plan = memory::prepare(&device, &config(), &settings(), Some(1), None, &answer)
        .unwrap()
        .unwrap();
    let limit = plan.memory.total() + 4096;
    device.reserve(&plan.memory, Some(limit)).unwrap();
    let before = allocations.load(Ordering::Relaxed);
    let rest = plan.memory.total() - plan.memory.of(MemoryClass::Scratch);
    let all = device.zeros_single(rest as usize / 4).unwrap();
    assert_eq!(allocations.load(Ordering::Relaxed), before);
    let beside = device.zeros_single(1024).unwrap();
    assert_eq!(allocations.load(Ordering::Relaxed), before + 1);
    assert_eq!(device.memory_use().unplanned, 4096);
    let said = format!("{:#}", device.zeros_single(1).err().unwrap());
    assert!(said.contains("beyond the limit"), "{said}");
    drop((all, beside));
    assert!(device.zeros_single(rest as usize / 4).is_ok());
}

#[test]
fn micro_batches_of_any_size_give_the_same_gradient() {
    let curve = |micro_batch| {
        let device =
            CudaDevice::<f16>::new(SimDriver::new(false).unwrap(), LossScaling::of::<f16>());
        train(&device.unwrap(), micro_batch)
    };
    for (one, both) in curve(1).iter().zip(curve(2)) {
        assert!((one / both - 1.0).abs() < 2e-4, "{one} {both}");
    }
}

#[test]
fn sixteen_thousand_tokens_fit_an_eight_gigabyte_card() {
    let settings = TrainSettings {
        gradient_accumulation_steps: 16,
        ..TrainSettings::preset(Stage::Massive)
    };
    let dry = CudaDevice::<f16>::dry(46).unwrap();
    let config = ModelConfig::default_47m();
    let plan = memory::plan(&dry, &config, &settings, 16, &answer).unwrap();
    println!("{plan}");
    assert_eq!(plan.tokens, 16_384);
    assert!(plan.memory.total() <= 13 << 29, "{plan}");
    // Sizes that need no code to be known.
    let parameters = config.parameter_count() as u64;
    for (class, bytes) in [
        (MemoryClass::Weights, 2 * parameters),
        (MemoryClass::Gradients, 2 * parameters),
        (MemoryClass::Masters, 4 * parameters),
        (MemoryClass::Moments, 8 * parameters),
    ] {
        let found = plan.memory.of(class);
        assert!(
            (bytes..bytes + (64 << 10)).contains(&found),
            "{}: {found}, not {bytes}",
            class.name()
        );
    }
}
