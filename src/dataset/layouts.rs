//! How a dialogue is laid out as text. The product asks its model in the first layout, so that is
//! by far the most frequent.

use super::catalog::Asked;
use super::rng::KeyedRng;
use crate::german::grammar::upper_first;

/// One layout: an optional head, then for each turn what stands before the question, between
/// question and answer, and between two turns. The text ends with an answer.
pub(crate) struct Layout {
    /// Name in the data set's records.
    pub id: &'static str,
    /// Before the dialogue. All four may hold `{amt}`, `{an_amt}`, `{titel}` and `{n}`, the number
    /// of the turn.
    head: &'static str,
    question: &'static str,
    answer: &'static str,
    turn: &'static str,
}

/// Share of the first layout in percent.
const DEFAULT_SHARE: usize = 60;

// A label before each turn, colons behind them, a line each.
macro_rules! layouts {
    ($($id:literal $head:literal $question:literal $answer:literal $($turn:literal)?;)*) => {
        &[$(Layout {
            id: $id,
            head: $head,
            question: $question,
            answer: $answer,
            turn: layouts!(@turn $($turn)?),
        },)*]
    };
    (@turn) => { "\n" };
    (@turn $turn:literal) => { $turn };
}

/// The layouts; the first is the default.
pub(crate) const LAYOUTS: &[Layout] = layouts! {
    "frage_antwort" "" "Frage: " "\nAntwort: ";
    "buerger_amt" "" "Bürger: " "\nAmt: ";
    "buergerin_amt" "" "Bürgerin: " "\n{amt}: ";
    "f_a" "" "F: " "\nA: ";
    "frage_an_amt" "" "Frage an {an_amt}: " "\nAntwort: ";
    "anfrage_auskunft" "" "Anfrage: " "\nAuskunft: ";
    "amt_frage_antwort" "{amt}\n" "Frage: " "\nAntwort: ";
    "thema_frage_antwort" "Thema: {titel}\n" "Frage: " "\nAntwort: ";
    "nutzer_assistent" "" "Nutzer: " "\nAssistent: ";
    "nutzerin_assistenz" "" "Nutzerin: " "\nAssistenz: ";
    "buerger_verwaltung" "" "Bürgeranfrage: " "\nAntwort der Stadtverwaltung: ";
    "chat" "Chat mit der Stadtverwaltung\n" "Gast: " "\nStadt: ";
    "gespraech" "Gespräch im Rathaus\n" "Besucherin: " "\nSachbearbeiter: ";
    "kundin_buergerservice" "" "Kundin: " "\nBürgerservice: ";
    "servicetelefon" "Anruf beim Servicetelefon\n" "Anruferin: " "\nServicetelefon: ";
    "e_mail_betreff" "Betreff: {titel}\n\n" "" "\n\nAntwort: " "\n\n";
    "e_mail_kopf" "" "Von: Bürgerin\nAn: {amt}\n" "\n\nVon: {amt}\nAn: Bürgerin\n" "\n\n";
    "ueberschriften" "" "### Frage\n" "\n### Antwort\n";
    "fett" "" "**Frage:** " "\n**Antwort:** ";
    "auszeichnung" "" "<frage>" "</frage>\n<antwort>" "\n";
    "eckige_klammern" "" "[Frage] " "\n[Antwort] ";
    "pfeil" "" "" "\n→ ";
    "gedankenstriche" "" "– " "\n– ";
    "haeufige_frage" "" "Häufige Frage: " "\nAntwort: ";
    "haeufige_fragen" "Häufige Fragen: {titel}\n" "F: " "\nA: ";
    "untereinander" "" "Frage:\n" "\n\nAntwort:\n" "\n\n";
    "grossbuchstaben" "" "FRAGE: " "\nANTWORT: ";
    "kleinbuchstaben" "" "frage: " "\nantwort: ";
    "schalter" "" "Am Schalter: " "\nAuskunft: ";
    "telefonnotiz" "Telefonnotiz: {amt}\n" "Anliegen: " "\nAuskunft: ";
    "anliegen_antwort" "" "Anliegen: " "\nAntwort: ";
    "buergertelefon" "Bürgertelefon\n" "Anrufer: " "\nAuskunft: ";
    "besucher_mitarbeiterin" "" "Besucher: " "\nMitarbeiterin: ";
    "einwohnerin_rathaus" "" "Einwohnerin: " "\nRathaus: ";
    "ich_stadt" "" "Ich: " "\nStadt: ";
    "nummeriert" "" "Frage {n}: " "\nAntwort {n}: ";
    "liste_nummeriert" "" "{n}. Frage: " "\n{n}. Antwort: ";
    "leistung" "Leistung: {titel}\n" "Frage: " "\nAntwort: ";
    "amt_und_leistung" "{amt} | {titel}\n" "Frage: " "\nAntwort: ";
    "merkblatt" "Merkblatt: {titel}\n" "Frage: " "\nAntwort: ";
    "internetseite" "Internetseite „{titel}“\n" "Frage: " "\nAntwort: ";
    "kontaktformular" "Kontaktformular\n" "Nachricht: " "\nAntwort: ";
    "zuschrift" "" "Zuschrift: " "\nErwiderung: ";
    "anfuehrung" "" "Frage: „" "“\nAntwort: ";
    "tabulator" "" "Frage\t" "\nAntwort\t";
    "senkrechter_strich" "" "" " | ";
    "aufzaehlung" "" "- Frage: " "\n  Antwort: ";
    "mensch_bot" "" "Mensch: " "\nBot: ";
    "gast_chatbot" "Chatbot der Stadt\n" "Gast: " "\nChatbot: ";
    "app" "Bürger-App\n" "Eingabe: " "\nAusgabe: ";
    "eingabe_ausgabe" "" "Eingabe: " "\nAusgabe: ";
    "suche" "" "Suche: " "\nErgebnis: ";
    "a_b" "" "A: " "\nB: ";
    "eingabezeile" "" "> " "\n";
    "ohne_doppelpunkt" "" "Frage – " "\nAntwort – ";
    "rathaus_information" "Rathaus-Information\n" "Frage: " "\nAntwort: ";
    "buerger_buergerservice" "" "Bürger: " "\nBürgerservice: ";
    "protokoll" "Gesprächsprotokoll\n" "Frage: " "\nAntwort: ";
    "frage_antwort_kurz" "" "Fr.: " "\nAntw.: ";
    "briefkasten" "Aus dem Bürgerbriefkasten\n" "Frage: " "\nAntwort: ";
    "sprechstunde" "Sprechstunde: {amt}\n" "Frage: " "\nAntwort: ";
    "nur_zeilen" "" "" "\n";
};

