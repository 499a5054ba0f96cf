//! What can be said about a German text by word lists: form of address, doubled words, umlaut spelling, figures.

use std::collections::BTreeSet;

/// Words that address the reader with du. Lower case.
const DU_WORDS: [&str; 17] = [
    "du", "dich", "dir", "dein", "deine", "deinen", "deinem", "deiner", "deines", "deins", "euch",
    "euer", "eure", "euren", "eurem", "eurer", "eures",
];

/// Words that, capitalised inside a sentence, address the reader with Sie.
const SIE_WORDS: [&str; 8] = [
    "Sie", "Ihnen", "Ihr", "Ihre", "Ihren", "Ihrem", "Ihrer", "Ihres",
];

/// Verbs after a "Sie" at a sentence's start that can only be an address when the subject is not taken up again.
const ADDRESSED_VERBS: [&str; 10] = [
    "müssen",
    "können",
    "sollten",
    "dürfen",
    "brauchen",
    "benötigen",
    "erhalten",
    "haben",
    "bekommen",
    "möchten",
];

/// Words that may stand twice in a row ("..., die die Wohnung bezieht").
const MAY_DOUBLE: [&str; 6] = ["die", "der", "das", "den", "dem", "sie"];

/// Beginnings or parts of common words whose umlaut was spelled out. Lower case.
const SPELLED_OUT: [&str; 53] = [
    "fuer",
    "ueber",
    "koenn",
    "moecht",
    "moegl",
    "muess",
    "muesst",
    "duerf",
    "gebuehr",
    "aemter",
    "zustaend",
    "waehr",
    "spaet",
    "frueh",
    "persoen",
    "buerg",
    "behoerd",
    "antraeg",
    "hoechst",
    "noetig",
    "pruef",
    "gueltig",
    "kuendig",
    "schluess",
    "aender",
    "erklaer",
    "haeus",
    "gemaess",
    "heisst",
    "strasse",
    "groess",
    "naechst",
    "zusaetz",
    "vollstaend",
    "rueck",
    "zurueck",
    "stueck",
    "ausserhalb",
    "ausserdem",
    "oeffn",
    "oeffent",
    "ergaenz",
    "erhaelt",
    "enthaelt",
    "faell",
    "betraeg",
    "verlaeng",
    "bestaetig",
    "gruend",
    "unterstuetz",
    "laender",
    "waere",
    "taeglich",
];

/// How a text addresses the reader, if it does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// Formal; holds the word that shows it.
    Sie(String),
    /// Possibly formal: "Sie" at a sentence's start may be a third person.
    MaybeSie(String),
    /// Informal; holds the word that shows it.
    Du(String),
}

/// Finds the first word that addresses the reader.
pub fn address(text: &str) -> Option<Address> {
    let mut doubt = None;
    for sentence in sentences(text) {
        let words: Vec<&str> = words(sentence).collect();
        for (index, word) in words.iter().enumerate() {
            if DU_WORDS.iter().any(|du| du.eq_ignore_ascii_case(word)) {
                return Some(Address::Du((*word).to_string()));
            }
            if index > 0 && SIE_WORDS.contains(word) {
                return Some(Address::Sie((*word).to_string()));
            }
        }
        // "Sie können nachgereicht werden" speaks of documents: a passive is taken for a third person.
        let passive = words
            .last()
            .is_some_and(|last| ["werden", "worden", "wird", "sein"].contains(last));
        if let [first, verb, ..] = words[..]
            && first == "Sie"
            && ADDRESSED_VERBS.contains(&verb)
            && !passive
        {
            doubt.get_or_insert(Address::MaybeSie(format!("{first} {verb}")));
        }
    }
    doubt
}

