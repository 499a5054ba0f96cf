//! Questions made from patterns that name a service's topic.

use crate::german::fold;
use crate::german::grammar::{upper_first, with_dative};
use crate::knowledge::{Fact, Intent, Service};

/// A question made from a pattern, and the words of which the answer must hold at least one for the
/// question to fit it. The words are folded; an empty list fits every answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pattern {
    /// The question; may hold `{akk}`, `{bei}`, `{zu}` and `{nom}`, the topic as a subject in the
    /// singular.
    pub text: &'static str,
    /// Words of the answer.
    pub needs: &'static [&'static str],
}

pub(super) const fn p(text: &'static str, needs: &'static [&'static str]) -> Pattern {
    Pattern { text, needs }
}

/// Whether a pattern's question is answered by this fact.
pub(crate) fn fits(pattern: &Pattern, fact: &Fact) -> bool {
    if pattern.needs.is_empty() {
        return true;
    }
    let answer = fold(&format!("{} {}", fact.text, fact.short));
    pattern.needs.iter().any(|word| answer.contains(word))
}

/// Words of which one stands in an answer that names a time to keep. Folded.
pub(super) const TIME: &[&str] = &[
    "frist",
    "innerhalb",
    "spaetestens",
    "binnen",
    "unverzueglich",
    "rechtzeitig",
    "woche",
    "monat",
    "jahr",
    "bis zum",
    "sofort",
    "vor dem",
    "vor der",
    "vor beginn",
    "umgehend",
    "tage",
];

/// Patterns that name the service's topic.
fn about(intent: Intent) -> &'static [Pattern] {
    const COST: &[&str] = &["kost", "gebuehr", "entgelt"];
    const BRING: &[&str] = &[
        "benoetigt",
        "mitzubringen",
        "vorzulegen",
        "noetig",
        "erforderlich",
        "gebraucht",
        "unterlagen",
        "nachweis",
    ];
    const WAIT: &[&str] = &["dauert", "bearbeit", "wartezeit"];
    match intent {
        Intent::What => {
            const {
                &[
                    p("Worum geht es {bei}?", &[]),
                    p("Was sollte ich über {akk} wissen?", &[]),
                    p("Was muss man über {akk} wissen?", &[]),
                    p("Was ist {bei} wichtig?", &[]),
                ]
            }
        }
        Intent::Who => const { &[p("Wen betrifft {nom}?", &[])] },
        Intent::Where => {
            const {
                &[
                    p("Welche Stelle hilft {bei} weiter?", &[]),
                    p("Wo bekomme ich Auskunft über {akk}?", &[]),
                    p("An welche Stelle wende ich mich wegen {gen}?", &[]),
                    p("Wohin muss ich für {akk}?", &[]),
                    p("Wo bin ich mit Fragen {zu} richtig?", &[]),
                ]
            }
        }
        Intent::Deadline => {
            const {
                &[
                    p("Welche Frist gilt {bei}?", TIME),
                    p("Welche Fristen muss ich {bei} beachten?", TIME),
                    p("Gibt es {bei} eine Frist?", TIME),
                    p("Worauf muss ich {bei} zeitlich achten?", &[]),
                ]
            }
        }
        Intent::Fee => {
            const {
                &[
                    p("Welche Gebühr fällt für {akk} an?", COST),
                    p("Mit welchen Kosten ist {bei} zu rechnen?", COST),
                    p("Was kostet {nom}?", COST),
                    p("Wie viel muss ich für {akk} bezahlen?", COST),
                    p(
                        "Ist {nom} kostenlos?",
                        &[
                            "kostenlos",
                            "gebuehrenfrei",
                            "kostenfrei",
                            "kostet",
                            "betraegt die gebuehr",
                        ],
                    ),
                    p("Welche Kosten entstehen {bei}?", COST),
                ]
            }
        }
        Intent::Documents => {
            const {
                &[
                    p("Welche Unterlagen brauche ich für {akk}?", BRING),
                    p("Welche Nachweise werden {bei} verlangt?", BRING),
                    p("Was brauche ich alles für {akk}?", BRING),
                    p("Welche Papiere sind {bei} nötig?", BRING),
                    p("Was muss ich {bei} vorlegen?", BRING),
                ]
            }
        }
        Intent::Online => {
            const {
                &[
                    p("Gibt es für {akk} einen Online-Dienst?", &[]),
                    p("Was geht {bei} online?", &[]),
                    p("Ist {nom} online möglich?", &[]),
                ]
            }
        }
        Intent::Duration => {
            const {
                &[
                    p("Mit welcher Bearbeitungszeit ist {bei} zu rechnen?", WAIT),
                    p("Wie lange muss ich {bei} warten?", WAIT),
                    p("Wie lange dauert {nom}?", &["dauert"]),
                    p("Wie sieht es {bei} mit der Dauer aus?", &[]),
                ]
            }
        }
        Intent::Exceptions => {
            const {
                &[
                    p("Welche Ausnahmen gibt es {bei}?", &[]),
                    p("Welche Besonderheiten gelten {bei}?", &[]),
                    p("Gibt es {bei} Sonderfälle?", &[]),
                    p("Was gilt {bei} in besonderen Fällen?", &[]),
                ]
            }
        }
        Intent::Consequences => {
            const {
                &[
                    p(
                        "Welche Folgen haben Versäumnisse {bei}?",
                        &[
                            "bussgeld",
                            "versaeum",
                            "verspaet",
                            "ordnungswidrig",
                            "saeumnis",
                            "mahn",
                        ],
                    ),
                    p("Welche Folgen sind {bei} möglich?", &[]),
                    p(
                        "Womit muss ich {bei} im schlimmsten Fall rechnen?",
                        &[
                            "bussgeld",
                            "ordnungswidrig",
                            "straf",
                            "zwangs",
                            "verlust",
                            "verfall",
                        ],
                    ),
                ]
            }
        }
    }
}

