//! The knowledge base's own answer: what is shown where the model's is wrong, and what it is
//! compared with.

use super::courtesy::Act;
use super::reply::ServiceOption;
use super::wordings::keys;
use super::{Assistant, Register, Understanding};
use crate::german::sentences;
use crate::knowledge::{Intent, Phrases, Service};
use crate::wording::courtesy::suiting;

/// What is said where the knowledge base has nothing to say.
const NOT_UNDERSTOOD: &str = "Das ist leider noch nicht klar geworden. Hilfreich ist eine kurze \
    Frage, zum Beispiel nach einem Ausweis, einer Gebühr oder einem Termin.";
/// What is asked where several services may be meant, above and below their list.
const WHICH: &str = "Um welches Anliegen geht es?";
const NONE_OF_THEM: &str =
    "Die Nummer genügt. Passt nichts davon, hilft die Frage in anderen Worten weiter.";
/// What is said to a greeting where the knowledge base has no answer for it.
const GREETED: &str = "Eine Frage zu den Leistungen der Stadtverwaltung wird gern beantwortet.";

impl Assistant {
    /// The knowledge base's own answer to what was understood, placeholders filled, in the right
    /// form of address.
    pub(crate) fn reference(&self, understanding: &Understanding) -> String {
        let phrases = &self.knowledge.phrases;
        let register = understanding.register;
        let topic = understanding.topics.first().map(|&(topic, _)| topic);
        if let Some(contact) = &understanding.contact {
            return self.contact_answer(contact);
        }
        if understanding.act == Act::Thanks {
            let thanks = first(&phrases.thanks_answer, register, "Gern geschehen.");
            return self.fill(thanks, None);
        }
        if understanding.act == Act::Greeting {
            let greeting = first(&phrases.greeting_back, register, "Guten Tag!");
            let rest = topic.and_then(|topic| self.foreign_of(topic));
            let rest = rest.map_or(GREETED, |request| &request.answer);
            return self.fill(&format!("{greeting} {rest}"), None);
        }
        let Some(topic) = topic else {
            return NOT_UNDERSTOOD.to_string();
        };
        if let Some(request) = self.foreign_of(topic) {
            return self.fill(&request.answer, None);
        }
        let Some((office, service)) = self.service_of(topic) else {
            return NOT_UNDERSTOOD.to_string();
        };
        if let Some(question) = self.question_back(understanding) {
            return question;
        }
        let mut said: Vec<&str> = Vec::new();
        for (number, intent) in understanding.intents.iter().enumerate() {
            if let Some(fact) = service.facts.get(intent) {
                said.push(if number == 0 { &fact.text } else { &fact.short });
            }
        }
        if said.is_empty() {
            said.extend(
                service
                    .facts
                    .get(&Intent::What)
                    .or(service.facts.values().next())
                    .map(|fact| fact.text.as_str()),
            );
        }
        if let Some(offer) = offer(phrases, register) {
            said.push(offer);
        }
        self.fill(&said.join(" "), Some(office))
    }

    /// The services that may be meant, where it is not sure which.
    pub(super) fn options(&self, understanding: &Understanding) -> Vec<ServiceOption> {
        if !understanding.is_guess {
            return Vec::new();
        }
        let topics = understanding.topics.iter();
        let services = topics.filter_map(|&(topic, _)| self.service_of(topic));
        services
            .map(|(_, service)| ServiceOption {
                service: service.id.to_string(),
                label: service.label().to_string(),
            })
            .collect()
    }

    /// What is asked back where the best service is a guess.
    fn question_back(&self, understanding: &Understanding) -> Option<String> {
        let options = self.options(understanding);
        if options.is_empty() {
            return None;
        }
        let numbered = options.iter().zip(1..);
        let list: Vec<String> = numbered
            .map(|(option, number)| format!("{number}. {}", option.label))
            .collect();
        Some(format!("{WHICH}\n\n{}\n\n{NONE_OF_THEM}", list.join("\n")))
    }

    /// Legal sources of these sides of a service and the day at which they were checked.
    pub(super) fn sources(
        &self,
        service: Option<&Service>,
        intents: &[Intent],
    ) -> (Vec<String>, Option<String>) {
        let Some(service) = service else {
            return (Vec::new(), None);
        };
        let mut sources: Vec<String> = Vec::new();
        for fact in intents
            .iter()
            .filter_map(|intent| service.facts.get(intent))
        {
            for source in &fact.sources {
                if !sources
                    .iter()
                    .any(|known| known.as_str() == source.as_str())
                {
                    sources.push(source.to_string());
                }
            }
        }
        (
            sources,
            service.checked_on.as_ref().map(ToString::to_string),
        )
    }

    /// The service or request whose answer holds exactly this sentence.
    pub(super) fn who_says(&self, sentence: &[String]) -> Option<String> {
        if sentence.len() < 4 {
            return None;
        }
        let holds = |text: &str| {
            sentences(text)
                .into_iter()
                .any(|known| keys(known) == sentence)
        };
        let services = self
            .knowledge
            .offices
            .iter()
            .flat_map(|office| &office.services);
        for service in services {
            if service
                .facts
                .values()
                .any(|fact| holds(&fact.text) || holds(&fact.short))
            {
                return Some(service.id.to_string());
            }
        }
        let requests = &self.knowledge.out_of_remit.requests;
        requests
            .iter()
            .find(|request| holds(&request.answer))
            .map(|request| request.id.to_string())
    }
}

/// The offer of further help, where somebody is addressed.
fn offer(phrases: &Phrases, register: Register) -> Option<&str> {
    let list = &phrases.answer_closing;
    match register {
        Register::Sie => list.sie.first().map(|phrase| phrase.as_str()),
        Register::Du => list.du.first().map(|phrase| phrase.as_str()),
        Register::Neutral => None,
    }
}

fn first<'p>(
    list: &'p crate::knowledge::PhraseList,
    register: Register,
    otherwise: &'static str,
) -> &'p str {
    let neutral = list.neutral.first().map(|phrase| phrase.as_str());
    let found = match register {
        Register::Neutral => neutral,
        _ => suiting(list, register).next(),
    };
    found.unwrap_or(otherwise)
}
