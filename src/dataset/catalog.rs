//! The knowledge base as the generator sees it: subjects that can be asked about, each with its
//! phrasings and answers, and which phrasings are held out for validation.

use super::rng::{KeyedRng, Purpose};
use super::stems::stems;
use crate::german::grammar::accusative;
use crate::german::synonyms::canonical;
use crate::german::{Register, fold};
use crate::knowledge::{Fact, ForeignRequest, Intent, Knowledge, Office, Service};
use crate::wording::answers::{AnswerVariant, Length, addressed_documents, of_fact};
use crate::wording::courtesy::is_grave;
use crate::wording::{office_naming, patterns};
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// The office id of requests that none of the offices handles.
pub(crate) const OUT_OF_REMIT: &str = "ausserhalb";

/// One in N of an office's questions is held out by itself.
const HELD_OUT_ONE_IN: usize = 20;
/// One in N services holds out a whole family: every hand-written phrasing of one fact but
/// the first.
const FAMILY_ONE_IN: usize = 8;

/// How much an answer should say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Detail {
    /// The whole text of the knowledge base.
    Full,
    /// Any variant.
    Any,
    /// One sentence or a list.
    Short,
    /// The same; it may say that it is short.
    Brief,
}

/// What a subject is about.
pub(crate) enum SubjectKind<'a> {
    /// One fact of a service.
    Fact(&'a Office, &'a Service, Intent, &'a Fact),
    /// Which office handles a service.
    Responsibility(&'a Office, &'a Service),
    /// A request that belongs elsewhere.
    Foreign(&'a ForeignRequest),
}

/// A way to ask about a subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Phrasing {
    /// The question.
    pub text: String,
    /// Whether it stands in the knowledge base (true) or was made from a pattern.
    pub hand_written: bool,
    /// Whether it is the first of its fact: the one that most citizens ask.
    pub main: bool,
}

/// Something that can be asked about and has one answer, in several wordings.
pub(crate) struct Subject<'a> {
    /// Index into [`Catalog::offices`].
    pub office: usize,
    /// What it is about.
    pub kind: SubjectKind<'a>,
    /// Phrasings for training.
    pub train: Vec<Phrasing>,
    /// Phrasings that occur in validation only.
    pub held_out: Vec<Phrasing>,
    variants: Vec<AnswerVariant>,
    /// Variants that address the citizen: with Sie and with du.
    addressed: Option<[String; 2]>,
    grave: bool,
}

/// The names that a layout may put around a dialogue.
pub(crate) struct Asked<'a> {
    /// Name of the office, e.g. `Bauamt`.
    pub office_name: &'a str,
    /// The same in the accusative with its article.
    pub office_accusative: String,
    /// Title of the service.
    pub title: &'a str,
}

/// All subjects, by office.
pub(crate) struct Catalog<'a> {
    /// Office ids in order, then [`OUT_OF_REMIT`].
    pub offices: Vec<String>,
    /// All subjects.
    pub subjects: Vec<Subject<'a>>,
    /// For each of the offices: its subjects in the order in which they take turns.
    pub turns: Vec<Vec<usize>>,
    /// Services whose answers leave open which office is responsible; for them that question is not
    /// asked.
    pub without_office: Vec<String>,
    /// The subjects of each service that are facts.
    by_service: BTreeMap<&'a str, Vec<usize>>,
}

