//! What a citizen wants: service, side of it, form of address, or none of the offices' business.

use super::assistant::service_ref;
use super::courtesy::Act;
use super::{Assistant, OfficeRef, Register, Role, ServiceRef, Turn};
use crate::knowledge::{Intent, Service};
use serde::Serialize;

/// A service that scores less is not what was asked about.
const UNKNOWN: f32 = 0.22;
/// Below this the best service is a guess: more topics count as plausible, and where the model does not hit one of them the
/// citizen is asked.
pub(super) const UNSURE: f32 = 0.30;
/// Questions in words of their own score up to here.
const OWN_WORDS: f32 = 0.45;
/// A request that belongs elsewhere is named only if it scores as much; below, it is only said that the city cannot help.
const SURE_FOREIGN: f32 = 0.33;
/// A topic that scores at least this is named by the question itself, whatever was said before.
const NAMED: f32 = 0.65;
/// What the topic of the conversation so far gets on top: where the question refers back, and where it does not.
const REFERS: f32 = 0.40;
const STAYS: f32 = 0.15;
/// Topics that score less than the best by at most this are plausible too: of held-out questions with a lead above it, 98 in
/// 100 are about the best one.
const CLOSE: f32 = 0.12;
/// The same where the best one scores less than [`OWN_WORDS`].
const CLOSE_TO_GUESS: f32 = 0.20;
/// Most topics that are plausible at once.
const MOST: usize = 4;
/// Requests that belong elsewhere and may be meant where nothing is certain.
const FAINT: f32 = 0.15;
/// An intent stands out if it is ahead of the next by this much; below the second value the next is told as well.
const CLEAR: f32 = 3.0;
const UNDECIDED: f32 = 0.5;
/// A part of a question adds its intent if that is ahead by this much.
const CLEAR_PART: f32 = 1.0;

/// The request of `ausserhalb.toml` for what nobody understands.
const UNCLEAR: &str = "unklares_anliegen";
/// The one for everything that is no business of the city's.
const ELSEWHERE: &str = "fremdes_anliegen";
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

impl Understanding {
    /// Ids of the services that may be meant, the likeliest first. An answer about any of them passes the guard.
    pub fn plausible(&self, assistant: &Assistant) -> Vec<String> {
        let topics = self.topics.iter();
        topics
            .filter_map(|&(topic, _)| assistant.service_of(topic))
            .map(|(_, service)| service.id.to_string())
            .collect()
    }
}

/// What one question is about, and what it leaves behind for the next.
struct Step {
    act: Act,
    /// The question, folded, without what is said around it.
    core: String,
    topics: Vec<(usize, f32)>,
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
            register = Register::of_typed(&turn.text).unwrap_or(register);
        }
        let step = self.step(topic, question);
        let register = Register::of_typed(question).unwrap_or(register);
        self.conclude(step, register)
    }

    /// What is understood where the service or request is known: its answers can be looked up and checked without a question.
    /// `None` for an id that the knowledge base does not have.
    pub fn about(&self, id: &str, intents: &[Intent], register: Register) -> Option<Understanding> {
        let topic = (0..self.topics.len()).find(|&topic| match self.service_of(topic) {
            Some((_, service)) => service.id.as_str() == id,
            None => self
                .foreign_of(topic)
                .is_some_and(|request| request.id.as_str() == id),
        })?;
        let step = Step {
            act: Act::Question,
            core: String::new(),
            topics: vec![(topic, 1.0)],
            refers: false,
        };
        let mut understanding = self.conclude(step, register);
        if understanding.service.is_some() {
            understanding.intents = intents.to_vec();
        }
        understanding.intent_is_clear = false;
        Some(understanding)
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
                refers: false,
            };
        }
        let danger = super::emergency::sign(&core).and_then(|id| self.foreign_topic(id));
        let core = self.vocabulary.correct(&core);
        let only_refers = self.intents.only_refers(&core);
        if let (Some(topic), true) = (topic, only_refers) {
            return Step {
                act,
                core,
                topics: vec![(topic, 1.0)],
                refers: true,
            };
        }
        let mut scores = self.index.search(&core);
        let best = scores.iter().copied().fold(0.0, f32::max);
        if let Some(danger) = danger
            && best < NAMED
        {
            return Step {
                act,
                core,
                topics: vec![(danger, 1.0)],
                refers: false,
            };
        }
        let refers = topic.is_some() && best < NAMED && refers_back(&core);
        if let Some(topic) = topic {
            scores[topic] += if refers { REFERS } else { STAYS };
        }
        let topics = match only_refers {
            true => Vec::new(),
            false => self.plausible(&scores, &core),
        };
        Step {
            act,
            topics,
            core,
            refers,
        }
    }

    /// The topics that may be meant, the best first; none where nothing was understood.
    fn plausible(&self, scores: &[f32], core: &str) -> Vec<(usize, f32)> {
        let mut ranked: Vec<(usize, f32)> = scores.iter().copied().enumerate().collect();
        ranked.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        let is_foreign = |topic: usize| self.foreign_of(topic).is_some();
        let Some(&(first, best)) = ranked.first() else {
            return Vec::new();
        };
        let sure = if is_foreign(first) {
            SURE_FOREIGN
        } else {
            UNKNOWN
        };
        if best >= sure {
            let close = if best < OWN_WORDS {
                CLOSE_TO_GUESS
            } else {
                CLOSE
            };
            ranked.retain(|&(_, score)| score >= FAINT && best - score <= close);
            ranked.truncate(MOST);
            return ranked;
        }
        // What resembles other people's business most is probably that; everything else is unclear.
        let instead = match is_foreign(first) && core.split(' ').count() > 3 {
            true => self
                .foreign_topic(ELSEWHERE)
                .or(self.foreign_topic(UNCLEAR)),
            false => self.foreign_topic(UNCLEAR),
        };
        ranked.retain(|&(topic, score)| {
            is_foreign(topic) && score >= FAINT && Some(topic) != instead
        });
        ranked.truncate(MOST - 1);
        instead
            .map(|topic| (topic, 0.0))
            .into_iter()
            .chain(ranked)
            .collect()
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
        let instead = instead.map(|topic| (topic, 0.0));
        understanding.topics.extend(instead);
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
                (understanding.intents, understanding.intent_is_clear) =
                    self.intents_of(service, &step.core);
            }
        }
        understanding
    }

    /// The sides of a service that a question asks for, and whether the first one stands out.
    fn intents_of(&self, service: &Service, core: &str) -> (Vec<Intent>, bool) {
        let ranked = self.intents.rank(core, service);
        let Some(&(first, best)) = ranked.first() else {
            return (Vec::new(), false);
        };
        let second = ranked.get(1).copied();
        let lead = second.map_or(f32::INFINITY, |(_, score)| best - score);
        let mut intents = vec![first];
        for part in parts(core) {
            if let [(intent, best), (_, second), ..] = self.intents.rank(&part, service)[..]
                && best - second > CLEAR_PART
                && !intents.contains(&intent)
            {
                intents.push(intent);
            }
        }
        if let Some((second, _)) = second
            && lead < UNDECIDED
            && intents.len() == 1
        {
            intents.push(second);
        }
        intents.truncate(3);
        (intents, lead > CLEAR)
    }
}

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

