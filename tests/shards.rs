//! Shard folders: what goes in comes out, every kind of damage is named, and every example is in
//! each epoch once.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use muni_engine::model::Batch;
use muni_engine::ops::IGNORE_TARGET;
use muni_engine::shards::{
    Example, LossOn, Manifest, Sampler, SamplerConfig, ShardInfo, ShardSet, ShardWriter, Split,
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

const FINGERPRINT: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const VOCAB_SIZE: usize = 1000;
const SEPARATOR: u16 = 999;

fn info() -> ShardInfo {
    ShardInfo {
        stage: "basis".to_string(),
        seed: 7,
        generator_version: "1".to_string(),
        tokenizer_fingerprint: FINGERPRINT.to_string(),
        offices: vec!["bauamt".to_string(), "standesamt".to_string()],
        techniques: vec!["paraphrase".to_string(), "dialog".to_string()],
        vocab_size: VOCAB_SIZE,
    }
}

/// Example `number`: 45 to 125 tokens that spell its number, one to three answers.
fn example(number: usize) -> Example {
    let length = 45 + number * 37 % 81;
    let mut tokens = vec![SEPARATOR, (number % 900) as u16, (number / 900) as u16];
    tokens.extend((3..length as u16 - 1).map(|place| place % 900));
    tokens.push(SEPARATOR);
    let answers = (0..1 + number % 3)
        .map(|answer| (5 + 12 * answer as u32, 5 + answer as u32))
        .collect();
    Example {
        tokens,
        answers,
        office: (number % 2) as u16,
        techniques: (number % 4) as u32,
    }
}

fn split_of(number: usize) -> Split {
    if number % 50 == 49 {
        Split::ValidationOod
    } else if number % 10 == 9 {
        Split::Validation
    } else {
        Split::Train
    }
}

fn write(dir: &Path, count: usize, max_tokens: u64) -> anyhow::Result<Manifest> {
    let mut writer = ShardWriter::create(dir, info())?.with_max_tokens_per_file(max_tokens);
    for number in 0..count {
        writer.push(split_of(number), &example(number))?;
    }
    writer.finish(json!({"offices": {"bauamt": count}}))
}

/// A folder of 300 examples in several files, in a temporary folder that lives as long as the first
/// value.
fn written() -> (TempDir, PathBuf) {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path().join("shards");
    write(&dir, 300, 10_000).unwrap();
    (temporary, dir)
}

fn error_of(dir: &Path) -> String {
    match ShardSet::open(dir, FINGERPRINT) {
        Ok(_) => panic!("{} was accepted", dir.display()),
        Err(error) => format!("{error:#}"),
    }
}

fn files_in(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn what_goes_in_comes_out() {
    let (_temporary, dir) = written();
    let names = [
        "manifest.json",
        "train-00000.bin",
        "train-00001.bin",
        "train-00002.bin",
        "val-00000.bin",
        "val_ood-00000.bin",
    ];
    assert_eq!(files_in(&dir), names);
    let set = ShardSet::open(&dir, FINGERPRINT).unwrap();
    assert_eq!(Split::ALL.map(|split| set.examples(split)), [270, 24, 6]);
    let mut next = HashMap::from([(0, 0), (1, 0), (2, 0)]);
    let mut tokens = [0, 0, 0];
    for number in 0..300 {
        let split = split_of(number);
        let index = next.get_mut(&(split as i32)).unwrap();
        let (stored, given) = (set.example(split, *index).unwrap(), example(number));
        *index += 1;
        tokens[split as usize] += given.tokens.len() as u64;
        assert_eq!(stored.tokens, given.tokens);
        let answers: Vec<_> = stored
            .answers
            .iter()
            .map(|span| (span.start, span.length))
            .collect();
        assert_eq!(
            (answers, stored.office, stored.techniques),
            (given.answers, given.office, given.techniques)
        );
    }
    assert_eq!(tokens, Split::ALL.map(|split| set.tokens(split)));
    assert!(
        set.example(Split::Train, 270).is_none()
            && set.example(Split::Validation, usize::MAX).is_none()
    );
    assert_eq!(
        set.manifest().statistics,
        json!({"offices": {"bauamt": 300}})
    );
    assert_eq!(set.manifest().stage, "basis");
    assert_eq!(set.manifest().offices, info().offices);
}

#[test]
fn the_same_examples_give_the_same_bytes() {
    let (_first, first) = written();
    let (_second, second) = written();
    for name in files_in(&first) {
        assert!(
            fs::read(first.join(&name)).unwrap() == fs::read(second.join(&name)).unwrap(),
            "{name}"
        );
    }
}

#[test]
fn the_layout_is_the_documented_one() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path().join("tiny");
    let mut writer = ShardWriter::create(&dir, info()).unwrap();
    let example = Example {
        tokens: vec![999, 1, 2, 999],
        answers: vec![(2, 2)],
        office: 1,
        techniques: 2,
    };
    writer.push(Split::Train, &example).unwrap();
    writer.finish(Value::Null).unwrap();
    let mut expected = b"MUNISHRD".to_vec();
    for number in [2u32, 128] {
        expected.extend(number.to_le_bytes());
    }
    for number in [4u64, 1, 1, 128, 192, 256, 320] {
        expected.extend(number.to_le_bytes());
    }
    for number in [1000u32, 0] {
        expected.extend(number.to_le_bytes());
    }
    expected.extend([0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef].repeat(4));
    expected.resize(128, 0);
    for token in [999u16, 1, 2, 999] {
        expected.extend(token.to_le_bytes());
    }
    expected.resize(192, 0);
    expected.extend(0u64.to_le_bytes());
    expected.extend([4u32, 0].map(u32::to_le_bytes).concat());
    expected.extend([1u16, 1].map(u16::to_le_bytes).concat());
    expected.extend(2u32.to_le_bytes());
    expected.resize(256, 0);
    expected.extend([2u32, 2].map(u32::to_le_bytes).concat());
    expected.resize(320, 0);
    assert_eq!(fs::read(dir.join("train-00000.bin")).unwrap(), expected);
}

#[test]
fn missing_and_empty_folders() {
    let temporary = tempfile::tempdir().unwrap();
    let missing = error_of(&temporary.path().join("nirgends"));
    assert!(
        missing.contains("nirgends") && missing.contains("no such folder"),
        "{missing}"
    );
    let empty = error_of(temporary.path());
    assert!(
        empty.contains("is empty") && empty.contains("manifest.json"),
        "{empty}"
    );
    fs::write(temporary.path().join("notes.txt"), "").unwrap();
    let foreign = error_of(temporary.path());
    assert!(foreign.contains("no shard folder"), "{foreign}");
    for error in [missing, empty, foreign] {
        assert!(error.contains("muni-engine dataset"), "{error}");
    }
    let file = error_of(&temporary.path().join("notes.txt"));
    assert!(file.contains("notes.txt"), "{file}");
}

#[test]
fn a_damaged_file_is_named_with_what_was_found_and_expected() {
    type Spoil = fn(&mut Vec<u8>);
    let cases: [(&[&str], Spoil); 6] = [
        (&["cut off", "bytes, the manifest expects"], |bytes| {
            bytes.truncate(bytes.len() - 1)
        }),
        (&["cut off", "found 0 bytes"], |bytes| bytes.clear()),
        (&["something added"], |bytes| bytes.push(0)),
        (&["SHA-256", "the manifest expects"], |bytes| {
            bytes[5000] ^= 1
        }),
        (&["begins with", "MUNISHRD"], |bytes| bytes[0] = b'X'),
        (&["format version 9", "reads version 2"], |bytes| {
            bytes[8] = 9
        }),
    ];
    for (messages, spoil) in cases {
        let (_temporary, dir) = written();
        let path = dir.join("train-00001.bin");
        let mut bytes = fs::read(&path).unwrap();
        spoil(&mut bytes);
        fs::write(&path, bytes).unwrap();
        let error = error_of(&dir);
        for message in [&["train-00001.bin", "muni-engine dataset"], messages].concat() {
            assert!(error.contains(message), "{message}: {error}");
        }
    }
}

/// Changes a file and its hash in the manifest: damage that only the checks of the contents can
/// find.
fn spoil_with_right_hash(dir: &Path, name: &str, spoil: impl Fn(&mut [u8])) {
    let path = dir.join(name);
    let mut bytes = fs::read(&path).unwrap();
    spoil(&mut bytes);
    let hash: String = Sha256::digest(&bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    fs::write(&path, bytes).unwrap();
    change_manifest(dir, |manifest| {
        let files = manifest["files"].as_array_mut().unwrap();
        let file = files.iter_mut().find(|file| file["name"] == name).unwrap();
        file["sha256"] = json!(hash);
    });
}

fn change_manifest(dir: &Path, change: impl Fn(&mut Value)) {
    let path = dir.join("manifest.json");
    let mut manifest: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut manifest);
    fs::write(path, manifest.to_string()).unwrap();
}

#[test]
fn contents_out_of_range_are_found() {
    /// Byte offset of the section whose offset stands at `field` of the header.
    fn section(bytes: &[u8], field: usize) -> usize {
        u64::from_le_bytes(bytes[field..field + 8].try_into().unwrap()) as usize
    }
    type Spoil = fn(&mut [u8]);
    let cases: [(&[&str], Spoil); 8] = [
        (&["token 1000", "1000"], |bytes| {
            bytes[130..132].copy_from_slice(&1000u16.to_le_bytes())
        }),
        (&["header is damaged"], |bytes| bytes[16] ^= 1),
        (&["header is damaged"], |bytes| bytes[76] = 0),
        (&["tokenizer"], |bytes| bytes[80] ^= 1),
        (&["example 0", "outside"], |bytes| {
            bytes[section(bytes, 48) + 7] = 0xff
        }),
        (&["example 1", "outside"], |bytes| {
            bytes[section(bytes, 48) + 24 + 15] = 0xff
        }),
        (&["example 0", "office 300"], |bytes| {
            let office = section(bytes, 48) + 18;
            bytes[office..office + 2].copy_from_slice(&[44, 1]);
        }),
        (&["example 0", "answer span"], |bytes| {
            bytes[section(bytes, 56) + 4] = 0
        }),
    ];
    for (messages, spoil) in cases {
        let (_temporary, dir) = written();
        spoil_with_right_hash(&dir, "val-00000.bin", spoil);
        let error = error_of(&dir);
        for message in [&["val-00000.bin"], messages].concat() {
            assert!(error.contains(message), "{message}: {error}");
        }
    }
}

#[test]
fn a_manifest_that_cannot_be_used_is_named() {
    type Change = fn(&mut Value);
    let cases: [(&str, Change); 8] = [
        ("version 9", |manifest| manifest["version"] = json!(9)),
        ("format \"other\"", |manifest| {
            manifest["format"] = json!("other")
        }),
        ("expected u64", |manifest| manifest["seed"] = json!("seven")),
        ("unknown field", |manifest| manifest["surprise"] = json!(1)),
        ("totals", |manifest| {
            manifest["train"]["examples"] = json!(1)
        }),
        ("plain file name", |manifest| {
            manifest["files"][0]["name"] = json!("../train-00000.bin")
        }),
        ("vocab_size", |manifest| {
            manifest["tokenizer"]["vocab_size"] = json!(0)
        }),
        ("techniques", |manifest| manifest["techniques"] = json!([])),
    ];
    for (message, change) in cases {
        let (_temporary, dir) = written();
        change_manifest(&dir, change);
        let error = error_of(&dir);
        assert!(error.contains(message), "{message}: {error}");
    }
    let (_temporary, dir) = written();
    fs::write(dir.join("manifest.json"), "{\"format\"").unwrap();
    assert!(error_of(&dir).contains("manifest.json is damaged"));
    fs::remove_file(dir.join("manifest.json")).unwrap();
    assert!(error_of(&dir).contains("expected manifest.json"));
}

#[test]
fn another_tokenizer_and_a_missing_file() {
    let (_temporary, dir) = written();
    let other = "f".repeat(64);
    let error = ShardSet::open(&dir, &other)
        .map(|_| ())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains(&other) && error.contains(FINGERPRINT),
        "{error}"
    );
    fs::remove_file(dir.join("train-00002.bin")).unwrap();
    let error = error_of(&dir);
    assert!(
        error.contains("train-00002.bin") && error.contains("missing"),
        "{error}"
    );
}