impl<'a> Subject<'a> {
    fn new(office: usize, kind: SubjectKind<'a>) -> Subject<'a> {
        let (variants, addressed) = match kind {
            SubjectKind::Fact(_, _, _, fact) => (of_fact(fact), addressed_documents(fact)),
            SubjectKind::Responsibility(office, service) => (
                answers_about(office, service),
                Some(office_naming::sending(office)),
            ),
            SubjectKind::Foreign(request) => (
                vec![AnswerVariant {
                    text: request.answer.to_string(),
                    length: Length::Full,
                }],
                None,
            ),
        };
        let grave = match kind {
            SubjectKind::Fact(_, service, _, _) | SubjectKind::Responsibility(_, service) => {
                is_grave(service)
            }
            SubjectKind::Foreign(_) => true,
        };
        Subject {
            office,
            kind,
            train: Vec::new(),
            held_out: Vec::new(),
            variants,
            addressed,
            grave,
        }
    }

    /// The full answer, word for word from the knowledge base.
    pub(crate) fn full(&self) -> &str {
        &self.variants[0].text
    }

    /// Whether the answer wishes no nice day.
    pub(crate) fn is_grave(&self) -> bool {
        self.grave
    }

    /// One wording of the answer in this form of address. With `asked`, a question that may be
    /// about one side of the fact only, nothing is left out of the full answer that the question
    /// names.
    pub(crate) fn answer(
        &self,
        detail: Detail,
        register: Register,
        asked: Option<&str>,
        rng: &mut KeyedRng,
    ) -> String {
        if detail == Detail::Full {
            return self.full().to_string();
        }
        let wanted: Vec<u64> = match asked {
            Some(question) => {
                let of_answer = stems(self.full());
                let of_question = stems(question).into_iter();
                of_question
                    .filter(|stem| of_answer.binary_search(stem).is_ok())
                    .collect()
            }
            None => Vec::new(),
        };
        let says_it = |text: &str| {
            let said = stems(text);
            wanted.iter().all(|stem| said.binary_search(stem).is_ok())
        };
        if let Some(addressed) = &self.addressed
            && register != Register::Neutral
            && rng.percent(40)
        {
            let text = &addressed[usize::from(register == Register::Du)];
            if asked.is_none() || says_it(text) {
                return text.clone();
            }
        }
        let length = match (detail, rng.below(100)) {
            (Detail::Any, 0..45) => Length::Full,
            (Detail::Any, 45..75) => Length::Middle,
            (Detail::Brief, 0..30) => Length::Summary,
            _ => Length::Short,
        };
        // The knowledge base's own short answer is the most frequent of the short ones.
        if length == Length::Short
            && rng.percent(45)
            && let Some(short) = self.variants.get(1)
            && says_it(&short.text)
        {
            return short.text.clone();
        }
        let fitting: Vec<&AnswerVariant> = self
            .variants
            .iter()
            .filter(|variant| variant.length == length && says_it(&variant.text))
            .collect();
        match rng.choose(&fitting) {
            Some(variant) => variant.text.clone(),
            None => self.full().to_string(),
        }
    }

    /// The service, if one of the offices handles it.
    pub(crate) fn service(&self) -> Option<&'a Service> {
        match self.kind {
            SubjectKind::Fact(_, service, _, _) | SubjectKind::Responsibility(_, service) => {
                Some(service)
            }
            SubjectKind::Foreign(_) => None,
        }
    }

    /// Id of the service or of the foreign request.
    pub(crate) fn service_id(&self) -> &'a str {
        match self.kind {
            SubjectKind::Fact(_, service, _, _) | SubjectKind::Responsibility(_, service) => {
                &service.id
            }
            SubjectKind::Foreign(request) => &request.id,
        }
    }

    /// The intent's key as it stands in the data set's records.
    pub(crate) fn intent(&self) -> &'static str {
        match self.kind {
            SubjectKind::Fact(_, _, intent, _) => intent.key(),
            SubjectKind::Responsibility(..) => office_naming::INTENT,
            SubjectKind::Foreign(_) => OUT_OF_REMIT,
        }
    }

    /// The names for a layout.
    pub(crate) fn asked(&self) -> Asked<'a> {
        match self.kind {
            SubjectKind::Fact(office, service, _, _)
            | SubjectKind::Responsibility(office, service) => {
                let article = accusative(&office.about.article);
                let office_accusative = format!("{article} {}", office.about.name);
                Asked {
                    office_name: &office.about.name,
                    office_accusative,
                    title: &service.title,
                }
            }
            SubjectKind::Foreign(_) => Asked {
                office_name: "Stadtverwaltung",
                office_accusative: "die Stadtverwaltung".to_string(),
                title: "Allgemeine Anfrage",
            },
        }
    }
}

