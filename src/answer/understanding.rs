//! What a citizen wants: service, side of it, form of address, or none of the offices' business.

use super::arithmetic::worked_out;
use super::assistant::service_ref;
use super::contact::Contact;
use super::courtesy::Act;
use super::emergency::is_danger;
use super::intents::Ranked;
use super::{Assistant, OfficeRef, Register, Role, ServiceRef, Turn};
use crate::german::fold;
use crate::knowledge::{Date, Intent, Office, Service};
use serde::Serialize;

/// From this probability on, what is asked is answered; below, the citizen is asked which service
/// is meant. Of held-out phrasings, 4.9 in 100 are then answered about another service.
const SURE: f32 = 0.72;
/// From this probability on that a request is no business of the offices, it is turned down.
const FOREIGN: f32 = 0.5;
/// A request that belongs elsewhere is named from this probability on; below, it is only said that
/// the city cannot help.
const NAMED_FOREIGN: f32 = 0.2;
/// A question that is as near to one of the knowledge base as this names its topic by itself,
/// whatever was said before.
const NAMED: f32 = 0.65;
/// What the topic of the conversation so far gets on top: where the question points back, where it
/// is only a scrap, and where it is neither.
const POINTS: f32 = 1.0;
const SCRAP: f32 = 0.4;
const STAYS: f32 = 0.2;
/// A question that is as far on another topic's side as this names that topic itself.
const OF_ITS_OWN: f32 = 0.2;
/// Topics less probable than this part of the best one are not plausible.
const PLAUSIBLE: f32 = 0.25;
/// The same where the best one is no more than a guess: they are offered.
const OFFERED: f32 = 0.05;
/// Most topics that are plausible, or offered, at once.
const MOST: usize = 3;
/// An intent stands out if it is ahead of the next by this much; below the second value the next is
/// told as well.
const CLEAR: f32 = 1.0;
const UNDECIDED: f32 = 0.25;
/// A part of a question adds its intent if that is ahead by this much.
const CLEAR_PART: f32 = 0.5;

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
    /// Probability that the service or request is the one that was meant.
    pub confidence: f32,
    /// Probability that one of the offices handles it at all.
    pub in_remit: f32,
    /// Whether the question refers to what was said before.
    pub follow_up: bool,
    /// What was worked out for the question: a deadline's end, a charge.
    pub(super) computed: Option<String>,
    /// What is asked about the office itself, if nothing else is.
    pub(super) contact: Option<Contact>,
    /// Whether it asks for something at all.
    pub(super) act: Act,
    /// Whether the service is a guess among several, so that the citizen is asked.
    pub(super) is_guess: bool,
    /// Whether the first intent stands out from the others.
    pub(super) intent_is_clear: bool,
    /// Plausible topics with their probabilities, the best first; empty where nothing was
    /// understood.
    pub(super) topics: Vec<(usize, f32)>,
}

impl Understanding {
    /// Whether the service is a guess among several, so that the citizen is asked.
    pub fn is_guess(&self) -> bool {
        self.is_guess
    }

    /// Whether somebody may be in danger.
    pub fn is_danger(&self) -> bool {
        let request = self.out_of_remit.as_ref();
        request.is_some_and(|request| is_danger(&request.id))
    }

    /// Ids of the services that may be meant, the likeliest first. An answer about any of them
    /// passes the guard.
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
    /// Probability that one of the offices handles it.
    in_remit: f32,
    refers: bool,
    contact: Option<Contact>,
}

impl Assistant {
    /// What the newest question is about, from it and what was said before (follow-ups refer back).
    pub fn understand(&self, history: &[Turn], question: &str) -> Understanding {
        let mut register = Register::Neutral;
        let mut before: Option<Step> = None;
        for turn in history.iter().filter(|turn| turn.role == Role::Citizen) {
            let step = self.next_step(before.as_ref(), &turn.text);
            register = Register::of_typed(&turn.text).unwrap_or(register);
            before = match (before, step.topics.is_empty()) {
                // What was not understood leaves the topic as it was.
                (Some(before), true) => Some(before),
                _ => Some(step),
            };
        }
        let step = self.next_step(before.as_ref(), question);
        let register = Register::of_typed(question).unwrap_or(register);
        let mut understanding = self.conclude(step, register);
        understanding.computed = self.computed(&understanding, question);
        understanding
    }

