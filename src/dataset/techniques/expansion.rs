//! Question phrasings times answer forms: the hand-written questions, patterns filled with a service's topic, and questions
//! that ask for a short answer.

use super::{Draft, Register, Technique, TechniqueSet};
use crate::dataset::catalog::{AnswerForm, Matter, Subject};
use crate::dataset::draw::Draw;
use crate::dataset::german::{lower_first, upper_first, with_dative};
use crate::knowledge::{Intent, Service};

/// Frames that ask for brevity; `{q}` is the question, `{q_klein}` the same after a colon or comma.
const BRIEF_FRAMES: [&str; 6] = [
    "Kurz gefragt: {q}",
    "{q} Eine kurze Antwort genügt.",
    "Kurze Frage: {q}",
    "{q} Bitte nur ganz kurz.",
    "In einem Satz: {q}",
    "Ganz kurz nur, {q_klein}",
];

/// Questions about a service made from patterns. They name the topic as an object only, so that its number does not matter.
pub fn questions(service: &Service, intent: Intent) -> Vec<String> {
    let patterns: &[&str] = match intent {
        Intent::What => &["Worum geht es {bei}?", "Was sollte ich über {akk} wissen?"],
        Intent::Who => &[],
        Intent::Where => &[
            "Welche Stelle hilft {bei} weiter?",
            "Wo kann ich mich um {akk} kümmern?",
        ],
        Intent::Deadline => &[
            "Welche Frist gilt {bei}?",
            "Welche Fristen muss ich {bei} beachten?",
        ],
        Intent::Fee => &[
            "Welche Gebühr fällt für {akk} an?",
            "Mit welchen Kosten ist {bei} zu rechnen?",
        ],
        Intent::Documents => &[
            "Welche Unterlagen brauche ich für {akk}?",
            "Welche Nachweise werden {bei} verlangt?",
        ],
        Intent::Online => &[
            "Gibt es für {akk} einen Online-Dienst?",
            "Was geht {bei} online?",
        ],
        Intent::Duration => &[
            "Mit welcher Bearbeitungszeit ist {bei} zu rechnen?",
            "Wie lange muss ich {bei} warten?",
        ],
        Intent::Exceptions => &[
            "Welche Ausnahmen gibt es {bei}?",
            "Welche Besonderheiten gelten {bei}?",
        ],
        Intent::Consequences => &["Welche Folgen haben Versäumnisse {bei}?"],
    };
    patterns
        .iter()
        .map(|pattern| fill(pattern, service))
        .collect()
}

/// Fills a pattern: `{akk}` and `{dat}` are the topic, `{bei}` and `{zu}` the topic after that preposition.
pub fn fill(pattern: &str, service: &Service) -> String {
    let filled = pattern
        .replace("{akk}", service.topic_accusative())
        .replace("{dat}", &service.topic_dative)
        .replace("{bei}", &with_dative("bei", &service.topic_dative))
        .replace("{zu}", &with_dative("zu", &service.topic_dative));
    upper_first(&filled)
}

/// The question as it stands with the answer in the given form.
pub fn plain(subject: &Subject, question: &str, form: AnswerForm) -> Draft {
    let mut techniques = TechniqueSet::default();
    techniques.insert(Technique::Expansion);
    Draft {
        pairs: vec![(question.to_string(), subject.answer(form))],
        register: Register::Neutral,
        techniques,
    }
}

/// The question in a frame that asks for brevity; `None` for subjects that have one answer only.
pub fn brief(subject: &Subject, question: &str, draw: &mut Draw) -> Option<Draft> {
    if matches!(subject.matter, Matter::Foreign(_)) {
        return None;
    }
    let mut draft = plain(subject, question, AnswerForm::Short);
    draft.pairs[0].0 = frame(draw.choose(&BRIEF_FRAMES)?, question)?;
    Some(draft)
}

/// Puts a question into a frame; `None` if the frame needs a small first letter and the question starts with a noun.
pub fn frame(frame: &str, question: &str) -> Option<String> {
    if frame.contains("{q_klein}") {
        return Some(frame.replace("{q_klein}", &lower_first(question)?));
    }
    Some(frame.replace("{q}", question))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::catalog::{Catalog, small_knowledge};
    use crate::dataset::draw::Purpose;

    #[test]
    fn patterns_are_filled_in_the_right_case() {
        let knowledge = small_knowledge();
        let service = &knowledge.office("einwohnermeldeamt").unwrap().services[0];
        for intent in Intent::ALL {
            for question in questions(service, intent) {
                assert!(
                    question.ends_with('?')
                        && question.contains("Ummeldung")
                        && !question.contains(['{', '}']),
                    "{question}"
                );
            }
        }
        assert_eq!(fill("{zu}", service), "Zur Ummeldung");
    }

    #[test]
    fn asking_for_brevity_gives_the_short_answer() {
        let knowledge = small_knowledge();
        let catalog = Catalog::new(&knowledge, 1);
        let subject = catalog
            .subjects
            .iter()
            .find(|subject| subject.intent() == "frist")
            .unwrap();
        let draft = brief(
            subject,
            "Wie lange?",
            &mut Draw::new(1, Purpose::Example, 0, 0),
        )
        .unwrap();
        assert_eq!(draft.pairs[0].1, subject.answer(AnswerForm::Short));
        assert!(
            draft.pairs[0].0.to_lowercase().contains("wie lange?") && draft.pairs[0].0.len() > 12
        );
        assert!(
            brief(
                catalog.subjects.last().unwrap(),
                "Wo?",
                &mut Draw::new(1, Purpose::Example, 0, 0)
            )
            .is_none()
        );
    }
}
