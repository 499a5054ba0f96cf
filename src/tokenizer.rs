//! GPT-2's byte-level BPE: text to token ids and back, through the `tokenizers` crate. The
//! vocabulary is embedded in the binary; the folder of a Hugging Face checkpoint can bring its own.

mod fast;
mod files;
mod merge;
mod stream;
mod vocabulary;

use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use rayon::prelude::*;
use tokenizers::AddedToken;
use tokenizers::models::bpe::BPE;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

pub(crate) use stream::DecodeStream;
use vocabulary::Vocabulary;

/// Id of `END_OF_TEXT_TOKEN` in GPT-2's vocabulary: begins and ends every example and separates
/// examples.
pub const END_OF_TEXT: u32 = 50256;

/// The one special token of GPT-2: bos, eos and unk at once.
pub(crate) const END_OF_TEXT_TOKEN: &str = "<|endoftext|>";

/// A Hugging Face chat template (Jinja) for the dialogue format of the training set,
/// `Frage: ...\nAntwort: ...`.
///
/// An answer that is part of the history ends with a line break, as between two turns of a training
/// dialogue.
pub const CHAT_TEMPLATE: &str = "{{ bos_token }}{% for message in messages %}\
{% if message['role'] == 'user' %}{{ 'Frage: ' + message['content'] | trim + '\\n' }}\
{% elif message['role'] == 'assistant' %}{{ 'Antwort: ' + message['content'] | trim + '\\n' }}\
{% endif %}{% endfor %}{% if add_generation_prompt %}{{ 'Antwort:' }}{% endif %}";

const GPT2_VOCAB: &[u8] = include_bytes!("../assets/gpt2/vocab.json");
const GPT2_MERGES: &[u8] = include_bytes!("../assets/gpt2/merges.txt");

/// A byte-level BPE tokenizer as GPT-2 has it: no normaliser, no added prefix space, every byte
/// string encodable.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    vocabulary: Vocabulary,
    end_of_text: u32,
    memories: fast::WordMemories,
    merges: Option<merge::Merges>,
}

impl Tokenizer {
    /// GPT-2's tokenizer from the files embedded in the binary.
    pub fn gpt2() -> Result<Self> {
        let vocabulary = Vocabulary::from_vocab_and_merges(GPT2_VOCAB, GPT2_MERGES).context(
            "the GPT-2 tokenizer files built into this program are damaged: build it again",
        )?;
        Self::from_vocabulary(vocabulary)
    }

    /// The tokenizer of a Hugging Face model folder: `tokenizer.json`, or else `vocab.json` with
    /// `merges.txt`.
    ///
    /// # Errors
    /// When neither is there, when a file is damaged, and when it describes anything but
    /// GPT-2-style byte-level BPE.
    pub fn from_folder(dir: impl AsRef<Path>) -> Result<Self> {
        Self::from_vocabulary(files::read_folder(dir.as_ref())?)
    }

    fn from_vocabulary(vocabulary: Vocabulary) -> Result<Self> {
        let end_of_text = vocabulary.id_of(END_OF_TEXT_TOKEN).with_context(|| {
            format!(
                "the tokenizer has no token {END_OF_TEXT_TOKEN}, which ends every answer: a \
                GPT-2 tokenizer is needed"
            )
        })?;
        let inner =
            build(&vocabulary).map_err(|error| anyhow!("cannot build the tokenizer: {error}"))?;
        Ok(Self {
            inner,
            merges: merge::Merges::new(&vocabulary),
            vocabulary,
            end_of_text,
            memories: fast::WordMemories::default(),
        })
    }

