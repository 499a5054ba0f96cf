//! Every kind of mistake that the simulator is to find is made by a kernel of `faults.cu`, and
//! found with the right name and line; kernels without a mistake pass.

use super::library;
use muni_engine::ops::cuda::driver::simulator::SimDriver;
use muni_engine::ops::cuda::driver::{Driver, Kernel, Parameter, ParameterKind, launch};
use muni_engine::ops::cuda::memory::{DeviceBuffer, Ptr, PtrMut};
use std::ffi::{CStr, CString, c_void};
use std::path::Path;
use std::sync::{Arc, OnceLock};

/// A kernel and words of the message that must name its fault; none where it has no fault.
type Case = (&'static str, &'static [&'static str]);

const CASES: &[Case] = &[
    ("right", &[]),
    ("early_return", &[]),
    ("scratch_right", &[]),
    (
        "missing_barrier",
        &["no certain value", "nobody has written yet"],
    ),
    (
        "overwritten_early",
        &["no certain value", "a race", "Greedy"],
    ),
    (
        "divergent_barrier",
        &["divergent barrier", "__syncthreads", "LINE+2", "LINE+4"],
    ),
    (
        "deadlock",
        &["deadlock", "threads 40..40 wait", "LINE+2", "__syncwarp"],
    ),
    (
        "lane_returned",
        &["lane 3 returns", "00000007", "warp_sum", "LINE+2"],
    ),
    ("divergent_warp", &["divergent warp", "LINE+4", "LINE+6"]),
    ("masks_differ", &["ffffff00", "ffffffff", "LINE+2"]),
    ("not_in_mask", &["0000ffff", "which is not in it", "LINE+2"]),
    ("reads_lane_outside", &["reads lane 9", "LINE+3"]),
    (
        "writes_behind",
        &["byte 256 of a buffer of 256", "out of bounds"],
    ),
    ("writes_before", &["byte -", "out of bounds"]),
    ("reads_behind", &["memory that nobody has written yet"]),
    (
        "reads_unwritten_scratch",
        &["memory that nobody has written yet"],
    ),
    (
        "reads_unwritten_shared",
        &["memory that nobody has written yet"],
    ),
    (
        "reads_unwritten_dynamic",
        &["memory that nobody has written yet"],
    ),
    (
        "shared_out_of_bounds",
        &["byte 256 of a shared array of 256", "out of bounds"],
    ),
    (
        "too_much_shared",
        &["104000 bytes of shared memory", "LINE+1"],
    ),
    ("blocks_meet", &["no certain value", "a race"]),
    ("copy_not_waited", &["memory that nobody has written yet"]),
    ("copy_without_barrier", &["no certain value"]),
    ("copy_in_flight", &["1 cp.async copies", "never waited for"]),
    (
        "copy_misaligned",
        &["cp.async 16", "multiple of 16", "LINE+2"],
    ),
    ("copy_source_changes", &["no certain value"]),
    (
        "matrix_misaligned",
        &["ldmatrix.x4", "multiple of 16", "LINE+5"],
    ),
    ("vector_misaligned", &["load16", "multiple of 16"]),
];

fn faults() -> &'static Path {
    static LIBRARY: OnceLock<std::path::PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| library::compile("faults", &[unit()], &[]))
}

/// The translation unit of all cases.
pub fn unit() -> (String, String) {
    let names: Vec<&str> = CASES.iter().map(|(name, _)| *name).collect();
    library::unit_of("faults", "#include \"faults.cu\"\n", &names)
}

/// Of every kernel of `faults.cu`.
const PARAMETERS: &[Parameter] = &[
    parameter("out", ParameterKind::Write(4)),
    parameter("in", ParameterKind::Read(4)),
    parameter("n", ParameterKind::Value),
    parameter("scratch", ParameterKind::Write(4)),
];

const fn parameter(name: &'static str, kind: ParameterKind) -> Parameter {
    Parameter { name, kind }
}

fn kernel(name: &str) -> &'static Kernel {
    let name: &'static CStr = Box::leak(CString::new(name).unwrap().into_boxed_c_str());
    Box::leak(Box::new(Kernel {
        index: usize::MAX,
        module: 0,
        name,
        threads: 64,
        dynamic_shared: 1024,
        parameters: PARAMETERS,
    }))
}

