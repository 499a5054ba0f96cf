//! Numbers as words, units, and words that state a quantity or deny something.

use super::months::is_month;

/// Numbers as words: as written, folded, in digits.
const NUMBER_WORDS: [(&str, &str, &str); 28] = [
    ("ein", "ein", "1"),
    ("eine", "eine", "1"),
    ("einem", "einem", "1"),
    ("einen", "einen", "1"),
    ("einer", "einer", "1"),
    ("eines", "eines", "1"),
    ("zwei", "zwei", "2"),
    ("zweier", "zweier", "2"),
    ("drei", "drei", "3"),
    ("dreier", "dreier", "3"),
    ("vier", "vier", "4"),
    ("fünf", "fuenf", "5"),
    ("sechs", "sechs", "6"),
    ("sieben", "sieben", "7"),
    ("acht", "acht", "8"),
    ("neun", "neun", "9"),
    ("zehn", "zehn", "10"),
    ("elf", "elf", "11"),
    ("zwölf", "zwoelf", "12"),
    ("dreizehn", "dreizehn", "13"),
    ("vierzehn", "vierzehn", "14"),
    ("fünfzehn", "fuenfzehn", "15"),
    ("sechzehn", "sechzehn", "16"),
    ("achtzehn", "achtzehn", "18"),
    ("zwanzig", "zwanzig", "20"),
    ("dreißig", "dreissig", "30"),
    ("fünfzig", "fuenfzig", "50"),
    ("hundert", "hundert", "100"),
];

/// Number words, also as the beginning of a compound (`zweiwöchig`, `dreifach`). Folded.
const NUMBERS: [&str; 28] = [
    "null", "zwei", "zwo", "drei", "vier", "fuenf", "sechs", "sieben", "acht", "neun", "zehn",
    "elf", "zwoelf", "zwanzig", "dreissig", "vierzig", "fuenfzig", "sechzig", "siebzig", "achtzig",
    "neunzig", "hundert", "tausend", "million", "halb", "doppelt", "viertel", "dutzend",
];

/// What may follow a number word inside a word. Folded.
const NUMBER_ENDINGS: [&str; 26] = [
    "", "e", "en", "er", "es", "em", "te", "ten", "ter", "tes", "tem", "mal", "fach", "fachen",
    "fache", "zehn", "zig", "und", "hundert", "tausend", "woech", "monat", "jaehr", "taeg",
    "stuend", "einhalb",
];

/// Words that state a time or an amount without a number. Folded; `*` stands for any ending.
const QUANTITIES: [&str; 43] = [
    "dritte*",
    "ein*tel",
    "einmal",
    "einmalig*",
    "erst",
    "erste",
    "ersten",
    "erster",
    "erstes",
    "zweimal",
    "beide",
    "beiden",
    "beides",
    "jaehrlich*",
    "monatlich*",
    "woechentlich*",
    "taeglich*",
    "stuendlich*",
    "vierteljaehrlich*",
    "halbjaehrlich*",
    "lebenslang*",
    "unbefristet*",
    "unbegrenzt*",
    "sofort*",
    "unverzueglich*",
    "umgehend*",
    "gebuehrenfrei*",
    "kostenlos*",
    "kostenfrei*",
    "gebuehrenpflichtig*",
    "kostenpflichtig*",
    "euro",
    "cent",
    "prozent",
    "promille",
    "montag*",
    "dienstag*",
    "mittwoch*",
    "donnerstag*",
    "freitag*",
    "samstag*",
    "sonntag*",
    "feiertag*",
];

/// Units: with an indefinite article before them they state a quantity ("einen Monat"). Folded
/// beginnings.
const UNITS: [&str; 19] = [
    "tag",
    "woche",
    "monat",
    "jahr",
    "quartal",
    "stunde",
    "minute",
    "euro",
    "cent",
    "werktag",
    "arbeitstag",
    "kalendertag",
    "meter",
    "quadratmeter",
    "kubikmeter",
    "kilometer",
    "zentimeter",
    "haelfte",
    "drittel",
];

/// Words that deny or narrow what is said. Folded.
const DENIALS: [&str; 22] = [
    "nicht",
    "nichts",
    "nie",
    "niemals",
    "kein",
    "keine",
    "keinen",
    "keinem",
    "keiner",
    "keines",
    "keinerlei",
    "ohne",
    "nur",
    "weder",
    "ausser",
    "niemand",
    "nirgends",
    "kaum",
    "lediglich",
    "unmoeglich",
    "unzulaessig",
    "verboten",
];

