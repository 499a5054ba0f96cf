//! The tokenizer against GPT-2's published algorithm (`tests/fixtures/tokenizer.json`), and the
//! files it leaves for other engines.

use std::fs;
use std::path::Path;

use muni_engine::tokenizer::{CHAT_TEMPLATE, END_OF_TEXT, Tokenizer};
use serde_json::{Value, json};

fn fixture() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tokenizer.json");
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn cases(of: &str) -> Vec<(String, Vec<u32>)> {
    let case = |case: &Value| {
        let ids = serde_json::from_value(case["ids"].clone()).unwrap();
        (case["text"].as_str().unwrap().to_string(), ids)
    };
    fixture()[of].as_array().unwrap().iter().map(case).collect()
}

#[test]
fn encodes_as_gpt2() {
    let tokenizer = Tokenizer::gpt2().unwrap();
    let cases = cases("encode");
    assert!(cases.len() >= 20);
    for (text, ids) in &cases {
        assert_eq!(
            &tokenizer.encode_with_special(text).unwrap(),
            ids,
            "{text:?}"
        );
        assert_eq!(&tokenizer.decode(ids).unwrap(), text);
    }
    let texts: Vec<&String> = cases
        .iter()
        .map(|(text, _)| text)
        .filter(|text| !text.contains("<|"))
        .collect();
    let batch = tokenizer.encode_batch(&texts).unwrap();
    assert_eq!(batch.len(), texts.len());
    for (text, ids) in texts.iter().zip(batch) {
        assert_eq!(tokenizer.encode(text).unwrap(), ids);
        assert!(cases.contains(&(text.to_string(), ids)));
    }
}

#[test]
fn decodes_as_gpt2_whole_and_streamed() {
    let tokenizer = Tokenizer::gpt2().unwrap();
    let cases = [cases("decode"), cases("encode")].concat();
    assert!(cases.iter().any(|(text, _)| text.contains('\u{fffd}')));
    for (text, ids) in cases {
        assert_eq!(tokenizer.decode(&ids).unwrap(), text, "{ids:?}");
        let mut stream = tokenizer.decode_stream();
        let mut streamed: String = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
        streamed += &stream.finish();
        assert_eq!(streamed, text, "{ids:?}");
    }
}

#[test]
fn a_long_run_of_one_kind_of_character_is_encoded_whole() {
    let tokenizer = Tokenizer::gpt2().unwrap();
    for piece in [" ", "\n", "a", "ä", "1", "!"] {
        let text = piece.repeat(70_000) + "Ende";
        let ids = tokenizer.encode(&text).unwrap();
        assert_eq!(tokenizer.decode(&ids).unwrap(), text, "{piece:?}");
    }
}

#[test]
fn saved_folder_loads_as_the_same_tokenizer() {
    let tokenizer = Tokenizer::gpt2().unwrap();
    let dir = tempfile::tempdir().unwrap();
    tokenizer.save_to_folder(dir.path()).unwrap();
    let text = "Müllabfuhr: 3 € – <|endoftext|> 👍";
    for remove in [None, Some("tokenizer.json")] {
        if let Some(name) = remove {
            fs::remove_file(dir.path().join(name)).unwrap();
        }
        let loaded = Tokenizer::from_folder(dir.path()).unwrap();
        assert_eq!(loaded.fingerprint(), tokenizer.fingerprint());
        assert_eq!(loaded.vocab_size(), 50257);
        assert_eq!(loaded.end_of_text(), END_OF_TEXT);
        assert_eq!(
            loaded.encode(text).unwrap(),
            tokenizer.encode(text).unwrap()
        );
        assert_eq!(
            loaded.encode_with_special(text).unwrap(),
            tokenizer.encode_with_special(text).unwrap()
        );
    }
    let error = match Tokenizer::from_folder(dir.path().join("nothing")) {
        Ok(_) => panic!("loaded a folder that is not there"),
        Err(error) => error.to_string(),
    };
    assert!(
        error.contains("tokenizer.json") && error.contains("nothing"),
        "{error}"
    );
}

