//! The same bits on any number of threads: what is summed by several of them is cut into parts that
//! do not depend on their number, and the parts are added in their order.

use anyhow::Result;
use muni_engine::ops::AttentionShape;
use muni_engine::ops::conformance::router::Load;
use muni_engine::ops::conformance::{Outputs, Precision, TestDevice};
use muni_engine::ops::conformance::{attention, embedding, experts, head, linear, optimizer};
use muni_engine::ops::conformance::{rmsnorm, router};
use muni_engine::ops::cpu::CpuDevice;

/// Runs once on pools of 1, 2 and 3 threads, each with a fresh device, and compares bits.
fn same_bits_on_any_pool(
    name: &str,
    run: impl Fn(TestDevice<CpuDevice>) -> Result<Outputs> + Sync,
) {
    let bits = |threads: usize| -> Vec<(&'static str, Vec<u32>)> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
        let outputs = pool.build().unwrap().install(|| {
            assert_eq!(rayon::current_num_threads(), threads);
            run(TestDevice::new(&CpuDevice::new(), Precision::Single)).unwrap()
        });
        let to_bits = |values: Vec<f32>| values.into_iter().map(f32::to_bits).collect();
        outputs
            .into_iter()
            .map(|(output, values)| (output, to_bits(values)))
            .collect()
    };
    let expected = bits(1);
    for threads in [2, 3] {
        for ((output, expected), (_, found)) in expected.iter().zip(bits(threads)) {
            let differing = expected.iter().zip(&found).filter(|(a, b)| a != b).count();
            assert_eq!(differing, 0, "{name}: {output} on {threads} threads");
        }
    }
}

#[test]
fn dense_operations_are_deterministic() {
    for rows in [7, 65, 257] {
        same_bits_on_any_pool("embedding_backward", |test| {
            embedding::embedding_backward(test, (rows, 131, 40))
        });
        same_bits_on_any_pool("rmsnorm_backward", |test| {
            rmsnorm::rmsnorm_backward(test, (rows, 384))
        });
        for shape in [(rows, 384, 448), (rows, 36, 131)] {
            same_bits_on_any_pool("linear_forward", |test| {
                linear::linear_forward(test, shape, true)
            });
            same_bits_on_any_pool("linear_backward_input", |test| {
                linear::linear_backward_input(test, shape, true)
            });
            same_bits_on_any_pool("linear_backward_weight", |test| {
                linear::linear_backward_weight(test, shape)
            });
        }
    }
}

#[test]
fn attention_is_deterministic() {
    let shape = AttentionShape {
        heads: 6,
        kv_heads: 3,
        head_dim: 36,
    };
    for lengths in [&[300][..], &[5, 130, 1, 17, 64]] {
        same_bits_on_any_pool("attention_forward", |test| {
            attention::attention_forward(test, &shape, lengths, 1.0)
        });
        same_bits_on_any_pool("attention_backward", |test| {
            attention::attention_backward(test, &shape, lengths, 1.0)
        });
    }
}

#[test]
fn router_and_experts_are_deterministic() {
    let shape = router::shape(36, 44, 5, 2);
    for rows in [17, 257] {
        for load in [Load::Random, Load::OneTakesAll] {
            same_bits_on_any_pool("router_backward", |test| {
                router::router_backward(test, &shape, &[0, 9, rows as u32], load)
            });
            same_bits_on_any_pool("experts_forward", |test| {
                experts::experts_forward(test, &shape, rows, load, 1.0)
            });
            same_bits_on_any_pool("experts_backward", |test| {
                experts::experts_backward(test, &shape, rows, load, 1.0)
            });
        }
    }
}

#[test]
fn head_loss_is_deterministic() {
    for case in [
        head::Case::new(7, 5003, 48, 2),
        head::Case::new(600, 1031, 36, 0),
        head::Case::new(130, 257, 384, 3),
    ] {
        same_bits_on_any_pool("head_loss", |test| head::head_loss(test, case));
    }
}

#[test]
fn global_norm_is_deterministic() {
    same_bits_on_any_pool("global_norm", |test| {
        optimizer::global_norm(test, &[17, 200_003, 65_537, 400_000], 3.0)
    });
}
