//! Operations of one training step at the 47M size, 1,024 tokens: `cargo bench --bench operations`.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use muni_engine::ops::{
    AdamStep, AttentionShape, Balance, Device, MoeShape, Routing,
    cpu::{Buffer, CpuDevice, Factors},
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

fn zeros<T: bytemuck::Pod>(len: usize) -> Buffer<T> {
    Buffer::zeroed(len).expect("memory")
}

fn buffer<T: bytemuck::Pod>(values: &[T]) -> Buffer<T> {
    let mut buffer = zeros(values.len());
    buffer.copy_from_slice(values);
    buffer
}

/// Uniform values in `-scale..scale`.
fn values(len: usize, scale: f32, seed: u64) -> Buffer<f32> {
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
    head_with(c, "head", Factors::Single);
    head_with(c, "head, bf16 factors", Factors::Bf16);
}

fn head_with(c: &mut Criterion, name: &str, factors: Factors) {
    let device = CpuDevice::with_factors(factors);
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
            device
                .head_loss(
                    &x,
                    &table,
                    &targets,
                    &scale,
                    &mut loss,
                    &mut grad_x,
                    &mut grad_table,
                    TOKENS,
                    VOCAB,
                    HIDDEN,
                )
                .expect("valid shapes");
        });
    });
    let mut losses = zeros(TOKENS);
    group.bench_function("losses", |b| {
        b.iter(|| {
            device
                .head_losses(&x, &table, &targets, &mut losses, TOKENS, VOCAB, HIDDEN)
                .expect("valid shapes");
        });
    });
    group.finish();
}

fn experts(c: &mut Criterion) {
    experts_with(c, "experts", Factors::Single);
    experts_with(c, "experts, bf16 factors", Factors::Bf16);
}

fn experts_with(c: &mut Criterion, name: &str, factors: Factors) {
    let device = CpuDevice::with_factors(factors);
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
            device
                .router_forward(
                    &x,
                    &gate,
                    &mut routing,
                    &mut balance,
                    &groups,
                    1,
                    &MOE,
                    TOKENS,
                )
                .expect("valid shapes");
        });
    });
    group.bench_function("forward", |b| {
        b.iter(|| {
            device
                .experts_forward(
                    &x,
                    &routing,
                    &w13,
                    &w2,
                    &x,
                    &mut gate_up,
                    &mut out,
                    &MOE,
                    TOKENS,
                )
                .expect("valid shapes");
        });
    });
    group.bench_function("backward", |b| {
        b.iter(|| {
            device
                .experts_backward(
                    &x,
                    &x,
                    &routing,
                    &w13,
                    &w2,
                    &gate_up,
                    &mut grad_x,
                    &mut grad_w13,
                    &mut grad_w2,
                    &mut grad_weights,
                    &MOE,
                    TOKENS,
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
            device
                .attention_forward(
                    &qkv,
                    &segments,
                    &mut out,
                    &mut log_sum,
                    &ATTENTION,
                    4,
                    TOKENS,
                )
                .expect("valid shapes");
        });
    });
    group.bench_function("backward", |b| {
        b.iter(|| {
            device
                .attention_backward(
                    &out, &qkv, &out, &log_sum, &segments, &mut grad, &ATTENTION, 4, TOKENS,
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
            device
                .linear_forward(&x, &weight, None, &mut y, TOKENS, HIDDEN, outputs)
                .expect("valid shapes")
        });
    });
    group.bench_function("backward input", |b| {
        b.iter(|| {
            device
                .linear_backward_input(&y, &weight, &mut grad_x, false, TOKENS, HIDDEN, outputs)
                .expect("valid shapes");
        });
    });
    group.bench_function("backward weight", |b| {
        b.iter(|| {
            device
                .linear_backward_weight(&y, &x, &mut grad, TOKENS, HIDDEN, outputs)
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
            device
                .global_norm(&[(&gradient, len)], black_box(&mut norm))
                .expect("valid shapes")
        });
    });
    group.bench_function("adamw", |b| {
        b.iter(|| {
            device
                .adamw(
                    &mut weight,
                    &mut gradient,
                    &mut state,
                    &norm,
                    &rate,
                    &step,
                    len,
                )
                .expect("valid shapes")
        });
    });
    group.finish();
}

criterion_group!(benches, head, experts, attention, dense, optimizer);
criterion_main!(benches);
