//! Words as the guard compares them, and which of them state a quantity, deny something, or hold a city's own value.

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

/// Whether a token ends with a mark that may end a sentence. A placeholder's value may end one as well.
fn ends_sentence(token: &str) -> bool {
    token
        .trim_end_matches(['“', '”', '"', ')', '«', '»'])
        .ends_with(['.', '!', '?'])
}

/// What a token is compared as. Signs inside it stay, so that `1.000` and `1,000` differ.
pub(super) fn key(token: &str) -> String {
    let mut key = String::with_capacity(token.len() + 2);
    for c in token
        .trim_matches(MARKS)
        .chars()
        .flat_map(char::to_lowercase)
    {
        match c {
            'ä' => key.push_str("ae"),
            'ö' => key.push_str("oe"),
            'ü' => key.push_str("ue"),
            'ß' => key.push_str("ss"),
            '’' => key.push('\''),
            other => key.push(other),
        }
    }
    key
}

/// The name of the placeholder that a word is or holds: `{telefon}` gives `telefon`.
pub(super) fn placeholder(key: &str) -> Option<&str> {
    let open = key.find('{')?;
    let close = key[open..].find('}')?;
    Some(&key[open + 1..open + close])
}

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

/// Units: with an indefinite article before them they state a quantity ("einen Monat"). Folded beginnings.
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

const MONTHS: [&str; 12] = [
    "januar",
    "februar",
    "maerz",
    "april",
    "mai",
    "juni",
    "juli",
    "august",
    "september",
    "oktober",
    "november",
    "dezember",
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

/// Whether a word states a figure, a deadline, a fee, a date, a paragraph, or an address: what must be exactly right.
pub(super) fn is_quantity(key: &str) -> bool {
    key.contains(|c: char| c.is_ascii_digit() || matches!(c, '§' | '€' | '%' | '@' | '{'))
        || key.contains("://")
        || key.starts_with("www.")
        || key.split('-').any(is_number_word)
        || MONTHS.contains(&key)
        || QUANTITIES.iter().any(|pattern| matches(pattern, key))
}

/// Whether the pair states a quantity through an article and a unit: `einen Monat`, `eine Woche`.
pub(super) fn is_one_of_a_unit(first: &str, second: &str) -> bool {
    matches!(
        first,
        "ein" | "eine" | "einen" | "einem" | "einer" | "eines" | "eins"
    ) && is_unit(second)
}

pub(super) fn is_unit(key: &str) -> bool {
    let stripped = |stem: &str| {
        key.strip_prefix(stem)
            .is_some_and(|rest| ["", "e", "n", "en", "s", "es"].contains(&rest))
    };
    UNITS.iter().any(|stem| stripped(stem))
}

/// Whether a word denies or narrows what is said.
pub(super) fn is_denial(key: &str) -> bool {
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
