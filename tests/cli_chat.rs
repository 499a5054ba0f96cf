//! `chat`, `demo` and `prompt --guard` as people run them, with a random model: its nonsense must
//! never reach anybody.

use crate::hf::tiny_config;
use muni_engine::hf::save_folder;
use muni_engine::model::{ModelConfig, random_weights};
use muni_engine::tokenizer::Tokenizer;
use serde_json::Value;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

const FEE: &str = "Der Personalausweis kostet 46 Euro, für Personen unter 24 Jahren 27,60 Euro. \
    Diese Gebühren gelten seit dem 7. Februar 2026.";

/// A folder with a random model in `runs/first/best_model`, and no knowledge beside it.
struct Tiny(tempfile::TempDir);

impl Tiny {
    fn new() -> Tiny {
        let config = ModelConfig {
            max_position_embeddings: 160,
            ..tiny_config()
        };
        let folder = tempfile::tempdir().unwrap();
        let tokenizer = Tokenizer::gpt2().unwrap();
        let model = folder.path().join("runs/first/best_model");
        save_folder(
            &model,
            &config,
            &random_weights(&config, 5),
            Some(&tokenizer),
        )
        .unwrap();
        Tiny(folder)
    }

    /// The folder without a model.
    fn without_model() -> Tiny {
        Tiny(tempfile::tempdir().unwrap())
    }

