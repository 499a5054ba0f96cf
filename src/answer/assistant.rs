//! Everything the assistant knows besides the model, made once.

use super::contact::Names;
use super::courtesy::Courtesy;
use super::emergency::Alarm;
use super::intents::IntentModel;
use super::prompt::contacts;
use super::retrieval::Document;
use super::spelling::Vocabulary;
use super::topics::{Topic, Topics};
use crate::german::fold;
use crate::knowledge::{ForeignRequest, Knowledge, Office, Service};
use anyhow::{Context, Result, ensure};
use serde::Serialize;

/// A service by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ServiceRef {
    /// Its id in the knowledge base.
    pub id: String,
    /// Its title.
    pub title: String,
}

/// An office by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OfficeRef {
    /// Its id in the knowledge base.
    pub id: String,
    /// Its name.
    pub name: String,
}

/// An office and how to reach it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OfficeContact {
    /// Its id in the knowledge base.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Postal address.
    pub address: String,
    /// Telephone number.
    pub phone: String,
    /// E-mail address.
    pub email: String,
    /// Opening hours.
    pub hours: String,
    /// What it does; empty inside a reply.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<ServiceRef>,
}

/// Everything the assistant knows besides the model. Made once; nothing is read from disk
/// afterwards.
pub struct Assistant {
    pub(super) knowledge: Knowledge,
    pub(super) topics: Vec<Topic>,
    pub(super) scorer: Topics,
    pub(super) intents: IntentModel,
    pub(super) alarm: Alarm,
    pub(super) courtesy: Courtesy,
    pub(super) names: Names,
    pub(super) vocabulary: Vocabulary,
    /// The city's values that stand in answers, with their placeholders.
    pub(super) contacts: Vec<(String, String)>,
}

/// How much a title, an alias, the words of an answer add to what a service is about, beside a
/// question.
const TITLE_WEIGHT: f32 = 2.0;
const ALIAS_WEIGHT: f32 = 2.0;
const ANSWER_WEIGHT: f32 = 1.0;

impl Assistant {
    /// Checks that every answer can be filled with the city's values, and builds the indexes.
    /// Errors: a value that an answer names and `kommune.toml` does not have, by name.
    pub fn new(knowledge: Knowledge) -> Result<Assistant> {
        check(&knowledge)?;
        let mut topics = Vec::new();
        for (number, office) in knowledge.offices.iter().enumerate() {
            topics
                .extend((0..office.services.len()).map(|service| Topic::Service(number, service)));
        }
        topics.extend((0..knowledge.out_of_remit.requests.len()).map(Topic::Foreign));
        let documents = documents(&knowledge, &topics);
        let folded: Vec<String> = documents
            .iter()
            .map(|document| fold(&document.text))
            .collect();
        let courtesy = Courtesy::new(&knowledge.phrases);
        let said = folded.iter().map(String::as_str).chain(courtesy.texts());
        let asked: Vec<String> = knowledge
            .phrasings
            .iter()
            .flat_map(|file| file.texts())
            .map(|(_, text)| fold(text))
            .collect();
        Ok(Assistant {
            vocabulary: Vocabulary::new(said, asked.iter().map(String::as_str)),
            scorer: Topics::new(&knowledge, &topics, &documents),
            intents: IntentModel::new(&knowledge),
            alarm: Alarm::new(&knowledge),
            names: Names::new(&knowledge),
            courtesy,
            contacts: contacts(&knowledge),
            topics,
            knowledge,
        })
    }

    /// The knowledge base it answers from.
    pub fn knowledge(&self) -> &Knowledge {
        &self.knowledge
    }

    /// Every office with how to reach it and what it does, in the order of their ids.
    pub fn offices(&self) -> Vec<OfficeContact> {
        self.knowledge
            .offices
            .iter()
            .map(|office| OfficeContact {
                services: office.services.iter().map(service_ref).collect(),
                ..self.contact(office)
            })
            .collect()
    }

