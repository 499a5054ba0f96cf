//! The 47M model: one forward and backward of 4 x 256 tokens, prefill of 40 tokens, one decoded
//! token, one step of several texts: `cargo bench --bench model`.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use muni_engine::model::{
    Batch, KvCache, Model, ModelConfig, Parameters, StepScales, Workspace, random_weights,
};
use muni_engine::ops::cpu::CpuDevice;

fn model(device: &CpuDevice) -> Model<CpuDevice> {
    let config = ModelConfig::default_47m();
    let parameters =
        Parameters::upload(device, &config, &random_weights(&config, 1)).expect("memory");
    Model::new(config, parameters).expect("the default configuration")
}

/// Four rows of 256 tokens, each row one example.
fn batch() -> Batch {
    let tokens: Vec<u32> = (0..1024).map(|i| i * 7919 % 50257).collect();
    let mut targets = tokens.clone();
    targets.rotate_left(1);
    Batch {
        positions: (0..1024).map(|i| i % 256).collect(),
        segments: vec![0, 256, 512, 768, 1024],
        groups: vec![0, 1024],
        tokens,
        targets,
    }
}

fn step(c: &mut Criterion) {
    let device = CpuDevice::new();
    let model = model(&device);
    let mut workspace = Workspace::new(&device, &model.config, 1024, 4, 1).expect("memory");
    let mut gradients = Parameters::zeros(&device, &model.config).expect("memory");
    let batch = batch();
    let scales = StepScales {
        token: 1.0 / 1024.0,
        balance: 0.02,
    };
    let mut group = c.benchmark_group("training step");
    group.sample_size(10).throughput(Throughput::Elements(1024));
    group.bench_function("forward and backward", |b| {
        b.iter(|| {
            model
                .forward_backward(&device, &batch, &mut workspace, &mut gradients, scales)
                .expect("valid batch");
            workspace.totals(&device).expect("download")
        });
    });
    group.bench_function("forward", |b| {
        b.iter(|| {
            model
                .losses(&device, &batch, &mut workspace)
                .expect("valid batch")
        });
    });
    group.finish();
}

fn decode(c: &mut Criterion) {
    let device = CpuDevice::new();
    let model = model(&device);
    let mut workspace = Workspace::for_inference(&device, &model.config, 64, 1, 1).expect("memory");
    let mut cache = KvCache::new(&device, &model.config, 256).expect("memory");
    let prompt: Vec<u32> = (0..40).map(|i| i * 7919 % 50257).collect();
    let mut group = c.benchmark_group("generation");
    group.throughput(Throughput::Elements(40));
    group.bench_function("prefill of 40 tokens", |b| {
        b.iter_batched(
            || (),
            |()| {
                cache.truncate(0);
                model
                    .prefill(&device, &prompt, &mut cache, &mut workspace)
                    .expect("valid prompt")
            },
            BatchSize::PerIteration,
        );
    });
    let long: Vec<u32> = (0..240).map(|i| i * 7919 % 50257).collect();
    group.throughput(Throughput::Elements(240));
    group.bench_function("prefill of 240 tokens", |b| {
        b.iter(|| {
            cache.truncate(0);
            model
                .prefill(&device, &long, &mut cache, &mut workspace)
                .expect("valid prompt")
        });
    });
    for count in [2, 4, 8, 16, 32, 64] {
        let mut workspace = Workspace::for_inference(&device, &model.config, 64, 1, 1)
            .and_then(|workspace| workspace.with_sequences(&device, count))
            .expect("memory");
        let mut caches: Vec<KvCache<CpuDevice>> = (0..count)
            .map(|_| KvCache::new(&device, &model.config, 256).expect("memory"))
            .collect();
        for cache in &mut caches {
            model
                .prefill(&device, &prompt, cache, &mut workspace)
                .expect("valid prompt");
        }
        let tokens: Vec<u32> = (0..count as u32).map(|i| i * 104_729 % 50257).collect();
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(
            format!("one token of each of {count} texts after 40"),
            |b| {
                b.iter(|| {
                    let mut texts: Vec<_> = caches.iter_mut().collect();
                    texts.iter_mut().for_each(|cache| cache.truncate(40));
                    model
                        .decode_batch(&device, &tokens, &mut texts, &mut workspace)
                        .expect("valid tokens")
                });
            },
        );
    }
    group.throughput(Throughput::Elements(1));
    group.bench_function("one token after 40", |b| {
        b.iter(|| {
            cache.truncate(40);
            model
                .prefill(&device, &[11], &mut cache, &mut workspace)
                .expect("valid token")
        });
    });
    group.finish();
}

criterion_group!(benches, step, decode);
criterion_main!(benches);