#[test]
fn an_unfinished_writer_leaves_nothing_and_changes_nothing() {
    let (temporary, dir) = written();
    let before = fs::read(dir.join("manifest.json")).unwrap();
    let mut writer = ShardWriter::create(&dir, info()).unwrap();
    writer.push(Split::Train, &example(1)).unwrap();
    let busy = ShardWriter::create(&dir, info())
        .map(|_| ())
        .unwrap_err()
        .to_string();
    assert!(busy.contains("another run"), "{busy}");
    drop(writer);
    assert_eq!(files_in(temporary.path()), ["shards"]);
    assert_eq!(fs::read(dir.join("manifest.json")).unwrap(), before);

    let only_validation = temporary.path().join("only");
    let mut writer = ShardWriter::create(&only_validation, info()).unwrap();
    writer.push(Split::Validation, &example(1)).unwrap();
    let error = writer.finish(Value::Null).unwrap_err().to_string();
    assert!(error.contains("no training example"), "{error}");
    assert_eq!(files_in(temporary.path()), ["shards"]);
}

#[test]
fn what_a_killed_run_left_is_taken_away_or_put_back() {
    let (temporary, dir) = written();
    let beside = |name: &str| temporary.path().join(name);
    // Killed while writing.
    fs::create_dir(beside(".shards.partial")).unwrap();
    fs::write(beside(".shards.partial").join("train-00000.bin"), "half").unwrap();
    fs::write(beside(".shards.lock"), "").unwrap();
    // Killed between the two renames.
    fs::rename(&dir, beside(".shards.previous")).unwrap();
    drop(ShardWriter::create(&dir, info()).unwrap());
    assert_eq!(files_in(temporary.path()), ["shards"]);
    assert_eq!(
        ShardSet::open(&dir, FINGERPRINT)
            .unwrap()
            .examples(Split::Train),
        270
    );
}

