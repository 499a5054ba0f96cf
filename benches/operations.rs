//! Operations of one training step at the 47M size, 1,024 tokens: `cargo bench --bench operations`.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use muni_engine::ops::{
    AdamStep, AdamW, AttentionBackward, AttentionForward, AttentionShape, Balance, Buffer, Device,
    ExpertsBackward, ExpertsForward, GlobalNorm, HeadLoss, HeadLosses, LinearBackwardInput,
    LinearBackwardWeight, LinearForward, MoeShape, Offsets, RouterForward, Routing,
    cpu::{CpuDevice, HostBuffer, MatmulPrecision},
    issue,
};
use std::hint::black_box;

const TOKENS: usize = 1024;
const HIDDEN: usize = 384;
const VOCAB: usize = 50257;
const MOE: MoeShape = MoeShape {
    hidden: HIDDEN,
    intermediate: 448,
    experts: 8,
    top_k: 2,
};
const ATTENTION: AttentionShape = AttentionShape {
    heads: 6,
    kv_heads: 3,
    head_dim: 64,
};

fn zeros<T: bytemuck::Pod>(len: usize) -> HostBuffer<T> {
    HostBuffer::zeroed(len).expect("memory")
}

fn buffer<T: bytemuck::Pod>(values: &[T]) -> HostBuffer<T> {
    let mut buffer = zeros(values.len());
    buffer.copy_from_slice(values);
    buffer
}

/// Uniform values in `-scale..scale`.
fn values(len: usize, scale: f32, seed: u64) -> HostBuffer<f32> {
    let mut state = seed;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) as f32 / 8_388_608.0 - 1.0) * scale
    };
    let mut buffer = zeros(len);
    buffer.fill_with(&mut next);
    buffer
}

fn head(c: &mut Criterion) {
    head_with(c, "head", MatmulPrecision::Single);
    head_with(c, "head, bf16 products", MatmulPrecision::Bf16);
}

fn head_with(c: &mut Criterion, name: &str, precision: MatmulPrecision) {
    let device = CpuDevice::with_precision(precision);
    let (x, table) = (
        values(TOKENS * HIDDEN, 1.0, 1),
        values(VOCAB * HIDDEN, 0.02, 2),
    );
    let targets: Vec<u32> = (0..TOKENS).map(|i| (i * 37 % VOCAB) as u32).collect();
    let targets = buffer(&targets);
    let (mut loss, mut grad_x, mut grad_table) =
        (zeros(1), zeros(TOKENS * HIDDEN), zeros(VOCAB * HIDDEN));
    let scale = buffer(&[1e-3]);
    let mut group = c.benchmark_group(name);
    group
        .sample_size(10)
        .throughput(Throughput::Elements(TOKENS as u64));
    group.bench_function("loss and gradients", |b| {
        b.iter(|| {
            issue(
                &device,
                HeadLoss {
                    x: x.matrix(TOKENS, HIDDEN),
                    table: table.matrix(VOCAB, HIDDEN),
                    targets: targets.vector(TOKENS),
                    scale: scale.vector(1),
                    loss: loss.vector_mut(1),
                    grad_x: grad_x.matrix_mut(TOKENS, HIDDEN),
                    grad_table: grad_table.matrix_mut(VOCAB, HIDDEN),
                },
            )
            .expect("valid shapes");
        });
    });
    let mut losses = zeros(TOKENS);
    group.bench_function("losses", |b| {
        b.iter(|| {
            issue(
                &device,
                HeadLosses {
                    x: x.matrix(TOKENS, HIDDEN),
                    table: table.matrix(VOCAB, HIDDEN),
                    targets: targets.vector(TOKENS),
                    losses: losses.vector_mut(TOKENS),
                },
            )
            .expect("valid shapes");
        });
    });
    group.finish();
}

fn experts(c: &mut Criterion) {
    experts_with(c, "experts", MatmulPrecision::Single);
    experts_with(c, "experts, bf16 products", MatmulPrecision::Bf16);
}

