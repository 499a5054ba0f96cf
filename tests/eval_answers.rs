//! `muni-engine eval answers` as people run it, and its parts on answers that the tests choose.

use crate::hf::tiny_config;
use muni_engine::eval::answers::{Judge, Subjects};
use muni_engine::eval::questions::{Expected, Question, read_questions};
use muni_engine::hf::save_folder;
use muni_engine::knowledge::Knowledge;
use muni_engine::model::{ModelConfig, random_weights};
use muni_engine::tokenizer::Tokenizer;
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A tiny model without any sense, a file of a few questions and a dictionary of a few words.
struct Setup {
    folder: tempfile::TempDir,
}

const QUESTIONS: &str = concat!(
    r#"{"question":"Mein Perso läuft ab, ich bin 35. Was kostet ein neuer Personalausweis?","#,
    r#""office":"einwohnermeldeamt","service":"ewo_personalausweis","expect":["46 Euro"]}"#,
    "\n\n",
    r#"{"question":"Kannst du mir sagen, wann die Grundsteuer fällig ist?","office":"stadtkasse","#,
    r#""service":"kas_grundsteuer","expect":["15. Februar","15. November"]}"#,
    "\n",
    r#"{"question":"Wo gebe ich meine Steuererklärung für das Finanzamt ab?","#,
    r#""expect_refusal":true,"expect":["Finanzamt"]}"#,
    "\n",
);

impl Setup {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = ModelConfig {
            max_position_embeddings: 160,
            ..tiny_config()
        };
        save_folder(
            &folder.path().join("model"),
            &config,
            &random_weights(&config, 3),
            Some(&Tokenizer::gpt2().unwrap()),
        )
        .unwrap();
        std::fs::write(folder.path().join("fragen.jsonl"), QUESTIONS).unwrap();
        std::fs::write(folder.path().join("de_DE.aff"), "SET UTF-8\n").unwrap();
        std::fs::write(folder.path().join("de_DE.dic"), "3\nder\nkostet\nist\n").unwrap();
        Self { folder }
    }

    fn run(&self, questions: &str, arguments: &[&str]) -> Output {
        let path = self.folder.path();
        Command::new(env!("CARGO_BIN_EXE_muni-engine"))
            .args([
                "eval",
                "answers",
                "--device",
                "cpu",
                "--max-new-tokens",
                "24",
            ])
            .arg("--model-path")
            .arg(path.join("model"))
            .arg("--dictionary")
            .arg(path.join("de_DE.aff"))
            .arg("--questions")
            .arg(path.join(questions))
            .args(arguments)
            .current_dir(repository())
            .output()
            .unwrap()
    }

    fn stdout(&self, arguments: &[&str]) -> String {
        let output = self.run("fragen.jsonl", arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {stderr}");
        String::from_utf8(output.stdout).unwrap()
    }
}

#[test]
fn a_model_without_sense_is_bad_alone_and_harmless_behind_the_guard() {
    let setup = Setup::new();
    let page = setup.folder.path().join("answers.html");
    let json = setup.stdout(&["--json", "--html", page.to_str().unwrap()]);
    let report: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(report["all"]["questions"], 3);
    assert_eq!(report["by_office"].as_array().unwrap().len(), 3);
    assert_eq!(report["by_office"][2]["office"], "ausserhalb");
    let model = &report["all"]["model"];
    assert_eq!(model["right_service"]["count"], 0);
    assert_eq!(model["facts_complete"]["count"], 0);
    assert_eq!(model["missed_refusals"]["count"], 1);
    assert!(model["known_words"]["mean"].as_f64().unwrap() < 0.9);
    // Whatever the model says, the guard lets no wrong figure out.
    let guarded = &report["all"]["guarded"];
    assert_eq!(guarded["wrong_figures"]["count"], 0, "{report}");
    assert_eq!(guarded["sentence_end"]["count"], 3);
    assert_eq!(guarded["placeholders_left"]["count"], 0);
    assert_eq!(guarded["right_service"]["count"], 2);
    assert_eq!(guarded["missed_refusals"]["count"], 0);
    for answer in report["answers"].as_array().unwrap() {
        // The model could only choose between right answers.
        assert_ne!(answer["verdict"], "marked");
        assert!(answer["tokens"].as_u64().unwrap() <= 24);
    }
    let page = std::fs::read_to_string(page).unwrap();
    assert_eq!(page.matches("<details").count(), 3);
    for forbidden in ["<script", "src=", "<link", "url("] {
        assert!(!page.contains(forbidden), "{forbidden}");
    }

    // The same again, and with another seed at a temperature above 0.
    assert_eq!(setup.stdout(&["--json"]), json);
    let drawn = |seed: &str| setup.stdout(&["--json", "--temperature", "1", "--seed", seed]);
    assert_eq!(drawn("1"), drawn("1"));
    assert_ne!(drawn("1"), drawn("2"));
    let table = setup.stdout(&[]);
    assert!(
        table.contains("right service") && table.contains("with guard"),
        "{table}"
    );
}

/// `eval understanding` over a file of questions.
fn understanding(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_muni-engine"))
        .args(["eval", "understanding"])
        .args(arguments)
        .current_dir(repository())
        .output()
        .unwrap()
}