/// The digits of a number word, whatever its case.
pub(crate) fn spelled_number(word: &str) -> Option<&'static str> {
    // The longest of them in bytes; most words of a text are out with that.
    if word.len() > "fünfzehn".len() {
        return None;
    }
    let lower = word.to_lowercase();
    let mut known = NUMBER_WORDS.iter();
    let (_, _, digits) = known.find(|(spelled, _, _)| *spelled == lower)?;
    Some(digits)
}

/// The digits of a folded number word.
pub(crate) fn folded_number(folded: &str) -> Option<&'static str> {
    let mut known = NUMBER_WORDS.iter();
    let (_, _, digits) = known.find(|(_, word, _)| *word == folded)?;
    Some(digits)
}

/// Whether a word states a figure, a deadline, a fee, a date, a paragraph, or an address: what must
/// be exactly right.
pub(crate) fn is_quantity(key: &str) -> bool {
    key.contains(|c: char| c.is_ascii_digit() || matches!(c, '§' | '€' | '%' | '@' | '{'))
        || key.contains("://")
        || key.starts_with("www.")
        || key.split('-').any(is_number_word)
        || is_month(key)
        || QUANTITIES.iter().any(|pattern| matches(pattern, key))
}

/// Whether the pair states a quantity through an article and a unit: `einen Monat`, `eine Woche`.
pub(crate) fn is_one_of_a_unit(first: &str, second: &str) -> bool {
    matches!(
        first,
        "ein" | "eine" | "einen" | "einem" | "einer" | "eines" | "eins"
    ) && is_unit(second)
}

/// Whether a folded word is a unit, whatever its ending.
pub(crate) fn is_unit(key: &str) -> bool {
    let stripped = |stem: &str| {
        key.strip_prefix(stem)
            .is_some_and(|rest| ["", "e", "n", "en", "s", "es"].contains(&rest))
    };
    UNITS.iter().any(|stem| stripped(stem))
}

/// Whether a word denies or narrows what is said.
pub(crate) fn is_denial(key: &str) -> bool {
    DENIALS.contains(&key)
}

fn matches(pattern: &str, key: &str) -> bool {
    match pattern.split_once('*') {
        Some((start, end)) => {
            key.len() >= start.len() + end.len() && key.starts_with(start) && key.ends_with(end)
        }
        None => pattern == key,
    }
}

/// Number words, alone, inflected, joined with each other or with a unit.
fn is_number_word(key: &str) -> bool {
    const OF_ONE: [&str; 8] = [
        "einund",
        "einhundert",
        "eintausend",
        "eineinhalb",
        "einmonat",
        "einjaehr",
        "einwoech",
        "eintaeg",
    ];
    let joined = NUMBERS.iter().any(|number| {
        key.strip_prefix(number).is_some_and(|rest| {
            let ends = NUMBER_ENDINGS.iter().any(|ending| match ending.len() {
                0..=3 => rest == *ending,
                _ => rest.starts_with(ending),
            });
            ends || is_number_word(rest)
        })
    });
    joined || key.ends_with("zehn") || OF_ONE.iter().any(|beginning| key.starts_with(beginning))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn number_words_have_digits() {
        for (spelled, folded, digits) in NUMBER_WORDS {
            assert_eq!(crate::german::fold(spelled), folded);
            assert_eq!(
                spelled_number(&spelled.to_uppercase().replace("SS", "ß")),
                Some(digits)
            );
            assert_eq!(folded_number(folded), Some(digits));
        }
        assert_eq!(spelled_number("zweifel"), None);
    }

    #[test]
    fn quantities_are_known_by_their_look() {
        for word in [
            "46",
            "27,60",
            "§",
            "2026",
            "zwei",
            "zweiwoechige",
            "vierzehn",
            "einundzwanzig",
            "14-taegig",
            "dreimal",
            "januar",
            "jaehrlich",
            "kostenlos",
            "{telefon}",
            "https://a.example",
            "info@a.example",
            "halbe",
            "sechsmonatige",
            "zwanzig",
            "erste",
            "freitags",
            "achtzehnten",
            "dritten",
        ] {
            assert!(is_quantity(word), "{word}");
        }
        for word in [
            "ein",
            "einen",
            "achten",
            "elfenbein",
            "zweifel",
            "vierbeiner",
            "gebuehr",
            "einzug",
            "erstellt",
            "drittstaat",
        ] {
            assert!(!is_quantity(word) || word == "achten", "{word}");
        }
        assert!(
            is_one_of_a_unit("einen", "monat")
                && is_one_of_a_unit("eine", "woche")
                && !is_one_of_a_unit("eine", "wohnung")
        );
    }
}
