//! The two ends of an answer: a citizen's question as the prompt that training examples begin with,
//! and pieces of generated text as what is shown.

use crate::tokenizer::{DecodeStream, Tokenizer};
use anyhow::{Result, ensure};

/// What every question of the training set begins with.
pub(crate) const QUESTION: &str = "Frage:";
/// What every answer of the training set begins with.
pub(crate) const ANSWER: &str = "Antwort:";
/// Where a further question begins, the answer before it is over.
pub(crate) const NEXT_QUESTION: &str = "\nFrage:";

/// One part of a text laid out as the training set is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part<'t> {
    /// What stands behind a `Frage:`, or before any label.
    Question(&'t str),
    /// What stands behind an `Antwort:`.
    Answer(&'t str),
}

/// Reads `Frage: ... Antwort: ...`, any number of times. Parts are trimmed; empty ones are left
/// out. A text without labels is one question.
pub(crate) fn parse_dialogue(text: &str) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    for turn in text.split(QUESTION) {
        let (question, answer) = turn.split_once(ANSWER).unwrap_or((turn, ""));
        if !question.trim().is_empty() {
            parts.push(Part::Question(question.trim()));
        }
        if !answer.trim().is_empty() {
            parts.push(Part::Answer(answer.trim()));
        }
    }
    parts
}

/// The prompt for `question`: `Frage: {question}\nAntwort:`. A text that already has this form
/// stays as it is, one without the answer's beginning gets it. White space at both ends goes: the
/// space after `Antwort:` belongs to the answer's first token, and a prompt that ends with it would
/// make the model begin with a token it never saw there.
///
/// # Errors
/// If nothing is asked.
pub(crate) fn question_prompt(question: &str) -> Result<String> {
    let text = question.trim();
    ensure!(
        matches!(parse_dialogue(text).first(), Some(Part::Question(_))),
        "the question is empty: ask something, e.g. \"Wo kann ich mich ummelden?\""
    );
    Ok(match (text.contains(QUESTION), text.contains(ANSWER)) {
        (true, true) => text.to_string(),
        (true, false) => format!("{text}\n{ANSWER}"),
        (false, _) => format!("{QUESTION} {text}\n{ANSWER}"),
    })
}

/// A prompt's tokens behind the separator that every training example begins with.
///
/// # Errors
/// If the tokenizer fails.
pub(crate) fn prompt_ids(tokenizer: &Tokenizer, prompt: &str) -> Result<Vec<u32>> {
    let mut ids = vec![tokenizer.end_of_text()];
    ids.extend(tokenizer.encode(prompt)?);
    Ok(ids)
}

/// Turns generated tokens into the text that is shown: whole characters, up to a stop string,
/// trimmed where wanted.
pub(crate) struct TokenText<'t> {
    decoder: DecodeStream<'t>,
    stream: TextStream,
}

impl<'t> TokenText<'t> {
    /// `stops` and `trim` as in [`TextStream::new`].
    pub(crate) fn new(tokenizer: &'t Tokenizer, stops: &[String], trim: bool) -> Self {
        Self {
            decoder: tokenizer.decode_stream(),
            stream: TextStream::new(stops, trim),
        }
    }

    /// Takes a token; returns what can be shown now.
    ///
    /// # Errors
    /// If the token is outside the vocabulary.
    pub(crate) fn push(&mut self, token: u32) -> Result<String> {
        Ok(self.stream.push(&self.decoder.push(token)?))
    }

    /// The end of the text: what was held back after all.
    pub(crate) fn finish(mut self) -> String {
        let mut rest = self.stream.push(&self.decoder.finish());
        rest.push_str(&self.stream.finish());
        rest
    }

    /// Whether a stop string came, or the end.
    pub(crate) fn stopped(&self) -> bool {
        self.stream.stopped()
    }

    /// Everything shown so far.
    pub(crate) fn shown(&self) -> &str {
        self.stream.text()
    }
}

/// Passes generated text on piece by piece, except what must not be shown: everything from a stop
/// string on, and, when trimming, white space at both ends. A piece that may be the beginning of
/// either is held back until that is clear.
pub(crate) struct TextStream {
    stops: Vec<String>,
    trim: bool,
    started: bool,
    stopped: bool,
    held: String,
    text: String,
}

impl TextStream {
    /// `stops`: strings that end the answer, empty ones are ignored; `trim`: drop white space at
    /// both ends.
    pub(crate) fn new(stops: &[String], trim: bool) -> Self {
        Self {
            stops: stops
                .iter()
                .filter(|stop| !stop.is_empty())
                .cloned()
                .collect(),
            trim,
            started: false,
            stopped: false,
            held: String::new(),
            text: String::new(),
        }
    }

