//! The same kernels under AddressSanitizer: it sees each access past a buffer, also a read whose
//! value changes nothing. It must be loaded before everything else, so the tests run again in a
//! process of their own.

use super::{faults, library};
use muni_engine::ops::cuda::driver::simulator::SimDriver;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const FLAGS: [&str; 3] = [
    "-fsanitize=address,alignment,bounds",
    "-fno-sanitize-recover=all",
    "-fno-omit-frame-pointer",
];

/// Names the library for [`faults_under_the_sanitizer`], which runs in the other process.
const FAULTS: &str = "MUNI_TEST_FAULTS";
/// The kernel that it runs.
const FAULT: &str = "MUNI_TEST_FAULT";

/// Runs tests of this binary with AddressSanitizer loaded.
fn run_tests(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let found = Command::new(library::compiler())
        .arg("-print-file-name=libasan.so")
        .output()
        .unwrap();
    let runtime = String::from_utf8(found.stdout).unwrap();
    Command::new(std::env::current_exe().unwrap())
        .args(arguments)
        .env("LD_PRELOAD", runtime.trim())
        .env(
            "ASAN_OPTIONS",
            "detect_leaks=0:detect_stack_use_after_return=0",
        )
        .envs(variables.iter().copied())
        .output()
        .unwrap()
}

fn all_kernels() -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
    let declared = super::parser::signatures::read_folder(&folder).unwrap();
    let units: Vec<_> = declared
        .sources
        .iter()
        .map(|source| {
            let kernels: Vec<&str> = source.kernels.iter().map(|k| k.name.as_str()).collect();
            library::unit_of(&source.name, &source.unit(), &kernels)
        })
        .collect();
    library::compile("kernels_asan", &units, &FLAGS)
}

/// Minutes long: `.ci/run` runs it by its name.
#[test]
#[ignore = "minutes long; .ci/run runs it"]
fn all_simulator_cases_pass_under_the_sanitizer() {
    let library = all_kernels();
    let variable = ("MUNI_SIM_LIBRARY", library.to_str().unwrap());
    let output = run_tests(&["sim_equals", "conformance"], &[variable]);
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{errors}");
    assert!(
        text.contains("sim_equals_reference_rmsnorm ... ok"),
        "{text}"
    );
}

/// Does nothing in an ordinary run; see below.
#[test]
fn faults_under_the_sanitizer() {
    if let Some(library) = std::env::var_os(FAULTS) {
        let driver = SimDriver::load(library.as_ref(), false).unwrap();
        let name = std::env::var(FAULT).unwrap();
        faults::run(driver, &name).unwrap();
    }
}

#[test]
fn the_sanitizer_names_the_line_of_an_access_out_of_bounds() {
    let library = library::compile("faults_asan", &[faults::unit()], &FLAGS);
    for (name, word) in [
        ("reads_behind", "heap-buffer-overflow"),
        ("writes_behind", "heap-buffer-overflow"),
        ("shared_out_of_bounds", "index 64 out of bounds"),
        ("right", ""),
    ] {
        let output = run_tests(
            &["--exact", "cuda::sanitizer::faults_under_the_sanitizer"],
            &[(FAULTS, library.to_str().unwrap()), (FAULT, name)],
        );
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.success(), word.is_empty(), "{name}: {text}");
        if !word.is_empty() {
            assert!(text.contains(word), "{name}: {text}");
            let lines = (0..4).map(|after| format!("faults.cu:{}", faults::line_of(name) + after));
            assert!(
                lines.into_iter().any(|line| text.contains(&line)),
                "{name}: {text}"
            );
        }
    }
}
