//! The rules, read: a question is a sign of danger where its words fit one of them.

use super::signs::{CRIES, GROUPS, SIGNS};
use std::sync::LazyLock;

/// A rule, read.
struct Sign {
    request: &'static str,
    wanted: Vec<Vec<String>>,
    unwanted: Vec<String>,
}

static RULES: LazyLock<Vec<Sign>> = LazyLock::new(|| {
    let rules = SIGNS.iter();
    rules.map(|&(request, rule)| read(request, rule)).collect()
});

fn read(request: &'static str, rule: &str) -> Sign {
    let rule = GROUPS.iter().fold(rule.to_string(), |rule, (name, words)| {
        rule.replace(name, words)
    });
    let (wanted, unwanted) = rule.split_once(" - ").unwrap_or((&rule, ""));
    let words = |group: &str| {
        group
            .split('|')
            .map(|word| word.trim().to_string())
            .collect()
    };
    Sign {
        request,
        wanted: wanted.split(" + ").map(words).collect(),
        unwanted: words(unwanted),
    }
}

/// The request that a folded question is a sign of.
pub(super) fn sign(core: &str) -> Option<&'static str> {
    if let Some((request, _)) = CRIES.iter().find(|(_, cry)| *cry == core) {
        return Some(request);
    }
    let (words, spaced): (Vec<&str>, _) = (core.split(' ').collect(), format!(" {core} "));
    let has = |wanted: &String| match (wanted.strip_prefix('*'), wanted.strip_suffix('*')) {
        _ if wanted.is_empty() => false,
        (Some(end), _) => words.iter().any(|word| word.ends_with(end)),
        (None, Some(start)) => words.iter().any(|word| word.starts_with(start)),
        (None, None) => spaced.contains(&format!(" {wanted} ")),
    };
    let found = RULES.iter().find(|sign| {
        let all = sign.wanted.iter().all(|group| group.iter().any(has));
        all && !sign.unwanted.iter().any(has)
    });
    found.map(|sign| sign.request)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::german::fold;
    use crate::knowledge::Knowledge;
    use crate::knowledge::dangers::{FIRE, GAS, MEDICAL, POLICE, SUICIDE};

    #[test]
    fn what_citizens_ask_of_the_offices_is_no_sign() {
        let knowledge = Knowledge::bundled().unwrap();
        // Who reports a child in danger, or asks where to call, may well be told the number.
        let near = [
            "jug_kinderschutz",
            "jug_beratung",
            "alg_115",
            "ewo_auskunftssperre",
        ];
        let services = knowledge.phrasings.iter().flat_map(|file| &file.services);
        let asked: Vec<&str> = services
            .filter(|(id, _)| !near.contains(&id.as_str()))
            .flat_map(|(_, phrasings)| phrasings.iter().map(|phrasing| &*phrasing.text))
            .collect();
        let signs: Vec<&&str> = asked
            .iter()
            .filter(|text| sign(&fold(text)).is_some())
            .collect();
        assert!(asked.len() > 17_000);
        assert!(1000 * signs.len() < asked.len(), "{signs:#?}");
    }

    #[test]
    fn danger_is_seen_and_daily_life_is_not() {
        for (question, expected) in [
            ("Hilfe, meine Mutter atmet kaum noch!", Some(MEDICAL)),
            (
                "Ein Mann ist vor dem Rathaus zusammengebrochen",
                Some(MEDICAL),
            ),
            ("mein baby bekommt keine luft", Some(MEDICAL)),
            ("Ich möchte nicht mehr leben", Some(SUICIDE)),
            ("Bei uns brennt die Küche!", Some(FIRE)),
            ("Im Flur riecht es nach Gas", Some(GAS)),
            ("Da ist Rauch im Keller", Some(FIRE)),
            ("Bei den Nachbarn wird gerade eingebrochen", Some(POLICE)),
            ("Die Straßenlaterne vor meinem Haus brennt nicht", None),
            (
                "Mein Vater hatte einen Schlaganfall, wer hilft bei der Pflege?",
                None,
            ),
            (
                "Das Amt reagiert nicht auf meinen Brief, wie lange dauert er noch?",
                None,
            ),
            ("Bei mir wurde eingebrochen und mein Ausweis ist weg", None),
            ("Wie melde ich ein Lagerfeuer an?", None),
            ("Darf meine Frau in Deutschland leben?", None),
            (
                "Ich möchte nicht mehr in der Stadt leben, wo melde ich mich ab?",
                None,
            ),
            (
                "Mein Bruder hat sich das Leben genommen, wo bekomme ich die Sterbeurkunde?",
                None,
            ),
        ] {
            assert_eq!(sign(&fold(question)), expected, "{question}");
        }
    }
}