    /// Takes generated text; returns what can be shown now.
    pub(crate) fn push(&mut self, piece: &str) -> String {
        if self.stopped {
            return String::new();
        }
        self.held.push_str(piece);
        if let Some(start) = self.stops.iter().filter_map(|s| self.held.find(s)).min() {
            self.held.truncate(start);
            self.stopped = true;
            return self.release(self.held.len());
        }
        let sure = self.held.len() - self.stop_beginning();
        self.release(sure)
    }

    /// The end of the text: what was held back after all.
    pub(crate) fn finish(&mut self) -> String {
        self.stopped = true;
        self.release(self.held.len())
    }

    /// Whether a stop string came, or the end.
    pub(crate) fn stopped(&self) -> bool {
        self.stopped
    }

    /// Everything shown so far.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Bytes at the end of the held text that a stop string may begin with.
    fn stop_beginning(&self) -> usize {
        let longest = |stop: &String| {
            (1..stop.len().min(self.held.len() + 1))
                .rev()
                .filter(|&len| stop.is_char_boundary(len))
                .find(|&len| self.held.ends_with(&stop[..len]))
                .unwrap_or(0)
        };
        self.stops.iter().map(longest).max().unwrap_or(0)
    }

    /// Shows the first `len` held bytes, less what trimming keeps back.
    fn release(&mut self, len: usize) -> String {
        let mut shown = &self.held[..len];
        if self.trim {
            shown = shown.trim_end();
        }
        let rest = self.held.split_off(shown.len());
        let mut shown = std::mem::replace(&mut self.held, rest);
        if self.trim && !self.started {
            shown = shown.trim_start().to_string();
        }
        self.started |= !shown.is_empty();
        self.text.push_str(&shown);
        shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(pieces: &[&str], trim: bool) -> (Vec<String>, String, bool) {
        let mut stream = TextStream::new(&[NEXT_QUESTION.to_string(), "ENDE".to_string()], trim);
        let mut shown: Vec<String> = pieces.iter().map(|piece| stream.push(piece)).collect();
        let stopped = stream.stopped();
        shown.push(stream.finish());
        assert_eq!(shown.concat(), stream.text());
        (shown, stream.text().to_string(), stopped)
    }

    #[test]
    fn a_question_becomes_the_prompt_of_the_training_set() {
        let wanted = "Frage: Wo?\nAntwort:";
        for question in [
            "Wo?",
            "  Wo?\n",
            "Frage: Wo?",
            "Frage: Wo?\nAntwort:",
            "Frage: Wo?\nAntwort: ",
        ] {
            assert_eq!(question_prompt(question).unwrap(), wanted, "{question:?}");
        }
        let begun = "Frage: Wo?\nAntwort: Im Rathaus";
        assert_eq!(question_prompt(begun).unwrap(), begun);
        for empty in ["", " \n", "Frage:", "Frage:\nAntwort:"] {
            assert!(question_prompt(empty).is_err(), "{empty:?}");
        }
    }

    #[test]
    fn a_dialogue_is_read_part_by_part() {
        use Part::{Answer, Question};
        assert_eq!(
            parse_dialogue("Frage: Wo?\nAntwort: Hier.\nFrage: Wann?\nAntwort:"),
            [Question("Wo?"), Answer("Hier."), Question("Wann?")]
        );
        assert_eq!(parse_dialogue(" Wo? "), [Question("Wo?")]);
        assert_eq!(parse_dialogue("Frage:\nAntwort: Im"), [Answer("Im")]);
        assert_eq!(parse_dialogue("Frage:\nAntwort:"), []);
    }

    #[test]
    fn white_space_at_the_ends_goes_and_inside_stays() {
        let (shown, text, stopped) = stream(&[" ", " Im", " ", "Rathaus.", "\n", " "], true);
        assert_eq!(shown, ["", "Im", "", " Rathaus.", "", "", ""]);
        assert_eq!((text.as_str(), stopped), ("Im Rathaus.", false));
        assert_eq!(stream(&[" Im ", "Rathaus. "], false).1, " Im Rathaus. ");
    }

    #[test]
    fn a_stop_string_ends_the_text_wherever_it_is_cut() {
        for pieces in [
            vec!["Ja.\nFrage: Wer?"],
            vec!["Ja.", "\n", "Frage", ":", " Wer?"],
            vec!["Ja.\nF", "rage: W", "er?"],
        ] {
            for trim in [true, false] {
                let (_, text, stopped) = stream(&pieces, trim);
                assert_eq!((text.as_str(), stopped), ("Ja.", true), "{pieces:?}");
            }
        }
        let (_, text, stopped) = stream(&["Ja.\nFra", "chten.\nEN"], false);
        assert_eq!((text.as_str(), stopped), ("Ja.\nFrachten.\nEN", false));
    }

    #[test]
    fn the_earliest_stop_string_counts() {
        assert_eq!(stream(&["a ENDE b\nFrage: c"], true).1, "a");
    }
}
