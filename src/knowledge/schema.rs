//! The shape of the knowledge files. Field names are English here and German in the TOML, because
//! city staff edit the files.

use super::source::{SourceFile, Text};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One side of a service that citizens ask about; each service holds at most one fact per intent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Intent {
    /// What it is.
    #[serde(rename = "was")]
    What,
    /// Whom it concerns.
    #[serde(rename = "wer")]
    Who,
    /// Where it is done.
    #[serde(rename = "wo")]
    Where,
    /// By when.
    #[serde(rename = "frist")]
    Deadline,
    /// What it costs.
    #[serde(rename = "gebuehr")]
    Fee,
    /// Which documents are needed.
    #[serde(rename = "unterlagen")]
    Documents,
    /// Whether it can be done online.
    #[serde(rename = "online")]
    Online,
    /// How long it takes.
    #[serde(rename = "dauer")]
    Duration,
    /// Exceptions and special cases.
    #[serde(rename = "ausnahmen")]
    Exceptions,
    /// What happens otherwise.
    #[serde(rename = "folgen")]
    Consequences,
}

impl Intent {
    /// All intents in the order of the schema.
    pub const ALL: [Intent; 10] = [
        Intent::What,
        Intent::Who,
        Intent::Where,
        Intent::Deadline,
        Intent::Fee,
        Intent::Documents,
        Intent::Online,
        Intent::Duration,
        Intent::Exceptions,
        Intent::Consequences,
    ];

    /// The key that stands in the TOML and in the data set's records.
    pub fn key(self) -> &'static str {
        match self {
            Intent::What => "was",
            Intent::Who => "wer",
            Intent::Where => "wo",
            Intent::Deadline => "frist",
            Intent::Fee => "gebuehr",
            Intent::Documents => "unterlagen",
            Intent::Online => "online",
            Intent::Duration => "dauer",
            Intent::Exceptions => "ausnahmen",
            Intent::Consequences => "folgen",
        }
    }
}

/// An office (Amt) with its services.
#[derive(Clone, Debug)]
pub struct Office {
    /// The file that describes it.
    pub file: SourceFile,
    /// Id, name and article.
    pub about: OfficeAbout,
    /// Its services in the order of the file.
    pub services: Vec<Service>,
}

impl Office {
    /// The office's id, which is also its file's name.
    pub(crate) fn id(&self) -> &str {
        &self.about.id
    }
}

/// The `[amt]` table.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OfficeAbout {
    /// Lower-case id.
    pub id: Text,
    /// Name as citizens read it.
    pub name: Text,
    /// Nominative article of the name: der, die or das.
    #[serde(rename = "artikel")]
    pub article: Text,
    /// Other names.
    #[serde(rename = "auch", default)]
    pub also: Vec<Text>,
}

/// What one office's file holds.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OfficeFile {
    pub amt: OfficeAbout,
    #[serde(default)]
    pub leistung: Vec<Service>,
}

/// A service (Leistung) of an office.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// Id, unique over the whole knowledge base.
    pub id: Text,
    /// Title.
    #[serde(rename = "titel")]
    pub title: Text,
    /// Short label for a button; the title where there is none.
    #[serde(rename = "knopf")]
    label: Option<Text>,
    /// The 14-digit key of the German catalogue of services, where known.
    pub leika: Option<Text>,
    /// How citizens call the service.
    #[serde(rename = "stichworte", default)]
    pub aliases: Vec<Text>,
    /// Noun phrase with article, nominative.
    #[serde(rename = "thema")]
    pub topic: Text,
    /// The same in the dative.
    #[serde(rename = "thema_dativ")]
    pub topic_dative: Text,
    /// The same in the accusative, where it differs from the nominative.
    #[serde(rename = "thema_akkusativ")]
    topic_accusative: Option<Text>,
    /// The day at which the facts were checked, `YYYY-MM-DD`.
    #[serde(rename = "stand")]
    pub checked_on: Option<Text>,
    /// The facts by intent.
    #[serde(rename = "fakten", default)]
    pub facts: BTreeMap<Intent, Fact>,
}

impl Service {
    /// What a button says that stands for the service.
    pub fn label(&self) -> &Text {
        self.label.as_ref().unwrap_or(&self.title)
    }

    /// The topic in the accusative.
    pub(crate) fn topic_accusative(&self) -> &Text {
        self.topic_accusative.as_ref().unwrap_or(&self.topic)
    }
}

/// One fact: what is answered to the questions of one intent.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fact {
    /// Full answer in complete, impersonal sentences.
    pub text: Text,
    /// Short answer: one impersonal sentence.
    #[serde(rename = "kurz")]
    pub short: Text,
    /// Legal sources.
    #[serde(rename = "quelle", default)]
    pub sources: Vec<Text>,
    /// False where the value is set by the Land or the municipality and has to be checked locally.
    #[serde(rename = "sicher", default = "yes")]
    pub certain: bool,
    /// Strings of which at least one stands in a right answer.
    #[serde(rename = "nennt", default)]
    pub must_name: Vec<Text>,
    /// Hand-written questions.
    #[serde(rename = "fragen", default)]
    pub questions: Vec<Text>,
    /// For documents: the single documents.
    #[serde(rename = "liste", default)]
    pub documents: Vec<Text>,
}

fn yes() -> bool {
    true
}

/// Requests that none of the offices handles, with the polite answer that names the right place.
#[derive(Clone, Debug, Default)]
pub struct OutOfRemit {
    /// The file that describes them.
    pub file: SourceFile,
    /// The requests in the order of the file.
    pub requests: Vec<ForeignRequest>,
}

/// What `ausserhalb.toml` holds.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OutOfRemitFile {
    #[serde(default)]
    pub anfrage: Vec<ForeignRequest>,
}

/// One kind of request that belongs elsewhere.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ForeignRequest {
    /// Id, unique over the whole knowledge base.
    pub id: Text,
    /// The place that helps, e.g. `Finanzamt`.
    #[serde(rename = "stelle")]
    pub place: Text,
    /// The impersonal answer.
    #[serde(rename = "antwort")]
    pub answer: Text,
    /// Strings of which at least one stands in a right answer.
    #[serde(rename = "nennt", default)]
    pub must_name: Vec<Text>,
    /// Hand-written questions.
    #[serde(rename = "fragen", default)]
    pub questions: Vec<Text>,
}
