//! The way most text takes: GPT-2's pre-tokenizer written out by hand for the characters of
//! European languages, and a memory of the tokens of words that were seen before. What it does not
//! know is left to the `tokenizers` crate, whole.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::{Mutex, PoisonError};

use anyhow::Result;

/// A memory stops growing at so many words: about 15 MB.
const MOST_WORDS: usize = 1 << 17;
/// Longer words, in bytes, are not remembered: they hardly ever come twice.
const LONGEST_WORD: usize = 31;

/// A word of at most [`LONGEST_WORD`] bytes, filled up with zeros, and its length. The table holds
/// it in place, so that a look at it is one access to memory.
type Word = [u64; 4];

/// Memories that nobody is using at the moment; each thread takes one, so that none waits for
/// another.
#[derive(Default)]
pub(super) struct WordMemories(Mutex<Vec<Memory>>);

/// Tokens of words, one after the other, and where each word's stand.
#[derive(Default)]
struct Memory {
    words: HashMap<Word, (u32, u32), BuildHasherDefault<WordHasher>>,
    tokens: Vec<u32>,
}

impl WordMemories {
    /// Tokens of `text`, or `None` where it holds a character whose class is not known here.
    /// `encode_word` encodes one word, as [`first_word`] cuts it.
    pub(super) fn encode(
        &self,
        text: &str,
        encode_word: impl Fn(&str) -> Result<Vec<u32>>,
    ) -> Option<Result<Vec<u32>>> {
        // A thread that panicked cannot have left a half-written entry that matters: words are
        // added in one step.
        let memory = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut memory = memory.unwrap_or_default();
        let encoded = memory.encode(text, encode_word);
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(memory);
        encoded
    }
}

impl Memory {
    fn encode(
        &mut self,
        text: &str,
        encode_word: impl Fn(&str) -> Result<Vec<u32>>,
    ) -> Option<Result<Vec<u32>>> {
        let mut ids = Vec::with_capacity(text.len() / 2);
        let mut rest = text;
        while !rest.is_empty() {
            let (word, behind) = rest.split_at(first_word(rest)?);
            rest = behind;
            let key = key(word);
            if let Some(key) = &key
                && let Some(&(start, end)) = self.words.get(key)
            {
                ids.extend_from_slice(&self.tokens[start as usize..end as usize]);
                continue;
            }
            let tokens = match encode_word(word) {
                Ok(tokens) => tokens,
                Err(error) => return Some(Err(error)),
            };
            ids.extend_from_slice(&tokens);
            if let Some(key) = key
                && self.words.len() < MOST_WORDS
            {
                let start = self.tokens.len() as u32;
                self.tokens.extend_from_slice(&tokens);
                self.words.insert(key, (start, self.tokens.len() as u32));
            }
        }
        Some(Ok(ids))
    }
}

fn key(word: &str) -> Option<Word> {
    let mut bytes = [0; 32];
    bytes
        .get_mut(..LONGEST_WORD)?
        .get_mut(..word.len())?
        .copy_from_slice(word.as_bytes());
    bytes[LONGEST_WORD] = word.len() as u8;
    let mut key = [0; 4];
    for (part, bytes) in key.iter_mut().zip(bytes.as_chunks::<8>().0) {
        *part = u64::from_le_bytes(*bytes);
    }
    Some(key)
}

/// What GPT-2's pattern `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+|
/// ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+` tells apart.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Letter,
    Number,
    Space,
    Other,
}

/// The class of a character; `None` outside of what European texts are written with, where the
/// Unicode tables decide.
const fn class(c: char) -> Option<Class> {
    Some(match c {
        'a'..='z' | 'A'..='Z' => Class::Letter,
        '0'..='9' => Class::Number,
        ' ' | '\t'..='\r' | '\u{85}' | '\u{a0}' => Class::Space,
        '\0'..='\u{7f}' => Class::Other,
        'ª' | 'µ' | 'º' | 'À'..='Ö' | 'Ø'..='ö' | 'ø'..='\u{24f}' => Class::Letter,
        '²' | '³' | '¹' | '¼'..='¾' => Class::Number,
        '\u{80}'..='\u{ff}' => Class::Other,
        // Dashes, quotation marks, bullets, the ellipsis; the euro sign; arrows.
        '\u{2010}'..='\u{2027}' | '€' | '\u{2190}'..='\u{21ff}' => Class::Other,
        _ => return None,
    })
}

const ASCII: [Class; 128] = {
    let mut table = [Class::Other; 128];
    let mut byte = 0;
    while byte < 128 {
        if let Some(class) = class(byte as u8 as char) {
            table[byte] = class;
        }
        byte += 1;
    }
    table
};