impl<'a> Catalog<'a> {
    /// Builds the catalogue; order and held-out phrasings depend on the seed.
    pub(crate) fn new(knowledge: &'a Knowledge, seed: u64) -> Catalog<'a> {
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
            by_service: BTreeMap::new(),
        };
        for (index, office) in knowledge.offices.iter().enumerate() {
            for service in &office.services {
                for (intent, fact) in &service.facts {
                    catalog.add(index, SubjectKind::Fact(office, service, *intent, fact));
                }
                if office_naming::is_settled(office, service) {
                    catalog.add(index, SubjectKind::Responsibility(office, service));
                } else {
                    catalog.without_office.push(service.id.to_string());
                }
            }
        }
        for request in &knowledge.out_of_remit.requests {
            catalog.add(knowledge.offices.len(), SubjectKind::Foreign(request));
        }
        catalog.collect_phrasings();
        for office in 0..catalog.offices.len() {
            catalog.hold_out_families(seed, office);
            catalog.hold_out(seed, office);
        }
        catalog.keep_apart();
        for office in 0..catalog.offices.len() {
            catalog.arrange(seed, office);
        }
        catalog
    }

    fn add(&mut self, office: usize, kind: SubjectKind<'a>) {
        let index = self.subjects.len();
        self.turns[office].push(index);
        if let SubjectKind::Fact(_, service, _, _) = kind {
            self.by_service.entry(&service.id).or_default().push(index);
        }
        self.subjects.push(Subject::new(office, kind));
    }

