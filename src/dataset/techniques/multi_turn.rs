//! A second question that refers back to the first ("Und was kostet das?") and is answered shortly.

use super::{Draft, Technique};
use crate::dataset::catalog::{AnswerForm, Catalog, Matter, Subject};
use crate::dataset::draw::Draw;
use crate::knowledge::Intent;

fn follow_ups(intent: Intent) -> &'static [&'static str] {
    match intent {
        Intent::What => &["Worum geht es dabei genau?", "Und was genau ist das?"],
        Intent::Who => &["Und wen betrifft das?", "Für wen gilt das?"],
        Intent::Where => &[
            "Wo kann ich das erledigen?",
            "Und wohin muss ich dafür?",
            "Welche Stelle ist dafür zuständig?",
        ],
        Intent::Deadline => &[
            "Und welche Frist gilt dabei?",
            "Bis wann muss das geschehen?",
            "Muss ich dabei eine Frist beachten?",
        ],
        Intent::Fee => &[
            "Und was kostet das?",
            "Fallen dafür Gebühren an?",
            "Wie hoch sind die Kosten dafür?",
        ],
        Intent::Documents => &[
            "Welche Unterlagen brauche ich dafür?",
            "Was muss ich dafür mitbringen?",
            "Und welche Nachweise sind nötig?",
        ],
        Intent::Online => &[
            "Geht das auch online?",
            "Kann ich das auch im Internet erledigen?",
            "Und geht das von zu Hause aus?",
        ],
        Intent::Duration => &[
            "Und wie lange dauert das?",
            "Wie lange muss ich darauf warten?",
        ],
        Intent::Exceptions => &[
            "Gibt es dabei Ausnahmen?",
            "Und welche Besonderheiten gibt es dabei?",
        ],
        Intent::Consequences => &[
            "Welche Folgen kann das sonst haben?",
            "Und wenn ich das versäume?",
        ],
    }
}

/// Adds a follow-up about another fact of the same service. `None` if the subject has no such fact.
pub fn follow_up(
    draft: &mut Draft,
    catalog: &Catalog,
    subject: &Subject,
    draw: &mut Draw,
) -> Option<()> {
    let service = subject.service()?;
    let others: Vec<(&Subject, Intent)> = catalog.turns[subject.office]
        .iter()
        .map(|&index| &catalog.subjects[index])
        .filter_map(|other| match other.matter {
            Matter::Fact(_, of, intent, _)
                if of.id.as_str() == service.id.as_str() && other.intent() != subject.intent() =>
            {
                Some((other, intent))
            }
            _ => None,
        })
        .collect();
    let (other, intent) = draw.choose(&others)?;
    let question = draw.choose(follow_ups(*intent))?;
    draft
        .pairs
        .push(((*question).to_string(), other.answer(AnswerForm::Short)));
    draft.techniques.insert(Technique::MultiTurn);
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::catalog::small_knowledge;
    use crate::dataset::draw::Purpose;
    use crate::dataset::techniques::expansion::plain;

    #[test]
    fn the_follow_up_is_about_another_fact_of_the_same_service() {
        let knowledge = small_knowledge();
        let catalog = Catalog::new(&knowledge, 1);
        for (index, subject) in catalog.subjects.iter().enumerate() {
            let mut draft = plain(subject, "Wie?", AnswerForm::Full);
            let added = follow_up(
                &mut draft,
                &catalog,
                subject,
                &mut Draw::new(2, Purpose::Example, index as u64, 0),
            );
            let Some(service) = subject.service() else {
                assert!(added.is_none());
                continue;
            };
            let (question, answer) = &draft.pairs[1];
            let (intent, _) = service
                .facts
                .iter()
                .find(|(intent, _)| {
                    catalog.subjects.iter().any(|other| {
                        other.service_id() == service.id.as_str()
                            && other.intent() == intent.key()
                            && other.answer(AnswerForm::Short) == *answer
                    })
                })
                .expect("the answer is one of the service's");
            assert_ne!(intent.key(), subject.intent());
            assert!(follow_ups(*intent).contains(&question.as_str()));
        }
    }
}
