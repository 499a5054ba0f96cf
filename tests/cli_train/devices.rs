//! `train --device sim`: the real binary runs the CUDA kernels through the same trainer, beside the CPU.

use super::*;

/// A run small enough for the simulator.
fn train(out: &Path, device: &str, steps: &str) -> Command {
    let mut command = Fixture::get().train(out);
    command.args(["--device", device, "--max-steps", steps]);
    command.args(["--max-length", "24", "--batch-size", "1"]);
    // The early look at answers comes with each validation, and takes the simulator longer than all steps.
    command.args(["--eval-every", "50", "--save-every", "5", "--keep", "20"]);
    without_repeats(command)
}

fn losses(run: &Path) -> Vec<f64> {
    let lines = lines(&run.join("metrics.jsonl"));
    lines
        .iter()
        .map(|line| line["loss"].as_f64().unwrap())
        .collect()
}

/// The runs that tests compare with: 50 steps on each device, without a pause.
fn whole(device: &str) -> PathBuf {
    static RUNS: [OnceLock<()>; 2] = [OnceLock::new(), OnceLock::new()];
    let out = Fixture::get().path(&format!("whole-{device}"));
    RUNS[usize::from(device == "sim")].get_or_init(|| {
        run(train(&out, device, "50"));
    });
    out
}

/// Only what decides a run's result; the folder begins again from that checkpoint.
fn copy_up_to(step: u64, from: &Path, to: &Path) {
    copy_folder(from, to);
    let checkpoints = to.join("checkpoints");
    for name in names(&checkpoints) {
        if name.as_str() > format!("step-{step:06}").as_str() {
            fs::remove_dir_all(checkpoints.join(name)).unwrap();
        }
    }
}

fn largest_difference(found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let differences = found.iter().zip(expected).map(|(a, b)| (a / b - 1.0).abs());
    differences.fold(0.0, f64::max)
}

/// As `FP16_CURVE` of `cuda::training`.
const CURVE: f64 = 4e-3;

#[test]
fn the_simulator_follows_the_cpu_over_fifty_steps() {
    let (cpu, sim) = (losses(&whole("cpu")), losses(&whole("sim")));
    let difference = largest_difference(&sim, &cpu);
    println!(
        "largest difference {difference:.1e}, loss {} to {}",
        cpu[0], cpu[49]
    );
    assert!(
        cpu[49] < 0.7 * cpu[0] && difference <= CURVE,
        "{difference:.1e}"
    );
    let state = lines_of_json(&last_checkpoint(&whole("sim")).join("state.json"));
    assert_eq!(
        state["loss_scale"],
        json!({"scale": 65536.0, "good_steps": 50})
    );
    assert_eq!(state["updates"], json!(50));
    let said = lines_of_json(&whole("sim").join("run.json"))["device"].to_string();
    assert!(
        said.contains("simulator") && said.contains("fp16"),
        "{said}"
    );
}

#[test]
fn a_run_on_the_simulator_resumes_to_the_same_bytes() {
    let out = Fixture::get().path("sim-resumed");
    copy_up_to(40, &whole("sim"), &out);
    let mut command = Fixture::get().resume(&out);
    command.args(["--device", "sim", "--threads", "1"]);
    run(without_repeats(command));
    for file in ["model.safetensors", "optimizer.safetensors"] {
        let file = format!("checkpoints/step-000050/{file}");
        let same =
            fs::read(out.join(&file)).unwrap() == fs::read(whole("sim").join(&file)).unwrap();
        assert!(same, "{file} differs");
    }
    assert_eq!(losses(&out), losses(&whole("sim")));
}

#[test]
fn checkpoints_move_between_devices() {
    for (from, to) in [("cpu", "sim"), ("sim", "cpu")] {
        let out = Fixture::get().path(&format!("{from}-to-{to}"));
        copy_up_to(45, &whole(from), &out);
        let mut command = Fixture::get().resume(&out);
        command.args(["--device", to]);
        run(without_repeats(command));
        let difference = largest_difference(&losses(&out), &losses(&whole("cpu")));
        assert!(difference <= CURVE, "{from} to {to}: {difference:.1e}");
    }
}

#[test]
fn a_model_trained_on_the_simulator_answers_on_both_devices() {
    let model = whole("sim").join("best_model");
    let text = Fixture::get().path("text.txt");
    fs::write(
        &text,
        "Frage: Was kostet Leistung 3?\nAntwort: Die Gebühr beträgt 13 Euro.",
    )
    .unwrap();
    let measure = |device: &str| {
        let mut command = binary();
        command.args([
            "eval",
            "perplexity",
            "--json",
            "--max-length",
            "48",
            "--device",
            device,
            "--model-path",
        ]);
        command.arg(&model).arg("--file").arg(&text);
        let output = run(command);
        let score: Value = serde_json::from_slice(&output.stdout).unwrap();
        score["nll"].as_f64().unwrap()
    };
    let (cpu, sim) = (measure("cpu"), measure("sim"));
    assert!((sim / cpu - 1.0).abs() < 1e-3, "{sim} {cpu}");
    let answer = |device: &str| {
        let mut command = binary();
        command.args(["prompt", "--device", device, "--max-new-tokens", "6"]);
        command.args(["--prompt", "Was kostet Leistung 3?", "--model-path"]);
        command.arg(&model);
        run(command).stdout
    };
    let mut command = binary();
    command.args([
        "prompt",
        "--device",
        "sim",
        "--precision",
        "bf16",
        "--max-new-tokens",
        "2",
    ]);
    command
        .args(["--prompt", "Was kostet Leistung 3?", "--model-path"])
        .arg(&model);
    run(command);
    assert_eq!(answer("sim"), answer("cpu"));
}
