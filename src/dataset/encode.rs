//! Text to tokens, and where in the tokens the answers stand.

use crate::tokenizer::Tokenizer;
use anyhow::{Result, ensure};

/// Most tokens of an example's text: together with its separator it fills a row of 256.
pub(crate) const LONGEST_EXAMPLE: usize = 255;

/// Tokens of an example as they are stored: separator, text, separator.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Encoded {
    /// The tokens.
    pub tokens: Vec<u16>,
    /// Token ranges of the answers; the last includes the closing separator.
    pub answers: Vec<(u32, u32)>,
}

/// Encodes a text whose answers stand at these byte ranges.
///
/// The whole text is encoded at once, because pieces encoded alone could merge differently. Tokens
/// of byte-level BPE are strings of bytes, so adding up their lengths gives the place of each in
/// the text.
pub(crate) fn encode(
    tokenizer: &Tokenizer,
    text: &str,
    answers: &[(usize, usize)],
) -> Result<Encoded> {
    let ids = tokenizer.encode(text)?;
    let separator = u16::try_from(crate::tokenizer::END_OF_TEXT)?;
    let mut tokens = Vec::with_capacity(ids.len() + 2);
    let mut ends = Vec::with_capacity(ids.len());
    let mut end = 0;
    tokens.push(separator);
    for id in ids {
        end += tokenizer.token_bytes(id)?.len();
        ends.push(end);
        tokens.push(u16::try_from(id)?);
    }
    tokens.push(separator);
    ensure!(
        end == text.len(),
        "the tokens spell {end} bytes, the text has {}: \"{text}\"",
        text.len()
    );
    // Token i of the text is stored at i + 1, behind the separator.
    let spans = answers.iter().map(|&(from, to)| {
        let first = ends.partition_point(|&end| end <= from) + 1;
        let behind = ends.partition_point(|&end| end < to) + 2;
        (first as u32, behind as u32)
    });
    let mut spans: Vec<(u32, u32)> = spans.collect();
    if let Some(last) = spans.last_mut() {
        last.1 = tokens.len() as u32;
    }
    Ok(Encoded {
        tokens,
        answers: spans,
    })
}
