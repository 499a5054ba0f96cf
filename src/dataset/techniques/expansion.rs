//! Question phrasings times answer forms: the hand-written questions, patterns filled with a
//! service's topic or its aliases, questions that ask for a short answer, and two questions at
//! once.

use super::{Draft, Task, Technique, multi_turn};
use crate::dataset::catalog::{Detail, Subject, SubjectKind};
use crate::dataset::rng::KeyedRng;
use crate::german::Register;
use crate::german::grammar::{lower_first, upper_first};
use crate::knowledge::Intent;

/// The question as it stands with the full answer as it stands. Without the technique these are
/// what is left of it: the hand-written questions, each with its answer.
pub(crate) fn plain(task: &Task) -> Draft {
    let mut draft = Draft::new(
        task.question.to_string(),
        task.subject.full().to_string(),
        &[],
    );
    if task.enabled.contains(Technique::Expansion) {
        draft.techniques.insert(Technique::Expansion);
    }
    draft
}

/// The question in a frame that asks for brevity; `None` for subjects that have one answer only.
pub(crate) fn brief(task: &Task, rng: &mut KeyedRng) -> Option<Draft> {
    if matches!(task.subject.kind, SubjectKind::Foreign(_)) {
        return None;
    }
    let register = task.register(rng, 22, 16);
    let question = register
        .phrase(&task.phrases.brief, rng)?
        .replace("{frage}", task.question);
    let answer = task.answer(Detail::Brief, register, rng);
    // The question is about something that only the full answer says.
    if answer.len() > 160 && answer == task.subject.full() {
        return None;
    }
    Some(Draft::new(question, answer, &[Technique::Expansion]).with_register(register))
}

/// An alias of the service, then a question that names nothing: `Stichwort „Perso“: Was kostet
/// das?`
pub(crate) fn topic(task: &Task, rng: &mut KeyedRng) -> Option<Draft> {
    let service = task.subject.service()?;
    if task.held_out {
        return None;
    }
    let alias = rng.choose(&service.aliases)?;
    let register = task.register(rng, 18, 14);
    let lead = register
        .phrase(&task.phrases.topic, rng)?
        .replace("{stichwort}", alias);
    let asked = match task.subject.kind {
        SubjectKind::Fact(..) => multi_turn::follow_up(task.subject, false, rng)?,
        SubjectKind::Responsibility(..) => rng
            .choose(&[
                "Welches Amt ist dafür zuständig?",
                "Wer ist dafür zuständig?",
                "An wen wende ich mich?",
                "Welches Amt macht das?",
            ])?
            .to_string(),
        SubjectKind::Foreign(_) => return None,
    };
    let mut question = format!("{} {asked}", upper_first(&lead));
    let mut techniques = vec![Technique::Expansion];
    let (mut greeted, mut closed) = (false, false);
    if task.enabled.contains(Technique::Conversation) {
        greeted = rng.percent(25);
        let before = question.len();
        question = super::conversation::greet(task, question, register, greeted, rng)?;
        let bare = question.len();
        question = super::conversation::thank(task, question, register, 18, rng);
        closed = question.len() > bare;
        if before < question.len() {
            techniques.push(Technique::Conversation);
        }
    }
    // A neutral lead-in with a thank-you to nobody stays neutral.
    let detail = if rng.percent(55) {
        Detail::Full
    } else {
        Detail::Any
    };
    let body = task.subject.answer(detail, register, None, rng);
    let answer = task.reply(body, register, greeted && !closed, rng);
    Some(Draft::new(question, answer, &techniques).with_register(register))
}

/// Two questions about one service at once, answered one after the other.
pub(crate) fn combined(task: &Task, rng: &mut KeyedRng) -> Option<Draft> {
    let service = task.subject.service()?;
    let others: Vec<&Subject> = task
        .catalog
        .facts_of(service)
        .filter(|other| {
            other.intent() != task.subject.intent() && other.intent() != Intent::What.key()
        })
        .collect();
    let other = rng.choose(&others)?;
    let second = multi_turn::follow_up(other, false, rng)?;
    let joined = match rng.below(3) {
        0 => format!("{} Und {}", task.question, lower_first(&second)?),
        1 => format!("{} Außerdem: {second}", task.question),
        _ => format!("{} {second}", task.question),
    };
    let register = task.register(rng, 25, 18);
    let mut question = joined.clone();
    let mut techniques = vec![Technique::Expansion];
    if task.enabled.contains(Technique::Conversation) {
        let greeted = rng.percent(40);
        question = super::conversation::greet(task, question, register, greeted, rng)?;
        question = super::conversation::thank(task, question, register, 20, rng);
        if question != joined {
            techniques.push(Technique::Conversation);
        }
    }
    let register = if question == joined {
        Register::Neutral
    } else {
        register
    };
    let first = task.answer(
        if rng.percent(60) {
            Detail::Full
        } else {
            Detail::Short
        },
        register,
        rng,
    );
    let body = format!(
        "{first} {}",
        other.answer(Detail::Short, Register::Neutral, None, rng)
    );
    Some(Draft::new(question, body, &techniques).with_register(register))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{all, drafts};
    use super::*;
    use crate::dataset::techniques::Template;
    use crate::german::fold;
    use std::collections::BTreeSet;

    #[test]
    fn a_brief_question_gets_a_short_answer() {
        let made = drafts(Template::Brief, all(), 10, |task, draft| {
            assert!(draft.pairs[0].1.len() <= task.subject.full().len() + 60);
            assert!(!matches!(task.subject.kind, SubjectKind::Foreign(_)));
        });
        assert!(made > 50);
    }

    #[test]
    fn a_topic_question_names_an_alias() {
        let mut questions = BTreeSet::new();
        drafts(Template::Topic, all(), 40, |task, draft| {
            let question = &draft.pairs[0].0;
            let service = task.subject.service().unwrap();
            assert!(
                service
                    .aliases
                    .iter()
                    .any(|alias| fold(question).contains(&fold(alias))),
                "{question}"
            );
            questions.insert(question.clone());
        });
        assert!(questions.len() > 300, "{}", questions.len());
    }

    #[test]
    fn a_combined_answer_holds_both_facts() {
        let made = drafts(Template::Combined, all(), 20, |task, draft| {
            let (question, answer) = &draft.pairs[0];
            assert!(question.matches('?').count() >= 2, "{question}");
            let service = task.subject.service().unwrap();
            let named = task
                .catalog
                .facts_of(service)
                .filter(|other| {
                    other
                        .variants()
                        .iter()
                        .any(|body| answer.contains(body.as_str()))
                })
                .count();
            assert!(named >= 1, "{answer}");
        });
        assert!(made > 50);
    }
}
