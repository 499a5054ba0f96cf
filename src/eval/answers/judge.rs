//! What is right and wrong about one answer.

use super::figures::{Figure, figures, not_allowed};
use super::matching::{contains, fill_known, placeholders};
use super::repetition::{repeated_share, repeats, word_count};
use super::subject::{Subject, Subjects};
use crate::eval::questions::{Expected, Question, REFUSALS};
use crate::german::{Dictionary, Register, ends_sentence, month_name, spelled_words};
use crate::knowledge::{CITY_NAME, CONTACT_VALUES, Knowledge, Service};
use anyhow::{Context, Result};
use serde::Serialize;
use std::collections::BTreeSet;

/// One answer, judged.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Score {
    /// What it speaks of: a service's id, `ausserhalb`, or nothing known.
    pub subject: Option<String>,
    /// Whether it speaks of the right service; `None` for questions to refuse.
    pub right_service: Option<bool>,
    /// Whether it turns the request down.
    pub refused: bool,
    /// What was expected and is missing, as the file has it.
    pub missing: Vec<String>,
    /// Figures that are no fact of the service, nor said by the citizen.
    pub wrong_figures: Vec<String>,
    /// How it addresses the citizen.
    pub form: Register,
    /// Whether that suits the question.
    pub form_suits: bool,
    /// Whether it ends like a sentence.
    pub sentence_end: bool,
    /// Whether it goes round in circles.
    pub repeats: bool,
    /// Share of its runs of four words that came before.
    pub repeated_share: f64,
    /// Placeholders that a citizen would see.
    pub placeholders_left: usize,
    /// Number of words.
    pub words: usize,
    /// Words that have a spelling.
    pub spelled_words: usize,
    /// Those that the dictionary does not know; empty without dictionary.
    pub unknown_words: Vec<String>,
}

/// Judges answers by the knowledge base.
pub struct Judge<'a> {
    knowledge: &'a Knowledge,
    dictionary: Option<&'a Dictionary>,
    subjects: Subjects,
    elsewhere: BTreeSet<Figure>,
}

impl<'a> Judge<'a> {
    /// Words are looked up if there is a dictionary.
    pub fn new(knowledge: &'a Knowledge, dictionary: Option<&'a Dictionary>) -> Self {
        let mut elsewhere = BTreeSet::new();
        for request in &knowledge.out_of_remit.requests {
            elsewhere.extend(figures(&request.answer));
        }
        let mut judge = Self {
            knowledge,
            dictionary,
            subjects: Subjects::new(knowledge),
            elsewhere: BTreeSet::new(),
        };
        elsewhere.extend(judge.contact(None));
        judge.elsewhere = elsewhere;
        judge
    }

    /// Whether words can be looked up.
    pub(crate) fn has_dictionary(&self) -> bool {
        self.dictionary.is_some()
    }

    /// Judges one answer, with its placeholders filled or not. `refused` says that whoever made it
    /// turned the request down; else that is read off its words.
    ///
    /// # Errors
    /// If the question's service is not in the knowledge base.
    pub fn score(&self, question: &Question, answer: &str, refused: bool) -> Result<Score> {
        let subject = self.subjects.subject(answer);
        let refused = refused || subject == Some(&Subject::Elsewhere);
        let (office, allowed) = match &question.expected {
            Expected::Service { office, service } => {
                let found = self.service(office, service).with_context(|| {
                    format!(
                        "line {}: there is no service \"{service}\" of {office}",
                        question.line
                    )
                })?;
                (Some(office.as_str()), self.allowed(office, found))
            }
            Expected::Refusal => (None, self.elsewhere.clone()),
        };
        let mut allowed = allowed;
        // What the citizen said may be said back; people give their age without its unit.
        for figure in figures(&question.question) {
            if figure.unit.is_empty() {
                let unit = "jahr";
                allowed.insert(Figure {
                    unit,
                    ..figure.clone()
                });
            }
            allowed.insert(figure);
        }
        let filled = fill_known(&self.knowledge.municipality, office, answer);
        let holds = |alternative: &String| {
            let wanted = fill_known(&self.knowledge.municipality, office, alternative);
            contains(&filled, &wanted)
        };
        let missing = question
            .expect
            .iter()
            .filter(|alternatives| !alternatives.iter().any(holds))
            .map(|alternatives| alternatives.join("|"))
            .collect();
        let wrong_figures = not_allowed(&figures(answer), &allowed)
            .iter()
            .map(Figure::to_string)
            .collect();
        let spelled: Vec<&str> = spelled_words(&filled).collect();
        let unknown_words = match self.dictionary {
            Some(dictionary) => spelled
                .iter()
                .filter(|word| !dictionary.knows(word))
                .map(|word| word.to_string())
                .collect(),
            None => Vec::new(),
        };
        let form_of_answer = Register::of(answer);
        Ok(Score {
            right_service: question.service().map(|service| {
                matches!(subject, Some(Subject::Service(found)) if found == service) && !refused
            }),
            subject: subject.map(|subject| match subject {
                Subject::Service(service) => service.clone(),
                Subject::Elsewhere => REFUSALS.to_string(),
            }),
            refused,
            missing,
            wrong_figures,
            form: form_of_answer,
            form_suits: Register::of(&question.question).suits(form_of_answer),
            sentence_end: ends_sentence(answer),
            repeats: repeats(answer),
            repeated_share: repeated_share(answer),
            placeholders_left: placeholders(answer).len(),
            words: word_count(answer),
            spelled_words: spelled.len(),
            unknown_words,
        })
    }

