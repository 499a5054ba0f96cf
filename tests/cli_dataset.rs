//! `muni-engine dataset` and `muni-engine knowledge`, run as the binary on the repository's own
//! knowledge base.

use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use muni_engine::german::fold;
use muni_engine::knowledge::Knowledge;
use muni_engine::shards::{ShardSet, Split};
use muni_engine::tokenizer::{END_OF_TEXT, Tokenizer};

/// A day on which no fact of the repository is stale; fixed so that time alone can't fail a test.
const TODAY: &str = "2026-12-01";

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn muni(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_muni-engine"))
        .args(arguments)
        .current_dir(repository())
        .output()
        .unwrap()
}

fn succeed(arguments: &[&str]) -> String {
    let output = muni(arguments);
    let (out, err) = (
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    );
    assert!(output.status.success(), "{arguments:?}: {err}");
    out
}

fn fail(arguments: &[&str]) -> String {
    let output = muni(arguments);
    assert_eq!(output.status.code(), Some(1), "{arguments:?} should fail");
    String::from_utf8(output.stderr).unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Hash of every file of a folder.
fn hashes(folder: &Path) -> BTreeMap<String, String> {
    let files = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    files
        .map(|path| {
            let hash = Sha256::digest(std::fs::read(&path).unwrap());
            let hash = hash.iter().map(|byte| format!("{byte:02x}")).collect();
            (
                path.file_name().unwrap().to_string_lossy().into_owned(),
                hash,
            )
        })
        .collect()
}

struct Made {
    _folder: tempfile::TempDir,
    shards: PathBuf,
    examples: Vec<Value>,
}

fn make(stage: &str, more: &[&str]) -> Made {
    let folder = tempfile::tempdir().unwrap();
    let (shards, jsonl) = (
        folder.path().join("shards"),
        folder.path().join("examples.jsonl"),
    );
    let mut arguments = vec![
        "dataset",
        "--stage",
        stage,
        "--out",
        text(&shards),
        "--jsonl",
        text(&jsonl),
    ];
    arguments.extend(more);
    succeed(&arguments);
    let examples = std::fs::read_to_string(&jsonl)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    Made {
        _folder: folder,
        shards,
        examples,
    }
}

fn field<'a>(example: &'a Value, name: &str) -> &'a str {
    example[name]
        .as_str()
        .unwrap_or_else(|| panic!("{name} is missing in {example}"))
}

fn of_split<'a>(examples: &'a [Value], split: &str) -> Vec<&'a Value> {
    examples
        .iter()
        .filter(|example| field(example, "split") == split)
        .collect()
}

fn counts<'a>(examples: &'a [Value], name: &str) -> BTreeMap<&'a str, usize> {
    let mut counts = BTreeMap::new();
    for example in examples {
        *counts.entry(field(example, name)).or_default() += 1;
    }
    counts
}

#[test]
fn the_knowledge_base_is_clean() {
    let out = succeed(&["knowledge", "check", "--today", TODAY]);
    assert!(out.contains("8 offices"), "{out}");
    assert!(out.contains("0 errors, 0 warnings"), "{out}");
    let json = succeed(&["knowledge", "check", "--today", TODAY, "--json"]);
    assert_eq!(
        serde_json::from_str::<Value>(&json).unwrap(),
        Value::Array(Vec::new())
    );
}

#[test]
fn the_bundled_shards_are_what_the_command_makes() {
    let folder = tempfile::tempdir().unwrap();
    let remade = folder.path().join("shards");
    succeed(&["dataset", "--stage", "super", "--out", text(&remade)]);
    let (bundled, hint) = (
        repository().join("shards"),
        "run: muni-engine dataset --stage super --force",
    );
    // What the spelling check says depends on the dictionary of the machine.
    let shards = |folder: &Path| {
        let mut files = hashes(folder);
        files.retain(|name, _| name.ends_with(".bin") || name == "manifest.json");
        files
    };
    assert_eq!(shards(&bundled), shards(&remade), "{hint}");
    let statistics = |folder: &Path| {
        let json = std::fs::read_to_string(folder.join("statistics.json")).unwrap();
        let mut statistics: Value = serde_json::from_str(&json).unwrap();
        statistics["spelling"] = Value::Null;
        statistics
    };
    assert_eq!(statistics(&bundled), statistics(&remade), "{hint}");
    let card = |folder: &Path| -> String {
        let card = std::fs::read_to_string(folder.join("dataset-card.md")).unwrap();
        let lines = card
            .lines()
            .filter(|line| !line.starts_with("| unknown words"));
        lines.collect::<Vec<_>>().join("\n")
    };
    assert_eq!(card(&bundled), card(&remade), "{hint}");
}

