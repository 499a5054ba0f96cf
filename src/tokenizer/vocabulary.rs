//! What a byte-level BPE tokenizer consists of: tokens by id, ranked merges, special tokens; and
//! GPT-2's alphabet in which each byte is written as one printable character.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;

use anyhow::{Context, Result, bail, ensure};
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use sha2::{Digest, Sha256};
use tokenizers::models::bpe::Vocab;

/// Tokens, merges and special tokens, checked and complete: ids run from 0 without a gap.
pub(super) struct Vocabulary {
    /// Token of each id in GPT-2's byte alphabet (special tokens as they are).
    tokens: Vec<String>,
    /// Ids of the two parts of each merge, best rank first.
    merges: Vec<(u32, u32)>,
    /// Special tokens with their ids.
    special: Vec<(String, u32)>,
    /// The first ids belong to the BPE model; special tokens may follow that it does not know.
    model_tokens: usize,
    /// Bytes of all tokens, one after the other, with the offsets (tokens + 1) at which each
    /// starts.
    bytes: Vec<u8>,
    offsets: Vec<u32>,
}

/// A JSON object `{token: id}` in the order of the file.
pub(super) struct TokenIds<'a>(pub Vec<(Cow<'a, str>, u32)>);

impl<'de: 'a, 'a> Deserialize<'de> for TokenIds<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = TokenIds<'de>;
            fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
                formatter.write_str("an object of tokens and their ids")
            }
            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
                let mut entries = Vec::with_capacity(50_300);
                while let Some((Text(token), id)) = map.next_entry::<Text<'de>, u32>()? {
                    entries.push((token, id));
                }
                Ok(TokenIds(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

/// A string borrowed from the file where it has no escapes.
#[derive(Deserialize)]
pub(super) struct Text<'a>(#[serde(borrow)] pub Cow<'a, str>);

impl Vocabulary {
    /// From the contents of `vocab.json` (GPT-2's `encoder.json`) and `merges.txt` (`vocab.bpe`).
    pub(super) fn from_vocab_and_merges(vocab: &[u8], merges: &[u8]) -> Result<Self> {
        let vocab: TokenIds = serde_json::from_slice(vocab)
            .context("vocab.json is not an object of tokens and ids")?;
        let merges = std::str::from_utf8(merges).context("merges.txt is not UTF-8")?;
        let merges: Vec<(&str, &str)> = merges
            .lines()
            .enumerate()
            .filter(|(number, line)| {
                let is_heading = *number == 0 && line.starts_with("#version");
                !is_heading && !line.is_empty()
            })
            .map(|(number, line)| {
                split_merge(line)
                    .with_context(|| format!("merges.txt, line {}: found {line:?}", number + 1))
            })
            .collect::<Result<_>>()?;
        let special = vocab
            .0
            .iter()
            .filter(|(token, _)| token == super::END_OF_TEXT_TOKEN)
            .map(|(token, id)| (token.to_string(), *id))
            .collect();
        Self::new(&vocab.0, &merges, special)
    }

    /// From parsed parts. `special` names tokens of `vocab`, or adds tokens with the ids that
    /// follow it.
    pub(super) fn new(
        vocab: &[(Cow<str>, u32)],
        merges: &[(&str, &str)],
        special: Vec<(String, u32)>,
    ) -> Result<Self> {
        let mut ids: HashMap<&str, u32> = HashMap::with_capacity(vocab.len() + special.len());
        for (token, id) in vocab {
            if let Some(first) = ids.insert(token, *id) {
                bail!("token {token:?} stands twice in the vocabulary, with ids {first} and {id}");
            }
        }
        let model_tokens = ids.len();
        for (token, id) in &special {
            let known = *ids.entry(token).or_insert(*id);
            ensure!(
                known == *id,
                "special token {token:?} has id {id}, but the vocabulary gives it id {known}"
            );
        }
        let tokens = in_order_of_ids(&ids)?;
        let merge_ids = merges
            .iter()
            .map(|&(left, right)| merge_ids(&ids, left, right))
            .collect::<Result<Vec<_>>>()?;
        let (bytes, offsets) = decode_table(&tokens)?;
        Ok(Self {
            tokens,
            merges: merge_ids,
            special,
            model_tokens,
            bytes,
            offsets,
        })
    }

    pub(super) fn len(&self) -> usize {
        self.tokens.len()
    }

    pub(super) fn tokens(&self) -> &[String] {
        &self.tokens
    }

    pub(super) fn merges(&self) -> &[(u32, u32)] {
        &self.merges
    }

    pub(super) fn special(&self) -> &[(String, u32)] {
        &self.special
    }

    /// Id of a token, by search: for the few look-ups at start.
    pub(super) fn id_of(&self, token: &str) -> Option<u32> {
        self.tokens
            .iter()
            .rposition(|known| known == token)
            .map(|index| index as u32)
    }

    /// Bytes of one token.
    pub(super) fn bytes(&self, id: u32) -> Option<&[u8]> {
        let start = *self.offsets.get(id as usize)? as usize;
        let end = *self.offsets.get(id as usize + 1)? as usize;
        self.bytes.get(start..end)
    }

    /// Where the first special token in `text` starts, the token and its id; of two at one place
    /// the longer.
    pub(super) fn find_special<'s>(&'s self, text: &str) -> Option<(usize, &'s str, u32)> {
        self.special
            .iter()
            .filter_map(|(token, id)| {
                text.find(token.as_str())
                    .map(|start| (start, token.as_str(), *id))
            })
            .min_by_key(|(start, token, _)| (*start, usize::MAX - token.len()))
    }

    /// The tokens that the BPE model knows, as the crate wants them.
    pub(super) fn model_vocab(&self) -> Vocab {
        self.tokens[..self.model_tokens]
            .iter()
            .cloned()
            .zip(0..)
            .collect()
    }

    /// The merges as pairs of tokens, as the crate wants them.
    pub(super) fn merges_as_text(&self) -> Vec<(String, String)> {
        let text = |id: u32| self.tokens[id as usize].clone();
        self.merges
            .iter()
            .map(|&(left, right)| (text(left), text(right)))
            .collect()
    }

    /// SHA-256 over the number of tokens, each token with its length, and the merges.
    pub(super) fn fingerprint(&self) -> String {
        let mut content = Vec::with_capacity(self.bytes.len() * 2 + self.tokens.len() * 12);
        content.extend_from_slice(&(self.tokens.len() as u32).to_le_bytes());
        for token in &self.tokens {
            content.extend_from_slice(&(token.len() as u32).to_le_bytes());
            content.extend_from_slice(token.as_bytes());
        }
        for (left, right) in &self.merges {
            content.extend_from_slice(&left.to_le_bytes());
            content.extend_from_slice(&right.to_le_bytes());
        }
        Sha256::digest(&content)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }
}

