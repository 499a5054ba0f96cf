//! The checker: what a colleague would mark in red before a knowledge file is used.

mod figures;
mod phrases;
mod phrasings;

use super::date::Date;

use super::dangers::DANGERS;
use super::municipality::{LocalValue, Piece, pieces};
use super::{Fact, Intent, Knowledge, Office, Service, SourceFile, Text};
use crate::german::{
    Address, Dictionary, address, doubled_words, figures, fold, spelled_out_umlauts, spelled_words,
    words,
};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// A fact that was last checked longer ago than this should be looked at again.
const STALE_MONTHS: i64 = 18;
/// Longer answers tire citizens and leave no room in a training example.
const LONGEST_ANSWER_WORDS: usize = 70;
/// Placeholders that every city needs, because contact answers are built on them.
const CONTACT_VALUES: [&str; 5] = ["stadt", "adresse", "telefon", "email", "oeffnungszeiten"];

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Severity {
    /// The knowledge must not be used like this.
    Error,
    /// Should be looked at.
    Warning,
}

/// One thing that the checker found.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct Finding {
    /// The file.
    pub file: PathBuf,
    /// The line, counted from 1.
    pub line: usize,
    /// How bad it is.
    pub severity: Severity,
    /// What was found and what to do.
    pub message: String,
}

/// Checks the whole knowledge base as of `today`; with a dictionary, the spelling of every text as
/// well. Findings are sorted by file and line.
pub(crate) fn check_with(
    knowledge: &Knowledge,
    today: Date,
    dictionary: Option<&Dictionary>,
) -> Vec<Finding> {
    let mut checker = Checker {
        knowledge,
        dictionary,
        today,
        findings: Vec::new(),
        seen: Seen::default(),
    };
    for office in &knowledge.offices {
        checker.office(office);
    }
    checker.out_of_remit();
    checker.municipality();
    checker.phrases();
    checker.phrasings();
    checker.findings.sort();
    checker.findings
}

/// Where a folded text was first seen, for things that must be unique over the whole knowledge
/// base.
#[derive(Default)]
struct Seen<'a> {
    ids: BTreeMap<String, Place<'a>>,
    aliases: BTreeMap<String, Place<'a>>,
    questions: BTreeMap<String, Place<'a>>,
}

type Place<'a> = (&'a SourceFile, &'a Text);

struct Checker<'a> {
    knowledge: &'a Knowledge,
    dictionary: Option<&'a Dictionary>,
    today: Date,
    findings: Vec<Finding>,
    seen: Seen<'a>,
}

impl<'a> Checker<'a> {
    fn report(&mut self, severity: Severity, file: &SourceFile, at: &Text, message: String) {
        self.findings.push(Finding {
            file: file.path.clone(),
            line: file.line(at),
            severity,
            message,
        });
    }

    fn error(&mut self, file: &SourceFile, at: &Text, message: impl Into<String>) {
        self.report(Severity::Error, file, at, message.into());
    }

    fn warning(&mut self, file: &SourceFile, at: &Text, message: impl Into<String>) {
        self.report(Severity::Warning, file, at, message.into());
    }

    fn office(&mut self, office: &'a Office) {
        let (file, about) = (&office.file, &office.about);
        self.id(file, &about.id);
        if file
            .path
            .file_stem()
            .is_none_or(|stem| stem.to_string_lossy() != about.id.as_str())
        {
            self.error(
                file,
                &about.id,
                format!(
                    "the file must be called {}.toml, like the office's id",
                    about.id
                ),
            );
        }
        if !["der", "die", "das"].contains(&about.article.as_str()) {
            self.error(
                file,
                &about.article,
                format!("artikel is \"{}\": expected der, die or das", about.article),
            );
        }
        if office.services.is_empty() {
            self.error(
                file,
                &about.id,
                "the office has no service: add a [[leistung]]",
            );
        }
        for service in &office.services {
            self.service(office, service);
        }
    }

