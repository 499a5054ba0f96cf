//! Licences and sources of the dependencies against deny.toml, also without cargo-deny. And the
//! Rust version.

use serde_json::Value;
use std::path::Path;
use std::process::Command;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn toml(file: &str) -> toml::Table {
    let text = std::fs::read_to_string(root().join(file)).unwrap();
    text.parse().unwrap()
}

fn strings(list: &toml::Value) -> Vec<String> {
    let entries = list.as_array().unwrap().iter();
    entries.map(|e| e.as_str().unwrap().to_string()).collect()
}

fn output_of(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(root())
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

/// The packages that are built on this machine.
fn packages() -> Vec<Value> {
    let version = output_of("rustc", &["-vV"]);
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    let arguments = [
        "metadata",
        "--format-version=1",
        "--locked",
        "--offline",
        "--filter-platform",
        host.unwrap(),
    ];
    let metadata: Value = serde_json::from_str(&output_of(env!("CARGO"), &arguments)).unwrap();
    let used: Vec<&Value> = metadata["resolve"]["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|node| &node["id"])
        .collect();
    let packages = metadata["packages"].as_array().unwrap().iter();
    let packages: Vec<Value> = packages
        .filter(|package| used.contains(&&package["id"]))
        .cloned()
        .collect();
    assert!(packages.len() > 100, "only {} packages", packages.len());
    packages
}

/// Whether the allowed licences satisfy an SPDX expression: `OR` binds less than `AND`; `/` is an
/// old form of `OR`.
fn satisfied(expression: &str, allowed: &[String]) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ");
    let spaced = spaced.replace('/', " OR ").replace(" WITH ", "+WITH+");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut position = 0;
    let value = any(&words, &mut position, allowed);
    assert_eq!(position, words.len(), "cannot read {expression:?}");
    value
}

fn any(words: &[&str], position: &mut usize, allowed: &[String]) -> bool {
    let mut value = all(words, position, allowed);
    while words.get(*position) == Some(&"OR") {
        *position += 1;
        value |= all(words, position, allowed);
    }
    value
}

fn all(words: &[&str], position: &mut usize, allowed: &[String]) -> bool {
    let mut value = one(words, position, allowed);
    while words.get(*position) == Some(&"AND") {
        *position += 1;
        value &= one(words, position, allowed);
    }
    value
}

fn one(words: &[&str], position: &mut usize, allowed: &[String]) -> bool {
    let word = words[*position];
    *position += 1;
    if word == "(" {
        let value = any(words, position, allowed);
        assert_eq!(words.get(*position), Some(&")"), "no closing bracket");
        *position += 1;
        return value;
    }
    allowed.contains(&word.replace("+WITH+", " WITH "))
}

#[test]
fn licence_expressions_are_read_as_spdx_means_them() {
    let allowed = [
        "MIT".to_string(),
        "Apache-2.0 WITH LLVM-exception".to_string(),
    ];
    for (expression, wanted) in [
        ("MIT", true),
        ("GPL-3.0-only", false),
        ("MIT OR GPL-3.0-only", true),
        ("MIT/Apache-2.0", true),
        ("MIT AND GPL-3.0-only", false),
        ("GPL-3.0-only OR MIT AND MIT", true),
        ("(GPL-3.0-only OR MIT) AND GPL-2.0-only", false),
        ("Apache-2.0 WITH LLVM-exception", true),
        ("Apache-2.0", false),
    ] {
        assert_eq!(satisfied(expression, &allowed), wanted, "{expression}");
    }
}

#[test]
fn licences_of_all_dependencies_are_allowed() {
    let deny = toml("deny.toml");
    let for_all = strings(&deny["licenses"]["allow"]);
    let exceptions = deny["licenses"]["exceptions"].as_array().unwrap();
    let mut refused = Vec::new();
    for package in packages() {
        let licence = package["license"].as_str().unwrap_or("none");
        let mut allowed = for_all.clone();
        for exception in exceptions {
            if exception["crate"].as_str() == package["name"].as_str() {
                allowed.extend(strings(&exception["allow"]));
            }
        }
        if !satisfied(licence, &allowed) {
            refused.push(format!("{}: {licence}", package["name"]));
        }
    }
    assert!(refused.is_empty(), "not in deny.toml: {refused:#?}");
}

#[test]
fn dependencies_come_from_the_registry_and_are_not_banned() {
    let deny = toml("deny.toml");
    let registries = strings(&deny["sources"]["allow-registry"]);
    let banned: Vec<String> = deny["bans"]["deny"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["crate"].as_str().unwrap().to_string())
        .collect();
    for package in packages() {
        let name = package["name"].as_str().unwrap();
        assert!(!banned.iter().any(|b| b == name), "{name} is banned");
        if let Some(source) = package["source"].as_str() {
            let from = source.trim_start_matches("registry+");
            assert!(
                registries.iter().any(|registry| registry == from),
                "{name} comes from {source}"
            );
        }
    }
}

/// The version that is promised is the one that everything is tested with.
#[test]
fn rust_version_is_that_of_the_toolchain() {
    let manifest = toml("Cargo.toml");
    let promised = manifest["package"]["rust-version"].as_str().unwrap();
    let toolchain = toml("rust-toolchain.toml");
    let channel = toolchain["toolchain"]["channel"].as_str().unwrap();
    assert_eq!(channel, format!("{promised}.0"));
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    assert!(readme.contains(&format!("Rust {promised}")), "README.md");
}
