//! Whether an answer holds what was expected, whatever the case, the ending or the way a number is
//! written.

use crate::german::fold;
use crate::german::numbers::folded_number;
use crate::knowledge::Municipality;

/// Endings that German words change by case and number.
const ENDINGS: [&str; 7] = ["en", "es", "er", "em", "e", "n", "s"];

/// Whether the words of `wanted` stand in `text`, in this order and side by side.
pub(crate) fn contains(text: &str, wanted: &str) -> bool {
    let (text, wanted) = (words(text), words(wanted));
    let wanted: Vec<&str> = wanted.iter().map(|word| stem(word)).collect();
    !wanted.is_empty()
        && text.windows(wanted.len()).any(|run| {
            run.iter().zip(&wanted).all(|(word, wanted)| {
                match wanted.starts_with(|c: char| c.is_ascii_digit()) {
                    true => word == wanted,
                    false => word.starts_with(wanted),
                }
            })
        })
}

/// Folded words, numbers evened out: `1.000` and `1000`, `27,60` and `27,6`, `zwei` and `2` are the
/// same.
fn words(text: &str) -> Vec<String> {
    let characters: Vec<char> = text.chars().collect();
    let digit = |index: usize| characters.get(index).is_some_and(char::is_ascii_digit);
    let mut plain = String::with_capacity(text.len());
    for (index, &c) in characters.iter().enumerate() {
        let inside = index > 0 && digit(index - 1) && digit(index + 1);
        match c {
            '.' if inside && (1..=3).all(|next| digit(index + next)) && !digit(index + 4) => {}
            // A letter holds the decimals to their number when the rest is folded.
            ',' if inside => plain.push('k'),
            other => plain.push(other),
        }
    }
    fold(&plain)
        .split(' ')
        .filter(|word| !word.is_empty())
        .map(|word| match folded_number(word) {
            Some(number) => number.to_string(),
            None if word.contains('k') && word.starts_with(|c: char| c.is_ascii_digit()) => {
                word.trim_end_matches('0').trim_end_matches('k').to_string()
            }
            None => word.to_string(),
        })
        .collect()
}

/// A word without its ending, if enough is left of it.
fn stem(word: &str) -> &str {
    ENDINGS
        .iter()
        .find_map(|ending| word.strip_suffix(ending))
        .filter(|stem| stem.len() >= 4)
        .unwrap_or(word)
}

/// The text with every placeholder filled that the city has a value for, as the office uses it.
pub(crate) fn fill_known(city: &Municipality, office: Option<&str>, text: &str) -> String {
    let mut filled = String::with_capacity(text.len());
    let mut rest = text;
    for (start, end) in placeholders(text) {
        let done = text.len() - rest.len();
        filled.push_str(&text[done..start]);
        let name = &text[start + 1..end - 1];
        filled.push_str(city.value(name, office).unwrap_or(&text[start..end]));
        rest = &text[end..];
    }
    filled + rest
}

/// Byte ranges of what looks like a placeholder, `{name}`.
pub(crate) fn placeholders(text: &str) -> Vec<(usize, usize)> {
    text.match_indices('{')
        .filter_map(|(open, _)| {
            let close = open + text[open..].find('}')?;
            let name = &text[open + 1..close];
            let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
            (!name.is_empty() && name.chars().all(fits)).then_some((open, close + 1))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::knowledge::Knowledge;
    use std::path::Path;

    #[test]
    fn words_match_whatever_their_ending_and_their_number() {
        for (text, wanted) in [
            ("Die Frist beträgt zwei Wochen.", "2 Wochen"),
            ("innerhalb von 2 Wochen", "zwei Wochen"),
            ("binnen eines Monats nach Bekanntgabe", "einen Monat"),
            ("ein Bußgeld von bis zu 1000 Euro", "1.000 Euro"),
            ("Er kostet 27,6 Euro", "27,60 Euro"),
            ("die Wohnungsgeberbestätigungen", "Wohnungsgeberbestätigung"),
            ("beim EINWOHNERMELDEAMT", "Einwohnermeldeamt"),
            (
                "ein digitales, biometrisches Lichtbild",
                "digitales biometrisches Lichtbild",
            ),
        ] {
            assert!(contains(text, wanted), "{text} / {wanted}");
        }
        for (text, wanted) in [
            ("Er kostet 146 Euro", "46 Euro"),
            ("Er kostet 46,50 Euro", "46 Euro"),
            ("drei Wochen", "zwei Wochen"),
            ("zwei sehr lange Wochen", "zwei Wochen"),
            ("11.000 Euro", "1.000 Euro"),
            ("", "Amt"),
            ("Amt", ""),
        ] {
            assert!(!contains(text, wanted), "{text} / {wanted}");
        }
    }

    #[test]
    fn known_placeholders_are_filled_and_unknown_ones_stay() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("knowledge");
        let city = Knowledge::load(&folder).unwrap().municipality;
        assert_eq!(
            fill_known(
                &city,
                Some("bauamt"),
                "Tel. {telefon}, {unfug} {Nein} {stadt}!"
            ),
            "Tel. 01234 567-200, {unfug} {Nein} Musterstadt!"
        );
        assert_eq!(fill_known(&city, None, "ohne"), "ohne");
        assert_eq!(placeholders("{a} {} {B} {c_1").len(), 1);
    }
}
