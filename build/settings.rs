//! What `MUNI_CUDA` and `MUNI_CUDA_ARCHS` ask for. Nothing but text here, so that tests can read it
//! too.

/// Whether kernels for cards are wanted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mode {
    /// No.
    Off,
    /// Where nvcc is found.
    Auto,
    /// Yes: without nvcc the build fails.
    Require,
}

pub const DEFAULT_ARCHS: &str = "80,86,89,90,120";

/// `MUNI_CUDA`; not set is `auto`.
pub fn mode(text: Option<&str>) -> Result<Mode, String> {
    match text {
        Some("off") => Ok(Mode::Off),
        None | Some("auto") => Ok(Mode::Auto),
        Some("require") => Ok(Mode::Require),
        Some(other) => Err(format!(
            "MUNI_CUDA is {other:?}, expected off, auto or require"
        )),
    }
}

/// The architectures of `MUNI_CUDA_ARCHS`, lowest first.
pub fn archs(text: Option<&str>) -> Result<Vec<String>, String> {
    let text = text.unwrap_or(DEFAULT_ARCHS);
    let mut archs = Vec::new();
    for arch in text.split(',').map(str::trim) {
        match arch.parse::<u32>() {
            Ok(number) if number >= 80 => archs.push(number),
            _ => {
                return Err(format!(
                    "MUNI_CUDA_ARCHS is {text:?}: {arch:?} is no architecture from 80 on; \
                     expected a list like {DEFAULT_ARCHS}"
                ));
            }
        }
    }
    archs.sort_unstable();
    archs.dedup();
    Ok(archs.iter().map(u32::to_string).collect())
}

/// What a build without nvcc is: one without kernels, for this reason, or a failure.
pub fn without_nvcc(mode: Mode, reason: String) -> Result<String, String> {
    match mode {
        Mode::Require => Err(format!("MUNI_CUDA=require, but {reason}")),
        Mode::Auto | Mode::Off => Ok(reason),
    }
}
