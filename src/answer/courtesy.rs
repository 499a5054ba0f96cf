//! What people say around a question: greetings, "Können Sie mir sagen, ...", thanks. It says
//! nothing about the matter and would only lead the search astray, so it is taken off; and whoever
//! says nothing else is greeted or thanked back.

use crate::generate::text::QUESTION;
use crate::german::fold;
use crate::knowledge::{PhraseList, Phrases};

/// What a contribution to a conversation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    /// It asks for something.
    Question,
    /// Nothing but a greeting.
    Greeting,
    /// Nothing but thanks.
    Thanks,
}

/// Folded phrases by where they stand, the longest first.
pub(super) struct Courtesy {
    beginnings: Vec<String>,
    ends: Vec<String>,
}

/// Words with which people thank and greet in their own way. Folded.
const THANKING: [&str; 9] = [
    "danke",
    "dank",
    "dankeschoen",
    "merci",
    "thx",
    "perfekt",
    "super",
    "prima",
    "tschuess",
];
const GREETING: [&str; 14] = [
    "hallo",
    "hi",
    "hey",
    "moin",
    "servus",
    "tach",
    "guten",
    "gruess",
    "gruezi",
    "hallihallo",
    "huhu",
    "na",
    "mahlzeit",
    "morgen",
];
/// Words that may stand beside them. Folded.
const BESIDE: [&str; 40] = [
    "sehr", "vielen", "schoen", "schoenen", "ihnen", "dir", "euch", "fuer", "die", "der", "das",
    "hilfe", "auskunft", "antwort", "info", "tag", "abend", "morgen", "ihre", "deine", "alles",
    "klar", "ok", "okay", "gott", "dich", "zusammen", "noch", "einen", "jetzt", "weiss", "ich",
    "bescheid", "hat", "mir", "geholfen", "und", "gut", "super", "nett",
];

impl Courtesy {
    pub(super) fn new(phrases: &Phrases) -> Courtesy {
        let mut beginnings = Vec::new();
        let mut ends = Vec::new();
        let slots = ["{frage}", "{satz}", "{stichwort}", "{titel}"];
        for (key, list, _) in phrases.lists() {
            let about_questions = [
                "gruss",
                "einleitung",
                "indirekt",
                "ausklang",
                "kurz",
                "thema",
                "aktuell",
                "vorhaben",
                "amtlich",
                "dank",
            ];
            if !about_questions.contains(&key) {
                continue;
            }
            for phrase in all(list) {
                let first = slots.iter().filter_map(|slot| phrase.find(slot)).min();
                match first {
                    None => {
                        beginnings.push(fold(phrase));
                        ends.push(fold(phrase));
                    }
                    Some(at) => {
                        beginnings.push(fold(&phrase[..at]));
                        let behind = phrase.rfind('}').map_or("", |close| &phrase[close + 1..]);
                        ends.push(fold(behind));
                    }
                }
            }
        }
        for list in [&mut beginnings, &mut ends] {
            list.retain(|phrase| !phrase.is_empty());
            list.sort_by_key(|phrase| std::cmp::Reverse(phrase.len()));
            list.dedup();
        }
        Courtesy { beginnings, ends }
    }

    /// All phrases, folded.
    pub(super) fn texts(&self) -> impl Iterator<Item = &str> {
        self.beginnings.iter().chain(&self.ends).map(String::as_str)
    }

    /// Whether a text begins with a greeting.
    pub(super) fn greets(&self, text: &str) -> bool {
        let text = text.trim();
        let whole = fold(text.strip_prefix(QUESTION).unwrap_or(text));
        whole
            .split(' ')
            .next()
            .is_some_and(|word| GREETING.contains(&word))
    }

    /// The folded text without the phrases around it, and what kind of contribution it is. A text
    /// that is nothing but courtesy stays whole.
    pub(super) fn strip(&self, text: &str) -> (String, Act) {
        // As the model's prompt writes it, and as people copy it.
        let text = text.trim();
        let whole = fold(text.strip_prefix(QUESTION).unwrap_or(text));
        let mut core = whole.as_str();
        loop {
            let before = core;
            for phrase in &self.beginnings {
                core = at_word(core, core.strip_prefix(phrase.as_str()), |rest| {
                    rest.starts_with(' ')
                });
            }
            for phrase in &self.ends {
                core = at_word(core, core.strip_suffix(phrase.as_str()), |rest| {
                    rest.ends_with(' ')
                });
            }
            if core == before {
                break;
            }
        }
        let act = act(&whole, core);
        let core = if core.is_empty() {
            whole.clone()
        } else {
            core.to_string()
        };
        (core, act)
    }
}

/// What is left of a text without a phrase at one end, if the phrase ends at a word there; else the
/// text.
fn at_word<'t>(text: &'t str, rest: Option<&'t str>, is_apart: impl Fn(&str) -> bool) -> &'t str {
    match rest {
        Some(rest) if rest.is_empty() || is_apart(rest) => rest.trim(),
        _ => text,
    }
}

fn act(whole: &str, core: &str) -> Act {
    let words: Vec<&str> = whole.split(' ').collect();
    let only = |kind: &[&str]| {
        words
            .iter()
            .all(|word| kind.contains(word) || BESIDE.contains(word))
    };
    let has = |kind: &[&str]| words.iter().any(|word| kind.contains(word));
    let is_bare = core.is_empty();
    if has(&THANKING[..4]) && (is_bare || words.len() <= 10 && only(&THANKING)) {
        Act::Thanks
    } else if has(&GREETING) && (is_bare || words.len() <= 6 && only(&GREETING)) {
        Act::Greeting
    } else {
        Act::Question
    }
}

fn all(list: &PhraseList) -> impl Iterator<Item = &str> {
    [&list.sie, &list.du, &list.neutral]
        .into_iter()
        .flatten()
        .map(|phrase| phrase.as_str())
}