    fn service(&mut self, office: &'a Office, service: &'a Service) {
        let file = &office.file;
        self.id(file, &service.id);
        self.checked_on(file, service);
        if let Some(leika) = &service.leika
            && !(leika.len() == 14
                && leika.starts_with("99")
                && leika.bytes().all(|byte| byte.is_ascii_digit()))
        {
            self.error(
                file,
                leika,
                format!("leika is \"{leika}\": expected 14 digits that start with 99"),
            );
        }
        for (key, phrase) in [
            ("thema", &service.topic),
            ("thema_dativ", &service.topic_dative),
        ] {
            if !phrase.contains(' ') {
                self.error(
                    file,
                    phrase,
                    format!("{key} is \"{phrase}\": expected a noun phrase with its article"),
                );
            }
        }
        if service.aliases.is_empty() {
            self.error(
                file,
                &service.id,
                "the service has no stichworte: add how citizens call it",
            );
        }
        for alias in &service.aliases {
            if let Some((other, at)) = first_place(&mut self.seen.aliases, file, alias) {
                self.error(
                    file,
                    alias,
                    format!(
                        "the stichwort \"{alias}\" also stands in {}:{}",
                        other.path.display(),
                        other.line(at)
                    ),
                );
            }
            self.language(file, alias);
        }
        self.required_intents(file, service);
        self.contradictions(file, service);
        for (intent, fact) in &service.facts {
            self.fact(office, *intent, fact);
        }
    }

    fn required_intents(&mut self, file: &SourceFile, service: &Service) {
        for required in [Intent::What, Intent::Where] {
            if !service.facts.contains_key(&required) {
                self.error(
                    file,
                    &service.id,
                    format!("the service has no [leistung.fakten.{}]", required.key()),
                );
            }
        }
        if ![Intent::Deadline, Intent::Fee, Intent::Documents]
            .iter()
            .any(|intent| service.facts.contains_key(intent))
        {
            self.error(
                file,
                &service.id,
                "the service has none of frist, gebuehr, unterlagen: add at least one",
            );
        }
    }

    fn fact(&mut self, office: &'a Office, intent: Intent, fact: &'a Fact) {
        let file = &office.file;
        if fact.sources.iter().all(|source| source.trim().is_empty()) {
            self.error(
                file,
                &fact.text,
                format!(
                    "the fact {} has no quelle: name the law or the source",
                    intent.key()
                ),
            );
        }
        self.answer(file, Some(office.id()), &fact.text);
        self.answer(file, Some(office.id()), &fact.short);
        if words(&fact.short).count() > words(&fact.text).count() {
            self.warning(file, &fact.short, "kurz is longer than text");
        }
        let known = figures(&fact.text);
        for (number, unit) in figures(&fact.short).difference(&known) {
            self.error(
                file,
                &fact.short,
                format!("kurz says {number} {unit}, text does not: a contradiction"),
            );
        }
        self.must_name(file, Some(office.id()), &fact.text, &fact.must_name);
        if intent != Intent::Documents && !fact.documents.is_empty() {
            self.error(
                file,
                &fact.documents[0],
                "liste belongs to the fact unterlagen only",
            );
        }
        for document in &fact.documents {
            self.placeholders(file, Some(office.id()), document);
            self.language(file, document);
        }
        self.questions(file, &fact.text, &fact.questions, false);
    }

    fn answer(&mut self, file: &SourceFile, office_id: Option<&str>, answer: &Text) {
        self.placeholders(file, office_id, answer);
        self.language(file, answer);
        if answer.trim().is_empty() {
            self.error(file, answer, "the answer is empty");
        } else if !answer.ends_with(['.', '!', '}']) {
            self.error(file, answer, "an answer ends with a full stop");
        }
        let length = words(answer).count();
        if length > LONGEST_ANSWER_WORDS {
            self.warning(
                file,
                answer,
                format!(
                    "the answer has {length} words: more than \
                {LONGEST_ANSWER_WORDS} are hard to follow"
                ),
            );
        }
    }

