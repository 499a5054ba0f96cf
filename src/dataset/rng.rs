//! Random choices that depend on nothing but a key, so that an example is the same whichever thread
//! makes it, and when.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// What a stream of choices is for; streams of different purposes are independent.
#[derive(Clone, Copy)]
pub(crate) enum Purpose {
    /// Which phrasings are held out for validation.
    HoldOut = 1,
    /// In which order an office's subjects and their phrasings take turns.
    Order = 2,
    /// How one example is put together.
    Example = 3,
    /// How one validation example is put together.
    Validation = 4,
}

/// A stream of random choices.
pub(crate) struct KeyedRng(ChaCha8Rng);

impl KeyedRng {
    /// The stream of this key.
    pub(crate) fn new(seed: u64, purpose: Purpose, index: u64, attempt: u64) -> KeyedRng {
        let mut key = [0u8; 32];
        for (part, value) in key
            .chunks_exact_mut(8)
            .zip([seed, purpose as u64, index, attempt])
        {
            part.copy_from_slice(&value.to_le_bytes());
        }
        KeyedRng(ChaCha8Rng::from_seed(key))
    }

    /// A number below `bound`; 0 if `bound` is 0. Written out here so that another version of a
    /// random-number crate can't change the data set.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.0.next_u64()) * bound as u128) >> 64) as usize
    }

    /// True with the given probability in percent.
    pub(crate) fn percent(&mut self, chance: usize) -> bool {
        self.below(100) < chance
    }

    /// One of the items; `None` if there are none.
    pub(crate) fn choose<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        items.get(self.below(items.len()))
    }

    /// Puts the items in random order.
    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_depends_on_every_part_of_its_key() {
        let first = |seed, purpose, index, attempt| {
            KeyedRng::new(seed, purpose, index, attempt).below(usize::MAX)
        };
        let base = first(1, Purpose::Example, 2, 3);
        assert_eq!(base, first(1, Purpose::Example, 2, 3));
        for other in [
            first(2, Purpose::Example, 2, 3),
            first(1, Purpose::Order, 2, 3),
            first(1, Purpose::Example, 3, 3),
            first(1, Purpose::Example, 2, 4),
        ] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn choices_stay_in_bounds_and_reach_everything() {
        let mut rng = KeyedRng::new(7, Purpose::Example, 0, 0);
        let mut seen = [0; 5];
        for _ in 0..1000 {
            seen[rng.below(5)] += 1;
        }
        assert!(seen.iter().all(|&count| count > 120), "{seen:?}");
        assert_eq!(rng.choose::<u8>(&[]), None);
        let mut items: Vec<u32> = (0..50).collect();
        rng.shuffle(&mut items);
        assert!(items != (0..50).collect::<Vec<u32>>());
        items.sort_unstable();
        assert_eq!(items, (0..50).collect::<Vec<u32>>());
    }
}
