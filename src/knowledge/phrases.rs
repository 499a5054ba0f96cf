//! `sprache/redewendungen.toml`: the phrases with which questions and answers become conversations,
//! by form of address.

use super::source::{SourceFile, Text};
use crate::german::Register;
use anyhow::Result;
use serde::Deserialize;
use std::path::Path;

/// The file inside the knowledge folder.
const PHRASES_FILE: &str = "sprache/redewendungen.toml";

/// What stands in the file when the program was built: for knowledge folders that have none of
/// their own.
const BUILT_IN: &str = include_str!("../../knowledge/sprache/redewendungen.toml");

/// Phrases of one kind.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PhraseList {
    /// With the polite address.
    #[serde(default)]
    pub(crate) sie: Vec<Text>,
    /// With the familiar address.
    #[serde(default)]
    pub(crate) du: Vec<Text>,
    /// Without address.
    #[serde(default)]
    pub(crate) neutral: Vec<Text>,
}

impl PhraseList {
    /// The phrases in a register.
    pub(crate) fn of(&self, register: Register) -> &[Text] {
        match register {
            Register::Neutral => &self.neutral,
            Register::Sie => &self.sie,
            Register::Du => &self.du,
        }
    }
}

macro_rules! phrases {
    ($($(#[$doc:meta])* $field:ident = $key:literal, $slots:expr;)*) => {
        /// What the file holds.
        #[derive(Debug, Deserialize)]
        #[serde(deny_unknown_fields)]
        struct PhraseFile {
            $(#[serde(rename = $key)] $field: PhraseList,)*
        }

        /// All phrases.
        #[derive(Clone, Debug)]
        pub struct Phrases {
            /// The file they stand in.
            pub(crate) file: SourceFile,
            $($(#[$doc])* pub $field: PhraseList,)*
        }

        impl Phrases {
            fn new(file: SourceFile, raw: PhraseFile) -> Phrases {
                Phrases { file, $($field: raw.$field,)* }
            }

            /// Every list with its key in the file and the slots that its phrases have to hold:
            /// exactly one of them, or none if there are none.
            pub fn lists(&self) -> Vec<(&'static str, &PhraseList, &'static [&'static str])> {
                vec![$(($key, &self.$field, &$slots),)*]
            }
        }
    };
}

phrases! {
    /// A greeting before the question.
    greeting = "gruss", [];
    /// A greeting before the answer.
    greeting_back = "gruss_antwort", [];
    /// A sentence before the question.
    lead_in = "einleitung", [];
    /// The question as a subordinate clause.
    indirect = "indirekt", ["{satz}"];
    /// A sentence after the question.
    closing = "ausklang", [];
    /// A wish for a short answer.
    brief = "kurz", ["{frage}"];
    /// A service's alias before a question that does not name it.
    topic = "thema", ["{stichwort}"];
    /// The question asks for the state of things today.
    current = "aktuell", ["{frage}"];
    /// The question with the day on which the citizen has time for it.
    plan = "vorhaben", ["{frage}"];
    /// From when an answer is.
    as_of = "stand", ["{stand}"];
    /// Official language around the question.
    official = "amtlich", ["{frage}", "{satz}"];
    /// An answer's legal source.
    source = "quelle", ["{quelle}"];
    /// The same for sources that are sections of a law.
    source_section = "quelle_paragraf", ["{quelle}"];
    /// Before an answer.
    answer_opening = "antwort_anfang", [];
    /// After an answer.
    answer_closing = "antwort_schluss", [];
    /// After an answer where a friendly wish is in place.
    answer_wish = "antwort_wunsch", [];
    /// Thanks at the end of a conversation.
    thanks = "dank", [];
    /// The answer to thanks.
    thanks_answer = "dank_antwort", [];
}

impl Phrases {
    /// Reads the phrases of a knowledge folder; those built into the program where the folder has
    /// none.
    pub(super) fn load(folder: &Path) -> Result<Phrases> {
        let path = folder.join(PHRASES_FILE);
        let (file, raw) = if path.exists() {
            SourceFile::read::<PhraseFile>(&path)?
        } else {
            return Phrases::built_in();
        };
        Ok(Phrases::new(file, raw))
    }

    /// The phrases built into the program.
    pub(super) fn built_in() -> Result<Phrases> {
        let (file, raw) = SourceFile::parse(Path::new(PHRASES_FILE), BUILT_IN)?;
        Ok(Phrases::new(file, raw))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_without_phrases_has_the_built_in_ones() {
        let folder = tempfile::tempdir().unwrap();
        let phrases = Phrases::load(folder.path()).unwrap();
        let starters = |list: &PhraseList| list.sie.len() + list.du.len() + list.neutral.len();
        assert!(starters(&phrases.lead_in) >= 100);
        assert!(
            phrases
                .lists()
                .iter()
                .all(|(_, list, _)| starters(list) > 0)
        );
    }

    #[test]
    fn a_mistake_is_named_with_file_and_line() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("sprache")).unwrap();
        let broken = BUILT_IN.replacen("[indirekt]", "[indirekd]", 1);
        std::fs::write(folder.path().join(PHRASES_FILE), &broken).unwrap();
        let line = broken
            .lines()
            .position(|line| line == "[indirekd]")
            .unwrap()
            + 1;
        let message = Phrases::load(folder.path()).unwrap_err().to_string();
        assert!(
            message.contains(&format!("redewendungen.toml:{line}")),
            "{message}"
        );
    }
}
