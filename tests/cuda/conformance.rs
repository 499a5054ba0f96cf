//! `muni_engine::ops::cuda::instructions` on the simulator: single instructions, each against the
//! manual's tables. That a driver which computes nothing passes none of it.

use muni_engine::ops::cuda::driver::Driver;
use muni_engine::ops::cuda::driver::fake::FakeDriver;
use muni_engine::ops::cuda::instructions::{CHECKS, Check};
use std::sync::Arc;

/// Runs one check.
pub fn passes(name: &str) {
    let named = |check: &&Check| check.name == name;
    let check = CHECKS.iter().find(named).unwrap();
    let outcome = check.run(&super::device::watched_driver(true));
    println!("{outcome}");
    assert!(outcome.passed, "{outcome}");
    assert!(outcome.cases > 0 && outcome.values > outcome.cases);
}

/// A test per check, and their names.
macro_rules! checks {
    ($($name:ident: $check:literal;)*) => {
        $(#[test]
        fn $name() {
            passes($check);
        })*
        const NAMES: &[&str] = &[$($check),*];
    };
}

checks! {
    ldmatrix_gives_each_lane_its_elements: "conformance/ldmatrix";
    mma_multiplies_what_its_registers_hold: "conformance/mma";
    cp_async_copies_fills_and_waits: "conformance/cp-async";
    warp_primitives_follow_the_programming_guide: "conformance/warp";
    conversions_are_exact_one_way_and_rounded_the_other: "conformance/convert";
    powers_of_two_are_within_two_units: "conformance/ex2";
    block_primitives_see_all_threads: "conformance/block";
    reductions_are_those_of_the_shuffles: "conformance/reduce";
}

#[test]
fn every_check_is_a_test() {
    // `ops_cases::optimizer` has the last.
    let names: Vec<&str> = NAMES
        .iter()
        .copied()
        .chain(["optimizer/loss-scale"])
        .collect();
    let checks: Vec<&str> = CHECKS.iter().map(|check| check.name).collect();
    assert_eq!(names, checks);
}

#[test]
fn a_driver_that_computes_nothing_fails_every_case() {
    let drivers: [Arc<dyn Driver>; 2] = [
        Arc::new(FakeDriver::new(4)),
        Arc::new(FakeDriver::checked(4)),
    ];
    for driver in drivers {
        for check in &CHECKS {
            let outcome = check.run(&driver);
            assert!(outcome.cases > 0, "{outcome}");
            assert_eq!(outcome.failed_cases, outcome.cases, "{outcome}");
        }
    }
}
