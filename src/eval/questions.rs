//! A file of questions with what a right answer is: one JSON object a line.

use crate::knowledge::Knowledge;
use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// One question and what is expected of its answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Question {
    /// Line in the file, from 1.
    pub line: usize,
    /// What the citizen says.
    pub question: String,
    /// What is right.
    pub expected: Expected,
    /// What has to stand in a right answer: of each entry one of the alternatives.
    pub expect: Vec<Vec<String>>,
    /// How it is asked, if the file says so: results are counted by it.
    pub kind: Option<String>,
}

/// Who has to answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Expected {
    /// The answer is a fact of this service.
    Service {
        /// Office id.
        office: String,
        /// Service id.
        service: String,
    },
    /// None of the offices; the answer says so.
    Refusal,
}

/// Name under which questions to refuse are counted, like an office's.
pub(crate) const REFUSALS: &str = "ausserhalb";

impl Question {
    /// The office's id, or `REFUSALS`.
    pub fn office(&self) -> &str {
        match &self.expected {
            Expected::Service { office, .. } => office,
            Expected::Refusal => REFUSALS,
        }
    }

    /// The service's id.
    pub fn service(&self) -> Option<&str> {
        match &self.expected {
            Expected::Service { service, .. } => Some(service),
            Expected::Refusal => None,
        }
    }
}

/// A line of the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    question: String,
    office: Option<String>,
    service: Option<String>,
    #[serde(default)]
    expect: Vec<String>,
    #[serde(default)]
    expect_refusal: bool,
    kind: Option<String>,
}

/// Reads a file of questions; empty lines are skipped.
///
/// # Errors
/// If the file cannot be read or holds no question, or a line is malformed: the error names file
/// and line.
pub fn read_questions(path: &Path) -> Result<Vec<Question>> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut questions = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        let place = || format!("{}:{}", path.display(), index + 1);
        let parsed: Line = serde_json::from_str(line).with_context(|| {
            format!(
                "{}: expected {{\"question\", \"office\", \"service\", \"expect\": [...]}} or \
                 {{\"question\", \"expect_refusal\": true}}",
                place()
            )
        })?;
        questions.push(check(parsed, index + 1).with_context(place)?);
    }
    ensure!(
        !questions.is_empty(),
        "{} holds no question: expected one JSON object a line",
        path.display()
    );
    Ok(questions)
}

fn check(line: Line, number: usize) -> Result<Question> {
    ensure!(
        !line.question.trim().is_empty(),
        "\"question\" is empty: write what the citizen asks"
    );
    let expected = match (line.expect_refusal, line.office, line.service) {
        (true, None, None) => Expected::Refusal,
        (true, ..) => bail!(
            "\"expect_refusal\" stands beside \"office\" or \"service\": a question has either a \
             service or none"
        ),
        (false, Some(office), Some(service)) => Expected::Service { office, service },
        (false, ..) => bail!(
            "expected both \"office\" and \"service\", or \"expect_refusal\": true for a question \
             that none of the offices answers"
        ),
    };
    ensure!(
        expected == Expected::Refusal || !line.expect.is_empty(),
        "\"expect\" is empty: name what has to stand in a right answer"
    );
    let expect: Vec<Vec<String>> = line
        .expect
        .iter()
        .map(|entry| {
            entry
                .split('|')
                .map(|part| part.trim().to_string())
                .collect()
        })
        .collect();
    for (entry, parts) in line.expect.iter().zip(&expect) {
        ensure!(
            parts
                .iter()
                .all(|part| part.chars().any(char::is_alphanumeric)),
            "\"expect\" holds \"{entry}\": an alternative without letters or digits would be found \
             in no answer"
        );
    }
    Ok(Question {
        line: number,
        question: line.question.trim().to_string(),
        expected,
        expect,
        kind: line.kind,
    })
}

/// Checks that every service exists and belongs to the office that the file says.
///
/// # Errors
/// Names file and line, and for a wrong id the right ones that are near.
pub fn check_services(path: &Path, questions: &[Question], knowledge: &Knowledge) -> Result<()> {
    let office_of: BTreeMap<&str, &str> = knowledge
        .offices
        .iter()
        .flat_map(|office| {
            let services = office.services.iter();
            services.map(move |service| (service.id.as_str(), office.id()))
        })
        .collect();
    for question in questions {
        let Expected::Service { office, service } = &question.expected else {
            continue;
        };
        let place = format!("{}:{}", path.display(), question.line);
        match office_of.get(service.as_str()) {
            Some(right) if right == office => {}
            Some(right) => {
                bail!("{place}: {service} belongs to {right}, found office \"{office}\"")
            }
            None => {
                let own: Vec<&str> = office_of
                    .iter()
                    .filter(|(_, of)| *of == office)
                    .map(|(id, _)| *id)
                    .collect();
                match own.is_empty() {
                    true => bail!(
                        "{place}: there is no office \"{office}\" and no service \"{service}\" in \
                         the knowledge base"
                    ),
                    false => bail!(
                        "{place}: there is no service \"{service}\"; {office} has {}",
                        own.join(", ")
                    ),
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<Question>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fragen.jsonl");
        std::fs::write(&path, text).unwrap();
        read_questions(&path)
    }

    #[test]
    fn both_kinds_of_lines_are_read() {
        let questions = read(
            "{\"question\":\" Wo? \",\"office\":\"a\",\"service\":\"s\",\"expect\":[\"zwei \
             Wochen|14 Tage\",\"Amt\"]}\n\n{\"question\":\"Na?\",\"expect_refusal\":true}\n",
        )
        .unwrap();
        assert_eq!(questions[0].question, "Wo?");
        assert_eq!(
            questions[0].expect,
            [
                vec!["zwei Wochen".to_string(), "14 Tage".into()],
                vec!["Amt".into()]
            ]
        );
        assert_eq!(
            (questions[0].office(), questions[0].service()),
            ("a", Some("s"))
        );
        assert_eq!((questions[1].office(), questions[1].line), (REFUSALS, 3));
    }

    #[test]
    fn a_bad_line_is_named_with_its_number() {
        for (line, part) in [
            ("{", "expected {"),
            ("{\"question\":\"a\",\"frage\":1}", "unknown field `frage`"),
            ("{\"question\":\" \",\"expect_refusal\":true}", "empty"),
            ("{\"question\":\"a\",\"office\":\"o\"}", "expected both"),
            ("{\"question\":\"a\"}", "expected both"),
            (
                "{\"question\":\"a\",\"office\":\"o\",\"service\":\"s\",\"expect\":[]}",
                "\"expect\" is empty",
            ),
            (
                "{\"question\":\"a\",\"office\":\"o\",\"service\":\"s\",\"expect\":[\"x|\"]}",
                "without letters",
            ),
            (
                "{\"question\":\"a\",\"office\":\"o\",\"expect_refusal\":true}",
                "either a service or none",
            ),
        ] {
            let good = "{\"question\":\"Na?\",\"expect_refusal\":true}\n";
            let error = format!("{:#}", read(&format!("{good}{line}\n")).unwrap_err());
            assert!(
                error.contains("fragen.jsonl:2") && error.contains(part),
                "{line}: {error}"
            );
        }
        assert!(format!("{:#}", read("\n").unwrap_err()).contains("no question"));
    }
}
