//! The invariants of docs/architecture.md, read off the source text.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Which other modules of the library a module may name.
const MAY_USE: &[(&str, &[&str])] = &[
    ("files", &[]),
    ("german", &[]),
    ("html", &[]),
    ("ops", &[]),
    ("model", &["ops"]),
    ("roofline", &["model", "ops"]),
    ("tokenizer", &[]),
    ("shards", &["files", "model", "ops", "tokenizer"]),
    ("knowledge", &["german"]),
    ("wording", &["german", "knowledge"]),
    (
        "dataset",
        &[
            "german",
            "html",
            "knowledge",
            "shards",
            "tokenizer",
            "wording",
        ],
    ),
    ("hf", &["files", "model", "tokenizer"]),
    ("generate", &["model", "ops", "tokenizer"]),
    (
        "answer",
        &[
            "files",
            "generate",
            "german",
            "knowledge",
            "model",
            "ops",
            "tokenizer",
            "wording",
        ],
    ),
    (
        "eval",
        &[
            "answer",
            "generate",
            "german",
            "html",
            "knowledge",
            "model",
            "ops",
            "tokenizer",
        ],
    ),
    (
        "serve",
        &[
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
            "hf",
            "knowledge",
            "model",
            "ops",
            "tokenizer",
        ],
    ),
    (
        "train",
        &["files", "hf", "model", "ops", "shards", "tokenizer"],
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

/// A file's own module: `ops/cpu/mod.rs` and `ops/cpu.rs` are both `ops::cpu`.
fn module_of(path: &str) -> Vec<String> {
    let path = path.trim_end_matches(".rs").trim_end_matches("/mod");
    let parts = path
        .split('/')
        .filter(|part| !["lib", "main"].contains(part));
    parts.map(str::to_string).collect()
}

/// Reads a path or a tree of paths in braces as `use` has it, and appends every path in it to
/// `found`, each behind `before`. Returns what follows.
fn read_tree<'t>(text: &'t str, before: &[String], found: &mut Vec<Vec<String>>) -> &'t str {
    let text = text.trim_start();
    if let Some(mut rest) = text.strip_prefix('{') {
        loop {
            rest = read_tree(rest, before, found).trim_start();
            match rest.strip_prefix(',') {
                Some(next) if !next.trim_start().starts_with('}') => rest = next,
                Some(next) => return next.trim_start().strip_prefix('}').unwrap_or(next),
                None => return rest.strip_prefix('}').unwrap_or(rest),
            }
        }
    }
    let end = text
        .find(|c: char| !c.is_alphanumeric() && c != '_')
        .unwrap_or(text.len());
    let mut path = before.to_vec();
    match &text[..end] {
        "super" => drop(path.pop()),
        "" | "self" => {}
        name => path.push(name.to_string()),
    }
    match text[end..].strip_prefix("::") {
        Some(rest) if end > 0 => read_tree(rest, &path, found),
        _ => {
            found.push(path);
            &text[end..]
        }
    }
}

/// Every path that a file's code names from `crate` or `super` on, as seen from the crate's root.
fn paths_named(module: &[String], code: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for (start, base) in [("crate::", &[][..]), ("super::", module)] {
        for (at, _) in code.match_indices(start) {
            // Not the second of `super::super::`, nor the end of a longer name.
            let follows = |c: char| c.is_alphanumeric() || c == '_' || c == ':' || c == '$';
            if !code[..at].ends_with(follows) {
                let text = code[at..].trim_start_matches("crate::");
                read_tree(text, base, &mut found);
            }
        }
    }
    found
}

#[test]
fn paths_are_read_from_every_way_of_writing_them() {
    let module: Vec<String> = ["serve", "openai", "fields"].map(str::to_string).to_vec();
    let code = "use super::super::error::{ApiError, log::{self, Line}}; crate::ops::run(x); \
                use crate::{model::Model, knowledge};";
    let found: Vec<String> = paths_named(&module, code)
        .iter()
        .map(|path| path.join("::"))
        .collect();
    assert_eq!(
        found,
        [
            "ops::run",
            "model::Model",
            "knowledge",
            "serve::error::ApiError",
            "serve::error::log",
            "serve::error::log::Line",
        ]
    );
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
        let module = module_of(&path);
        let top = module.first().map_or("lib", String::as_str);
        let Some((_, allowed)) = MAY_USE.iter().find(|(name, _)| *name == top) else {
            assert!(
                ["cli", "lib"].contains(&top),
                "src/{path}: a new module; add it to the table and to docs/architecture.md"
            );
            continue;
        };
        for used in paths_named(&module, &code) {
            let Some(other) = used.first().filter(|name| known.contains(&name.as_str())) else {
                continue;
            };
            assert!(
                other == top || allowed.contains(&other.as_str()),
                "src/{path} uses crate::{other}; {top} may use {allowed:?}"
            );
            checked += 1;
        }
    }
    assert!(
        checked > 200,
        "only {checked} uses were read: has the way of writing them changed?"
    );
}

/// Which files import which: by module, without the arrows between a module and those inside it.
fn imports() -> BTreeMap<String, BTreeSet<String>> {
    let files = sources();
    let modules: BTreeSet<Vec<String>> = files.iter().map(|(path, _)| module_of(path)).collect();
    let mut imports = BTreeMap::new();
    for (path, code) in &files {
        let own = module_of(path);
        let mut others = BTreeSet::new();
        for mut used in paths_named(&own, code) {
            while !used.is_empty() && !modules.contains(&used) {
                used.pop();
            }
            if !used.starts_with(&own) && !own.starts_with(&used) {
                others.insert(used.join("::"));
            }
        }
        imports.insert(own.join("::"), others);
    }
    imports
}

/// What a file imports, directly and by way of others.
fn reached(imports: &BTreeMap<String, BTreeSet<String>>, file: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut open: Vec<&String> = imports[file].iter().collect();
    while let Some(next) = open.pop() {
        if found.insert(next.clone()) {
            open.extend(&imports[next]);
        }
    }
    found
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let imports = imports();
    let reached: BTreeMap<&String, BTreeSet<String>> = imports
        .keys()
        .map(|file| (file, reached(&imports, file)))
        .collect();
    let mut circles = BTreeSet::new();
    for (file, others) in &reached {
        let circle: Vec<&str> = others
            .iter()
            .filter(|other| reached[other].contains(*file))
            .map(String::as_str)
            .collect();
        if !circle.is_empty() {
            circles.insert(circle);
        }
    }
    assert!(circles.is_empty(), "{circles:#?}");
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
        if ![
            "ops/cuda/driver/cudarc_driver.rs",
            "ops/cuda/driver/cudarc_error.rs",
            "ops/cuda/driver/cudarc_staging.rs",
        ]
        .contains(&path.as_str())
        {
            assert!(
                !code.contains("cudarc::"),
                "src/{path} uses cudarc: it belongs behind ops::cuda::driver::Driver"
            );
        }
    }
}

#[test]
fn the_reference_device_is_for_the_conformance_suite_only() {
    for (path, code) in sources() {
        if !path.starts_with("ops/reference") && !path.starts_with("ops/conformance") {
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
            "hf/",
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
