//! A file of the knowledge base: reading it, turning byte offsets into line numbers, parse errors
//! with file and line.

use anyhow::{Context, Result, anyhow};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use std::fmt;
use std::ops::Deref;
use std::path::{Path, PathBuf};

/// A string of the knowledge base together with the place where it was written.
#[derive(Clone, Debug)]
pub struct Text {
    value: String,
    offset: usize,
}

impl Text {
    /// The string itself.
    pub fn as_str(&self) -> &str {
        &self.value
    }
}

impl From<String> for Text {
    /// A text that stands in no file.
    fn from(value: String) -> Text {
        Text { value, offset: 0 }
    }
}

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        &self.value
    }
}

impl fmt::Display for Text {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.value)
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = toml::Spanned::<String>::deserialize(deserializer)?;
        let offset = spanned.span().start;
        Ok(Text {
            value: spanned.into_inner(),
            offset,
        })
    }
}

/// Path and line table of a file that was read.
#[derive(Clone, Debug, Default)]
pub struct SourceFile {
    /// Where the file was read from.
    pub path: PathBuf,
    line_starts: Vec<usize>,
}

impl SourceFile {
    /// Reads `path` and parses it as TOML. Errors name the file and, for a mistake inside it, the
    /// line.
    pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<(SourceFile, T)> {
        let content = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        SourceFile::parse(path, &content)
    }

    /// Parses `content` as the file at `path`.
    pub(crate) fn parse<T: DeserializeOwned>(
        path: &Path,
        content: &str,
    ) -> Result<(SourceFile, T)> {
        let line_starts = std::iter::once(0)
            .chain(content.match_indices('\n').map(|(at, _)| at + 1))
            .collect();
        let file = SourceFile {
            path: path.to_path_buf(),
            line_starts,
        };
        match toml::from_str(content) {
            Ok(value) => Ok((file, value)),
            Err(error) => {
                let line = error.span().map_or(1, |span| file.line_at(span.start));
                let message = error.message().trim();
                Err(anyhow!("{}:{line}: {message}", path.display()))
            }
        }
    }

    /// The line, counted from 1, on which `text` starts.
    pub(crate) fn line(&self, text: &Text) -> usize {
        self.line_at(text.offset)
    }

    fn line_at(&self, offset: usize) -> usize {
        self.line_starts
            .partition_point(|&start| start <= offset)
            .max(1)
    }
}
