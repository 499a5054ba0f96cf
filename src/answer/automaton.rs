//! Every answer that may be given to what was understood, as an automaton over tokens: a model that
//! walks through it says, to the last word, what the knowledge base says.
//!
//! An answer is put together as in the training set: perhaps an opening, the facts that are asked
//! for in one of their wordings, perhaps a closing. Values of the city are placeholders, as the
//! model learnt them; the guard fills them in.
//!
//! A part's tokens do not depend on its neighbours: parts are joined by one space, at which the
//! tokenizer cuts first of all, so `" " + part` has the tokens that the part has in the whole text.

use super::courtesy::Act;
use super::wordings::keys;
use super::{Assistant, Register, Understanding};
use crate::generate::TokenAutomaton;
use crate::generate::constraint::Builder;
use crate::german::{fold, sentences};
use crate::knowledge::{Fact, Intent, Office, PhraseList, Phrases, Service};
use crate::tokenizer::Tokenizer;
use crate::wording::answers::{Length, addressed_documents, of_fact};
use crate::wording::courtesy::{is_cheerful, is_grave, repeats_contact};
use crate::wording::office_naming;
use crate::wording::references::{as_of, citations, month_of};
use anyhow::Result;
use std::collections::{BTreeSet, HashMap};

/// Sentences of so many bytes, evened out, may stand in one answer only once.
const TELLING: usize = 20;

/// The answers to one question, part by part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Answers {
    /// What may stand before the facts.
    pub openings: Vec<String>,
    /// Each wording of the first fact, with what may follow it.
    pub bodies: Vec<Body>,
}

/// One wording of what is asked for first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Body {
    /// The wording.
    pub text: String,
    /// The wordings of what is asked for besides, one of each.
    pub others: Vec<Vec<String>>,
    /// What may stand at the end.
    pub closings: Vec<String>,
}

impl Assistant {
    /// The answers that may be given to a question, as tokens. `None` where the knowledge base has
    /// no choice of wordings: a request that belongs elsewhere, one that was not understood.
    ///
    /// # Errors
    /// If the tokenizer fails.
    pub(super) fn automaton(
        &self,
        understanding: &Understanding,
        question: &str,
        tokenizer: &Tokenizer,
    ) -> Result<Option<TokenAutomaton>> {
        match self.answers(understanding, question) {
            Some(answers) => answers.automaton(tokenizer).map(Some),
            None => Ok(None),
        }
    }

    /// The answers that may be given to a question, as texts.
    pub(super) fn answers(&self, understanding: &Understanding, question: &str) -> Option<Answers> {
        let phrases = &self.knowledge.phrases;
        let register = understanding.register;
        if understanding.act == Act::Thanks {
            let said = of(&phrases.thanks_answer, register);
            let bodies = said.map(|text| Body {
                text: text.to_string(),
                ..Body::default()
            });
            let bodies: Vec<Body> = bodies.collect();
            return (!bodies.is_empty()).then(|| Answers {
                openings: Vec::new(),
                bodies,
            });
        }
        if understanding.act == Act::Greeting || understanding.is_guess {
            return None;
        }
        let &(topic, _) = understanding.topics.first()?;
        let (office, service) = self.service_of(topic)?;
        let told = Told {
            office,
            service,
            phrases,
            register,
        };
        let intents = told.intents(understanding);
        let (first, others) = intents.split_first()?;
        let mut openings: Vec<&str> = of(&phrases.answer_opening, register).collect();
        if self.courtesy.greets(question) {
            openings.extend(of(&phrases.greeting_back, register));
        }
        let grave = is_grave(service);
        openings.retain(|opening| !(grave && is_cheerful(opening)));
        let bodies = told.wordings(*first, question).into_iter().map(|text| {
            let others = told.others(&text, others);
            let closings = told.closings(*first, &text, &others);
            Body {
                text,
                others,
                closings,
            }
        });
        Some(Answers {
            openings: openings.into_iter().map(str::to_string).collect(),
            bodies: bodies.collect(),
        })
    }
}

/// What an answer is about, and to whom.
#[derive(Clone, Copy)]
struct Told<'a> {
    office: &'a Office,
    service: &'a Service,
    phrases: &'a Phrases,
    register: Register,
}