    /// The subjects that are facts of this service.
    pub(crate) fn facts_of(&self, service: &Service) -> impl Iterator<Item = &Subject<'a>> {
        let indices = self
            .by_service
            .get(service.id.as_str())
            .into_iter()
            .flatten();
        indices.map(|&index| &self.subjects[index])
    }

    // Hand-written questions of all subjects come first, so that a pattern never takes a question
    // away from its own subject.
    fn collect_phrasings(&mut self) {
        let mut seen = HashSet::new();
        for subject in &mut self.subjects {
            let questions = match subject.kind {
                SubjectKind::Fact(_, _, _, fact) => &fact.questions[..],
                SubjectKind::Foreign(request) => &request.questions[..],
                SubjectKind::Responsibility(..) => &[],
            };
            let fresh = questions
                .iter()
                .filter(|question| seen.insert(fold(question)));
            subject
                .train
                .extend(fresh.enumerate().map(|(number, question)| Phrasing {
                    text: question.to_string(),
                    hand_written: true,
                    main: number == 0,
                }));
        }
        for subject in &mut self.subjects {
            let made = match subject.kind {
                SubjectKind::Fact(_, service, intent, fact) => {
                    patterns::questions(service, intent, fact)
                }
                SubjectKind::Responsibility(_, service) => office_naming::questions(service),
                SubjectKind::Foreign(_) => Vec::new(),
            };
            let fresh = made
                .into_iter()
                .filter(|question| seen.insert(fold(question)));
            subject.train.extend(fresh.map(|text| Phrasing {
                text,
                hand_written: false,
                main: false,
            }));
        }
    }

    // One fact of some services is trained through its first question, patterns and dialogues only;
    // all its other phrasings measure whether that is enough.
    fn hold_out_families(&mut self, seed: u64, office: usize) {
        let mut rng = KeyedRng::new(seed, Purpose::HoldOut, office as u64, 1);
        let mut by_service: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for &index in &self.turns[office] {
            let subject = &self.subjects[index];
            let hand_written = subject
                .train
                .iter()
                .filter(|phrasing| phrasing.hand_written)
                .count();
            if matches!(subject.kind, SubjectKind::Fact(..)) && hand_written >= 3 {
                by_service
                    .entry(subject.service_id())
                    .or_default()
                    .push(index);
            }
        }
        let services = by_service.len();
        let mut candidates: Vec<Vec<usize>> = by_service.into_values().collect();
        rng.shuffle(&mut candidates);
        // A service that has nothing else to train is left whole.
        for facts in candidates.iter().take(services / FAMILY_ONE_IN) {
            if let Some(&index) = rng.choose(facts) {
                let subject = &mut self.subjects[index];
                let (family, kept) = std::mem::take(&mut subject.train)
                    .into_iter()
                    .enumerate()
                    .partition::<Vec<_>, _>(|(number, phrasing)| {
                        *number > 0 && phrasing.hand_written
                    });
                subject.train = kept.into_iter().map(|(_, phrasing)| phrasing).collect();
                subject.held_out = family.into_iter().map(|(_, phrasing)| phrasing).collect();
            }
        }
    }

    // A training phrasing that says the same as a held-out one but for a synonym would give it
    // away.
    fn keep_apart(&mut self) {
        let held_out: BTreeSet<String> = self
            .subjects
            .iter()
            .flat_map(|subject| &subject.held_out)
            .map(|phrasing| canonical(&phrasing.text))
            .collect();
        for subject in &mut self.subjects {
            let mut number = 0;
            subject.train.retain(|phrasing| {
                number += 1;
                number == 1 || !held_out.contains(&canonical(&phrasing.text))
            });
        }
        let trained: BTreeSet<String> = self
            .subjects
            .iter()
            .flat_map(|subject| &subject.train)
            .map(|phrasing| canonical(&phrasing.text))
            .collect();
        for subject in &mut self.subjects {
            subject
                .held_out
                .retain(|phrasing| !trained.contains(&canonical(&phrasing.text)));
        }
    }

    // Takes one phrasing from as many subjects as are needed, so that each subject is still trained
    // through its others.
    fn hold_out(&mut self, seed: u64, office: usize) {
        let mut rng = KeyedRng::new(seed, Purpose::HoldOut, office as u64, 0);
        let phrasings: usize = self.turns[office]
            .iter()
            .map(|&subject| self.subjects[subject].train.len())
            .sum();
        let mut wanted = phrasings.div_ceil(HELD_OUT_ONE_IN);
        let mut order = self.turns[office].clone();
        rng.shuffle(&mut order);
        for least in [3, 2] {
            for &index in &order {
                let subject = &mut self.subjects[index];
                if wanted > 0 && subject.held_out.is_empty() && subject.train.len() >= least {
                    // The first question of a fact is the one that most citizens ask: it is always
                    // trained.
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
                        .remove(choices.start + rng.below(choices.len()));
                    subject.held_out.push(taken);
                    wanted -= 1;
                }
            }
        }
    }

    // Services take turns within an office, so that a small stage already touches all of them.
    fn arrange(&mut self, seed: u64, office: usize) {
        let mut rng = KeyedRng::new(seed, Purpose::Order, office as u64, 0);
        let mut order = std::mem::take(&mut self.turns[office]);
        rng.shuffle(&mut order);
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
            // Citizens' own words go first, beginning with the fact's first question; patterns fill
            // up what larger stages need.
            let train = &mut self.subjects[index].train;
            if let Some((_, others)) = train.split_first_mut() {
                rng.shuffle(others);
                others.sort_by_key(|phrasing| !phrasing.hand_written);
            }
        }
        self.turns[office] = ranked.into_iter().map(|(_, index)| index).collect();
    }
}

fn answers_about(office: &Office, service: &Service) -> Vec<AnswerVariant> {
    let answers = office_naming::answers(office, service).into_iter();
    answers
        .enumerate()
        .map(|(number, text)| AnswerVariant {
            text,
            length: [Length::Full, Length::Short]
                .get(number)
                .copied()
                .unwrap_or(Length::Middle),
        })
        .collect()
}

#[cfg(test)]
impl Subject<'_> {
    /// Every neutral variant of the answer.
    pub(crate) fn variants(&self) -> Vec<String> {
        self.variants
            .iter()
            .map(|variant| variant.text.clone())
            .collect()
    }
}

#[cfg(test)]
mod tests;
