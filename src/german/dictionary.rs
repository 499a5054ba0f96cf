//! Spelling by a hunspell dictionary. German dictionaries are free, but under licences that this
//! project's own does not allow to bundle: one is looked for on the machine. Words that are right
//! and missing there stand in `sprache/woerter.txt`.

use anyhow::{Context, Result, anyhow, bail};
use rayon::prelude::*;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

/// Words of the field that a general dictionary lacks, one a line.
const EXTRA_WORDS: &str = include_str!("../../knowledge/sprache/woerter.txt");

/// File inside the knowledge folder with more such words.
const EXTRA_FILE: &str = "sprache/woerter.txt";

/// Where systems keep hunspell dictionaries.
const FOLDERS: [&str; 6] = [
    "/usr/share/hunspell",
    "/usr/share/myspell/dicts",
    "/usr/share/myspell",
    "/usr/local/share/hunspell",
    "/opt/homebrew/share/hunspell",
    "/Library/Spelling",
];

/// A German dictionary with the project's own words.
pub struct Dictionary {
    words: spellbook::Dictionary,
    extra: HashSet<String>,
    /// The file it was read from.
    pub path: PathBuf,
}

/// How many words of a text a dictionary does not know.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Spelling {
    /// Words looked at.
    pub words: u64,
    /// Words not known, each as often as it occurs.
    pub unknown: u64,
    /// The most frequent unknown words.
    pub examples: Vec<(String, u64)>,
}

impl Spelling {
    /// Share of unknown words in percent.
    pub(crate) fn percent(&self) -> f64 {
        100.0 * self.unknown as f64 / self.words.max(1) as f64
    }
}

impl Dictionary {
    /// The dictionary at `given` (`de_DE.aff`, `de_DE.dic`, or the folder of both), or else one
    /// that the system has: in `DICPATH` and the usual folders. `None` if there is none.
    ///
    /// # Errors
    /// When the given one cannot be read, and when what is found is damaged.
    pub(crate) fn find(given: Option<&Path>, knowledge: &Path) -> Result<Option<Dictionary>> {
        if let Some(given) = given {
            let affixes = if given.is_dir() {
                in_folder(given).with_context(|| {
                    format!("{} holds no de_DE.aff with de_DE.dic", given.display())
                })?
            } else {
                given.with_extension("aff")
            };
            return Dictionary::read(&affixes, knowledge).map(Some);
        }
        let from_environment = std::env::var_os("DICPATH");
        let listed = from_environment.iter().flat_map(std::env::split_paths);
        let found = listed
            .chain(FOLDERS.iter().map(PathBuf::from))
            .find_map(|folder| in_folder(&folder));
        found
            .map(|affixes| Dictionary::read(&affixes, knowledge))
            .transpose()
    }

    fn read(affixes: &Path, knowledge: &Path) -> Result<Dictionary> {
        let list = affixes.with_extension("dic");
        let (affix_text, list_text) = (read_text(affixes)?, read_text(&list)?);
        let words = spellbook::Dictionary::new(&affix_text, &list_text)
            .map_err(|error| anyhow!("{} is no hunspell dictionary: {error}", affixes.display()))?;
        let mut extra: HashSet<String> = lines(EXTRA_WORDS);
        let own = knowledge.join(EXTRA_FILE);
        if own.exists() {
            let text = std::fs::read_to_string(&own)
                .with_context(|| format!("cannot read {}", own.display()))?;
            extra.extend(lines(&text));
        }
        Ok(Dictionary {
            words,
            extra,
            path: list,
        })
    }

    /// Whether a word is known, as it stands or with a small first letter, whole or in the parts
    /// between its hyphens.
    pub(crate) fn knows(&self, word: &str) -> bool {
        if self.knows_whole(word) {
            return true;
        }
        word.contains('-')
            && word
                .split('-')
                .all(|part| part.chars().count() < 2 || self.knows_whole(part))
    }

    fn knows_whole(&self, word: &str) -> bool {
        if self.extra.contains(word) || self.words.check(word) {
            return true;
        }
        let mut letters = word.chars();
        let Some(first) = letters.next() else {
            return true;
        };
        let small: String = first.to_lowercase().chain(letters).collect();
        self.extra.contains(&small) || self.words.check(&small)
    }

    /// Counts the unknown words of many texts. Every different word is looked up once.
    pub(crate) fn spelling<'t>(&self, texts: impl ParallelIterator<Item = &'t str>) -> Spelling {
        let counts = texts
            .fold(HashMap::new, |mut counts: HashMap<&str, u64>, text| {
                for word in spelled_words(text) {
                    *counts.entry(word).or_default() += 1;
                }
                counts
            })
            .reduce(HashMap::new, |mut all, counts| {
                for (word, count) in counts {
                    *all.entry(word).or_default() += count;
                }
                all
            });
        let words = counts.values().sum();
        let mut unknown: Vec<(&str, u64)> = counts
            .into_par_iter()
            .filter(|(word, _)| !self.knows(word))
            .collect();
        // The most frequent first, equally frequent ones by the alphabet, whatever the order of the
        // table.
        unknown.sort_unstable_by_key(|&(word, count)| (std::cmp::Reverse(count), word));
        let total = unknown.iter().map(|(_, count)| count).sum();
        let examples = unknown.into_iter().take(40);
        Spelling {
            words,
            unknown: total,
            examples: examples
                .map(|(word, count)| (word.to_string(), count))
                .collect(),
        }
    }
}