/// Questions about a service made from patterns.
pub(crate) fn questions(service: &Service, intent: Intent, fact: &Fact) -> Vec<String> {
    about(intent)
        .iter()
        .filter(|pattern| fits(pattern, fact))
        .filter_map(|pattern| fill(pattern.text, service))
        .collect()
}

/// Fills a pattern: `{akk}` and `{nom}` are the topic, `{bei}`, `{zu}`, `{von}` the topic after
/// that preposition, `{gen}` its genitive. `None` for a subject in the plural, whose verb would
/// have to change, and a genitive that cannot be read off.
pub(crate) fn fill(pattern: &str, service: &Service) -> Option<String> {
    let is_plural = service.topic.starts_with("die ") && service.topic_dative.starts_with("den ");
    if pattern.contains("{nom}") && is_plural {
        return None;
    }
    let mut filled = pattern.to_string();
    if pattern.contains("{gen}") {
        // Feminine: the genitive is the dative.
        if is_plural || !service.topic_dative.starts_with("der ") {
            return None;
        }
        filled = filled.replace("{gen}", &service.topic_dative);
    }
    let filled = filled
        .replace("{akk}", service.topic_accusative())
        .replace("{nom}", &service.topic)
        .replace("{bei}", &with_dative("bei", &service.topic_dative))
        .replace("{zu}", &with_dative("zu", &service.topic_dative))
        .replace("{von}", &with_dative("von", &service.topic_dative));
    Some(upper_first(&filled))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::knowledge::small_knowledge;

    #[test]
    fn patterns_are_filled_in_the_right_case() {
        let knowledge = small_knowledge();
        let service = &knowledge.office("einwohnermeldeamt").unwrap().services[0];
        for (intent, fact) in &service.facts {
            for question in questions(service, *intent, fact) {
                assert!(
                    question.ends_with('?')
                        && question.contains("Ummeldung")
                        && !question.contains(['{', '}']),
                    "{question}"
                );
            }
        }
        assert_eq!(fill("{zu}", service).as_deref(), Some("Zur Ummeldung"));
        assert_eq!(
            fill("wegen {gen}", service).as_deref(),
            Some("Wegen der Ummeldung")
        );
    }

    #[test]
    fn a_pattern_fits_only_answers_that_hold_one_of_its_words() {
        let knowledge = small_knowledge();
        let service = &knowledge.office("einwohnermeldeamt").unwrap().services[0];
        let fact = &service.facts[&Intent::Deadline];
        assert!(fits(&p("Bis wann?", &["innerhalb"]), fact));
        assert!(!fits(&p("Was kostet das?", &["kost"]), fact));
    }
}
