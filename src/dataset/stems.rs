//! What a text is about, as hashes of the beginnings of its words.

use super::hashing::hash;
use crate::german::fold;

/// Beginnings of the longer words of a text, hashed and sorted: what it is about.
pub(crate) fn stems(text: &str) -> Vec<u64> {
    let folded = fold(text);
    let mut stems: Vec<u64> = folded
        .split(' ')
        .filter(|word| word.len() >= 5 || word.starts_with(|c: char| c.is_ascii_digit()))
        .map(|word| hash(&word.as_bytes()[..word.len().min(6)]))
        .collect();
    stems.sort_unstable();
    stems.dedup();
    stems
}
