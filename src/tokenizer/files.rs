//! The tokenizer files of a Hugging Face model folder: reading them, refusing what is not GPT-2's
//! kind by name, and writing them.

use std::borrow::Cow;
use std::path::Path;
use std::{fmt, fs};

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use super::vocabulary::{Text, TokenIds, Vocabulary, split_merge};
use super::{CHAT_TEMPLATE, END_OF_TEXT_TOKEN, Tokenizer};

/// The parts of `tokenizer.json` that decide how text becomes tokens.
#[derive(Deserialize)]
struct TokenizerJson<'a> {
    #[serde(default)]
    added_tokens: Vec<AddedTokenJson>,
    normalizer: Option<Value>,
    pre_tokenizer: Option<Value>,
    decoder: Option<Value>,
    #[serde(borrow)]
    model: ModelJson<'a>,
}

#[derive(Deserialize)]
struct AddedTokenJson {
    id: u32,
    content: String,
    #[serde(default)]
    special: bool,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
}

#[derive(Deserialize)]
struct ModelJson<'a> {
    #[serde(rename = "type")]
    kind: Option<String>,
    dropout: Option<f32>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: bool,
    #[serde(borrow)]
    vocab: TokenIds<'a>,
    #[serde(borrow)]
    merges: Vec<MergeJson<'a>>,
}

/// Older files write a merge as one string with a space in it, newer ones as a pair.
enum MergeJson<'a> {
    Pair(Text<'a>, Text<'a>),
    Line(Text<'a>),
}

