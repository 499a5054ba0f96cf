//! What the trainer asks a device for, counted: no wait between two reads of the metrics. And the
//! bytes that a step of the real model moves, beside the least possible. `UPDATE_DOCS=1 cargo test
//! --test it cuda::counting` writes that table to docs/generated/kernels.md.

use crate::cli_train::tiny_run;
use half::f16;
use muni_engine::model::{Batch, Model, ModelConfig, Parameters, random_weights};
use muni_engine::ops::cuda::driver::Driver;
use muni_engine::ops::cuda::driver::counting::{
    Counters, CountingDriver, Counts, OperationCounters,
};
use muni_engine::ops::cuda::driver::fake::FakeDriver;
use muni_engine::ops::cuda::driver::simulator::SimDriver;
use muni_engine::ops::cuda::memory::{DeviceBuffer, PtrMut};
use muni_engine::ops::cuda::{CudaDevice, LossScaling, kernels};
use muni_engine::tokenizer::Tokenizer;
use muni_engine::train::memory::no_weights;
use muni_engine::train::run_folder::RunFolder;
use muni_engine::train::source::{ShardFolder, Source};
use muni_engine::train::step::Engine;
use muni_engine::train::{Outcome, RunOptions, Setup, Stage, TrainSettings, Trainer};
use std::fmt::Write;
use std::sync::Arc;

/// A whole run of the real trainer: a look every 3 steps, one validation and one checkpoint at the
/// end.
fn run_counted(driver: impl Driver + 'static, counts: &Counts, steps: u64) -> Counters {
    let (shards, config) = tiny_run();
    let tokenizer = Tokenizer::gpt2().unwrap();
    let settings = TrainSettings {
        epochs: 100,
        batch_size: 1,
        max_length: 24,
        gradient_accumulation_steps: 1,
        max_steps: Some(steps),
        eval_every: Some(1000),
        learning_rate: 1e-3,
        ..TrainSettings::preset(Stage::Basis)
    };
    let shards = ShardFolder::open(&shards, &tokenizer).unwrap();
    let source = Source::new(&shards, &settings).unwrap();
    let device = CudaDevice::<f16>::new(driver, LossScaling::of::<f16>()).unwrap();
    let weights = random_weights(&config, 3);
    let parameters = Parameters::upload(&device, &config, &weights).unwrap();
    let model = Model::new(config, parameters).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let setup = Setup {
        device: &device,
        settings,
        options: RunOptions {
            metrics_every: Some(3),
            save_every: Some(1000),
            ..RunOptions::default()
        },
        source,
        shards_sha256: shards.manifest_sha256().to_string(),
        tokenizer: &tokenizer,
        run: RunFolder::create(&folder.path().join("run")).unwrap(),
        sample: None,
    };
    let mut trainer = Trainer::new(setup, model, &weights, None).unwrap();
    assert_eq!(trainer.run().unwrap(), Outcome::Finished);
    let lines = std::fs::read_to_string(folder.path().join("run/metrics.jsonl")).unwrap();
    assert_eq!(lines.lines().count() as u64, steps);
    counts.take()
}

/// Two runs that differ in some steps: these made their looks, and nothing else that waits.
fn check_steps_wait_for_nothing(looks: usize, run: impl Fn(u64) -> Counters) {
    let steps = 3 * looks;
    let (short, long) = (run(3), run(3 + steps as u64));
    assert_eq!(long.downloads - short.downloads, looks, "{long:?}");
    assert_eq!((long.synchronisations, short.synchronisations), (0, 0));
    assert_eq!(long.uploads, short.uploads);
    // The rate, and the micro-batch.
    assert_eq!(long.staged - short.staged, 2 * steps);
    assert!(long.launches > short.launches && long.replays > short.replays);
}

#[test]
fn steps_of_the_trainer_wait_for_their_metrics_only() {
    let counts = Counts::default();
    check_steps_wait_for_nothing(7, |steps| {
        let driver = CountingDriver::new(FakeDriver::checked(46), &counts);
        run_counted(driver, &counts, steps)
    });
}

#[test]
fn steps_of_the_trainer_in_the_simulator_wait_for_their_metrics_only() {
    let counts = Counts::default();
    check_steps_wait_for_nothing(1, |steps| {
        let driver = CountingDriver::new(SimDriver::new(false).unwrap(), &counts);
        run_counted(driver, &counts, steps)
    });
}

#[test]
fn a_dry_run_refuses_what_points_nowhere() {
    let driver: Arc<dyn Driver> = Arc::new(FakeDriver::checked(46));
    let mut norm: DeviceBuffer<f32> = DeviceBuffer::new(&driver, 2, true).unwrap();
    let launch = |norm, parts: &DeviceBuffer<f32>, state: PtrMut<f32>| {
        // SAFETY: nothing is launched.
        let result =
            unsafe { kernels::grad_norm(&*driver, [1, 1, 1], 0, norm, state, parts.ptr(), 1) };
        result.map_err(|error| error.to_string())
    };
    let parts = DeviceBuffer::new(&driver, 4, true).unwrap();
    let mut state: DeviceBuffer<f32> = DeviceBuffer::new(&driver, 8, true).unwrap();
    let (inside, state) = (norm.ptr_mut(), state.ptr_mut());
    launch(inside, &parts, state).unwrap();
    let message = launch(inside.at(2), &parts, state).unwrap_err();
    assert!(message.contains("grad_norm, norm"), "{message}");
    drop(norm);
    let message = launch(inside, &parts, state).unwrap_err();
    assert!(message.contains("lie in no buffer"), "{message}");
}