    /// Token ids of `text`. Special tokens written out in the text stay text: what a citizen types
    /// is never control.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        self.memories
            .encode(text, |word| self.encode_word(word))
            .unwrap_or_else(|| self.encode_plainly(text))
    }

    fn encode_word(&self, word: &str) -> Result<Vec<u32>> {
        match &self.merges {
            Some(merges) if word.len() <= merge::LONGEST_WORD => Ok(merges.encode(word.as_bytes())),
            _ => self.encode_plainly(word),
        }
    }

    /// [`Tokenizer::encode`] through the `tokenizers` crate alone: slower, with the same result.
    pub fn encode_plainly(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self
            .inner
            .encode_fast(text, false)
            .map_err(|error| anyhow!("cannot encode a text of {} bytes: {error}", text.len()))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Token ids of `text` in which special tokens written out (`<|endoftext|>`) become themselves.
    pub fn encode_with_special(&self, text: &str) -> Result<Vec<u32>> {
        let mut ids = Vec::new();
        let mut rest = text;
        while let Some((start, token, id)) = self.vocabulary.find_special(rest) {
            ids.extend(self.encode(&rest[..start])?);
            ids.push(id);
            rest = &rest[start + token.len()..];
        }
        ids.extend(self.encode(rest)?);
        Ok(ids)
    }

    /// [`Tokenizer::encode`] of many texts on all cores; results in the order of the texts.
    pub fn encode_batch<T: AsRef<str> + Sync>(&self, texts: &[T]) -> Result<Vec<Vec<u32>>> {
        texts
            .par_iter()
            .map(|text| self.encode(text.as_ref()))
            .collect()
    }

    /// The text of `ids`, special tokens included. Bytes that are not UTF-8 become U+FFFD, as
    /// Python's `errors="replace"` has it.
    ///
    /// # Errors
    /// When an id is not in the vocabulary.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        let mut bytes = Vec::with_capacity(ids.len() * 4);
        for &id in ids {
            bytes.extend_from_slice(self.token_bytes(id)?);
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Starts decoding token by token; see `DecodeStream`.
    pub fn decode_stream(&self) -> DecodeStream<'_> {
        DecodeStream::new(self)
    }

    /// The bytes that one token stands for; alone they need not be valid UTF-8.
    ///
    /// # Errors
    /// When `id` is not in the vocabulary.
    pub(crate) fn token_bytes(&self, id: u32) -> Result<&[u8]> {
        match self.vocabulary.bytes(id) {
            Some(bytes) => Ok(bytes),
            None => bail!(
                "token id {id} is not in the vocabulary, which has ids 0 to {}",
                self.vocab_size().saturating_sub(1)
            ),
        }
    }

    /// Number of tokens, the special one included: 50257 for GPT-2.
    pub fn vocab_size(&self) -> usize {
        self.vocabulary.len()
    }

    /// Id of `<|endoftext|>` in this vocabulary ([`END_OF_TEXT`] for GPT-2).
    pub fn end_of_text(&self) -> u32 {
        self.end_of_text
    }

    /// SHA-256 (lower-case hex) over tokens and merges: equal for equal vocabularies, whichever
    /// files they came from.
    pub fn fingerprint(&self) -> String {
        self.vocabulary.fingerprint()
    }

    /// Writes `tokenizer.json`, `vocab.json`, `merges.txt`, `tokenizer_config.json` and
    /// `special_tokens_map.json` into the existing folder `dir`, as Transformers, vLLM and
    /// llama.cpp read them.
    pub fn save_to_folder(&self, dir: impl AsRef<Path>) -> Result<()> {
        files::write_folder(dir.as_ref(), self)
    }
}

/// Assembles the crate's tokenizer with the settings of GPT-2's published `tokenizer.json`.
fn build(vocabulary: &Vocabulary) -> tokenizers::Result<tokenizers::Tokenizer> {
    let bpe = BPE::builder()
        .vocab_and_merges(vocabulary.model_vocab(), vocabulary.merges_as_text())
        .build()?;
    let mut inner = tokenizers::Tokenizer::new(bpe);
    inner.with_pre_tokenizer(Some(ByteLevel::new(false, true, true)));
    inner.with_post_processor(Some(ByteLevel::new(true, false, true)));
    inner.with_decoder(Some(ByteLevel::new(true, true, true)));
    inner.add_special_tokens(
        vocabulary
            .special()
            .iter()
            .map(|(content, _)| AddedToken::from(content.as_str(), true)),
    )?;
    // Without this the crate would turn a typed "<|endoftext|>" into the control token.
    inner.set_encode_special_tokens(true);
    Ok(inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_ids_of_gpt2() {
        let tokenizer = Tokenizer::gpt2().unwrap();
        assert_eq!(tokenizer.vocab_size(), 50257);
        assert_eq!(tokenizer.end_of_text(), END_OF_TEXT);
        assert_eq!(tokenizer.vocabulary.merges().len(), 50000);
        // Stands in the manifests of all shard folders: it must never change.
        let fingerprint = "86e2a302f497ef120e2287ed6fc5712dc7f357afc1ff154dc8be5f2e163aff05";
        assert_eq!(tokenizer.fingerprint(), fingerprint);
        assert_eq!(tokenizer.encode("Hello world").unwrap(), [15496, 995]);
        assert_eq!(tokenizer.encode("").unwrap(), [0u32; 0]);
        assert_eq!(
            tokenizer.encode(" \n\n").unwrap(),
            tokenizer.encode(" \n\n").unwrap()
        );
    }

    #[test]
    fn typed_special_token_stays_text() {
        let tokenizer = Tokenizer::gpt2().unwrap();
        let text = "a<|endoftext|>b<|endoftext|>";
        let plain = tokenizer.encode(text).unwrap();
        assert!(!plain.contains(&END_OF_TEXT));
        assert_eq!(tokenizer.decode(&plain).unwrap(), text);
        let special = tokenizer.encode_with_special(text).unwrap();
        assert_eq!(special, [64, END_OF_TEXT, 65, END_OF_TEXT]);
        assert_eq!(tokenizer.decode(&special).unwrap(), text);
    }

    #[test]
    fn every_token_decodes_and_unknown_ids_are_errors() {
        let tokenizer = Tokenizer::gpt2().unwrap();
        for id in 0..tokenizer.vocab_size() as u32 {
            assert!(!tokenizer.token_bytes(id).unwrap().is_empty());
        }
        let error = tokenizer.decode(&[0, 50257]).unwrap_err().to_string();
        assert!(
            error.contains("50257") && error.contains("50256"),
            "{error}"
        );
    }

    #[test]
    fn our_decoding_is_the_crates() {
        let tokenizer = Tokenizer::gpt2().unwrap();
        let ids: Vec<u32> = (0..50257).step_by(7).collect();
        assert_eq!(
            tokenizer.decode(&ids).unwrap(),
            tokenizer.inner.decode(&ids, false).unwrap()
        );
    }
}
