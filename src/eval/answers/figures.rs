//! Figures in an answer: amounts, spans of time, dates, clock times, numbers of laws and
//! telephones, and placeholders that stand for such. Found on its own terms and not by what the
//! guard uses, so that the guard's mistakes show.

use crate::german::fold;
use crate::german::numbers::folded_number;
use serde::Serialize;
use std::collections::BTreeSet;
use std::fmt;

/// A figure, evened out: `zwei Wochen` and `2 Wochen` are equal, `1.000 Euro` and `1000 €` too.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct Figure {
    /// Digits with a point before the decimals; a clock time has a colon; a placeholder stands with
    /// its braces.
    pub number: String,
    /// What is counted (`euro`, `woche`, `mai`); empty where it is only a number.
    pub unit: &'static str,
}

impl fmt::Display for Figure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.unit {
            "" => formatter.write_str(&self.number),
            unit => write!(formatter, "{} {unit}", self.number),
        }
    }
}

/// Endings of units, as folded; the longest that fits counts, so `Quadratmeter` is no `Meter`.
const UNITS: [(&str, &[&str]); 25] = [
    ("euro", &["euro", "eur"]),
    ("prozent", &["prozent"]),
    ("minute", &["minute", "minuten"]),
    ("stunde", &["stunde", "stunden"]),
    ("tag", &["tag", "tage", "tagen", "tages"]),
    ("woche", &["woche", "wochen"]),
    ("monat", &["monat", "monate", "monaten", "monats"]),
    ("jahr", &["jahr", "jahre", "jahren", "jahres"]),
    ("uhr", &["uhr"]),
    ("zentimeter", &["zentimeter", "zentimetern"]),
    ("quadratmeter", &["quadratmeter", "quadratmetern"]),
    ("kubikmeter", &["kubikmeter", "kubikmetern"]),
    ("meter", &["meter", "metern"]),
    ("januar", &["januar"]),
    ("februar", &["februar"]),
    ("maerz", &["maerz"]),
    ("april", &["april"]),
    ("mai", &["mai"]),
    ("juni", &["juni"]),
    ("juli", &["juli"]),
    ("august", &["august"]),
    ("september", &["september"]),
    ("oktober", &["oktober"]),
    ("november", &["november"]),
    ("dezember", &["dezember"]),
];

/// Words that may stand between a number and its unit: of a range, or before the unit.
const BETWEEN: [&str; 14] = [
    "bis",
    "oder",
    "und",
    "volle",
    "vollen",
    "voller",
    "ganze",
    "ganzen",
    "weitere",
    "weiteren",
    "weiterer",
    "mal",
    "hoechstens",
    "etwa",
];

/// A piece of text that may be a number.
struct Token {
    /// The number it is, if it is one in digits.
    digits: Option<String>,
    /// Folded.
    word: String,
    /// A sentence or clause ends behind it.
    ends: bool,
}

/// Every figure of a text.
pub(crate) fn figures(text: &str) -> BTreeSet<Figure> {
    let mut found = BTreeSet::new();
    let plain = take_placeholders(text, &mut found);
    let tokens = tokens(&plain);
    for (index, token) in tokens.iter().enumerate() {
        let unit = unit_after(&tokens, index);
        let in_words = || folded_number(&token.word).map(str::to_string);
        match (&token.digits, unit) {
            (Some(number), unit) => {
                found.insert(Figure {
                    number: number.clone(),
                    unit: unit.unwrap_or_default(),
                });
            }
            (None, Some(unit)) => {
                if let Some(number) = in_words() {
                    found.insert(Figure { number, unit });
                }
            }
            (None, None) => {}
        }
    }
    found
}

/// Notes the placeholders as figures and takes them out of the text.
fn take_placeholders(text: &str, found: &mut BTreeSet<Figure>) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(open) = rest.find('{') {
        plain.push_str(&rest[..open]);
        let Some(close) = rest[open..].find('}') else {
            rest = &rest[open + 1..];
            continue;
        };
        found.insert(Figure {
            number: rest[open..=open + close].to_string(),
            unit: "",
        });
        plain.push_str(" , ");
        rest = &rest[open + close + 1..];
    }
    plain.push_str(rest);
    plain
}

fn tokens(text: &str) -> Vec<Token> {
    let spaced = text
        .replace(['\u{a0}', '\u{202f}'], " ")
        .replace('%', " Prozent ")
        .replace('€', " Euro ");
    spaced
        .split([' ', '\n', '\t', '(', ')', '–', '/', '-', '„', '“', '"'])
        .filter(|piece| !piece.is_empty())
        .map(|piece| {
            let inner = piece.trim_matches(['.', ',', ';', ':', '?', '!', '*', '§']);
            Token {
                digits: number(inner),
                word: fold(inner),
                ends: piece.ends_with([',', ';', ':', '?', '!'])
                    || piece.ends_with('.') && !inner.starts_with(|c: char| c.is_ascii_digit()),
            }
        })
        .collect()
}