    /// What can be worked out for a question that is understood.
    fn computed(&self, understanding: &Understanding, question: &str) -> Option<String> {
        let &(topic, _) = understanding.topics.first()?;
        let (office, service) = self.service_of(topic).filter(|_| !understanding.is_guess)?;
        let fill = |text: &str| self.fill(text, Some(office));
        worked_out(
            service,
            &understanding.intents,
            question,
            Date::today(),
            fill,
        )
    }

    /// What a question is about after `before`: one of the services that were offered there, or
    /// what its words say.
    fn next_step(&self, before: Option<&Step>, question: &str) -> Step {
        let chosen = before.and_then(|before| self.chosen(before, question));
        chosen.unwrap_or_else(|| {
            let topic = before.and_then(|before| before.topics.first());
            self.step(topic.map(|&(topic, _)| topic), question)
        })
    }

    /// The first question again, about the service that was chosen of those that were offered: by
    /// its label, its title or its number.
    fn chosen(&self, before: &Step, choice: &str) -> Option<Step> {
        if !self.is_guess(&before.topics) {
            return None;
        }
        let choice = fold(choice);
        let mut offered = before.topics.iter().enumerate();
        let &(topic, _) = offered.find_map(|(number, offered)| {
            let (_, service) = self.service_of(offered.0)?;
            let names = [
                fold(service.label()),
                fold(&service.title),
                (number + 1).to_string(),
            ];
            names.contains(&choice).then_some(offered)
        })?;
        Some(Step {
            act: Act::Question,
            core: before.core.clone(),
            topics: vec![(topic, 1.0)],
            in_remit: 1.0,
            refers: true,
            contact: None,
        })
    }

    /// Whether the best service is only the likeliest of several.
    fn is_guess(&self, topics: &[(usize, f32)]) -> bool {
        match topics {
            [(topic, best), _, ..] => *best < SURE && self.service_of(*topic).is_some(),
            _ => false,
        }
    }