#[test]
fn the_seed_decides_everything() {
    let (one, again, other) = (
        make("basis", &[]),
        make("basis", &[]),
        make("basis", &["--seed", "7"]),
    );
    assert_eq!(one.examples, again.examples);
    assert_eq!(hashes(&one.shards), hashes(&again.shards));
    assert_ne!(one.examples, other.examples);
    assert_eq!((one.examples.len(), other.examples.len()), (75, 75));
}

#[test]
fn stages_are_distinct_balanced_and_fit_into_a_row() {
    for (stage, count) in [("basis", 75), ("large", 500), ("super", 2000)] {
        let made = make(stage, &[]);
        assert_eq!(made.examples.len(), count);
        let folded: HashSet<String> = made
            .examples
            .iter()
            .map(|example| fold(field(example, "text")))
            .collect();
        assert_eq!(folded.len(), count, "{stage}");
        let ids: HashSet<&str> = made
            .examples
            .iter()
            .map(|example| field(example, "id"))
            .collect();
        assert_eq!(ids.len(), count, "{stage}");
        let mut by_office = counts(&made.examples, "office");
        let foreign = by_office.remove("ausserhalb").unwrap_or(0);
        assert!(
            foreign * 100 >= 3 * count && foreign * 100 <= 6 * count,
            "{stage}: {foreign} out of remit"
        );
        assert_eq!(by_office.len(), 8);
        let (least, most) = (
            by_office.values().min().unwrap(),
            by_office.values().max().unwrap(),
        );
        assert!(most - least <= 2, "{stage}: {by_office:?}");
        let mut validated = of_split(&made.examples, "val");
        assert!(
            validated
                .iter()
                .all(|example| field(example, "office") != "ausserhalb")
        );
        let outside = of_split(&made.examples, "val_ood");
        assert!(!outside.is_empty(), "{stage}");
        assert!(
            outside
                .iter()
                .all(|example| field(example, "office") == "ausserhalb")
        );
        validated.extend(outside);
        assert!(validated.len() * 100 >= 5 * count, "{stage}");
        let offices: BTreeSet<&str> = validated
            .iter()
            .map(|example| field(example, "office"))
            .collect();
        assert_eq!(offices.len(), 9, "{stage}: every office is validated");
        let tokenizer = Tokenizer::gpt2().unwrap();
        for example in &made.examples {
            assert!(
                tokenizer.encode(field(example, "text")).unwrap().len() <= 255,
                "{example}"
            );
        }
    }
}

#[test]
fn the_super_stage_teaches_the_products_own_prompt() {
    let made = make("super", &[]);
    let formats = counts(&made.examples, "format");
    assert!(formats.len() >= 50, "{formats:?}");
    assert_eq!(
        formats
            .iter()
            .max_by_key(|(_, count)| **count)
            .map(|(name, _)| *name),
        Some("frage_antwort")
    );
    assert!(formats["frage_antwort"] >= 800, "{formats:?}");
    let texts: HashSet<&str> = made
        .examples
        .iter()
        .map(|example| field(example, "text"))
        .collect();
    let knowledge = Knowledge::load(&repository().join("knowledge")).unwrap();
    let services = knowledge.offices.iter().flat_map(|office| &office.services);
    for fact in services.flat_map(|service| service.facts.values()) {
        let expected = format!("Frage: {}\nAntwort: {}", fact.questions[0], fact.text);
        assert!(texts.contains(expected.as_str()), "not trained: {expected}");
    }
    for (name, least) in [
        ("expansion", 1000),
        ("paraphrase", 80),
        ("conversation", 150),
        ("register", 120),
        ("temporal", 15),
        ("administrative", 15),
        ("incomplete", 40),
        ("multi_turn", 40),
        ("office_naming", 100),
        ("out_of_remit", 60),
    ] {
        let with = |example: &&Value| {
            example["techniques"]
                .as_array()
                .unwrap()
                .iter()
                .any(|found| found == name)
        };
        assert!(made.examples.iter().filter(with).count() >= least, "{name}");
    }
}