#[test]
fn only_shards_are_replaced() {
    let (temporary, dir) = written();
    write(&dir, 20, 100_000).unwrap();
    assert_eq!(
        files_in(&dir),
        ["manifest.json", "train-00000.bin", "val-00000.bin"]
    );
    assert_eq!(
        ShardSet::open(&dir, FINGERPRINT)
            .unwrap()
            .examples(Split::Train),
        18
    );
    assert_eq!(files_in(temporary.path()), ["shards"]);

    fs::write(dir.join("thesis.txt"), "years of work").unwrap();
    let error = write(&dir, 20, 100_000).unwrap_err().to_string();
    assert!(error.contains("thesis.txt"), "{error}");
    assert_eq!(
        fs::read_to_string(dir.join("thesis.txt")).unwrap(),
        "years of work"
    );

    let foreign = temporary.path().join("foreign");
    fs::create_dir(&foreign).unwrap();
    write(&foreign, 20, 100_000).unwrap();
    let home = temporary.path().join("home");
    fs::create_dir(&home).unwrap();
    fs::write(home.join("photo.jpg"), "").unwrap();
    for target in [home.clone(), home.join("photo.jpg")] {
        let error = write(&target, 20, 100_000).unwrap_err().to_string();
        assert!(error.contains("choose another"), "{error}");
    }
    assert_eq!(files_in(&home), ["photo.jpg"]);
}

