//! Finds nvcc and compiles each `.cu`, with the entry points of its variants, to a fatbin: machine
//! code for every architecture and PTX for what comes later.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cache::{Cache, Key, in_parallel};
use crate::display;
use crate::settings::{self, Mode};
use crate::signatures::Source;

/// What nvcc made, or why there is nothing.
pub enum Fatbins {
    /// Fatbin and ptxas' report of each source.
    Built {
        files: Vec<(PathBuf, PathBuf)>,
        archs: String,
    },
    /// Why the binary has no kernels.
    None(String),
}

/// Compiles all sources where `MUNI_CUDA` allows it and nvcc is there.
pub fn build(
    kernels: &Path,
    sources: &[Source],
    cache: &Cache,
    out: &Path,
) -> Result<Fatbins, String> {
    for name in [
        "MUNI_CUDA",
        "MUNI_CUDA_ARCHS",
        "MUNI_NVCC",
        "CUDA_HOME",
        "CUDA_PATH",
    ] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    let variable = |name: &str| env::var(name).ok();
    let mode = settings::mode(variable("MUNI_CUDA").as_deref())?;
    if mode == Mode::Off {
        return Ok(Fatbins::None("it was built with MUNI_CUDA=off".to_owned()));
    }
    let archs = settings::archs(variable("MUNI_CUDA_ARCHS").as_deref())?;
    let (nvcc, version) = match find()? {
        Ok(found) => found,
        Err(reason) => return settings::without_nvcc(mode, reason).map(Fatbins::None),
    };
    let folders = [kernels.join("include"), kernels.to_path_buf()];
    let mut flags: Vec<String> = ["-fatbin", "-std=c++20", "-O3", "-Xptxas", "-v"]
        .map(str::to_owned)
        .to_vec();
    for arch in &archs {
        flags.push(format!("-gencode=arch=compute_{arch},code=sm_{arch}"));
    }
    // The lowest, so that every card from there on is served, also ones between the listed
    // architectures.
    flags.push(format!(
        "-gencode=arch=compute_{0},code=compute_{0}",
        archs[0]
    ));
    let files = in_parallel(sources, |source| {
        let unit = out.join(format!("cuda_{}.cu", source.name));
        fs::write(&unit, source.unit()).map_err(|e| format!("{}: {e}", display(&unit)))?;
        let mut key = Key::new();
        key.add(version.as_bytes());
        for flag in &flags {
            key.add(flag.as_bytes());
        }
        key.add_source(&unit, &folders, Some("sim/"))?;
        let mut report = Vec::new();
        let fatbin = cache.file(&key, &source.name, "fatbin", |path| {
            report = compile(&nvcc, &flags, &folders, &unit, path)?;
            Ok(())
        })?;
        let report_made = !report.is_empty();
        let text = cache.file(&key, &source.name, "ptxas", |path| {
            if !report_made {
                // The fatbin was there, its report was not: make both again.
                report = compile(&nvcc, &flags, &folders, &unit, &fatbin)?;
            }
            fs::write(path, &report).map_err(|e| format!("{}: {e}", display(path)))
        })?;
        Ok((fatbin, text))
    })?;
    let archs = archs.join(",");
    Ok(Fatbins::Built { files, archs })
}

/// Compiles one file; returns what ptxas says about it.
fn compile(
    nvcc: &Path,
    flags: &[String],
    folders: &[PathBuf],
    source: &Path,
    to: &Path,
) -> Result<Vec<u8>, String> {
    let output = Command::new(nvcc)
        .args(flags)
        .args(folders.iter().flat_map(|folder| [Path::new("-I"), folder]))
        .arg("-o")
        .arg(to)
        .arg(source)
        .output()
        .map_err(|e| format!("{}: {e}", display(nvcc)))?;
    if !output.status.success() {
        return Err(format!(
            "{} failed on {}:\n{}{}",
            display(nvcc),
            display(source),
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        ));
    }
    // ptxas' notes come on either stream.
    Ok([output.stdout, output.stderr].concat())
}

/// nvcc and its version, or why there is none. A path that was given and does not work is an error.
fn find() -> Result<Result<(PathBuf, String), String>, String> {
    if let Ok(given) = env::var("MUNI_NVCC") {
        let path = PathBuf::from(&given);
        return match version(&path) {
            Some(version) => Ok(Ok((path, version))),
            None => Err(format!(
                "MUNI_NVCC is {given}, which does not run: expected the path of nvcc"
            )),
        };
    }
    let homes = ["CUDA_HOME", "CUDA_PATH"]
        .into_iter()
        .filter_map(env::var_os);
    let mut candidates: Vec<PathBuf> = homes
        .map(|home| Path::new(&home).join("bin/nvcc"))
        .collect();
    candidates.push(PathBuf::from("nvcc"));
    candidates.push(PathBuf::from("/usr/local/cuda/bin/nvcc"));
    candidates.extend(python_packages());
    for path in candidates {
        if let Some(version) = version(&path) {
            return Ok(Ok((path, version)));
        }
    }
    Ok(Err(
        "no nvcc was found when it was built (tried MUNI_NVCC, CUDA_HOME, CUDA_PATH, PATH, \
         /usr/local/cuda and Python's packages)"
            .to_owned(),
    ))
}

fn version(nvcc: &Path) -> Option<String> {
    let output = Command::new(nvcc).arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.success() && text.contains("nvcc")).then_some(text)
}

/// nvcc as `pip install nvidia-cuda-nvcc` leaves it: `nvidia/cu13/bin/nvcc` in a folder of Python's
/// path.
fn python_packages() -> Vec<PathBuf> {
    let script = "import sys; print('\\n'.join(sys.path))";
    let output = ["python3", "python"]
        .into_iter()
        .filter_map(|python| Command::new(python).args(["-c", script]).output().ok())
        .find(|output| output.status.success());
    let text = output.map_or(String::new(), |output| {
        String::from_utf8_lossy(&output.stdout).into_owned()
    });
    text.lines()
        .filter(|line| !line.is_empty())
        .map(|line| Path::new(line).join("nvidia/cu13/bin/nvcc"))
        .filter(|path| path.exists())
        .collect()
}
