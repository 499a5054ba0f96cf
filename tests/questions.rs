//! The hand-written questions: about what the knowledge base answers, and in words that no model
//! was trained on.

use muni_engine::dataset::{Settings, Stage, generate};
use muni_engine::eval::questions::{Expected, Question, check_services, read_questions};
use muni_engine::german::fold;
use muni_engine::knowledge::Knowledge;
use muni_engine::tokenizer::Tokenizer;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

/// From this Jaccard index of word triples on, two questions count as near duplicates. The data
/// set's own bound is 0.8.
const ALIKE: f64 = 0.5;

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn file() -> PathBuf {
    repository().join("tests/questions/citizens.jsonl")
}

fn knowledge() -> Knowledge {
    Knowledge::load(&repository().join("knowledge")).unwrap()
}

/// Runs of three words, or all words of a shorter text.
fn shingles(text: &str) -> BTreeSet<String> {
    let folded = fold(text);
    let words: Vec<&str> = folded.split(' ').collect();
    match words.len() {
        0..3 => BTreeSet::from([folded.clone()]),
        _ => words.windows(3).map(|run| run.join(" ")).collect(),
    }
}

/// The questions by what they have in common with other texts.
struct Index {
    questions: Vec<Question>,
    folded: HashSet<String>,
    sizes: Vec<usize>,
    with_shingle: HashMap<String, Vec<usize>>,
}

impl Index {
    fn new() -> Index {
        let second = repository().join("tests/questions/second.jsonl");
        let mut questions = read_questions(&file()).unwrap();
        questions.extend(read_questions(&second).unwrap());
        let mut with_shingle: HashMap<String, Vec<usize>> = HashMap::new();
        let mut sizes = Vec::new();
        for (index, question) in questions.iter().enumerate() {
            let shingles = shingles(&question.question);
            sizes.push(shingles.len());
            for shingle in shingles {
                with_shingle.entry(shingle).or_default().push(index);
            }
        }
        Index {
            folded: questions.iter().map(|q| fold(&q.question)).collect(),
            questions,
            sizes,
            with_shingle,
        }
    }

    /// The question most like `text`, and how much.
    fn nearest(&self, text: &str) -> Option<(f64, &str)> {
        let shingles = shingles(text);
        let mut common: BTreeMap<usize, usize> = BTreeMap::new();
        for index in shingles
            .iter()
            .filter_map(|s| self.with_shingle.get(s))
            .flatten()
        {
            *common.entry(*index).or_default() += 1;
        }
        common
            .into_iter()
            .map(|(index, common)| {
                let union = self.sizes[index] + shingles.len() - common;
                (
                    common as f64 / union as f64,
                    self.questions[index].question.as_str(),
                )
            })
            .max_by(|a, b| a.0.total_cmp(&b.0))
    }

    fn check<'a>(&self, texts: impl Iterator<Item = &'a str>) -> usize {
        let mut checked = 0;
        for text in texts {
            assert!(
                !self.folded.contains(&fold(text)),
                "\"{text}\" is also trained on"
            );
            if let Some((index, question)) = self.nearest(text) {
                assert!(
                    index < ALIKE,
                    "\"{question}\" is like \"{text}\" ({index:.2})"
                );
            }
            checked += 1;
        }
        checked
    }
}

#[test]
fn there_are_enough_questions_of_every_kind() {
    let questions = read_questions(&file()).unwrap();
    check_services(&file(), &questions, &knowledge()).unwrap();
    assert!(questions.len() >= 200, "{}", questions.len());
    let mut by_office: BTreeMap<&str, usize> = BTreeMap::new();
    for question in &questions {
        *by_office.entry(question.office()).or_default() += 1;
    }
    assert!(by_office["ausserhalb"] >= 40, "{by_office:?}");
    assert_eq!(by_office.len(), 9);
    assert!(
        by_office.values().all(|&count| count >= 20),
        "{by_office:?}"
    );
    let services: BTreeSet<_> = questions.iter().filter_map(Question::service).collect();
    assert!(
        services.len() >= 100,
        "only {} services are asked about",
        services.len()
    );
    let different: HashSet<_> = questions.iter().map(|q| fold(&q.question)).collect();
    assert_eq!(different.len(), questions.len());
}

#[test]
fn what_is_expected_is_a_fact_of_the_service() {
    let knowledge = knowledge();
    let mut facts: BTreeMap<String, String> = BTreeMap::new();
    for office in &knowledge.offices {
        for service in &office.services {
            let mut all = String::new();
            for fact in service.facts.values() {
                for text in [&fact.text, &fact.short].into_iter().chain(&fact.documents) {
                    all += &format!("{} ", text.as_str());
                }
            }
            facts.insert(service.id.to_string(), all);
        }
    }
    let elsewhere: String = knowledge
        .out_of_remit
        .requests
        .iter()
        .map(|request| format!("{} {} ", request.answer.as_str(), request.place.as_str()))
        .collect();
    for question in read_questions(&file()).unwrap() {
        let known = match &question.expected {
            Expected::Service { service, .. } => &facts[service],
            Expected::Refusal => &elsewhere,
        };
        for alternative in question.expect.iter().flatten() {
            // A placeholder is a name to the letter; folding would take its braces.
            let there = match alternative.starts_with('{') {
                true => known.contains(alternative.as_str()),
                false => format!(" {}", fold(known)).contains(&format!(" {}", fold(alternative))),
            };
            assert!(
                there,
                "line {}: \"{alternative}\" is in no fact of {:?}",
                question.line, question.expected
            );
        }
    }
}

#[test]
fn no_question_is_like_one_of_the_knowledge_base() {
    let knowledge = knowledge();
    let of_services = knowledge
        .offices
        .iter()
        .flat_map(|office| &office.services)
        .flat_map(|service| service.facts.values())
        .flat_map(|fact| &fact.questions);
    let of_others = knowledge
        .out_of_remit
        .requests
        .iter()
        .flat_map(|request| &request.questions);
    let phrasings = knowledge.phrasings.iter().flat_map(|file| file.texts());
    let phrasings = phrasings.map(|(_, text)| text);
    let all = of_services.chain(of_others).chain(phrasings);
    let checked = Index::new().check(all.map(|text| text.as_str()));
    assert!(checked > 20_000, "{checked}");
}

#[test]
fn no_question_is_like_one_that_the_generator_makes() {
    // The massive stage's phrasing: the same generator and recipes, fewer examples.
    let settings = Settings {
        examples: 12_000,
        ..Settings::of_stage(Stage::Massive, 7)
    };
    let knowledge = knowledge();
    let tokenizer = Tokenizer::gpt2().unwrap();
    let stop = AtomicBool::new(false);
    let dataset = generate(&knowledge, &tokenizer, &settings, &stop, &|_| {}).unwrap();
    let index = Index::new();
    let checked = index.check(
        dataset
            .examples
            .iter()
            .flat_map(|example| example.turns().step_by(2)),
    );
    assert!(checked >= 12_000, "{checked}");
    // The comparison finds what it should.
    let first = &index.questions[0].question;
    assert_eq!(index.nearest(first).unwrap().0, 1.0);
}