/// A dialogue as text, and where in it the turns stand.
pub(crate) struct LaidOut {
    /// The whole text.
    pub text: String,
    /// Byte range of each turn's words: question, answer, question, answer, ...
    pub turns: Vec<(u32, u32)>,
    /// Byte range of each answer. Where a space stands before the first word it belongs to the
    /// answer: a model that is prompted with `Antwort:` has to write that space.
    pub answers: Vec<(usize, usize)>,
}

impl Layout {
    /// Draws a layout: the default, or one of the others with equal chance.
    pub(crate) fn draw(rng: &mut KeyedRng) -> &'static Layout {
        let index = if rng.percent(DEFAULT_SHARE) {
            0
        } else {
            1 + rng.below(LAYOUTS.len() - 1)
        };
        &LAYOUTS[index]
    }

    /// Lays out pairs of question and answer about `asked`.
    pub(crate) fn lay_out(&self, asked: &Asked, pairs: &[(String, String)]) -> LaidOut {
        let fill = |text: &mut String, pattern: &str, number: usize| {
            if pattern.contains('{') {
                let filled = pattern
                    .replace("{amt}", asked.office_name)
                    .replace("{an_amt}", &asked.office_accusative)
                    .replace("{titel}", asked.title)
                    .replace("{n}", &number.to_string());
                text.push_str(&filled);
            } else {
                text.push_str(pattern);
            }
        };
        let mut text = String::with_capacity(
            64 + pairs
                .iter()
                .map(|(q, a)| q.len() + a.len() + 32)
                .sum::<usize>(),
        );
        fill(&mut text, self.head, 1);
        if !text.is_empty() {
            text = upper_first(&text);
        }
        let mut turns = Vec::with_capacity(2 * pairs.len());
        let mut answers = Vec::with_capacity(pairs.len());
        for (number, (question, answer)) in pairs.iter().enumerate() {
            if number > 0 {
                text.push_str(self.turn);
            }
            fill(&mut text, self.question, number + 1);
            turns.push((text.len() as u32, (text.len() + question.len()) as u32));
            text.push_str(question);
            fill(&mut text, self.answer, number + 1);
            let start = text.len();
            text.push_str(answer);
            turns.push((start as u32, text.len() as u32));
            answers.push((start - usize::from(self.answer.ends_with(' ')), text.len()));
        }
        LaidOut {
            text,
            turns,
            answers,
        }
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
        let laid_out = LAYOUTS[0].lay_out(&asked(), &[("Wo?".to_string(), "Hier.".to_string())]);
        assert_eq!(laid_out.text, "Frage: Wo?\nAntwort: Hier.");
        assert_eq!(
            &laid_out.text[laid_out.answers[0].0..laid_out.answers[0].1],
            " Hier."
        );
    }

    #[test]
    fn every_layout_is_its_own_and_marks_the_turns() {
        let pairs = [
            ("Wo?".to_string(), "Hier.".to_string()),
            ("Wann?".to_string(), "Jetzt.".to_string()),
        ];
        let (mut texts, mut ids) = (BTreeSet::new(), BTreeSet::new());
        for layout in LAYOUTS {
            let laid_out = layout.lay_out(&asked(), &pairs);
            let part = |&(start, end): &(u32, u32)| &laid_out.text[start as usize..end as usize];
            let turns: Vec<&str> = laid_out.turns.iter().map(part).collect();
            assert_eq!(turns, ["Wo?", "Hier.", "Wann?", "Jetzt."], "{}", layout.id);
            for ((start, end), answer) in laid_out.answers.iter().zip(["Hier.", "Jetzt."]) {
                assert_eq!(laid_out.text[*start..*end].trim_start(), answer);
                assert!(!laid_out.text[..*start].ends_with(' '), "{}", layout.id);
            }
            assert!(laid_out.text.ends_with("Jetzt."));
            assert!(!laid_out.text.contains(['{', '}']), "{}", laid_out.text);
            assert!(texts.insert(laid_out.text), "{}", layout.id);
            assert!(ids.insert(layout.id));
        }
        assert!(LAYOUTS.len() >= 50, "{}", LAYOUTS.len());
    }
}
