//! Generation against Transformers, and the commands `prompt` and `eval perplexity` as people run
//! them.

use crate::hf::{fixture, integers, tiny_config, upload};
use muni_engine::eval::perplexity;
use muni_engine::generate::{Finish, GenerateSettings, Generator, SamplingSettings};
use muni_engine::hf::{load_folder, save_folder};
use muni_engine::model::{Batch, Model, ModelConfig, Workspace, random_weights};
use muni_engine::ops::cpu::CpuDevice;
use muni_engine::tokenizer::{END_OF_TEXT, Tokenizer};
use serde_json::Value;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn model_of(device: &CpuDevice, name: &str) -> Model<CpuDevice> {
    upload(device, load_folder(&fixture(name)).unwrap())
}

fn greedy(penalty: f32, max_new_tokens: Option<usize>) -> GenerateSettings {
    GenerateSettings {
        sampling: SamplingSettings {
            repetition_penalty: penalty,
            ..SamplingSettings::default()
        },
        max_new_tokens,
        ..GenerateSettings::default()
    }
}

/// Generates and checks that the callback saw what came out.
fn ids(
    generator: &mut Generator<CpuDevice>,
    prompt: &[u32],
    settings: &GenerateSettings,
) -> (Vec<u32>, Finish) {
    let mut seen = Vec::new();
    let output = generator
        .generate_ids(prompt, settings, &mut |token| {
            seen.push(token);
            Ok(ControlFlow::Continue(()))
        })
        .unwrap();
    let shown = match output.finish {
        Finish::EndOfText => &output.token_ids[..output.token_ids.len() - 1],
        _ => &output.token_ids,
    };
    assert_eq!(seen, shown);
    assert_eq!(output.prompt_token_ids, prompt);
    (output.token_ids, output.finish)
}

#[test]
fn greedy_continuations_are_those_of_transformers() {
    for name in ["gqa", "odd", "mha"] {
        let path = fixture(name).join("oracle.safetensors");
        let prompt = integers(&path, "generate.prompt");
        let device = CpuDevice::new();
        let model = model_of(&device, name);
        let mut generator = Generator::new(&device, &model).unwrap();
        for (tensor, penalty) in [("generate.output", 1.0), ("generate.penalty.output", 1.3)] {
            let expected = integers(&path, tensor);
            let settings = greedy(penalty, Some(expected.len()));
            let (found, finish) = ids(&mut generator, &prompt, &settings);
            assert_eq!(found, expected, "{name} {tensor}");
            assert_eq!(finish, Finish::MaxNewTokens);
        }
    }
}

#[test]
fn a_text_ends_for_the_reason_that_came_first() {
    let path = fixture("gqa").join("oracle.safetensors");
    let prompt = integers(&path, "generate.prompt");
    let expected = integers(&path, "generate.output");
    let device = CpuDevice::new();
    let model = model_of(&device, "gqa");
    let mut generator = Generator::new(&device, &model).unwrap();

    let (all, finish) = ids(&mut generator, &prompt, &greedy(1.0, None));
    assert_eq!(finish, Finish::ContextFull);
    assert_eq!(
        all.len() + prompt.len(),
        model.config.max_position_embeddings
    );

    let mut settings = greedy(1.0, Some(20));
    settings.end_token = Some(expected[3]);
    let first = expected.iter().position(|&t| t == expected[3]).unwrap();
    let (found, finish) = ids(&mut generator, &prompt, &settings);
    assert_eq!(
        (found, finish),
        (expected[..=first].to_vec(), Finish::EndOfText)
    );

    let (found, finish) = ids(&mut generator, &prompt, &greedy(1.0, Some(0)));
    assert_eq!((found.len(), finish), (0, Finish::MaxNewTokens));

    let mut count = 0;
    let output = generator
        .generate_ids(&prompt, &greedy(1.0, None), &mut |_| {
            count += 1;
            Ok(match count {
                5 => ControlFlow::Break(Finish::Cancelled),
                _ => ControlFlow::Continue(()),
            })
        })
        .unwrap();
    assert_eq!(
        (output.finish, output.token_ids),
        (Finish::Cancelled, expected[..5].to_vec())
    );
}

