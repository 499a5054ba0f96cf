//! The knowledge base as the generator sees it: subjects that can be asked about, each with its phrasings, and which
//! phrasings are held out for validation.

use super::draw::{Draw, Purpose};
use super::german::list;
use super::techniques::{expansion, office_naming};
use crate::knowledge::{Fact, ForeignRequest, Intent, Knowledge, Office, Service, fold};
use std::collections::{BTreeMap, HashSet};

/// The office id of requests that none of the offices handles.
pub const OUT_OF_REMIT: &str = "ausserhalb";

/// Share of the hand-written questions of an office that is held out, as one in so many.
const HELD_OUT_ONE_IN: usize = 20;

/// How an answer is worded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerForm {
    /// All that is known.
    Full,
    /// One sentence.
    Short,
}

/// What a subject is about.
pub enum Matter<'a> {
    /// One fact of a service.
    Fact(&'a Office, &'a Service, Intent, &'a Fact),
    /// Which office handles a service.
    Responsibility(&'a Office, &'a Service),
    /// A request that belongs elsewhere.
    Foreign(&'a ForeignRequest),
}

/// A way to ask about a subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Phrasing {
    /// The question.
    pub text: String,
    /// Whether it stands in the knowledge base (true) or was made from a pattern.
    pub hand_written: bool,
}

/// Something that can be asked about and has one answer.
pub struct Subject<'a> {
    /// Index into [`Catalog::offices`].
    pub office: usize,
    /// What it is about.
    pub matter: Matter<'a>,
    /// Phrasings for training.
    pub train: Vec<Phrasing>,
    /// Phrasings that occur in validation only.
    pub held_out: Vec<Phrasing>,
}

/// The names that a layout may put around a dialogue.
pub struct Asked<'a> {
    /// Name of the office, e.g. `Bauamt`.
    pub office_name: &'a str,
    /// The same in the accusative with its article.
    pub office_accusative: String,
    /// Title of the service.
    pub title: &'a str,
}

/// All subjects, by office.
pub struct Catalog<'a> {
    /// Office ids in order, then [`OUT_OF_REMIT`].
    pub offices: Vec<String>,
    /// All subjects.
    pub subjects: Vec<Subject<'a>>,
    /// For each of the offices: its subjects in the order in which they take turns.
    pub turns: Vec<Vec<usize>>,
    /// Services whose answers leave open which office is responsible; for them that question is not asked.
    pub without_office: Vec<String>,
}

impl<'a> Subject<'a> {
    /// The answer in the given form.
    pub fn answer(&self, form: AnswerForm) -> String {
        match (&self.matter, form) {
            (Matter::Fact(_, _, _, fact), AnswerForm::Full) => fact.text.to_string(),
            (Matter::Fact(_, _, _, fact), AnswerForm::Short) if fact.documents.is_empty() => {
                fact.short.to_string()
            }
            (Matter::Fact(_, _, _, fact), AnswerForm::Short) => document_list(fact),
            (Matter::Responsibility(office, service), form) => {
                office_naming::answer(office, service, form)
            }
            (Matter::Foreign(request), _) => request.answer.to_string(),
        }
    }

    /// The service, if one of the offices handles it.
    pub fn service(&self) -> Option<&'a Service> {
        match self.matter {
            Matter::Fact(_, service, _, _) | Matter::Responsibility(_, service) => Some(service),
            Matter::Foreign(_) => None,
        }
    }

    /// Id of the service or of the foreign request.
    pub fn service_id(&self) -> &'a str {
        match self.matter {
            Matter::Fact(_, service, _, _) | Matter::Responsibility(_, service) => &service.id,
            Matter::Foreign(request) => &request.id,
        }
    }

    /// The intent's key as it stands in the data set's records.
    pub fn intent(&self) -> &'static str {
        match self.matter {
            Matter::Fact(_, _, intent, _) => intent.key(),
            Matter::Responsibility(..) => office_naming::INTENT,
            Matter::Foreign(_) => OUT_OF_REMIT,
        }
    }

    /// The names for a layout.
    pub fn asked(&self) -> Asked<'a> {
        match self.matter {
            Matter::Fact(office, service, _, _) | Matter::Responsibility(office, service) => {
                let article = if office.about.article.as_str() == "der" {
                    "den"
                } else {
                    &office.about.article
                };
                let office_accusative = format!("{article} {}", office.about.name);
                Asked {
                    office_name: &office.about.name,
                    office_accusative,
                    title: &service.title,
                }
            }
            Matter::Foreign(_) => Asked {
                office_name: "Stadtverwaltung",
                office_accusative: "die Stadtverwaltung".to_string(),
                title: "Allgemeine Anfrage",
            },
        }
    }
}

