//! Builds libraries of the simulator at test time: from kernels with seeded faults, or from all kernels with
//! AddressSanitizer.

use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The host's C++ compiler, as the build has it.
pub fn compiler() -> String {
    std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned())
}

/// Compiles a translation unit that includes kernels, together with the simulator, to a shared library.
pub fn compile(name: &str, unit: &str, flags: &[&str]) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (source, library) = (
        folder.join(format!("{name}.cpp")),
        folder.join(format!("{name}.so")),
    );
    std::fs::write(&source, unit).unwrap();
    let output = Command::new(compiler())
        .args(["-shared", "-fPIC", "-std=c++20", "-g", "-O1"])
        .args(["-ffp-contract=off", "-fvisibility=hidden"])
        .args(["-Wno-unknown-pragmas", "-I"])
        .arg(root().join("kernels/include"))
        .arg("-I")
        .arg(root().join("kernels"))
        .arg("-I")
        .arg(root().join("tests/cuda"))
        .args(flags)
        .arg("-o")
        .arg(&library)
        .arg(&source)
        .arg(root().join("kernels/sim/library.cpp"))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{name}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    library
}

/// A unit with the kernels of `tests/cuda/NAME.cu`.
pub fn unit_of(name: &str, kernels: &[&str]) -> String {
    let mut unit = format!(
        "#include \"common.cuh\"\n#include \"../sim/invoke.h\"\nnamespace {name} {{\n#include \"{name}.cu\"\n}}\n"
    );
    for kernel in kernels {
        unit += &format!("SIM_EXPORT({name}::{kernel}, {kernel})\n");
    }
    unit
}
