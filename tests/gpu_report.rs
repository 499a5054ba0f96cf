//! `just gpu --sim`: the script that checks and measures a card, on the simulator.

use serde_json::Value;
use std::process::Command;

#[test]
fn the_report_of_the_simulator_is_whole() {
    let out = tempfile::tempdir().unwrap();
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let output = Command::new("python3")
        .arg(root.join("gpu/report.py"))
        .args(["--sim", "--engine", env!("CARGO_BIN_EXE_muni-engine")])
        .arg("--tests")
        .arg(std::env::current_exe().unwrap())
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

#[test]
fn a_failing_step_stops_no_other() {
    let out = tempfile::tempdir().unwrap();
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let output = Command::new("python3")
        .arg(root.join("gpu/report.py"))
        .args(["--sim", "--engine", env!("CARGO_BIN_EXE_muni-engine")])
        .args([
            "--tests",
            "/nonexistent",
            "--shards",
            "/nonexistent",
            "--out",
        ])
        .arg(out.path())
        .args(["--only", "conformance", "plan"])
        .arg("massive preset, three minutes")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = std::fs::read_to_string(out.path().join("gpu-report.json")).unwrap();
    let report: Value = serde_json::from_str(&text).unwrap();
    let status: Vec<&str> = report["steps"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| step["status"].as_str().unwrap())
        .collect();
    assert_eq!(status, ["passed", "failed", "failed"], "{report}");
}