#[test]
fn saved_files_say_what_other_engines_need() {
    let dir = tempfile::tempdir().unwrap();
    Tokenizer::gpt2()
        .unwrap()
        .save_to_folder(dir.path())
        .unwrap();
    let read = |name: &str| -> Value {
        serde_json::from_slice(&fs::read(dir.path().join(name)).unwrap()).unwrap()
    };

    let ours = read("vocab.json");
    let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/gpt2");
    let original: Value =
        serde_json::from_slice(&fs::read(assets.join("vocab.json")).unwrap()).unwrap();
    assert_eq!(ours, original);
    let merges = fs::read(dir.path().join("merges.txt")).unwrap();
    assert!(merges == fs::read(assets.join("merges.txt")).unwrap());

    let config = read("tokenizer_config.json");
    assert_eq!(config["tokenizer_class"], "GPT2Tokenizer");
    assert_eq!(config["clean_up_tokenization_spaces"], false);
    assert_eq!(config["add_prefix_space"], false);
    assert_eq!(config["chat_template"], CHAT_TEMPLATE);
    let special = read("special_tokens_map.json");
    for key in ["bos_token", "eos_token", "unk_token"] {
        assert_eq!(config[key], "<|endoftext|>");
        assert_eq!(special[key], "<|endoftext|>");
    }

    let tokenizer = read("tokenizer.json");
    assert_eq!(tokenizer["model"]["type"], "BPE");
    assert_eq!(tokenizer["pre_tokenizer"]["type"], "ByteLevel");
    assert_eq!(tokenizer["pre_tokenizer"]["add_prefix_space"], false);
    assert_eq!(tokenizer["decoder"]["type"], "ByteLevel");
    assert_eq!(tokenizer["normalizer"], Value::Null);
    assert_eq!(tokenizer["added_tokens"][0]["id"], 50256);
    assert_eq!(tokenizer["added_tokens"][0]["special"], true);
    assert_eq!(tokenizer["added_tokens"].as_array().unwrap().len(), 1);
}

/// A small tokenizer file in the layout of older Transformers, to be varied.
fn small() -> Value {
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [{"id": 3, "content": "<|endoftext|>", "special": true, "lstrip": false,
             "rstrip": false,
                          "single_word": false, "normalized": true}],
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null,
                  "continuing_subword_prefix": "",
                  "end_of_word_suffix": "", "fuse_unk": false, "vocab": {"a": 0, "b": 1, "ab": 2},
                  "merges": ["a b"]},
    })
}

fn load(file: &Value) -> Result<Tokenizer, String> {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("tokenizer.json"), file.to_string()).unwrap();
    Tokenizer::from_folder(dir.path()).map_err(|error| format!("{error:#}"))
}

#[test]
fn both_spellings_of_merges_and_special_tokens_behind_the_vocabulary() {
    let mut file = small();
    let lines = load(&file).unwrap();
    file["model"]["merges"] = json!([["a", "b"]]);
    let pairs = load(&file).unwrap();
    assert_eq!(lines.fingerprint(), pairs.fingerprint());
    assert_eq!(pairs.end_of_text(), 3);
    assert_eq!(
        pairs.encode_with_special("aab<|endoftext|>b").unwrap(),
        [0, 2, 3, 1]
    );
    assert_eq!(pairs.decode(&[2, 3]).unwrap(), "ab<|endoftext|>");
}

#[test]
fn what_is_not_gpt2s_kind_is_refused_by_name() {
    type Spoil = fn(&mut Value);
    let cases: [(&str, Spoil); 11] = [
        ("WordPiece", |file| {
            file["model"]["type"] = json!("WordPiece")
        }),
        ("Lowercase", |file| {
            file["normalizer"] = json!({"type": "Lowercase"})
        }),
        ("Whitespace", |file| {
            file["pre_tokenizer"] = json!({"type": "Whitespace"})
        }),
        ("add_prefix_space", |file| {
            file["pre_tokenizer"]["add_prefix_space"] = json!(true)
        }),
        ("use_regex", |file| {
            file["pre_tokenizer"]["use_regex"] = json!(false)
        }),
        ("decoder is missing", |file| file["decoder"] = Value::Null),
        ("byte_fallback", |file| {
            file["model"]["byte_fallback"] = json!(true)
        }),
        ("end_of_word_suffix", |file| {
            file["model"]["end_of_word_suffix"] = json!("</w>")
        }),
        ("id 7", |file| file["added_tokens"][0]["id"] = json!(7)),
        ("\"x\"", |file| file["model"]["merges"] = json!(["a x"])),
        ("<|endoftext|>", |file| file["added_tokens"] = json!([])),
    ];
    for (named, spoil) in cases {
        let mut file = small();
        spoil(&mut file);
        match load(&file) {
            Ok(_) => panic!("{named}: accepted"),
            Err(error) => assert!(error.contains(named), "{named}: {error}"),
        }
    }
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("tokenizer.json"), "{\"model\": ").unwrap();
    let error = Tokenizer::from_folder(dir.path()).map(|_| ()).unwrap_err();
    assert!(format!("{error:#}").contains("tokenizer.json"));
}