impl<'a> Told<'a> {
    fn fact(&self, intent: Intent) -> Option<&'a Fact> {
        self.service.facts.get(&intent)
    }

    /// The sides of the service that are told: those asked for, or what the service is.
    fn intents(&self, understanding: &Understanding) -> Vec<Intent> {
        let facts = &self.service.facts;
        let asked = understanding.intents.iter().copied();
        let mut told: Vec<Intent> = asked.filter(|intent| facts.contains_key(intent)).collect();
        if told.is_empty() {
            let what = facts.keys().find(|intent| **intent == Intent::What);
            told.extend(what.or(facts.keys().next()));
        }
        told
    }

    /// The wordings of the fact that is asked for first: those that leave out nothing of the full
    /// one that the question names. The full one is always among them.
    fn wordings(&self, intent: Intent, question: &str) -> Vec<String> {
        let Some(fact) = self.fact(intent) else {
            return Vec::new();
        };
        let mut all: Vec<String> = of_fact(fact).into_iter().map(|v| v.text).collect();
        all.extend(self.addressed(addressed_documents(fact)));
        let of_full = beginnings(&fact.text);
        let named: Vec<String> = beginnings(question)
            .into_iter()
            .filter(|word| of_full.contains(word))
            .collect();
        all.retain(|text| {
            let said = beginnings(text);
            named.iter().all(|word| said.contains(word))
        });
        if intent == Intent::Where && office_naming::is_settled(self.office, self.service) {
            all.extend(office_naming::answers(self.office, self.service));
            all.extend(self.addressed(Some(office_naming::sending(self.office))));
        }
        all
    }

    /// The wording of two that addresses the citizen as he addresses the assistant.
    fn addressed(&self, both: Option<[String; 2]>) -> Option<String> {
        let [sie, du] = both?;
        match self.register {
            Register::Sie => Some(sie),
            Register::Du => Some(du),
            Register::Neutral => None,
        }
    }

    /// Short wordings of what is asked for besides. Nothing is told twice.
    fn others(&self, first: &str, intents: &[Intent]) -> Vec<Vec<String>> {
        let mut said = telling(first);
        let mut others = Vec::new();
        for fact in intents.iter().filter_map(|&intent| self.fact(intent)) {
            let short = of_fact(fact)
                .into_iter()
                .filter(|v| v.length == Length::Short);
            let mut texts: Vec<String> = short.map(|variant| variant.text).collect();
            texts.retain(|text| telling(text).is_disjoint(&said));
            if !texts.is_empty() {
                texts.iter().for_each(|text| said.extend(telling(text)));
                others.push(texts);
            }
        }
        others
    }

    /// What may stand behind an answer: offers of help and wishes; where one fact is told, its
    /// legal source or its day.
    fn closings(&self, intent: Intent, body: &str, others: &[Vec<String>]) -> Vec<String> {
        let register = self.register;
        let grave = is_grave(self.service);
        let mut closings: Vec<String> = Vec::new();
        let wishes = of(&self.phrases.answer_wish, register).filter(|_| !grave);
        let polite = of(&self.phrases.answer_closing, register).chain(wishes);
        let said = || others.iter().flatten().map(String::as_str).chain([body]);
        closings.extend(
            polite
                .filter(|closing| !said().any(|text| repeats_contact(closing, text)))
                .map(str::to_string),
        );
        if others.is_empty() {
            let sources = self.fact(intent).map(|fact| citations(fact, self.phrases));
            closings.extend(sources.into_iter().flatten());
            if let Some(month) = month_of(self.service) {
                let phrases = of(&self.phrases.as_of, Register::Neutral);
                closings.extend(phrases.map(|phrase| as_of(phrase, &month)));
            }
        }
        closings
    }
}

impl Answers {
    /// The answers as tokens.
    fn automaton(&self, tokenizer: &Tokenizer) -> Result<TokenAutomaton> {
        let mut parts = Parts {
            tokenizer,
            known: HashMap::new(),
        };
        let mut builder = Builder::new();
        let end = builder.end();
        let mut bodies = Vec::new();
        // Wordings mostly have the same closings.
        let mut closings: Vec<(&[String], u32)> = Vec::new();
        for body in &self.bodies {
            let known = closings.iter().find(|(texts, _)| *texts == body.closings);
            let mut next = match known {
                Some(&(_, node)) => node,
                None => {
                    let tokens = parts.of(&body.closings)?;
                    let tokens = tokens.iter().map(Vec::as_slice);
                    let node = builder.any_of(tokens.chain([&[][..]]), &[end]);
                    closings.push((&body.closings, node));
                    node
                }
            };
            for other in body.others.iter().rev() {
                let tokens = parts.of(other)?;
                next = builder.any_of(tokens.iter().map(Vec::as_slice), &[next]);
            }
            let tokens = parts.of(std::slice::from_ref(&body.text))?;
            bodies.push(builder.any_of(tokens.iter().map(Vec::as_slice), &[next]));
        }
        let tokens = parts.of(&self.openings)?;
        let tokens = tokens.iter().map(Vec::as_slice);
        let start = builder.any_of(tokens.chain([&[][..]]), &bodies);
        // In a dialogue of the training set a line break and the next question follow an answer.
        let mut ends = tokenizer.encode("\n")?;
        ends.truncate(1);
        ends.push(tokenizer.end_of_text());
        Ok(builder.build(start, &ends))
    }
}

/// Tokens of parts, each with the space before it.
struct Parts<'t> {
    tokenizer: &'t Tokenizer,
    known: HashMap<String, Vec<u32>>,
}

impl Parts<'_> {
    fn of(&mut self, texts: &[String]) -> Result<Vec<Vec<u32>>> {
        let mut found = Vec::with_capacity(texts.len());
        for text in texts {
            let tokens = match self.known.get(text) {
                Some(tokens) => tokens.clone(),
                None => self.tokenizer.encode(&format!(" {}", text.trim()))?,
            };
            self.known.insert(text.clone(), tokens.clone());
            found.push(tokens);
        }
        Ok(found)
    }
}

/// The phrases in a form of address, as the training set takes them.
fn of(list: &PhraseList, register: Register) -> impl Iterator<Item = &str> {
    list.of(register).iter().map(|phrase| phrase.as_str())
}

/// Beginnings of the longer words of a text and its figures: what it is about.
fn beginnings(text: &str) -> BTreeSet<String> {
    let folded = fold(text);
    folded
        .split(' ')
        .filter(|word| word.len() >= 5 || word.starts_with(|c: char| c.is_ascii_digit()))
        .map(|word| word.chars().take(6).collect())
        .collect()
}

/// The longer sentences of a text, evened out as the guard compares them.
fn telling(text: &str) -> BTreeSet<String> {
    let all = sentences(text).into_iter();
    all.map(|sentence| keys(sentence).join(" "))
        .filter(|sentence| sentence.len() > TELLING)
        .collect()
}

#[cfg(test)]
mod tests;
