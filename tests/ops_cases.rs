//! The conformance suite (`muni_engine::ops::conformance`) on the CPU, and on the simulator, which
//! checks each launch under five schedules, in fp16 and in bf16; what several threads and callers'
//! mistakes must not do; and that the table finds what is wrong. `MUNI_SIM_LIBRARY` names another
//! build of the kernels, `MUNI_TEST_DEVICE` a card.

mod determinism;
mod errors;
mod wrong_device;

use half::f16;
use muni_engine::ops::conformance::bounds::{BOUNDS, HALF_BOUNDS};
use muni_engine::ops::conformance::{Precision, TestDevice, checks, difference};
use muni_engine::ops::cpu::{CpuDevice, MatmulPrecision};
use muni_engine::ops::cuda::memory::Element;
use muni_engine::ops::cuda::{CudaDevice, LossScaling};
use muni_engine::ops::reference::ReferenceDevice;
use muni_engine::ops::{Device, Operations};

/// The simulated card, checking every launch, without a loss scale.
fn simulator<E: Element>() -> CudaDevice<E> {
    let driver = crate::cuda::device::watched_driver(false);
    CudaDevice::on(driver, LossScaling::Fixed(1.0)).unwrap()
}

/// Runs one check of the table.
fn passes<D: Operations>(name: &str, device: &D, precision: Precision) {
    let table = checks::<D>();
    let check = table.iter().find(|check| check.name == name).unwrap();
    let outcome = check.run(device, precision);
    println!("{outcome}");
    assert!(outcome.passed, "{outcome}");
    assert!(outcome.cases > 0 && outcome.values >= outcome.cases);
}

/// A check on the CPU, and with products of bf16 where it has cases for it.
fn passes_on_cpu(name: &str) {
    passes(name, &CpuDevice::new(), Precision::Single);
    if cases_of(name, Precision::Bfloat) > 0 {
        let device = CpuDevice::with_precision(MatmulPrecision::Bf16);
        passes(name, &device, Precision::Bfloat);
    }
}

/// A test that runs a check on the CPU.
macro_rules! on_cpu {
    ($name:ident, $check:literal) => {
        #[test]
        fn $name() {
            super::passes_on_cpu($check);
        }
    };
}

/// The same with a check that the reference device itself can fail.
macro_rules! on_cpu_and_reference {
    ($name:ident, $check:literal) => {
        #[test]
        fn $name() {
            super::passes_on_cpu($check);
            super::passes($check, &super::ReferenceDevice, super::Precision::Single);
        }
    };
}

/// A test that runs a check on the simulator in fp16, and in bf16 where it has cases for it.
macro_rules! on_simulator {
    ($name:ident, $check:literal) => {
        #[test]
        fn $name() {
            use super::{Precision, passes, simulator};
            passes($check, &simulator::<half::f16>(), Precision::Half);
            if super::cases_of($check, Precision::Bfloat) > 0 {
                passes($check, &simulator::<half::bf16>(), Precision::Bfloat);
            }
        }
    };
}

fn cases_of(name: &str, precision: Precision) -> usize {
    let table = checks::<CpuDevice>();
    let check = table.iter().find(|check| check.name == name).unwrap();
    check.cases(precision)
}

mod dense {
    on_cpu!(cpu_equals_reference_embedding, "dense/embedding");
    on_simulator!(sim_equals_reference_embedding, "dense/embedding");
    on_cpu!(cpu_equals_reference_rmsnorm, "dense/rmsnorm");
    on_simulator!(sim_equals_reference_rmsnorm, "dense/rmsnorm");
    on_cpu!(cpu_equals_reference_linear, "dense/linear");
    on_simulator!(sim_equals_reference_linear, "dense/linear");
    on_cpu!(cpu_equals_reference_rope, "dense/rope");
    on_simulator!(sim_equals_reference_rope, "dense/rope");
}

mod attention {
    on_cpu!(cpu_equals_reference_attention, "attention/segments");
    on_simulator!(sim_equals_reference_attention, "attention/segments");
    on_cpu!(cpu_equals_reference_attention_cached, "attention/cached");
    on_simulator!(sim_equals_reference_attention_cached, "attention/cached");
    on_cpu_and_reference!(
        cpu_attention_cached_texts_equals_each_alone,
        "attention/texts"
    );
    on_simulator!(
        sim_attention_cached_texts_equals_each_alone,
        "attention/texts"
    );
}

mod moe {
    use muni_engine::ops::MoeShape;
    use muni_engine::ops::conformance::Precision;
    use muni_engine::ops::conformance::router::{Load, routing, shape};

    on_cpu!(cpu_equals_reference_router, "moe/router");
    on_simulator!(sim_equals_reference_router, "moe/router");
    on_cpu!(cpu_equals_reference_experts, "moe/experts");
    on_simulator!(sim_equals_reference_experts, "moe/experts");