fn experts_with(c: &mut Criterion, name: &str, precision: MatmulPrecision) {
    let device = CpuDevice::with_precision(precision);
    let x = values(TOKENS * HIDDEN, 1.0, 3);
    let gate = values(MOE.experts * HIDDEN, 0.02, 4);
    let w13 = values(MOE.experts * 2 * MOE.intermediate * HIDDEN, 0.02, 5);
    let w2 = values(MOE.experts * MOE.intermediate * HIDDEN, 0.02, 6);
    let mut routing = Routing::new(&device, &MOE, TOKENS).expect("memory");
    let mut balance = Balance::new(&device, &MOE, 1).expect("memory");
    let groups = buffer(&[0, TOKENS as u32]);
    let mut gate_up = zeros(TOKENS * MOE.top_k * 2 * MOE.intermediate);
    let mut out = zeros(TOKENS * HIDDEN);
    let (mut grad_x, mut grad_w13, mut grad_w2) = (out.clone(), zeros(w13.len()), zeros(w2.len()));
    let mut grad_weights = zeros(TOKENS * MOE.top_k);
    let mut group = c.benchmark_group(name);
    group
        .sample_size(10)
        .throughput(Throughput::Elements(TOKENS as u64));
    group.bench_function("router", |b| {
        b.iter(|| {
            issue(
                &device,
                RouterForward {
                    x: x.matrix(TOKENS, MOE.hidden),
                    weight: gate.matrix(MOE.experts, MOE.hidden),
                    routing: &mut routing,
                    balance: &mut balance,
                    groups: Offsets::new(&groups, 1),
                    shape: MOE,
                },
            )
            .expect("valid shapes");
        });
    });
    group.bench_function("forward", |b| {
        b.iter(|| {
            issue(
                &device,
                ExpertsForward {
                    x: x.matrix(TOKENS, MOE.hidden),
                    routing: &routing,
                    w13: w13.matrix(MOE.experts * 2 * MOE.intermediate, MOE.hidden),
                    w2: w2.matrix(MOE.experts * MOE.hidden, MOE.intermediate),
                    residual: x.matrix(TOKENS, MOE.hidden),
                    gate_up: gate_up.matrix_mut(TOKENS * MOE.top_k, 2 * MOE.intermediate),
                    out: out.matrix_mut(TOKENS, MOE.hidden),
                    shape: MOE,
                },
            )
            .expect("valid shapes");
        });
    });
    group.bench_function("backward", |b| {
        b.iter(|| {
            issue(
                &device,
                ExpertsBackward {
                    grad_out: x.matrix(TOKENS, MOE.hidden),
                    x: x.matrix(TOKENS, MOE.hidden),
                    routing: &routing,
                    w13: w13.matrix(MOE.experts * 2 * MOE.intermediate, MOE.hidden),
                    w2: w2.matrix(MOE.experts * MOE.hidden, MOE.intermediate),
                    gate_up: gate_up.matrix(TOKENS * MOE.top_k, 2 * MOE.intermediate),
                    grad_x: grad_x.matrix_mut(TOKENS, MOE.hidden),
                    grad_w13: grad_w13.matrix_mut(MOE.experts * 2 * MOE.intermediate, MOE.hidden),
                    grad_w2: grad_w2.matrix_mut(MOE.experts * MOE.hidden, MOE.intermediate),
                    grad_weights: grad_weights.matrix_mut(TOKENS, MOE.top_k),
                    shape: MOE,
                },
            )
            .expect("valid shapes");
        });
    });
    group.finish();
}

