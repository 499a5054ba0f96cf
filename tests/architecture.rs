//! The invariants of docs/architecture.md, read off the source text.

use std::fs;
use std::path::{Path, PathBuf};

/// Which modules of the library a module may name. `ops::cpu` means the device itself.
const MAY_USE: &[(&str, &[&str])] = &[
    ("ops", &["ops"]),
    ("model", &["model", "ops"]),
    ("roofline", &["roofline", "model"]),
    ("tokenizer", &["tokenizer"]),
    ("shards", &["shards", "model", "ops", "tokenizer"]),
    ("knowledge", &["knowledge"]),
    ("dataset", &["dataset", "knowledge", "shards", "tokenizer"]),
    ("formats", &["formats", "model", "tokenizer"]),
    ("generate", &["generate", "model", "ops", "tokenizer"]),
    (
        "eval",
        &[
            "eval",
            "answer",
            "generate",
            "knowledge",
            "model",
            "ops",
            "tokenizer",
        ],
    ),
    (
        "answer",
        &[
            "answer",
            "knowledge",
            "dataset",
            "generate",
            "model",
            "ops",
            "tokenizer",
        ],
    ),
    (
        "serve",
        &[
            "serve",
            "answer",
            "generate",
            "knowledge",
            "model",
            "ops",
            "tokenizer",
        ],
    ),
    (
        "open",
        &[
            "open",
            "answer",
            "formats",
            "knowledge",
            "model",
            "ops",
            "tokenizer",
        ],
    ),
    (
        "train",
        &["train", "model", "ops", "shards", "formats", "tokenizer"],
    ),
];

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") && !path.ends_with("tests.rs") {
            found.push(path);
        }
    }
}

/// Files under `src/`, as (path relative to it, text without its test module and comments).
fn sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    rust_files(&root, &mut files);
    assert!(files.len() > 30, "only {} source files found", files.len());
    let relative = |path: &PathBuf| {
        path.strip_prefix(&root)
            .unwrap()
            .to_string_lossy()
            .replace('\\', "/")
    };
    files
        .iter()
        .map(|path| (relative(path), shipped(&fs::read_to_string(path).unwrap())))
        .collect()
}

fn shipped(text: &str) -> String {
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    code.lines()
        .map(|line| line.split("//").next().unwrap_or_default())
        .collect::<Vec<_>>()
        .join("\n")
}

/// Modules named as `crate::name` or inside `use crate::{...}`.
fn modules_used(code: &str) -> Vec<String> {
    let mut used = Vec::new();
    for rest in code.split("crate::").skip(1) {
        if let Some(list) = rest.strip_prefix('{') {
            let mut depth = 1;
            let mut name = String::new();
            for c in list.chars() {
                match c {
                    '{' => depth += 1,
                    '}' => depth -= 1,
                    _ => {}
                }
                if depth == 1 && (c.is_alphanumeric() || c == '_') {
                    name.push(c);
                } else if !name.is_empty() {
                    used.push(std::mem::take(&mut name));
                }
                if depth == 0 {
                    break;
                }
            }
        } else {
            used.push(
                rest.chars()
                    .take_while(|c| c.is_alphanumeric() || *c == '_')
                    .collect(),
            );
        }
    }
    used
}

#[test]
fn modules_use_only_what_stands_below_them() {
    let known: Vec<&str> = MAY_USE
        .iter()
        .map(|(name, _)| *name)
        .chain(["cli"])
        .collect();
    let mut checked = 0;
    for (path, code) in sources() {
        let top = path.split('/').next().unwrap().trim_end_matches(".rs");
        let Some((_, allowed)) = MAY_USE.iter().find(|(name, _)| *name == top) else {
            assert!(
                ["cli", "lib", "main"].contains(&top),
                "src/{path}: a new module; add it to the table and to docs/architecture.md"
            );
            continue;
        };
        for module in modules_used(&code)
            .iter()
            .filter(|m| known.contains(&m.as_str()))
        {
            assert!(
                allowed.contains(&module.as_str()),
                "src/{path} uses crate::{module}; {top} may use {allowed:?}"
            );
            checked += 1;
        }
    }
    assert!(
        checked > 40,
        "only {checked} uses were read: has the way of writing them changed?"
    );
}

#[test]
fn the_device_is_chosen_in_the_command_line_and_the_front_door_only() {
    for (path, code) in sources() {
        let chooses = path.starts_with("cli/") || path == "open.rs";
        if !chooses && !path.starts_with("ops/") {
            for device in [
                "CpuDevice",
                "CudaDevice",
                "ReferenceDevice",
                "ops::cpu",
                "ops::cuda",
                "ops::reference",
            ] {
                assert!(
                    !code.contains(device),
                    "src/{path} names {device}: it must work on any Device"
                );
            }
        }
    }
}

#[test]
fn the_cuda_driver_is_named_in_its_two_files_only() {
    for (path, code) in sources() {
        if !["ops/cuda/cudarc_driver.rs", "ops/cuda/cudarc_staging.rs"].contains(&path.as_str()) {
            assert!(
                !code.contains("cudarc::"),
                "src/{path} uses cudarc: it belongs behind ops::cuda::driver::Driver"
            );
        }
    }
}

#[test]
fn the_reference_twin_is_for_the_case_table_only() {
    for (path, code) in sources() {
        if !path.starts_with("ops/reference") && !path.starts_with("ops/cases") {
            assert!(
                !code.contains("ReferenceDevice"),
                "src/{path} uses the reference device"
            );
        }
    }
}

#[test]
fn library_code_neither_panics_by_habit_nor_leaves_marks() {
    for (path, code) in sources() {
        for word in [".unwrap()", "todo!(", "unimplemented!(", "panic!(", "dbg!("] {
            assert!(!code.contains(word), "src/{path} contains {word}");
        }
    }
}

#[test]
fn no_unsafe_outside_kernels_mapped_files_and_signals() {
    for (path, code) in sources() {
        let allowed = [
            "ops/cpu/",
            "ops/cuda/",
            "shards/",
            "formats/",
            "train/checkpoint.rs",
            "train/interrupt.rs",
        ]
        .iter()
        .any(|place| path.starts_with(place));
        assert!(
            allowed || !code.contains("unsafe "),
            "src/{path} contains unsafe code"
        );
    }
}

#[test]
fn questions_are_understood_and_guarded_in_answer_only() {
    for (path, code) in sources() {
        for call in [".understand(", ".guard("] {
            assert!(
                path.starts_with("answer/") || !code.contains(call),
                "src/{path} calls {call}: drive answer::exchange instead"
            );
        }
    }
}