    fn must_name(
        &mut self,
        file: &SourceFile,
        office_id: Option<&str>,
        answer: &Text,
        must_name: &[Text],
    ) {
        if must_name.is_empty() {
            self.error(
                file,
                answer,
                "nennt is missing: name at least one string that a right answer holds",
            );
        }
        let plain = |text: &str| text.replace('\u{a0}', " ").to_lowercase();
        let filled = self
            .knowledge
            .municipality
            .fill(answer, office_id)
            .unwrap_or_default();
        for needle in must_name {
            if !plain(answer).contains(&plain(needle)) && !plain(&filled).contains(&plain(needle)) {
                self.error(
                    file,
                    needle,
                    format!("nennt has \"{needle}\", which does not occur in the answer"),
                );
            }
        }
    }

    // What people say who came to the wrong place (`elsewhere`) may be no question, and may address
    // somebody.
    fn questions(
        &mut self,
        file: &'a SourceFile,
        fact: &Text,
        questions: &'a [Text],
        elsewhere: bool,
    ) {
        if questions.len() < 2 {
            self.error(
                file,
                fact,
                format!(
                    "{} question(s) in fragen: at least 2 are needed",
                    questions.len()
                ),
            );
        }
        for question in questions {
            let marks: &[char] = if elsewhere { &['?', '!', '.'] } else { &['?'] };
            if !question.ends_with(marks) {
                self.error(
                    file,
                    question,
                    format!("the question \"{question}\" does not end in \"?\""),
                );
            }
            if let Some((other, at)) = first_place(&mut self.seen.questions, file, question) {
                let place = format!("{}:{}", other.path.display(), other.line(at));
                self.error(
                    file,
                    question,
                    format!("the question \"{question}\" also stands in {place}"),
                );
            }
            if question.contains(['{', '}']) {
                self.error(
                    file,
                    question,
                    "a question holds no placeholder: citizens do not know them",
                );
            }
            if elsewhere {
                self.spelling(file, question);
            } else {
                self.language(file, question);
            }
        }
    }

    fn spelling(&mut self, file: &SourceFile, text: &Text) {
        let Some(dictionary) = self.dictionary else {
            return;
        };
        for word in spelled_words(text).filter(|word| !dictionary.knows(word)) {
            self.warning(
                file,
                text,
                format!(
                    "\"{word}\" is not in the dictionary: correct it, or add it to \
                    sprache/woerter.txt"
                ),
            );
        }
    }

    fn language(&mut self, file: &SourceFile, text: &Text) {
        self.spelling(file, text);
        if let Some(Address { word, certain, .. }) = address(text) {
            if certain {
                self.error(
                    file,
                    text,
                    format!(
                        "\"{word}\" addresses the reader: write it impersonally, without Sie or du"
                    ),
                );
            } else {
                self.warning(
                    file,
                    text,
                    format!("\"{word}\" may address the reader: write it impersonally"),
                );
            }
        }
        for word in doubled_words(text) {
            self.error(file, text, format!("\"{word}\" stands twice in a row"));
        }
        for word in spelled_out_umlauts(text) {
            self.warning(
                file,
                text,
                format!("\"{word}\" looks like a spelled-out umlaut or ß"),
            );
        }
        if text.contains("  ") || text.trim() != text.as_str() {
            self.warning(file, text, "double space, or space at an end");
        }
        for (open, close) in [('(', ')'), ('„', '“')] {
            if text.matches(open).count() != text.matches(close).count() {
                self.error(
                    file,
                    text,
                    format!("{open} without its {close}, or the other way round"),
                );
            }
        }
    }

    fn placeholders(&mut self, file: &SourceFile, office_id: Option<&str>, text: &Text) {
        match pieces(text) {
            Err(error) => self.error(file, text, error.to_string()),
            Ok(found) => {
                for piece in found {
                    if let Piece::Placeholder(name) = piece
                        && self.knowledge.municipality.value(name, office_id).is_none()
                    {
                        self.error(
                            file,
                            text,
                            format!(
                                "unknown placeholder {{{name}}}: kommune.toml has no such value"
                            ),
                        );
                    }
                }
            }
        }
    }

    fn id(&mut self, file: &'a SourceFile, id: &'a Text) {
        if id.is_empty()
            || !id
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
        {
            self.error(
                file,
                id,
                format!("the id \"{id}\" may hold a-z, 0-9 and _ only"),
            );
        }
        if let Some((other, at)) = first_place(&mut self.seen.ids, file, id) {
            self.error(
                file,
                id,
                format!(
                    "the id \"{id}\" also stands in {}:{}",
                    other.path.display(),
                    other.line(at)
                ),
            );
        }
    }

