//! `train --device sim`: the real binary runs the CUDA kernels through the same trainer, beside the
//! CPU.

use super::*;

/// A run small enough for the simulator.
fn train(out: &Path, device: &str, steps: &str) -> Command {
    let mut command = Fixture::get().train(out);
    command.args(["--device", device, "--max-steps", steps]);
    command.args(["--max-length", "24", "--batch-size", "1"]);
    // The early look at answers comes with each validation, and takes the simulator longer than all
    // steps.
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
        let said = stderr(&run(without_repeats(command)));
        assert!(said.contains("warning: the run began on "), "{said}");
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

#[test]
fn the_cpu_multiplies_bf16_where_it_is_told_to() {
    let out = Fixture::get().path("cpu-bf16");
    let mut command = train(&out, "cpu", "50");
    command.args(["--precision", "bf16"]);
    run(command);
    let difference = largest_difference(&losses(&out), &losses(&whole("cpu")));
    println!("largest difference {difference:.1e}");
    assert!(
        difference > 0.0 && difference <= 2.0 * CURVE,
        "{difference:.1e}"
    );
    let said = lines_of_json(&out.join("run.json"))["device"].to_string();
    assert!(said.contains("bf16 products"), "{said}");
    // It goes on to the same bytes, and does not lose its precision unnoticed.
    let resume = |name: &str, more: &[&str]| {
        let resumed = Fixture::get().path(name);
        copy_up_to(45, &out, &resumed);
        let mut command = Fixture::get().resume(&resumed);
        command.args(more);
        let said = stderr(&run(command));
        let model = "checkpoints/step-000050/model.safetensors";
        let same = fs::read(resumed.join(model)).unwrap() == fs::read(out.join(model)).unwrap();
        (same, said.contains("warning: the run began on cpu ("))
    };
    let bf16 = ["--precision", "bf16", "--threads", "3"];
    assert_eq!(resume("cpu-bf16-resumed", &bf16), (true, false));
    assert_eq!(resume("cpu-bf16-lost", &[]), (false, true));
}

#[test]
fn precisions_that_a_device_does_not_have_are_refused() {
    for (device, precision, wanted) in [
        (
            "cpu",
            "fp16",
            "--precision is fp16, and the device is the CPU",
        ),
        (
            "sim",
            "fp32",
            "--precision is fp32, and a card stores 16 bits",
        ),
    ] {
        let out = Fixture::get().path("no-such-precision");
        let mut command = train(&out, device, "1");
        let output = command.args(["--precision", precision]).output().unwrap();
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(wanted), "{said}");
    }
}

#[test]
fn the_memory_limit_is_kept_and_settles_the_micro_batch() {
    let micro_batch = |out: &Path| {
        let description = lines_of_json(&out.join("run.json"));
        description["options"]["micro_batch"].as_u64()
    };
    // Without a limit a step is one micro-batch of both logical batches.
    assert_eq!(micro_batch(&whole("sim")), Some(2));
    let limited = |name: &str, limit: &str, more: &[&str]| {
        let out = Fixture::get().path(name);
        let mut command = train(&out, "sim", "1");
        command.args(["--vram-limit", limit]).args(more);
        (out, command.output().unwrap())
    };
    let (_, output) = limited("limited-none", "1MiB", &[]);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("needs at least"), "{said}");
    // What the smallest run is said to need is enough for it, and not for a larger one.
    let needs = said.split("needs at least ").nth(1).unwrap();
    let needs: f64 = needs.split(' ').next().unwrap().parse().unwrap();
    let limit = format!("{:.1}MiB", needs + 0.1);
    let (out, output) = limited("limited", &limit, &[]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(micro_batch(&out), Some(1));
    let (_, output) = limited("limited-two", &limit, &["--micro-batch", "2"]);
    let said = stderr(&output);
    assert!(
        said.contains("the largest micro-batch that fits is --micro-batch 1"),
        "{said}"
    );
}

#[test]
fn a_profile_names_the_kernels_of_a_step_and_wants_some() {
    let mut command = train(&Fixture::get().path("profiled"), "sim", "3");
    command.arg("--profile");
    let said = stderr(&run(command));
    let table = said.split("\nprofile of 2 steps").nth(1).expect(&said);
    // Launches of a step, from a line of the table.
    let launches = |name: &str| -> f64 {
        let line = table.lines().find(|line| line.trim().starts_with(name));
        let numbers = line.expect(table).trim().strip_prefix(name).unwrap();
        numbers.split_whitespace().next().unwrap().parse().unwrap()
    };
    assert_eq!(launches("head, gradient of the table"), 1.0);
    // Queries, keys and values, and attention's output, in two layers.
    assert_eq!(launches("projections, gradient of the weights"), 4.0);
    assert!(launches("all") > 50.0);
    assert!(!table.contains("attention_cached"), "{table}");
    let mut command = train(&Fixture::get().path("profiled-cpu"), "cpu", "3");
    command.arg("--profile");
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("--device cuda:0"));
}
