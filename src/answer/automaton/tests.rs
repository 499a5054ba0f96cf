use super::*;
use crate::answer::{GuardMode, Turn, Verdict};
use crate::generate::{Next, Walk};
use crate::knowledge::Knowledge;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::sync::{Arc, OnceLock};

fn assistant() -> &'static Assistant {
    static ASSISTANT: OnceLock<Assistant> = OnceLock::new();
    ASSISTANT.get_or_init(|| Assistant::new(Knowledge::bundled().unwrap()).unwrap())
}

fn tokenizer() -> &'static Tokenizer {
    static TOKENIZER: OnceLock<Tokenizer> = OnceLock::new();
    TOKENIZER.get_or_init(|| Tokenizer::gpt2().unwrap())
}

/// Every hand-written question about a service: its id and the question.
fn questions() -> Vec<(String, String)> {
    let offices = assistant().knowledge.offices.iter();
    let services = offices.flat_map(|office| &office.services);
    let facts = services.flat_map(|s| s.facts.values().map(move |fact| (s, fact)));
    facts
        .flat_map(|(service, fact)| {
            let asked = fact.questions.iter();
            asked.map(|question| (service.id.to_string(), question.to_string()))
        })
        .collect()
}

/// A text that a model without any training draws, with its tokens and how many of them were a
/// choice.
fn drawn(automaton: &Arc<TokenAutomaton>, random: &mut ChaCha8Rng) -> (Vec<u32>, usize) {
    let mut walk = Walk::new(automaton.clone());
    let (mut tokens, mut choices) = (Vec::new(), 0);
    loop {
        let token = match walk.next(224 - tokens.len()) {
            Next::End => return (tokens, choices),
            Next::Nothing => panic!("no way on after {tokens:?}"),
            Next::Forced(token) => token,
            Next::Choice(allowed) => {
                choices += 1;
                let token = allowed[random.next_u32() as usize % allowed.len()];
                if walk.is_end(token) {
                    return (tokens, choices);
                }
                token
            }
        };
        walk.push(token);
        tokens.push(token);
    }
}

#[test]
fn whatever_is_drawn_passes_the_guard_word_by_word() {
    let questions = questions();
    let mut random = ChaCha8Rng::seed_from_u64(7);
    let (mut answered, mut tokens, mut choices, mut nodes) = (0, 0, 0, 0);
    let frames = [
        "",
        "Guten Tag! ",
        "Können Sie mir sagen: ",
        "Kannst du mir sagen: ",
    ];
    for number in 0..10_000 {
        let (_, question) = &questions[random.next_u32() as usize % questions.len()];
        let question = format!("{}{question}", frames[number % frames.len()]);
        let history = match number % 5 {
            0 => vec![
                Turn::citizen("Was kostet ein neuer Personalausweis?"),
                Turn::assistant("46 Euro."),
            ],
            _ => Vec::new(),
        };
        let understanding = assistant().understand(&history, &question);
        let automaton = assistant().automaton(&understanding, &question, tokenizer());
        let Some(automaton) = automaton.unwrap() else {
            continue;
        };
        nodes = nodes.max(automaton.len());
        let (ids, chosen) = drawn(&Arc::new(automaton), &mut random);
        let text = tokenizer().decode(&ids).unwrap();
        assert_eq!(ids, tokenizer().encode(&text).unwrap(), "{text}");
        let mut guard = assistant().guard(understanding, GuardMode::Replace);
        let shown = guard.push(&text);
        let (rest, reply) = guard.finish();
        assert!(
            reply.verdict == Verdict::Passed && !shown.stop,
            "{question}\n{text}\n{:?}",
            reply.reasons
        );
        assert_eq!(shown.release + &rest, reply.text);
        answered += 1;
        tokens += ids.len();
        choices += chosen;
    }
    println!("{answered} answers, {tokens} tokens, {choices} of them chosen, {nodes} nodes");
    assert!(answered > 6_000, "{answered}");
    assert!(choices * 4 < tokens, "{choices} of {tokens}");
}

#[test]
fn parts_have_the_tokens_that_they_have_in_the_whole_answer() {
    for (service, question) in questions().iter().step_by(29) {
        for register in [Register::Neutral, Register::Sie, Register::Du] {
            let intents = [Intent::Fee, Intent::Documents, Intent::Where];
            let understanding = assistant().about(service, &intents, register).unwrap();
            let answers = assistant().answers(&understanding, question).unwrap();
            let of = |text: &str| tokenizer().encode(&format!(" {text}")).unwrap();
            for (number, body) in answers.bodies.iter().enumerate() {
                let openings = answers.openings.iter().cycle().skip(number).take(1);
                let others = body.others.iter().filter_map(|texts| texts.first());
                let closings = body.closings.iter().cycle().skip(number).take(1);
                let parts = openings.chain([&body.text]).chain(others).chain(closings);
                let parts: Vec<&str> = parts.map(String::as_str).collect();
                let apart: Vec<u32> = parts.iter().flat_map(|part| of(part)).collect();
                let before = "Frage: Wo?\nAntwort:";
                let whole = format!("{before} {}", parts.join(" "));
                let start = tokenizer().encode(before).unwrap();
                assert_eq!(
                    [start, apart].concat(),
                    tokenizer().encode(&whole).unwrap(),
                    "{whole}"
                );
            }
        }
    }
}

#[test]
fn what_the_question_names_is_not_left_out_and_the_full_answer_is_there() {
    let about = |register| assistant().about("ewo_personalausweis", &[Intent::Fee], register);
    let question = "Was kostet ein Personalausweis für Personen unter 24 Jahren?";
    let answers = assistant().answers(&about(Register::Sie).unwrap(), question);
    let answers = answers.unwrap();
    let service = assistant().service_of(about(Register::Sie).unwrap().topics[0].0);
    let full = &service.unwrap().1.facts[&Intent::Fee].text;
    assert_eq!(answers.bodies[0].text, full.as_str());
    assert!(answers.bodies.iter().all(|body| body.text.contains("24")));
    assert!(answers.openings.iter().all(|text| !text.contains("dich")));
    let greeted = assistant().answers(&about(Register::Sie).unwrap(), "Hallo, was kostet das?");
    assert!(greeted.unwrap().openings.len() > answers.openings.len());
}