/// Words that stand twice in a row.
pub fn doubled_words(text: &str) -> Vec<String> {
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

/// Words whose umlaut looks spelled out (`Gebuehr`). Placeholders and web addresses are passed over.
pub fn spelled_out_umlauts(text: &str) -> Vec<String> {
    let plain = text
        .split_whitespace()
        .filter(|token| !token.contains(['{', '@']) && !token.contains("://"));
    plain
        .flat_map(words)
        .filter(|word| {
            let lower = word.to_lowercase();
            SPELLED_OUT.iter().any(|stem| lower.contains(stem))
        })
        .map(str::to_string)
        .collect()
}

/// A figure with its unit, evened out: `zwei Wochen` and `2 Wochen` give `("2", "woche")`.
pub type Figure = (String, &'static str);

/// Every figure with a unit that stands in the text.
pub fn figures(text: &str) -> BTreeSet<Figure> {
    let spaced = text
        .replace(['\u{a0}', '\u{202f}'], " ")
        .replace('%', " % ")
        .replace('€', " € ");
    let tokens: Vec<&str> = spaced
        .split([' ', '\n', '(', ')', '–', '/'])
        .map(|token| token.trim_matches(['.', ',', ';', ':', '?', '!']))
        .collect();
    let tokens: Vec<&str> = tokens
        .into_iter()
        .filter(|token| !token.is_empty())
        .collect();
    let mut found = BTreeSet::new();
    for pair in tokens.windows(2) {
        if let Some(number) = number(pair[0])
            && let Some(unit) = unit(pair[1])
        {
            found.insert((number, unit));
        }
    }
    found
}

/// A figure with the words that lead up to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// The five words before the figure, folded.
    pub words: String,
    /// The figure.
    pub figure: Figure,
}

/// Every figure of a text that has five words before it in its sentence.
pub fn statements(text: &str) -> Vec<Statement> {
    const LEADING: usize = 5;
    let mut found = Vec::new();
    for sentence in sentences(text) {
        let tokens: Vec<&str> = sentence
            .split_whitespace()
            .map(|token| token.trim_matches(['.', ',', ';', ':', '?', '!', '(', ')']))
            .filter(|token| !token.is_empty())
            .collect();
        for at in LEADING..tokens.len().saturating_sub(1) {
            if let (Some(number), Some(unit)) = (number(tokens[at]), unit(tokens[at + 1])) {
                found.push(Statement {
                    words: crate::knowledge::fold(&tokens[at - LEADING..at].join(" ")),
                    figure: (number, unit),
                });
            }
        }
    }
    found
}

fn number(token: &str) -> Option<String> {
    const WORDS: [(&str, u32); 25] = [
        ("ein", 1),
        ("eine", 1),
        ("einem", 1),
        ("einen", 1),
        ("einer", 1),
        ("eines", 1),
        ("zwei", 2),
        ("drei", 3),
        ("vier", 4),
        ("fünf", 5),
        ("sechs", 6),
        ("sieben", 7),
        ("acht", 8),
        ("neun", 9),
        ("zehn", 10),
        ("elf", 11),
        ("zwölf", 12),
        ("vierzehn", 14),
        ("fünfzehn", 15),
        ("sechzehn", 16),
        ("achtzehn", 18),
        ("zwanzig", 20),
        ("dreißig", 30),
        ("fünfzig", 50),
        ("hundert", 100),
    ];
    if token.starts_with(|c: char| c.is_ascii_digit())
        && token
            .chars()
            .all(|c| c.is_ascii_digit() || ['.', ',', ':'].contains(&c))
    {
        return Some(token.replace('.', "").trim_end_matches(",00").to_string());
    }
    // The longest of them in bytes; most words of a text are out with that.
    if token.len() > "fünfzehn".len() {
        return None;
    }
    let lower = token.to_lowercase();
    WORDS
        .iter()
        .find(|(word, _)| *word == lower)
        .map(|(_, value)| value.to_string())
}

fn unit(token: &str) -> Option<&'static str> {
    const UNITS: [(&str, &str); 23] = [
        ("werktag", "werktag"),
        ("arbeitstag", "arbeitstag"),
        ("tag", "tag"),
        ("woche", "woche"),
        ("monat", "monat"),
        ("lebensmonat", "lebensmonat"),
        ("lebensjahr", "lebensjahr"),
        ("jahr", "jahr"),
        ("stunde", "stunde"),
        ("minute", "minute"),
        ("uhr", "uhr"),
        ("euro", "euro"),
        ("cent", "cent"),
        ("€", "euro"),
        ("prozent", "prozent"),
        ("%", "prozent"),
        ("quadratmeter", "quadratmeter"),
        ("kubikmeter", "kubikmeter"),
        ("zentimeter", "zentimeter"),
        ("kilometer", "kilometer"),
        ("meter", "meter"),
        ("m²", "quadratmeter"),
        ("m³", "kubikmeter"),
    ];
    let lower = token.to_lowercase();
    UNITS
        .iter()
        .find(|(stem, _)| {
            lower
                .strip_prefix(stem)
                .is_some_and(|ending| ["", "e", "n", "en", "s", "es"].contains(&ending))
        })
        .map(|(_, unit)| *unit)
}

