//! How alike texts are: the Jaccard index of their sets of three successive words. MinHash with
//! banding finds pairs that may be alike among half a million texts; what it finds is compared
//! exactly.

use super::hashing::{HashedMap, hash, mix};
use crate::german::fold;
use rayon::prelude::*;
use std::sync::atomic::{AtomicBool, Ordering};

/// From here on two texts count as near duplicates.
pub(crate) const ALIKE: f64 = 0.8;

/// Bins of a signature, and how many of them make a band. Two texts with index 0.8 share a band of
/// four bins with probability 1 - (1 - 0.8^4)^16 = 0.9998.
const BINS: usize = 64;
const ROWS: usize = 4;
/// So many earlier texts of a band's bucket are compared.
const COMPARED: usize = 6;

/// The hashes of all runs of three words of a text, sorted and each once; of a shorter text the
/// hash of all its words.
pub(crate) fn shingles(text: &str) -> Vec<u64> {
    let folded = fold(text);
    let words = folded.split(' ').map(|word| hash(word.as_bytes()));
    let words: Vec<u64> = words.collect();
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
pub(crate) fn jaccard<T: Ord>(a: &[T], b: &[T]) -> f64 {
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

// One-permutation hashing: every shingle falls into one bin, whose smallest hash counts; an empty
// bin borrows from the next full one, told apart by how far that is.
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
pub(crate) fn near_duplicates<T: AsRef<str> + Sync>(texts: &[T]) -> usize {
    // Half of a hash is enough to tell the few dozen shingles of two texts apart, and half a
    // million texts are many.
    let sets: Vec<Box<[u32]>> = texts
        .par_iter()
        .map(|text| {
            let halves = shingles(text.as_ref())
                .into_iter()
                .map(|hash| (hash >> 32) as u32);
            let mut set: Vec<u32> = halves.collect();
            set.dedup();
            set.into()
        })
        .collect();
    let bands: Vec<[u32; BINS / ROWS]> = sets.par_iter().map(|set| bands_of(set)).collect();
    // Bands are independent, so threads share them out; the earliest texts of each bucket are what
    // a later one is compared with. That another band has found a text already only spares the
    // comparison.
    let found: Vec<AtomicBool> = texts.iter().map(|_| AtomicBool::new(false)).collect();
    (0..BINS / ROWS).into_par_iter().for_each(|band| {
        let of_texts = bands.iter().enumerate();
        let mut sorted: Vec<u64> = of_texts
            .map(|(index, bands)| u64::from(bands[band]) << 32 | index as u64)
            .collect();
        sorted.sort_unstable();
        for bucket in sorted.chunk_by(|a, b| a >> 32 == b >> 32) {
            for (place, &entry) in bucket.iter().enumerate().skip(1) {
                let index = entry as u32 as usize;
                if found[index].load(Ordering::Relaxed) {
                    continue;
                }
                let mut earlier = bucket[..place.min(COMPARED)].iter();
                if earlier.any(|&other| is_alike(&sets[index], &sets[other as u32 as usize])) {
                    found[index].store(true, Ordering::Relaxed);
                }
            }
        }
    });
    found
        .into_iter()
        .filter(|found| found.load(Ordering::Relaxed))
        .count()
}

// Whether the Jaccard index of two sorted sets reaches `ALIKE`. Sets of too different sizes need no
// look.
fn is_alike<T: Ord>(a: &[T], b: &[T]) -> bool {
    let (few, many) = (a.len().min(b.len()), a.len().max(b.len()));
    few as f64 / many.max(1) as f64 >= ALIKE && jaccard(a, b) >= ALIKE
}

fn bands_of(set: &[u32]) -> [u32; BINS / ROWS] {
    let mut bands = [0; BINS / ROWS];
    for (band, rows) in bands.iter_mut().zip(signature(set).chunks_exact(ROWS)) {
        *band = rows.iter().fold(1u64, |sum, row| mix(sum, u64::from(*row))) as u32;
    }
    bands
}

/// For each of `texts`, whether some text of `corpus` is a near duplicate of it. Exact.
///
/// Two sets with index 0.8 have so much in common that, in whatever order shingles are put, some of
/// the first fifth of one is among the first fifth of the other (prefix filtering). The rarest go
/// first, so hardly any pair has to be compared.
pub(crate) fn alike_to_any(texts: &[&str], corpus: &[&str]) -> Vec<bool> {
    let sets: Vec<Vec<u64>> = texts.par_iter().map(|text| shingles(text)).collect();
    let mut frequency: HashedMap<u32> = HashedMap::default();
    for &shingle in sets.iter().flatten() {
        *frequency.entry(shingle).or_default() += 1;
    }
    let rarest = |set: &[u64]| -> Vec<u64> {
        let count = set.len() - (4 * set.len()).div_ceil(5) + 1;
        let mut ordered: Vec<(u32, u64)> = set
            .iter()
            .map(|shingle| (frequency.get(shingle).copied().unwrap_or(0), *shingle))
            .collect();
        ordered.sort_unstable();
        ordered.truncate(count);
        ordered.into_iter().map(|(_, shingle)| shingle).collect()
    };
    let mut holders: HashedMap<Vec<u32>> = HashedMap::default();
    for (index, set) in sets.iter().enumerate() {
        for shingle in rarest(set) {
            holders.entry(shingle).or_default().push(index as u32);
        }
    }
    let alike: Vec<AtomicBool> = texts.iter().map(|_| AtomicBool::new(false)).collect();
    corpus.par_iter().for_each(|text| {
        let set = shingles(text);
        let candidates = rarest(&set)
            .into_iter()
            .filter_map(|shingle| holders.get(&shingle));
        for &index in candidates.flatten() {
            let index = index as usize;
            if !alike[index].load(Ordering::Relaxed) && is_alike(&sets[index], &set) {
                alike[index].store(true, Ordering::Relaxed);
            }
        }
    });
    alike.into_iter().map(AtomicBool::into_inner).collect()
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
            alike_to_any(&texts, &[corpus.as_str()]),
            [false, true, false]
        );
    }

    #[test]
    fn what_is_left_uncompared_would_not_have_been_alike() {
        // Texts of few words, so that every degree of likeness occurs.
        let text = |number: u64| -> String {
            let length = 1 + number % 13;
            let words = (0..length).map(|place| {
                let kind = mix(number / 7 * (1 + place / 5), place) % 3;
                format!("w{kind}")
            });
            words.collect::<Vec<_>>().join(" ")
        };
        let texts: Vec<String> = (0..150).map(text).collect();
        let corpus: Vec<String> = (150..400).map(text).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let corpus: Vec<&str> = corpus.iter().map(String::as_str).collect();
        let plainly = |text: &&str| {
            let set = shingles(text);
            corpus
                .iter()
                .any(|other| jaccard(&set, &shingles(other)) >= ALIKE)
        };
        let expected: Vec<bool> = texts.iter().map(plainly).collect();
        let alike = expected.iter().filter(|&&alike| alike).count();
        assert!((20..130).contains(&alike), "{alike}");
        assert_eq!(alike_to_any(&texts, &corpus), expected);
    }

    #[test]
    fn the_number_of_threads_changes_nothing() {
        let texts: Vec<String> = (0..3000u64)
            .map(|number| {
                let words = (0..12u64).map(|place| format!("w{}", mix(number % 900, place) % 400));
                let mut words: Vec<String> = words.collect();
                words.truncate(8 + (number % 5) as usize);
                words.join(" ")
            })
            .collect();
        let counts = [1, 2, 5].map(|threads| {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            pool.install(|| near_duplicates(&texts))
        });
        assert!(counts[0] > 100, "{counts:?}");
        assert_eq!([counts[0]; 3], counts);
    }
}