#[test]
fn the_cache_of_the_last_text_changes_nothing() {
    let device = CpuDevice::new();
    let model = model_of(&device, "gqa");
    let mut reused = Generator::new(&device, &model).unwrap();
    let prompts: [&[u32]; 5] = [
        &[1, 2, 3, 4],
        &[1, 2, 9],
        &[1, 2, 9],
        &[5],
        &[1, 2, 3, 4, 5, 6],
    ];
    for prompt in prompts {
        let mut fresh = Generator::new(&device, &model).unwrap();
        let settings = greedy(1.0, Some(8));
        assert_eq!(
            ids(&mut reused, prompt, &settings),
            ids(&mut fresh, prompt, &settings)
        );
    }
}

#[test]
fn prompts_that_do_not_fit_are_errors() {
    let device = CpuDevice::new();
    let model = model_of(&device, "gqa");
    let mut generator = Generator::new(&device, &model).unwrap();
    for (prompt, part) in [
        (vec![], "empty"),
        (vec![1; 64], "context of 64"),
        (vec![131], "token 131"),
    ] {
        let error = generator
            .generate_ids(&prompt, &greedy(1.0, None), &mut |_| {
                Ok(ControlFlow::Continue(()))
            })
            .unwrap_err();
        assert!(format!("{error:#}").contains(part), "{error:#}");
    }
    // And nothing is left of them.
    let (found, _) = ids(&mut generator, &[1], &greedy(1.0, Some(3)));
    let mut fresh = Generator::new(&device, &model).unwrap();
    assert_eq!(found, ids(&mut fresh, &[1], &greedy(1.0, Some(3))).0);
}

/// The score by its definition: each window alone, through the whole logits, in f64.
fn perplexity_by_hand(
    device: &CpuDevice,
    model: &Model<CpuDevice>,
    ids: &[u32],
    length: usize,
) -> (usize, f64) {
    let vocab = model.config.vocab_size;
    let (mut tokens, mut nll) = (0, 0.0);
    for window in ids.chunks(length) {
        let mut batch = Batch::new();
        batch.push_segment(window, window).unwrap();
        let mut workspace =
            Workspace::for_inference(device, &model.config, window.len(), 1, 1).unwrap();
        let logits = model.logits(device, &batch, &mut workspace).unwrap();
        for (row, &target) in logits.chunks(vocab).zip(&window[1..]) {
            let sum: f64 = row.iter().map(|&l| f64::from(l).exp()).sum();
            nll += sum.ln() - f64::from(row[target as usize]);
            tokens += 1;
        }
    }
    (tokens, nll)
}

#[test]
fn perplexity_is_the_sum_over_windows_scored_alone() {
    let device = CpuDevice::new();
    let model = model_of(&device, "gqa");
    let ids: Vec<u32> = (0..3000u32).map(|i| (i * i + 7 * i) % 131).collect();
    for (count, length) in [(3000, 16), (3000, 64), (100, 33), (97, 16), (2, 8), (1, 8)] {
        let ids = &ids[..count];
        let (tokens, nll) = perplexity_by_hand(&device, &model, ids, length);
        let found = perplexity(&device, &model, ids, length).unwrap();
        assert_eq!(found.tokens, tokens);
        assert!((found.nll - nll).abs() <= 1e-5 * nll, "{} {nll}", found.nll);
    }
    for length in [0, 1, 66] {
        let error = perplexity(&device, &model, &ids, length).unwrap_err();
        assert!(error.to_string().contains("expected 2 to 65"), "{error}");
    }
}

// The
// commands --------------------------------------------------------------------------------------

struct Tiny {
    folder: tempfile::TempDir,
    config: ModelConfig,
}

impl Tiny {
    /// A random model with GPT-2's vocabulary in `runs/first/best_model`.
    fn new() -> Self {
        let config = tiny_config();
        let folder = tempfile::tempdir().unwrap();
        let weights = random_weights(&config, 5);
        let tokenizer = Tokenizer::gpt2().unwrap();
        let model = folder.path().join("runs/first/best_model");
        save_folder(&model, &config, &weights, Some(&tokenizer)).unwrap();
        Self { folder, config }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_muni-engine"));
        command.current_dir(self.path()).args(arguments);
        // Named, so that a card in the machine changes nothing.
        if !arguments.contains(&"--device") {
            command.args(["--device", "cpu"]);
        }
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn stdout(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {stderr}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.stdout(arguments)).unwrap()
    }