/// The words of a text that have a spelling: no placeholders, figures, addresses.
pub(crate) fn spelled_words(text: &str) -> impl Iterator<Item = &str> {
    text.split_whitespace()
        .filter(|token| !is_address(token))
        .flat_map(|token| {
            // Braces hold a placeholder's name.
            token.split('{').flat_map(|part| {
                let plain = part.split_once('}').map_or(part, |(_, behind)| behind);
                plain.split(|c: char| !c.is_alphanumeric() && c != '-' && c != '’')
            })
        })
        // "Geburts- und Eheurkunde": the stump is no word.
        .filter(|word| !word.ends_with('-'))
        .map(|word| word.trim_matches(['-', '’']))
        .filter(|word| {
            word.chars().count() > 1 && word.chars().all(|c| c.is_alphabetic() || c == '-')
        })
}

// "bund.id", "https://...", "info@stadt.example"
fn is_address(token: &str) -> bool {
    let is_part = |part: &str| part.len() > 1 && part.ends_with(|c: char| c.is_ascii_lowercase());
    let inner = token.trim_end_matches(['.', ',', ')', '?', '!', ';', ':']);
    token.contains("://")
        || token.contains('@')
        || inner
            .split('.')
            .zip(inner.split('.').skip(1))
            .any(|(part, next)| is_part(part) && is_part(next))
}

fn lines(text: &str) -> HashSet<String> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(str::to_string)
        .collect()
}

fn in_folder(folder: &Path) -> Option<PathBuf> {
    ["de_DE", "de_DE_frami", "de", "index", "de_AT", "de_CH"]
        .iter()
        .map(|name| folder.join(format!("{name}.aff")))
        .find(|affixes| affixes.is_file() && affixes.with_extension("dic").is_file())
}

// Many German dictionaries are in Latin-1, and say so in their first lines.
fn read_text(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path)
        .with_context(|| format!("cannot read the dictionary file {}", path.display()))?;
    match String::from_utf8(bytes) {
        Ok(text) => Ok(text),
        Err(error) => {
            let text: String = error
                .into_bytes()
                .iter()
                .map(|&byte| char::from(byte))
                .collect();
            if text.contains("SET UTF-8") {
                bail!(
                    "{} says that it is UTF-8 and is not: it is damaged",
                    path.display()
                );
            }
            Ok(text.replace("SET ISO8859-1", "SET UTF-8"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // A dictionary of six words with one ending, in Latin-1.
    fn small(folder: &Path) -> Dictionary {
        std::fs::write(
            folder.join("de_DE.aff"),
            "SET ISO8859-1\nSFX N Y 1\nSFX N 0 n .\n",
        )
        .unwrap();
        let list: Vec<u8> = "6\nGebühr\nStelle/N\ndie\nkostet\nEhe\nUrkunde/N\n"
            .chars()
            .map(|c| c as u8)
            .collect();
        std::fs::write(folder.join("de_DE.dic"), list).unwrap();
        Dictionary::find(Some(folder), folder).unwrap().unwrap()
    }

    #[test]
    fn words_are_known_with_endings_and_at_the_start_of_a_sentence() {
        let folder = tempfile::tempdir().unwrap();
        let dictionary = small(folder.path());
        for word in [
            "Gebühr",
            "Stellen",
            "Die",
            "Kostet",
            "Ehe-Urkunde",
            "Einwohnermeldeamt",
        ] {
            assert!(dictionary.knows(word), "{word}");
        }
        for word in ["Gebüer", "gebühr", "Kosted"] {
            assert!(!dictionary.knows(word), "{word}");
        }
    }

    #[test]
    fn unknown_words_are_counted() {
        let folder = tempfile::tempdir().unwrap();
        let dictionary = small(folder.path());
        let texts = [
            "Die Gebühr kostet {gebuehr_pass}, 27,60 Euro.",
            "Die Gebüer, die Gebüer: info@stadt.example",
        ];
        let spelling = dictionary.spelling(texts.into_par_iter());
        assert_eq!((spelling.words, spelling.unknown), (8, 3));
        assert_eq!(
            spelling.examples,
            [("Gebüer".to_string(), 2), ("Euro".to_string(), 1)]
        );
        assert!((spelling.percent() - 37.5).abs() < 1e-9);
    }

    #[test]
    fn own_words_and_missing_files() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("sprache")).unwrap();
        std::fs::write(folder.path().join(EXTRA_FILE), "# eigene Wörter\nBüdchen\n").unwrap();
        assert!(small(folder.path()).knows("Büdchen"));
        let missing = Dictionary::find(Some(&folder.path().join("fehlt.aff")), folder.path())
            .err()
            .unwrap();
        assert!(format!("{missing:#}").contains("fehlt.aff"));
    }
}