/// The two parts of a merge written `left right`.
pub(super) fn split_merge(line: &str) -> Result<(&str, &str)> {
    match line.split_once(' ') {
        Some((left, right)) if !left.is_empty() && !right.is_empty() && !right.contains(' ') => {
            Ok((left, right))
        }
        _ => bail!("a merge is two tokens with one space between them"),
    }
}

fn in_order_of_ids(ids: &HashMap<&str, u32>) -> Result<Vec<String>> {
    let mut tokens = vec![String::new(); ids.len()];
    let mut seen = vec![false; ids.len()];
    for (token, &id) in ids {
        let index = id as usize;
        ensure!(
            index < tokens.len() && !seen[index],
            "token {token:?} has id {id}: expected each of the ids 0 to {} once",
            tokens.len().saturating_sub(1)
        );
        seen[index] = true;
        (*token).clone_into(&mut tokens[index]);
    }
    Ok(tokens)
}

fn merge_ids(ids: &HashMap<&str, u32>, left: &str, right: &str) -> Result<(u32, u32)> {
    match (ids.get(left), ids.get(right)) {
        (Some(&left), Some(&right)) => Ok((left, right)),
        _ => bail!("the merge {left:?} {right:?} uses a token that the vocabulary lacks"),
    }
}

/// Bytes of all tokens and where each starts.
fn decode_table(tokens: &[String]) -> Result<(Vec<u8>, Vec<u32>)> {
    let alphabet = alphabet();
    let mut bytes = Vec::with_capacity(tokens.len() * 7);
    let mut offsets = Vec::with_capacity(tokens.len() + 1);
    offsets.push(0);
    for token in tokens {
        let start = bytes.len();
        for character in token.chars() {
            match alphabet.get(character as usize).copied().flatten() {
                Some(byte) => bytes.push(byte),
                None => {
                    // Not in the byte alphabet: a special token that means its own characters.
                    bytes.truncate(start);
                    bytes.extend_from_slice(token.as_bytes());
                    break;
                }
            }
        }
        offsets.push(u32::try_from(bytes.len()).context("the vocabulary is larger than 4 GiB")?);
    }
    Ok((bytes, offsets))
}

/// GPT-2's alphabet: the byte of each character below U+0144. Printable Latin-1 characters stand
/// for themselves; the other 68 bytes are U+0100, U+0101, ... in order.
fn alphabet() -> [Option<u8>; 0x144] {
    let mut table = [None; 0x144];
    let mut next = 0x100;
    for byte in 0..=255u8 {
        let printable = matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
        let character = if printable { usize::from(byte) } else { next };
        next += usize::from(!printable);
        table[character] = Some(byte);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    const TINY: &[u8] = br#"{"a": 0, "b": 1, "ab": 2, "<|endoftext|>": 3}"#;

    fn error_of(vocab: &[u8], merges: &str) -> String {
        match Vocabulary::from_vocab_and_merges(vocab, merges.as_bytes()) {
            Ok(_) => panic!("accepted"),
            Err(error) => format!("{error:#}"),
        }
    }

    #[test]
    fn alphabet_covers_every_byte_once() {
        let mut bytes: Vec<u8> = alphabet().into_iter().flatten().collect();
        bytes.sort_unstable();
        assert_eq!(bytes, (0..=255).collect::<Vec<u8>>());
        assert_eq!(alphabet()['Ġ' as usize], Some(b' '));
        assert_eq!(alphabet()['Ċ' as usize], Some(b'\n'));
    }

    #[test]
    fn fingerprint_depends_on_tokens_and_merges() {
        let first = Vocabulary::from_vocab_and_merges(TINY, b"#version: 0.2\na b\n").unwrap();
        let same = Vocabulary::from_vocab_and_merges(TINY, b"a b").unwrap();
        let other = Vocabulary::from_vocab_and_merges(TINY, b"").unwrap();
        assert_eq!(first.fingerprint(), same.fingerprint());
        assert_ne!(first.fingerprint(), other.fingerprint());
        assert_eq!(first.merges(), [(0, 1)]);
    }

    #[test]
    fn damaged_vocabularies_are_named() {
        assert!(error_of(b"[]", "").contains("vocab.json"));
        assert!(error_of(TINY, "a b\nab").contains("line 2"));
        assert!(error_of(TINY, "a c").contains("\"c\""));
        assert!(error_of(br#"{"a": 0, "b": 2}"#, "").contains("id 2"));
        assert!(error_of(br#"{"a": 0, "a": 1}"#, "").contains("twice"));
    }
}
