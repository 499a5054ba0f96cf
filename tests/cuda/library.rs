//! Builds libraries of the simulator at test time: from kernels with seeded faults, or from all
//! kernels with AddressSanitizer.

use rayon::prelude::*;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The host's C++ compiler, as the build has it.
pub fn compiler() -> String {
    std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned())
}

/// Compiles translation units that include kernels, together with the simulator, to a shared
/// library. A unit is a name and its text.
pub fn compile(name: &str, units: &[(String, String)], flags: &[&str]) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(&folder).unwrap();
    let run = |arguments: &[&str], output: &Path, inputs: &[PathBuf]| {
        let output = Command::new(compiler())
            .args(["-fPIC", "-std=c++20", "-g", "-O1", "-ffp-contract=off"])
            .args(["-fvisibility=hidden", "-Wno-unknown-pragmas"])
            .args(["kernels/include", "kernels", "tests/cuda"].map(|at| {
                let path = root().join(at);
                format!("-I{}", path.display())
            }))
            .args(flags)
            .args(arguments)
            .arg("-o")
            .arg(output)
            .args(inputs)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{name}: {text}");
    };
    let mut sources = vec![root().join("kernels/sim/library.cpp")];
    for (unit, text) in units {
        let path = folder.join(format!("{unit}.cpp"));
        std::fs::write(&path, text).unwrap();
        sources.push(path);
    }
    let objects: Vec<PathBuf> = sources
        .par_iter()
        .map(|source| {
            let object = folder.join(source.with_extension("o").file_name().unwrap());
            run(&["-c"], &object, std::slice::from_ref(source));
            object
        })
        .collect();
    let library = folder.join("library.so");
    run(&["-shared"], &library, &objects);
    library
}

/// A unit with the kernels of `NAME.cu`, which `text` includes: in a namespace of their own, as the
/// build has them.
pub fn unit_of(name: &str, text: &str, kernels: &[&str]) -> (String, String) {
    let mut unit = format!(
        "#include \"common.cuh\"\n#include \"../sim/invoke.h\"\nnamespace {name} {{\n{text}}}\n"
    );
    for kernel in kernels {
        unit += &format!("SIM_EXPORT({name}::{kernel}, {kernel})\n");
    }
    (name.to_owned(), unit)
}
