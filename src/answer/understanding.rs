//! What a citizen wants: service, side of it, form of address, or none of the offices' business.

use super::assistant::service_ref;
use super::courtesy::Act;
use super::{Assistant, OfficeRef, Register, Role, ServiceRef, Turn};
use crate::knowledge::language::{Address, address};
use crate::knowledge::{Intent, fold};
use serde::Serialize;
use std::collections::HashMap;

/// A topic that scores less is not what was asked about.
const UNKNOWN: f32 = 0.17;
/// A topic that scores at least this is named by the question itself.
const NAMED: f32 = 0.42;
/// What the topic of the conversation so far gets on top: where the question refers back, and where it does not.
const REFERS: f32 = 0.30;
const STAYS: f32 = 0.08;
/// Topics that score less than the best by at most this are plausible too.
const CLOSE: f32 = 0.09;
/// Most topics that are plausible at once.
const MOST: usize = 4;
/// An intent is asked for too if its share reaches this part of the best one's; only where a question has several parts.
const SECOND_INTENT: f32 = 0.9;

/// The request of `ausserhalb.toml` for what nobody understands.
const UNCLEAR: &str = "unklares_anliegen";
/// The one for those who want to talk.
const SMALL_TALK: &str = "small_talk";

/// A request that belongs elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OutOfRemitRef {
    /// Its id in the knowledge base.
    pub id: String,
    /// The place that helps.
    pub place: String,
}

/// What the newest question of a conversation is about.
#[derive(Clone, Debug)]
pub struct Understanding {
    /// The service, if one of the offices handles it.
    pub service: Option<ServiceRef>,
    /// The office that handles it.
    pub office: Option<OfficeRef>,
    /// The sides of the service that are asked for, the first one first; empty where no service is.
    pub intents: Vec<Intent>,
    /// The request that belongs elsewhere, if it is one.
    pub out_of_remit: Option<OutOfRemitRef>,
    /// How the citizen addresses the assistant.
    pub register: Register,
    /// How sure this is, 0 to 1.
    pub confidence: f32,
    /// Whether the question refers to what was said before.
    pub follow_up: bool,
    /// Whether it asks for something at all.
    pub(super) act: Act,
    /// Whether the first intent stands out from the others.
    pub(super) intent_is_clear: bool,
    /// Plausible topics with their scores, the best first; empty where nothing was understood.
    pub(super) topics: Vec<(usize, f32)>,
}

/// What one question is about, and what it leaves behind for the next.
struct Step {
    act: Act,
    core: String,
    topics: Vec<(usize, f32)>,
    nearest: HashMap<(usize, Intent), f32>,
    refers: bool,
}

impl Assistant {
    /// What the newest question is about, from it and what was said before (follow-ups refer back).
    pub fn understand(&self, history: &[Turn], question: &str) -> Understanding {
        let mut topic = None;
        let mut register = Register::Neutral;
        for turn in history.iter().filter(|turn| turn.role == Role::Citizen) {
            let step = self.step(topic, &turn.text);
            topic = step.topics.first().map(|&(topic, _)| topic).or(topic);
            register = register_of(&turn.text).unwrap_or(register);
        }
        let step = self.step(topic, question);
        let register = register_of(question).unwrap_or(register);
        self.conclude(step, register)
    }

    fn step(&self, topic: Option<usize>, question: &str) -> Step {
        let (core, act) = self.courtesy.strip(question);
        if act != Act::Question {
            let topics = match (act, topic) {
                (Act::Thanks, Some(topic)) => vec![(topic, 1.0)],
                _ => Vec::new(),
            };
            return Step {
                act,
                core,
                topics,
                nearest: HashMap::new(),
                refers: false,
            };
        }
        let mut scores = self.index.search(&core);
        let best = scores.topics.iter().copied().fold(0.0, f32::max);
        let refers = topic.is_some() && best < NAMED && refers_back(&core);
        if let Some(topic) = topic {
            scores.topics[topic] += if refers { REFERS } else { STAYS };
        }
        Step {
            act,
            topics: plausible(&scores.topics),
            nearest: scores.intents,
            core,
            refers,
        }
    }

    fn conclude(&self, step: Step, register: Register) -> Understanding {
        let mut understanding = Understanding {
            service: None,
            office: None,
            intents: Vec::new(),
            out_of_remit: None,
            register,
            confidence: confidence(&step.topics),
            follow_up: step.refers,
            act: step.act,
            intent_is_clear: false,
            topics: step.topics.clone(),
        };
        let instead = match step.act {
            Act::Greeting => self.foreign_topic(SMALL_TALK),
            Act::Question if step.topics.is_empty() => self.foreign_topic(UNCLEAR),
            _ => None,
        };
        understanding
            .topics
            .extend(instead.map(|topic| (topic, 0.0)));
        let Some(&(topic, _)) = understanding.topics.first() else {
            return understanding;
        };
        if let Some(request) = self.foreign_of(topic) {
            understanding.out_of_remit = Some(OutOfRemitRef {
                id: request.id.to_string(),
                place: request.place.to_string(),
            });
        }
        if let Some((office, service)) = self.service_of(topic) {
            understanding.service = Some(service_ref(service));
            understanding.office = Some(OfficeRef {
                id: office.id().to_string(),
                name: office.about.name.to_string(),
            });
            if step.act == Act::Question {
                let (intents, clear) = self.intents_of(topic, &step);
                understanding.intents = intents;
                understanding.intent_is_clear = clear;
            }
        }
        understanding
    }

