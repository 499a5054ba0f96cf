//! Scraps of questions, as typed into a search box: key words without a sentence, lower case, spelled-out umlauts, no
//! question mark. They get the short answer.

use super::{Draft, Technique};
use crate::dataset::catalog::{AnswerForm, Matter, Subject};
use crate::dataset::draw::Draw;
use crate::dataset::german::spell_out_umlauts;
use crate::dataset::techniques::expansion::plain;
use crate::knowledge::{Intent, Service};

/// Patterns for the question of which office is responsible.
const RESPONSIBILITY: [&str; 4] = [
    "{s} welches Amt?",
    "{s} zuständig?",
    "Amt für {s}?",
    "{s} wer macht das?",
];

fn patterns(intent: Intent) -> &'static [&'static str] {
    match intent {
        Intent::What => &["{s}?", "Was ist {s}?", "{s} Info", "{s} Erklärung"],
        Intent::Who => &["{s} für wen?", "{s} wer?", "Wer {s}?"],
        Intent::Where => &["{s} wo?", "Wo {s}?", "{s} wohin?", "{s} Adresse"],
        Intent::Deadline => &[
            "{s} Frist?",
            "Frist {s}",
            "Bis wann {s}?",
            "{s} wie lange Zeit?",
        ],
        Intent::Fee => &[
            "{s} Kosten?",
            "Was kostet {s}?",
            "Gebühr {s}",
            "{s} wie teuer?",
        ],
        Intent::Documents => &[
            "{s} Unterlagen?",
            "Welche Unterlagen {s}?",
            "{s} was mitbringen?",
            "Papiere für {s}",
        ],
        Intent::Online => &["{s} online?", "{s} im Internet möglich?", "Online {s}"],
        Intent::Duration => &[
            "{s} Dauer?",
            "Wie lange dauert {s}?",
            "{s} Bearbeitungszeit",
        ],
        Intent::Exceptions => &["{s} Ausnahmen?", "{s} Sonderfälle", "Ausnahme {s}"],
        Intent::Consequences => &["{s} Folgen?", "{s} versäumt, was nun?", "{s} vergessen"],
    }
}

/// A scrap about the subject: made of key words, or the question itself written carelessly. A held-out question is only
/// written carelessly, since key words have no phrasing of their own to hold out.
pub fn scrap(subject: &Subject, question: &str, held_out: bool, draw: &mut Draw) -> Draft {
    let from_key_words = if held_out || draw.percent(30) {
        None
    } else {
        key_words(subject, draw)
    };
    let scrap = match from_key_words {
        Some(scrap) if draw.percent(35) => scrap,
        Some(scrap) => careless(&scrap, draw),
        None => careless(question, draw),
    };
    let mut draft = plain(subject, &scrap, AnswerForm::Short);
    draft.techniques.insert(Technique::Incomplete);
    draft
}

fn key_words(subject: &Subject, draw: &mut Draw) -> Option<String> {
    let (service, patterns): (&Service, &[&str]) = match subject.matter {
        Matter::Fact(_, service, intent, _) => (service, patterns(intent)),
        Matter::Responsibility(_, service) => (service, &RESPONSIBILITY),
        Matter::Foreign(_) => return None,
    };
    let alias = draw.choose(&service.aliases)?;
    Some(draw.choose(patterns)?.replace("{s}", alias))
}

// Lower case, spelled-out umlauts, missing question mark: one of them at least.
fn careless(question: &str, draw: &mut Draw) -> String {
    let lower = draw.percent(75);
    let spelled = draw.percent(35);
    let unmarked = draw.percent(60) || !(lower || spelled);
    let mut written = if lower {
        question.to_lowercase()
    } else {
        question.to_string()
    };
    if spelled {
        written = spell_out_umlauts(&written);
    }
    if unmarked {
        written = written.trim_end_matches('?').to_string();
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::catalog::{Catalog, small_knowledge};
    use crate::dataset::draw::Purpose;
    use crate::knowledge::fold;
    use std::collections::HashSet;

    #[test]
    fn scraps_name_the_service_or_repeat_the_question() {
        let knowledge = small_knowledge();
        let catalog = Catalog::new(&knowledge, 1);
        for subject in &catalog.subjects {
            let question = &subject.train[0].text;
            let mut seen = HashSet::new();
            for index in 0..60 {
                let draft = scrap(
                    subject,
                    question,
                    false,
                    &mut Draw::new(5, Purpose::Example, index, 0),
                );
                let (asked, answer) = &draft.pairs[0];
                assert_ne!(asked, question);
                assert_eq!(*answer, subject.answer(AnswerForm::Short));
                let names_service = subject.service().is_some_and(|service| {
                    service
                        .aliases
                        .iter()
                        .any(|alias| fold(asked).contains(&fold(alias)))
                });
                assert!(names_service || fold(asked) == fold(question), "{asked}");
                seen.insert(asked.clone());
            }
            assert!(seen.len() >= 3, "{seen:?}");
        }
    }

    #[test]
    fn a_held_out_question_keeps_its_words() {
        let knowledge = small_knowledge();
        let catalog = Catalog::new(&knowledge, 1);
        for index in 0..60 {
            let draft = scrap(
                &catalog.subjects[0],
                "Wofür ist das nötig?",
                true,
                &mut Draw::new(5, Purpose::Example, index, 0),
            );
            assert_eq!(fold(&draft.pairs[0].0), "wofuer ist das noetig");
        }
    }
}
