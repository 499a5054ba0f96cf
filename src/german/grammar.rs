//! Small German grammar: contractions, articles, lists, first letters.

/// First words of sentences that are written in lower case once something stands before them.
const LOWERABLE: &str = " ab alle als am an anerkennt auch auf aus bei beim bekomme bekommen \
    bekommt bekäme benötige benötigen benötigt bezieht \
    bin bis bisher bitte brauche brauchen braucht danke darf das dass dauert dazu deine deinen \
    der die diese dieser dieses \
    droht dürfen dürfte ein eine einem einen einer entstehen erfahre erhalte erhält ersetzt es \
    fallen fällt für geht gehören \
    gehört gelten genügt gern gibt gilt gut habe haben hat hatte hilft hätte ich im in innerhalb \
    ist jeder kann kein \
    keine kommen kommt kostet können könnte könnten lohnt lässt läuft macht man mein meine meinem \
    meinen meiner mir mit muss \
    müssen müssten nach neben nimmt nirgends nur ob reichen reicht seit sicher sind soll sollen \
    sollte steht stellt \
    trage trifft um und unser unsere unserem unseren unter verlangt verliere verliert vielleicht \
    von vor vorab wann war \
    warum was weiß welche welchem welchen welcher welches wem wen wenn wer werde werden weshalb \
    wessen wie wieso will wir \
    wird wo wofür wohin womit wonach woran worauf woraus worin worum worüber wovon wozu wurde \
    wäre wären zahle zahlt zu zum \
    zur zwischen zählen zählt ändert über übernimmt ";

/// A preposition before a noun phrase in the dative, contracted where German does: `bei dem Pass`
/// becomes `beim Pass`.
pub(crate) fn with_dative(preposition: &str, noun_phrase: &str) -> String {
    for (before, article, contracted) in [
        ("bei", "dem ", "beim "),
        ("zu", "dem ", "zum "),
        ("zu", "der ", "zur "),
        ("von", "dem ", "vom "),
    ] {
        if preposition == before
            && let Some(noun) = noun_phrase.strip_prefix(article)
        {
            return format!("{contracted}{noun}");
        }
    }
    format!("{preposition} {noun_phrase}")
}

/// A nominative article in the accusative: `der` becomes `den`, `die` and `das` stay.
pub(crate) fn accusative(article: &str) -> &str {
    match article {
        "der" => "den",
        other => other,
    }
}

/// `a, b und c`; with semicolons where an item holds a comma of its own.
pub(crate) fn list(items: &[&str]) -> String {
    let Some((last, before)) = items.split_last() else {
        return String::new();
    };
    if before.is_empty() {
        return (*last).to_string();
    }
    if items.iter().any(|item| item.contains(',')) {
        return items.join("; ");
    }
    format!("{} und {last}", before.join(", "))
}

/// The sentence with its first word in lower case, if that word is not a noun or a name; otherwise
/// `None`.
pub(crate) fn lower_first(sentence: &str) -> Option<String> {
    let first = sentence.split([' ', ',', '?', ':']).next()?;
    // The polite address keeps its capital.
    if ["Sie", "Ihr", "Ihre", "Ihnen"].contains(&first) {
        return Some(sentence.to_string());
    }
    let lower = first.to_lowercase();
    LOWERABLE
        .match_indices(&lower)
        .any(|(at, _)| {
            LOWERABLE[..at].ends_with(' ') && LOWERABLE[at + lower.len()..].starts_with(' ')
        })
        .then(|| format!("{lower}{}", &sentence[first.len()..]))
}

/// The sentence with its first letter in upper case.
pub(crate) fn upper_first(sentence: &str) -> String {
    let mut letters = sentence.chars();
    match letters.next() {
        Some(first) => first.to_uppercase().chain(letters).collect(),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prepositions_contract() {
        assert_eq!(with_dative("bei", "dem Reisepass"), "beim Reisepass");
        assert_eq!(with_dative("bei", "der Ummeldung"), "bei der Ummeldung");
        assert_eq!(with_dative("zu", "der Ummeldung"), "zur Ummeldung");
        assert_eq!(with_dative("zu", "den Gebühren"), "zu den Gebühren");
    }

    #[test]
    fn lists_read_naturally() {
        assert_eq!(list(&["Ausweis"]), "Ausweis");
        assert_eq!(
            list(&["Ausweis", "Foto", "Antrag"]),
            "Ausweis, Foto und Antrag"
        );
        assert_eq!(list(&["Ausweis, gültig", "Foto"]), "Ausweis, gültig; Foto");
        assert_eq!(list(&[]), "");
    }

    #[test]
    fn only_words_that_are_no_nouns_lose_their_capital() {
        assert_eq!(lower_first("Wo ist das?").as_deref(), Some("wo ist das?"));
        assert_eq!(
            lower_first("Ich ziehe um, was nun?").as_deref(),
            Some("ich ziehe um, was nun?")
        );
        assert_eq!(lower_first("Hunde anmelden, wo?"), None);
        assert_eq!(upper_first("über alles"), "Über alles");
    }
}
