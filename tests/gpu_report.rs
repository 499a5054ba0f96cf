//! `just gpu --sim`: the script that checks and measures a card, on the simulator.

use serde_json::Value;
use std::path::Path;
use std::process::Command;

#[test]
fn the_report_of_the_simulator_is_whole() {
    let out = tempfile::tempdir().unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let output = Command::new("python3")
        .arg(root.join("benches/gpu/report.py"))
        .args(["--sim", "--engine", env!("CARGO_BIN_EXE_muni-engine")])
        .arg("--out")
        .arg(out.path())
        .args(["--run-seconds", "1"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let text = std::fs::read_to_string(out.path().join("gpu-report.json")).unwrap();
    let report: Value = serde_json::from_str(&text).unwrap();
    let steps = report["steps"].as_array().unwrap();
    let status = |name: &str| -> &str {
        let found = steps.iter().find(|step| step["step"] == name);
        found.map_or("missing", |step| step["status"].as_str().unwrap())
    };
    for name in [
        "doctor",
        "plan",
        "conformance",
        "case table",
        "loss curve beside the CPU",
        "throughput",
        "massive preset, three minutes",
        "profile",
    ] {
        assert_eq!(status(name), "passed", "{name}: {said}");
    }
    for name in ["PyTorch, eager", "PyTorch, compiled", "compute-sanitizer"] {
        assert_eq!(status(name), "skipped", "{name}: {said}");
    }
    let markdown = std::fs::read_to_string(out.path().join("gpu-report.md")).unwrap();
    assert!(markdown.contains("| throughput | passed |"), "{markdown}");
    assert!(markdown.contains("head, logits"), "{markdown}");
}

/// Runs some steps; their results. `engine`: another program in the binary's place.
fn steps_of(engine: &Path, only: &[&str]) -> Vec<Value> {
    let out = tempfile::tempdir().unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let output = Command::new("python3")
        .arg(root.join("benches/gpu/report.py"))
        .args(["--sim", "--shards", "/nonexistent", "--engine"])
        .arg(engine)
        .arg("--out")
        .arg(out.path())
        .arg("--only")
        .args(only)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = std::fs::read_to_string(out.path().join("gpu-report.json")).unwrap();
    let report: Value = serde_json::from_str(&text).unwrap();
    report["steps"].as_array().unwrap().clone()
}

#[test]
fn a_failing_step_stops_no_other() {
    let engine = Path::new(env!("CARGO_BIN_EXE_muni-engine"));
    let only = [
        "loss curve beside the CPU",
        "throughput",
        "massive preset, three minutes",
    ];
    let steps = steps_of(engine, &only);
    let status: Vec<&str> = steps
        .iter()
        .map(|step| step["status"].as_str().unwrap())
        .collect();
    assert_eq!(status, ["failed", "passed", "failed"], "{steps:?}");
}

/// A binary whose checks say what they say: which of it fails the step, and what the report tells.
#[cfg(unix)]
#[test]
fn failed_checks_and_checks_of_nothing_fail_their_step() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let broken = r#"{"device": ["a card"], "cases": 6, "values": 60, "passed": 0, "failed": 1,
        "checks": [{"check": "conformance/mma", "precision": null, "passed": false, "cases": 6,
        "failed_cases": 1,
        "findings": ["mma in fp16: C[0][1] is 2"]}]}"#;
    let nothing = r#"{"device": ["a card"], "cases": 0, "values": 0, "passed": 0, "failed": 0,
        "checks": []}"#;
    for (said, code, wanted) in [
        (broken, 1, "1 of 6 cases failed: mma in fp16: C[0][1] is 2"),
        (broken, 0, "1 of 1 checks failed"),
        (nothing, 0, "no check ran"),
        ("error: no card", 1, "exit code 1, and no result"),
    ] {
        let engine = folder.path().join("engine");
        std::fs::write(
            &engine,
            format!("#!/bin/sh\ncat <<'END'\n{said}\nEND\nexit {code}\n"),
        )
        .unwrap();
        std::fs::set_permissions(&engine, PermissionsExt::from_mode(0o755)).unwrap();
        for step in steps_of(&engine, &["conformance", "case table"]) {
            assert_eq!(step["status"], "failed", "{step}");
            assert!(step["why"].as_str().unwrap().contains(wanted), "{step}");
        }
    }
}