    /// Exit code and standard error of a run that must fail.
    fn failure(&self, arguments: &[&str]) -> (i32, String) {
        let output = self.run(arguments);
        assert!(output.stdout.is_empty(), "{arguments:?}");
        (
            output.status.code().unwrap(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    }
}

fn token_ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

#[test]
fn prompt_prints_json_with_every_field() {
    let tiny = Tiny::new();
    let asked = ["prompt", "--prompt", "Wo kann ich mich ummelden?", "--json"];
    let answer = tiny.json(&[&asked[..], &["--max-new-tokens", "7"]].concat());
    let tokenizer = Tokenizer::gpt2().unwrap();
    let mut prompt = vec![END_OF_TEXT];
    prompt.extend(
        tokenizer
            .encode("Frage: Wo kann ich mich ummelden?\nAntwort:")
            .unwrap(),
    );
    assert_eq!(token_ids(&answer["prompt_token_ids"]), prompt);
    let tokens = token_ids(&answer["token_ids"]);
    assert_eq!(tokens.len(), 7);
    assert_eq!(answer["text"], tokenizer.decode(&tokens).unwrap().trim());
    assert_eq!(answer["finish_reason"], "max_new_tokens");
    assert!(answer["prefill_ms"].as_f64().unwrap() > 0.0);
    assert!(answer["decode_tokens_per_second"].as_f64().unwrap() > 0.0);
    assert_eq!(answer.as_object().unwrap().len(), 6);

    let full = tiny.json(&asked);
    assert_eq!(full["finish_reason"], "context_full");
    let count = token_ids(&full["token_ids"]).len();
    assert_eq!(count + prompt.len(), tiny.config.max_position_embeddings);
    assert_eq!(token_ids(&full["token_ids"])[..7], tokens);
}

#[test]
fn prompt_streams_the_same_text_as_it_reports() {
    let tiny = Tiny::new();
    let asked = [
        "prompt",
        "--max-new-tokens",
        "12",
        "--prompt",
        "Frage: Wo?\\nAntwort:",
    ];
    let json = [&asked[..], &["--json"]].concat();
    let text = tiny.json(&json)["text"].as_str().unwrap().to_string();
    assert_eq!(tiny.stdout(&asked), format!("{text}\n"));
    let tokens = token_ids(&tiny.json(&json)["token_ids"]);
    let raw = Tokenizer::gpt2().unwrap().decode(&tokens).unwrap();
    assert_eq!(tiny.stdout(&[&asked[..], &["--raw"]].concat()), raw);
}

#[test]
fn line_breaks_and_the_answers_beginning_are_understood() {
    let tiny = Tiny::new();
    let prompt_of = |text: &str, raw: bool| {
        let mut arguments = vec![
            "prompt",
            "--json",
            "--max-new-tokens",
            "1",
            "--prompt",
            text,
        ];
        if raw {
            arguments.push("--raw");
        }
        token_ids(&tiny.json(&arguments)["prompt_token_ids"])
    };
    let expected = prompt_of("Wo?", false);
    for text in [
        "Frage: Wo?\\nAntwort:",
        "Frage: Wo?\nAntwort: ",
        "Frage: Wo?",
    ] {
        assert_eq!(prompt_of(text, false), expected, "{text:?}");
    }
    let tokenizer = Tokenizer::gpt2().unwrap();
    let raw = tokenizer.encode("Wo?\n ").unwrap();
    assert_eq!(prompt_of("Wo?\\n ", true)[1..], raw);
}

#[test]
fn the_seed_decides_what_is_drawn() {
    let tiny = Tiny::new();
    let draw = |seed: &str, more: &[&str]| {
        let fixed = [
            "prompt",
            "--prompt",
            "Wo?",
            "--json",
            "--max-new-tokens",
            "8",
        ];
        let drawn = ["--temperature", "1", "--seed", seed];
        token_ids(&tiny.json(&[&fixed[..], &drawn, more].concat())["token_ids"])
    };
    assert_eq!(draw("1", &[]), draw("1", &["--threads", "1"]));
    assert_ne!(draw("1", &[]), draw("2", &[]));
    assert_eq!(draw("1", &["--top-k", "1"]), draw("2", &["--top-k", "1"]));
    assert_eq!(
        draw("1", &["--top-p", "1e-9"]),
        draw("2", &["--top-k", "1"])
    );
}

#[test]
fn wrong_usage_exits_with_2_and_says_what_is_expected() {
    let tiny = Tiny::new();
    let asked = ["prompt", "--prompt", "Wo?"];
    for (option, value, part) in [
        ("--temperature", "-1", "at least 0"),
        ("--temperature", "warm", "at least 0"),
        ("--temperature", "nan", "at least 0"),
        ("--top-p", "0", "above 0 and up to 1"),
        ("--top-p", "1.5", "above 0 and up to 1"),
        ("--repetition-penalty", "0", "above 0"),
        ("--top-k", "-3", "--top-k"),
        ("--max-new-tokens", "0", "--max-new-tokens"),
        ("--threads", "0", "--threads"),
        ("--device", "toaster", "cpu"),
    ] {
        let given = format!("{option}={value}");
        let (code, stderr) = tiny.failure(&[&asked[..], &[&given]].concat());
        assert_eq!(code, 2, "{given}: {stderr}");
        assert!(stderr.contains(part), "{given}: {stderr}");
    }
    assert_eq!(tiny.failure(&["prompt"]).0, 2);
    assert_eq!(
        tiny.failure(&["eval", "perplexity", "--file", "x", "--max-length", "1"])
            .0,
        2
    );
}

#[test]
fn what_cannot_be_done_exits_with_1_and_says_why() {
    let tiny = Tiny::new();
    fs::write(tiny.path().join("latin1.txt"), b"B\xfcrgeramt").unwrap();
    let long = "Wo? ".repeat(60);
    let small = fixture("mha");
    let small = small.to_str().unwrap();
    for (arguments, part) in [
        (
            vec!["prompt", "--prompt", "Wo?", "--model-path", "nowhere"],
            "nowhere does not exist",
        ),
        (vec!["prompt", "--prompt", " "], "question is empty"),
        (vec!["prompt", "--prompt", &long], "context of 48"),
        (
            vec!["prompt", "--prompt", "Wo?", "--model-path", small],
            "97 tokens",
        ),
        (vec!["eval", "perplexity", "--file", "gone.txt"], "gone.txt"),
        (
            vec!["eval", "perplexity", "--file", "latin1.txt"],
            "latin1.txt is not UTF-8",
        ),
    ] {
        let (code, stderr) = tiny.failure(&arguments);
        assert_eq!(code, 1, "{arguments:?}: {stderr}");
        assert!(stderr.contains(part), "{arguments:?}: {stderr}");
    }
    fs::remove_dir_all(tiny.path().join("runs")).unwrap();
    let (code, stderr) = tiny.failure(&["eval", "perplexity", "--file", "latin1.txt"]);
    assert_eq!(code, 1);
    assert!(stderr.contains("not UTF-8"), "{stderr}");
    fs::write(tiny.path().join("text.txt"), "Wo?").unwrap();
    let (code, stderr) = tiny.failure(&["eval", "perplexity", "--file", "text.txt"]);
    assert_eq!(code, 1);
    assert!(stderr.contains("--model-path"), "{stderr}");
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let tiny = Tiny::new();
    let mut child = tiny
        .command(&["prompt", "--prompt", "Wo?"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && stderr.is_empty(), "{stderr}");
}

#[test]
fn eval_perplexity_prints_tokens_and_nll() {
    let tiny = Tiny::new();
    let text = "Die Anmeldung muss innerhalb von zwei Wochen erfolgen.\r\nGrüße – 12 €\n".repeat(5);
    fs::write(tiny.path().join("text.txt"), &text).unwrap();
    let asked = [
        "eval",
        "perplexity",
        "--file",
        "text.txt",
        "--max-length",
        "20",
    ];
    let found = tiny.json(&[&asked[..], &["--json"]].concat());
    let device = CpuDevice::new();
    let model = upload(
        &device,
        load_folder(&tiny.path().join("runs/first/best_model")).unwrap(),
    );
    let mut ids = vec![END_OF_TEXT];
    ids.extend(Tokenizer::gpt2().unwrap().encode(&text).unwrap());
    let (tokens, nll) = perplexity_by_hand(&device, &model, &ids, 20);
    assert_eq!(found.as_object().unwrap().len(), 2);
    assert_eq!(found["tokens"], tokens);
    let error = (found["nll"].as_f64().unwrap() - nll).abs();
    assert!(error < 1e-5 * nll, "{found} {nll}");
    assert!(tiny.stdout(&asked).starts_with("perplexity "));
}
