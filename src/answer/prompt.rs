//! The prompt: the conversation laid out as most training examples are.

use super::{Assistant, Role, Turn};
use crate::generate::text::{ANSWER, QUESTION};
use crate::knowledge::{CONTACT_VALUES, Knowledge};
use crate::tokenizer::Tokenizer;
use anyhow::{Result, ensure};

impl Assistant {
    /// The prompt for the model: `Frage: ...` and `Antwort: ...` turn by turn, the newest question
    /// last, within `budget` tokens (the separator before it counted). Where that is too much, the
    /// oldest questions go, each with its answer.
    /// Errors: nothing is asked; the newest question alone has more tokens.
    pub fn prompt(
        &self,
        tokenizer: &Tokenizer,
        history: &[Turn],
        question: &str,
        budget: usize,
    ) -> Result<String> {
        let question = one_question(question)?;
        let mut prompt = format!("{QUESTION} {question}\n{ANSWER}");
        let length = |text: &str| Ok::<usize, anyhow::Error>(tokenizer.encode(text)?.len() + 1);
        let own = length(&prompt)?;
        ensure!(
            own <= budget,
            "the question has {own} tokens, and {budget} fit: ask in fewer words"
        );
        for (asked, answered) in pairs(history).into_iter().rev() {
            let answered = self.unfilled(&answered);
            let longer = format!("{QUESTION} {asked}\n{ANSWER} {answered}\n{prompt}");
            if length(&longer)? > budget {
                break;
            }
            prompt = longer;
        }
        Ok(prompt)
    }
}

impl Assistant {
    /// An earlier answer as the model knows it: with placeholders where the city's own values
    /// stand.
    fn unfilled(&self, text: &str) -> String {
        let mut text = text.to_string();
        for (value, placeholder) in &self.contacts {
            if text.contains(value.as_str()) {
                text = text.replace(value.as_str(), placeholder);
            }
        }
        text
    }
}

/// A question on one line.
///
/// # Errors
/// If nothing is asked.
pub(super) fn one_question(question: &str) -> Result<String> {
    let question = one_line(question);
    ensure!(
        !question.is_empty(),
        "the question is empty: ask something, e.g. \"Wo kann ich mich ummelden?\""
    );
    Ok(question)
}

/// A city's addresses, numbers and hours with their placeholders, the longest first so that none
/// cuts another in two.
pub(super) fn contacts(knowledge: &Knowledge) -> Vec<(String, String)> {
    let offices = knowledge.offices.iter().map(|office| Some(office.id()));
    let mut found = Vec::new();
    for office in offices.chain([None]) {
        for name in CONTACT_VALUES {
            let value = knowledge.municipality.value(name, office);
            found.extend(value.map(|value| (value.to_string(), format!("{{{name}}}"))));
        }
    }
    found.sort_by(|a, b| b.0.len().cmp(&a.0.len()).then(a.cmp(b)));
    found.dedup();
    found
}

/// Questions with their answers; a question without an answer (a stopped one) is left out.
fn pairs(history: &[Turn]) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for two in history.windows(2) {
        if let [asked, answered] = two
            && asked.role == Role::Citizen
            && answered.role == Role::Assistant
        {
            let pair = (one_line(&asked.text), one_line(&answered.text));
            if !pair.0.is_empty() && !pair.1.is_empty() {
                found.push(pair);
            }
        }
    }
    found
}

/// The text on one line, so that nobody writes a turn of the other side; a label at its beginning
/// goes.
fn one_line(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let line = line.strip_prefix(QUESTION).unwrap_or(&line);
    line.split(ANSWER)
        .next()
        .unwrap_or_default()
        .trim()
        .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_writes_the_other_sides_turn() {
        assert_eq!(one_line(" Wo?\nAntwort: Hier.\nFrage: Wer?"), "Wo?");
        assert_eq!(one_line("Frage: Wo \n kann ich?"), "Wo kann ich?");
    }
}