    fn service(&self, office: &str, service: &str) -> Option<&Service> {
        let services = &self.knowledge.office(office)?.services;
        services.iter().find(|found| found.id.as_str() == service)
    }

    /// Every figure that an answer about the service may hold: in its facts, with placeholders and
    /// with the city's values, its legal sources, the day they were checked, and how to reach the
    /// office.
    fn allowed(&self, office: &str, service: &Service) -> BTreeSet<Figure> {
        let mut allowed = self.contact(Some(office));
        let city = &self.knowledge.municipality;
        let mut add = |text: &str| {
            allowed.extend(figures(text));
            allowed.extend(figures(&fill_known(city, Some(office), text)));
        };
        add(&service.title);
        for fact in service.facts.values() {
            let texts = [&fact.text, &fact.short].into_iter();
            for text in texts.chain(&fact.documents).chain(&fact.sources) {
                add(text);
            }
        }
        if let Some(day) = &service.checked_on {
            add(day);
            add(&in_words(day));
        }
        allowed
    }

    fn contact(&self, office: Option<&str>) -> BTreeSet<Figure> {
        let mut allowed = BTreeSet::new();
        for name in [CITY_NAME].into_iter().chain(CONTACT_VALUES) {
            allowed.extend(figures(&format!("{{{name}}}")));
            if let Some(value) = self.knowledge.municipality.value(name, office) {
                allowed.extend(figures(value));
            }
        }
        allowed
    }
}