/// Logical batches of 4 rows of 256 in the micro-batch: 16,384 tokens.
const LOGICAL: usize = 16;
/// Of an RTX 3070.
const MULTIPROCESSORS: usize = 46;

/// A full logical batch: 16 examples of 64 tokens.
fn batch(config: &ModelConfig, seed: u32) -> Batch {
    let mut batch = Batch::new();
    let mut next = seed;
    for _ in 0..16 {
        let mut word = || {
            next = next.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (next >> 8) % config.vocab_size as u32
        };
        let tokens: Vec<u32> = (0..65).map(|_| word()).collect();
        batch.push_segment(&tokens[..64], &tokens[1..]).unwrap();
    }
    batch
}

/// A step of the 47M model that is not the first: all of it from a recording.
fn real_step() -> Counters {
    let counts = Counts::default();
    let driver = CountingDriver::new(FakeDriver::checked(MULTIPROCESSORS), &counts);
    let device = CudaDevice::<f16>::new(driver, LossScaling::of::<f16>()).unwrap();
    let config = ModelConfig::default_47m();
    // A dry run computes nothing, so any weights will do.
    let weights = no_weights(&config);
    let parameters = Parameters::upload(&device, &config, &weights).unwrap();
    let batches: Vec<Batch> = (0..LOGICAL).map(|at| batch(&config, at as u32)).collect();
    let model = Model::new(config, parameters).unwrap();
    let settings = TrainSettings {
        gradient_accumulation_steps: LOGICAL,
        ..TrainSettings::preset(Stage::Massive)
    };
    let mut engine = Engine::new(&device, model, &weights, &settings, LOGICAL).unwrap();
    for step in 1..=3 {
        counts.take();
        engine.issue(&device, &batches, step, 1e-4).unwrap();
    }
    counts.take()
}

fn row(text: &mut String, name: &str, tally: &OperationCounters) {
    let megabytes = |bytes: usize| bytes as f64 / 1e6;
    let ratio = tally.moved as f64 / tally.least.max(1) as f64;
    let _ = writeln!(
        text,
        "| {name} | {} | {} | {:.1} | {:.1} | {ratio:.2} |",
        tally.calls,
        tally.launches,
        megabytes(tally.moved),
        megabytes(tally.least)
    );
}

fn table(tally: &Counters) -> String {
    let mut text = String::from(
        "| operation | calls | launches | moved (MB) | inputs and outputs (MB) | ratio |\n\
         |---|---|---|---|---|---|\n",
    );
    let mut operations: Vec<_> = tally.operations.iter().collect();
    operations.sort_by_key(|(_, operation)| std::cmp::Reverse(operation.moved));
    for (name, operation) in operations {
        row(&mut text, &format!("`{name}`"), operation);
    }
    row(&mut text, "all", &tally.total());
    let _ = write!(
        text,
        "\nPer step: {} kernels, {} ranges of zeros and {} copies within the device. Of these\n\
         the host issues {}: {} recording and the copies into the history. {} asynchronous\n\
         uploads ({:.2} MB), \
         {} blocking uploads, {} copies to the host, {} waits,\n\
         {} allocations.\n",
        tally.launches,
        tally.zeros,
        tally.copies,
        tally.issued,
        tally.replays,
        tally.staged,
        tally.uploaded as f64 / 1e6,
        tally.uploads,
        tally.downloads,
        tally.synchronisations,
        tally.allocations
    );
    text
}

const BEGIN: &str = "<!-- begin: made by UPDATE_DOCS=1 cargo test --test it cuda::counting -->\n";
const END: &str = "<!-- end of the table of bytes -->\n";

#[test]
fn the_documentation_holds_a_steps_launches_and_bytes() {
    let tally = real_step();
    let (copies, total) = (tally.copies, tally.total());
    assert_eq!((tally.replays, tally.issued), (1, 1 + copies), "{tally:?}");
    assert_eq!(
        (
            tally.downloads,
            tally.synchronisations,
            tally.uploads,
            tally.allocations
        ),
        (0, 0, 0, 0)
    );
    assert_eq!(total.launches, tally.launches + tally.zeros + tally.copies);
    // No operation can move less than its inputs and outputs: then a launch would not have declared
    // what it does.
    for (name, operation) in &tally.operations {
        assert!(operation.moved >= operation.least, "{name}: {operation:?}");
    }
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/generated/kernels.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(BEGIN).unwrap();
    let (_, after) = rest.split_once(END).unwrap();
    let wanted = format!("{before}{BEGIN}\n{}\n{END}{after}", table(&tally));
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, wanted).unwrap();
    } else {
        assert!(
            text == wanted,
            "the table of bytes in docs/generated/kernels.md is not this build's: run \
             UPDATE_DOCS=1 cargo test --test it cuda::counting"
        );
    }
}
