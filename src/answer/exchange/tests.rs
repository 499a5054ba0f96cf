use super::*;
use crate::answer::Verdict;
use crate::knowledge::Knowledge;
use std::sync::OnceLock;

const QUESTION: &str = "Was kostet ein neuer Personalausweis?";
const FOREIGN: &str = "Wie wird das Wetter morgen?";

fn assistant() -> &'static Assistant {
    static ASSISTANT: OnceLock<Assistant> = OnceLock::new();
    ASSISTANT.get_or_init(|| Assistant::new(Knowledge::bundled().unwrap()).unwrap())
}

fn tokenizer() -> &'static Tokenizer {
    static TOKENIZER: OnceLock<Tokenizer> = OnceLock::new();
    TOKENIZER.get_or_init(|| Tokenizer::gpt2().unwrap())
}

fn pipeline(context: usize) -> Pipeline<'static> {
    Pipeline {
        assistant: assistant(),
        window: Some(Window {
            tokenizer: tokenizer(),
            context,
        }),
    }
}

fn settings(guard: GuardMode) -> ExchangeSettings {
    ExchangeSettings {
        guard,
        ..ExchangeSettings::default()
    }
}

/// The reply to an answer, with what was released and why no more tokens were wanted.
fn replied(request: &Request, answer: &str) -> (Reply, Option<Finish>) {
    let mut exchange = pipeline(256).begin(request);
    let mut released = String::new();
    let mut stop = None;
    for token in tokenizer().encode(answer).unwrap() {
        let release = exchange.push(token).unwrap();
        released.push_str(&release.text);
        stop = release.stop;
        if stop.is_some() {
            break;
        }
    }
    let (rest, reply) = exchange.finish();
    assert_eq!(released + &rest, reply.released);
    (reply, stop)
}

fn asked(question: &str, guard: GuardMode) -> Request {
    pipeline(256)
        .request(&[], question, &settings(guard))
        .unwrap()
}

#[test]
fn request_lays_out_the_prompt_behind_the_separator() {
    let request = asked(QUESTION, GuardMode::Replace);
    let expected = prompt_ids(tokenizer(), &format!("Frage: {QUESTION}\nAntwort:")).unwrap();
    assert_eq!(request.prompt(), expected);
    assert_eq!(
        request.generate_settings().stop_strings,
        [NEXT_QUESTION.to_string()]
    );
    assert_eq!(
        request.understanding().service.as_ref().unwrap().id,
        "ewo_personalausweis"
    );
}

#[test]
fn request_keeps_room_for_the_answer() {
    let long = format!("{}?", "Ummeldung ".repeat(60));
    let tokens = tokenizer()
        .encode(&format!("Frage: {long}\nAntwort:"))
        .unwrap()
        .len()
        + 1;
    let fits = |context: usize, max_new_tokens: Option<usize>| {
        let settings = ExchangeSettings {
            max_new_tokens,
            ..settings(GuardMode::Mark)
        };
        pipeline(context).request(&[], &long, &settings).is_ok()
    };
    // At most half of the window is kept free, however long the answer may be.
    for most in [None, Some(10 * tokens), Some(tokens + 1)] {
        assert!(!fits(2 * tokens - 1, most), "{most:?}");
        assert!(fits(2 * tokens + 2, most), "{most:?}");
    }
    assert!(fits(tokens + 9, Some(8)) && !fits(tokens + 8, Some(8)));
    for empty in ["", " \n", "Frage:"] {
        assert!(
            pipeline(256)
                .request(&[], empty, &settings(GuardMode::Off))
                .is_err()
        );
    }
}

#[test]
fn exchange_passes_what_the_knowledge_base_says() {
    let request = asked(QUESTION, GuardMode::Replace);
    let own = "Der Personalausweis kostet 46 Euro, für Personen unter 24 Jahren 27,60 Euro.";
    let (reply, stop) = replied(&request, &format!(" {own}"));
    assert_eq!((reply.verdict, stop), (Verdict::Passed, None));
    assert_eq!((reply.text.as_str(), reply.released.as_str()), (own, own));
    // The next question ends the answer, however its tokens are cut.
    let (reply, stop) = replied(&request, &format!(" {own}\nFrage: Wer?\nAntwort: Ich."));
    assert_eq!(stop, Some(Finish::StopString));
    assert_eq!((reply.verdict, reply.text.as_str()), (Verdict::Passed, own));
}