/// A number in digits, evened out: no points between thousands, a point before decimals, no
/// trailing zeros behind it.
fn number(text: &str) -> Option<String> {
    let starts = text.starts_with(|c: char| c.is_ascii_digit());
    if !starts
        || !text
            .chars()
            .all(|c| c.is_ascii_digit() || ".,:".contains(c))
    {
        return None;
    }
    if let Some((hours, minutes)) = text.split_once(':') {
        // 8:00 Uhr is 8 Uhr.
        return Some(match minutes.trim_matches('0').is_empty() {
            true => hours
                .strip_prefix('0')
                .filter(|rest| !rest.is_empty())
                .unwrap_or(hours)
                .to_string(),
            false => text.to_string(),
        });
    }
    let (whole, decimals) = text.split_once(',').unwrap_or((text, ""));
    let mut groups = whole.split('.');
    let first = groups.next()?;
    let rest: Vec<&str> = groups.collect();
    // 1.000 is a thousand, 01.07.2026 a date and 8.30 a time: those stay as they are.
    if !rest.iter().all(|group| group.len() == 3) {
        return Some(text.to_string());
    }
    let mut number = first.to_string() + &rest.concat();
    let decimals = decimals.trim_end_matches('0');
    if !decimals.is_empty() {
        number = format!("{number}.{decimals}");
    }
    Some(number)
}

/// The unit of the number at `index`: the next word, or, of a range, that behind the last number.
fn unit_after(tokens: &[Token], index: usize) -> Option<&'static str> {
    let mut previous = &tokens[index];
    for token in tokens.iter().skip(index + 1).take(4) {
        if previous.ends {
            return None;
        }
        if let Some(unit) = unit(&token.word) {
            return Some(unit);
        }
        let number = token.digits.is_some() || folded_number(&token.word).is_some();
        let between = BETWEEN.contains(&token.word.as_str());
        // "§ 17 Abs. 1" is no range: two numbers need a word between them.
        if !(between || number && BETWEEN.contains(&previous.word.as_str())) {
            return None;
        }
        previous = token;
    }
    None
}

fn unit(word: &str) -> Option<&'static str> {
    let fits = |ending: &&&str| match **ending {
        // Short ones are whole words: "Mai" ends nothing else, and "uhr" ends "Gebuhr" where an
        // umlaut was lost.
        "eur" | "uhr" | "mai" => word == **ending,
        ending => word.ends_with(ending),
    };
    let endings = UNITS.iter().flat_map(|(unit, endings)| {
        let fitting = endings.iter().filter(fits);
        fitting.map(move |ending| (ending.len(), *unit))
    });
    endings.max().map(|(_, unit)| unit)
}

/// The figures of `said` that are not among `allowed`. A number without unit is right if the same
/// number is allowed with any unit; one with a unit only with that unit.
pub(crate) fn not_allowed(said: &BTreeSet<Figure>, allowed: &BTreeSet<Figure>) -> Vec<Figure> {
    said.iter()
        .filter(|figure| match figure.unit {
            "" => !allowed.iter().any(|other| other.number == figure.number),
            _ => !allowed.contains(figure),
        })
        .cloned()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> Vec<String> {
        figures(text).iter().map(Figure::to_string).collect()
    }

    #[test]
    fn figures_are_evened_out() {
        for (text, expected) in [
            ("Er kostet 46 Euro.", vec!["46 euro"]),
            ("Er kostet 27,60 € oder 27,6 Euro", vec!["27.6 euro"]),
            ("bis zu 1.000 Euro, 1000 Euro", vec!["1000 euro"]),
            ("innerhalb von zwei Wochen (2 Wochen)", vec!["2 woche"]),
            ("zwei bis vier Wochen", vec!["2 woche", "4 woche"]),
            ("drei volle Tage vorher", vec!["3 tag"]),
            (
                "am 15. Februar und 15. Mai 2025",
                vec!["15 februar", "15 mai", "2025"],
            ),
            ("von 8:00 bis 12:30 Uhr", vec!["12:30 uhr", "8 uhr"]),
            ("5 bis 55 Euro", vec!["5 euro", "55 euro"]),
            ("1 Prozent oder 0,5 %", vec!["0.5 prozent", "1 prozent"]),
            ("30 Quadratmeter", vec!["30 quadratmeter"]),
            ("höchstens drei Lebensmonate", vec!["3 monat"]),
            ("§ 17 Abs. 1 BMG", vec!["1", "17"]),
            ("einen Monat nach Bekanntgabe", vec!["1 monat"]),
            (
                "{gebuehr_wbs} unter {telefon}.",
                vec!["{gebuehr_wbs}", "{telefon}"],
            ),
            // Not figures.
            ("zwei Personen, ein Antrag", vec![]),
            ("eine Person. Tage später", vec![]),
        ] {
            let mut expected: Vec<String> = expected.into_iter().map(String::from).collect();
            expected.sort();
            let mut found = shown(text);
            found.sort();
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn a_figure_is_wrong_with_another_unit_and_right_without() {
        let allowed = figures("zwei Wochen, 46 Euro, Telefon 01234 567-100");
        let wrong = |text: &str| -> Vec<String> {
            not_allowed(&figures(text), &allowed)
                .iter()
                .map(Figure::to_string)
                .collect()
        };
        assert_eq!(
            wrong("2 Wochen und 46 €, 01234 567-100"),
            Vec::<String>::new()
        );
        assert_eq!(wrong("Die Gebühr (46)"), Vec::<String>::new());
        assert_eq!(wrong("zwei Monate"), ["2 monat"]);
        assert_eq!(wrong("47 Euro"), ["47 euro"]);
        assert_eq!(wrong("01234 567-101"), ["101"]);
        assert_eq!(wrong("{gebuehr_wbs}"), ["{gebuehr_wbs}"]);
    }
}