#[test]
fn examples_out_of_range_are_refused() {
    type Spoil = fn(&mut Example);
    let cases: [(&str, Spoil); 6] = [
        ("1 tokens", |example| example.tokens.truncate(1)),
        ("token 1000", |example| example.tokens[3] = 1000),
        ("office 2", |example| example.office = 2),
        ("0b100", |example| example.techniques = 4),
        ("answer span", |example| example.answers = vec![(50, 500)]),
        ("overlap", |example| example.answers = vec![(5, 5), (9, 3)]),
    ];
    let temporary = tempfile::tempdir().unwrap();
    let mut writer = ShardWriter::create(temporary.path().join("shards"), info()).unwrap();
    for (message, spoil) in cases {
        let mut example = example(4);
        spoil(&mut example);
        let error = writer.push(Split::Train, &example).unwrap_err().to_string();
        assert!(error.contains(message), "{message}: {error}");
    }
    type Change = fn(&mut ShardInfo);
    let infos: [(&str, Change); 3] = [
        ("SHA-256", |info| {
            info.tokenizer_fingerprint = "gpt2".to_string()
        }),
        ("vocab_size 65537", |info| info.vocab_size = 65537),
        ("33 techniques", |info| {
            info.techniques = vec![String::new(); 33]
        }),
    ];
    for (message, change) in infos {
        let mut info = info();
        change(&mut info);
        let error = ShardWriter::create(temporary.path().join("other"), info)
            .map(|_| ())
            .unwrap_err()
            .to_string();
        assert!(error.contains(message), "{message}: {error}");
    }
}

fn config(seed: u64) -> SamplerConfig {
    SamplerConfig {
        seed,
        batch_size: 4,
        max_length: 256,
        loss_on: LossOn::All,
        shuffle: true,
    }
}

fn epoch(sampler: &Sampler, epoch: u64) -> Vec<Batch> {
    (0..sampler.epoch_batches(epoch))
        .map(|index| sampler.batch(epoch, index).unwrap())
        .collect()
}

