//! How alike texts are: the Jaccard index of their sets of three successive words. MinHash with banding finds pairs that may
//! be alike among half a million texts; what it finds is compared exactly.

use crate::knowledge::fold;
use rayon::prelude::*;
use std::collections::HashMap;

/// From here on two texts count as near duplicates.
pub const ALIKE: f64 = 0.8;

/// Bins of a signature, and how many of them make a band. Two texts with index 0.8 share a band of four bins with probability
/// 1 - (1 - 0.8^4)^16 = 0.9998.
const BINS: usize = 64;
const ROWS: usize = 4;
/// So many earlier texts of a band's bucket are compared.
const COMPARED: usize = 6;

/// The hashes of all runs of three words of a text, sorted and each once; of a shorter text the hash of all its words.
pub fn shingles(text: &str) -> Vec<u64> {
    let folded = fold(text);
    let words: Vec<u64> = folded.split(' ').map(hash).collect();
    let mut found: Vec<u64> = if words.len() < 3 {
        vec![words.iter().fold(7, |sum, word| mix(sum, *word))]
    } else {
        words
            .windows(3)
            .map(|run| mix(mix(run[0], run[1]), run[2]))
            .collect()
    };
    found.sort_unstable();
    found.dedup();
    found
}

/// Jaccard index of two sorted sets.
pub fn jaccard<T: Ord>(a: &[T], b: &[T]) -> f64 {
    let (mut i, mut j, mut common) = (0, 0, 0usize);
    while i < a.len() && j < b.len() {
        match a[i].cmp(&b[j]) {
            std::cmp::Ordering::Less => i += 1,
            std::cmp::Ordering::Greater => j += 1,
            std::cmp::Ordering::Equal => {
                common += 1;
                i += 1;
                j += 1;
            }
        }
    }
    common as f64 / (a.len() + b.len() - common).max(1) as f64
}

fn hash(word: &str) -> u64 {
    word.bytes().fold(0xcbf2_9ce4_8422_2325, |sum, byte| {
        (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

fn mix(a: u64, b: u64) -> u64 {
    let mut sum = (a ^ b.rotate_left(29)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    sum ^= sum >> 32;
    sum.wrapping_mul(0xd6e8_feb8_6659_fd93)
}

// One-permutation hashing: every shingle falls into one bin, whose smallest hash counts; an empty bin borrows from the next
// full one, told apart by how far that is.
fn signature(shingles: &[u32]) -> [u32; BINS] {
    let mut bins = [u32::MAX; BINS];
    for &shingle in shingles {
        let mixed = mix(u64::from(shingle), 0x5bd1);
        let bin = (mixed >> 58) as usize % BINS;
        bins[bin] = bins[bin].min(mixed as u32);
    }
    let mut full = bins;
    for bin in 0..BINS {
        if bins[bin] == u32::MAX
            && let Some(distance) =
                (1..BINS).find(|distance| bins[(bin + distance) % BINS] != u32::MAX)
        {
            full[bin] = bins[(bin + distance) % BINS]
                .wrapping_add((distance as u32).wrapping_mul(0x9e37_79b1));
        }
    }
    full
}

/// How many of the texts are near duplicates of an earlier one (equal ones included).
pub fn near_duplicates<T: AsRef<str> + Sync>(texts: &[T]) -> usize {
    // Half of a hash is enough to tell the few dozen shingles of two texts apart, and half a million texts are many.
    let sets: Vec<Box<[u32]>> = texts
        .par_iter()
        .map(|text| {
            let mut set: Vec<u32> = shingles(text.as_ref())
                .into_iter()
                .map(|hash| (hash >> 32) as u32)
                .collect();
            set.sort_unstable();
            set.dedup();
            set.into()
        })
        .collect();
    let bands: Vec<[u32; BINS / ROWS]> = sets.par_iter().map(|set| bands_of(set)).collect();
    // Bands are independent; the earliest texts of each bucket are what a later one is compared with.
    let mut is_duplicate = vec![false; texts.len()];
    let mut buckets: HashMap<u32, Vec<u32>> = HashMap::new();
    for band in 0..BINS / ROWS {
        buckets.clear();
        for (index, of_text) in bands.iter().enumerate() {
            let bucket = buckets.entry(of_text[band]).or_default();
            if !is_duplicate[index] {
                is_duplicate[index] = bucket
                    .iter()
                    .any(|&earlier| jaccard(&sets[index], &sets[earlier as usize]) >= ALIKE);
            }
            if bucket.len() < COMPARED {
                bucket.push(index as u32);
            }
        }
    }
    is_duplicate
        .into_iter()
        .filter(|&duplicate| duplicate)
        .count()
}

fn bands_of(set: &[u32]) -> [u32; BINS / ROWS] {
    let mut bands = [0; BINS / ROWS];
    for (band, rows) in bands.iter_mut().zip(signature(set).chunks_exact(ROWS)) {
        *band = rows.iter().fold(1u64, |sum, row| mix(sum, u64::from(*row))) as u32;
    }
    bands
}

/// For each of `texts`, whether some text of `corpus` is a near duplicate of it. Exact: every pair that shares a shingle counts.
pub fn alike_to_any<'t>(texts: &[&str], corpus: impl Iterator<Item = &'t str>) -> Vec<bool> {
    let sets: Vec<Vec<u64>> = texts.iter().map(|text| shingles(text)).collect();
    let mut holders: HashMap<u64, Vec<u32>> = HashMap::new();
    for (index, set) in sets.iter().enumerate() {
        for &shingle in set {
            holders.entry(shingle).or_default().push(index as u32);
        }
    }
    let mut alike = vec![false; texts.len()];
    let mut common: HashMap<u32, usize> = HashMap::new();
    for text in corpus {
        let set = shingles(text);
        common.clear();
        for shingle in &set {
            for &index in holders.get(shingle).into_iter().flatten() {
                *common.entry(index).or_default() += 1;
            }
        }
        for (&index, &count) in &common {
            let index = index as usize;
            let union = sets[index].len() + set.len() - count;
            alike[index] |= count as f64 >= ALIKE * union as f64;
        }
    }
    alike
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_counts_common_runs_of_words() {
        let (a, b) = (
            shingles("eins zwei drei vier"),
            shingles("Eins, zwei drei fünf!"),
        );
        assert!((jaccard(&a, &b) - 1.0 / 3.0).abs() < 1e-12);
        assert_eq!(jaccard(&a, &a), 1.0);
        assert_eq!(shingles("Wo?").len(), 1);
    }

    #[test]
    fn near_duplicates_are_found_and_others_not() {
        let base: Vec<String> = (0..400)
            .map(|n| {
                (0..20)
                    .map(|w| format!("w{} ", (n * 7919 + w * w * 31) % 5003))
                    .collect()
            })
            .collect();
        assert_eq!(near_duplicates(&base), 0);
        // One word more at the end: 18 of 19 runs in common.
        let mut more = base.clone();
        more.extend(base.iter().take(100).map(|text| format!("{text} mehr")));
        let found = near_duplicates(&more);
        assert!((97..=100).contains(&found), "{found}");
        let texts: Vec<&str> = base.iter().take(3).map(String::as_str).collect();
        let corpus = format!("{} mehr", base[1]);
        assert_eq!(
            alike_to_any(&texts, [corpus.as_str()].into_iter()),
            [false, true, false]
        );
    }
}
