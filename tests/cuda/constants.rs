//! Constants that kernels and host share: each is written down once, in `kernels/`.

use super::parser::constants::{Exported, Scope, rust_module};
use super::parser::signatures::parse;
use std::path::{Path, PathBuf};

fn exported(text: &str) -> Result<Vec<Exported>, String> {
    parse(text, &Scope::default()).map(|(_, exported)| exported)
}

/// What the host gets of this text, as the source names it.
fn values(text: &str) -> Vec<(String, i64)> {
    let found = exported(text).unwrap().into_iter();
    let named = found.map(|found| match found.alias {
        Some(alias) => (format!("{alias}::{}", found.name), found.value),
        None => (found.name, found.value),
    });
    named.collect()
}

#[test]
fn a_constant_that_changes_in_a_kernel_changes_in_rust() {
    let source = "
        constexpr int kThreads = 128;
        TO_HOST constexpr int kWarps = kThreads / 32, kRows = 8 * kWarps;
        constexpr float kScale = 1.5f;
        __device__ int f() { constexpr int kHidden = 3; return kHidden; }";
    assert_eq!(values(source), [("kWarps".into(), 4), ("kRows".into(), 32)]);
    let rust = rust_module("rmsnorm", &exported(source).unwrap());
    assert!(rust.contains("pub mod rmsnorm {"), "{rust}");
    assert!(rust.contains("pub const ROWS: usize = 32;"), "{rust}");

    let changed = source.replace("kThreads = 128", "kThreads = 256");
    let rust = rust_module("rmsnorm", &exported(&changed).unwrap());
    assert!(rust.contains("pub const WARPS: usize = 8;"), "{rust}");
    assert!(rust.contains("pub const ROWS: usize = 64;"), "{rust}");
}

#[test]
fn members_of_a_class_template_are_exported_for_each_alias() {
    let source = "
        namespace gemm {
        constexpr int kDepth = 1 << 5;
        template <int M_, bool Any_>
        struct Tile {
          TO_HOST static constexpr int M = M_, Bytes = (M + M) * kDepth * 2;
          static constexpr bool Any = Any_;
          __device__ int f() { return M; }
        };
        using Large = Tile<128, false>;
        using Small = Tile<kDepth * 2, true>;
        }
        constexpr int kThreads = gemm::Large::M;
        TO_HOST constexpr unsigned kMark = 0xffu - gemm::Small::Any;";
    let expected = [
        ("Large::M".into(), 128),
        ("Large::Bytes".into(), 16_384),
        ("Small::M".into(), 64),
        ("Small::Bytes".into(), 8_192),
        ("kMark".into(), 254),
    ];
    assert_eq!(values(source), expected);
    let rust = rust_module("gemm", &exported(source).unwrap());
    let start = rust.find("pub mod small {").unwrap();
    assert!(
        rust[start..].contains("pub const BYTES: usize = 8192;"),
        "{rust}"
    );
}

#[test]
fn what_is_no_constant_is_refused_with_its_line() {
    for (text, word) in [
        (
            "\nTO_HOST constexpr int kA = kB;",
            "line 2: `kB` is no integer constant",
        ),
        ("TO_HOST constexpr int kA = 4 / 0;", "division by 0"),
        (
            "TO_HOST constexpr int kA = f(3);",
            "`f` is no integer constant",
        ),
        ("TO_HOST constexpr int kA = 1.5;", "`.` in an expression"),
        (
            "TO_HOST constexpr float kA = 1;",
            "an integer constexpr must follow",
        ),
        ("TO_HOST int kA = 1;", "an integer constexpr must follow"),
    ] {
        let message = exported(text).unwrap_err();
        assert!(message.contains(word), "{text}: {message}");
    }
}

/// Bounds of the host's own that a file with launches may name, no kernel has them: what memory
/// allows of the head's tokens and vocabulary, and CUDA's bound on a grid's second dimension.
const OF_THE_HOST: [&str; 3] = ["CHUNK", "SPLITS", "MAX_ROWS"];

fn rust_files(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => rust_files(&path, into),
            false => into.push(path),
        }
    }
}

/// A file that launches kernels has no number of theirs: its constants are made of theirs.
#[test]
fn no_launch_constant_is_mirrored_by_hand() {
    let mut files = Vec::new();
    rust_files(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("src/ops/cuda"),
        &mut files,
    );
    let mut launching = 0;
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        // A driver has bounds of CUDA's own.
        let driver = file.to_string_lossy().contains("driver");
        if driver || !text.contains("kernels::") {
            continue;
        }
        launching += 1;
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        for line in code.lines().map(str::trim) {
            let Some((_, rest)) = line.split_once("const ") else {
                continue;
            };
            let Some((declared, value)) = rest.split_once('=') else {
                continue;
            };
            let name = declared.split(':').next().unwrap_or_default().trim();
            let number = value.trim().starts_with(|c: char| c.is_ascii_digit());
            assert!(
                !number || OF_THE_HOST.contains(&name),
                "{}: `{line}`: mark it TO_HOST in kernels/ and use kernels::FILE::NAME",
                file.display()
            );
        }
    }
    assert!(launching >= 9, "only {launching} files launch kernels");
}