/// The examples of a batch by the number that their second and third token spell, with tokens and
/// targets.
fn examples_of(batch: &Batch) -> Vec<(usize, &[u32], &[u32])> {
    let ranges = batch
        .segments
        .windows(2)
        .map(|ends| ends[0] as usize..ends[1] as usize);
    ranges
        .map(|range| {
            let tokens = &batch.tokens[range.clone()];
            (
                tokens[1] as usize + 900 * tokens[2] as usize,
                tokens,
                &batch.targets[range],
            )
        })
        .collect()
}

#[test]
fn every_example_is_in_each_epoch_once() {
    let temporary = tempfile::tempdir().unwrap();
    write(&temporary.path().join("shards"), 5000, 100_000).unwrap();
    let set = ShardSet::open(temporary.path().join("shards"), FINGERPRINT).unwrap();
    let sampler = Sampler::new(&set, Split::Train, config(3)).unwrap();
    let mut orders = Vec::new();
    for number in 0..3 {
        let batches = epoch(&sampler, number);
        let mut seen = Vec::new();
        for batch in &batches {
            batch.check(VOCAB_SIZE).unwrap();
            assert!(batch.len() <= 4 * 256 && batch.logical_batches() == 1);
            for (example_number, tokens, targets) in examples_of(batch) {
                let stored: Vec<u32> = example(example_number)
                    .tokens
                    .into_iter()
                    .map(u32::from)
                    .collect();
                assert_eq!(tokens, &stored[..stored.len() - 1]);
                assert_eq!(targets, &stored[1..]);
                seen.push(example_number);
            }
        }
        let report = sampler.report(number);
        assert_eq!(batches.len(), report.rows.div_ceil(4));
        assert_eq!(
            report.positions,
            batches.iter().map(|batch| batch.len() as u64).sum::<u64>()
        );
        assert!(report.fill_rate() > 0.99, "{report:?}");
        assert_eq!((report.cut_examples, report.cut_tokens), (0, 0));
        orders.push(seen.clone());
        seen.sort_unstable();
        let expected: Vec<usize> = (0..5000)
            .filter(|&number| split_of(number) == Split::Train)
            .collect();
        assert_eq!(seen, expected);
    }
    assert!(orders[0] != orders[1] && orders[1] != orders[2]);
    let late = orders[0][..450]
        .iter()
        .filter(|&&number| number >= 2500)
        .count();
    assert!(
        (150..300).contains(&late),
        "the first examples of a shuffled epoch come from everywhere: {late}"
    );
}

#[test]
fn batches_follow_from_seed_and_epoch_alone() {
    let (_temporary, dir) = written();
    let set = ShardSet::open(&dir, FINGERPRINT).unwrap();
    let first = Sampler::new(&set, Split::Train, config(3)).unwrap();
    let second = Sampler::new(&set, Split::Train, config(3)).unwrap();
    let whole = epoch(&first, 2);
    // Other epochs in between, and batches backwards: a resumed run asks for any of them.
    for index in (0..whole.len()).rev() {
        second.batch(index as u64 % 2, 0).unwrap();
        assert_eq!(second.batch(2, index).unwrap(), whole[index]);
    }
    let other = Sampler::new(&set, Split::Train, config(4)).unwrap();
    assert_ne!(other.batch(2, 0).unwrap(), whole[0]);
    let error = first.batch(2, whole.len()).unwrap_err().to_string();
    assert!(error.contains(&whole.len().to_string()), "{error}");
}

/// The order is part of the format: a run resumed with a newer program must go on with the same
/// batches.
#[test]
fn the_shuffle_never_changes() {
    let (_temporary, dir) = written();
    let set = ShardSet::open(&dir, FINGERPRINT).unwrap();
    let sampler = Sampler::new(&set, Split::Train, config(3)).unwrap();
    let first: Vec<usize> = examples_of(&sampler.batch(0, 0).unwrap())
        .iter()
        .map(|example| example.0)
        .collect();
    assert_eq!(
        first,
        [225, 277, 180, 190, 264, 147, 177, 135, 46, 275, 2, 81]
    );
}

#[test]
fn validation_keeps_the_stored_order() {
    let (_temporary, dir) = written();
    let set = ShardSet::open(&dir, FINGERPRINT).unwrap();
    let config = SamplerConfig {
        shuffle: false,
        batch_size: 1,
        ..config(0)
    };
    let sampler = Sampler::new(&set, Split::Validation, config).unwrap();
    let seen: Vec<usize> = epoch(&sampler, 0)
        .iter()
        .flat_map(|batch| examples_of(batch).into_iter().map(|example| example.0))
        .collect();
    assert_eq!((seen[0], seen.len()), (9, 24));
    assert_eq!(seen.iter().collect::<HashSet<_>>().len(), 24);
    assert_eq!(epoch(&sampler, 0), epoch(&sampler, 5));
}

