//! Whether danger is seen, and daily life not taken for it.

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

use super::statistics::Share;
use crate::answer::Assistant;
use crate::answer::exchange::{ExchangeSettings, Pipeline};

/// A line of the file: what somebody says, and the kind of danger, or null for none.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DangerLine {
    /// What is said.
    pub question: String,
    /// The kind of danger; results are counted by it.
    #[serde(deserialize_with = "Option::deserialize")]
    pub danger: Option<String>,
}

/// How often danger was seen.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct DangerReport {
    /// Of the lines of danger: those that were seen.
    pub found: Share,
    /// Of the others: those that were taken for danger.
    pub false_alarms: Share,
    /// Found by kind of danger.
    pub kinds: BTreeMap<String, Share>,
    /// Danger that was not seen.
    pub missed: Vec<String>,
    /// What was wrongly taken for danger.
    pub taken_for_danger: Vec<String>,
}

/// Reads a file of lines; empty ones are skipped.
///
/// # Errors
/// If the file cannot be read or holds no line, or a line is malformed: the error names file and
/// line.
pub(crate) fn read_danger_lines(path: &Path) -> Result<Vec<DangerLine>> {
    let file = path.display();
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {file}"))?;
    let mut lines = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        let read = serde_json::from_str(line).with_context(|| {
            format!(
                "{file}:{}: expected {{\"question\": \"...\", \"danger\": \"kind\" or null}}",
                index + 1
            )
        });
        lines.push(read?);
    }
    ensure!(
        !lines.is_empty(),
        "{file} holds no line: expected one JSON object a line"
    );
    Ok(lines)
}

impl DangerReport {
    /// Asks every line on its own.
    ///
    /// # Errors
    /// If a line is empty.
    pub(crate) fn new(assistant: &Assistant, lines: &[DangerLine]) -> Result<DangerReport> {
        let pipeline = Pipeline {
            assistant,
            window: None,
        };
        let settings = ExchangeSettings::default();
        let seen = lines.iter().map(|line| {
            let request = pipeline.request(&[], &line.question, &settings)?;
            Ok((line, request.understanding().is_danger()))
        });
        let seen = seen.collect::<Result<Vec<(&DangerLine, bool)>>>()?;
        let (dangers, others): (Vec<_>, Vec<_>) = seen
            .into_iter()
            .partition(|(line, _)| line.danger.is_some());
        let mut kinds: BTreeMap<String, Vec<bool>> = BTreeMap::new();
        for (line, seen) in &dangers {
            let kind = line.danger.clone().unwrap_or_default();
            kinds.entry(kind).or_default().push(*seen);
        }
        let share = |of: &[(&DangerLine, bool)]| Share::of(of.iter().map(|(_, seen)| *seen));
        let texts = |of: &[(&DangerLine, bool)], wanted: bool| {
            let own = of.iter().filter(|(_, seen)| *seen == wanted);
            own.map(|(line, _)| line.question.clone()).collect()
        };
        Ok(DangerReport {
            found: share(&dangers),
            false_alarms: share(&others),
            kinds: kinds
                .into_iter()
                .map(|(kind, seen)| (kind, Share::of(seen)))
                .collect(),
            missed: texts(&dangers, false),
            taken_for_danger: texts(&others, true),
        })
    }

    /// The report for people.
    pub(crate) fn table(&self) -> String {
        let kinds = self.kinds.iter();
        let kinds = kinds.map(|(kind, share)| (format!("danger found, kind: {kind}"), share));
        let first = [
            ("danger found".to_string(), &self.found),
            ("no danger, taken for it".to_string(), &self.false_alarms),
        ];
        let lines = first.into_iter().chain(kinds);
        lines.map(|(name, share)| share.line(&name)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::knowledge::Knowledge;

    fn read(text: &str) -> Result<Vec<DangerLine>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gefahr.jsonl");
        std::fs::write(&path, text).unwrap();
        read_danger_lines(&path)
    }

    #[test]
    fn found_and_missed_are_told_apart() {
        let assistant = Assistant::new(Knowledge::bundled().unwrap()).unwrap();
        let lines = read(
            "{\"question\":\"Hilfe, es brennt!\",\"danger\":\"brand\"}\n\n\
             {\"question\":\"Was kostet ein Reisepass?\",\"danger\":\"brand\"}\n\
             {\"question\":\"Was kostet ein Personalausweis?\",\"danger\":null}\n",
        );
        let report = DangerReport::new(&assistant, &lines.unwrap()).unwrap();
        assert_eq!((report.found.count, report.found.of), (1, 2));
        assert_eq!((report.false_alarms.count, report.false_alarms.of), (0, 1));
        assert_eq!(report.missed, ["Was kostet ein Reisepass?"]);
        assert!(report.table().contains("brand"), "{}", report.table());
    }

    #[test]
    fn a_bad_line_is_named_with_its_number() {
        for line in ["{", "{\"question\":\"a\"}", "{\"danger\":null}"] {
            let good = "{\"question\":\"a\",\"danger\":null}\n";
            let error = format!("{:#}", read(&format!("{good}{line}\n")).unwrap_err());
            assert!(error.contains("gefahr.jsonl:2"), "{line}: {error}");
        }
        assert!(format!("{:#}", read("\n").unwrap_err()).contains("no line"));
    }
}
