//! Words of the same meaning that may stand for each other in a question without any other change:
//! same gender, number and endings, same place in the sentence.

use super::fold;

/// Groups of words; each word of a group may be replaced by any other of it, unless [`fits`]
/// forbids it.
const GROUPS: [&[&str]; 21] = [
    &["Unterlagen", "Dokumente", "Papiere"],
    &["Nachweise", "Belege"],
    &["nötig", "erforderlich", "notwendig"],
    &["mitbringen", "vorlegen"],
    &["zuständig", "verantwortlich"],
    &["Stelle", "Behörde"],
    &["Gebühren", "Kosten"],
    &["brauche", "benötige"],
    &["braucht", "benötigt"],
    &["brauchen", "benötigen"],
    &["bekomme", "erhalte"],
    &["bekommt", "erhält"],
    &["bekommen", "erhalten"],
    &["bezahlen", "zahlen"],
    &["kostenlos", "gebührenfrei", "umsonst"],
    &["online", "im Internet", "übers Internet"],
    &["erledigen", "regeln"],
    &["außerdem", "zusätzlich"],
    &["normalerweise", "in der Regel", "üblicherweise"],
    &[
        "persönlich vorbeikommen",
        "persönlich erscheinen",
        "selbst vorbeikommen",
    ],
    &["passiert", "geschieht"],
];

/// Every place at which a word of the text can be replaced: its byte range and the words that fit.
pub(crate) fn replacements(text: &str) -> Vec<(std::ops::Range<usize>, Vec<&'static str>)> {
    let mut found = Vec::new();
    for group in GROUPS {
        for &word in group {
            for range in occurrences(text, word) {
                if fits(text, &range, word) {
                    let others = group.iter().copied().filter(|&other| other != word);
                    found.push((range, others.collect()));
                }
            }
        }
    }
    found.sort_by_key(|(range, _)| range.start);
    found
}

/// Whole-word occurrences.
fn occurrences<'t>(
    text: &'t str,
    word: &'t str,
) -> impl Iterator<Item = std::ops::Range<usize>> + 't {
    text.match_indices(word).filter_map(move |(at, _)| {
        let end = at + word.len();
        let open = text[..at]
            .chars()
            .next_back()
            .is_none_or(|c| !c.is_alphanumeric() && c != '-');
        let closed = text[end..]
            .chars()
            .next()
            .is_none_or(|c| !c.is_alphanumeric() && c != '-');
        (open && closed).then_some(at..end)
    })
}

// Where the neighbourhood changes the meaning of a word.
fn fits(text: &str, range: &std::ops::Range<usize>, word: &str) -> bool {
    let (before, behind) = (&text[..range.start], &text[range.end..]);
    match word {
        // "brauche nicht zu kommen"
        "brauche" | "braucht" | "brauchen" | "benötige" | "benötigt" | "benötigen" => {
            !text.contains(" zu ")
        }
        // A child is not "erhalten", and who gets to stay gets nothing.
        "bekommt" | "bekomme" | "bekommen" | "erhält" | "erhalte" | "erhalten" => ![
            "Kind",
            "Baby",
            "Besuch",
            "Nachwuchs",
            "bleiben",
            "Zwillinge",
        ]
        .iter()
        .any(|word| text.contains(word)),
        // Not all costs are fees.
        "Kosten" => false,
        "Gebühren" => !before.ends_with("und ") && !behind.starts_with(" und"),
        "online" | "im Internet" | "übers Internet" => {
            // "ein Betrug im Internet" is no place to go to.
            let after_noun = before
                .trim_end()
                .rsplit(' ')
                .next()
                .is_some_and(|word| word.starts_with(char::is_uppercase));
            !after_noun
                && !text.contains("Shop")
                && !text.contains("eröffn")
                && !before.ends_with("nur ")
                && !text.contains("finde")
        }
        "kostenlos" | "gebührenfrei" | "umsonst" => !behind.starts_with(" und"),
        "Stelle" => before.ends_with("elche ") || before.ends_with("elcher "),
        "Behörde" => false,
        "passiert" | "geschieht" => before == "Was ",
        // Only things are laid before an office.
        "mitbringen" => !["Person", "Kind", "Begleit", "Hund", "jemand", "Zeug"]
            .iter()
            .any(|word| text.contains(word)),
        "vorlegen" => false,
        "regeln" | "zahlen" | "zusätzlich" => false,
        _ => true,
    }
}

/// The text with every word replaced by the first of its group: equal for questions that differ in
/// such words only. Folded.
pub(crate) fn canonical(text: &str) -> String {
    let mut canonical = format!(" {} ", fold(text));
    for group in GROUPS {
        let first = format!(" {} ", fold(group[0]));
        for word in &group[1..] {
            canonical = canonical.replace(&format!(" {} ", fold(word)), &first);
        }
    }
    for (person, impersonal) in [("ich", "man"), ("mich", "sich"), ("mir", "sich")] {
        canonical = canonical.replace(&format!(" {person} "), &format!(" {impersonal} "));
    }
    canonical.trim().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_replaced_whole_and_where_they_fit() {
        let at = |text: &str| -> Vec<String> {
            replacements(text)
                .into_iter()
                .flat_map(|(range, others)| {
                    others.into_iter().map(move |other| {
                        let mut changed = text.to_string();
                        changed.replace_range(range.clone(), other);
                        changed
                    })
                })
                .collect()
        };
        assert!(
            at("Welche Unterlagen brauche ich?")
                .contains(&"Welche Papiere brauche ich?".to_string())
        );
        assert!(
            at("Welche Unterlagen brauche ich?")
                .contains(&"Welche Unterlagen benötige ich?".to_string())
        );
        assert!(at("Brauche ich Antragsunterlagen?").is_empty());
        assert!(at("Wir haben ein Kind bekommen, was nun?").is_empty());
        assert!(at("Brauche ich nicht zu kommen?").is_empty());
    }

    #[test]
    fn questions_that_differ_in_such_words_only_are_alike() {
        assert_eq!(
            canonical("Welche Papiere benötige ich?"),
            canonical("Welche Unterlagen braucht man?").replace("braucht", "brauche")
        );
        assert_ne!(
            canonical("Wo melde ich mich an?"),
            canonical("Wo melde ich mich ab?")
        );
    }
}