    #[test]
    fn loads_are_what_their_names_say() {
        let routing = |shape: MoeShape, load| routing(Precision::Single, &shape, 65, load).unwrap();
        let sizes = |shape: MoeShape, load| -> Vec<u32> {
            let offsets = routing(shape, load).offsets;
            offsets.windows(2).map(|pair| pair[1] - pair[0]).collect()
        };
        assert_eq!(sizes(shape(40, 44, 5, 3), Load::OneTakesAll)[4], 65);
        assert_eq!(sizes(shape(36, 44, 5, 2), Load::Empty)[1..3], [0, 0]);
        let tied = routing(shape(36, 44, 8, 2), Load::Ties).experts;
        assert!(tied.chunks(2).all(|chosen| !chosen.contains(&3)));
        assert!(tied.chunks(2).any(|chosen| chosen == [0, 2]));
    }
}

mod head {
    on_cpu!(cpu_equals_reference_head, "head/loss");
    on_simulator!(sim_equals_reference_head, "head/loss");
    on_simulator!(
        sim_equals_reference_head_gpt2_vocabulary,
        "head/gpt2-vocabulary"
    );
    on_cpu_and_reference!(cpu_head_ignores_all_targets, "head/all-ignored");
    on_simulator!(sim_head_ignores_all_targets, "head/all-ignored");
    on_cpu_and_reference!(cpu_head_shows_broken_input, "head/broken-input");
    on_simulator!(sim_head_shows_broken_input, "head/broken-input");
}

mod optimizer {
    on_cpu!(cpu_equals_reference_global_norm, "optimizer/global-norm");
    on_simulator!(sim_equals_reference_global_norm, "optimizer/global-norm");
    on_cpu!(cpu_equals_reference_adamw, "optimizer/adamw");
    on_simulator!(sim_equals_reference_adamw, "optimizer/adamw");
    on_cpu_and_reference!(cpu_adamw_refuses_a_broken_norm, "optimizer/broken-norm");
    on_simulator!(sim_adamw_refuses_a_broken_norm, "optimizer/broken-norm");

    #[test]
    fn sim_loss_scale_follows_the_norms() {
        crate::cuda::conformance::passes("optimizer/loss-scale");
    }
}

/// A check that joins the table has its tests above.
#[test]
fn every_check_is_a_test_here() {
    let text = include_str!("ops_cases.rs").replace(char::is_whitespace, "");
    // A macro's arguments are a test's name and a check's.
    let has = |macros: &[&str], check: &str| {
        let end = format!(",\"{check}\"");
        let mut calls = text.split(");");
        calls.any(|call| {
            let mut found = macros.iter().filter_map(|name| call.rsplit_once(name));
            found.any(|(_, arguments)| arguments.ends_with(&end) && !arguments.contains('('))
        })
    };
    for check in checks::<CpuDevice>() {
        let name = check.name;
        let [single, half, bfloat] =
            [Precision::Single, Precision::Half, Precision::Bfloat].map(|p| check.cases(p));
        assert!(single + half + bfloat > 0, "{name}");
        assert_eq!(
            single > 0,
            has(&["on_cpu!(", "on_cpu_and_reference!("], name),
            "{name}"
        );
        assert_eq!(half > 0, has(&["on_simulator!("], name), "{name}");
        assert!(half >= bfloat, "{name}: no test would run it");
    }
}

#[test]
fn the_comparison_sees_nan_bias_and_sentinels() {
    let expected = vec![1.0_f32; 2000];
    let difference = |found: &[f32]| difference(Precision::Single, found, &expected);
    assert_eq!(difference(&expected), (0.0, 0.0));
    let mut found = expected.clone();
    found[7] = f32::NAN;
    assert!(difference(&found).0.is_nan());
    let shifted: Vec<f32> = expected.iter().map(|value| value + 0.5).collect();
    assert_eq!(difference(&shifted), (0.5, 0.5));

    let test = TestDevice::new(&ReferenceDevice, Precision::Single);
    let mut buffer = test.written(3).unwrap();
    let read = test.read(&buffer, 3).unwrap();
    assert!(read.len() == 3 && read.iter().all(|value| value.is_nan()));
    buffer[3] = 0.0;
    assert!(test.read(&buffer, 3).is_err());
}

#[test]
fn the_documentation_gives_the_same_bounds() {
    let text = include_str!("../docs/numerics.md");
    for bound in BOUNDS.iter().chain(HALF_BOUNDS) {
        let row = format!(
            "| `{}` | {:e} | {:e} | {} |",
            bound.operation, bound.error, bound.bias, bound.reason
        );
        assert!(text.contains(&row), "docs/numerics.md lacks the row\n{row}");
    }
}