/// The class of the character at a place of the text, and its length in bytes.
fn class_at(text: &str, at: usize) -> Option<(Class, usize)> {
    match text.as_bytes().get(at)? {
        &byte @ 0..128 => Some((ASCII[usize::from(byte)], 1)),
        _ => {
            let c = text.get(at..)?.chars().next()?;
            Some((class(c)?, c.len_utf8()))
        }
    }
}

/// Length in bytes of the first match of the pattern in a text that is not empty.
fn first_word(text: &str) -> Option<usize> {
    if let Some(behind) = text.strip_prefix('\'') {
        for ending in ["s", "t", "re", "ve", "m", "ll", "d"] {
            if behind.starts_with(ending) {
                return Some(1 + ending.len());
            }
        }
    }
    let (mut kind, first) = class_at(text, 0)?;
    let mut from = first;
    if text.starts_with(' ') && text.len() > 1 {
        let (after, length) = class_at(text, 1)?;
        if after != Class::Space {
            kind = after;
            from = 1 + length;
        }
    }
    if kind != Class::Space {
        return end_of_run(text, from, kind);
    }
    let end = end_of_run(text, first, Class::Space)?;
    if end == text.len() {
        return Some(end);
    }
    // The last space before a word belongs to the word if it is a plain one, and stands alone
    // otherwise.
    let last = text[..end].chars().next_back().map_or(1, char::len_utf8);
    Some(if end > last { end - last } else { end })
}

/// Where the run of characters of one class ends that goes on at `from`.
fn end_of_run(text: &str, from: usize, kind: Class) -> Option<usize> {
    let mut at = from;
    while at < text.len() {
        let (class, length) = class_at(text, at)?;
        if class != kind {
            return Some(at);
        }
        at += length;
    }
    Some(at)
}

/// A fast hash of a few numbers (the multiply-and-rotate scheme of the Rust compiler's tables).
/// Nobody gains by making words collide in a memory that lives in their own process.
#[derive(Default)]
pub(super) struct WordHasher(u64);

impl Hasher for WordHasher {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.write_u64(u64::from_le_bytes(*word));
        }
        for &byte in rest {
            self.write_u64(u64::from(byte));
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
    }

    // The length of an array, which is always the same here.
    fn write_usize(&mut self, _: usize) {}

    fn finish(&self) -> u64 {
        // The table takes its bits from both ends.
        self.0 ^ self.0 >> 32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::Tokenizer;

    #[test]
    fn classes_are_those_of_unicode() {
        let pattern = |class: &str| fancy(&format!("^{class}$"));
        let (letter, number, space) = (pattern(r"\p{L}"), pattern(r"\p{N}"), pattern(r"\s"));
        let mut known = 0;
        for c in '\0'..='\u{ffff}' {
            let Some(class) = class(c) else { continue };
            let text = c.to_string();
            let expected = if letter(&text) {
                Class::Letter
            } else if number(&text) {
                Class::Number
            } else if space(&text) {
                Class::Space
            } else {
                Class::Other
            };
            assert!(class == expected, "{c:?}");
            known += 1;
        }
        assert!(known > 600, "{known}");
    }

    // The crate's own pattern engine decides what a class is.
    fn fancy(pattern: &str) -> impl Fn(&str) -> bool + use<> {
        let pattern = tokenizers::utils::SysRegex::new(pattern).unwrap();
        move |text| pattern.find_iter(text).next().is_some()
    }

    #[test]
    fn the_fast_way_gives_what_the_crate_gives() {
        let tokenizer = Tokenizer::gpt2().unwrap();
        let pieces = [
            "Frage",
            " ",
            "  ",
            "\n",
            "\t",
            "'s",
            "'",
            "’s",
            "Gebühr",
            "27,60",
            "€",
            "§",
            "…",
            "–",
            "\u{a0}",
            "\u{202f}",
            "ß",
            "½",
            "x²",
            "'ll",
            "'LL",
            "12",
            ".",
            "?!",
            "日本",
            "👍",
            "é",
            "e\u{301}",
            "\r\n",
            "a'd",
            "Straße",
            "<|endoftext|>",
            "Ünal",
            "\u{85}",
            "٣",
            "\u{feff}",
        ];
        let mut state = 1u64;
        let mut fast = 0;
        for round in 0..4000 {
            let mut text = String::new();
            for _ in 0..1 + round % 9 {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                text.push_str(pieces[(state >> 33) as usize % pieces.len()]);
            }
            let expected = tokenizer.encode_plainly(&text).unwrap();
            assert_eq!(tokenizer.encode(&text).unwrap(), expected, "{text:?}");
            fast += usize::from(text.chars().all(|c| class(c).is_some()));
        }
        assert!(fast > 1000, "{fast} texts took the fast way");
    }
}
