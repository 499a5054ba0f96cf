//! The language of an answer: how it addresses the citizen, whether it ends, whether it goes round in circles.

use crate::knowledge::fold;
use crate::knowledge::language::{Address, address};
use serde::Serialize;
use std::collections::HashSet;

/// How a text addresses its reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// Politely.
    Sie,
    /// As a friend.
    Du,
    /// Not at all.
    Neutral,
}

/// The form of address of a text. A "Sie" at a sentence's start that may be a third person counts as the polite form.
pub fn form(text: &str) -> Form {
    match address(text) {
        Some(Address::Sie(_) | Address::MaybeSie(_)) => Form::Sie,
        Some(Address::Du(_)) => Form::Du,
        None => Form::Neutral,
    }
}

/// Whether an answer in the form `answer` suits a question in the form `question`: an impersonal answer suits everyone; who says
/// Du may be called Du; everybody else is called Sie.
pub fn suits(question: Form, answer: Form) -> bool {
    match answer {
        Form::Neutral => true,
        Form::Sie => question != Form::Du,
        Form::Du => question == Form::Du,
    }
}

/// Whether a text ends like a German sentence: with a full stop, an exclamation or a question mark, and brackets or quotation
/// marks behind it at most.
pub fn ends_as_a_sentence(text: &str) -> bool {
    text.trim_end()
        .trim_end_matches(['“', '”', '"', '«', '»', '‘', ')'])
        .ends_with(['.', '!', '?'])
}

/// Number of words.
pub fn word_count(text: &str) -> usize {
    text.split_whitespace()
        .filter(|word| word.chars().any(char::is_alphanumeric))
        .count()
}

/// Share of the runs of four words that stood in the text before; 0 for fewer than five words.
pub fn repeated_share(text: &str) -> f64 {
    let folded = fold(text);
    let words: Vec<&str> = folded.split(' ').filter(|word| !word.is_empty()).collect();
    let runs: Vec<&[&str]> = words.windows(4).collect();
    if runs.len() < 2 {
        return 0.0;
    }
    let different: HashSet<_> = runs.iter().collect();
    1.0 - different.len() as f64 / runs.len() as f64
}

/// Whether a text goes round in circles: a sentence of three or more words stands in it twice, or a fifth of its runs of four
/// words came before.
pub fn repeats(text: &str) -> bool {
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
    fn forms_of_address() {
        assert_eq!(form("Bitte bringen Sie den Ausweis mit."), Form::Sie);
        assert_eq!(form("Du brauchst deinen Ausweis."), Form::Du);
        assert_eq!(form("Die Ummeldung ist gebührenfrei."), Form::Neutral);
        for (question, answer, fits) in [
            (Form::Du, Form::Du, true),
            (Form::Du, Form::Sie, false),
            (Form::Sie, Form::Du, false),
            (Form::Neutral, Form::Du, false),
            (Form::Neutral, Form::Sie, true),
            (Form::Du, Form::Neutral, true),
        ] {
            assert_eq!(suits(question, answer), fits, "{question:?} {answer:?}");
        }
    }

    #[test]
    fn ends_of_sentences() {
        for text in ["Ja.", "Gern!", "Wirklich? ", "(Das gilt immer.)", "„Ja.“"] {
            assert!(ends_as_a_sentence(text), "{text}");
        }
        for text in ["", "Die Gebühr beträgt", "Tel. 115,", "drei Wochen:"] {
            assert!(!ends_as_a_sentence(text), "{text}");
        }
    }

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
