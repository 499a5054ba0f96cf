//! What every example has to hold: one form of address, no placeholder that nobody fills in, no
//! figure in an answer that is not one of the service's. A set with a fault is not written.

use super::{Dataset, Example};
use crate::german::{Figure, address, doubled_words, figures};
use crate::knowledge::{Knowledge, Service};
use crate::wording::references::month_of;
use rayon::prelude::*;
use serde::Serialize;
use std::collections::{BTreeSet, HashMap};

/// Something wrong with an example.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Fault {
    /// Number of the example.
    pub example: usize,
    /// What is wrong.
    pub message: String,
}

/// What may stand in the answers about one service.
#[derive(Default)]
struct Known {
    figures: BTreeSet<Figure>,
    numbers: BTreeSet<String>,
}

impl Known {
    fn add(&mut self, text: &str) {
        self.figures.extend(figures(text));
        self.numbers.extend(numbers(text).map(str::to_string));
    }

    fn of(service: &Service) -> Known {
        let mut known = Known::default();
        for fact in service.facts.values() {
            let texts = [&fact.text, &fact.short]
                .into_iter()
                .chain(&fact.documents)
                .chain(&fact.sources);
            texts.for_each(|text| known.add(text));
        }
        known.add(&service.title);
        known.add(&month_of(service).unwrap_or_default());
        known
    }
}

/// Checks every example; faults in the order of the examples.
pub(crate) fn check(dataset: &Dataset, knowledge: &Knowledge) -> Vec<Fault> {
    let mut known: HashMap<&str, Known> = HashMap::new();
    for service in knowledge.offices.iter().flat_map(|office| &office.services) {
        known.insert(&service.id, Known::of(service));
    }
    for request in &knowledge.out_of_remit.requests {
        let entry = known.entry(&request.id).or_default();
        entry.add(&request.answer);
    }
    let faults = dataset
        .examples
        .par_iter()
        .enumerate()
        .filter_map(|(number, example)| {
            let subject = dataset.subjects.get(example.subject as usize)?;
            let office = dataset.offices.get(usize::from(subject.office))?;
            let message = mixed_address(example)
                .or_else(|| {
                    let filled = knowledge.municipality.fill(&example.text, Some(office));
                    filled.err().map(|error| error.to_string())
                })
                .or_else(|| strange_figure(example, known.get(subject.service.as_str())?))
                .or_else(|| careless(example))?;
            Some(Fault {
                example: number,
                message,
            })
        });
    faults.collect()
}

fn mixed_address(example: &Example) -> Option<String> {
    example.turns().find_map(|turn| {
        let found = address(turn)?;
        (found.register != example.register).then(|| {
            let word = found.word;
            format!(
                "\"{word}\" in an example with register {}: \"{turn}\"",
                example.register.name()
            )
        })
    })
}

fn strange_figure(example: &Example, known: &Known) -> Option<String> {
    example.turns().skip(1).step_by(2).find_map(|answer| {
        let figure = figures(answer)
            .into_iter()
            .find(|figure| !known.figures.contains(figure));
        if let Some((number, unit)) = figure {
            return Some(format!(
                "{number} {unit} is no figure of this service: \"{answer}\""
            ));
        }
        let number = numbers(answer).find(|number| !known.numbers.contains(*number))?;
        Some(format!(
            "{number} is no number of this service: \"{answer}\""
        ))
    })
}

fn careless(example: &Example) -> Option<String> {
    example.turns().enumerate().find_map(|(number, turn)| {
        if turn.trim() != turn || turn.contains("  ") || turn.is_empty() {
            return Some(format!("empty turn, or a space too many: \"{turn}\""));
        }
        let is_answer = number % 2 == 1;
        if is_answer && !turn.ends_with(['.', '!', '?', '}']) {
            return Some(format!("an answer without an end: \"{turn}\""));
        }
        let doubled = if is_answer {
            doubled_words(turn)
        } else {
            Vec::new()
        };
        doubled
            .first()
            .map(|word| format!("\"{word}\" stands twice in a row: \"{turn}\""))
    })
}

/// Runs of digits with what holds them together: `27,60`, `1.000`, `8:00`.
fn numbers(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_digit() && !['.', ',', ':'].contains(&c))
        .map(|part| part.trim_matches(['.', ',', ':']))
        .filter(|part| !part.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::{Settings, Stage, generate};
    use crate::knowledge::small_knowledge;
    use crate::tokenizer::Tokenizer;
    use std::sync::atomic::AtomicBool;

    fn made(knowledge: &Knowledge) -> Dataset {
        let settings = Settings {
            examples: 600,
            ..Settings::of_stage(Stage::Basis, 3)
        };
        generate(
            knowledge,
            &Tokenizer::gpt2().unwrap(),
            &settings,
            &AtomicBool::new(false),
            &|_| {},
        )
        .unwrap()
    }

    #[test]
    fn what_is_generated_passes() {
        let knowledge = small_knowledge();
        assert_eq!(check(&made(&knowledge), &knowledge), []);
    }

    #[test]
    fn every_fault_is_found() {
        let knowledge = small_knowledge();
        let dataset = made(&knowledge);
        let index = dataset
            .examples
            .iter()
            .position(|example| {
                &*example.text
                    == "Frage: Bis wann muss ich mich nach dem Umzug \
                ummelden?\nAntwort: Die Anmeldung muss innerhalb von zwei Wochen nach dem Einzug \
                erfolgen. Vor dem Einzug ist sie nicht möglich."
            })
            .unwrap();
        for (from, to, expected) in [
            ("zwei Wochen", "vier Wochen", "4 woche"),
            ("zwei Wochen", "14 langen Wochen", "14 is no number"),
            ("zwei Wochen", "{wartezeit}", "{wartezeit}"),
            (
                "Vor dem Einzug",
                "Bitte beachten Sie, vor dem Einzug",
                "\"Sie\" in an example",
            ),
            ("Vor dem Einzug", "Vor vor dem Einzug", "twice"),
            ("möglich.", "möglich", "without an end"),
        ] {
            let mut broken = Dataset {
                examples: vec![dataset.examples[index].clone()],
                offices: dataset.offices.clone(),
                subjects: dataset.subjects.clone(),
                without_office: Vec::new(),
                ..made(&knowledge)
            };
            let example = &mut broken.examples[0];
            example.text = example.text.replace(from, to).into();
            example.turns[1].1 = example.text.len() as u32;
            let faults = check(&broken, &knowledge);
            assert!(
                faults.len() == 1 && faults[0].message.contains(expected),
                "{expected}: {faults:?}"
            );
        }
    }
}