    fn run(&self, arguments: &[&str], input: &str) -> Output {
        let mut child = Command::new(env!("CARGO_BIN_EXE_muni-engine"))
            .current_dir(self.0.path())
            .args(arguments)
            .args(["--device", "cpu", "--threads", "1"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A command that fails early does not read.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        child.wait_with_output().unwrap()
    }

    fn stdout(&self, arguments: &[&str], input: &str) -> String {
        let output = self.run(arguments, input);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {stderr}");
        assert_eq!(stderr, "");
        String::from_utf8(output.stdout).unwrap()
    }
}

#[test]
fn piped_questions_are_answered_line_by_line() {
    let tiny = Tiny::new();
    let questions = "Was kostet ein neuer Personalausweis?\n\nUnd wo beantrage ich das?\n/quelle\n\
        Wo melde ich mich arbeitslos?\n/neu\nUnd was kostet das?\n/quatsch\n/ende\nNie gefragt\n";
    let text = tiny.stdout(&["chat"], questions);
    let parts: Vec<&str> = text.split("\n\n").collect();
    assert!(parts[0].contains("46 Euro"), "{text}");
    assert!(
        parts[0].contains("\nQuelle: § 1 PAuswGebV (BGBl. 2026 I Nr. 31) (Stand: 1. Juli 2026)"),
        "{text}"
    );
    assert!(
        parts[0].ends_with("Zuständig: Einwohnermeldeamt, Telefon 01234 567-100"),
        "{text}"
    );
    assert!(parts[1].contains("Einwohnermeldeamt"), "{text}");
    assert!(
        parts[2].contains("Quelle: § 8 PAuswG; § 9 PAuswG\nStand: 1. Juli 2026"),
        "{text}"
    );
    assert!(
        parts[2].contains("buergerbuero@musterstadt.example"),
        "{text}"
    );
    assert!(
        parts[3].contains("Agentur für Arbeit") && !parts[3].contains("Zuständig"),
        "{text}"
    );
    assert!(parts[4].contains("neues Gespräch"), "{text}");
    assert!(
        parts[5].starts_with("Das Anliegen ist noch nicht klar."),
        "{text}"
    );
    assert!(
        parts[6].starts_with("Den Befehl /quatsch gibt es nicht."),
        "{text}"
    );
    assert!(!text.contains("arbeitslos gefragt") && !text.contains(['{', '}']));
    // The seed decides, not the clock; without the guard the model's own words are seen.
    assert_eq!(text, tiny.stdout(&["chat"], questions));
    let raw = |seed: &str| {
        tiny.stdout(
            &["chat", "--guard", "off", "--seed", seed],
            "Wo kann ich mich ummelden?\n",
        )
    };
    assert_eq!(raw("1"), raw("1"));
    assert_ne!(raw("1"), raw("2"));
}

#[test]
fn the_temperature_can_be_changed_and_wrong_values_are_explained() {
    let tiny = Tiny::new();
    let question = "Wo kann ich mich ummelden?";
    let input = format!("/temperatur 0\n{question}\n/neu\n{question}\n/temperatur heiß\n/hilfe\n");
    let text = tiny.stdout(&["chat", "--guard", "off"], &input);
    let parts: Vec<&str> = text.split("\n\n").collect();
    assert_eq!(parts[0], "Die Temperatur ist jetzt 0.");
    assert!(text.contains("Zahl von 0 bis 2") && text.contains("/temperatur X"));
    let greedy = tiny.stdout(
        &[
            "chat",
            "--guard",
            "off",
            "--temperature",
            "0",
            "--seed",
            "9",
        ],
        &format!("{question}\n"),
    );
    assert!(text.contains(greedy.trim_end()), "{text}\n---\n{greedy}");
}

#[test]
fn a_question_too_long_for_the_model_is_answered_without_it_or_an_error_with_advice() {
    let tiny = Tiny::new();
    let long = format!("{}?\n", "Ummeldung ".repeat(100));
    let text = tiny.stdout(&["chat"], &long);
    assert!(
        text.contains("Ummeldung") && text.contains("Quelle: "),
        "{text}"
    );
    let output = tiny.run(&["chat", "--guard", "mark"], &long);
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        stderr.contains("window has 160 tokens") && stderr.contains("fewer words"),
        "{stderr}"
    );
}

#[test]
fn the_tour_visits_every_office() {
    let tiny = Tiny::new();
    let json = tiny.stdout(&["demo", "--json"], "");
    let stops: Vec<Value> = json
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let mut offices: Vec<&str> = stops
        .iter()
        .map(|stop| stop["office"].as_str().unwrap())
        .collect();
    offices.dedup();
    assert_eq!(offices.len(), 8);
    assert!(
        stops
            .iter()
            .any(|stop| stop["question"] == "Wo kann ich mich ummelden?")
    );
    for stop in &stops {
        let question = &stop["question"];
        assert_eq!(stop["office"], stop["understood_office"], "{question}");
        let reply = &stop["reply"];
        assert_eq!(reply["verdict"], "passed", "{question}");
        assert_eq!(reply["text"], reply["released"], "{question}");
        assert_eq!(reply["office"]["id"], stop["office"], "{question}");
        assert!(
            !reply["sources"].as_array().unwrap().is_empty(),
            "{question}"
        );
        assert!(
            reply["reasons"].as_array().unwrap().is_empty(),
            "{question}"
        );
        assert!(stop["first_token_ms"].as_f64().unwrap() > 0.0);
    }
    let text = tiny.stdout(&["demo"], "");
    assert!(text.contains("Frage: Wo kann ich mich ummelden?\nAntwort des Modells: "));
    assert!(text.contains(&format!(
        "{} Fragen: bei {} das richtige Amt erkannt, {} Antworten",
        stops.len(),
        stops.len(),
        stops.len()
    )));
    let unguarded = tiny.stdout(&["demo", "--json", "--guard", "off"], "");
    let first: Value = serde_json::from_str(unguarded.lines().next().unwrap()).unwrap();
    assert_eq!(first["reply"]["text"], first["model_answer"]);
}

#[test]
fn a_prompt_can_be_guarded() {
    let tiny = Tiny::new();
    let asked = [
        "prompt",
        "--prompt",
        "Frage: Was kostet ein neuer Personalausweis?\\nAntwort:",
    ];
    let guarded = tiny.stdout(&[&asked[..], &["--guard", "replace"]].concat(), "");
    assert!(guarded.contains("46 Euro"), "{guarded}");
    let json = tiny.stdout(
        &[
            &asked[..],
            &["--guard", "mark", "--json", "--max-new-tokens", "9"],
        ]
        .concat(),
        "",
    );
    let answer: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(answer["reply"]["verdict"], "marked");
    assert_eq!(answer["reply"]["service"]["id"], "ewo_personalausweis");
    let plain = tiny.stdout(&asked, "");
    assert!(!plain.contains("46 Euro"));
    let both = tiny.run(&[&asked[..], &["--guard", "mark", "--raw"]].concat(), "");
    assert_eq!(both.status.code(), Some(2));
}

#[test]
fn the_knowledge_base_is_the_folder_the_named_one_or_the_built_in_one() {
    let tiny = Tiny::new();
    let small = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/fixtures/knowledge_small"
    );
    let question = "Bis wann muss ich mich nach dem Umzug ummelden?\n";
    let built_in = tiny.stdout(&["chat"], question);
    assert!(built_in.contains("zwei Wochen") && built_in.contains("01234 567-100"));
    let named = tiny.stdout(&["chat", "--knowledge", small], question);
    assert!(
        named.contains("zwei Wochen") && named != built_in,
        "{named}"
    );
    let folder = tiny.0.path().join("knowledge");
    std::fs::create_dir(&folder).unwrap();
    for file in std::fs::read_dir(small).unwrap() {
        let file = file.unwrap().path();
        std::fs::copy(&file, folder.join(file.file_name().unwrap())).unwrap();
    }
    assert_eq!(tiny.stdout(&["chat"], question), named);
    let missing = tiny.run(&["chat", "--knowledge", "nirgends"], question);
    let stderr = String::from_utf8_lossy(&missing.stderr);
    assert!(
        missing.status.code() == Some(1) && stderr.contains("nirgends"),
        "{stderr}"
    );
    let wrong = tiny.run(&["chat", "--guard", "on"], "");
    assert_eq!(wrong.status.code(), Some(2));
    assert!(Path::new(small).is_dir());
}

