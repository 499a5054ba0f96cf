//! Words as the guard compares them.

use crate::german::{ends_sentence, push_spelled_out};

/// A word of a text: where it stands and what it is compared as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Word {
    /// Byte at which it begins.
    pub start: usize,
    /// Byte behind its last character.
    pub end: usize,
    /// Lower case, umlauts spelled out, without the marks around it: `(Gebühr),` is `gebuehr`.
    pub key: String,
    /// Whether a mark that ends a sentence stands behind it.
    pub ends_sentence: bool,
}

/// Marks that stand around words and are not compared.
const MARKS: [char; 16] = [
    '.', ',', ';', ':', '?', '!', '(', ')', '"', '„', '“', '”', '»', '«', '*', '…',
];

/// The words of a text, cut at white space. What consists of marks only is left out.
pub(super) fn words(text: &str) -> Vec<Word> {
    let mut found = Vec::new();
    let mut start = None;
    for (at, c) in text.char_indices().chain([(text.len(), ' ')]) {
        match (c.is_whitespace(), start) {
            (false, None) => start = Some(at),
            (true, Some(begin)) => {
                start = None;
                found.extend(word(text, begin, at));
            }
            _ => {}
        }
    }
    found
}

fn word(text: &str, start: usize, end: usize) -> Option<Word> {
    let token = &text[start..end];
    let key = key(token);
    (!key.is_empty()).then(|| Word {
        start,
        end,
        ends_sentence: ends_sentence(token),
        key,
    })
}

/// What a token is compared as. Signs inside it stay, so that `1.000` and `1,000` differ.
pub(super) fn key(token: &str) -> String {
    let mut key = String::with_capacity(token.len() + 2);
    for c in token
        .trim_matches(MARKS)
        .chars()
        .flat_map(char::to_lowercase)
    {
        push_spelled_out(&mut key, if c == '’' { '\'' } else { c });
    }
    key
}

/// The name of the placeholder that a word is or holds: `{telefon}` gives `telefon`.
pub(super) fn placeholder(key: &str) -> Option<&str> {
    let open = key.find('{')?;
    let close = key[open..].find('}')?;
    Some(&key[open + 1..open + close])
}

/// The placeholder in a word that has no value, or a brace that is not one.
pub(super) fn unknown_placeholder(key: &str, is_known: impl Fn(&str) -> bool) -> Option<String> {
    if !key.contains(['{', '}']) {
        return None;
    }
    match placeholder(key) {
        Some(name) if is_known(name) && key.matches(['{', '}']).count() == 2 => None,
        Some(name) => Some(name.to_string()),
        None => Some(key.to_string()),
    }
}

/// Whether a sentence ends between these two words.
pub(super) fn ends_here(last: &Word, next: &str) -> bool {
    let begins = next
        .trim_start_matches(['„', '"', '(', '»'])
        .starts_with(char::is_uppercase);
    let number = last.key.chars().all(|c| c.is_ascii_digit());
    let abbreviation = [
        "abs", "nr", "bzw", "usw", "ggf", "art", "st", "dr", "ca", "z", "b", "d", "h", "bgbl",
    ];
    last.ends_sentence && begins && !number && !abbreviation.contains(&last.key.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_keep_what_makes_figures_different() {
        let found = words("Die Gebühr (46 Euro) beträgt 27,60 Euro. Nr. 1.000 – {telefon}.");
        let keys: Vec<&str> = found.iter().map(|word| word.key.as_str()).collect();
        assert_eq!(
            keys,
            [
                "die",
                "gebuehr",
                "46",
                "euro",
                "betraegt",
                "27,60",
                "euro",
                "nr",
                "1.000",
                "–",
                "{telefon}"
            ]
        );
        assert!(found[6].ends_sentence && !found[3].ends_sentence && found[10].ends_sentence);
        assert_eq!(placeholder("{telefon}"), Some("telefon"));
        assert_eq!(placeholder("telefon"), None);
    }
}
