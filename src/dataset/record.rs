//! An example with all its names, as it is written to a JSON line.

use super::{Dataset, Register};
use crate::shards::Split;
use serde::{Serialize, Serializer};

/// One turn of a dialogue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct RecordTurn<'a> {
    /// Who speaks: `user`, the citizen, or `assistant`, the city.
    pub role: &'static str,
    /// The text.
    pub content: &'a str,
}

/// One example of the data set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Record<'a> {
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
    /// Name of the layout.
    #[serde(rename = "format")]
    pub layout: &'static str,
    /// How the other side is addressed.
    pub register: Register,
    /// Training or validation.
    #[serde(serialize_with = "split_name")]
    pub split: Split,
    /// The dialogue.
    pub turns: Vec<RecordTurn<'a>>,
    /// The dialogue as the model sees it.
    pub text: &'a str,
}

impl Dataset {
    /// Example `index` with its names; `None` from the number of examples on.
    pub(crate) fn record(&self, index: usize) -> Option<Record<'_>> {
        let example = self.examples.get(index)?;
        let subject = self.subjects.get(example.subject as usize)?;
        let turns = example
            .turns()
            .enumerate()
            .map(|(number, content)| RecordTurn {
                role: ["user", "assistant"][number % 2],
                content,
            });
        Some(Record {
            id: format!("{}-{index:06}", self.stage.name()),
            office: self.offices.get(usize::from(subject.office))?,
            service: &subject.service,
            intent: subject.intent,
            techniques: example.techniques.names(),
            layout: example.layout(),
            register: example.register,
            split: example.split,
            turns: turns.collect(),
            text: &example.text,
        })
    }
}

/// Records call the splits as their files are called.
fn split_name<S: Serializer>(split: &Split, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(split.name())
}
