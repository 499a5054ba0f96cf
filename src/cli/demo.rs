//! `muni-engine demo`: a tour through the offices. Each question is asked on its own; the model's answer, what the guard says of
//! it and the knowledge base's answer stand side by side.

use super::assistant::{AnswerArguments, KnowledgeArguments, footer};
use super::device::Task;
use super::prompt::{ModelArguments, print};
use crate::answer::session::{Answered, Conversation};
use crate::answer::{Assistant, GuardMode};
use crate::ops::TrainingDevice;
use anyhow::Result;
use serde_json::{Value, json};
use std::io;
use std::ops::ControlFlow;
use std::time::Duration;

/// Questions by office, as citizens ask them.
const TOUR: [(&str, &str); 16] = [
    ("einwohnermeldeamt", "Wo kann ich mich ummelden?"),
    ("einwohnermeldeamt", "Was kostet ein neuer Personalausweis?"),
    (
        "standesamt",
        "Welche Unterlagen brauchen wir, um die Eheschließung anzumelden?",
    ),
    ("standesamt", "Wo bekomme ich eine Geburtsurkunde?"),
    (
        "bauamt",
        "Brauche ich für ein Gartenhaus eine Baugenehmigung?",
    ),
    ("bauamt", "Wie lange gilt eine Baugenehmigung?"),
    (
        "ordnungsamt",
        "Wie beantrage ich einen Bewohnerparkausweis?",
    ),
    (
        "ordnungsamt",
        "Können Sie mir sagen, was eine Gewerbeanmeldung kostet?",
    ),
    ("sozialamt", "Wer kann Wohngeld bekommen?"),
    ("sozialamt", "Wo beantrage ich Grundsicherung im Alter?"),
    (
        "jugendamt",
        "Wie melde ich mein Kind für einen Kita-Platz an?",
    ),
    (
        "jugendamt",
        "Weißt du, wie lange man Unterhaltsvorschuss bekommt?",
    ),
    ("stadtkasse", "Bis wann muss ich die Hundesteuer anmelden?"),
    (
        "stadtkasse",
        "Was passiert, wenn ich eine Mahnung nicht bezahle?",
    ),
    (
        "allgemeine_verwaltung",
        "Wie kann ich mich über die Stadtverwaltung beschweren?",
    ),
    ("allgemeine_verwaltung", "Wann hat das Rathaus geöffnet?"),
];

/// Arguments of `muni-engine demo`.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    #[command(flatten)]
    knowledge: KnowledgeArguments,
    #[command(flatten)]
    answers: AnswerArguments,
    /// Print one JSON object per question instead.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(arguments: Arguments) -> Result<()> {
    arguments.model.device.run(Show(&arguments))
}

struct Show<'a>(&'a Arguments);

impl Task for Show<'_> {
    fn run<D: TrainingDevice>(self, device: &D) -> Result<()> {
        let arguments = self.0;
        let assistant = arguments.knowledge.open()?;
        let open = arguments.model.open(device)?;
        let settings = arguments.answers.settings();
        let mut conversation =
            Conversation::new(&assistant, device, &open.model, &open.tokenizer, settings)?;
        let mut out = io::stdout().lock();
        let mut seen = Vec::new();
        for (office, question) in tour(&assistant) {
            conversation.clear();
            let answered = conversation.ask(&question, &mut |_| Ok(ControlFlow::Continue(())))?;
            let stop = Stop {
                office,
                reference: assistant.reference(&answered.understanding),
                question,
                answered,
            };
            let text = match arguments.json {
                true => format!("{}\n", stop.json()),
                false => stop.text(settings.guard),
            };
            if print(&mut out, &text)?.is_break() {
                return Ok(());
            }
            seen.push(stop);
        }
        if !arguments.json {
            // Nothing is left to stop.
            let _ = print(&mut out, &summary(&seen))?;
        }
        Ok(())
    }
}

/// Office id and question: the tour, and for every office it does not know the first question of its first service.
fn tour(assistant: &Assistant) -> Vec<(String, String)> {
    let mut stops = Vec::new();
    for office in &assistant.knowledge().offices {
        let own = TOUR.iter().filter(|(id, _)| *id == office.id());
        let own: Vec<String> = own.map(|(_, question)| (*question).to_string()).collect();
        let first = || {
            let facts = office.services.first()?.facts.values();
            let mut questions = facts.filter_map(|fact| fact.questions.first());
            questions.next().map(|question| question.to_string())
        };
        let questions = match own.is_empty() {
            true => first().into_iter().collect(),
            false => own,
        };
        stops.extend(
            questions
                .into_iter()
                .map(|question| (office.id().to_string(), question)),
        );
    }
    stops
}

/// One stop of the tour.
struct Stop {
    office: String,
    question: String,
    reference: String,
    answered: Answered,
}

fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e4).round() / 10.0
}

impl Stop {
    fn office_is_right(&self) -> bool {
        let found = self.answered.understanding.office.as_ref();
        found.is_some_and(|office| office.id == self.office)
    }

    fn json(&self) -> Value {
        let answered = &self.answered;
        json!({
            "office": self.office,
            "question": self.question,
            "model_answer": answered.reply.model_text.trim(),
            "reply": answered.reply,
            "reference": self.reference,
            "understood_office": answered.understanding.office.as_ref().map(|office| &office.id),
            "confidence": answered.understanding.confidence,
            "prompt_tokens": answered.prompt_tokens,
            "new_tokens": answered.new_tokens,
            "first_token_ms": milliseconds(answered.first_token),
            "first_text_ms": answered.first_text.map(milliseconds),
            "total_ms": milliseconds(answered.total),
        })
    }

    fn text(&self, guard: GuardMode) -> String {
        let answered = &self.answered;
        let reply = &answered.reply;
        let mut text = format!("Frage: {}\n", self.question);
        text.push_str(&format!(
            "Antwort des Modells: {}\n",
            reply.model_text.trim()
        ));
        if guard != GuardMode::Off {
            let reasons = match reply.reasons.is_empty() {
                true => String::new(),
                false => format!(" ({})", reply.reasons.join(", ")),
            };
            text.push_str(&format!("Prüfung: {}{reasons}\n", reply.verdict));
            if reply.text != reply.model_text.trim() {
                text.push_str(&format!("Gezeigte Antwort: {}\n", reply.text));
            }
        }
        text.push_str(&format!("Auskunft der Wissensbasis: {}\n", self.reference));
        if let Some(footer) = footer(reply) {
            text.push_str(&format!("{footer}\n"));
        }
        let first_text = answered
            .first_text
            .map_or("-".to_string(), |time| milliseconds(time).to_string());
        text.push_str(&format!(
            "Zeiten: erstes Token {} ms, erster Text {first_text} ms, ganze Antwort {} ms, {} Token\n\n",
            milliseconds(answered.first_token),
            milliseconds(answered.total),
            answered.new_tokens
        ));
        text
    }
}

fn summary(stops: &[Stop]) -> String {
    let count =
        |matching: &dyn Fn(&Stop) -> bool| stops.iter().filter(|stop| matching(stop)).count();
    let right = count(&|stop| stop.office_is_right());
    let passed = count(&|stop| stop.answered.reply.reasons.is_empty());
    format!(
        "{} Fragen: bei {right} das richtige Amt erkannt, {passed} Antworten des Modells ohne Beanstandung.\n",
        stops.len()
    )
}