    /// What is understood where the service or request is known: its answers can be looked up and
    /// checked without a question. `None` for an id that the knowledge base does not have.
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
            in_remit: f32::from(u8::from(self.service_of(topic).is_some())),
            refers: false,
            contact: None,
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
                in_remit: 0.0,
                refers: false,
                contact: None,
            };
        }
        if let Some(contact) = self.contact_wish(&core, topic) {
            return Step {
                act,
                core,
                topics: Vec::new(),
                in_remit: 1.0,
                refers: false,
                contact: Some(contact),
            };
        }
        let typed = core;
        let core = self.vocabulary.correct(&typed);
        let danger = self.alarm.danger(question, [&typed, &core]);
        let only_refers = self.intents.only_refers(&core);
        if let (Some(topic), true) = (topic, only_refers) {
            return Step {
                act,
                core,
                topics: vec![(topic, 1.0)],
                in_remit: f32::from(u8::from(self.service_of(topic).is_some())),
                refers: true,
                contact: None,
            };
        }
        let mut scores = self.scorer.scores(&core);
        let best = scores.nearest;
        // A service may be asked in these very words.
        let is_named = best >= NAMED && !self.is_dangerous(scores.nearest_topic);
        let danger = danger.filter(|_| !is_named);
        let danger = danger.and_then(|id| self.foreign_topic(id));
        if let Some(danger) = danger {
            return Step {
                act,
                core,
                topics: vec![(danger, 1.0)],
                in_remit: 0.0,
                refers: false,
                contact: None,
            };
        }
        let (points, scrap) = refers_back(&core);
        let refers = topic.is_some_and(|topic| {
            best < NAMED && (points || scrap) && scores.clearest_but(topic) < OF_ITS_OWN
        });
        if let Some(topic) = topic {
            scores.raise(
                topic,
                match (refers, points) {
                    (true, true) => POINTS,
                    (true, false) => SCRAP,
                    (false, _) => STAYS,
                },
            );
        }
        let probabilities = self.without_danger(scores.probabilities());
        let in_remit = self.in_remit(&probabilities);
        let topics = match only_refers {
            true => Vec::new(),
            false => self.plausible(&probabilities, in_remit),
        };
        Step {
            act,
            topics,
            in_remit,
            core,
            refers,
            contact: None,
        }
    }

    /// Whether a topic is a danger that somebody may be in.
    fn is_dangerous(&self, topic: usize) -> bool {
        let request = self.foreign_of(topic);
        request.is_some_and(|request| is_danger(&request.id))
    }

    /// The probabilities where nobody is in danger.
    fn without_danger(&self, mut probabilities: Vec<f32>) -> Vec<f32> {
        let mut all = 0.0;
        for (topic, probability) in probabilities.iter_mut().enumerate() {
            if self.is_dangerous(topic) {
                all += std::mem::take(probability);
            }
        }
        let others = (1.0 - all).max(f32::MIN_POSITIVE);
        probabilities.iter_mut().for_each(|other| *other /= others);
        probabilities
    }

    /// The probability that one of the offices handles what is asked.
    fn in_remit(&self, probabilities: &[f32]) -> f32 {
        let topics = probabilities.iter().enumerate();
        let services = topics.filter(|&(topic, _)| self.service_of(topic).is_some());
        services.map(|(_, probability)| probability).sum()
    }

    /// The topics that may be meant with their probabilities, the best first; none where nothing
    /// was understood.
    fn plausible(&self, probabilities: &[f32], in_remit: f32) -> Vec<(usize, f32)> {
        let mut services: Vec<(usize, f32)> = Vec::new();
        let mut foreign: Vec<(usize, f32)> = Vec::new();
        for (topic, &probability) in probabilities.iter().enumerate() {
            match self.foreign_of(topic) {
                Some(_) => foreign.push((topic, probability)),
                None => services.push((topic, probability)),
            }
        }
        for ranked in [&mut services, &mut foreign] {
            ranked.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        }
        if 1.0 - in_remit >= FOREIGN {
            return self.plausible_foreign(foreign);
        }
        let Some(&(_, best)) = services.first() else {
            return Vec::new();
        };
        let least = best * if best < SURE { OFFERED } else { PLAUSIBLE };
        let most = services.iter().take(MOST);
        let plausible = most
            .filter(|(_, probability)| *probability >= least)
            .count();
        // What is not sure is asked about, and a choice needs two.
        services.truncate(if best < SURE {
            plausible.max(2)
        } else {
            plausible
        });
        services
    }

    /// The requests that belong elsewhere and may be meant; the first is what is said.
    fn plausible_foreign(&self, mut ranked: Vec<(usize, f32)>) -> Vec<(usize, f32)> {
        let all: f32 = ranked.iter().map(|(_, probability)| probability).sum();
        let instead = match ranked.first() {
            Some(&(_, best)) if best >= NAMED_FOREIGN => None,
            // What resembles other people's business most is probably that; everything else is
            // unclear.
            Some(_) if all >= FOREIGN => self
                .foreign_topic(ELSEWHERE)
                .or(self.foreign_topic(UNCLEAR)),
            _ => self.foreign_topic(UNCLEAR),
        };
        let best = ranked.first().map_or(0.0, |&(_, probability)| probability);
        ranked.retain(|&(topic, probability)| {
            probability >= PLAUSIBLE * best && Some(topic) != instead
        });
        ranked.truncate(MOST);
        instead
            .map(|topic| (topic, all))
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
            confidence: step
                .topics
                .first()
                .map_or(0.0, |&(_, probability)| probability),
            in_remit: step.in_remit,
            follow_up: step.refers,
            computed: None,
            contact: step.contact,
            act: step.act,
            is_guess: self.is_guess(&step.topics),
            intent_is_clear: false,
            topics: step.topics.clone(),
        };
        if let Some(contact) = &understanding.contact {
            let service = self.contact_service();
            understanding.service = service.map(|(_, service)| service_ref(service));
            understanding.office = self.contact_office(contact).map(office_ref);
            understanding.confidence = 1.0;
            return understanding;
        }
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
            understanding.office = Some(office_ref(office));
            if step.act == Act::Question {
                (understanding.intents, understanding.intent_is_clear) =
                    self.intents_of(service, &step.core);
            }
        }
        understanding
    }

    /// The sides of a service that a question asks for, and whether the first one stands out.
    fn intents_of(&self, service: &Service, core: &str) -> (Vec<Intent>, bool) {
        let Ranked { intents, general } = self.intents.rank(core, service);
        let Some(&(first, best)) = intents.first() else {
            return (Vec::new(), false);
        };
        let second = intents.get(1).copied();
        let lead = second.map_or(f32::INFINITY, |(_, margin)| best - margin);
        let mut told = vec![first];
        for part in parts(core) {
            if let [(intent, best), (_, second), ..] = self.intents.rank(&part, service).intents[..]
                && best - second > CLEAR_PART
                && !told.contains(&intent)
            {
                told.push(intent);
            }
        }
        if let Some((second, _)) = second
            && told.len() == 1
            && (lead < UNDECIDED || general > best)
        {
            told.push(second);
        }
        told.truncate(3);
        (told, lead > CLEAR)
    }
}

