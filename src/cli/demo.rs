//! `muni-engine demo`: a tour through the offices. Each question is asked on its own; the model's
//! answer, what the guard says of it and the knowledge base's answer stand side by side.

use super::assistant::{AnswerArguments, KnowledgeArguments, conversation, footer};
use super::device::Task;
use super::model::ModelArguments;
use super::output::print;
use crate::answer::session::Answer;
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
pub(crate) struct Arguments {
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
pub(crate) fn run(arguments: Arguments) -> Result<()> {
    arguments.model.device.run(DemoTask(&arguments))
}

struct DemoTask<'a>(&'a Arguments);

impl Task for DemoTask<'_> {
    fn run<D: TrainingDevice>(self, device: &D) -> Result<()> {
        let arguments = self.0;
        let assistant = arguments.knowledge.open()?;
        let open = arguments.model.open_if_any(device)?;
        let settings = arguments.answers.settings();
        let guard = settings.guard;
        let mut conversation = conversation(&assistant, device, open.as_ref(), settings)?;
        let mut out = io::stdout().lock();
        let mut seen = Vec::new();
        for (office, question) in tour(&assistant) {
            conversation.clear();
            let answer = conversation.ask(&question, &mut |_| Ok(ControlFlow::Continue(())))?;
            let step = DemoStep {
                office,
                reference: assistant.reference(&answer.understanding),
                question,
                answer,
                has_model: open.is_some(),
            };
            let text = match arguments.json {
                true => format!("{}\n", step.json()),
                false => step.text(guard),
            };
            if print(&mut out, &text)?.is_break() {
                return Ok(());
            }
            seen.push(step);
        }
        if !arguments.json {
            // Nothing is left to stop.
            let _ = print(&mut out, &summary(&seen))?;
        }
        Ok(())
    }
}

/// Office id and question: the tour, and for every office it does not know the first question of
/// its first service.
fn tour(assistant: &Assistant) -> Vec<(String, String)> {
    let mut steps = Vec::new();
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
        steps.extend(
            questions
                .into_iter()
                .map(|question| (office.id().to_string(), question)),
        );
    }
    steps
}

/// One question of the tour with its answer.
struct DemoStep {
    office: String,
    question: String,
    reference: String,
    answer: Answer,
    has_model: bool,
}

fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e4).round() / 10.0
}

impl DemoStep {
    fn office_is_right(&self) -> bool {
        let found = self.answer.understanding.office.as_ref();
        found.is_some_and(|office| office.id == self.office)
    }

    /// Tokens that the model made.
    fn new_tokens(&self) -> usize {
        let output = self.answer.output.as_ref();
        output.map_or(0, |output| output.token_ids.len())
    }

    /// Until the model's first token.
    fn first_token(&self) -> Option<Duration> {
        self.answer.output.as_ref().map(|output| output.prefill)
    }

    fn json(&self) -> Value {
        let answer = &self.answer;
        json!({
            "office": self.office,
            "question": self.question,
            "model_answer": self.has_model.then(|| answer.reply.model_text.trim()),
            "reply": answer.reply,
            "reference": self.reference,
            "understood_office": answer.understanding.office.as_ref().map(|office| &office.id),
            "confidence": answer.understanding.confidence,
            "prompt_tokens": answer.prompt_tokens,
            "new_tokens": self.new_tokens(),
            "first_token_ms": self.first_token().map(milliseconds),
            "first_text_ms": answer.first_text.map(milliseconds),
            "total_ms": milliseconds(answer.total),
        })
    }

    fn text(&self, guard: GuardMode) -> String {
        let answer = &self.answer;
        let reply = &answer.reply;
        let mut text = format!("Frage: {}\n", self.question);
        if self.has_model {
            text.push_str(&format!(
                "Antwort des Modells: {}\n",
                reply.model_text.trim()
            ));
        }
        if self.has_model && guard != GuardMode::Off {
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
        let time = |time: Option<Duration>| {
            time.map_or("-".to_string(), |time| milliseconds(time).to_string())
        };
        text.push_str(&format!(
            "Zeiten: erstes Token {} ms, erster Text {} ms, ganze Antwort {} ms, {} Token\n\n",
            time(self.first_token()),
            time(answer.first_text),
            milliseconds(answer.total),
            self.new_tokens()
        ));
        text
    }
}

fn summary(steps: &[DemoStep]) -> String {
    let count =
        |matching: &dyn Fn(&DemoStep) -> bool| steps.iter().filter(|step| matching(step)).count();
    let right = count(&|step| step.office_is_right());
    let passed = count(&|step| step.answer.reply.reasons.is_empty());
    let answers = match steps.iter().all(|step| step.has_model) {
        true => format!("{passed} Antworten des Modells ohne Beanstandung"),
        false => "beantwortet aus der Wissensbasis, ohne Sprachmodell".to_string(),
    };
    format!(
        "{} Fragen: bei {right} das richtige Amt erkannt, {answers}.\n",
        steps.len()
    )
}
