//! Greetings, thanks and offers of help. The frame of the question decides between Sie and du, and the answer follows it.

use super::{Draft, Register, Technique};
use crate::dataset::draw::Draw;
use crate::dataset::techniques::expansion::frame;

/// A frame around a question and the greeting that the answer gives back.
struct Frame {
    question: &'static str,
    greeting: &'static str,
}

const fn around(question: &'static str, greeting: &'static str) -> Frame {
    Frame { question, greeting }
}

const SIE_FRAMES: [Frame; 20] = [
    around("Guten Tag! {q}", "Guten Tag!"),
    around("Guten Morgen! {q}", "Guten Morgen!"),
    around("Guten Abend! {q}", "Guten Abend!"),
    around("Grüß Gott! {q}", "Grüß Gott!"),
    around("Sehr geehrte Damen und Herren, {q_klein}", ""),
    around("Guten Tag, können Sie mir helfen? {q}", "Guten Tag!"),
    around("Guten Tag, ich habe eine Frage an Sie: {q}", "Guten Tag!"),
    around(
        "Guten Morgen, ich bräuchte Ihre Hilfe. {q}",
        "Guten Morgen!",
    ),
    around("Entschuldigen Sie bitte, ich habe eine Frage: {q}", ""),
    around("Können Sie mir bitte weiterhelfen? {q}", ""),
    around("Könnten Sie mir bitte Auskunft geben? {q}", ""),
    around("Ich hätte gern eine Auskunft von Ihnen: {q}", ""),
    around("Ich bin unsicher und hoffe auf Ihren Rat: {q}", ""),
    around("Wissen Sie das vielleicht? {q}", ""),
    around("Ich wende mich mit einer Frage an Sie. {q}", ""),
    around("{q} Vielen Dank im Voraus für Ihre Mühe!", ""),
    around("{q} Können Sie mir das bitte sagen?", ""),
    around("{q} Ich danke Ihnen für die Auskunft.", ""),
    around("{q} Mit freundlichen Grüßen", ""),
    around("Bitte helfen Sie mir weiter: {q}", ""),
];

const DU_FRAMES: [Frame; 14] = [
    around("Hallo du! {q}", "Hallo!"),
    around("Hey! {q}", "Hallo!"),
    around("Hi! {q}", "Hi!"),
    around("Moin! {q}", "Moin!"),
    around("Servus! {q}", "Servus!"),
    around("Grüß dich! {q}", "Grüß dich!"),
    around("Hallo, kannst du mir helfen? {q}", "Hallo!"),
    around("Hi, ich hab da mal eine Frage an dich: {q}", "Hi!"),
    around("Hey, weißt du das? {q}", "Hallo!"),
    around("Sag mal, {q_klein}", ""),
    around("Kannst du mir das erklären? {q}", ""),
    around("Weißt du vielleicht Bescheid? {q}", ""),
    around("{q} Danke dir!", ""),
    around("{q} Kannst du mir das sagen?", ""),
];

const SIE_OPENINGS: [&str; 8] = [
    "Gern helfen wir Ihnen weiter.",
    "Vielen Dank für Ihre Frage.",
    "Danke, dass Sie sich an uns wenden.",
    "Gern beantworten wir Ihre Frage.",
    "Das können wir Ihnen gern sagen.",
    "Gern geben wir Ihnen Auskunft.",
    "Danke für Ihre Nachricht.",
    "Dazu können wir Ihnen Folgendes sagen.",
];

const DU_OPENINGS: [&str; 6] = [
    "Gern helfen wir dir weiter.",
    "Danke für deine Frage.",
    "Das können wir dir gern sagen.",
    "Schön, dass du fragst.",
    "Gern beantworten wir deine Frage.",
    "Klar, das sagen wir dir gern.",
];

const SIE_CLOSINGS: [&str; 8] = [
    "Bei weiteren Fragen helfen wir Ihnen gern.",
    "Haben Sie noch Fragen, sind wir gern für Sie da.",
    "Melden Sie sich gern, wenn noch etwas unklar ist.",
    "Wir wünschen Ihnen einen schönen Tag.",
    "Sprechen Sie uns bei Rückfragen gern an.",
    "Wir hoffen, dass Ihnen diese Auskunft hilft.",
    "Bei Rückfragen erreichen Sie uns unter {telefon}.",
    "Wenn Sie noch etwas wissen möchten, fragen Sie gern nach.",
];

const DU_CLOSINGS: [&str; 7] = [
    "Bei weiteren Fragen helfen wir dir gern.",
    "Hast du noch Fragen, sind wir gern für dich da.",
    "Melde dich gern, wenn noch etwas unklar ist.",
    "Wir wünschen dir einen schönen Tag.",
    "Wir hoffen, dass dir das weiterhilft.",
    "Bei Rückfragen erreichst du uns unter {telefon}.",
    "Wenn du noch etwas wissen möchtest, frag gern nach.",
];

/// Share of dialogues with Sie in percent: the form that a city uses unless it is asked otherwise.
const SIE_SHARE: usize = 65;
/// Share of answers that end in an offer of help, in percent.
const CLOSING_SHARE: usize = 60;