#[test]
fn validation_questions_are_never_trained() {
    let made = make("super", &[]);
    let questions = |split: &str| -> Vec<String> {
        let turns = of_split(&made.examples, split)
            .into_iter()
            .map(|example| fold(field(&example["turns"][0], "content")));
        turns.collect()
    };
    let (train, mut val) = (questions("train"), questions("val"));
    val.extend(questions("val_ood"));
    let knowledge = Knowledge::load(&repository().join("knowledge")).unwrap();
    let of_facts = knowledge
        .offices
        .iter()
        .flat_map(|office| &office.services)
        .flat_map(|service| service.facts.values())
        .flat_map(|fact| &fact.questions);
    let of_requests = knowledge
        .out_of_remit
        .requests
        .iter()
        .flat_map(|request| &request.questions);
    let hand_written: Vec<String> = of_facts
        .chain(of_requests)
        .map(|question| fold(question))
        .collect();
    let mut held_out = 0;
    for question in hand_written
        .iter()
        .filter(|question| val.iter().any(|asked| asked.contains(question.as_str())))
    {
        held_out += 1;
        let trained = train.iter().find(|asked| asked.contains(question.as_str()));
        assert_eq!(trained, None, "\"{question}\" is validated and trained");
    }
    assert!(
        held_out >= 40,
        "{held_out} hand-written questions are held out"
    );
    let both: Vec<&String> = val
        .iter()
        .filter(|question| train.contains(question))
        .collect();
    assert!(both.is_empty(), "{both:?}");
    for asked in &val {
        let alike = train.iter().find(|trained| jaccard(asked, trained) >= 0.8);
        assert_eq!(alike, None, "\"{asked}\" is all but trained");
    }
    let services = |split: &str| -> BTreeSet<(&str, &str)> {
        of_split(&made.examples, split)
            .into_iter()
            .map(|example| (field(example, "service"), field(example, "intent")))
            .collect()
    };
    assert!(
        services("val").is_subset(&services("train")),
        "what is validated was trained through other phrasings"
    );
}

/// Jaccard index of the runs of three words of two folded texts, computed the plain way.
fn jaccard(a: &str, b: &str) -> f64 {
    let runs = |text: &str| -> BTreeSet<Vec<String>> {
        let words: Vec<String> = text.split(' ').map(str::to_string).collect();
        if words.len() < 3 {
            return BTreeSet::from([words]);
        }
        words.windows(3).map(<[String]>::to_vec).collect()
    };
    let (a, b) = (runs(a), runs(b));
    a.intersection(&b).count() as f64 / a.union(&b).count() as f64
}

#[test]
fn records_and_shards_say_the_same() {
    let made = make("large", &[]);
    let tokenizer = Tokenizer::gpt2().unwrap();
    let shards = ShardSet::open(&made.shards, &tokenizer.fingerprint()).unwrap();
    for (split, name) in [
        (Split::Train, "train"),
        (Split::Validation, "val"),
        (Split::ValidationOod, "val_ood"),
    ] {
        let records = of_split(&made.examples, name);
        assert_eq!(shards.examples(split), records.len());
        for (index, record) in records.into_iter().enumerate() {
            let stored = shards.example(split, index).unwrap();
            let ids: Vec<u32> = stored
                .tokens
                .iter()
                .map(|&token| u32::from(token))
                .collect();
            assert_eq!((ids[0], ids[ids.len() - 1]), (END_OF_TEXT, END_OF_TEXT));
            assert_eq!(
                tokenizer.decode(&ids[1..ids.len() - 1]).unwrap(),
                field(record, "text")
            );
            assert_eq!(
                shards.manifest().offices[usize::from(stored.office)],
                field(record, "office")
            );
            let names = shards.manifest().techniques.iter().enumerate();
            let techniques: Vec<&String> = names
                .filter(|(bit, _)| stored.techniques & (1 << bit) != 0)
                .map(|(_, name)| name)
                .collect();
            assert_eq!(
                serde_json::to_value(techniques).unwrap(),
                record["techniques"]
            );
            let turns = record["turns"].as_array().unwrap();
            assert_eq!(stored.answers.len() * 2, turns.len());
            for (number, span) in stored.answers.iter().enumerate() {
                assert_eq!(field(&turns[number * 2], "role"), "user");
                let (start, end) = (span.start as usize, (span.start + span.length) as usize);
                let is_last = number + 1 == stored.answers.len();
                assert_eq!(is_last, end == ids.len());
                let answer = tokenizer
                    .decode(&ids[start..end - usize::from(is_last)])
                    .unwrap();
                assert_eq!(
                    answer.trim_start(),
                    field(&turns[number * 2 + 1], "content")
                );
            }
        }
    }
    let statistics = &shards.manifest().statistics;
    assert_eq!(statistics["examples"], 500);
    for name in [
        "by_office",
        "by_service",
        "by_intent",
        "by_technique",
        "by_format",
        "by_register",
        "by_split",
        "token_length",
    ] {
        assert!(statistics[name].is_object(), "{name}");
    }
}

