//! How a dialogue is laid out as text. The product asks its model in the first format, so that is by far the most frequent.

use super::catalog::Asked;
use super::draw::Draw;
use super::german::upper_first;

/// One layout: an optional line above, then a line per turn, each begun by a label.
pub struct Format {
    /// Name in the data set's records.
    pub id: &'static str,
    /// Line above the dialogue; may hold `{amt}`, `{an_amt}` and `{titel}`.
    head: &'static str,
    /// Label before a question; may hold the same.
    question: &'static str,
    /// Label before an answer; may hold the same.
    answer: &'static str,
}

/// Share of the first format in percent.
const DEFAULT_SHARE: usize = 60;

const fn format(
    id: &'static str,
    head: &'static str,
    question: &'static str,
    answer: &'static str,
) -> Format {
    Format {
        id,
        head,
        question,
        answer,
    }
}

/// The layouts; the first is the default.
pub const FORMATS: [Format; 12] = [
    format("frage_antwort", "", "Frage", "Antwort"),
    format("buerger_amt", "", "Bürger", "Amt"),
    format("buergerin_amt", "", "Bürgerin", "{amt}"),
    format("f_a", "", "F", "A"),
    format("frage_an_amt", "", "Frage an {an_amt}", "Antwort"),
    format("anfrage_auskunft", "", "Anfrage", "Auskunft"),
    format("amt_frage_antwort", "{amt}", "Frage", "Antwort"),
    format("thema_frage_antwort", "Thema: {titel}", "Frage", "Antwort"),
    format("nutzer_assistent", "", "Nutzer", "Assistent"),
    format(
        "buerger_verwaltung",
        "",
        "Bürgeranfrage",
        "Antwort der Stadtverwaltung",
    ),
    format("chat", "Chat mit der Stadtverwaltung", "Gast", "Stadt"),
    format(
        "gespraech",
        "Gespräch im Rathaus",
        "Besucherin",
        "Sachbearbeiter",
    ),
];

/// A dialogue as text, and where in it the answers stand.
pub struct Rendered {
    /// The whole text.
    pub text: String,
    /// Byte range of each answer. It begins right after the label's colon, so that the space before the first word belongs to
    /// the answer: a model that is prompted with `Antwort:` has to write that space.
    pub answers: Vec<(usize, usize)>,
}

impl Format {
    /// Draws a layout: the default, or one of the others with equal chance.
    pub fn draw(draw: &mut Draw) -> &'static Format {
        let index = if draw.percent(DEFAULT_SHARE) {
            0
        } else {
            1 + draw.below(FORMATS.len() - 1)
        };
        &FORMATS[index]
    }

    /// Lays out pairs of question and answer about `asked`.
    pub fn render(&self, asked: &Asked, pairs: &[(String, String)]) -> Rendered {
        let fill = |label: &str| {
            label
                .replace("{amt}", asked.office_name)
                .replace("{an_amt}", &asked.office_accusative)
                .replace("{titel}", asked.title)
        };
        let mut text = upper_first(&fill(self.head));
        let mut answers = Vec::with_capacity(pairs.len());
        for (question, answer) in pairs {
            if !text.is_empty() {
                text.push('\n');
            }
            text.push_str(&format!(
                "{}: {question}\n{}:",
                fill(self.question),
                fill(self.answer)
            ));
            let start = text.len();
            text.push(' ');
            text.push_str(answer);
            answers.push((start, text.len()));
        }
        Rendered { text, answers }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn asked() -> Asked<'static> {
        Asked {
            office_name: "Bauamt",
            office_accusative: "das Bauamt".to_string(),
            title: "Bauantrag",
        }
    }

    #[test]
    fn the_default_is_exactly_the_products_prompt() {
        let rendered = FORMATS[0].render(&asked(), &[("Wo?".to_string(), "Hier.".to_string())]);
        assert_eq!(rendered.text, "Frage: Wo?\nAntwort: Hier.");
        assert_eq!(
            &rendered.text[rendered.answers[0].0..rendered.answers[0].1],
            " Hier."
        );
    }

    #[test]
    fn every_format_is_its_own_and_marks_the_answers() {
        let pairs = [
            ("Wo?".to_string(), "Hier.".to_string()),
            ("Wann?".to_string(), "Jetzt.".to_string()),
        ];
        let mut texts = BTreeSet::new();
        for format in &FORMATS {
            let rendered = format.render(&asked(), &pairs);
            let answers: Vec<&str> = rendered
                .answers
                .iter()
                .map(|&(start, end)| &rendered.text[start..end])
                .collect();
            assert_eq!(answers, [" Hier.", " Jetzt."], "{}", format.id);
            assert!(!rendered.text.contains(['{', '}']), "{}", rendered.text);
            assert!(texts.insert(rendered.text));
        }
        assert!(FORMATS.len() >= 8);
    }
}
