//! Scraps of questions, as typed into a search box or on a telephone: key words without a sentence,
//! lower case, spelled-out umlauts, slips of the keyboard, a touch of dialect, no question mark.
//! They get a short answer.

use super::{Draft, Task, Technique};
use crate::dataset::catalog::{Detail, Subject, SubjectKind};
use crate::dataset::rng::KeyedRng;
use crate::german::Register;
use crate::german::spell_out_umlauts;
use crate::knowledge::{Intent, Service};

/// Patterns for the question of which office is responsible.
const RESPONSIBILITY: [&str; 7] = [
    "{s} welches Amt?",
    "{s} zuständig?",
    "Amt für {s}?",
    "{s} wer macht das?",
    "{s} Ansprechpartner",
    "Zuständigkeit {s}",
    "{s}, wer ist da zuständig?",
];

fn patterns(intent: Intent) -> &'static [&'static str] {
    match intent {
        Intent::What => &[
            "{s}?",
            "Was ist {s}?",
            "{s} Info",
            "{s} Erklärung",
            "Infos zu {s}",
            "{s} was ist das?",
            "{s} bitte erklären",
            "{s} Auskunft",
        ],
        Intent::Who => &[
            "{s} für wen?",
            "{s} wer?",
            "{s} wer darf das?",
            "{s} Voraussetzungen",
            "{s} wen betrifft das?",
        ],
        Intent::Where => &[
            "{s} wo?",
            "Wo {s}?",
            "{s} wohin?",
            "{s} Adresse",
            "{s} wo muss ich hin?",
            "{s} welche Stelle?",
            "Anlaufstelle {s}",
        ],
        Intent::Deadline => &[
            "{s} Frist?",
            "Frist {s}",
            "Bis wann {s}?",
            "{s} wie lange Zeit?",
            "{s} Fristen",
            "{s}: Frist?",
            "Welche Frist {s}?",
        ],
        Intent::Fee => &[
            "{s} Kosten?",
            "Was kostet {s}?",
            "Gebühr {s}",
            "{s} wie teuer?",
            "{s} gebührenpflichtig?",
            "{s} Gebühren",
            "Kosten {s}",
            "{s}: Kosten?",
        ],
        Intent::Documents => &[
            "{s} Unterlagen?",
            "Welche Unterlagen {s}?",
            "{s} was mitbringen?",
            "Papiere für {s}",
            "{s} Nachweise",
            "Unterlagen {s}",
            "{s} was brauche ich?",
        ],
        Intent::Online => &[
            "{s} online?",
            "{s} im Internet möglich?",
            "Online {s}",
            "{s} digital?",
            "{s} ohne Termin online?",
            "{s} übers Internet",
        ],
        Intent::Duration => &[
            "{s} Dauer?",
            "Wie lange dauert {s}?",
            "{s} wie lange?",
            "Dauer {s}",
            "{s} wie lang dauert das?",
        ],
        Intent::Exceptions => &[
            "{s} Ausnahmen?",
            "{s} Sonderfälle",
            "Ausnahme {s}",
            "{s} Besonderheiten",
            "{s}: gibt es Ausnahmen?",
        ],
        Intent::Consequences => &[
            "{s} Folgen?",
            "{s} Strafe?",
            "{s} was droht?",
            "Folgen {s}",
            "{s}: welche Folgen?",
        ],
    }
}

/// A scrap about the subject: made of key words, or the question itself written carelessly. A
/// held-out question is only written carelessly, since key words have no phrasing of their own to
/// hold out.
pub(crate) fn scrap(task: &Task, rng: &mut KeyedRng) -> Option<Draft> {
    let from_key_words = if task.held_out || rng.percent(40) {
        None
    } else {
        key_words(task.subject, rng)
    };
    let from_question = from_key_words.is_none();
    let mut scrap = match from_key_words {
        Some(scrap) if rng.percent(25) => scrap,
        Some(scrap) => careless(&scrap, rng),
        None => careless(task.question, rng),
    };
    if !task.held_out && rng.percent(22) {
        const ENDS: [&str; 12] = [
            " bitte",
            " bitte schnell",
            " danke",
            " bitte um Info",
            " hilfe",
            " dringend",
            " weiß das jemand?",
            " bitte um Antwort",
            " pls",
            " thx",
            " brauche Hilfe",
            " wichtig!",
        ];
        scrap = format!(
            "{}{}",
            scrap.trim_end_matches(['?', '.']),
            rng.choose(&ENDS)?
        );
    }
    let body = if from_question {
        task.answer(Detail::Brief, Register::Neutral, rng)
    } else {
        task.subject
            .answer(Detail::Brief, Register::Neutral, None, rng)
    };
    Some(Draft::new(scrap, body, &[Technique::Incomplete]))
}

