//! `muni-engine train` as people run it: the real binary on a tiny model and a small shard folder,
//! killed, interrupted, damaged, short of disk space. No test depends on time: a run is waited for
//! by what it writes.

mod devices;

use muni_engine::model::ModelConfig;
use muni_engine::shards::{Example, ShardInfo, ShardWriter, Split};
use muni_engine::tokenizer::{END_OF_TEXT, Tokenizer};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::Duration;
use tempfile::TempDir;

/// Steps of the standard run.
const STEPS: u64 = 24;

/// Shards, a model configuration and one finished run, shared by all tests.
struct Fixture {
    root: TempDir,
    finished: OnceLock<String>,
}

impl Fixture {
    fn get() -> &'static Self {
        static FIXTURE: OnceLock<Fixture> = OnceLock::new();
        FIXTURE.get_or_init(|| {
            let root = tempfile::tempdir().unwrap();
            write_shards(&root.path().join("shards"), 24);
            write_shards(&root.path().join("other-shards"), 20);
            let config = json!({
                "architectures": ["MixtralForCausalLM"], "model_type": "mixtral",
                "vocab_size": 50257, "hidden_size": 32, "intermediate_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16,
                "num_local_experts": 4, "num_experts_per_tok": 2, "max_position_embeddings": 64,
                "rope_theta": 10000.0, "rms_norm_eps": 1e-5, "router_aux_loss_coef": 0.02,
                "initializer_range": 0.02, "tie_word_embeddings": true, "hidden_act": "silu",
                "bos_token_id": 50256, "eos_token_id": 50256
            });
            fs::write(root.path().join("config.json"), config.to_string()).unwrap();
            Fixture {
                root,
                finished: OnceLock::new(),
            }
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// The standard run's folder, trained without a pause.
    fn finished_run(&self) -> PathBuf {
        let out = self.path("finished");
        self.finished.get_or_init(|| {
            let output = self.train(&out).output().unwrap();
            assert!(output.status.success(), "{}", stderr(&output));
            String::from_utf8(output.stdout).unwrap()
        });
        out
    }

    /// A standard run into `out`.
    fn train(&self, out: &Path) -> Command {
        let mut command = binary();
        command
            .args(["train", "--out"])
            .arg(out)
            .arg("--shards")
            .arg(self.path("shards"))
            .arg("--model-config")
            .arg(self.path("config.json"))
            .args([
                "--max-length",
                "48",
                "--batch-size",
                "2",
                "--gradient-accumulation-steps",
                "2",
            ])
            // Named, so that a card in the machine changes nothing.
            .args(["--device", "cpu"])
            .args(["--learning-rate", "0.003", "--epochs", "100", "--seed", "7"])
            .args([
                "--max-steps",
                &STEPS.to_string(),
                "--save-every",
                "4",
                "--eval-every",
                "8",
            ]);
        command
    }

    fn resume(&self, out: &Path) -> Command {
        let mut command = binary();
        command.args(["train", "--resume"]).arg(out);
        command.args(["--device", "cpu"]);
        command
    }

    /// A run that was asked to stop after some steps.
    fn interrupted_run(&self, name: &str) -> PathBuf {
        let out = self.path(name);
        let child = spawn(self.train(&out));
        wait_for(&out.join("checkpoints/step-000004"), &child);
        signal(&child, "INT");
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        assert!(stderr(&output).contains("--resume"), "{}", stderr(&output));
        out
    }
}

/// The shard folder, and a model of the same vocabulary that is small enough for the simulator.
pub fn tiny_run() -> (PathBuf, ModelConfig) {
    let fixture = Fixture::get();
    let path = fixture.path("config.json");
    let text = fs::read_to_string(&path).unwrap();
    let mut config = ModelConfig::from_json(&text, &path).unwrap();
    (config.hidden_size, config.num_hidden_layers) = (16, 1);
    (fixture.path("shards"), config)
}

fn binary() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_muni-engine"));
    command.stdin(Stdio::null());
    command
}

fn write_shards(folder: &Path, examples: usize) {
    let tokenizer = Tokenizer::gpt2().unwrap();
    let info = ShardInfo {
        stage: "basis".into(),
        seed: 1,
        generator_version: "test".into(),
        tokenizer_fingerprint: tokenizer.fingerprint(),
        offices: vec!["amt".into()],
        techniques: vec!["direkt".into()],
        vocab_size: tokenizer.vocab_size(),
    };
    let mut writer = ShardWriter::create(folder, info).unwrap();
    for index in 0..examples + 4 {
        let split = if index < examples {
            Split::Train
        } else {
            Split::Validation
        };
        let (prompt, answer) = (
            format!("Frage: Was kostet Leistung {index}?\nAntwort:"),
            format!(" Die Gebühr beträgt {} Euro.", index % 5 + 10),
        );
        let mut tokens = vec![END_OF_TEXT];
        tokens.extend(tokenizer.encode(&prompt).unwrap());
        let start = tokens.len() as u32;
        tokens.extend(tokenizer.encode(&answer).unwrap());
        tokens.push(END_OF_TEXT);
        let example = Example {
            answers: vec![(start, tokens.len() as u32 - start)],
            tokens: tokens.iter().map(|&token| token as u16).collect(),
            office: 0,
            techniques: 1,
        };
        writer.push(split, &example).unwrap();
    }
    writer.finish(json!({})).unwrap();
}

fn spawn(mut command: Command) -> Child {
    command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn signal(child: &Child, name: &str) {
    let status = Command::new("kill")
        .args([format!("-{name}"), child.id().to_string()])
        .status()
        .unwrap();
    assert!(status.success());
}

/// Waits until `path` is there; fails when the process has left the system before.
fn wait_for(path: &Path, child: &Child) {
    while !path.exists() {
        let state = fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap_or_default();
        let zombie = state
            .rsplit(')')
            .next()
            .is_some_and(|rest| rest.starts_with(" Z"));
        assert!(!zombie, "the run ended before {} appeared", path.display());
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn run(mut command: Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    output
}

/// Runs a command that must fail with exit code 1, and returns what it says.
fn refused(mut command: Command) -> String {
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    stderr(&output)
}

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn names(folder: &Path) -> BTreeSet<String> {
    fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

fn last_checkpoint(run: &Path) -> PathBuf {
    let checkpoints = run.join("checkpoints");
    checkpoints.join(names(&checkpoints).last().unwrap())
}

/// Holds a run to the standard one that was never stopped: the same bytes, and the same history.
fn assert_equals_finished(run: &Path) {
    let expected = Fixture::get().finished_run();
    let files = [
        format!("checkpoints/step-{STEPS:06}/model.safetensors"),
        format!("checkpoints/step-{STEPS:06}/optimizer.safetensors"),
        "best_model/model.safetensors".to_string(),
    ];
    for file in files {
        let same = fs::read(run.join(&file)).unwrap() == fs::read(expected.join(&file)).unwrap();
        assert!(
            same,
            "{file} of {} differs from the uninterrupted run's",
            run.display()
        );
    }
    let history = |run: &Path| -> Vec<Value> {
        let mut lines = lines(&run.join("metrics.jsonl"));
        for line in &mut lines {
            let line = line.as_object_mut().unwrap();
            line.remove("tokens_per_second");
            line.remove("elapsed_s");
        }
        lines
    };
    assert_eq!(history(run), history(&expected));
    assert_eq!(
        lines(&run.join("samples.jsonl")),
        lines(&expected.join("samples.jsonl"))
    );
}

/// Every file of a checkpoint is what its state says.
fn assert_whole(checkpoint: &Path) {
    let state = lines_of_json(&checkpoint.join("state.json"));
    let files = state["files"].as_object().unwrap();
    assert!(files.contains_key("model.safetensors") && files.contains_key("optimizer.safetensors"));
    for (name, hash) in files {
        let found: String = Sha256::digest(fs::read(checkpoint.join(name)).unwrap())
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(hash, &json!(found), "{name}");
    }
}

fn lines_of_json(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn a_run_learns_and_leaves_everything_behind() {
    let fixture = Fixture::get();
    let run_folder = fixture.finished_run();
    let metrics = lines(&run_folder.join("metrics.jsonl"));
    assert_eq!(metrics.len() as u64, STEPS);
    let loss = |line: &Value| line["loss"].as_f64().unwrap();
    assert!(
        (loss(&metrics[0]) - 50257f64.ln()).abs() < 0.2,
        "{}",
        metrics[0]
    );
    assert!(
        loss(&metrics[23]) < loss(&metrics[0]) - 2.0,
        "{}",
        metrics[23]
    );
    let mut tokens = 0;
    for (index, line) in metrics.iter().enumerate() {
        assert_eq!(line["step"], json!(index + 1));
        assert!(line["tokens"].as_u64().unwrap() > tokens);
        tokens = line["tokens"].as_u64().unwrap();
        assert!(line["epoch"].as_u64().unwrap() >= 1);
        for name in [
            "router_loss",
            "learning_rate",
            "grad_norm",
            "tokens_per_second",
            "elapsed_s",
        ] {
            assert!(line[name].as_f64().unwrap() > 0.0, "{name} in {line}");
        }
        let shares: Vec<f64> = line["expert_share"]
            .as_array()
            .unwrap()
            .iter()
            .map(|s| s.as_f64().unwrap())
            .collect();
        assert_eq!(shares.len(), 4);
        assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-9, "{line}");
        assert_eq!(
            line.get("val_loss").is_some(),
            (index + 1) % 8 == 0,
            "{line}"
        );
    }
    let peak = metrics
        .iter()
        .map(|line| line["learning_rate"].as_f64().unwrap());
    assert!((peak.fold(0.0, f64::max) - 0.003).abs() < 1e-8);

    assert_eq!(lines(&run_folder.join("samples.jsonl")).len(), 9);
    assert_eq!(
        lines_of_json(&run_folder.join("run.json"))["settings"]["seed"],
        json!(7)
    );
    assert_eq!(
        names(&run_folder.join("checkpoints"))
            .into_iter()
            .collect::<Vec<_>>(),
        ["step-000020", "step-000024"]
    );
    for name in [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
    ] {
        assert!(run_folder.join("best_model").join(name).is_file(), "{name}");
    }
    assert_whole(&last_checkpoint(&run_folder));
    let said = fixture.finished.get().unwrap();
    assert!(said.contains("muni-engine prompt --model-path"), "{said}");
    assert!(
        said.contains("Frage: Wo kann ich mich ummelden?\nAntwort:"),
        "{said}"
    );
}

#[test]
fn a_killed_run_resumes_to_the_same_bytes() {
    let fixture = Fixture::get();
    let out = fixture.path("killed");
    let mut child = spawn(fixture.train(&out));
    wait_for(&out.join("checkpoints/step-000008"), &child);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(
        !out.join(format!("checkpoints/step-{STEPS:06}")).exists(),
        "killed too late"
    );
    // What a kill in the middle of writing would leave.
    fs::create_dir(out.join("checkpoints/.step-000099.partial")).unwrap();
    fs::write(out.join("checkpoints/.step-000099.lock"), "").unwrap();
    let metrics = out.join("metrics.jsonl");
    fs::write(
        &metrics,
        fs::read_to_string(&metrics).unwrap() + "{\"step\":9,\"lo",
    )
    .unwrap();
    run(fixture.resume(&out));
    assert_equals_finished(&out);
    assert_eq!(names(&out.join("checkpoints")).len(), 2);
}

#[test]
fn a_run_killed_before_its_first_checkpoint_begins_again() {
    let fixture = Fixture::get();
    let out = fixture.path("killed-early");
    let mut child = spawn(fixture.train(&out));
    wait_for(&out.join("metrics.jsonl"), &child);
    child.kill().unwrap();
    child.wait().unwrap();
    fs::remove_dir_all(out.join("checkpoints")).unwrap();
    fs::create_dir(out.join("checkpoints")).unwrap();
    run(fixture.resume(&out));
    assert_equals_finished(&out);
}

#[test]
fn ctrl_c_saves_a_checkpoint_and_resume_equals() {
    let fixture = Fixture::get();
    let out = fixture.interrupted_run("interrupted");
    let checkpoint = last_checkpoint(&out);
    assert_whole(&checkpoint);
    let steps = lines(&out.join("metrics.jsonl")).len();
    assert!((4..STEPS as usize).contains(&steps), "{steps}");
    assert!(
        checkpoint.ends_with(format!("step-{steps:06}")),
        "{}",
        checkpoint.display()
    );
    // The same command line again, with --resume.
    let mut command = fixture.train(&out);
    command.args(["--resume", "--threads", "1"]);
    run(command);
    assert_equals_finished(&out);
    // A finished run resumes to itself.
    run(fixture.resume(&out));
    assert_equals_finished(&out);
}

#[test]
fn the_physical_micro_batch_changes_rounding_only() {
    let fixture = Fixture::get();
    let train = |name: &str, micro_batch: &str| {
        let out = fixture.path(name);
        let mut command = fixture.train(&out);
        command.args([
            "--gradient-accumulation-steps",
            "4",
            "--micro-batch",
            micro_batch,
        ]);
        command.args(["--max-steps", "6"]);
        // Clap takes the last of a repeated option only where it is told to, so the standard ones
        // are replaced.
        run(without_repeats(command));
        let model = muni_engine::hf::load_folder(&out.join("checkpoints/step-000006")).unwrap();
        (model.fused, lines(&out.join("metrics.jsonl")))
    };
    let (expected, expected_metrics) = train("micro-1", "1");
    for (name, micro_batch) in [("micro-3", "3"), ("micro-4", "4")] {
        let (found, metrics) = train(name, micro_batch);
        for (found, expected) in found.iter().zip(&expected) {
            let square = |values: &mut dyn Iterator<Item = f32>| -> f64 {
                values.map(|value| f64::from(value).powi(2)).sum()
            };
            let error = square(&mut found.iter().zip(expected).map(|(a, b)| a - b));
            let size = square(&mut expected.iter().copied());
            assert!(
                (error / size).sqrt() < 1e-5,
                "{name}: {}",
                (error / size).sqrt()
            );
        }
        for (found, expected) in metrics.iter().zip(&expected_metrics) {
            for field in ["loss", "router_loss", "grad_norm"] {
                let (found, expected) = (
                    found[field].as_f64().unwrap(),
                    expected[field].as_f64().unwrap(),
                );
                assert!(
                    (found / expected - 1.0).abs() < 1e-5,
                    "{name}: {field} {found} {expected}"
                );
            }
        }
    }
}

/// The same command with only the last of each repeated option.
fn without_repeats(command: Command) -> Command {
    let arguments: Vec<_> = command
        .get_args()
        .map(|argument| argument.to_owned())
        .collect();
    let mut kept: Vec<Vec<_>> = vec![vec![arguments[0].clone()]];
    for pair in arguments[1..].chunks(2) {
        kept.retain(|earlier| earlier[0] != pair[0]);
        kept.push(pair.to_vec());
    }
    let mut command = binary();
    command.args(kept.into_iter().flatten());
    command
}

#[test]
fn a_damaged_checkpoint_gives_way_to_the_one_before() {
    let fixture = Fixture::get();
    let out = fixture.path("damaged");
    let finished = fixture.finished_run();
    copy_folder(&finished, &out);
    let weights = out.join("checkpoints/step-000024/model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&weights, bytes).unwrap();
    let output = run(fixture.resume(&out));
    let said = stderr(&output);
    assert!(
        said.contains("step-000024/model.safetensors is damaged"),
        "{said}"
    );
    assert!(
        said.contains("resuming from") && said.contains("step-000020"),
        "{said}"
    );
    assert_equals_finished(&out);

    let optimizer = out.join("checkpoints/step-000024/optimizer.safetensors");
    fs::File::options()
        .write(true)
        .open(&optimizer)
        .unwrap()
        .set_len(1000)
        .unwrap();
    fs::write(out.join("checkpoints/step-000020/state.json"), "{").unwrap();
    let said = refused(fixture.resume(&out));
    assert!(said.contains("no whole checkpoint"), "{said}");
    assert!(said.contains("optimizer.safetensors is damaged"), "{said}");
}

#[test]
fn what_would_change_the_result_is_refused_on_resume() {
    let fixture = Fixture::get();
    let out = fixture.path("refusing");
    copy_folder(&fixture.finished_run(), &out);
    let config = fixture.path("other-config.json");
    let mut other = lines_of_json(&fixture.path("config.json"));
    other["rope_theta"] = json!(20000.0);
    fs::write(&config, other.to_string()).unwrap();
    let shards = fixture.path("other-shards");
    let cases: [(&[&str], &str); 5] = [
        (&["--learning-rate", "0.1"], "learning_rate: 0.1, not 0.003"),
        (&["--max-steps", "30"], "max_steps: 30, not 24"),
        (
            &["--seed", "1", "--batch-size", "4"],
            "batch_size: 4, not 2; seed: 1, not 7",
        ),
        (
            &["--shards", shards.to_str().unwrap()],
            "shards: the manifest of",
        ),
        (
            &["--model-config", config.to_str().unwrap()],
            "--model-config",
        ),
    ];
    for (arguments, expected) in cases {
        let mut command = fixture.resume(&out);
        command.args(arguments);
        let said = refused(command);
        assert!(said.contains(expected), "{arguments:?}: {said}");
    }
    assert_equals_finished(&out);
}

#[test]
fn weights_that_run_away_end_the_run_and_leave_good_checkpoints() {
    let fixture = Fixture::get();
    let train = |name: &str, arguments: &[&str]| {
        let out = fixture.path(name);
        let mut command = fixture.train(&out);
        command.args(["--learning-rate", "1e38"]).args(arguments);
        let said = refused(without_repeats(command));
        assert!(said.contains("lower --learning-rate"), "{said}");
        (out, said)
    };
    // The step after the weights overflowed sees it in its loss and gradient.
    let (out, said) = train("diverged", &[]);
    assert!(said.contains("step 2 is not finite: loss"), "{said}");
    assert!(said.contains("there is no checkpoint yet"), "{said}");
    assert!(names(&out.join("checkpoints")).is_empty());

    // A slow warmup lets some steps pass before.
    let (out, said) = train("diverging", &["--save-every", "1", "--warmup-steps", "24"]);
    assert!(said.contains("not finite"), "{said}");
    let left = names(&out.join("checkpoints"));
    assert!(
        !left.is_empty(),
        "no step before the failing one was saved: {said}"
    );
    assert!(
        said.contains(last_checkpoint(&out).to_str().unwrap()),
        "{said}"
    );
    for name in left {
        let checkpoint = out.join("checkpoints").join(name);
        assert_whole(&checkpoint);
        let model = muni_engine::hf::load_folder(&checkpoint).unwrap();
        assert!(model.fused.iter().flatten().all(|value| value.is_finite()));
    }
}

#[test]
fn a_full_disk_costs_no_run() {
    let fixture = Fixture::get();
    let out = fixture.interrupted_run("full");
    let saved = last_checkpoint(&out);
    // A limit on the size of files stands in for a full disk: a write fails, wherever the weights
    // go.
    let limited = |command: &Command| {
        let mut shell = Command::new("sh");
        shell.args(["-c", "ulimit -f 1000; exec \"$@\"", "sh"]);
        shell.arg(command.get_program()).args(command.get_args());
        shell
    };
    let said = refused(limited(&fixture.resume(&out)));
    assert!(said.contains("was not saved"), "{said}");
    assert!(said.contains("could not be saved"), "{said}");
    assert!(said.contains(saved.to_str().unwrap()), "{said}");
    assert_whole(&saved);
    assert_eq!(last_checkpoint(&out), saved);
    assert!(
        !names(&out.join("checkpoints"))
            .iter()
            .any(|name| name.starts_with('.'))
    );
    // With space again, nothing is lost.
    run(fixture.resume(&out));
    assert_equals_finished(&out);

    let out = fixture.path("full-from-the-start");
    let said = refused(limited(&fixture.train(&out)));
    assert!(said.contains("the last good one is none"), "{said}");
    assert!(names(&out.join("checkpoints")).is_empty());
}

#[test]
fn a_run_is_never_overwritten() {
    let fixture = Fixture::get();
    let out = fixture.finished_run();
    let said = refused(fixture.train(&out));
    assert!(
        said.contains("exists already") && said.contains("--resume"),
        "{said}"
    );
    let said = refused(fixture.resume(&fixture.path("shards")));
    assert!(said.contains("not the folder of a run"), "{said}");
}

#[test]
fn what_cannot_be_trained_is_refused_before_anything_is_written() {
    let fixture = Fixture::get();
    let out = fixture.path("refused");
    let cases: [(&[&str], &str); 6] = [
        (&["--device", "cuda:99"], "cannot use cuda:99"),
        (&["--max-length", "65"], "max_position_embeddings"),
        (&["--learning-rate", "0"], "--learning-rate is 0"),
        (&["--beta2", "1"], "--beta2 is 1"),
        (
            &["--final-learning-rate-ratio", "2"],
            "--final-learning-rate-ratio is 2",
        ),
        (&["--shards", "/nonexistent"], "/nonexistent"),
    ];
    for (arguments, expected) in cases {
        let mut command = fixture.train(&out);
        command.args(arguments);
        let said = refused(without_repeats(command));
        assert!(said.contains(expected), "{arguments:?}: {said}");
        assert!(!out.exists(), "{arguments:?}");
    }
    let mut command = fixture.train(&out);
    command.args(["--device", "gpu"]);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_folder(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}
