//! `kommune.toml`: one city's own values, and filling them into texts.

use super::date::Date;
use super::source::{SourceFile, Text};
use anyhow::{Result, bail};
use serde::Deserialize;
use std::collections::BTreeMap;

/// Name of the value with the city's name.
pub(crate) const CITY_NAME: &str = "stadt";
/// Names of the values that say how to reach the city or an office. Any answer may hold them.
pub(crate) const CONTACT_VALUES: [&str; 6] = [
    "adresse",
    "telefon",
    "email",
    "oeffnungszeiten",
    "termin_url",
    "serviceportal_url",
];

/// One value of a city.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LocalValue {
    /// What is filled in.
    #[serde(rename = "wert")]
    pub value: Text,
    /// What the value means, for the person who edits it.
    #[serde(rename = "text")]
    pub meaning: Text,
    /// The last day on which it is right, `YYYY-MM-DD`, where it changes by itself: amounts that
    /// the law sets anew each year.
    #[serde(rename = "gueltig_bis")]
    pub valid_until: Option<Text>,
}

impl LocalValue {
    /// The last day on which it is right, if that day is over.
    pub(super) fn outdated_since(&self, today: Date) -> Option<Date> {
        let last = self.valid_until.as_ref()?.parse::<Date>().ok()?;
        (last < today).then_some(last)
    }
}

/// What `kommune.toml` holds.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MunicipalityFile {
    #[serde(default)]
    pub werte: BTreeMap<String, LocalValue>,
    #[serde(default)]
    pub werte_je_amt: BTreeMap<String, BTreeMap<String, LocalValue>>,
}

/// One city's own values.
#[derive(Clone, Debug, Default)]
pub struct Municipality {
    /// The file that describes them.
    pub file: SourceFile,
    /// City-wide values by placeholder name.
    pub values: BTreeMap<String, LocalValue>,
    /// Values by office id and placeholder name; they go before the city-wide ones.
    pub(crate) values_by_office: BTreeMap<String, BTreeMap<String, LocalValue>>,
}

impl Municipality {
    /// The value of the placeholder `name` as the office `office_id` uses it; `None` asks for the
    /// city-wide value.
    pub(crate) fn value(&self, name: &str, office_id: Option<&str>) -> Option<&str> {
        let of_office = office_id
            .and_then(|id| self.values_by_office.get(id))
            .and_then(|values| values.get(name));
        of_office
            .or_else(|| self.values.get(name))
            .map(|found| found.value.as_str())
    }

    /// All values with their names: the city's, then its offices'.
    pub(super) fn all(&self) -> impl Iterator<Item = (&str, &LocalValue)> {
        let own = self.values.iter();
        let of_offices = self.values_by_office.values().flatten();
        own.chain(of_offices)
            .map(|(name, value)| (name.as_str(), value))
    }

    /// Values that are not right any more on this day, each in a sentence with its place.
    pub(crate) fn outdated(&self, today: Date) -> Vec<String> {
        let outdated = self.all().filter_map(|(name, value)| {
            let last = value.outdated_since(today)?;
            let (file, line) = (self.file.path.display(), self.file.line(&value.value));
            Some(format!(
                "{file}:{line}: {name} was right until {last}: look up today's value"
            ))
        });
        outdated.collect()
    }

    /// Replaces every `{name}` in `text` by this city's value. An unknown name or a brace without
    /// partner is an error.
    pub fn fill(&self, text: &str, office_id: Option<&str>) -> Result<String> {
        let mut filled = String::with_capacity(text.len() + 32);
        for piece in pieces(text)? {
            match piece {
                Piece::Plain(plain) => filled.push_str(plain),
                Piece::Placeholder(name) => match self.value(name, office_id) {
                    Some(value) => filled.push_str(value),
                    None => bail!(
                        "unknown placeholder {{{name}}} in \"{text}\": {} has no value of that \
                        name; add it under [werte]",
                        self.file.path.display()
                    ),
                },
            }
        }
        Ok(filled)
    }
}

/// A stretch of plain text or the name of a placeholder.
#[derive(Debug, PartialEq)]
pub(super) enum Piece<'a> {
    Plain(&'a str),
    Placeholder(&'a str),
}

/// Cuts a text at its placeholders; a brace without partner or an empty or odd name is an error.
pub(super) fn pieces(text: &str) -> Result<Vec<Piece<'_>>> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(open) = rest.find(['{', '}']) {
        let Some(close) = rest[open..].find('}').filter(|&length| length > 0) else {
            bail!("brace without partner in \"{text}\": a placeholder is written {{name}}");
        };
        let name = &rest[open + 1..open + close];
        if name.is_empty()
            || !name
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        {
            bail!("\"{{{name}}}\" is not a placeholder: its name may hold a-z, 0-9 and _ only");
        }
        if open > 0 {
            found.push(Piece::Plain(&rest[..open]));
        }
        found.push(Piece::Placeholder(name));
        rest = &rest[open + close + 1..];
    }
    if !rest.is_empty() {
        found.push(Piece::Plain(rest));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn city() -> Municipality {
        let content = "[werte]\ntelefon = { wert = \"100\", text = \"Zentrale\" }\nstadt = { wert \
            = \"Neustadt\", text = \"Name\" }\n\
                       [werte_je_amt.bauamt]\ntelefon = { wert = \"200\", text = \"Bauamt\" }\n";
        let (file, raw): (_, MunicipalityFile) =
            SourceFile::parse(Path::new("kommune.toml"), content).unwrap();
        Municipality {
            file,
            values: raw.werte,
            values_by_office: raw.werte_je_amt,
        }
    }

    #[test]
    fn an_offices_own_value_goes_first() {
        let city = city();
        assert_eq!(
            city.fill("{telefon} in {stadt}", Some("bauamt")).unwrap(),
            "200 in Neustadt"
        );
        assert_eq!(city.fill("{telefon}", Some("standesamt")).unwrap(), "100");
        assert_eq!(city.fill("{telefon}.", None).unwrap(), "100.");
    }

    #[test]
    fn a_value_is_outdated_after_its_last_day() {
        let content = "[werte]\nkindergeld = { wert = \"259 Euro\", text = \"im Monat\", \
            gueltig_bis = \"2026-12-31\" }\nstadt = { wert = \"Neustadt\", text = \"Name\" }\n";
        let (file, raw): (_, MunicipalityFile) =
            SourceFile::parse(Path::new("kommune.toml"), content).unwrap();
        let city = Municipality {
            file,
            values: raw.werte,
            ..Municipality::default()
        };
        assert!(city.outdated("2026-12-31".parse().unwrap()).is_empty());
        let outdated = city.outdated("2027-01-01".parse().unwrap());
        assert_eq!(outdated.len(), 1);
        assert!(
            outdated[0].starts_with("kommune.toml:2: kindergeld was right until 2026-12-31"),
            "{outdated:?}"
        );
    }

    #[test]
    fn unknown_names_and_stray_braces_are_errors() {
        let city = city();
        assert!(
            city.fill("{iban}", None)
                .unwrap_err()
                .to_string()
                .contains("{iban}")
        );
        for broken in ["{telefon", "telefon}", "{}", "{Telefon}", "{a{b}}"] {
            assert!(city.fill(broken, None).is_err(), "{broken}");
        }
    }
}