    /// The intents that a question about this topic asks for, and whether the first one stands out.
    fn intents_of(&self, topic: usize, step: &Step) -> (Vec<Intent>, bool) {
        let Some((_, service)) = self.service_of(topic) else {
            return (Vec::new(), false);
        };
        let rank = |core: &str| {
            let logs = self.intents.scores(core);
            let mut ranked: Vec<(Intent, f32)> = service
                .facts
                .keys()
                .map(|&intent| {
                    let near = step.nearest.get(&(topic, intent)).copied().unwrap_or(0.0);
                    (intent, logs[intent as usize] + NEARNESS * near)
                })
                .collect();
            ranked.sort_by(|a, b| b.1.total_cmp(&a.1));
            ranked
        };
        let ranked = rank(&step.core);
        let Some(&(first, best)) = ranked.first() else {
            return (Vec::new(), false);
        };
        let clear = ranked
            .get(1)
            .is_none_or(|&(_, second)| best - second > CLEAR);
        let mut intents = vec![first];
        for part in parts(&step.core) {
            if let [(intent, best), (_, second), ..] = rank(&part)[..]
                && best - second > SECOND_INTENT
                && !intents.contains(&intent)
            {
                intents.push(intent);
            }
        }
        intents.truncate(3);
        (intents, clear)
    }
}

/// Weight of the nearest question of the same service beside the classifier's logarithm.
const NEARNESS: f32 = 6.0;
/// An intent stands out if it is ahead by this much.
const CLEAR: f32 = 1.5;

/// Beginnings of questions. Folded.
const ASKING: [&str; 24] = [
    "wo", "was", "wie", "wer", "wen", "wem", "wann", "welche", "welches", "welcher", "welchen",
    "wohin", "warum", "wieso", "kann", "muss", "gibt", "brauche", "braucht", "darf", "fallen",
    "geht", "bis", "womit",
];

/// A question with several parts, cut before "und" and a word that asks; nothing where it has one part only.
fn parts(core: &str) -> Vec<String> {
    let words: Vec<&str> = core.split(' ').collect();
    let mut cuts: Vec<usize> = (1..words.len().saturating_sub(1))
        .filter(|&at| {
            ["und", "ausserdem", "oder"].contains(&words[at]) && ASKING.contains(&words[at + 1])
        })
        .collect();
    if cuts.is_empty() {
        return Vec::new();
    }
    cuts.push(words.len());
    let mut start = 0;
    let mut found = Vec::new();
    for cut in cuts {
        found.push(words[start..cut].join(" "));
        start = cut;
    }
    found
}

/// Words that point back to what was said. Folded.
const POINTING: [&str; 30] = [
    "das", "dafuer", "dabei", "damit", "davon", "dazu", "daran", "darauf", "dort", "da", "es",
    "sie", "ihn", "den", "diese", "dieser", "dieses", "diesen", "diesem", "dies", "hierfuer",
    "hierzu", "hierbei", "sonst", "und", "denn", "dann", "dahin", "so", "solche",
];

/// Whether a question leans on what was said before: it points back, or is a scrap.
fn refers_back(core: &str) -> bool {
    let words: Vec<&str> = core.split(' ').collect();
    words.len() <= 4 || words.iter().any(|word| POINTING.contains(word))
}

/// The topics that may be meant, the best first.
fn plausible(scores: &[f32]) -> Vec<(usize, f32)> {
    let mut ranked: Vec<(usize, f32)> = scores.iter().copied().enumerate().collect();
    ranked.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    let best = ranked.first().map_or(0.0, |&(_, score)| score);
    if best < UNKNOWN {
        return Vec::new();
    }
    ranked.retain(|&(_, score)| score >= UNKNOWN && best - score <= CLOSE);
    ranked.truncate(MOST);
    ranked
}

/// How sure the first topic is: by its own score and by its distance from the second.
fn confidence(topics: &[(usize, f32)]) -> f32 {
    let Some(&(_, best)) = topics.first() else {
        return 0.0;
    };
    let lead = topics.get(1).map_or(CLOSE, |&(_, second)| best - second);
    let own = ((best - UNKNOWN) / (NAMED - UNKNOWN)).clamp(0.0, 1.0);
    (0.2 + 0.4 * own + 0.4 * (lead / CLOSE).clamp(0.0, 1.0)).min(1.0)
}

/// How a text addresses the assistant; `None` where it does not.
fn register_of(text: &str) -> Option<Register> {
    match address(text) {
        Some(Address::Du(_)) => Some(Register::Du),
        Some(Address::Sie(_) | Address::MaybeSie(_)) => Some(Register::Sie),
        // Typed in lower case: "können sie mir sagen", "sehr geehrte damen".
        None => {
            let folded = format!(" {} ", fold(text));
            let says = |phrases: &[&str]| phrases.iter().any(|phrase| folded.contains(phrase));
            if says(&[
                " sehr geehrte",
                " koennen sie ",
                " koennten sie ",
                " wissen sie ",
                " sagen sie ",
                " haben sie ",
                " helfen sie ",
                " wuerden sie ",
            ]) {
                Some(Register::Sie)
            } else if says(&[" kannste ", " weisste ", " haste ", " biste "]) {
                Some(Register::Du)
            } else {
                None
            }
        }
    }
}
