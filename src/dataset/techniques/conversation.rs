//! Greetings, thanks and offers of help. The frame of the question decides between Sie and du, and
//! the answer follows it.

use super::rewording::in_other_words;
use super::{Draft, Task, Technique};
use crate::dataset::catalog::{Detail, SubjectKind};
use crate::dataset::rng::KeyedRng;
use crate::german::Register;
use crate::german::grammar::lower_first;
use crate::wording::courtesy::{is_cheerful, repeats_contact};

/// Share of polite questions that begin with a greeting, have a sentence before the question, and
/// one after it; in percent.
const GREETING: usize = 55;
const LEAD_IN: usize = 60;
const CLOSING: usize = 35;

/// Share of answers to a greeting that greet back.
const GREETING_BACK: usize = 50;
/// Shares of answers with a sentence before and behind, in percent: where the question addresses
/// somebody, and where not.
const OPENING_SHARE: [usize; 2] = [34, 16];
const CLOSING_SHARE: [usize; 2] = [30, 12];
/// Share of friendly wishes in the place of an offer of help.
const WISH_SHARE: usize = 15;

/// The question in a polite frame. `None` if the parts drawn don't go together.
pub(crate) fn polite(task: &Task, rng: &mut KeyedRng) -> Option<Draft> {
    let register = task.register(rng, 48, 32);
    let mut core = task.question.to_string();
    let mut techniques = vec![Technique::Conversation];
    if !task.held_out
        && task.enabled.contains(Technique::Paraphrase)
        && rng.percent(35)
        && let Some(reworded) = in_other_words(task.question, rng)
    {
        core = reworded;
        techniques.push(Technique::Paraphrase);
    }
    let with_greeting = rng.percent(GREETING);
    let with_lead_in = rng.percent(LEAD_IN) || !with_greeting;
    let question = greet(
        task,
        with_lead_in
            .then(|| register.phrase(&task.phrases.lead_in, rng))
            .flatten()
            .map_or(core.clone(), |lead_in| format!("{lead_in} {core}")),
        register,
        with_greeting,
        rng,
    )?;
    let question = thank(task, question, register, CLOSING, rng);
    let detail = if rng.percent(60) {
        Detail::Full
    } else {
        Detail::Any
    };
    let body = task.answer(detail, register, rng);
    let answer = task.reply(body, register, with_greeting, rng);
    Some(Draft::new(question, answer, &techniques).with_register(register))
}

/// Puts a greeting before a question. `None` if the greeting wants a small letter after it and the
/// text has none to give.
pub(super) fn greet(
    task: &Task,
    text: String,
    register: Register,
    wanted: bool,
    rng: &mut KeyedRng,
) -> Option<String> {
    if !wanted {
        return Some(text);
    }
    let greeting = register.phrase(&task.phrases.greeting, rng)?;
    if greeting.ends_with(',') {
        return Some(format!("{greeting} {}", lower_first(&text)?));
    }
    Some(format!("{greeting} {text}"))
}

/// Puts a sentence behind a question, in so many of a hundred cases.
pub(super) fn thank(
    task: &Task,
    text: String,
    register: Register,
    share: usize,
    rng: &mut KeyedRng,
) -> String {
    if !rng.percent(share) {
        return text;
    }
    match register.phrase(&task.phrases.closing, rng) {
        Some(closing) => format!("{text} {closing}"),
        None => text,
    }
}

/// Puts phrases around an answer. A request that belongs elsewhere is answered soberly: an offer of
/// help or a nice day does not belong beside an emergency number.
pub(super) fn around_answer(
    task: &Task,
    body: String,
    register: Register,
    greeted: bool,
    rng: &mut KeyedRng,
) -> String {
    let sober = matches!(task.subject.kind, SubjectKind::Foreign(_));
    let share = |shares: [usize; 2]| shares[usize::from(register == Register::Neutral)];
    // Nothing cheerful beside a death or an emergency.
    let in_place = |phrase: &str| !task.subject.is_grave() || !is_cheerful(phrase);
    let mut sentences: Vec<&str> = Vec::with_capacity(3);
    if greeted && rng.percent(GREETING_BACK) {
        let back = register.phrase(&task.phrases.greeting_back, rng);
        // Only the bare greeting stands before a refusal.
        sentences.extend(back.filter(|back| (!sober || back.len() < 14) && in_place(back)));
    } else if !sober && rng.percent(share(OPENING_SHARE)) {
        let opening = register.phrase(&task.phrases.answer_opening, rng);
        sentences.extend(opening.filter(|opening| in_place(opening)));
    }
    sentences.push(&body);
    if !sober && rng.percent(share(CLOSING_SHARE)) {
        let list = if !task.subject.is_grave() && rng.percent(WISH_SHARE) {
            &task.phrases.answer_wish
        } else {
            &task.phrases.answer_closing
        };
        // An address or a number that the answer has just given is not given again.
        let closing = register
            .phrase(list, rng)
            .filter(|closing| !repeats_contact(closing, &body));
        sentences.extend(closing);
    }
    sentences.join(" ")
}

#[cfg(test)]
mod tests {
    use super::super::testing::{all, drafts};
    use super::*;
    use crate::dataset::techniques::Template;
    use crate::german::fold;
    use std::collections::BTreeSet;

    #[test]
    fn a_polite_question_has_more_than_the_question_and_its_answer_keeps_the_fact() {
        let (mut registers, mut openings) = (BTreeSet::new(), BTreeSet::new());
        let made = drafts(Template::Polite, all(), 60, |task, draft| {
            let (question, answer) = &draft.pairs[0];
            assert!(question.len() > task.question.len(), "{question}");
            let kept = task
                .subject
                .variants()
                .iter()
                .any(|body| answer.contains(body.as_str()));
            let addressed = ["Sie brauchen", "Du brauchst", "wenden Sie", "Wende dich"]
                .iter()
                .any(|begin| answer.contains(begin));
            assert!(
                kept || addressed && draft.register != Register::Neutral,
                "{answer}"
            );
            registers.insert(draft.register);
            openings.insert(fold(question).chars().take(12).collect::<String>());
        });
        assert!(made > 500, "{made}");
        assert_eq!(registers.len(), 3);
        assert!(openings.len() > 60, "{}", openings.len());
    }

    #[test]
    fn a_refusal_is_followed_by_nothing() {
        drafts(Template::Polite, all(), 60, |task, draft| {
            if let SubjectKind::Foreign(request) = task.subject.kind {
                let answer = &draft.pairs[0].1;
                assert!(answer.ends_with(request.answer.as_str()), "{answer}");
                assert!(answer.len() <= request.answer.len() + 15, "{answer}");
            }
        });
    }
}
