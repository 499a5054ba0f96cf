//! `doctor`: what it says of this machine, plans for cards that are not here, and the tables of
//! docs/roofline.md.

use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};

fn doctor(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_muni-engine"))
        .arg("doctor")
        .args(arguments)
        .output()
        .unwrap()
}

fn json(arguments: &[&str]) -> Value {
    let output = doctor(arguments);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!(
            "{arguments:?}: {error}: {}",
            String::from_utf8_lossy(&output.stderr)
        )
    })
}

#[test]
fn it_tells_what_there_is() {
    let report = json(&["--json"]);
    assert_eq!(report["version"], env!("CARGO_PKG_VERSION"));
    assert!(report["threads"].as_u64() >= Some(1));
    assert!(report["cpu"].as_str().unwrap().starts_with("cpu ("));
    // Either there are kernels, or there is a reason.
    assert_ne!(
        report["kernels"].is_null(),
        report["why_no_kernels"].is_null()
    );
    assert_ne!(
        report["simulator"].as_bool().unwrap(),
        report["why_no_simulator"].is_string()
    );
    let output = doctor(&[]);
    let text = String::from_utf8(output.stdout).unwrap();
    for part in ["processor", "memory", "kernels", "simulator", "CUDA driver"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert!(output.status.success());
}

#[test]
fn sixteen_thousand_tokens_fit_an_rtx_3070_and_a_million_do_not() {
    let plan = json(&["--plan", "--gpu", "rtx3070", "--tokens", "16384", "--json"]);
    assert_eq!(plan["fits"], true);
    assert_eq!(plan["micro_batch_tokens"], 16_384);
    assert!(plan["total_bytes"].as_u64() <= Some(13 << 29), "{plan}");
    let classes = plan["bytes"].as_object().unwrap();
    let sum: u64 = classes.values().map(|bytes| bytes.as_u64().unwrap()).sum();
    assert_eq!(
        (classes.len(), Some(sum)),
        (7, plan["total_bytes"].as_u64())
    );
    // The floor is the longer of arithmetic and traffic, row by row.
    let rows = plan["prediction"]["rows"].as_array().unwrap();
    let number = |value: &Value| value.as_f64().unwrap();
    let (peak, bandwidth) = (
        number(&plan["flops_per_second"]),
        number(&plan["card"]["bytes_per_second"]),
    );
    for row in rows {
        let floor = (number(&row["flops"]) / peak).max(number(&row["bytes"]) / bandwidth);
        assert!((number(&row["floor_s"]) - floor).abs() < 1e-12, "{row}");
        assert!(number(&row["predicted_s"]) > floor, "{row}");
    }

    let output = doctor(&["--plan", "--gpu", "rtx3070", "--tokens", "1000000"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    let largest = plan["largest_micro_batch_tokens"].to_string();
    assert!(
        said.contains("the largest micro-batch that fits has") && said.contains(&largest),
        "{said}"
    );
    assert!(
        String::from_utf8(output.stdout)
            .unwrap()
            .contains("master weights")
    );
}

#[test]
fn unknown_cards_and_stray_options_are_refused() {
    let output = doctor(&["--plan", "--gpu", "voodoo2"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        said.contains("voodoo2") && said.contains("rtx4070ti"),
        "{said}"
    );
    assert_eq!(doctor(&["--gpu", "rtx3070"]).status.code(), Some(2));
}

/// What `--check-kernels` says of a device: its checks, each with cases and values, and their sums.
fn checked(device: &str, only: &[&str]) -> Vec<String> {
    let arguments = ["--check-kernels", "--device", device, "--json", "--only"];
    let report = json(&[&arguments, only].concat());
    let number = |value: &Value| value.as_u64().unwrap();
    let checks = report["checks"].as_array().unwrap();
    assert_eq!(number(&report["failed"]), 0, "{report}");
    assert_eq!(number(&report["passed"]), checks.len() as u64);
    for of in ["cases", "values"] {
        assert!(checks.iter().all(|check| number(&check[of]) > 0));
        let sum: u64 = checks.iter().map(|check| number(&check[of])).sum();
        assert_eq!(number(&report[of]), sum);
    }
    let name = |check: &Value| {
        assert_eq!(check["passed"], true, "{check}");
        let precision = check["precision"].as_str().unwrap_or("none");
        format!("{} {precision}", check["check"].as_str().unwrap())
    };
    checks.iter().map(name).collect()
}

#[test]
fn kernels_are_checked_on_the_cpu_and_the_simulator() {
    assert_eq!(
        checked("cpu", &["dense/rope", "head/all-ignored"]),
        [
            "dense/rope fp32",
            "head/all-ignored fp32",
            "dense/rope bf16",
            "head/all-ignored bf16"
        ]
    );
    let found = checked("sim", &["conformance", "optimizer/broken-norm"]);
    assert_eq!(found.len(), 10, "{found:?}");
    assert_eq!(found[1], "conformance/mma none");
    let last = ["optimizer/broken-norm fp16", "optimizer/broken-norm bf16"];
    assert_eq!(found[8..], last);

    let output = doctor(&["--check-kernels", "--device", "cpu", "--only", "dense/rope"]);
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert!(output.status.success() && lines.len() == 5, "{text}");
    for (at, precision) in [(0, "fp32"), (2, "bf16")] {
        assert!(lines[at].starts_with("cpu ("), "{text}");
        assert!(lines[at + 1].starts_with("ok"), "{text}");
        for part in [precision, "88 cases, at most"] {
            assert!(lines[at + 1].contains(part), "{text}");
        }
    }
    assert!(
        lines[4].starts_with("0 of 2 checks failed; 176 cases"),
        "{text}"
    );
}

#[test]
fn checks_of_nothing_are_refused() {
    let names = "--only dense/ropes is no check; there are conformance/ldmatrix, ";
    for (device, only, wanted) in [
        ("cpu", "dense/ropes", names),
        ("cpu", "head/gpt2-vocabulary", "none of the checks"),
        ("cuda:4096", "dense", "cuda:4096"),
    ] {
        let all = ["--check-kernels", "--device", device, "--only", only];
        let output = doctor(&all);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(wanted), "{said}");
    }
    for wrong in [
        &["--device", "cpu"][..],
        &["--only", "moe"],
        &["--check-kernels", "--plan"],
    ] {
        assert_eq!(doctor(wrong).status.code(), Some(2), "{wrong:?}");
    }
}

/// Tables of docs/roofline.md: marker, arguments.
const TABLES: [(&str, &[&str]); 3] = [
    ("cards", &["--plan", "--gpu", "all"]),
    (
        "cards, 16384 tokens",
        &["--plan", "--gpu", "all", "--tokens", "16384"],
    ),
    ("rtx3070", &["--plan", "--gpu", "rtx3070"]),
];

#[test]
fn the_documentation_holds_the_tables() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/roofline.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let mut wanted = text.clone();
    for (name, arguments) in TABLES {
        let begin = format!(
            "<!-- begin {name}: muni-engine doctor {} -->\n",
            arguments.join(" ")
        );
        let end = format!("<!-- end {name} -->\n");
        let (before, rest) = wanted.split_once(&begin).unwrap();
        let (_, after) = rest.split_once(&end).unwrap();
        let output = doctor(arguments);
        assert!(output.status.success());
        let made = String::from_utf8(output.stdout).unwrap();
        let made = match made.starts_with('|') {
            true => made,
            false => format!("```\n{made}```\n"),
        };
        wanted = format!("{before}{begin}\n{made}\n{end}{after}");
    }
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, wanted).unwrap();
    } else {
        assert!(
            text == wanted,
            "docs/roofline.md is not what this build computes: run UPDATE_DOCS=1 cargo test --test \
             it cli_doctor"
        );
    }
}
