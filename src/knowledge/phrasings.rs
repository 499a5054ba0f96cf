//! Citizens' own words: `fragen/AMT.toml` holds free phrasings for each service, by kind and
//! intent; `fragen/ausserhalb.toml` those for requests that belong elsewhere, and texts that fit
//! nothing; `fragen/gefahr.toml` what people say who are in danger, and what sounds like it.
//!
//! The folder is optional. Understanding learns from it ([`crate::answer`]).

use anyhow::{Result, bail};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{Intent, SourceFile, Text};

/// Name of the folder within a knowledge folder.
pub(super) const FOLDER: &str = "fragen";
/// Key of texts that fit no service and no request.
const NOTHING: &str = "nichts";
/// The file about danger.
const DANGER_FILE: &str = "gefahr.toml";
/// Its key of texts that only sound like danger.
const HARMLESS: &str = "harmlos";
/// Intent of a phrasing that asks for no particular side of its service.
const GENERAL: &str = "allgemein";

/// How a phrasing says what it wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PhrasingKind {
    /// A situation told without the official word (`situation`).
    Situation,
    /// A chat line of a few words (`kurz`).
    Short,
    /// Typing mistakes, dialect, no umlauts, dictated (`schreibweise`).
    Spelling,
    /// A wrong, old or regional official term (`amtswort`).
    OfficialTerm,
    /// A story and a mood around the wish (`erzaehlung`).
    Story,
}

impl PhrasingKind {
    /// All kinds in the order of the schema, with the least number of phrasings that a service
    /// should have.
    pub(crate) const ALL: [(PhrasingKind, usize); 5] = [
        (PhrasingKind::Situation, 60),
        (PhrasingKind::Short, 40),
        (PhrasingKind::Spelling, 20),
        (PhrasingKind::OfficialTerm, 15),
        (PhrasingKind::Story, 15),
    ];

    /// The key in the file.
    pub(crate) fn key(self) -> &'static str {
        match self {
            PhrasingKind::Situation => "situation",
            PhrasingKind::Short => "kurz",
            PhrasingKind::Spelling => "schreibweise",
            PhrasingKind::OfficialTerm => "amtswort",
            PhrasingKind::Story => "erzaehlung",
        }
    }
}

/// What a citizen says who wants a service.
#[derive(Clone, Debug)]
pub struct Phrasing {
    /// The words.
    pub text: Text,
    /// How they say it.
    pub kind: PhrasingKind,
    /// The side of the service that they ask for; `None` where they ask for no particular one.
    pub intent: Option<Intent>,
}

/// The phrasings of one file.
#[derive(Clone, Debug, Default)]
pub struct PhrasingFile {
    /// Where they stand.
    pub file: SourceFile,
    /// By id of the service.
    pub services: BTreeMap<String, Vec<Phrasing>>,
    /// By id of the request that belongs elsewhere.
    pub requests: BTreeMap<String, Vec<Text>>,
    /// What fits nothing.
    pub nothing: Vec<Text>,
    /// What is said in danger, by id of the request that helps.
    pub dangers: BTreeMap<String, Vec<Text>>,
    /// What sounds like danger and is none. It may be about a service, a request or nothing.
    pub harmless: Vec<Text>,
}

impl PhrasingFile {
    /// Parses the file at `path`.
    ///
    /// # Errors
    /// Names file and line of broken TOML, and an unknown kind or intent with those that there are.
    pub(crate) fn parse(path: &Path, content: &str) -> Result<PhrasingFile> {
        let mut phrasings = PhrasingFile::default();
        let is = |name: &str| path.file_name().is_some_and(|found| found == name);
        if is(DANGER_FILE) {
            (phrasings.file, phrasings.dangers) = SourceFile::parse(path, content)?;
            phrasings.harmless = phrasings.dangers.remove(HARMLESS).unwrap_or_default();
            return Ok(phrasings);
        }
        if is(super::OUT_OF_REMIT_FILE) {
            let (file, raw): (_, BTreeMap<String, Vec<Text>>) = SourceFile::parse(path, content)?;
            phrasings.file = file;
            phrasings.requests = raw;
            phrasings.nothing = phrasings.requests.remove(NOTHING).unwrap_or_default();
            return Ok(phrasings);
        }
        let (file, raw): (_, BTreeMap<String, Kinds>) = SourceFile::parse(path, content)?;
        phrasings.file = file;
        for (id, kinds) in raw {
            let found = of_service(path, &id, kinds)?;
            phrasings.services.insert(id, found);
        }
        Ok(phrasings)
    }