/// `2026-07-01` as it is written: 1. Juli 2026, and 01.07.2026.
fn in_words(day: &str) -> String {
    let parts: Vec<&str> = day.split('-').collect();
    let [year, month, day] = parts[..] else {
        return String::new();
    };
    format!(
        "{}. {} {year} {day}.{month}.{year}",
        day.trim_start_matches('0'),
        month_name(month).unwrap_or_default()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn knowledge() -> Knowledge {
        Knowledge::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("knowledge")).unwrap()
    }

    fn question(text: &str, office: &str, service: &str, expect: &[&[&str]]) -> Question {
        Question {
            line: 1,
            question: text.to_string(),
            expected: match service {
                "" => Expected::Refusal,
                _ => Expected::Service {
                    office: office.to_string(),
                    service: service.to_string(),
                },
            },
            kind: None,
            expect: expect
                .iter()
                .map(|parts| parts.iter().map(|part| part.to_string()).collect())
                .collect(),
        }
    }

    #[test]
    fn a_right_answer_has_nothing_against_it() {
        let knowledge = knowledge();
        let judge = Judge::new(&knowledge, None);
        let asked = question(
            "Ich bin 35, was kostet ein neuer Perso?",
            "einwohnermeldeamt",
            "ewo_personalausweis",
            &[&["46 Euro"]],
        );
        let answer = "Der Personalausweis kostet 46 Euro, für Personen unter 24 Jahren 27,60 Euro. \
            Mit 35 Jahren sind es 46 Euro.";
        let score = judge.score(&asked, answer, false).unwrap();
        assert_eq!(score.subject.as_deref(), Some("ewo_personalausweis"));
        assert_eq!(score.right_service, Some(true));
        assert!(score.missing.is_empty() && !score.refused);
        // 35 is the citizen's own number.
        assert!(score.wrong_figures.is_empty(), "{score:?}");
        assert!(score.form_suits && score.sentence_end && !score.repeats);
        assert_eq!(
            (score.form, score.placeholders_left),
            (Register::Neutral, 0)
        );
        assert_eq!(score.words, 19);
    }

    #[test]
    fn a_wrong_figure_a_missing_fact_and_a_wrong_form_are_found() {
        let knowledge = knowledge();
        let judge = Judge::new(&knowledge, None);
        let asked = question(
            "Können Sie mir sagen, was ein Personalausweis kostet?",
            "einwohnermeldeamt",
            "ewo_personalausweis",
            &[&["46 Euro"], &["Einwohnermeldeamt"]],
        );
        let answer = "Dein Personalausweis kostet 37 Euro, unter {telefon} oder {gebuehr_wbs}";
        let score = judge.score(&asked, answer, false).unwrap();
        assert_eq!(score.missing, ["46 Euro", "Einwohnermeldeamt"]);
        assert_eq!(score.wrong_figures, ["37 euro", "{gebuehr_wbs}"]);
        assert_eq!((score.form, score.form_suits), (Register::Du, false));
        assert!(!score.sentence_end);
        assert_eq!(score.placeholders_left, 2);
    }

    #[test]
    fn placeholders_count_as_the_citys_value() {
        let knowledge = knowledge();
        let judge = Judge::new(&knowledge, None);
        let asked = question(
            "Was kostet die Beglaubigung?",
            "allgemeine_verwaltung",
            "alg_beglaubigung",
            &[&["{gebuehr_beglaubigung}"]],
        );
        for answer in [
            "Die Beglaubigung kostet {gebuehr_beglaubigung}.",
            "Die Beglaubigung kostet 3 Euro je Seite.",
        ] {
            let score = judge.score(&asked, answer, false).unwrap();
            assert!(score.missing.is_empty(), "{answer}");
            assert!(score.wrong_figures.is_empty(), "{answer} {score:?}");
        }
        let score = judge
            .score(&asked, "Die Beglaubigung kostet 4 Euro je Seite.", false)
            .unwrap();
        assert_eq!(score.wrong_figures, ["4 euro"]);
        assert_eq!(score.missing, ["{gebuehr_beglaubigung}"]);
    }

    #[test]
    fn refusals_are_told_from_answers() {
        let knowledge = knowledge();
        let judge = Judge::new(&knowledge, None);
        let refusal = &knowledge.out_of_remit.requests[0];
        let asked = question("Wohin mit der Steuererklärung?", "", "", &[&["Finanzamt"]]);
        let score = judge.score(&asked, &refusal.answer, false).unwrap();
        assert!(score.refused && score.missing.is_empty() && score.wrong_figures.is_empty());
        assert_eq!(
            (score.subject.as_deref(), score.right_service),
            (Some(REFUSALS), None)
        );
        let answer = "Der Personalausweis kostet 46 Euro.";
        let score = judge.score(&asked, answer, false).unwrap();
        assert!(!score.refused);
        assert_eq!(score.wrong_figures, ["46 euro"]);
        assert_eq!(score.missing, ["Finanzamt"]);
        // The guard said so itself.
        assert!(
            judge
                .score(&asked, "Das ist nichts für uns.", true)
                .unwrap()
                .refused
        );
        // Where an office had to answer, a refusal is not about its service.
        let asked = question(
            "Was?",
            "einwohnermeldeamt",
            "ewo_personalausweis",
            &[&["46 Euro"]],
        );
        let score = judge.score(&asked, answer, true).unwrap();
        assert_eq!((score.refused, score.right_service), (true, Some(false)));
        let gone = question("Was?", "einwohnermeldeamt", "ewo_gone", &[&["x"]]);
        assert!(judge.score(&gone, answer, false).is_err());
    }

    #[test]
    fn the_day_of_checking_may_be_named() {
        assert_eq!(in_words("2026-07-01"), "1. Juli 2026 01.07.2026");
        assert_eq!(in_words("heute"), "");
    }
}