#[test]
fn samples_are_printed_for_people() {
    let out = succeed(&["dataset", "--stage", "basis", "--sample", "5"]);
    assert_eq!(out.matches("--- basis-").count(), 5, "{out}");
    assert!(out.contains("75 examples"), "{out}");
}

#[test]
fn mistakes_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let missing = at("missing");
    assert!(
        fail(&["dataset", "--knowledge", text(&missing), "--sample", "1"])
            .contains("cannot read the knowledge folder")
    );
    for entry in std::fs::read_dir(repository().join("tests/fixtures/knowledge_small")).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, at(path.file_name().unwrap().to_str().unwrap())).unwrap();
    }
    let knowledge = text(folder.path());
    let office = at("standesamt.toml");
    let good = std::fs::read_to_string(&office).unwrap();
    std::fs::write(&office, good.replacen("titel =", "titel", 1)).unwrap();
    let line = good
        .lines()
        .position(|line| line.starts_with("titel ="))
        .unwrap()
        + 1;
    let message = fail(&["dataset", "--knowledge", knowledge, "--sample", "1"]);
    assert!(
        message.contains(&format!("standesamt.toml:{line}")),
        "{message}"
    );
    std::fs::write(&office, good.replacen("kurz =", "kruz =", 1)).unwrap();
    let line = good
        .lines()
        .position(|line| line.starts_with("kurz ="))
        .unwrap()
        + 1;
    let message = fail(&["knowledge", "check", "--knowledge", knowledge]);
    assert!(
        message.contains(&format!("standesamt.toml:{line}")) && message.contains("kruz"),
        "{message}"
    );
    std::fs::write(
        &office,
        good.replacen("Wozu dient eine Geburtsurkunde?", "Wozu dient sie", 1),
    )
    .unwrap();
    let output = muni(&[
        "knowledge",
        "check",
        "--knowledge",
        knowledge,
        "--today",
        TODAY,
    ]);
    assert_eq!(output.status.code(), Some(1));
    let line = good
        .lines()
        .position(|line| line.contains("Wozu dient eine Geburtsurkunde?"))
        .unwrap()
        + 1;
    let out = String::from_utf8(output.stdout).unwrap();
    assert!(
        out.contains(&format!("standesamt.toml:{line}: error: the question")),
        "{out}"
    );
}

#[test]
fn wrong_wishes_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(
        muni(&["dataset", "--stage", "giant"]).status.code(),
        Some(2)
    );
    assert!(fail(&["dataset", "--examples", "1", "--sample", "1"]).contains("at least 2"));
    std::fs::write(folder.path().join("mine.txt"), "keep").unwrap();
    assert!(
        fail(&["dataset", "--stage", "basis", "--out", text(folder.path())])
            .contains("already there")
    );
    assert!(
        !muni(&[
            "dataset",
            "--stage",
            "basis",
            "--out",
            text(folder.path()),
            "--force"
        ])
        .status
        .success()
    );
    assert_eq!(
        std::fs::read_to_string(folder.path().join("mine.txt")).unwrap(),
        "keep"
    );
    let file = folder.path().join("no/such/folder.jsonl");
    assert!(
        fail(&["dataset", "--stage", "basis", "--jsonl", text(&file)]).contains("folder.jsonl")
    );
    let small = folder.path().join("knowledge");
    std::fs::create_dir(&small).unwrap();
    std::fs::copy(
        repository().join("tests/fixtures/knowledge_small/kommune.toml"),
        small.join("kommune.toml"),
    )
    .unwrap();
    let office = "[amt]\nid = \"bauamt\"\nname = \"Bauamt\"\nartikel = \"das\"\n";
    std::fs::write(small.join("bauamt.toml"), office).unwrap();
    let shards = folder.path().join("shards");
    let message = fail(&[
        "dataset",
        "--knowledge",
        text(&small),
        "--stage",
        "ultra",
        "--out",
        text(&shards),
    ]);
    assert!(
        message.contains("stage ultra needs 20000 distinct examples"),
        "{message}"
    );
    assert!(!shards.exists());
}