    /// All texts with the id that they belong to; that of texts that fit nothing is empty.
    pub fn texts(&self) -> impl Iterator<Item = (&str, &Text)> {
        let services = self.services.iter();
        let services = services.flat_map(|(id, all)| {
            all.iter()
                .map(move |phrasing| (id.as_str(), &phrasing.text))
        });
        let requests = self.requests.iter();
        let requests =
            requests.flat_map(|(id, texts)| texts.iter().map(move |text| (id.as_str(), text)));
        services
            .chain(requests)
            .chain(self.nothing.iter().map(|text| ("", text)))
    }
}

/// Texts by kind and intent.
type Kinds = BTreeMap<String, BTreeMap<String, Vec<Text>>>;

fn of_service(path: &Path, id: &str, kinds: Kinds) -> Result<Vec<Phrasing>> {
    let mut found = Vec::new();
    for (key, intents) in kinds {
        let known = PhrasingKind::ALL.iter().find(|(kind, _)| kind.key() == key);
        let Some(&(kind, _)) = known else {
            let keys = PhrasingKind::ALL.map(|(kind, _)| kind.key()).join(", ");
            bail!(
                "{}: [{id}] has the kind \"{key}\", expected one of {keys}",
                path.display()
            );
        };
        for (key, texts) in intents {
            let intent = match Intent::ALL.into_iter().find(|intent| intent.key() == key) {
                Some(intent) => Some(intent),
                None if key == GENERAL => None,
                None => bail!(
                    "{}: [{id}.{}] has the intent \"{key}\", expected {GENERAL} or one of {}",
                    path.display(),
                    kind.key(),
                    Intent::ALL.map(Intent::key).join(", ")
                ),
            };
            found.extend(
                texts
                    .into_iter()
                    .map(|text| Phrasing { text, kind, intent }),
            );
        }
    }
    Ok(found)
}

/// The files of `folder`/fragen, sorted by name; none where there is no such folder.
///
/// # Errors
/// Where the folder or a file cannot be read.
pub(super) fn files(folder: &Path) -> Result<Vec<(PathBuf, String)>> {
    let folder = folder.join(FOLDER);
    match folder.is_dir() {
        true => super::read_toml_files(&folder),
        false => Ok(Vec::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_and_intents_are_read_and_unknown_ones_named() {
        let text = "[ewo.kurz]\nfrist = [\"bis wann\"]\nallgemein = [\"umgezogen\"]\n";
        let file = PhrasingFile::parse(Path::new("a.toml"), text).unwrap();
        let found = &file.services["ewo"];
        assert_eq!(found.len(), 2);
        assert!(found.iter().all(|p| p.kind == PhrasingKind::Short));
        assert_eq!(found[0].intent, None);
        assert_eq!(found[1].intent, Some(Intent::Deadline));
        let foreign = "rente = [\"Wann Rente?\"]\nnichts = [\"Wer wird Meister\"]\n";
        let file = PhrasingFile::parse(Path::new("ausserhalb.toml"), foreign).unwrap();
        assert_eq!(file.texts().count(), 2);
        assert_eq!(file.nothing.len(), 1);
        for (wrong, named) in [
            ("[e.lang]\nwas = []\n", "lang"),
            ("[e.kurz]\npreis = []\n", "preis"),
        ] {
            let message = PhrasingFile::parse(Path::new("a.toml"), wrong);
            let message = message.unwrap_err().to_string();
            assert!(
                message.contains("a.toml") && message.contains(named),
                "{message}"
            );
        }
    }
}