/// How sure the first topic is: by its own score and by its distance from the second.
fn confidence(topics: &[(usize, f32)]) -> f32 {
    let Some(&(_, best)) = topics.first() else {
        return 0.0;
    };
    let lead = topics.get(1).map_or(CLOSE, |&(_, second)| best - second);
    let own = ((best - UNKNOWN) / (NAMED - UNKNOWN)).clamp(0.0, 1.0);
    (0.2 + 0.4 * own + 0.4 * (lead / CLOSE).clamp(0.0, 1.0)).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::knowledge::Knowledge;

    #[test]
    fn parts_begin_with_a_word_that_asks() {
        assert_eq!(
            parts("was kostet der ausweis und wo beantrage ich ihn"),
            ["was kostet der ausweis", "und wo beantrage ich ihn"]
        );
        assert!(parts("was kosten pass und ausweis").is_empty());
        assert!(parts("").is_empty());
    }

    #[test]
    fn scraps_and_pointers_refer_back() {
        assert!(refers_back("und die frist") && refers_back("wann laeuft denn diese frist ab"));
        assert!(!refers_back("wo beantrage ich einen neuen reisepass"));
    }

    #[test]
    fn confidence_grows_with_score_and_lead() {
        assert_eq!(confidence(&[]), 0.0);
        let alone = confidence(&[(0, NAMED)]);
        let close = confidence(&[(0, NAMED), (1, NAMED - CLOSE / 2.0)]);
        let guess = confidence(&[(0, UNKNOWN), (1, UNKNOWN)]);
        assert!((alone - 1.0).abs() < 1e-6 && close < alone && guess < close);
        assert!((guess - 0.2).abs() < 1e-6, "{guess}");
    }

    #[test]
    fn register_is_read_off_the_words() {
        let register_of = Register::of_typed;
        assert_eq!(register_of("Kannst du mir helfen?"), Some(Register::Du));
        assert_eq!(
            register_of("können sie mir sagen, wo?"),
            Some(Register::Sie)
        );
        assert_eq!(register_of("Wo ist das Amt?"), None);
    }

    #[test]
    fn step_stays_with_the_topic_only_where_the_question_refers_to_it() {
        let assistant = Assistant::new(Knowledge::bundled().unwrap()).unwrap();
        let topic_of = |id: &str| {
            let about = assistant.about(id, &[], Register::Neutral);
            about.unwrap().topics[0].0
        };
        let pass = topic_of("ewo_reisepass");
        let first = |step: &Step| step.topics.first().map(|&(topic, _)| topic);
        let follow_up = assistant.step(Some(pass), "Und was kostet das?");
        assert!(follow_up.refers && first(&follow_up) == Some(pass));
        let other = assistant.step(Some(pass), "Was kostet ein neuer Personalausweis?");
        assert!(!other.refers);
        assert_eq!(first(&other), Some(topic_of("ewo_personalausweis")));
        // Thanks keep the topic, a greeting has none.
        let thanks = assistant.step(Some(pass), "Vielen Dank!");
        assert_eq!((thanks.act, first(&thanks)), (Act::Thanks, Some(pass)));
        let hello = assistant.step(Some(pass), "Hallo!");
        assert_eq!((hello.act, first(&hello)), (Act::Greeting, None));
    }

    #[test]
    fn plausible_topics_are_few_and_close_to_the_best() {
        let assistant = Assistant::new(Knowledge::bundled().unwrap()).unwrap();
        for question in [
            "Was kostet ein neuer Personalausweis?",
            "Ich brauche einen Ausweis",
            "Wie wird das Wetter morgen?",
            "xyzzy",
        ] {
            let step = assistant.step(None, question);
            assert!((1..=MOST).contains(&step.topics.len()), "{question}");
            assert!(step.topics.iter().skip(1).all(|&(_, score)| score >= FAINT));
        }
    }
}