/// Puts politeness around the first question and its answer. `None` if the drawn frame does not take this question.
/// `sober` answers only return the greeting: an offer of help or a nice day does not belong beside an emergency number.
pub fn dress(draft: &mut Draft, sober: bool, draw: &mut Draw) -> Option<()> {
    let formal = draw.percent(SIE_SHARE);
    let chosen = draw.choose(if formal {
        &SIE_FRAMES[..]
    } else {
        &DU_FRAMES[..]
    })?;
    let (question, answer) = draft.pairs.first_mut()?;
    *question = frame(chosen.question, question)?;
    let mut sentences: Vec<&str> = Vec::with_capacity(3);
    if !chosen.greeting.is_empty() {
        sentences.push(chosen.greeting);
    } else if !sober {
        sentences.push(draw.choose(if formal {
            &SIE_OPENINGS[..]
        } else {
            &DU_OPENINGS[..]
        })?);
    }
    sentences.push(answer);
    if !sober && draw.percent(CLOSING_SHARE) {
        sentences.push(draw.choose(if formal {
            &SIE_CLOSINGS[..]
        } else {
            &DU_CLOSINGS[..]
        })?);
    }
    let polite = sentences.join(" ");
    *answer = polite;
    draft.register = if formal { Register::Sie } else { Register::Du };
    draft.techniques.insert(Technique::Conversation);
    draft.techniques.insert(Technique::Register);
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::catalog::{AnswerForm, Catalog, small_knowledge};
    use crate::dataset::draw::Purpose;
    use crate::dataset::techniques::expansion::plain;
    use crate::knowledge::fold;

    const DU: [&str; 8] = [
        "du",
        "dich",
        "dir",
        "dein",
        "deine",
        "grüß dich",
        "sag mal",
        "melde dich",
    ];

    fn says_du(text: &str) -> bool {
        let words = format!(" {} ", fold(text));
        DU.iter()
            .any(|word| words.contains(&format!(" {} ", fold(word))))
    }

    fn says_sie(text: &str) -> bool {
        text.split(|c: char| !c.is_alphabetic())
            .skip(1)
            .any(|word| ["Sie", "Ihnen", "Ihre", "Ihren", "Ihr"].contains(&word))
    }

    #[test]
    fn frames_and_phrases_keep_to_their_register() {
        for text in SIE_FRAMES
            .iter()
            .map(|f| f.question)
            .chain(SIE_OPENINGS)
            .chain(SIE_CLOSINGS)
        {
            assert!(!says_du(text), "{text}");
        }
        for text in DU_FRAMES
            .iter()
            .map(|f| f.question)
            .chain(DU_OPENINGS)
            .chain(DU_CLOSINGS)
        {
            assert!(!says_sie(text), "{text}");
        }
        assert!(
            SIE_OPENINGS
                .iter()
                .chain(&SIE_CLOSINGS)
                .all(|text| says_sie(text) || text.contains("Ihr"))
        );
        assert!(
            DU_OPENINGS
                .iter()
                .chain(&DU_CLOSINGS)
                .all(|text| says_du(text))
        );
    }

    #[test]
    fn the_answer_follows_the_question_and_keeps_its_fact() {
        let knowledge = small_knowledge();
        let catalog = Catalog::new(&knowledge, 1);
        let subject = &catalog.subjects[0];
        let mut registers = [0, 0];
        for index in 0..400 {
            let mut draft = plain(subject, "Wo ist das?", AnswerForm::Full);
            dress(
                &mut draft,
                false,
                &mut Draw::new(3, Purpose::Example, index, 0),
            )
            .unwrap();
            let (question, answer) = &draft.pairs[0];
            assert!(
                fold(question).contains("wo ist das") && question != "Wo ist das?",
                "{question}"
            );
            assert!(answer.contains(&subject.answer(AnswerForm::Full)));
            match draft.register {
                Register::Sie => assert!(
                    !says_du(question) && !says_du(answer),
                    "{question} / {answer}"
                ),
                Register::Du => assert!(
                    !says_sie(question) && !says_sie(answer),
                    "{question} / {answer}"
                ),
                Register::Neutral => panic!("a polite dialogue has a register"),
            }
            registers[usize::from(draft.register == Register::Du)] += 1;
        }
        assert!(registers[0] > 200 && registers[1] > 100, "{registers:?}");
    }

    #[test]
    fn a_sober_answer_is_followed_by_nothing() {
        let knowledge = small_knowledge();
        let catalog = Catalog::new(&knowledge, 1);
        for index in 0..100 {
            let mut draft = plain(&catalog.subjects[0], "Wo ist das?", AnswerForm::Full);
            dress(
                &mut draft,
                true,
                &mut Draw::new(3, Purpose::Example, index, 0),
            )
            .unwrap();
            let answer = &draft.pairs[0].1;
            let fact = catalog.subjects[0].answer(AnswerForm::Full);
            assert!(
                answer.ends_with(&fact) && answer.len() < fact.len() + 16,
                "{answer}"
            );
        }
    }

    #[test]
    fn a_frame_that_needs_a_small_letter_refuses_a_noun() {
        assert_eq!(frame("Sag mal, {q_klein}", "Hunde anmelden, wo?"), None);
        assert_eq!(
            frame("Sag mal, {q_klein}", "Wo ist das?").as_deref(),
            Some("Sag mal, wo ist das?")
        );
    }
}