    fn checked_on(&mut self, file: &SourceFile, service: &Service) {
        let Some(written) = &service.checked_on else {
            self.error(
                file,
                &service.id,
                "stand is missing: the day at which the facts were checked, YYYY-MM-DD",
            );
            return;
        };
        match written.parse::<Date>() {
            Err(error) => self.error(file, written, format!("stand: {error}")),
            Ok(date) if date > self.today => {
                self.warning(file, written, format!("stand {date} lies in the future"))
            }
            Ok(date) => {
                let age = self.today.months_since(date);
                if age >= STALE_MONTHS {
                    self.warning(
                        file,
                        written,
                        format!("stand {date} is {age} months old: check the facts again"),
                    );
                }
            }
        }
    }

    fn out_of_remit(&mut self) {
        let (file, requests) = (
            &self.knowledge.out_of_remit.file,
            &self.knowledge.out_of_remit.requests,
        );
        for request in requests {
            self.id(file, &request.id);
            self.answer(file, None, &request.answer);
            self.must_name(file, None, &request.answer, &request.must_name);
            self.questions(file, &request.answer, &request.questions, true);
            if request.place.trim().is_empty() {
                self.error(
                    file,
                    &request.id,
                    "stelle is empty: name the place that helps",
                );
            }
        }
        self.dangers();
    }

    /// Whoever names one of the dangers should name them all: an unnamed one is not answered.
    fn dangers(&mut self) {
        let (file, requests) = (
            &self.knowledge.out_of_remit.file,
            &self.knowledge.out_of_remit.requests,
        );
        let named = |id: &str| requests.iter().find(|request| request.id.as_str() == id);
        let Some(first) = DANGERS.iter().copied().find_map(named) else {
            return;
        };
        for id in DANGERS.iter().filter(|id| named(id).is_none()) {
            let message = format!(
                "there is no request {id}: who is in this danger is not told whom to call; add it"
            );
            self.warning(file, &first.id, message);
        }
    }

    /// A value that the law sets anew is an error after its last day, and announced before.
    fn validity(&mut self, name: &str, value: &'a LocalValue) {
        let file = &self.knowledge.municipality.file;
        let Some(written) = &value.valid_until else {
            return;
        };
        match written.parse::<Date>() {
            Err(error) => self.error(file, &value.value, format!("gueltig_bis: {error}")),
            Ok(last) if last < self.today => self.error(
                file,
                &value.value,
                format!("{name} was right until {last}: look up today's value"),
            ),
            Ok(_) => {}
        }
    }

    fn municipality(&mut self) {
        let municipality = &self.knowledge.municipality;
        for name in CONTACT_VALUES
            .iter()
            .filter(|name| !municipality.values.contains_key(**name))
        {
            let (file, message) = (
                municipality.file.path.clone(),
                format!("[werte] has no {name}"),
            );
            self.findings.push(Finding {
                file,
                line: 1,
                severity: Severity::Error,
                message,
            });
        }
        for (name, value) in municipality.all() {
            self.validity(name, value);
        }
        for (id, values) in &municipality.values_by_office {
            if let Some(first) = values.values().next()
                && self.knowledge.office(id).is_none()
            {
                let message = format!("[werte_je_amt.{id}]: there is no office with that id");
                self.error(&municipality.file, &first.value, message);
            }
        }
    }
}

// The place where the folded text stood before, if it did; otherwise remembers this place.
fn first_place<'a>(
    seen: &mut BTreeMap<String, Place<'a>>,
    file: &'a SourceFile,
    text: &'a Text,
) -> Option<Place<'a>> {
    match seen.entry(fold(text)) {
        std::collections::btree_map::Entry::Occupied(first) => Some(*first.get()),
        std::collections::btree_map::Entry::Vacant(free) => {
            free.insert((file, text));
            None
        }
    }
}

#[cfg(test)]
mod tests;
