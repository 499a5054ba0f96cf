//! Decoding token by token for output that appears while it is generated.

use anyhow::Result;

use super::Tokenizer;

/// Turns tokens into text as they come. A character may be spread over several tokens: its bytes
/// are held back until it is complete. The pieces joined equal [`Tokenizer::decode`] of all tokens.
pub struct DecodeStream<'t> {
    tokenizer: &'t Tokenizer,
    /// The beginning of a character whose end has not come yet: at most three bytes.
    pending: Vec<u8>,
}

impl<'t> DecodeStream<'t> {
    pub(super) fn new(tokenizer: &'t Tokenizer) -> Self {
        Self {
            tokenizer,
            pending: Vec::new(),
        }
    }

    /// The text that `id` completes; empty while a character is incomplete.
    ///
    /// # Errors
    /// When `id` is not in the vocabulary; the stream is then unchanged.
    pub fn push(&mut self, id: u32) -> Result<String> {
        self.pending
            .extend_from_slice(self.tokenizer.token_bytes(id)?);
        let complete = complete_length(&self.pending);
        let text = String::from_utf8_lossy(&self.pending[..complete]).into_owned();
        self.pending.drain(..complete);
        Ok(text)
    }

    /// What is left at the end: U+FFFD for a character that was never completed, usually nothing.
    pub fn finish(self) -> String {
        String::from_utf8_lossy(&self.pending).into_owned()
    }
}

/// Number of leading bytes that no later byte can change the reading of.
fn complete_length(bytes: &[u8]) -> usize {
    let mut start = 0;
    loop {
        match std::str::from_utf8(&bytes[start..]) {
            Ok(_) => return bytes.len(),
            Err(error) => {
                start += error.valid_up_to();
                match error.error_len() {
                    Some(length) => start += length,
                    None => return start,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_back_only_what_can_still_become_a_character() {
        assert_eq!(complete_length(b"abc"), 3);
        assert_eq!(complete_length("aü".as_bytes()), 3);
        assert_eq!(complete_length(&"aü".as_bytes()[..2]), 1);
        assert_eq!(complete_length(&"🏛".as_bytes()[..3]), 0);
        assert_eq!(complete_length(&[0xff, b'a']), 2);
        assert_eq!(complete_length(&[0xff, 0xf0, 0x9f]), 1);
    }

    #[test]
    fn pieces_joined_equal_the_whole() {
        let tokenizer = Tokenizer::gpt2().unwrap();
        let mut cases = vec![
            tokenizer
                .encode("Grüße 👩‍👩‍👧 aus Köln – 12 €\r\n漢字 🏛️")
                .unwrap(),
        ];
        // Every single-byte token in some order: mostly invalid UTF-8.
        cases.push((0..256).map(|index| (index * 97) % 256).collect());
        let mut cut = cases[0].clone();
        cut.truncate(cut.len() - 1);
        cases.push(cut);
        for ids in cases {
            let mut stream = tokenizer.decode_stream();
            let mut text = String::new();
            for &id in &ids {
                text += &stream.push(id).unwrap();
            }
            text += &stream.finish();
            assert_eq!(text, tokenizer.decode(&ids).unwrap());
        }
    }

    #[test]
    fn an_unknown_id_leaves_the_stream_usable() {
        let tokenizer = Tokenizer::gpt2().unwrap();
        let mut stream = tokenizer.decode_stream();
        assert!(stream.push(60_000).is_err());
        assert_eq!(stream.push(15496).unwrap(), "Hello");
    }
}