#[test]
fn loss_on_answers_counts_their_tokens_only() {
    let (_temporary, dir) = written();
    let set = ShardSet::open(&dir, FINGERPRINT).unwrap();
    let config = SamplerConfig {
        loss_on: LossOn::Answers,
        ..config(1)
    };
    let sampler = Sampler::new(&set, Split::Train, config).unwrap();
    let mut counted = 0;
    for batch in epoch(&sampler, 0) {
        for (number, _, targets) in examples_of(&batch) {
            let given = example(number);
            for (place, &target) in targets.iter().enumerate() {
                let token = place as u32 + 1;
                let in_answer = given
                    .answers
                    .iter()
                    .any(|&(start, length)| (start..start + length).contains(&token));
                let expected = if in_answer {
                    u32::from(given.tokens[place + 1])
                } else {
                    IGNORE_TARGET
                };
                assert_eq!(target, expected, "example {number}, token {token}");
            }
        }
        counted += batch.counted_targets();
    }
    let expected: u32 = (0..300)
        .filter(|&number| split_of(number) == Split::Train)
        .flat_map(|number| example(number).answers)
        .map(|(_, length)| length)
        .sum();
    assert_eq!(counted, expected as usize);
}

#[test]
fn an_answer_may_begin_and_end_the_example() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path().join("shards");
    let mut writer = ShardWriter::create(&dir, info()).unwrap();
    let example = Example {
        tokens: vec![999, 5, 6, 7, 999],
        answers: vec![(0, 2), (3, 2)],
        ..Example::default()
    };
    writer.push(Split::Train, &example).unwrap();
    writer.finish(Value::Null).unwrap();
    let set = ShardSet::open(&dir, FINGERPRINT).unwrap();
    let targets = |max_length| {
        let config = SamplerConfig {
            loss_on: LossOn::Answers,
            max_length,
            ..config(1)
        };
        Sampler::new(&set, Split::Train, config)
            .unwrap()
            .batch(0, 0)
            .unwrap()
            .targets
    };
    assert_eq!(targets(8), [5, IGNORE_TARGET, 7, 999]);
    assert_eq!(targets(3), [5, IGNORE_TARGET, 7]);
    assert_eq!(targets(1), [5]);
}

#[test]
fn long_examples_are_cut_and_reported() {
    let (_temporary, dir) = written();
    let set = ShardSet::open(&dir, FINGERPRINT).unwrap();
    let sampler = Sampler::new(
        &set,
        Split::Train,
        SamplerConfig {
            max_length: 80,
            ..config(1)
        },
    )
    .unwrap();
    let lengths = || {
        (0..300)
            .filter(|&n| split_of(n) == Split::Train)
            .map(|n| example(n).tokens.len() - 1)
    };
    let report = sampler.report(0);
    assert_eq!(
        report.cut_examples,
        lengths().filter(|&length| length > 80).count()
    );
    assert_eq!(
        report.cut_tokens,
        lengths()
            .map(|length| length.saturating_sub(80) as u64)
            .sum::<u64>()
    );
    let batches = epoch(&sampler, 0);
    assert_eq!(batches.iter().map(Batch::examples).sum::<usize>(), 270);
    assert!(
        batches
            .iter()
            .all(|batch| batch.longest_segment() <= 80 && batch.len() <= 320)
    );
}

#[test]
fn settings_out_of_range_are_refused() {
    let (_temporary, dir) = written();
    let set = ShardSet::open(&dir, FINGERPRINT).unwrap();
    let bad = [
        (
            "batch size",
            SamplerConfig {
                batch_size: 0,
                ..config(1)
            },
        ),
        (
            "max length",
            SamplerConfig {
                max_length: 0,
                ..config(1)
            },
        ),
        (
            "too large",
            SamplerConfig {
                max_length: usize::MAX,
                ..config(1)
            },
        ),
    ];
    for (message, config) in bad {
        let error = Sampler::new(&set, Split::Train, config)
            .map(|_| ())
            .unwrap_err()
            .to_string();
        assert!(error.contains(message), "{message}: {error}");
    }
    let huge = SamplerConfig {
        batch_size: 1,
        max_length: u32::MAX as usize,
        ..config(1)
    };
    assert_eq!(
        Sampler::new(&set, Split::Train, huge)
            .unwrap()
            .epoch_batches(0),
        1
    );
}
