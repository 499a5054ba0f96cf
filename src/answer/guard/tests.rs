use super::*;
use crate::knowledge::Knowledge;
use std::sync::OnceLock;

const FEE: &str = "Der Personalausweis kostet 46 Euro, für Personen unter 24 Jahren 27,60 \
                   Euro.";

fn guard(mode: GuardMode, register: Register) -> Guard<'static> {
    static ASSISTANT: OnceLock<Assistant> = OnceLock::new();
    let assistant = ASSISTANT.get_or_init(|| {
        let knowledge = Knowledge::bundled().unwrap();
        Assistant::new(knowledge).unwrap()
    });
    let about = assistant.about("ewo_personalausweis", &[Intent::Fee], register);
    assistant.guard(about.unwrap(), mode)
}

fn replace() -> Guard<'static> {
    guard(GuardMode::Replace, Register::Neutral)
}

fn finished(mut guard: Guard<'static>, text: &str) -> Reply {
    guard.push(text);
    guard.finish().1
}

#[test]
fn guard_releases_known_words_and_holds_figures_back_until_their_unit() {
    let mut guard = replace();
    // The last word may go on; a number may belong to another unit.
    let pieces = [
        "Der Personal",
        "ausweis kostet ",
        "46 ",
        "Euro, ",
        "für Personen ",
    ];
    let released: Vec<String> = pieces.iter().map(|p| guard.push(p).release).collect();
    assert_eq!(released[..3], ["Der", " Personalausweis kostet", ""]);
    let shown = released.concat();
    assert!(
        shown.starts_with("Der Personalausweis kostet 46 Euro,"),
        "{shown}"
    );
    assert!(!guard.off_script);
}

#[test]
fn guard_holds_an_off_script_sentence_until_it_is_judged() {
    let mut guard = replace();
    let progress = guard.push("Ein Personalausweis kostet 46 Euro ");
    assert!(guard.off_script && guard.matches.is_empty());
    assert_eq!((progress.release.as_str(), progress.stop), ("", false));
    // The next sentence's first word says that this one is whole.
    assert_eq!(guard.push("Gebühr. ").release, "");
    let progress = guard.push("Der ");
    assert!(!guard.off_script && !progress.stop);
    assert!(
        progress
            .release
            .starts_with("Ein Personalausweis kostet 46 Euro")
    );

    let mut guard = replace();
    guard.push("Ein Personalausweis kostet 47 Euro. ");
    assert!(guard.push("Der ").stop);
    let (rest, reply) = guard.finish();
    assert_eq!((rest.as_str(), reply.released.as_str()), ("", ""));
    assert_eq!(reply.verdict, Verdict::Replaced);
    assert!(
        reply.reasons[0].starts_with("figure:47"),
        "{:?}",
        reply.reasons
    );
}

#[test]
fn guard_goes_back_to_the_last_match_where_a_longer_sentence_breaks_off() {
    let keys = |text: &str| words(text).into_iter().map(|word| word.key).collect();
    // Two known sentences are made the beginning of each other.
    let script = |mut guard: Guard<'static>| {
        let wordings = &mut guard.candidates[0].wordings;
        let fee: Vec<String> = keys(FEE);
        let with_der = wordings.starting_with("der").to_vec();
        let mut others = with_der
            .into_iter()
            .filter(|&at| !wordings.sentences[at].words.starts_with(&fee[..4]));
        let (short, long) = (others.next().unwrap(), others.next().unwrap());
        drop(others);
        wordings.sentences[short].words = keys("Der kurze Satz.");
        wordings.sentences[long].words = keys("Der kurze Satz. Der lange.");
        guard
    };
    let mut guard = script(replace());
    guard.push("Der kurze Satz. Der ");
    assert!(guard.last_match.is_some() && !guard.off_script);
    let text = format!("Der kurze Satz. {FEE}");
    let mut guard = script(replace());
    assert!(!guard.push(&text).stop && guard.last_match.is_none());
    let (_, reply) = guard.finish();
    assert_eq!((reply.verdict, reply.released), (Verdict::Passed, text));
}

#[test]
fn guard_marks_or_passes_by_its_mode() {
    let wrong = "Der Personalausweis kostet 47 Euro.";
    let marked = finished(guard(GuardMode::Mark, Register::Neutral), wrong);
    assert_eq!(
        (marked.verdict, marked.text.as_str()),
        (Verdict::Marked, wrong)
    );
    let off = finished(guard(GuardMode::Off, Register::Neutral), wrong);
    assert_eq!((off.verdict, off.reasons.len()), (Verdict::Passed, 0));
    // A value that nobody knows is replaced even where answers are only marked.
    let unknown = "Der Personalausweis kostet {unbekannt}.";
    let replaced = finished(guard(GuardMode::Mark, Register::Neutral), unknown);
    assert_eq!(replaced.verdict, Verdict::Replaced);
    assert_eq!(replaced.reasons, ["placeholder:unbekannt"]);
}

#[test]
fn guard_names_what_is_wrong_with_the_whole() {
    for (text, reason) in [
        ("", "empty"),
        ("Der Personalausweis kostet", "no_sentence_end"),
        (&format!("{FEE} {FEE}"), "repetition"),
    ] {
        let reply = finished(replace(), text);
        assert_eq!(reply.reasons, [reason], "{text}");
    }
    let asked_formally = guard(GuardMode::Replace, Register::Sie);
    let reply = finished(asked_formally, "Dein Personalausweis kostet 46 Euro.");
    assert_eq!(reply.reasons[0].to_lowercase(), "address:dein");
}

#[test]
fn sentences_end_before_a_capital_but_not_behind_an_abbreviation() {
    let ends = |text: &str, next: &str| ends_here(words(text).last().unwrap(), next);
    assert!(ends("Das ist alles.", "Der") && ends("Das ist alles.", "„Der"));
    assert!(!ends("Das ist alles.", "der") && !ends("Das ist alles", "Der"));
    assert!(!ends("am 7.", "Februar") && !ends("§ 1 Abs.", "Satz"));
}

#[test]
fn placeholders_without_a_value_are_found() {
    let known = |name: &str| name == "telefon";
    assert_eq!(unknown_placeholder("telefon", known), None);
    assert_eq!(unknown_placeholder("{telefon}", known), None);
    assert_eq!(unknown_placeholder("{fax}", known), Some("fax".to_string()));
    assert!(unknown_placeholder("{telefon", known).is_some());
}
