//! The legal sources behind an answer, and the month in which its facts were checked.

use crate::german::grammar::list;
use crate::german::month_name;
use crate::knowledge::{Fact, Phrases, Service};

/// The legal sources of a fact, to be quoted.
pub(crate) struct LegalSources {
    /// Whether all are sections of a law (`§ ...`).
    pub are_sections: bool,
    listed: String,
}

impl LegalSources {
    /// The sources of a fact. `None` if one of them is what a city says of itself, which is no
    /// legal source to quote.
    pub(crate) fn of(fact: &Fact) -> Option<LegalSources> {
        let sources: Vec<&str> = fact.sources.iter().map(|source| source.as_str()).collect();
        sources
            .iter()
            .all(|source| is_law(source))
            .then(|| LegalSources {
                are_sections: sources.iter().all(|source| source.starts_with('§')),
                listed: list(&sources),
            })
    }

    /// A phrase of the list `quelle` or `quelle_paragraf` with the sources in it.
    pub(crate) fn cited(&self, phrase: &str) -> String {
        phrase.replace("{quelle}", &self.listed)
    }
}

/// Whether a source is a law or a rule, and not what a city says of itself.
fn is_law(source: &str) -> bool {
    let lower = source.to_lowercase();
    [
        "§",
        "art.",
        "gesetz",
        "recht",
        "satzung",
        "ordnung",
        "bauo",
        "bkat",
        "richtlinie",
    ]
    .iter()
    .any(|mark| lower.contains(mark))
}

/// Every sentence that names a fact's legal sources; none if it has no such sources.
pub(crate) fn citations(fact: &Fact, phrases: &Phrases) -> Vec<String> {
    let Some(sources) = LegalSources::of(fact) else {
        return Vec::new();
    };
    let of_sections = phrases.source_section.neutral.iter();
    let of_sections = of_sections.filter(|_| sources.are_sections);
    let all = phrases.source.neutral.iter().chain(of_sections);
    all.map(|phrase| sources.cited(phrase)).collect()
}

/// Month and year in which a service's facts were checked: `Juli 2026`.
pub(crate) fn month_of(service: &Service) -> Option<String> {
    let mut parts = service.checked_on.as_ref()?.split('-');
    let (year, month) = (parts.next()?, parts.next()?);
    Some(format!("{} {year}", month_name(month)?))
}

/// A phrase of the list `stand` with that month in it.
pub(crate) fn as_of(phrase: &str, month: &str) -> String {
    phrase.replace("{stand}", month)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::knowledge::small_knowledge;

    #[test]
    fn laws_are_cited_and_what_a_city_says_is_not() {
        for law in ["§ 17 BMG", "Art. 5 GG", "Hundesteuersatzung", "BauO NRW"] {
            assert!(is_law(law), "{law}");
        }
        assert!(!is_law("Auskunft der Stadt"));
        let knowledge = small_knowledge();
        let services = knowledge.offices.iter().flat_map(|office| &office.services);
        let mut cited = 0;
        for fact in services.flat_map(|service| service.facts.values()) {
            let sentences = citations(fact, &knowledge.phrases);
            assert_eq!(sentences.is_empty(), LegalSources::of(fact).is_none());
            for sentence in &sentences {
                for source in &fact.sources {
                    assert!(sentence.contains(source.as_str()), "{sentence}");
                }
            }
            cited += sentences.len();
        }
        assert!(cited > 0);
    }

    #[test]
    fn the_month_of_the_check_is_named() {
        let knowledge = small_knowledge();
        let service = &knowledge.office("standesamt").unwrap().services[0];
        assert_eq!(month_of(service).as_deref(), Some("Juli 2026"));
        assert_eq!(as_of("Stand: {stand}.", "Juli 2026"), "Stand: Juli 2026.");
    }
}
