//! Figures of a text with what they count: how they compare whatever their spelling.

use super::fold;
use super::numbers::spelled_number;
use super::sentences::clauses;
use std::collections::BTreeSet;

/// A figure with its unit, evened out: `zwei Wochen` and `2 Wochen` give `("2", "woche")`.
pub(crate) type Figure = (String, &'static str);

/// Every figure with a unit that stands in the text.
pub(crate) fn figures(text: &str) -> BTreeSet<Figure> {
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
pub(crate) struct Statement {
    /// The five words before the figure, folded.
    pub words: String,
    /// The figure.
    pub figure: Figure,
}

/// Every figure of a text that has five words before it in its clause.
pub(crate) fn statements(text: &str) -> Vec<Statement> {
    const LEADING: usize = 5;
    let mut found = Vec::new();
    for clause in clauses(text) {
        let tokens: Vec<&str> = clause
            .split_whitespace()
            .map(|token| token.trim_matches(['.', ',', ';', ':', '?', '!', '(', ')']))
            .filter(|token| !token.is_empty())
            .collect();
        for at in LEADING..tokens.len().saturating_sub(1) {
            if let (Some(number), Some(unit)) = (number(tokens[at]), unit(tokens[at + 1])) {
                found.push(Statement {
                    words: fold(&tokens[at - LEADING..at].join(" ")),
                    figure: (number, unit),
                });
            }
        }
    }
    found
}

fn number(token: &str) -> Option<String> {
    if token.starts_with(|c: char| c.is_ascii_digit())
        && token
            .chars()
            .all(|c| c.is_ascii_digit() || ['.', ',', ':'].contains(&c))
    {
        return Some(token.replace('.', "").trim_end_matches(",00").to_string());
    }
    spelled_number(token).map(str::to_string)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_told_with_the_words_before_them() {
        let found = statements("Die Gebühr für den Reisepass beträgt 70 Euro. Sie beträgt 5 Euro.");
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].words, "gebuehr fuer den reisepass betraegt");
        assert_eq!(found[0].figure, ("70".to_string(), "euro"));
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
