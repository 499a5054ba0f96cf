//! Further questions that refer back to the first ("Und was kostet das?"), thanks at the end.

use super::{Draft, Task, Technique, administrative};
use crate::dataset::catalog::{Detail, Subject, SubjectKind};
use crate::dataset::rng::KeyedRng;
use crate::german::Register;
use crate::wording::patterns::{Pattern, fits};
use crate::wording::referring::referring;

/// Words before a follow-up. The question behind them begins with a small letter only after "Und".
const JOINTS: [&str; 7] = [
    "Und",
    "Und",
    "Und",
    "Noch eine Frage:",
    "Danke.",
    "Verstehe.",
    "Gut zu wissen.",
];

/// A question that refers back, with or without a word before it.
pub(super) fn follow_up(subject: &Subject, joint: bool, rng: &mut KeyedRng) -> Option<String> {
    let SubjectKind::Fact(_, _, intent, fact) = subject.kind else {
        return None;
    };
    let patterns: Vec<&Pattern> = referring(intent)
        .iter()
        .filter(|pattern| fits(pattern, fact))
        .collect();
    let question = rng.choose(&patterns)?.text;
    if !joint {
        return Some(question.to_string());
    }
    let word = rng.choose(&JOINTS)?;
    if *word != "Und" {
        return Some(format!("{word} {question}"));
    }
    let mut letters = question.chars();
    let first = letters.next()?;
    Some(format!("Und {}{}", first.to_lowercase(), letters.as_str()))
}

/// Question and answer, then one to three further ones about other facts of the same service, at
/// times with thanks at the end. `None` if the subject has no such fact.
pub(crate) fn dialogue(task: &Task, rng: &mut KeyedRng) -> Option<Draft> {
    let service = task.subject.service()?;
    let register = task.register(rng, 30, 25);
    let mut question = task.question.to_string();
    let mut addressed = Register::Neutral;
    if task.enabled.contains(Technique::Conversation) && rng.percent(45) {
        question = super::conversation::greet(task, question, register, true, rng)?;
        addressed = register;
    }
    let greeted = question != task.question;
    let first = task.answer(Detail::Full, addressed, rng);
    let first = if greeted {
        task.reply(first, addressed, true, rng)
    } else {
        first
    };
    let mut draft = Draft::new(question, first, &[Technique::MultiTurn]);
    let mut others: Vec<&Subject> = task
        .catalog
        .facts_of(service)
        .filter(|other| other.intent() != task.subject.intent())
        .collect();
    rng.shuffle(&mut others);
    let turns = 1 + usize::from(rng.percent(40)) + usize::from(rng.percent(12));
    for other in others.into_iter().take(turns) {
        let Some(question) = follow_up(other, rng.percent(75), rng) else {
            continue;
        };
        draft
            .pairs
            .push((question, other.answer(Detail::Short, addressed, None, rng)));
    }
    if draft.pairs.len() < 2 {
        return None;
    }
    if let SubjectKind::Fact(_, _, _, fact) = task.subject.kind
        && draft.pairs.len() == 2
        && task.enabled.contains(Technique::Administrative)
        && rng.percent(10)
    {
        // The source of the first answer, asked for at once.
        draft.pairs.truncate(1);
        let question = rng.choose(&[
            "Wo steht das?",
            "Wo ist das geregelt?",
            "Auf welcher Rechtsgrundlage?",
            "Gibt es dafür eine Rechtsgrundlage?",
        ])?;
        draft.pairs.push((
            (*question).to_string(),
            administrative::source(task, fact, rng)?,
        ));
        draft.techniques.insert(Technique::Administrative);
    } else if task.enabled.contains(Technique::Conversation)
        && !task.subject.is_grave()
        && rng.percent(18)
    {
        // A dialogue that was neutral so far may still thank in a register.
        if addressed == Register::Neutral {
            addressed = register;
        }
        let thanks = addressed.phrase(&task.phrases.thanks, rng)?.to_string();
        let welcome = addressed
            .phrase(&task.phrases.thanks_answer, rng)?
            .to_string();
        draft.pairs.push((thanks, welcome));
        draft.techniques.insert(Technique::Conversation);
    }
    if greeted {
        draft.techniques.insert(Technique::Conversation);
    }
    Some(draft.with_register(addressed))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{all, drafts};
    use super::*;
    use crate::dataset::techniques::Template;
    use std::collections::BTreeSet;

    #[test]
    fn follow_ups_are_about_other_facts_of_the_same_service() {
        let mut turns = BTreeSet::new();
        let made = drafts(Template::Dialogue, all(), 40, |task, draft| {
            let service = task.subject.service().unwrap();
            assert!(draft.pairs.len() >= 2);
            turns.insert(draft.pairs.len());
            let own: Vec<String> = task
                .catalog
                .facts_of(service)
                .flat_map(|subject| subject.variants())
                .collect();
            let known = |answer: &str| own.iter().any(|body| body == answer);
            for (question, answer) in &draft.pairs[1..draft.pairs.len().min(2)] {
                let is_source = draft.techniques.contains(Technique::Administrative);
                let is_thanks = !question.ends_with('?');
                let addressed = answer.starts_with("Sie ") || answer.starts_with("Du ");
                assert!(
                    known(answer) || is_source || is_thanks || addressed,
                    "{question} / {answer}"
                );
            }
        });
        assert!(made > 300 && turns.len() >= 3, "{made} {turns:?}");
    }

    #[test]
    fn a_question_is_asked_only_where_the_answer_fits_it() {
        drafts(Template::Dialogue, all(), 40, |_, draft| {
            for (question, answer) in &draft.pairs[1..] {
                if question.contains("Was kostet das") || question.contains("was kostet das") {
                    assert!(
                        answer.contains("kost") || answer.contains("ebühr"),
                        "{answer}"
                    );
                }
            }
        });
    }
}