#[test]
fn exchange_stops_at_the_first_reason_and_takes_nothing_more() {
    let request = asked(QUESTION, GuardMode::Replace);
    let mut exchange = pipeline(256).begin(&request);
    let answer = " Der Personalausweis kostet 99 Euro. Der Reisepass kostet 70 Euro.";
    let tokens = tokenizer().encode(answer).unwrap();
    let mut pushed = 0;
    let stop = tokens.iter().find_map(|&token| {
        pushed += 1;
        exchange.push(token).unwrap().stop
    });
    assert_eq!(stop, Some(Finish::Cancelled));
    assert!(pushed < tokens.len() && exchange.new_tokens() == pushed);
    for &token in &tokens {
        let release = exchange.push(token).unwrap();
        assert_eq!((release.text.as_str(), release.stop), ("", stop));
    }
    assert_eq!(exchange.new_tokens(), pushed);
    let (rest, reply) = exchange.finish();
    assert_eq!((rest.as_str(), reply.verdict), ("", Verdict::Replaced));
    assert_eq!(reply.text, assistant().reference(request.understanding()));
    assert!(
        reply.reasons[0].starts_with("figure"),
        "{:?}",
        reply.reasons
    );
}

#[test]
fn exchange_shows_everything_without_a_guard() {
    let request = asked(FOREIGN, GuardMode::Off);
    assert!(request.needs_model());
    let (reply, stop) = replied(&request, " Morgen kostet {alles} nichts. ");
    assert_eq!((reply.verdict, stop), (Verdict::Passed, None));
    assert_eq!(reply.text, "Morgen kostet {alles} nichts.");
}

#[test]
fn request_that_belongs_elsewhere_needs_no_model_under_replace_only() {
    let request = asked(FOREIGN, GuardMode::Replace);
    assert!(!request.needs_model() && !request.prompt().is_empty());
    let (reply, stop) = replied(&request, " Morgen scheint die Sonne.");
    assert_eq!(
        (reply.verdict, stop),
        (Verdict::Refused, Some(Finish::Cancelled))
    );
    assert_eq!(reply.text, assistant().reference(request.understanding()));
    for guard in [GuardMode::Mark, GuardMode::Off] {
        assert!(request.with_guard(guard).needs_model());
    }
    assert!(asked(QUESTION, GuardMode::Replace).needs_model());
}

#[test]
fn danger_is_answered_in_every_mode_and_at_any_length() {
    let story = "Ich wollte nach meinem Antrag fragen. ".repeat(200);
    let text = format!("{story} Meine Mutter atmet nicht mehr!");
    for guard in [GuardMode::Off, GuardMode::Mark, GuardMode::Replace] {
        let request = asked(&text, guard);
        assert!(!request.needs_model(), "{guard:?}");
        let request = request.with_guard(guard);
        let (shown, reply) = pipeline(256).begin(&request).finish();
        assert!(reply.text.contains("112"), "{guard:?}: {}", reply.text);
        assert!(!shown.contains("Berichtigung"), "{shown}");
    }
}

#[test]
fn what_the_model_cannot_read_is_answered_by_the_knowledge_base() {
    let story = "Ich bin seit vielen Jahren hier. ".repeat(200);
    let long = format!("{story} Was kostet ein neuer Personalausweis?");
    let request = asked(&long, GuardMode::Replace);
    assert!(!request.needs_model());
    let (shown, reply) = pipeline(256).begin(&request).finish();
    assert_eq!(reply.verdict, Verdict::Knowledge);
    assert_eq!(shown, assistant().reference(request.understanding()));
    // Nobody else has the last word on what the model would say, so it would have to read it.
    for guard in [GuardMode::Mark, GuardMode::Off] {
        let refused = pipeline(256).request(&[], &long, &settings(guard));
        assert!(refused.unwrap_err().to_string().contains("fewer words"));
        assert!(!request.with_guard(guard).needs_model());
    }
}