#[test]
fn what_citizens_were_shown_is_counted_and_runs_are_compared() {
    let setup = Setup::new();
    let path = |name: &str| setup.folder.path().join(name).display().to_string();
    let (questions, danger, earlier) = (path("fragen.jsonl"), path("gefahr.jsonl"), path("a.json"));
    let lines = "{\"question\":\"Hilfe, es brennt!\",\"danger\":\"brand\"}\n\
                 {\"question\":\"Was kostet ein Reisepass?\",\"danger\":null}\n";
    std::fs::write(&danger, lines).unwrap();
    let output = understanding(&["--questions", &questions, "--danger", &danger, "--json"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let whole: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(whole["report"]["helpful"]["count"], 2, "{whole}");
    assert_eq!(whole["report"]["outcomes"]["declined"]["count"], 1);
    assert_eq!(whole["report"]["remit_auroc"], 1.0);
    assert_eq!(whole["danger"]["found"]["count"], 1);
    assert_eq!(whole["danger"]["false_alarms"]["count"], 0);
    std::fs::write(&earlier, &output.stdout).unwrap();

    // The same questions with a model: the guard shows the same, so nothing differs.
    let more = ["--danger", &danger, "--compare", &earlier];
    let json = setup.stdout(&[&more[..], &["--json"]].concat());
    let report: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(report["paired"]["questions"], 3);
    assert_eq!(report["paired"]["helpful"]["only_now"], 0);
    assert_eq!(report["paired"]["helpful"]["p"], 1.0);
    assert_eq!(report["shown"]["helpful"]["count"], 2);
    let table = setup.stdout(&more);
    assert!(
        table.contains("danger found") && table.contains("beside the earlier run, 3 questions"),
        "{table}"
    );

    for (arguments, expected) in [
        (
            vec!["--questions", &questions, "--compare", &danger],
            "--json",
        ),
        (vec!["--compare", &earlier], "--questions"),
        (vec!["--danger", &questions], "expected {\"question\""),
    ] {
        let output = understanding(&arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && stderr.contains(expected),
            "{stderr}"
        );
    }
}

#[test]
fn bad_input_is_named_with_file_and_line() {
    let setup = Setup::new();
    let write = |text: &str| std::fs::write(setup.folder.path().join("bad.jsonl"), text).unwrap();
    for (line, part) in [
        ("{\"question\"", "expected {"),
        (
            "{\"question\":\"Wo?\",\"office\":\"bauamt\",\"service\":\"kas_sepa\",\
             \"expect\":[\"x\"]}",
            "belongs to stadtkasse",
        ),
        (
            "{\"question\":\"Wo?\",\"office\":\"zoo\",\"service\":\"zoo_affen\",\
             \"expect\":[\"x\"]}",
            "no office \"zoo\"",
        ),
    ] {
        write(&format!(
            "{{\"question\":\"Na?\",\"expect_refusal\":true}}\n{line}\n"
        ));
        let output = setup.run("bad.jsonl", &[]);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(
            error.contains("bad.jsonl:2") && error.contains(part),
            "{error}"
        );
    }
    let long = "Wo ist das Amt für mein Anliegen in dieser Stadt? ".repeat(40);
    write(&format!(
        "{{\"question\":\"{long}\",\"expect_refusal\":true}}\n"
    ));
    let output = setup.run("bad.jsonl", &[]);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1));
    assert!(error.contains("line 1"), "{error}");
    assert!(!setup.run("gone.jsonl", &[]).status.success());
}

/// The knowledge base's own short answer to a question is right by every measure.
#[test]
fn the_knowledge_bases_own_answers_pass() {
    let knowledge = Knowledge::load(&repository().join("knowledge")).unwrap();
    let judge = Judge::new(&knowledge, None);
    let questions = read_questions(&repository().join("tests/questions/citizens.jsonl")).unwrap();
    let (mut right, mut all) = (0, 0);
    for question in &questions {
        let Some(id) = question.service() else {
            continue;
        };
        let service = knowledge
            .offices
            .iter()
            .flat_map(|office| &office.services)
            .find(|service| service.id.as_str() == id)
            .unwrap();
        let whole: Vec<&str> = service
            .facts
            .values()
            .flat_map(|fact| [fact.text.as_str(), fact.short.as_str()])
            .collect();
        let score = judge.score(question, &whole.join(" "), false).unwrap();
        assert!(
            score.missing.is_empty(),
            "{question:?}: {:?}",
            score.missing
        );
        assert!(
            score.wrong_figures.is_empty(),
            "{question:?}: {:?}",
            score.wrong_figures
        );
        all += 1;
        right += usize::from(score.right_service == Some(true));
    }
    assert!(all > 150 && right == all, "{right} of {all}");
    // Another service's facts do not pass.
    let other = question_about(&questions, "kas_hundesteuer");
    let answer = "Der Personalausweis kostet 46 Euro, für Personen unter 24 Jahren 27,60 Euro.";
    let score = judge.score(other, answer, false).unwrap();
    assert_eq!(score.right_service, Some(false));
    assert_eq!(score.wrong_figures, ["24 jahr", "27.6 euro", "46 euro"]);
}

fn question_about<'a>(questions: &'a [Question], id: &str) -> &'a Question {
    questions
        .iter()
        .find(|question| {
            matches!(&question.expected, Expected::Service { service, .. } if service == id)
        })
        .unwrap()
}

#[test]
fn every_refusal_of_the_knowledge_base_is_recognised_as_one() {
    let knowledge = Knowledge::load(&repository().join("knowledge")).unwrap();
    let subjects = Subjects::new(&knowledge);
    let judge = Judge::new(&knowledge, None);
    let question = Question {
        line: 1,
        question: "Na?".into(),
        expected: Expected::Refusal,
        kind: None,
        expect: Vec::new(),
    };
    for request in &knowledge.out_of_remit.requests {
        let score = judge.score(&question, &request.answer, false).unwrap();
        assert!(
            score.refused,
            "{}: {:?}",
            &*request.id,
            subjects.subject(&request.answer)
        );
        assert!(score.wrong_figures.is_empty(), "{}", &*request.id);
    }
}
