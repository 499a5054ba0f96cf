//! Hashes that stand for words and runs of words, and tables of such hashes. Half a million
//! examples hold tens of millions of words: what counts them must not hash them twice.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

/// FNV-1a of the bytes.
pub(crate) fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, &byte| {
        (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// One hash of two, of which the order counts.
pub(crate) fn mix(a: u64, b: u64) -> u64 {
    let mut sum = (a ^ b.rotate_left(29)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    sum ^= sum >> 32;
    sum.wrapping_mul(0xd6e8_feb8_6659_fd93)
}

/// A set of hashes.
pub(crate) type HashedSet = HashSet<u64, BuildHasherDefault<IdentityHasher>>;
/// A table by hash.
pub(crate) type HashedMap<T> = HashMap<u64, T, BuildHasherDefault<IdentityHasher>>;

/// Takes a hash for its own hash.
#[derive(Default)]
pub(crate) struct IdentityHasher(u64);

impl Hasher for IdentityHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = mix(self.0, hash(bytes));
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_words_count() {
        let (a, b) = (hash(b"eins"), hash(b"zwei"));
        assert_ne!(a, b);
        assert_ne!(mix(a, b), mix(b, a));
        let set: HashedSet = [a, b, a].into_iter().collect();
        assert_eq!(set.len(), 2);
    }
}