impl<'a> Catalog<'a> {
    /// Builds the catalogue; order and held-out phrasings depend on the seed.
    pub fn new(knowledge: &'a Knowledge, seed: u64) -> Catalog<'a> {
        let mut offices: Vec<String> = knowledge
            .offices
            .iter()
            .map(|office| office.id().to_string())
            .collect();
        offices.push(OUT_OF_REMIT.to_string());
        let mut catalog = Catalog {
            turns: vec![Vec::new(); offices.len()],
            offices,
            subjects: Vec::new(),
            without_office: Vec::new(),
        };
        for (index, office) in knowledge.offices.iter().enumerate() {
            for service in &office.services {
                for (intent, fact) in &service.facts {
                    catalog.add(index, Matter::Fact(office, service, *intent, fact));
                }
                if office_naming::is_settled(office, service) {
                    catalog.add(index, Matter::Responsibility(office, service));
                } else {
                    catalog.without_office.push(service.id.to_string());
                }
            }
        }
        for request in &knowledge.out_of_remit.requests {
            catalog.add(knowledge.offices.len(), Matter::Foreign(request));
        }
        catalog.collect_phrasings();
        for office in 0..catalog.offices.len() {
            catalog.hold_out(seed, office);
            catalog.arrange(seed, office);
        }
        catalog
    }

    fn add(&mut self, office: usize, matter: Matter<'a>) {
        self.turns[office].push(self.subjects.len());
        self.subjects.push(Subject {
            office,
            matter,
            train: Vec::new(),
            held_out: Vec::new(),
        });
    }

    // Hand-written questions of all subjects come first, so that a pattern never takes a question away from its own subject.
    fn collect_phrasings(&mut self) {
        let mut seen = HashSet::new();
        for subject in &mut self.subjects {
            let questions = match subject.matter {
                Matter::Fact(_, _, _, fact) => &fact.questions[..],
                Matter::Foreign(request) => &request.questions[..],
                Matter::Responsibility(..) => &[],
            };
            let fresh = questions
                .iter()
                .filter(|question| seen.insert(fold(question)));
            subject.train.extend(fresh.map(|question| Phrasing {
                text: question.to_string(),
                hand_written: true,
            }));
        }
        for subject in &mut self.subjects {
            let made = match subject.matter {
                Matter::Fact(_, service, intent, _) => expansion::questions(service, intent),
                Matter::Responsibility(_, service) => office_naming::questions(service),
                Matter::Foreign(_) => Vec::new(),
            };
            let fresh = made
                .into_iter()
                .filter(|question| seen.insert(fold(question)));
            subject.train.extend(fresh.map(|text| Phrasing {
                text,
                hand_written: false,
            }));
        }
    }

    // Takes one phrasing from as many subjects as are needed, so that each subject is still trained through its others.
    fn hold_out(&mut self, seed: u64, office: usize) {
        let mut draw = Draw::new(seed, Purpose::HoldOut, office as u64, 0);
        let phrasings: usize = self.turns[office]
            .iter()
            .map(|&subject| self.subjects[subject].train.len())
            .sum();
        let mut wanted = phrasings.div_ceil(HELD_OUT_ONE_IN);
        let mut order = self.turns[office].clone();
        draw.shuffle(&mut order);
        for least in [3, 2] {
            for &index in &order {
                let subject = &mut self.subjects[index];
                if wanted > 0 && subject.held_out.is_empty() && subject.train.len() >= least {
                    // The first question of a fact is the one that most citizens ask: it is always trained.
                    let hand_written = subject
                        .train
                        .iter()
                        .filter(|phrasing| phrasing.hand_written)
                        .count();
                    let choices = if hand_written > 1 {
                        1..hand_written
                    } else {
                        hand_written..subject.train.len()
                    };
                    let taken = subject
                        .train
                        .remove(choices.start + draw.below(choices.len()));
                    subject.held_out.push(taken);
                    wanted -= 1;
                }
            }
        }
    }

    // Services take turns within an office, so that a small stage already touches all of them.
    fn arrange(&mut self, seed: u64, office: usize) {
        let mut draw = Draw::new(seed, Purpose::Order, office as u64, 0);
        let mut order = std::mem::take(&mut self.turns[office]);
        draw.shuffle(&mut order);
        let mut rank_in_service: BTreeMap<&str, usize> = BTreeMap::new();
        let mut ranked = Vec::with_capacity(order.len());
        for index in order {
            let rank = rank_in_service
                .entry(self.subjects[index].service_id())
                .or_default();
            ranked.push((*rank, index));
            *rank += 1;
        }
        // A stable sort: within a rank the shuffled order stays.
        ranked.sort_by_key(|&(rank, _)| rank);
        for &(_, index) in &ranked {
            // Citizens' own words go first, beginning with the fact's first question; patterns fill up what larger stages need.
            let train = &mut self.subjects[index].train;
            if let Some((_, others)) = train.split_first_mut() {
                draw.shuffle(others);
                others.sort_by_key(|phrasing| !phrasing.hand_written);
            }
        }
        self.turns[office] = ranked.into_iter().map(|(_, index)| index).collect();
    }
}

fn document_list(fact: &Fact) -> String {
    let documents: Vec<&str> = fact
        .documents
        .iter()
        .map(|document| document.as_str())
        .collect();
    format!("Benötigt werden: {}.", list(&documents))
}

#[cfg(test)]
pub(super) fn small_knowledge() -> Knowledge {
    let folder = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/fixtures/knowledge_small"
    );
    Knowledge::load(std::path::Path::new(folder)).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_out_phrasing_is_trained_nowhere_and_its_subject_still_is() {
        let knowledge = small_knowledge();
        let mut held_out_somewhere = HashSet::new();
        for seed in 0..20 {
            let catalog = Catalog::new(&knowledge, seed);
            let trained: HashSet<String> = catalog
                .subjects
                .iter()
                .flat_map(|subject| &subject.train)
                .map(|phrasing| fold(&phrasing.text))
                .collect();
            for (index, office) in catalog.turns.iter().enumerate() {
                let held_out: Vec<&Phrasing> = office
                    .iter()
                    .flat_map(|&subject| &catalog.subjects[subject].held_out)
                    .collect();
                assert!(!held_out.is_empty(), "office {index} holds nothing out");
                for phrasing in held_out {
                    assert!(!trained.contains(&fold(&phrasing.text)));
                    held_out_somewhere.insert(phrasing.text.clone());
                }
            }
            for subject in &catalog.subjects {
                if let Matter::Fact(_, _, _, fact) = subject.matter {
                    assert_eq!(subject.train[0].text, fact.questions[0].as_str());
                }
                assert!(!subject.train.is_empty());
            }
        }
        assert!(
            held_out_somewhere.len() > 6,
            "the seed decides what is held out"
        );
    }

    #[test]
    fn services_take_turns() {
        let knowledge = small_knowledge();
        let catalog = Catalog::new(&knowledge, 1);
        let standesamt = catalog
            .offices
            .iter()
            .position(|id| id == "standesamt")
            .unwrap();
        let services: HashSet<&str> = catalog.turns[standesamt]
            .iter()
            .take(2)
            .map(|&subject| catalog.subjects[subject].service_id())
            .collect();
        assert_eq!(services.len(), 2);
    }

    #[test]
    fn documents_are_answered_by_their_list_when_short() {
        let knowledge = small_knowledge();
        let catalog = Catalog::new(&knowledge, 1);
        let documents = catalog
            .subjects
            .iter()
            .find(|subject| subject.intent() == "unterlagen")
            .unwrap();
        let expected =
            "Benötigt werden: Personalausweis oder Reisepass und Wohnungsgeberbestätigung.";
        assert_eq!(documents.answer(AnswerForm::Short), expected);
        assert!(
            documents
                .answer(AnswerForm::Full)
                .starts_with("Für die Anmeldung")
        );
    }
}