fn attention(c: &mut Criterion) {
    let device = CpuDevice::new();
    let qkv = values(TOKENS * ATTENTION.qkv_size(), 1.0, 7);
    let segments = buffer(&[0, 256, 512, 768, 1024]);
    let mut out = zeros(TOKENS * ATTENTION.out_size());
    let mut log_sum = zeros(TOKENS * ATTENTION.heads);
    let mut grad = zeros(qkv.len());
    let mut group = c.benchmark_group("attention");
    group.throughput(Throughput::Elements(TOKENS as u64));
    group.bench_function("forward", |b| {
        b.iter(|| {
            issue(
                &device,
                AttentionForward {
                    qkv: qkv.matrix(TOKENS, ATTENTION.qkv_size()),
                    segments: Offsets::new(&segments, 4),
                    out: out.matrix_mut(TOKENS, ATTENTION.out_size()),
                    log_sum: log_sum.matrix_mut(TOKENS, ATTENTION.heads),
                    shape: ATTENTION,
                },
            )
            .expect("valid shapes");
        });
    });
    group.bench_function("backward", |b| {
        b.iter(|| {
            issue(
                &device,
                AttentionBackward {
                    grad_out: out.matrix(TOKENS, ATTENTION.out_size()),
                    qkv: qkv.matrix(TOKENS, ATTENTION.qkv_size()),
                    out: out.matrix(TOKENS, ATTENTION.out_size()),
                    log_sum: log_sum.matrix(TOKENS, ATTENTION.heads),
                    segments: Offsets::new(&segments, 4),
                    grad_qkv: grad.matrix_mut(TOKENS, ATTENTION.qkv_size()),
                    shape: ATTENTION,
                },
            )
            .expect("valid shapes");
        });
    });
    group.finish();
}

fn dense(c: &mut Criterion) {
    let device = CpuDevice::new();
    let (outputs, x) = (ATTENTION.qkv_size(), values(TOKENS * HIDDEN, 1.0, 8));
    let weight = values(outputs * HIDDEN, 0.02, 9);
    let (mut y, mut grad) = (zeros(TOKENS * outputs), zeros(weight.len()));
    let mut grad_x = zeros(x.len());
    let mut group = c.benchmark_group("linear 384 -> 768");
    group.throughput(Throughput::Elements((TOKENS * HIDDEN * outputs) as u64));
    group.bench_function("forward", |b| {
        b.iter(|| {
            issue(
                &device,
                LinearForward {
                    x: x.matrix(TOKENS, HIDDEN),
                    weight: weight.matrix(outputs, HIDDEN),
                    residual: None,
                    y: y.matrix_mut(TOKENS, outputs),
                },
            )
            .expect("valid shapes")
        });
    });
    group.bench_function("backward input", |b| {
        b.iter(|| {
            issue(
                &device,
                LinearBackwardInput {
                    grad_y: y.matrix(TOKENS, outputs),
                    weight: weight.matrix(outputs, HIDDEN),
                    grad_x: grad_x.matrix_mut(TOKENS, HIDDEN),
                    accumulate: false,
                },
            )
            .expect("valid shapes");
        });
    });
    group.bench_function("backward weight", |b| {
        b.iter(|| {
            issue(
                &device,
                LinearBackwardWeight {
                    grad_y: y.matrix(TOKENS, outputs),
                    x: x.matrix(TOKENS, HIDDEN),
                    grad_weight: grad.matrix_mut(outputs, HIDDEN),
                },
            )
            .expect("valid shapes")
        });
    });
    group.finish();
}

fn optimizer(c: &mut Criterion) {
    let device = CpuDevice::new();
    let len = VOCAB * HIDDEN;
    let mut weight = values(len, 0.02, 10);
    let mut gradient = values(len, 1e-3, 11);
    let mut state = device.adam_state(&weight).expect("memory");
    let (mut norm, rate) = (buffer(&[0.0, 9.0]), buffer(&[1e-4]));
    let step = AdamStep {
        beta1: 0.9,
        beta2: 0.95,
        epsilon: 1e-8,
        weight_decay: 0.1,
        max_norm: 1.0,
    };
    let mut group = c.benchmark_group("optimizer, 19.3M weights");
    group
        .sample_size(20)
        .throughput(Throughput::Elements(len as u64));
    group.bench_function("global norm", |b| {
        b.iter(|| {
            issue(
                &device,
                GlobalNorm {
                    gradients: vec![gradient.vector(len)],
                    norm: black_box(&mut norm).vector_mut(2),
                },
            )
            .expect("valid shapes")
        });
    });
    group.bench_function("adamw", |b| {
        b.iter(|| {
            issue(
                &device,
                AdamW {
                    weight: weight.vector_mut(len),
                    gradient: gradient.vector_mut(len),
                    state: &mut state,
                    norm: norm.vector(2),
                    rate: rate.vector(1),
                    step,
                },
            )
            .expect("valid shapes")
        });
    });
    group.finish();
}

criterion_group!(benches, head, experts, attention, dense, optimizer);
criterion_main!(benches);
