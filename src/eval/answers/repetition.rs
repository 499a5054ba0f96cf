//! Measures of an answer: its length, and whether it goes round in circles.

use crate::german::fold;
use std::collections::HashSet;

/// Number of words.
pub(crate) fn word_count(text: &str) -> usize {
    text.split_whitespace()
        .filter(|word| word.chars().any(char::is_alphanumeric))
        .count()
}

/// Share of the runs of four words that stood in the text before; 0 for fewer than five words.
pub(crate) fn repeated_share(text: &str) -> f64 {
    let folded = fold(text);
    let words: Vec<&str> = folded.split(' ').filter(|word| !word.is_empty()).collect();
    let runs: Vec<&[&str]> = words.windows(4).collect();
    if runs.len() < 2 {
        return 0.0;
    }
    let different: HashSet<_> = runs.iter().collect();
    1.0 - different.len() as f64 / runs.len() as f64
}

/// Whether a text goes round in circles: a sentence of three or more words stands in it twice, or a
/// fifth of its runs of four words came before.
pub(crate) fn repeats(text: &str) -> bool {
    let mut seen = HashSet::new();
    let twice = text
        .split_inclusive(['.', '!', '?', '\n'])
        .map(fold)
        .filter(|sentence| sentence.split(' ').count() >= 3)
        .any(|sentence| !seen.insert(sentence));
    twice || repeated_share(text) >= 0.2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn circles() {
        assert!(repeats(
            "Das kostet nichts. Es geht schnell. Das kostet nichts."
        ));
        assert!(repeats(
            "und die Stadt und die Stadt und die Stadt und die Stadt"
        ));
        assert!(!repeats("Ja. Ja. Die Ummeldung ist gebührenfrei."));
        assert!(!repeats(
            "Die Ummeldung ist gebührenfrei, die Bestätigung auch."
        ));
        assert_eq!(repeated_share("eins zwei drei"), 0.0);
        // Runs: abab, baba, abab, baba, abab.
        assert!((repeated_share("a b a b a b a b") - 0.6).abs() < 1e-12);
        assert_eq!(word_count("Ja , das – kostet 46 Euro."), 5);
    }
}