/// Runs a kernel of `faults.cu` on two blocks; what the driver says.
pub fn run(driver: SimDriver, name: &str) -> anyhow::Result<Vec<f32>> {
    let driver: Arc<dyn Driver> = Arc::new(driver);
    let count = 64;
    let mut out: DeviceBuffer<f32> = DeviceBuffer::new(&driver, count, true)?;
    let mut input = DeviceBuffer::new(&driver, count, true)?;
    let mut scratch: DeviceBuffer<f32> = DeviceBuffer::new(&driver, count, false)?;
    let values: Vec<f32> = (0..count).map(|i| i as f32 + 0.5).collect();
    input.upload(&values)?;
    let blocks = if name == "blocks_meet" { 2 } else { 1 };
    let (a, b, n, c): (PtrMut<f32>, Ptr<f32>, i32, PtrMut<f32>) =
        (out.ptr_mut(), input.ptr(), count as i32, scratch.ptr_mut());
    let mut arguments: [*mut c_void; 4] = [
        (&raw const a).cast_mut().cast(),
        (&raw const b).cast_mut().cast(),
        (&raw const n).cast_mut().cast(),
        (&raw const c).cast_mut().cast(),
    ];
    // SAFETY: the arguments are of the kernel's types; what it does beyond its buffers is the
    // simulator's to find.
    unsafe { launch(&*driver, kernel(name), [blocks, 1, 1], 256, &mut arguments) }?;
    out.download(count)
}

/// Line of `FAULT(name)` in faults.cu.
pub fn line_of(name: &str) -> usize {
    let text = include_str!("faults.cu");
    let at = text
        .lines()
        .position(|line| line.starts_with(&format!("FAULT({name})")));
    at.unwrap() + 1
}

#[test]
fn seeded_faults_are_found_and_named() {
    for (name, words) in CASES {
        let driver = SimDriver::load(faults(), true).unwrap();
        let result = run(driver, name).map_err(|error| format!("{error:#}"));
        match (result, words.is_empty()) {
            (Ok(_), true) => {}
            (Ok(_), false) => panic!("{name}: its fault was not found"),
            (Err(message), true) => panic!("{name} has no fault, but: {message}"),
            (Err(message), false) => {
                assert!(message.contains(name), "{name} is not named: {message}");
                for word in *words {
                    let word = match word.strip_prefix("LINE+") {
                        Some(after) => {
                            let line = line_of(name) + after.parse::<usize>().unwrap();
                            format!("faults.cu:{line}")
                        }
                        None => (*word).to_owned(),
                    };
                    assert!(message.contains(&word), "{name}: no `{word}` in: {message}");
                }
            }
        }
    }
}

#[test]
fn kernels_without_a_fault_give_their_results() {
    for verify in [false, true] {
        let load = || SimDriver::load(faults(), verify).unwrap();
        let out = run(load(), "right").unwrap();
        assert!((0..64).all(|t| out[t] == ((t + 1) % 64) as f32 + 0.5));
        let out = run(load(), "early_return").unwrap();
        let expected = |t: usize| match t % 32 < 24 {
            true => t as f32 + (t / 32 * 32 + ((t % 32) ^ 7)) as f32 + 1.0,
            false => 0.0,
        };
        assert!((0..64).all(|t| out[t] == expected(t)), "{out:?}");
    }
}

#[test]
fn a_fault_leaves_the_simulator_usable() {
    let driver: Arc<dyn Driver> = Arc::new(SimDriver::load(faults(), false).unwrap());
    let mut out: DeviceBuffer<f32> = DeviceBuffer::new(&driver, 64, true).unwrap();
    let mut input: DeviceBuffer<f32> = DeviceBuffer::new(&driver, 64, true).unwrap();
    input.upload(&[2.0; 64]).unwrap();
    for name in ["divergent_barrier", "right", "deadlock", "right"] {
        let (a, b, n, c) = (out.ptr_mut(), input.ptr(), 64_i32, PtrMut::<f32>::null());
        let mut arguments: [*mut c_void; 4] = [
            (&raw const a).cast_mut().cast(),
            (&raw const b).cast_mut().cast(),
            (&raw const n).cast_mut().cast(),
            (&raw const c).cast_mut().cast(),
        ];
        // SAFETY: the arguments are of the kernel's types, and these kernels leave the scratch
        // memory alone.
        let result = unsafe { launch(&*driver, kernel(name), [1, 1, 1], 0, &mut arguments) };
        assert_eq!(result.is_ok(), name == "right", "{name}");
    }
    assert_eq!(out.download(64).unwrap(), [2.0; 64]);
}

#[test]
fn impossible_launches_are_refused() {
    let driver = SimDriver::load(faults(), true).unwrap();
    let cases = [
        ([1, 65_536, 1], 0, "65535"),
        ([1, 1, 1], 1025, "MAX_DYN_SMEM"),
        ([u32::MAX, 1, 1], 0, "2147483647"),
    ];
    for (grid, shared, word) in cases {
        // SAFETY: nothing is launched.
        let result = unsafe { launch(&driver, kernel("right"), grid, shared, &mut []) };
        let message = result.unwrap_err().to_string();
        assert!(message.contains(word), "{message}");
    }
    // SAFETY: a grid without blocks runs nothing.
    unsafe { launch(&driver, kernel("right"), [0, 1, 1], 0, &mut []) }.unwrap();
    // SAFETY: there is no kernel of that name, so nothing is launched.
    let error = unsafe { launch(&driver, kernel("none"), [1, 1, 1], 0, &mut []) }.unwrap_err();
    assert!(error.to_string().contains("none"), "{error}");
    assert!(SimDriver::load(Path::new("/no/such/library.so"), true).is_err());
}
