//! Official language around the question, and the legal source behind the answer.

use super::{Draft, Task, Technique};
use crate::dataset::catalog::{Detail, SubjectKind};
use crate::dataset::rng::KeyedRng;
use crate::german::Register;
use crate::german::questions::{parts, subordinate};
use crate::knowledge::Fact;
use crate::wording::references::LegalSources;

/// The question in official language; the answer names its legal source. `None` for subjects
/// without one.
pub(crate) fn official(task: &Task, rng: &mut KeyedRng) -> Option<Draft> {
    let SubjectKind::Fact(_, service, _, fact) = task.subject.kind else {
        return None;
    };
    let register = task.register(rng, 40, 0);
    let phrase = register.phrase(&task.phrases.official, rng)?;
    let question = if phrase.contains("{satz}") {
        let parts = parts(task.question);
        let asked = phrase.replace("{satz}", &subordinate(&parts.question)?);
        match parts.situation {
            // "Sehr geehrte Damen und Herren" comes first of all.
            Some(_) if phrase.starts_with("Sehr") => return None,
            Some(situation) => format!("{situation}. {asked}"),
            None => asked,
        }
    } else {
        phrase.replace("{frage}", task.question)
    };
    let question = question.replace("{titel}", &service.title);
    let detail = if rng.percent(70) {
        Detail::Full
    } else {
        Detail::Any
    };
    let body = task.answer(detail, register, rng);
    let answer = format!("{body} {}", source(task, fact, rng)?);
    Some(Draft::new(question, answer, &[Technique::Administrative]).with_register(register))
}

/// A sentence that names the legal sources of a fact; `None` if it rests on anything else.
pub(super) fn source(task: &Task, fact: &Fact, rng: &mut KeyedRng) -> Option<String> {
    let sources = LegalSources::of(fact)?;
    let phrases = if sources.are_sections && rng.percent(60) {
        &task.phrases.source_section
    } else {
        &task.phrases.source
    };
    let phrase = Register::Neutral.phrase(phrases, rng)?;
    Some(sources.cited(phrase))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{all, drafts};
    use super::*;
    use crate::dataset::techniques::Template;

    #[test]
    fn the_answer_names_its_source() {
        let made = drafts(Template::Administrative, all(), 30, |task, draft| {
            let SubjectKind::Fact(_, _, _, fact) = task.subject.kind else {
                panic!("only facts have a source")
            };
            let answer = &draft.pairs[0].1;
            for source in &fact.sources {
                assert!(answer.contains(source.as_str()), "{answer}");
            }
        });
        assert!(made > 100, "{made}");
    }
}