/// Standard output of a run without a model, which standard error must tell in one line.
fn from_knowledge(arguments: &[&str], input: &str) -> String {
    let output = Tiny::without_model().run(arguments, input);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(
        stderr.contains("the knowledge base answers alone") && stderr.contains("--model-path"),
        "{stderr}"
    );
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn chat_without_a_model_answers_from_the_knowledge_base() {
    let input = "Was kostet ein neuer Personalausweis?\nUnd wo beantrage ich das?\n/quelle\n\
                 Wie wird das Wetter morgen?\n";
    for guard in ["replace", "mark", "off"] {
        let text = from_knowledge(&["chat", "--guard", guard], input);
        let parts: Vec<&str> = text.split("\n\n").collect();
        assert!(parts[0].starts_with(FEE), "{text}");
        assert!(parts[0].contains("\nQuelle: § 1 PAuswGebV"), "{text}");
        assert!(!parts[0].contains("Sprachmodell"), "{text}");
        assert!(
            parts[1].contains("persönlich beim Einwohnermeldeamt"),
            "{text}"
        );
        assert!(
            parts[2].ends_with("Auskunft der Wissensbasis, ohne Sprachmodell"),
            "{text}"
        );
        assert!(!parts[3].contains("Quelle"), "{text}");
    }
}

#[test]
fn demo_without_a_model_shows_the_knowledge_base() {
    let json = from_knowledge(&["demo", "--json"], "");
    for line in json.lines() {
        let step: Value = serde_json::from_str(line).unwrap();
        assert_eq!(step["reply"]["verdict"], "knowledge");
        assert_eq!(step["reply"]["text"], step["reference"]);
        assert_eq!(step["office"], step["understood_office"]);
        assert_eq!(step["model_answer"], Value::Null);
        assert_eq!(step["first_token_ms"], Value::Null);
        assert_eq!(
            (&step["prompt_tokens"], &step["new_tokens"]),
            (&Value::from(0), &Value::from(0))
        );
        assert!(step["total_ms"].is_number());
    }
    let text = from_knowledge(&["demo"], "");
    assert!(!text.contains("Antwort des Modells: ") && !text.contains("Prüfung"));
    assert!(
        text.contains("beantwortet aus der Wissensbasis, ohne Sprachmodell."),
        "{text}"
    );
}

#[test]
fn prompt_without_a_model_answers_from_the_knowledge_base() {
    let asked = [
        "prompt",
        "--prompt",
        "Was kostet ein neuer Personalausweis?",
    ];
    let text = from_knowledge(&asked, "");
    assert!(text.starts_with(FEE) && text.contains("Quelle: "), "{text}");
    let json = from_knowledge(&[&asked[..], &["--json"]].concat(), "");
    let answer: Value = serde_json::from_str(&json).unwrap();
    assert!(answer["text"].as_str().unwrap().starts_with(FEE));
    assert_eq!(answer["reply"]["verdict"], "knowledge");
    for field in ["token_ids", "prompt_token_ids"] {
        assert_eq!(answer[field], serde_json::json!([]), "{field}");
    }
    for field in ["finish_reason", "prefill_ms", "decode_tokens_per_second"] {
        assert_eq!(answer[field], Value::Null, "{field}");
    }
}

#[test]
fn what_needs_a_model_says_how_to_get_one() {
    let none = Tiny::without_model();
    for (arguments, part) in [
        (&["chat", "--model-path", "gone"][..], "gone does not exist"),
        (&["demo", "--model-path", "gone"], "train a model first"),
        (
            &["prompt", "--prompt", "Wo?", "--model-path", "gone"],
            "train a model first",
        ),
        (
            &["serve", "--port", "0", "--model-path", "gone"],
            "train a model first",
        ),
        (
            &["prompt", "--prompt", "Das ist", "--raw"],
            "--model-path DIR",
        ),
    ] {
        let output = none.run(arguments, "");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {stderr}");
        assert!(stderr.contains(part), "{arguments:?}: {stderr}");
    }
}
