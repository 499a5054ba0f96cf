//! Slips of the keyboard in questions: a word that nobody uses is taken for the known word that it
//! nearly is.

use std::collections::{HashMap, HashSet};

/// Shortest word that is looked at, and the length from which two slips are forgiven.
const SHORTEST: usize = 5;
const TWO_SLIPS: usize = 9;
/// A word that so many citizens used is no slip, even if the knowledge base never says it.
const COMMON: usize = 3;

/// The words of the knowledge base with how often they stand there.
pub(super) struct Vocabulary {
    words: HashSet<String>,
    /// The longer words by their first letter, the most frequent first.
    by_letter: HashMap<u8, Vec<String>>,
}

impl Vocabulary {
    /// Takes the words of folded texts, and those that are common in what citizens `asked`.
    pub(super) fn new<'t>(
        folded: impl Iterator<Item = &'t str>,
        asked: impl Iterator<Item = &'t str>,
    ) -> Vocabulary {
        let mut counts: HashMap<&str, usize> = HashMap::new();
        for word in folded.flat_map(|text| text.split(' ')) {
            *counts.entry(word).or_default() += 1;
        }
        let mut ranked: Vec<(&str, usize)> = counts.into_iter().collect();
        ranked.sort_unstable_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
        let mut vocabulary = Vocabulary {
            words: HashSet::with_capacity(ranked.len()),
            by_letter: HashMap::new(),
        };
        for (word, _) in ranked {
            vocabulary.words.insert(word.to_string());
            if let Some(&letter) = word.as_bytes().first().filter(|_| word.len() >= SHORTEST) {
                let list = vocabulary.by_letter.entry(letter).or_default();
                list.push(word.to_string());
            }
        }
        let mut used: HashMap<&str, usize> = HashMap::new();
        for word in asked.flat_map(|text| text.split(' ')) {
            *used.entry(word).or_default() += 1;
        }
        let common = used.into_iter().filter(|&(_, count)| count >= COMMON);
        vocabulary
            .words
            .extend(common.map(|(word, _)| word.to_string()));
        vocabulary
    }

    /// The folded text with words that nobody uses replaced by the known ones that they nearly are.
    pub(super) fn correct(&self, core: &str) -> String {
        let corrected = core
            .split(' ')
            .map(|word| self.nearest(word).unwrap_or(word));
        corrected.collect::<Vec<_>>().join(" ")
    }

    fn nearest(&self, word: &str) -> Option<&str> {
        let letters = word.as_bytes();
        if letters.len() < SHORTEST
            || self.words.contains(word)
            || word.contains(|c: char| !c.is_ascii_lowercase())
        {
            return None;
        }
        let most = if letters.len() >= TWO_SLIPS { 2 } else { 1 };
        let known = self.by_letter.get(letters.first()?)?;
        let near = known
            .iter()
            .filter(|known| known.len().abs_diff(letters.len()) <= most)
            .map(|known| (slips(letters, known.as_bytes()), known));
        // Of equally near ones the most frequent, which comes first.
        near.filter(|&(slips, _)| slips <= most)
            .min_by_key(|&(slips, _)| slips)
            .map(|(_, known)| known.as_str())
    }
}

/// How many letters have to be added, left out, changed, or swapped with the next (Damerau and
/// Levenshtein, each place once).
fn slips(a: &[u8], b: &[u8]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let same = a[i - 1] == b[j - 1];
            row[j] = (last[j] + 1)
                .min(row[j - 1] + 1)
                .min(last[j - 1] + usize::from(!same));
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_counted() {
        for (a, b, expected) in [
            ("ummelden", "umelden", 1),
            ("pass", "pass", 0),
            ("auswies", "ausweis", 1),
            ("abc", "", 3),
        ] {
            assert_eq!(slips(a.as_bytes(), b.as_bytes()), expected, "{a} {b}");
        }
    }

    #[test]
    fn only_what_is_nearly_known_is_corrected() {
        let vocabulary = Vocabulary::new(
            [
                "wo kann ich mich ummelden",
                "der personalausweis",
                "ummelden",
                "anmelden",
            ]
            .into_iter(),
            ["abmelden bitte", "abmelden wo", "auto abmelden"].into_iter(),
        );
        for (text, corrected) in [
            ("wo kann ich mich umelden", "wo kann ich mich ummelden"),
            ("personaalauswies", "personalausweis"),
            ("abmelden", "abmelden"),
            ("ammelden", "anmelden"),
            ("umzug hund wer", "umzug hund wer"),
        ] {
            assert_eq!(vocabulary.correct(text), corrected, "{text}");
        }
    }
}
