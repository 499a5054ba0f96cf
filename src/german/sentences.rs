//! Sentences, clauses and words of a text.

/// Words that may stand twice in a row ("..., die die Wohnung bezieht").
const MAY_DOUBLE: [&str; 6] = ["die", "der", "das", "den", "dem", "sie"];

/// Cuts a text at the ends of its sentences; `§ 17 Abs. 1 BMG` and `1. Januar` stay whole.
pub(crate) fn sentences(text: &str) -> Vec<&str> {
    const ABBREVIATIONS: [&str; 14] = [
        "abs", "nr", "bzw", "usw", "ggf", "art", "st", "dr", "ca", "z", "b", "d", "h", "bgbl",
    ];
    let mut found = Vec::new();
    let mut start = 0;
    for (at, _) in text.match_indices(['.', '!', '?']) {
        let behind = &text[at + 1..];
        if !behind.starts_with(' ') || !behind.trim_start().starts_with(char::is_uppercase) {
            continue;
        }
        let word = text[start..at]
            .rsplit([' ', '('])
            .next()
            .unwrap_or_default();
        let is_number = word.chars().all(|c| c.is_ascii_digit());
        if is_number || ABBREVIATIONS.contains(&word.to_lowercase().as_str()) {
            continue;
        }
        found.push(text[start..=at].trim());
        start = at + 1;
    }
    if !text[start..].trim().is_empty() {
        found.push(text[start..].trim());
    }
    found
}

/// Cuts a text wherever something new begins: behind sentences, colons, semicolons, line ends and
/// before quotations. The marks are left out. Finer than [`sentences`], which keeps them.
pub(super) fn clauses(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut start = 0;
    for (at, mark) in text.match_indices(['.', '!', '?', ':', ';', '\n', '„', '"']) {
        let rest = text[at + mark.len()..].trim_start();
        if mark != "." || rest.is_empty() || rest.starts_with(char::is_uppercase) {
            found.push(&text[start..at]);
            start = at + mark.len();
        }
    }
    found.push(&text[start..]);
    found
}

/// The words of a text; a hyphen holds a word together.
pub(crate) fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '-')
        .filter(|word| word.chars().any(char::is_alphanumeric))
}

/// Whether a text ends with a full stop, an exclamation or a question mark. Brackets and quotation
/// marks may stand behind it.
pub(crate) fn ends_sentence(text: &str) -> bool {
    text.trim_end()
        .trim_end_matches(['“', '”', '"', '«', '»', '‘', ')'])
        .ends_with(['.', '!', '?'])
}

/// Words that stand twice in a row.
pub(crate) fn doubled_words(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let tokens: Vec<&str> = text.split_whitespace().collect();
    for pair in tokens.windows(2) {
        let (first, second) = (pair[0], pair[1]);
        let second = second.trim_end_matches(|c: char| !c.is_alphanumeric());
        if in_small_letters(first).eq(in_small_letters(second))
            && first.chars().all(char::is_alphabetic)
            && !MAY_DOUBLE
                .iter()
                .any(|may| may.eq_ignore_ascii_case(second))
        {
            found.push(pair[0].to_string());
        }
    }
    found
}

fn in_small_letters(word: &str) -> impl Iterator<Item = char> {
    word.chars().flat_map(char::to_lowercase)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_end_at_full_stops_only() {
        assert_eq!(
            sentences("Nach § 17 Abs. 1 BMG gilt das. Ab dem 1. Januar ist es anders. Ende."),
            [
                "Nach § 17 Abs. 1 BMG gilt das.",
                "Ab dem 1. Januar ist es anders.",
                "Ende."
            ]
        );
    }

    #[test]
    fn ends_of_sentences() {
        for text in ["Ja.", "Gern!", "Wirklich? ", "(Das gilt immer.)", "„Ja.“"] {
            assert!(ends_sentence(text), "{text}");
        }
        for text in ["", "Die Gebühr beträgt", "Tel. 115,", "drei Wochen:"] {
            assert!(!ends_sentence(text), "{text}");
        }
    }

    #[test]
    fn doubled_words_are_found_but_not_relative_pronouns() {
        assert_eq!(
            doubled_words("Die Frist beträgt zwei zwei Wochen."),
            ["zwei"]
        );
        assert!(doubled_words("Die Person, die die Wohnung bezieht, und ihre Kinder.").is_empty());
        assert!(doubled_words("Name, Name der Mutter").is_empty());
    }
}