fn key_words(subject: &Subject, rng: &mut KeyedRng) -> Option<String> {
    let (service, patterns): (&Service, &[&str]) = match subject.kind {
        SubjectKind::Fact(_, service, intent, _) => (service, patterns(intent)),
        SubjectKind::Responsibility(_, service) => (service, &RESPONSIBILITY),
        SubjectKind::Foreign(_) => return None,
    };
    let alias = rng.choose(&service.aliases)?;
    Some(rng.choose(patterns)?.replace("{s}", alias))
}

// Lower case, spelled-out umlauts, missing question mark, slips, dialect: one of them at least.
fn careless(question: &str, rng: &mut KeyedRng) -> String {
    let lower = rng.percent(70);
    let spelled = rng.percent(28);
    let slips = if rng.percent(45) { 1 + rng.below(2) } else { 0 };
    let dialect = rng.percent(14);
    let unmarked = rng.percent(60) || !(lower || spelled || slips > 0);
    let mut written = question.to_string();
    if dialect {
        written = dialect_touch(&written, rng);
    }
    if lower {
        written = written.to_lowercase();
    }
    if spelled {
        written = spell_out_umlauts(&written);
    }
    for _ in 0..slips {
        written = slip(&written, rng);
    }
    if unmarked {
        written = written.trim_end_matches(['?', '.']).to_string();
    }
    written
}

/// Everyday forms and a few of the regions; whole words, so that "dass" stays.
const NORTH: [(&str, &str); 8] = [
    ("Was", "Wat"),
    ("was", "wat"),
    ("das", "dat"),
    ("Das", "Dat"),
    ("nicht", "nich"),
    ("ich", "ick"),
    ("es", "et"),
    ("mal", "ma"),
];
const SOUTH: [(&str, &str); 8] = [
    ("ich", "i"),
    ("nicht", "net"),
    ("auch", "a"),
    ("ein", "a"),
    ("eine", "a"),
    ("mal", "amal"),
    ("etwas", "ebbes"),
    ("ist", "is"),
];
const EVERYDAY: [(&str, &str); 12] = [
    ("habe", "hab"),
    ("einen", "nen"),
    ("eine", "ne"),
    ("ein", "n"),
    ("ist", "is"),
    ("nichts", "nix"),
    ("brauche", "brauch"),
    ("etwas", "was"),
    ("es", "s"),
    ("gerade", "grad"),
    ("Brauche", "Brauch"),
    ("herum", "rum"),
];

fn dialect_touch(text: &str, rng: &mut KeyedRng) -> String {
    let table: &[(&str, &str)] = match rng.below(4) {
        0 => &NORTH,
        1 => &SOUTH,
        _ => &EVERYDAY,
    };
    let words = text.split(' ').map(|word| {
        let bare = word.trim_end_matches([',', '?', '.']);
        match table.iter().find(|(usual, _)| *usual == bare) {
            Some((_, regional)) => format!("{regional}{}", &word[bare.len()..]),
            None => word.to_string(),
        }
    });
    words.collect::<Vec<_>>().join(" ")
}

/// Letters that lie side by side on a German keyboard.
const KEYS: [&str; 3] = ["qwertzuiopü", "asdfghjklöä", "yxcvbnm"];