#[test]
fn where_there_is_nothing_to_choose_the_knowledge_base_answers_alone() {
    for question in ["Hallo!", "Guten Tag", "asdf qwertz"] {
        let request = asked(question, GuardMode::Replace);
        assert!(!request.needs_model(), "{question}");
        let (shown, reply) = pipeline(256).begin(&request).finish();
        assert_eq!(shown, assistant().reference(request.understanding()));
        assert_eq!(shown, reply.text, "{question}");
    }
}

#[test]
fn pipeline_without_a_model_answers_from_the_knowledge_base() {
    let alone = Pipeline {
        assistant: assistant(),
        window: None,
    };
    for guard in GuardMode::ALL {
        for (question, verdict) in [(QUESTION, Verdict::Knowledge), (FOREIGN, Verdict::Refused)] {
            let request = alone.request(&[], question, &settings(guard)).unwrap();
            assert!(!request.needs_model() && request.prompt().is_empty());
            let (rest, reply) = alone.begin(&request).finish();
            assert_eq!(reply.verdict, verdict, "{guard} {question}");
            assert_eq!(reply.text, assistant().reference(request.understanding()));
            assert_eq!((&rest, &reply.released), (&reply.text, &reply.text));
            assert!(reply.reasons.is_empty() && reply.model_text.is_empty());
            assert_eq!(reply.sources.is_empty(), verdict == Verdict::Refused);
        }
    }
    assert!(
        alone
            .request(&[], " ", &settings(GuardMode::Replace))
            .is_err()
    );
    assert!(
        alone
            .continuation("Das ist", &settings(GuardMode::Off))
            .is_err()
    );
}

#[test]
fn continuation_keeps_the_text_and_has_no_guard() {
    let text = "Frage: Wo?\nAntwort: Im";
    let settings = settings(GuardMode::Replace);
    let request = pipeline(256).continuation(text, &settings).unwrap();
    assert_eq!(request.prompt(), prompt_ids(tokenizer(), text).unwrap());
    assert!(request.generate_settings().stop_strings.is_empty());
    let (reply, stop) = replied(&request, " Rathaus.\nFrage: Wer? ");
    assert_eq!((reply.verdict, stop), (Verdict::Passed, None));
    assert_eq!(reply.model_text, " Rathaus.\nFrage: Wer? ");
    let error = pipeline(4)
        .continuation(text, &settings)
        .unwrap_err()
        .to_string();
    assert!(error.contains("context of 4"), "{error}");
}

#[test]
fn conversation_is_read_off_a_prompt() {
    let (turns, question) =
        conversation_of("Frage: Wo?\nAntwort: Hier.\nFrage: Wann?\nAntwort:").unwrap();
    assert_eq!(turns, [Turn::citizen("Wo?"), Turn::assistant("Hier.")]);
    assert_eq!(question, "Wann?");
    let plain = conversation_of(" Wo ist das? ").unwrap();
    assert_eq!(plain, (vec![], "Wo ist das?".to_string()));
    for (text, reason) in [
        ("Frage: Wo?\nAntwort: Im", NoQuestion::BegunAnswer),
        ("Frage:\nAntwort:", NoQuestion::Empty),
        (" ", NoQuestion::Empty),
    ] {
        assert_eq!(conversation_of(text), Err(reason), "{text}");
    }
}

#[test]
fn only_a_guard_that_replaces_holds_the_model_to_what_may_be_said() {
    let request = asked(QUESTION, GuardMode::Replace);
    assert!(request.generate_settings().allowed.is_some());
    for guard in [GuardMode::Mark, GuardMode::Off] {
        let free = request.with_guard(guard);
        assert!(free.generate_settings().allowed.is_none());
        let again = free.with_guard(GuardMode::Replace);
        assert!(again.generate_settings().allowed.is_some());
    }
    // Where no answer fits, the knowledge base answers alone.
    let short = ExchangeSettings {
        max_new_tokens: Some(3),
        ..settings(GuardMode::Replace)
    };
    let request = pipeline(256).request(&[], QUESTION, &short).unwrap();
    assert!(request.generate_settings().allowed.is_none() && !request.needs_model());
}
