//! Time: questions for the state of things today are answered with the date of the facts; plans
//! ("Morgen habe ich frei, ...") stand before questions of those who want to get something done.

use super::{Draft, Task, Technique};
use crate::dataset::catalog::{Detail, SubjectKind};
use crate::dataset::rng::KeyedRng;
use crate::german::Register;
use crate::knowledge::Intent;
use crate::wording::references::{as_of, month_of};

/// The question with a time, and the answer with the date of its facts where that was asked. `None`
/// for requests that belong elsewhere and where the plan would be out of place.
pub(crate) fn dated(task: &Task, rng: &mut KeyedRng) -> Option<Draft> {
    let service = task.subject.service()?;
    let register = task.register(rng, 25, 18);
    if rng.percent(45) {
        if task.subject.is_grave() || !can_be_planned(task) {
            return None;
        }
        let question = register
            .phrase(&task.phrases.plan, rng)?
            .replace("{frage}", task.question);
        let body = task.answer(Detail::Any, register, rng);
        let answer = task.reply(body, register, false, rng);
        return Some(Draft::new(question, answer, &[Technique::Temporal]).with_register(register));
    }
    let question = register
        .phrase(&task.phrases.current, rng)?
        .replace("{frage}", task.question);
    let phrase = Register::Neutral.phrase(&task.phrases.as_of, rng)?;
    let as_of = as_of(phrase, &month_of(service)?);
    let body = task.answer(Detail::Full, register, rng);
    let answer = format!("{body} {as_of}");
    Some(Draft::new(question, answer, &[Technique::Temporal]).with_register(register))
}

// Questions for when, where, with what and at what price may come with a plan.
fn can_be_planned(task: &Task) -> bool {
    match task.subject.kind {
        SubjectKind::Fact(_, _, intent, _) => matches!(
            intent,
            Intent::Where | Intent::Fee | Intent::Documents | Intent::Online | Intent::Duration
        ),
        SubjectKind::Responsibility(..) => true,
        SubjectKind::Foreign(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{all, drafts};
    use super::*;
    use crate::dataset::techniques::Template;

    #[test]
    fn who_asks_for_today_hears_from_when_the_answer_is() {
        let (mut current, mut plans) = (0, 0);
        drafts(Template::Temporal, all(), 40, |task, draft| {
            let (question, answer) = &draft.pairs[0];
            assert!(question.contains(task.question), "{question}");
            if answer.contains("Juli 2026") {
                current += 1;
            } else {
                plans += 1;
                assert!(can_be_planned(task));
            }
        });
        assert!(current > 50 && plans > 20, "{current} {plans}");
    }
}