// One slip in one word of at least five letters: two letters swapped, one left out, doubled, or hit
// beside its key. The first letter stays, since that is how people err, and words with figures or
// placeholders are left alone.
fn slip(text: &str, rng: &mut KeyedRng) -> String {
    let words: Vec<(usize, &str)> = text
        .split(' ')
        .scan(0, |at, word| {
            let start = *at;
            *at += word.len() + 1;
            Some((start, word))
        })
        .filter(|(_, word)| {
            word.chars().filter(|c| c.is_alphabetic()).count() >= 5
                && word
                    .chars()
                    .all(|c| c.is_alphabetic() || [',', '?', '.'].contains(&c))
        })
        .collect();
    let Some(&(start, word)) = rng.choose(&words) else {
        return text.to_string();
    };
    let mut letters: Vec<char> = word.chars().collect();
    let length = letters.iter().filter(|c| c.is_alphabetic()).count();
    let at = 1 + rng.below(length - 2);
    match rng.below(4) {
        0 => letters.swap(at, at + 1),
        1 => {
            letters.remove(at);
        }
        2 => letters.insert(at, letters[at]),
        _ => {
            if let Some(neighbour) = beside(letters[at], rng) {
                letters[at] = neighbour;
            } else {
                letters.swap(at, at + 1);
            }
        }
    }
    let changed: String = letters.into_iter().collect();
    format!("{}{changed}{}", &text[..start], &text[start + word.len()..])
}

fn beside(letter: char, rng: &mut KeyedRng) -> Option<char> {
    let row = KEYS.iter().find(|row| row.contains(letter))?;
    let keys: Vec<char> = row.chars().collect();
    let at = keys.iter().position(|&key| key == letter)?;
    let neighbours: Vec<char> = [at.checked_sub(1), Some(at + 1)]
        .into_iter()
        .flatten()
        .filter_map(|index| keys.get(index).copied())
        .collect();
    rng.choose(&neighbours).copied()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{all, drafts};
    use super::*;
    use crate::dataset::rng::Purpose;
    use crate::dataset::techniques::Template;
    use std::collections::HashSet;

    #[test]
    fn scraps_are_many_and_answered_shortly() {
        let mut seen = HashSet::new();
        let made = drafts(Template::Scrap, all(), 40, |task, draft| {
            let (question, answer) = &draft.pairs[0];
            assert!(
                !question.is_empty() && !question.contains('{'),
                "{question}"
            );
            assert!(
                answer.len() <= task.subject.full().len().max(90),
                "{answer}"
            );
            assert!(draft.techniques.contains(Technique::Incomplete));
            seen.insert(question.clone());
        });
        assert!(made > 500 && seen.len() * 2 > made, "{made} {}", seen.len());
    }

    #[test]
    fn a_slip_changes_one_word_and_keeps_its_first_letter() {
        let text = "Welche Unterlagen brauche ich für 27,60 Euro?";
        let mut changed = 0;
        for index in 0..200 {
            let slipped = slip(text, &mut KeyedRng::new(1, Purpose::Example, index, 0));
            let differing: Vec<(&str, &str)> = text
                .split(' ')
                .zip(slipped.split(' '))
                .filter(|(a, b)| a != b)
                .collect();
            assert!(differing.len() <= 1, "{slipped}");
            for (before, after) in &differing {
                assert_eq!(before.chars().next(), after.chars().next());
                changed += 1;
            }
            assert!(slipped.contains("27,60"));
        }
        assert!(changed > 150, "{changed}");
    }

    #[test]
    fn dialect_changes_whole_words_only() {
        for index in 0..50 {
            let touched = dialect_touch(
                "dasselbe Wasser",
                &mut KeyedRng::new(1, Purpose::Example, index, 0),
            );
            assert_eq!(touched, "dasselbe Wasser");
        }
    }

    #[test]
    fn a_held_out_question_keeps_its_words_but_for_slips() {
        drafts(Template::Scrap, all(), 1, |task, _| {
            let held_out = Task {
                held_out: true,
                ..*task
            };
            for index in 0..30 {
                let mut rng = KeyedRng::new(4, Purpose::Validation, index, 0);
                let draft = scrap(&held_out, &mut rng).unwrap();
                let words = |text: &str| text.split_whitespace().count();
                assert_eq!(words(&draft.pairs[0].0), words(task.question));
            }
        });
    }
}
