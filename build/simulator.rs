//! Compiles the kernels with the host's C++ compiler, for the simulator. Where there is no such
//! compiler the build goes on without, and the binary says so when the simulator is asked for.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cache::{Cache, Key, in_parallel};
use crate::display;
use crate::signatures::Source;

/// What was made of the simulator.
pub enum Simulator {
    /// It is linked.
    Built,
    /// Why there is none.
    None(String),
}

const FLAGS: [&str; 10] = [
    "-std=c++20",
    "-O2",
    "-fPIC",
    // The card's compiler contracts, the simulator does not: its results are the same on every
    // host.
    "-ffp-contract=off",
    "-fno-exceptions",
    "-fvisibility=hidden",
    "-Wall",
    "-Wextra",
    "-Wno-unknown-pragmas",
    "-Wno-unused-parameter",
];

/// Compiles all sources and tells cargo to link them.
pub fn build(
    kernels: &Path,
    sources: &[Source],
    cache: &Cache,
    out: &Path,
) -> Result<Simulator, String> {
    let none = |reason: String| Ok(Simulator::None(reason));
    let arch = env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    if env::var_os("CARGO_CFG_UNIX").is_none() || !["x86_64", "aarch64"].contains(&arch.as_str()) {
        return none("it runs on x86-64 and aarch64 under Unix only".to_owned());
    }
    let mut build = cc::Build::new();
    build.cpp(true).cargo_warnings(false).cargo_output(false);
    let compiler = match build.try_get_compiler() {
        Ok(compiler) => compiler,
        Err(error) => {
            return none(format!(
                "no C++ compiler was found when it was built ({error})"
            ));
        }
    };
    println!("cargo:rerun-if-env-changed=CXX");
    let version = Command::new(compiler.path()).arg("--version").output();
    let version = match version {
        Ok(output) if output.status.success() => output.stdout,
        _ => {
            return none(format!(
                "no C++ compiler was found when it was built ({} does not run)",
                display(compiler.path())
            ));
        }
    };

    let include = kernels.join("include");
    let mut units = vec![("library".to_owned(), kernels.join("sim/library.cpp"))];
    for source in sources {
        let path = out.join(format!("sim_{}.cpp", source.name));
        fs::write(&path, wrapper(source)).map_err(|e| format!("{}: {e}", display(&path)))?;
        units.push((source.name.clone(), path));
    }
    let folders = [include.clone(), kernels.to_path_buf()];
    let objects = in_parallel(&units, |(name, path)| {
        let mut key = Key::new();
        key.add(&version);
        for argument in compiler.args() {
            key.add(argument.as_encoded_bytes());
        }
        FLAGS.iter().for_each(|flag| key.add(flag.as_bytes()));
        key.add_source(path, &folders, None)?;
        cache.file(&key, &format!("sim_{name}"), "o", |to| {
            let mut command = Command::new(compiler.path());
            command.args(compiler.args()).args(FLAGS).arg("-c");
            for folder in &folders {
                command.arg("-I").arg(folder);
            }
            let output = command.arg("-o").arg(to).arg(path).output();
            let output = output.map_err(|e| format!("{}: {e}", display(compiler.path())))?;
            match output.status.success() {
                true => Ok(()),
                false => Err(format!(
                    "{} failed on {name}:\n{}",
                    display(compiler.path()),
                    String::from_utf8_lossy(&output.stderr)
                )),
            }
        })
    })?;
    archive(&objects)?;
    Ok(Simulator::Built)
}

/// Bundles the objects and links them, with the C++ library inside the binary where the compiler
/// has it as an archive.
fn archive(objects: &[PathBuf]) -> Result<(), String> {
    let mut build = cc::Build::new();
    build.cpp(true).cpp_link_stdlib(None).objects(objects);
    build
        .try_compile("muni_sim")
        .map_err(|e| format!("bundling the simulator: {e}"))?;
    println!("cargo:rustc-cfg=simulator");
    if env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "macos") {
        println!("cargo:rustc-link-lib=c++");
        return Ok(());
    }
    let compiler = cc::Build::new().cpp(true).get_compiler();
    let found = Command::new(compiler.path())
        .arg("-print-file-name=libstdc++.a")
        .output();
    let found = found.map_or(String::new(), |output| {
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    });
    match Path::new(&found).parent() {
        Some(folder) if Path::new(&found).is_absolute() => {
            println!("cargo:rustc-link-search=native={}", display(folder));
            println!("cargo:rustc-link-lib=static:-bundle=stdc++");
        }
        _ => println!("cargo:rustc-link-lib=stdc++"),
    }
    Ok(())
}

/// The translation unit of one source: its kernels in a namespace of their own, so that equal
/// names of helpers in two files do not meet, and an entry of the simulator's calling convention
/// for each.
pub fn wrapper(source: &Source) -> String {
    let mut text = format!(
        "#include \"common.cuh\"\n#include \"../sim/invoke.h\"\nnamespace {} {{\n{}}}\n",
        source.name,
        source.unit()
    );
    for kernel in &source.kernels {
        text += &format!("SIM_EXPORT({0}::{1}, {1})\n", source.name, kernel.name);
    }
    text
}
