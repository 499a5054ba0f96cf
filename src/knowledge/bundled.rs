//! The knowledge base that the program was built with, so that the binary answers where no folder
//! lies beside it.

use super::{Knowledge, Phrases};
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};

macro_rules! files {
    ($($name:literal)*) => {
        [$(($name, include_str!(concat!("../../knowledge/", $name)))),*]
    };
}

/// The files by name; a test keeps the list complete.
const FILES: [(&str, &str); 10] = files! {
    "allgemeine_verwaltung.toml"
    "ausserhalb.toml"
    "bauamt.toml"
    "einwohnermeldeamt.toml"
    "jugendamt.toml"
    "kommune.toml"
    "ordnungsamt.toml"
    "sozialamt.toml"
    "stadtkasse.toml"
    "standesamt.toml"
};

/// Citizens' own words, by file.
const PHRASINGS: [(&str, &str); 10] = files! {
    "fragen/allgemeine_verwaltung.toml"
    "fragen/ausserhalb.toml"
    "fragen/bauamt.toml"
    "fragen/einwohnermeldeamt.toml"
    "fragen/gefahr.toml"
    "fragen/jugendamt.toml"
    "fragen/ordnungsamt.toml"
    "fragen/sozialamt.toml"
    "fragen/stadtkasse.toml"
    "fragen/standesamt.toml"
};

impl Knowledge {
    /// The knowledge base that the program was built with: that of the invented city "Musterstadt".
    pub(crate) fn bundled() -> Result<Knowledge> {
        let files = FILES.map(|(name, content)| (PathBuf::from(name), content));
        Knowledge::parse(
            Path::new("the bundled knowledge"),
            &files,
            &PHRASINGS.map(|(name, content)| (PathBuf::from(name), content)),
            Phrases::built_in()?,
        )
        .context("in the knowledge base that the program was built with")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::knowledge::PhrasingFile;

    #[test]
    fn what_is_built_in_is_the_folder() {
        let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/knowledge"));
        let (loaded, bundled) = (
            Knowledge::load(folder).unwrap(),
            Knowledge::bundled().unwrap(),
        );
        let told = |knowledge: &Knowledge| -> Vec<String> {
            let services = knowledge.offices.iter().flat_map(|office| &office.services);
            let requests = knowledge.out_of_remit.requests.iter();
            services
                .map(|service| format!("{} {}", service.id, service.facts.len()))
                .chain(requests.map(|request| request.answer.to_string()))
                .collect()
        };
        assert_eq!(told(&loaded), told(&bundled));
        let counts = |knowledge: &Knowledge| -> Vec<usize> {
            let files = knowledge.phrasings.iter();
            let in_danger = |file: &PhrasingFile| file.dangers.values().flatten().count();
            files
                .map(|file| file.texts().count() + in_danger(file) + file.harmless.len())
                .collect()
        };
        assert_eq!(counts(&loaded), counts(&bundled));
        assert_eq!(
            loaded.municipality.values.len(),
            bundled.municipality.values.len()
        );
    }
}
