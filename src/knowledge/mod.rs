//! The knowledge base: what each office does, with deadlines, fees, documents and legal sources.
//! One TOML file per office, `kommune.toml` for one city's own values, `ausserhalb.toml` for
//! requests that belong elsewhere.

mod bundled;
mod check;
pub(crate) mod dangers;
mod date;
mod import;
mod municipality;
mod phrases;
mod phrasings;
mod schema;
mod source;

pub(crate) use check::Severity;
pub(crate) use check::check_with;
pub(crate) use date::Date;
pub(crate) use import::{ImportedOffice, import_xzufi};
pub(crate) use municipality::{CITY_NAME, CONTACT_VALUES, Municipality};
pub(crate) use phrases::{PhraseList, Phrases};
pub(crate) use phrasings::{PhrasingFile, PhrasingKind};
pub use schema::Intent;
pub(crate) use schema::{Fact, ForeignRequest, Office, OfficeAbout, OutOfRemit, Service};
pub(crate) use source::{SourceFile, Text};

use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};

const MUNICIPALITY_FILE: &str = "kommune.toml";
const OUT_OF_REMIT_FILE: &str = "ausserhalb.toml";

/// Everything that a knowledge folder holds.
#[derive(Clone, Debug)]
pub struct Knowledge {
    /// The offices, sorted by id.
    pub offices: Vec<Office>,
    /// One city's own values.
    pub municipality: Municipality,
    /// Requests that none of the offices handles.
    pub out_of_remit: OutOfRemit,
    /// The phrases of conversations.
    pub phrases: Phrases,
    /// Citizens' own words, sorted by file name.
    pub phrasings: Vec<PhrasingFile>,
}

impl Knowledge {
    /// Reads every `*.toml` of the folder. `kommune.toml` must be there; `ausserhalb.toml` may be
    /// missing. Errors name the file and, for a mistake inside it, the line.
    pub fn load(folder: &Path) -> Result<Knowledge> {
        let files = read_toml_files(folder)?;
        let phrases = Phrases::load(folder)?;
        Knowledge::parse(folder, &files, &phrasings::files(folder)?, phrases)
    }

    /// Puts a knowledge base together from the files of a folder.
    fn parse(
        folder: &Path,
        files: &[(PathBuf, impl AsRef<str>)],
        phrasings: &[(PathBuf, impl AsRef<str>)],
        phrases: Phrases,
    ) -> Result<Knowledge> {
        let mut offices = Vec::new();
        let mut municipality = None;
        let mut out_of_remit = OutOfRemit::default();
        for (path, content) in files {
            let content = content.as_ref();
            match path.file_name().and_then(|name| name.to_str()) {
                Some(MUNICIPALITY_FILE) => {
                    let (file, raw): (_, municipality::MunicipalityFile) =
                        SourceFile::parse(path, content)?;
                    let (values, values_by_office) = (raw.werte, raw.werte_je_amt);
                    municipality = Some(Municipality {
                        file,
                        values,
                        values_by_office,
                    });
                }
                Some(OUT_OF_REMIT_FILE) => {
                    let (file, raw): (_, schema::OutOfRemitFile) =
                        SourceFile::parse(path, content)?;
                    out_of_remit = OutOfRemit {
                        file,
                        requests: raw.anfrage,
                    };
                }
                _ => {
                    let (file, raw): (_, schema::OfficeFile) = SourceFile::parse(path, content)?;
                    offices.push(Office {
                        file,
                        about: raw.amt,
                        services: raw.leistung,
                    });
                }
            }
        }
        let Some(municipality) = municipality else {
            bail!(
                "{} has no {MUNICIPALITY_FILE}: it holds the city's own values (see \
                docs/knowledge.md)",
                folder.display()
            );
        };
        if offices.is_empty() {
            bail!(
                "{} has no office: expected one TOML file per office (see docs/knowledge.md)",
                folder.display()
            );
        }
        offices.sort_by(|a, b| a.id().cmp(b.id()));
        let phrasings = phrasings.iter();
        let phrasings =
            phrasings.map(|(path, content)| PhrasingFile::parse(path, content.as_ref()));
        Ok(Knowledge {
            offices,
            municipality,
            out_of_remit,
            phrases,
            phrasings: phrasings.collect::<Result<_>>()?,
        })
    }

    /// The office with this id.
    pub(crate) fn office(&self, id: &str) -> Option<&Office> {
        self.offices.iter().find(|office| office.id() == id)
    }
}

/// The contents of the folder's TOML files, sorted by name.
fn read_toml_files(folder: &Path) -> Result<Vec<(PathBuf, String)>> {
    let read = |path: PathBuf| {
        let content = std::fs::read_to_string(&path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        Ok((path, content))
    };
    toml_files(folder)?.into_iter().map(read).collect()
}

fn toml_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).with_context(|| {
        format!(
            "cannot read the knowledge folder {}: give the right one with --knowledge",
            folder.display()
        )
    })?;
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry
            .with_context(|| format!("cannot list {}", folder.display()))?
            .path();
        let hidden = path
            .file_name()
            .is_none_or(|name| name.to_string_lossy().starts_with('.'));
        if !hidden
            && path
                .extension()
                .is_some_and(|extension| extension == "toml")
        {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// The knowledge base of the unit tests.
#[cfg(test)]
pub(crate) fn small_knowledge() -> Knowledge {
    let folder = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/fixtures/knowledge_small"
    );
    Knowledge::load(Path::new(folder)).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistake_is_named_with_file_and_line() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("kommune.toml"), "[werte]\n").unwrap();
        let office = folder.path().join("bauamt.toml");
        std::fs::write(
            &office,
            "[amt]\nid = \"bauamt\"\nname = \"Bauamt\"\nartikel = \"das\"\nfarbe = \"rot\"\n",
        )
        .unwrap();
        let message = Knowledge::load(folder.path()).unwrap_err().to_string();
        assert!(
            message.contains("bauamt.toml:5") && message.contains("farbe"),
            "{message}"
        );
        std::fs::write(&office, "[amt]\nid = \"bauamt\"\nname = \"Bauamt\n").unwrap();
        let message = Knowledge::load(folder.path()).unwrap_err().to_string();
        assert!(message.contains("bauamt.toml:3"), "{message}");
    }

    #[test]
    fn an_empty_or_missing_folder_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert!(
            Knowledge::load(folder.path())
                .unwrap_err()
                .to_string()
                .contains("kommune.toml")
        );
        let missing = Knowledge::load(&folder.path().join("missing")).unwrap_err();
        assert!(format!("{missing:#}").contains("--knowledge"));
    }
}