fn office_ref(office: &Office) -> OfficeRef {
    OfficeRef {
        id: office.id().to_string(),
        name: office.about.name.to_string(),
    }
}

/// Beginnings of questions. Folded.
const ASKING: [&str; 24] = [
    "wo", "was", "wie", "wer", "wen", "wem", "wann", "welche", "welches", "welcher", "welchen",
    "wohin", "warum", "wieso", "kann", "muss", "gibt", "brauche", "braucht", "darf", "fallen",
    "geht", "bis", "womit",
];

/// A question with several parts, cut before "und" and a word that asks; nothing where it has one
/// part only.
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

/// Whether a question points back to what was said before, and whether it is a scrap.
fn refers_back(core: &str) -> (bool, bool) {
    let words: Vec<&str> = core.split(' ').collect();
    let points = words.iter().any(|word| POINTING.contains(word));
    (points, words.len() <= 4)
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
        assert_eq!(refers_back("und die frist"), (true, true));
        assert_eq!(
            refers_back("wann laeuft denn diese frist ab"),
            (true, false)
        );
        assert_eq!(
            refers_back("wo beantrage ich einen neuen reisepass"),
            (false, false)
        );
        assert_eq!(refers_back("welche unterlagen"), (false, true));
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
    fn plausible_topics_are_few_and_the_best_comes_first() {
        let assistant = Assistant::new(Knowledge::bundled().unwrap()).unwrap();
        for question in [
            "Was kostet ein neuer Personalausweis?",
            "Ich brauche einen Ausweis",
            "Wie wird das Wetter morgen?",
            "xyzzy",
        ] {
            let step = assistant.step(None, question);
            assert!((1..=MOST + 1).contains(&step.topics.len()), "{question}");
            let ordered = step.topics.windows(2).all(|pair| pair[0].1 >= pair[1].1);
            assert!(ordered, "{question}: {:?}", step.topics);
        }
    }

    #[test]
    fn a_choice_answers_the_first_question() {
        let assistant = Assistant::new(Knowledge::bundled().unwrap()).unwrap();
        let candidates = [
            "Was kostet die Urkunde?",
            "Was kostet die Genehmigung?",
            "Was kostet die Bescheinigung?",
            "Was kostet der Ausweis?",
        ];
        let asked = candidates.map(|first| (first, assistant.understand(&[], first)));
        let asked = asked.into_iter().find(|(_, asked)| asked.is_guess());
        let (first, asked) = asked.expect("one of them is a guess");
        let options = assistant.options(&asked);
        assert!((2..=MOST).contains(&options.len()), "{options:?}");
        let history = [
            Turn::citizen(first),
            Turn::assistant(assistant.reference(&asked)),
        ];
        let by_label = assistant.understand(&history, &options[1].label);
        let by_number = assistant.understand(&history, "2");
        for chosen in [by_label, by_number] {
            assert_eq!(chosen.service.unwrap().id, options[1].service);
            assert!(!chosen.is_guess);
            assert_eq!(chosen.intents.first(), Some(&Intent::Fee));
        }
        // Without an offer a number is no choice.
        assert_ne!(assistant.understand(&[], "2").confidence, 1.0);
    }
}
