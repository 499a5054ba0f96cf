//! Byte-pair merging of one word, for words that no memory holds yet. The `tokenizers` crate does
//! the same, with a set-up for each call that takes ten times as long as the merging of a usual
//! word.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use super::fast::WordHasher;
use super::vocabulary::Vocabulary;

/// Longer words are left to the crate: merging here looks at every pair after every merge.
pub(super) const LONGEST_WORD: usize = 64;

/// The merges of a vocabulary by the pair that they join.
pub(super) struct Merges {
    /// Token of each byte.
    bytes: [u32; 256],
    /// Rank and result of the merge of two tokens, of which the left one is in the upper half of
    /// the key.
    pairs: HashMap<u64, (u32, u32), BuildHasherDefault<WordHasher>>,
}

impl Merges {
    /// `None` for a vocabulary that lacks the token of a byte or what a merge makes: then the crate
    /// decides what happens.
    pub(super) fn new(vocabulary: &Vocabulary) -> Option<Merges> {
        let is_special = |token: &str| vocabulary.special().iter().any(|(name, _)| name == token);
        let mut bytes = [u32::MAX; 256];
        let mut ids: HashMap<&[u8], u32> = HashMap::with_capacity(vocabulary.len());
        for (id, token) in (0..).zip(vocabulary.tokens()) {
            let spelled = vocabulary.bytes(id)?;
            if is_special(token) {
                continue;
            }
            if let [byte] = spelled {
                bytes[usize::from(*byte)] = id;
            }
            ids.insert(spelled, id);
        }
        if bytes.contains(&u32::MAX) {
            return None;
        }
        let mut pairs = HashMap::with_capacity_and_hasher(
            vocabulary.merges().len(),
            BuildHasherDefault::default(),
        );
        for (rank, &(left, right)) in (0..).zip(vocabulary.merges()) {
            let joined = [vocabulary.bytes(left)?, vocabulary.bytes(right)?].concat();
            pairs.insert(key(left, right), (rank, *ids.get(&joined[..])?));
        }
        Some(Merges { bytes, pairs })
    }

    /// Tokens of a word: the pair of the best rank is joined, the leftmost first, until none can
    /// be.
    pub(super) fn encode(&self, word: &[u8]) -> Vec<u32> {
        let mut tokens: Vec<u32> = word
            .iter()
            .map(|&byte| self.bytes[usize::from(byte)])
            .collect();
        let find = |tokens: &[u32], at: usize| match tokens.get(at..at + 2) {
            Some(&[left, right]) => self.pairs.get(&key(left, right)).copied(),
            _ => None,
        };
        let mut merges: Vec<Option<(u32, u32)>> =
            (0..tokens.len()).map(|at| find(&tokens, at)).collect();
        loop {
            let best = merges
                .iter()
                .enumerate()
                .filter_map(|(at, merge)| merge.map(|(rank, joined)| (rank, at, joined)))
                .min();
            let Some((_, at, joined)) = best else {
                return tokens;
            };
            tokens[at] = joined;
            tokens.remove(at + 1);
            merges.remove(at + 1);
            merges[at] = find(&tokens, at);
            if at > 0 {
                merges[at - 1] = find(&tokens, at - 1);
            }
        }
    }
}

fn key(left: u32, right: u32) -> u64 {
    u64::from(left) << 32 | u64::from(right)
}

#[cfg(test)]
mod tests {
    use crate::tokenizer::Tokenizer;

    use super::*;

    #[test]
    fn words_are_merged_as_the_crate_merges_them() {
        let tokenizer = Tokenizer::gpt2().unwrap();
        let merges = Merges::new(&tokenizer.vocabulary).unwrap();
        let letters: Vec<char> = "aaeeiinnrsttdhulcgmbüöäßéELANSTRI0123".chars().collect();
        let mut state = 7u64;
        let mut next = |bound: usize| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 33) as usize % bound
        };
        let mut merged = 0;
        for round in 0..6000 {
            let kind = if round % 5 == 0 {
                33..letters.len()
            } else {
                0..33
            };
            let mut word = String::from(if round % 2 == 0 { " " } else { "" });
            for _ in 0..1 + round % 30 {
                word.push(letters[kind.start + next(kind.len())]);
            }
            let expected = tokenizer.encode_plainly(&word).unwrap();
            assert_eq!(merges.encode(word.as_bytes()), expected, "{word:?}");
            merged += usize::from(expected.len() < word.len());
        }
        assert!(merged > 3000, "{merged}");
        assert_eq!(merges.encode(b""), [0u32; 0]);
    }

    #[test]
    fn a_vocabulary_without_all_bytes_is_left_to_the_crate() {
        let tiny = br#"{"a": 0, "b": 1, "ab": 2, "<|endoftext|>": 3}"#;
        let vocabulary = Vocabulary::from_vocab_and_merges(tiny, b"a b\n").unwrap();
        assert!(Merges::new(&vocabulary).is_none());
    }
}
