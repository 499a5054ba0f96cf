//! Builds what is written in `kernels/`: the entry points of kernels with variants, fatbins for
//! cards, objects for the simulator, typed launchers for both, the constants that the host needs.
//!
//! `MUNI_CUDA=auto` (the default) compiles for cards where nvcc is found, `require` fails where it
//! is not, `off` leaves it out. `MUNI_CUDA_ARCHS` (default `80,86,89,90,120`) are the
//! architectures; PTX of the first serves all newer ones. Results are kept in
//! `target/kernel-cache` under a hash of everything they are made from.

#[path = "build/cache.rs"]
mod cache;
#[path = "build/constants.rs"]
mod constants;
#[path = "build/launchers.rs"]
mod launchers;
#[path = "build/nvcc.rs"]
mod nvcc;
#[path = "build/settings.rs"]
mod settings;
#[path = "build/signatures.rs"]
mod signatures;
#[path = "build/simulator.rs"]
mod simulator;
#[path = "build/tokens.rs"]
mod tokens;
#[path = "build/variants.rs"]
mod variants;

use std::env;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            for line in message.lines().take(40) {
                println!("cargo:warning={line}");
            }
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    for path in ["build.rs", "build", "kernels"] {
        println!("cargo:rerun-if-changed={path}");
    }
    println!("cargo:rustc-check-cfg=cfg(simulator)");
    let out = PathBuf::from(variable("OUT_DIR")?);
    let kernels = PathBuf::from(variable("CARGO_MANIFEST_DIR")?).join("kernels");
    let cache = cache::Cache::new(&out)?;
    let declared = signatures::read_folder(&kernels)?;
    let fatbins = nvcc::build(&kernels, &declared.sources, &cache, &out)?;
    let simulator = simulator::build(&kernels, &declared.sources, &cache, &out)?;
    launchers::write(&out.join("kernels.rs"), &declared, &fatbins, &simulator)
}

fn variable(name: &str) -> Result<String, String> {
    env::var(name).map_err(|_| format!("{name} is not set: build.rs runs under cargo"))
}

/// `text` as a Rust string literal.
fn literal(text: &str) -> String {
    format!("{text:?}")
}

fn display(path: &Path) -> String {
    path.display().to_string()
}