#[test]
fn a_report_is_one_page_without_anything_from_outside() {
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("report.html");
    let out = succeed(&["dataset", "--stage", "basis", "--report", text(&report)]);
    assert!(out.contains("written: "), "{out}");
    let page = std::fs::read_to_string(&report).unwrap();
    for part in [
        "<!doctype html>",
        "Examples by office",
        "Examples by technique",
        "<svg",
        "basis-000003",
    ] {
        assert!(page.contains(part), "{part}");
    }
    for outside in ["src=", "href=", "@import", "url("] {
        assert!(!page.contains(outside), "{outside}");
    }
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(left.len(), 1);
}

#[test]
fn techniques_can_be_left_out() {
    let made = make(
        "basis",
        &[
            "--without",
            "incomplete",
            "--without",
            "multi_turn",
            "--examples",
            "300",
        ],
    );
    assert_eq!(made.examples.len(), 300);
    for example in &made.examples {
        let used = example["techniques"].as_array().unwrap();
        assert!(
            !used
                .iter()
                .any(|name| name == "incomplete" || name == "multi_turn"),
            "{example}"
        );
    }
    assert_eq!(
        muni(&["dataset", "--without", "magic"]).status.code(),
        Some(2)
    );
    assert!(fail(&["dataset", "--without", "out_of_remit"]).contains("cannot be left out"));
}

#[test]
fn card_and_statistics_stand_beside_the_shards() {
    let made = make("basis", &[]);
    let card = std::fs::read_to_string(made.shards.join("dataset-card.md")).unwrap();
    assert!(
        card.contains("| distinct first questions |") && card.contains("| frage_antwort |"),
        "{card}"
    );
    let json = std::fs::read_to_string(made.shards.join("statistics.json")).unwrap();
    let statistics: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(statistics["counts"]["examples"], 75);
    assert_eq!(
        statistics["variety"]["validation_questions_like_training"],
        0
    );
    // The folder may be replaced, card and all.
    succeed(&[
        "dataset",
        "--stage",
        "basis",
        "--seed",
        "9",
        "--force",
        "--out",
        text(&made.shards),
    ]);
}

#[test]
fn published_service_descriptions_become_a_knowledge_file() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("ordnungsamt.toml");
    let import = [
        "knowledge",
        "import",
        "--xzufi",
        "tests/fixtures/leistungen.xzufi.xml",
        "--office",
        "ordnungsamt",
        "--out",
        text(&out),
    ];
    assert!(succeed(&import).contains("2 services"));
    let written = std::fs::read_to_string(&out).unwrap();
    assert!(
        written.contains("artikel = \"das\"") && written.contains("Osterfeuer anmelden"),
        "{written}"
    );
    assert!(fail(&import).contains("already there"));
    assert!(
        fail(&[
            "knowledge",
            "import",
            "--xzufi",
            "README.md",
            "--office",
            "ordnungsamt"
        ])
        .contains("cannot be read as XML")
    );
    let missing = folder.path().join("de_DE.aff");
    assert!(
        fail(&[
            "knowledge",
            "check",
            "--spelling",
            "--dictionary",
            text(&missing)
        ])
        .contains("de_DE.aff")
    );
}

#[cfg(unix)]
#[test]
fn an_interrupt_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let (shards, jsonl) = (
        folder.path().join("shards"),
        folder.path().join("examples.jsonl"),
    );
    let mut child = Command::new(env!("CARGO_BIN_EXE_muni-engine"))
        .args([
            "dataset",
            "--stage",
            "massive",
            "--out",
            text(&shards),
            "--jsonl",
            text(&jsonl),
        ])
        .current_dir(repository())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    // However far it has come: half a million examples take far longer than this, and nothing may
    // remain.
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert!(
        Command::new("kill")
            .args(["-INT", &child.id().to_string()])
            .status()
            .unwrap()
            .success()
    );
    assert!(!child.wait().unwrap().success());
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}