/// The words of a text; a hyphen holds a word together.
pub fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '-')
        .filter(|word| word.chars().any(char::is_alphanumeric))
}

// Cut at full stops before a capital, so that "§ 17 Abs. 1 BMG" stays whole.
fn sentences(text: &str) -> Vec<&str> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sie_inside_a_sentence_is_an_address_and_a_pronoun_is_not() {
        assert_eq!(
            address("Bitte bringen Sie den Ausweis mit."),
            Some(Address::Sie("Sie".into()))
        );
        assert_eq!(
            address("Das Amt hilft Ihnen."),
            Some(Address::Sie("Ihnen".into()))
        );
        assert_eq!(
            address("Die Anmeldung ist Pflicht. Sie ist kostenlos."),
            None
        );
        assert_eq!(address("Ein Vertrag ersetzt sie nicht."), None);
        assert_eq!(
            address("Die Belege fehlen oft. Sie können später nachgereicht werden."),
            None
        );
        assert_eq!(
            address("Sie müssen persönlich kommen."),
            Some(Address::MaybeSie("Sie müssen".into()))
        );
    }

    #[test]
    fn figures_are_told_with_the_words_before_them() {
        let found = statements("Die Gebühr für den Reisepass beträgt 70 Euro. Sie beträgt 5 Euro.");
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].words, "gebuehr fuer den reisepass betraegt");
        assert_eq!(found[0].figure, ("70".to_string(), "euro"));
    }

    #[test]
    fn du_is_found_in_every_form() {
        assert_eq!(
            address("Am besten bringst du deinen Ausweis mit."),
            Some(Address::Du("du".into()))
        );
        assert_eq!(
            address("Dein Ausweis genügt."),
            Some(Address::Du("Dein".into()))
        );
        assert_eq!(address("Die Dauer der Duldung ist verschieden."), None);
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

    #[test]
    fn spelled_out_umlauts_are_found_outside_placeholders() {
        assert_eq!(
            spelled_out_umlauts("Die Gebuehr fuer den Antrag"),
            ["Gebuehr", "fuer"]
        );
        assert!(
            spelled_out_umlauts(
                "Es kostet {gebuehr_meldebescheinigung}, neue Frist, Mauer, Steuer"
            )
            .is_empty()
        );
    }

    #[test]
    fn figures_compare_whatever_their_spelling() {
        let one = figures("innerhalb von zwei Wochen, bis zu 1.000 Euro, 1 %");
        let two = figures("2 Wochen; 1000 € oder 1 Prozent");
        assert_eq!(one, two);
        assert_eq!(one.len(), 3);
        assert!(figures("eines Monats").contains(&("1".to_string(), "monat")));
        assert!(figures("§ 17 Abs. 1 BMG").is_empty());
    }
}
