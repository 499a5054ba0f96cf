//! What kind of text a token is a piece of.

use crate::tokenizer::Tokenizer;
use anyhow::Result;
use serde::Serialize;
use std::ops::Range;

/// Kinds of tokens; every token has exactly one, the first of these that fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenClass {
    /// `<|endoftext|>`.
    Separator,
    /// Part of a placeholder such as `{telefon}`, braces included.
    Placeholder,
    /// Holds a digit.
    Digit,
    /// Holds a letter outside of ASCII, or half of one.
    Umlaut,
    /// Begins a word.
    WordStart,
    /// Continues a word.
    Continuation,
    /// No letter and no digit.
    Punctuation,
    /// White space only.
    Whitespace,
}

impl TokenClass {
    /// All, in the order of precedence.
    pub const ALL: [TokenClass; 8] = [
        TokenClass::Separator,
        TokenClass::Placeholder,
        TokenClass::Digit,
        TokenClass::Umlaut,
        TokenClass::WordStart,
        TokenClass::Continuation,
        TokenClass::Punctuation,
        TokenClass::Whitespace,
    ];

    /// Name for tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            TokenClass::Separator => "separator",
            TokenClass::Placeholder => "placeholder",
            TokenClass::Digit => "digit",
            TokenClass::Umlaut => "umlaut",
            TokenClass::WordStart => "word start",
            TokenClass::Continuation => "continuation",
            TokenClass::Punctuation => "punctuation",
            TokenClass::Whitespace => "white space",
        }
    }
}

/// The class of each token of a text. Errors: a token outside the vocabulary.
pub fn classify(tokenizer: &Tokenizer, tokens: &[u32]) -> Result<Vec<TokenClass>> {
    let mut bytes = Vec::new();
    let mut ranges = Vec::with_capacity(tokens.len());
    for &token in tokens {
        let start = bytes.len();
        // A separator is no text; it also parts what stands on both sides.
        if token != tokenizer.end_of_text() {
            bytes.extend_from_slice(tokenizer.token_bytes(token)?);
        } else {
            bytes.push(b'\n');
        }
        ranges.push(start..bytes.len());
    }
    let placeholders = placeholders(&bytes);
    Ok(tokens
        .iter()
        .zip(ranges)
        .map(|(&token, range)| match token {
            token if token == tokenizer.end_of_text() => TokenClass::Separator,
            _ if placeholders
                .iter()
                .any(|inside| inside.start < range.end && range.start < inside.end) =>
            {
                TokenClass::Placeholder
            }
            _ => class_of(&bytes, range),
        })
        .collect())
}

/// Byte ranges of `{name}`.
fn placeholders(bytes: &[u8]) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    for (open, _) in bytes.iter().enumerate().filter(|&(_, &byte)| byte == b'{') {
        let name = bytes[open + 1..]
            .iter()
            .take_while(|&&byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
            .count();
        if name > 0 && bytes.get(open + 1 + name) == Some(&b'}') {
            found.push(open..open + name + 2);
        }
    }
    found
}

fn class_of(bytes: &[u8], range: Range<usize>) -> TokenClass {
    let own = &bytes[range.clone()];
    if own.iter().any(u8::is_ascii_digit) {
        return TokenClass::Digit;
    }
    if own
        .iter()
        .enumerate()
        .any(|(offset, byte)| !byte.is_ascii() && is_foreign_letter(bytes, range.start + offset))
    {
        return TokenClass::Umlaut;
    }
    if let Some(first) = own.iter().position(u8::is_ascii_alphabetic) {
        let before = match first {
            0 => range.start.checked_sub(1),
            _ => Some(range.start + first - 1),
        };
        let goes_on = before.is_some_and(|at| {
            bytes[at].is_ascii_alphanumeric()
                || !bytes[at].is_ascii() && is_foreign_letter(bytes, at)
        });
        return match goes_on {
            true => TokenClass::Continuation,
            false => TokenClass::WordStart,
        };
    }
    match own.iter().all(u8::is_ascii_whitespace) {
        true => TokenClass::Whitespace,
        false => TokenClass::Punctuation,
    }
}

/// Whether the byte at `at`, which is not ASCII, belongs to a letter. Dashes and quotation marks
/// are none.
fn is_foreign_letter(bytes: &[u8], at: usize) -> bool {
    // A character begins at most three bytes before any of its bytes.
    let start = (at.saturating_sub(3)..=at)
        .rev()
        .find(|&start| bytes[start] & 0b1100_0000 != 0b1000_0000);
    let Some(start) = start else {
        return false;
    };
    let end = (start + 4).min(bytes.len());
    bytes[start..end]
        .utf8_chunks()
        .next()
        .and_then(|chunk| chunk.valid().chars().next())
        .is_some_and(char::is_alphabetic)
}

#[cfg(test)]
mod tests {
    use super::*;
    use TokenClass::*;

    fn classes(text: &str) -> Vec<(String, TokenClass)> {
        let tokenizer = Tokenizer::gpt2().unwrap();
        let tokens = tokenizer.encode_with_special(text).unwrap();
        let classes = classify(&tokenizer, &tokens).unwrap();
        assert_eq!(classes.len(), tokens.len());
        tokens
            .iter()
            .map(|&token| String::from_utf8_lossy(tokenizer.token_bytes(token).unwrap()).into())
            .zip(classes)
            .collect()
    }

    fn class_in(text: &str, token: &str) -> TokenClass {
        let found = classes(text);
        found
            .iter()
            .find(|(other, _)| other == token)
            .unwrap_or_else(|| panic!("{token:?} is not in {found:?}"))
            .1
    }

    #[test]
    fn every_kind_is_told_apart() {
        let text = "<|endoftext|>Frage: Was kostet der Ausweis, 46 Euro?\nUnter {telefon}.";
        assert_eq!(class_in(text, "<|endoftext|>"), Separator);
        assert_eq!(class_in(text, ":"), Punctuation);
        assert_eq!(class_in(text, " 46"), Digit);
        assert_eq!(class_in(text, " Was"), WordStart);
        assert_eq!(class_in(text, "\n"), Whitespace);
        let inside: Vec<_> = classes("Tel. {telefon} und {Nein}")
            .into_iter()
            .filter(|(_, class)| *class == Placeholder)
            .map(|(token, _)| token)
            .collect();
        assert_eq!(inside.concat().trim(), "{telefon}");
    }

    #[test]
    fn words_go_on_across_tokens_and_umlauts() {
        // GPT-2 cuts German words into pieces.
        let pieces = classes("Wohnungsgeberbestätigung für");
        assert_eq!(pieces[0].1, WordStart);
        assert!(
            pieces
                .iter()
                .filter(|(_, class)| *class == Continuation)
                .count()
                >= 3
        );
        // Both umlauts, each maybe in two halves.
        let umlauts = pieces.iter().filter(|(_, class)| *class == Umlaut).count();
        assert!((2..=4).contains(&umlauts), "{pieces:?}");
        // "tigung" follows an umlaut, so it begins no word.
        let after = pieces
            .iter()
            .position(|(_, class)| *class == Umlaut)
            .unwrap()
            + 1;
        assert_eq!(pieces[after].1, Continuation, "{pieces:?}");
    }

    #[test]
    fn dashes_and_quotation_marks_are_no_letters() {
        for (token, class) in classes(" „ – …") {
            assert!(
                matches!(class, Punctuation | Whitespace),
                "{token:?} {class:?}"
            );
        }
    }
}