impl<'de: 'a, 'a> Deserialize<'de> for MergeJson<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = MergeJson<'de>;
            fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
                formatter.write_str("a merge: two tokens, as a list or with a space between them")
            }
            fn visit_seq<S: SeqAccess<'de>>(self, mut parts: S) -> Result<Self::Value, S::Error> {
                match (
                    parts.next_element()?,
                    parts.next_element()?,
                    parts.next_element::<Text>()?,
                ) {
                    (Some(left), Some(right), None) => Ok(MergeJson::Pair(left, right)),
                    _ => Err(S::Error::custom("a merge has exactly two tokens")),
                }
            }
            fn visit_borrowed_str<E>(self, line: &'de str) -> Result<Self::Value, E> {
                Ok(MergeJson::Line(Text(line.into())))
            }
            fn visit_str<E>(self, line: &str) -> Result<Self::Value, E> {
                Ok(MergeJson::Line(Text(line.to_owned().into())))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// Reads `tokenizer.json`, or else `vocab.json` and `merges.txt`.
pub(super) fn read_folder(dir: &Path) -> Result<Vocabulary> {
    let json = dir.join("tokenizer.json");
    let (vocab, merges) = (dir.join("vocab.json"), dir.join("merges.txt"));
    if json.exists() {
        return from_tokenizer_json(&read(&json)?)
            .with_context(|| format!("cannot use {}", json.display()));
    }
    if vocab.exists() && merges.exists() {
        return Vocabulary::from_vocab_and_merges(&read(&vocab)?, &read(&merges)?)
            .with_context(|| format!("cannot use the tokenizer files in {}", dir.display()));
    }
    bail!(
        "{}: no tokenizer found; expected tokenizer.json, or vocab.json with merges.txt. \
         Name the folder of a trained model, for example runs/NAME/best_model",
        dir.display()
    )
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

fn from_tokenizer_json(content: &[u8]) -> Result<Vocabulary> {
    let file: TokenizerJson =
        serde_json::from_slice(content).context("it is damaged, or not a BPE tokenizer")?;
    check_pipeline(&file)?;
    let mut special = Vec::new();
    for token in &file.added_tokens {
        ensure!(
            token.special && !token.single_word && !token.lstrip && !token.rstrip,
            "added token {:?} changes how the text around it is read; only plain special tokens \
             are supported",
            token.content
        );
        special.push((token.content.clone(), token.id));
    }
    let merges = file
        .model
        .merges
        .iter()
        .map(|merge| match merge {
            MergeJson::Pair(Text(left), Text(right)) => Ok((left.as_ref(), right.as_ref())),
            MergeJson::Line(Text(line)) => {
                split_merge(line).with_context(|| format!("merge {line:?}"))
            }
        })
        .collect::<Result<Vec<(&str, &str)>>>()?;
    Vocabulary::new(&file.model.vocab.0, &merges, special)
}

/// Refuses every setting with which GPT-2's algorithm would give other tokens than the file means.
fn check_pipeline(file: &TokenizerJson) -> Result<()> {
    let model = &file.model;
    let expected = "only GPT-2-style byte-level BPE is supported";
    let kind = model.kind.as_deref().unwrap_or("BPE");
    ensure!(kind == "BPE", "model.type is {kind:?}: {expected}");
    ensure!(
        file.normalizer.is_none(),
        "it has a normalizer ({}): {expected}, which has none",
        name(&file.normalizer)
    );
    let byte_level = |part: &Option<Value>| name(part) == "ByteLevel";
    ensure!(
        byte_level(&file.pre_tokenizer),
        "pre_tokenizer is {}: {expected}",
        name(&file.pre_tokenizer)
    );
    ensure!(
        byte_level(&file.decoder),
        "decoder is {}: {expected}",
        name(&file.decoder)
    );
    let flag = |key: &str, default| {
        file.pre_tokenizer
            .as_ref()
            .and_then(|part| part[key].as_bool())
            .unwrap_or(default)
    };
    ensure!(
        !flag("add_prefix_space", true),
        "pre_tokenizer.add_prefix_space is true: expected false"
    );
    ensure!(
        flag("use_regex", true),
        "pre_tokenizer.use_regex is false: expected true"
    );
    ensure!(
        model.dropout.is_none_or(|dropout| dropout == 0.0),
        "model.dropout is set: expected none"
    );
    ensure!(
        !model.byte_fallback,
        "model.byte_fallback is true: expected false"
    );
    ensure!(
        !model.ignore_merges,
        "model.ignore_merges is true: expected false"
    );
    for (key, value) in [
        (
            "continuing_subword_prefix",
            &model.continuing_subword_prefix,
        ),
        ("end_of_word_suffix", &model.end_of_word_suffix),
    ] {
        let value = value.as_deref().unwrap_or_default();
        ensure!(value.is_empty(), "model.{key} is {value:?}: expected none");
    }
    Ok(())
}

/// The `type` of a part of the pipeline, for messages.
fn name(part: &Option<Value>) -> Cow<'_, str> {
    match part {
        None => "missing".into(),
        Some(value) => value["type"]
            .as_str()
            .map_or_else(|| value.to_string().into(), Cow::from),
    }
}

/// Writes the five files.
pub(super) fn write_folder(dir: &Path, tokenizer: &Tokenizer) -> Result<()> {
    let vocabulary = &tokenizer.vocabulary;
    let json = tokenizer
        .inner
        .to_string(false)
        .map_err(|error| anyhow!("cannot write the tokenizer as JSON: {error}"))?;
    write(dir, "tokenizer.json", &json)?;
    write(dir, "vocab.json", &vocab_json(vocabulary)?)?;
    let mut merges = String::from("#version: 0.2\n");
    for (left, right) in vocabulary.merges_as_text() {
        merges.extend([left.as_str(), " ", right.as_str(), "\n"]);
    }
    write(dir, "merges.txt", &merges)?;
    write(
        dir,
        "tokenizer_config.json",
        &pretty(&tokenizer_config(vocabulary))?,
    )?;
    let special = json!({
        "bos_token": END_OF_TEXT_TOKEN,
        "eos_token": END_OF_TEXT_TOKEN,
        "unk_token": END_OF_TEXT_TOKEN,
    });
    write(dir, "special_tokens_map.json", &pretty(&special)?)
}

/// Tokens in the order of their ids, as GPT-2's own file has them.
fn vocab_json(vocabulary: &Vocabulary) -> Result<String> {
    let mut content = String::from("{");
    for (id, token) in vocabulary.tokens().iter().enumerate() {
        let separator = if id == 0 { "" } else { ", " };
        content += &format!("{separator}{}: {id}", serde_json::to_string(token)?);
    }
    content.push('}');
    Ok(content)
}

fn tokenizer_config(vocabulary: &Vocabulary) -> Value {
    let special: serde_json::Map<String, Value> = vocabulary
        .special()
        .iter()
        .map(|(content, id)| {
            let token = json!({
                "content": content, "lstrip": false, "normalized": false, "rstrip": false,
                "single_word": false,
                "special": true,
            });
            (id.to_string(), token)
        })
        .collect();
    json!({
        "tokenizer_class": "GPT2Tokenizer",
        "add_prefix_space": false,
        "added_tokens_decoder": special,
        "bos_token": END_OF_TEXT_TOKEN,
        "eos_token": END_OF_TEXT_TOKEN,
        "unk_token": END_OF_TEXT_TOKEN,
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": false,
        "errors": "replace",
    })
}

fn pretty(value: &Value) -> Result<String> {
    Ok(serde_json::to_string_pretty(value)? + "\n")
}

fn write(dir: &Path, name: &str, content: &str) -> Result<()> {
    let path = dir.join(name);
    fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))
}
