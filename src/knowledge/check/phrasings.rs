//! Citizens' own words: what a file of `fragen/` may not hold, and where there are too few.

use super::Checker;
use crate::german::fold;
use crate::knowledge::dangers::DANGERS;
use crate::knowledge::{PhrasingFile, PhrasingKind, SourceFile, Text};
use std::collections::{BTreeMap, BTreeSet};

/// Phrasings of one service that share this much of their word triples (Jaccard index) teach
/// nothing new.
const ALIKE: f64 = 0.5;
/// Texts of fewer word triples are alike by chance.
const SHORT: usize = 3;
/// Phrasings of a request that belongs elsewhere, at the least.
const LEAST_OF_REQUEST: usize = 40;
/// More of a service's phrasings than this share begin with the same two words: they were made, not
/// said.
const UNIFORM: f64 = 0.15;

type Triples<'t> = BTreeSet<[&'t str; 3]>;

impl<'a> Checker<'a> {
    pub(super) fn phrasings(&mut self) {
        let mut seen: BTreeMap<String, (&'a SourceFile, &'a Text)> = BTreeMap::new();
        for file in &self.knowledge.phrasings {
            let in_danger = file.dangers.values().flatten().chain(&file.harmless);
            for text in file.texts().map(|(_, text)| text).chain(in_danger) {
                self.phrasing(&file.file, text, &mut seen);
            }
            self.phrasings_of_services(file);
            self.phrasings_of_requests(file);
            self.words_of_danger(file);
        }
    }

    /// A phrasing holds words, and stands once in all files.
    fn phrasing(
        &mut self,
        file: &'a SourceFile,
        text: &'a Text,
        seen: &mut BTreeMap<String, (&'a SourceFile, &'a Text)>,
    ) {
        let folded = fold(text);
        if folded.is_empty() {
            self.error(file, text, "a phrasing without a word: delete it");
            return;
        }
        if let Some((other, first)) = seen.insert(folded, (file, text)) {
            let (path, line) = (other.path.display().to_string(), other.line(first));
            self.error(
                file,
                text,
                format!("the same phrasing stands in {path}:{line}: keep one"),
            );
        }
    }

    fn phrasings_of_services(&mut self, file: &'a PhrasingFile) {
        let knowledge = self.knowledge;
        let services = knowledge.offices.iter().flat_map(|office| &office.services);
        let known: BTreeMap<&str, _> = services
            .map(|service| (service.id.as_str(), service))
            .collect();
        for (id, phrasings) in &file.services {
            let Some(first) = phrasings.first() else {
                continue;
            };
            let Some(service) = known.get(id.as_str()) else {
                self.error(
                    &file.file,
                    &first.text,
                    format!("there is no service \"{id}\""),
                );
                continue;
            };
            for phrasing in phrasings {
                if let Some(intent) = phrasing.intent
                    && !service.facts.contains_key(&intent)
                {
                    self.error(
                        &file.file,
                        &phrasing.text,
                        format!(
                            "{id} has no fact \"{}\": name one that it has, or allgemein",
                            intent.key()
                        ),
                    );
                }
            }
            for (kind, least) in PhrasingKind::ALL {
                let count = phrasings
                    .iter()
                    .filter(|phrasing| phrasing.kind == kind)
                    .count();
                if count < least {
                    self.warning(
                        &file.file,
                        &first.text,
                        format!(
                            "{id} has {count} phrasings of the kind {}, {least} are better",
                            kind.key()
                        ),
                    );
                }
            }
            let texts: Vec<&Text> = phrasings.iter().map(|phrasing| &phrasing.text).collect();
            self.alike(&file.file, id, &texts);
            self.uniform(&file.file, id, &texts);
        }
    }

    fn phrasings_of_requests(&mut self, file: &'a PhrasingFile) {
        let requests = &self.knowledge.out_of_remit.requests;
        for (id, texts) in &file.requests {
            let Some(first) = texts.first() else {
                continue;
            };
            if !requests.iter().any(|request| request.id.as_str() == id) {
                self.error(&file.file, first, format!("there is no request \"{id}\""));
            } else if texts.len() < LEAST_OF_REQUEST {
                let count = texts.len();
                self.warning(
                    &file.file,
                    first,
                    format!("{id} has {count} phrasings, {LEAST_OF_REQUEST} are better"),
                );
            }
            self.alike(&file.file, id, &texts.iter().collect::<Vec<_>>());
        }
    }

    /// What people say who are in danger belongs to a danger, and needs its counterpart: without
    /// what sounds like it, everything would be taken for danger.
    fn words_of_danger(&mut self, file: &'a PhrasingFile) {
        let firsts = file.dangers.iter();
        let firsts = firsts.filter_map(|(id, texts)| Some((id, texts.first()?)));
        for (id, first) in firsts {
            if !DANGERS.contains(&id.as_str()) {
                let dangers = DANGERS.join(", ");
                self.error(
                    &file.file,
                    first,
                    format!("there is no danger \"{id}\", expected one of {dangers}, or harmlos"),
                );
            } else if file.harmless.is_empty() {
                self.error(
                    &file.file,
                    first,
                    "no lines that only sound like danger: add some as harmlos",
                );
            }
        }
    }

    /// No two phrasings of a service are nearly the same.
    fn alike(&mut self, file: &SourceFile, id: &str, texts: &[&Text]) {
        let folded: Vec<String> = texts.iter().map(|text| fold(text)).collect();
        let triples: Vec<Triples> = folded.iter().map(|text| triples(text)).collect();
        for (at, mine) in triples.iter().enumerate() {
            let other = (0..at).find(|&other| share(mine, &triples[other]) >= ALIKE);
            if let Some(other) = other {
                let line = file.line(texts[other]);
                self.error(
                    file,
                    texts[at],
                    format!(
                        "nearly the same as the phrasing of {id} on line {line}: say it differently"
                    ),
                );
            }
        }
    }

    fn uniform(&mut self, file: &SourceFile, id: &str, texts: &[&Text]) {
        let mut beginnings: BTreeMap<String, usize> = BTreeMap::new();
        for text in texts {
            let folded = fold(text);
            let mut words = folded.splitn(3, ' ');
            if let (Some(first), Some(second)) = (words.next(), words.next()) {
                *beginnings.entry(format!("{first} {second}")).or_default() += 1;
            }
        }
        if let Some((beginning, count)) = beginnings.into_iter().max_by_key(|(_, count)| *count)
            && count > 5
            && count as f64 > UNIFORM * texts.len() as f64
        {
            self.warning(
                file,
                texts[0],
                format!(
                    "{count} of {} phrasings of {id} begin with \"{beginning}\"",
                    texts.len()
                ),
            );
        }
    }
}

fn triples(folded: &str) -> Triples<'_> {
    let words: Vec<&str> = folded.split(' ').collect();
    words
        .windows(3)
        .map(|words| [words[0], words[1], words[2]])
        .collect()
}

/// Jaccard index; 0 where a text is too short for one.
fn share(a: &Triples, b: &Triples) -> f64 {
    if a.len().min(b.len()) < SHORT {
        return 0.0;
    }
    let common = a.intersection(b).count();
    match a.len() + b.len() - common {
        0 => 0.0,
        all => common as f64 / all as f64,
    }
}
