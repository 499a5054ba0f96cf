//! An example with all its names, as it is written to a JSON line.

use super::{Dataset, Part, Register};
use serde::Serialize;

/// Who says something in a dialogue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The citizen.
    User,
    /// The city.
    Assistant,
}

/// One turn of a dialogue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RecordTurn<'a> {
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub content: &'a str,
}

/// One example of the data set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Record<'a> {
    /// Stage and number.
    pub id: String,
    /// Office id, or `ausserhalb`.
    pub office: &'a str,
    /// Service id, or the id of the foreign request.
    pub service: &'a str,
    /// What the first question asks for.
    pub intent: &'static str,
    /// Techniques used.
    pub techniques: Vec<&'static str>,
    /// Layout.
    pub format: &'static str,
    /// How the other side is addressed.
    pub register: Register,
    /// Training or validation.
    pub split: Part,
    /// The dialogue.
    pub turns: Vec<RecordTurn<'a>>,
    /// The dialogue as the model sees it.
    pub text: &'a str,
}

impl Dataset {
    /// Example `index` with its names; `None` from the number of examples on.
    pub fn record(&self, index: usize) -> Option<Record<'_>> {
        let example = self.examples.get(index)?;
        let subject = self.subjects.get(example.subject as usize)?;
        let turns = example
            .turns()
            .enumerate()
            .map(|(number, content)| RecordTurn {
                role: if number % 2 == 0 {
                    Role::User
                } else {
                    Role::Assistant
                },
                content,
            });
        Some(Record {
            id: format!("{}-{index:06}", self.stage.name()),
            office: self.offices.get(usize::from(subject.office))?,
            service: &subject.service,
            intent: subject.intent,
            techniques: example.techniques.names(),
            format: example.format(),
            register: example.register,
            split: example.part,
            turns: turns.collect(),
            text: &example.text,
        })
    }
}