    /// How to reach an office.
    pub(super) fn contact(&self, office: &Office) -> OfficeContact {
        let value = |name| {
            let found = self.knowledge.municipality.value(name, Some(office.id()));
            found.unwrap_or_default().to_string()
        };
        OfficeContact {
            id: office.id().to_string(),
            name: office.about.name.to_string(),
            address: value("adresse"),
            phone: value("telefon"),
            email: value("email"),
            hours: value("oeffnungszeiten"),
            services: Vec::new(),
        }
    }

    /// Office and service of a topic, if it is one.
    pub(super) fn service_of(&self, topic: usize) -> Option<(&Office, &Service)> {
        match *self.topics.get(topic)? {
            Topic::Service(office, service) => {
                let office = self.knowledge.offices.get(office)?;
                Some((office, office.services.get(service)?))
            }
            Topic::Foreign(_) => None,
        }
    }

    /// The request that belongs elsewhere, if the topic is one.
    pub(super) fn foreign_of(&self, topic: usize) -> Option<&ForeignRequest> {
        match *self.topics.get(topic)? {
            Topic::Foreign(request) => self.knowledge.out_of_remit.requests.get(request),
            Topic::Service(..) => None,
        }
    }

    /// The topic of the foreign request with this id.
    pub(super) fn foreign_topic(&self, id: &str) -> Option<usize> {
        (0..self.topics.len()).find(|&topic| {
            self.foreign_of(topic)
                .is_some_and(|request| request.id.as_str() == id)
        })
    }

    /// A text with the city's values, as this office has them. What cannot be filled stays as it
    /// is; [`Assistant::new`] made sure that the knowledge base's own texts can.
    pub(super) fn fill(&self, text: &str, office: Option<&Office>) -> String {
        let office = office.map(Office::id);
        let filled = self.knowledge.municipality.fill(text, office);
        filled.unwrap_or_else(|_| text.to_string())
    }
}

pub(super) fn service_ref(service: &Service) -> ServiceRef {
    ServiceRef {
        id: service.id.to_string(),
        title: service.title.to_string(),
    }
}

fn check(knowledge: &Knowledge) -> Result<()> {
    let fills =
        |text: &str, office: Option<&str>| knowledge.municipality.fill(text, office).map(drop);
    for office in &knowledge.offices {
        for name in ["stadt", "adresse", "telefon", "email", "oeffnungszeiten"] {
            let found = knowledge.municipality.value(name, Some(office.id()));
            ensure!(
                found.is_some(),
                "{} has no value \"{name}\" for {}: add it under [werte]",
                knowledge.municipality.file.path.display(),
                office.about.name
            );
        }
        for service in &office.services {
            for fact in service.facts.values() {
                let texts = [&fact.text, &fact.short].into_iter().chain(&fact.documents);
                for text in texts {
                    fills(text, Some(office.id()))
                        .with_context(|| format!("service {}", service.id.as_str()))?;
                }
            }
        }
    }
    for request in &knowledge.out_of_remit.requests {
        fills(&request.answer, None).with_context(|| format!("request {}", request.id.as_str()))?;
    }
    Ok(())
}

fn documents(knowledge: &Knowledge, topics: &[Topic]) -> Vec<Document> {
    let mut documents = Vec::new();
    for (topic, kind) in topics.iter().enumerate() {
        let mut add = |text: String, is_near, weight| {
            documents.push(Document {
                topic,
                text,
                is_near,
                weight,
            });
        };
        match *kind {
            Topic::Service(office, service) => {
                let service = &knowledge.offices[office].services[service];
                add(service.title.to_string(), true, TITLE_WEIGHT);
                add(service.topic.to_string(), true, TITLE_WEIGHT);
                for alias in &service.aliases {
                    add(alias.to_string(), true, ALIAS_WEIGHT);
                }
                for fact in service.facts.values() {
                    for question in &fact.questions {
                        add(question.to_string(), true, 1.0);
                    }
                    let answer = format!("{} {}", fact.text, fact.short);
                    add(answer, false, ANSWER_WEIGHT);
                }
            }
            Topic::Foreign(request) => {
                let request = &knowledge.out_of_remit.requests[request];
                for question in &request.questions {
                    add(question.to_string(), true, 1.0);
                }
                add(request.answer.to_string(), false, ANSWER_WEIGHT);
            }
        }
    }
    documents
}
