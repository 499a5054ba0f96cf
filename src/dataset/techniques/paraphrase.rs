//! The same question in other words: synonyms, "man" for "ich", the situation in a sentence of its
//! own, and the question as a clause after "Können Sie mir sagen, ...".

use super::rewording::in_other_words;
use super::{Draft, Task, Technique, conversation};
use crate::dataset::catalog::Detail;
use crate::dataset::rng::KeyedRng;
use crate::german::Register;
use crate::german::questions::{parts, subordinate};

/// The question in other words. `None` if nothing about it can be changed.
pub(crate) fn reworded(task: &Task, rng: &mut KeyedRng) -> Option<Draft> {
    let changed = if task.held_out {
        return None;
    } else {
        in_other_words(task.question, rng)?
    };
    let register = task.register(rng, 20, 15);
    let mut techniques = vec![Technique::Paraphrase];
    let question = if task.enabled.contains(Technique::Conversation) {
        let thanked = conversation::thank(task, changed.clone(), register, 45, rng);
        if thanked != changed {
            techniques.push(Technique::Conversation);
        }
        thanked
    } else {
        changed.clone()
    };
    // Where nothing addresses the office, the answer is neutral too.
    let register = if question == changed {
        Register::Neutral
    } else {
        register
    };
    let body = task.answer(Detail::Any, register, rng);
    let answer = task.reply(body, register, false, rng);
    Some(Draft::new(question, answer, &techniques).with_register(register))
}

/// The question as a subordinate clause behind a main clause that asks for it. `None` if it cannot
/// be turned into one.
pub(crate) fn indirect(task: &Task, rng: &mut KeyedRng) -> Option<Draft> {
    let register = task.register(rng, 42, 26);
    let parts = parts(task.question);
    let core = if !task.held_out && rng.percent(40) {
        in_other_words(&parts.question, rng).unwrap_or_else(|| parts.question.clone())
    } else {
        parts.question.clone()
    };
    let clause = subordinate(&core)?;
    let asked = register
        .phrase(&task.phrases.indirect, rng)?
        .replace("{satz}", &clause);
    let asked = match &parts.situation {
        Some(situation) => format!("{situation}. {asked}"),
        None => asked,
    };
    let mut techniques = vec![Technique::Paraphrase];
    let (mut greeted, mut question) = (false, asked);
    if task.enabled.contains(Technique::Conversation) {
        greeted = rng.percent(38);
        question = conversation::greet(task, question, register, greeted, rng)?;
        let bare = question.len();
        question = conversation::thank(task, question, register, 15, rng);
        if greeted || question.len() > bare {
            techniques.push(Technique::Conversation);
        }
    }
    let detail = if rng.percent(55) {
        Detail::Full
    } else {
        Detail::Any
    };
    let body = task.answer(detail, register, rng);
    let answer = task.reply(body, register, greeted, rng);
    Some(Draft::new(question, answer, &techniques).with_register(register))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{all, drafts};
    use super::*;
    use crate::dataset::techniques::Template;
    use std::collections::BTreeSet;

    #[test]
    fn other_words_are_other_words() {
        let mut seen = BTreeSet::new();
        let made = drafts(Template::Paraphrase, all(), 30, |task, draft| {
            assert!(
                !draft.pairs[0].0.starts_with(task.question),
                "{}",
                task.question
            );
            assert!(draft.techniques.contains(Technique::Paraphrase));
            seen.insert(draft.pairs[0].0.clone());
        });
        assert!(made > 50 && seen.len() > 25, "{made} {}", seen.len());
    }

    #[test]
    fn an_indirect_question_ends_its_clause_with_the_verb() {
        let mut seen = BTreeSet::new();
        drafts(Template::Indirect, all(), 40, |task, draft| {
            if task.question == "Wo kann ich mich ummelden?" {
                let question = &draft.pairs[0].0;
                assert!(
                    question.contains(", wo ich mich ummelden kann")
                        || question.contains(", wo man sich ummelden kann"),
                    "{question}"
                );
                seen.insert(question.clone());
            }
        });
        assert!(seen.len() > 20, "{}", seen.len());
    }
}
