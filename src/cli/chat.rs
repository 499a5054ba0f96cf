//! `muni-engine chat`: a conversation in the terminal, or one answer per line of piped input.

use super::assistant::{AnswerArguments, KnowledgeArguments, conversation, footer, german_date};
use super::device::Task;
use super::model::ModelArguments;
use super::output::print;
use crate::answer::Verdict;
use crate::answer::session::{Answer, Conversation};
use crate::ops::{Operations, Planner, TrainingDevice};
use anyhow::{Context, Result};
use rustyline::error::ReadlineError;
use rustyline::history::{FileHistory, History, MemHistory};
use rustyline::{Config, Editor};
use std::io::{self, BufRead, IsTerminal, Write};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

const WELCOME: &str = "Guten Tag! Hier antwortet ein Sprachmodell und kein Mensch. Fragen zu den \
    Leistungen der Stadt beantwortet es gern.
Befehle zeigt /hilfe, das Gespräch beendet /ende.";

const WELCOME_WITHOUT_MODEL: &str = "Guten Tag! Hier antwortet die Wissensbasis der Stadt, ohne \
    Sprachmodell und ohne einen Menschen.
Befehle zeigt /hilfe, das Gespräch beendet /ende.";

const HELP: &str = "/neu             ein neues Gespräch beginnen; das bisherige wird vergessen
/temperatur X    wie abwechslungsreich formuliert wird: 0 immer gleich, 0.7 üblich, höchstens 2
/quelle          Rechtsgrundlage, Stand und zuständiges Amt der letzten Antwort
/hilfe           diese Übersicht
/ende            das Gespräch beenden (auch Strg-D)
Strg-C           die laufende Antwort abbrechen";

/// Arguments of `muni-engine chat`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    #[command(flatten)]
    knowledge: KnowledgeArguments,
    #[command(flatten)]
    answers: AnswerArguments,
    /// Keep the questions typed in this file, for the next time. Without it they are forgotten at
    /// the end.
    #[arg(long, value_name = "FILE")]
    history: Option<PathBuf>,
}

/// Set by Ctrl-C while an answer is made.
static STOP: AtomicBool = AtomicBool::new(false);
/// Whether an answer is being made.
static ANSWERING: AtomicBool = AtomicBool::new(false);

/// Runs the command.
pub(crate) fn run(arguments: Arguments) -> Result<()> {
    arguments.model.device.run(ChatTask(&arguments))
}

struct ChatTask<'a>(&'a Arguments);

impl Task for ChatTask<'_> {
    fn run<D: TrainingDevice>(self, device: &D) -> Result<()> {
        let arguments = self.0;
        let assistant = arguments.knowledge.open()?;
        let open = arguments.model.open_if_any(device)?;
        let settings = arguments.answers.settings();
        let mut chat = Chat {
            conversation: conversation(&assistant, device, open.as_ref(), settings)?,
            last: None,
        };
        if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
            return chat.piped(io::stdin().lock(), &mut io::stdout().lock());
        }
        chat.interactive(arguments.history.as_deref())
    }
}

struct Chat<'a, D: Operations + Planner> {
    conversation: Conversation<'a, D>,
    last: Option<Answer>,
}

/// What a line that begins with a slash does.
enum Command<'l> {
    New,
    Temperature(&'l str),
    Source,
    Help,
    End,
    Unknown(&'l str),
}

fn command(line: &str) -> Option<Command<'_>> {
    let (name, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    Some(match name {
        _ if !line.starts_with('/') => return None,
        "/neu" => Command::New,
        "/temperatur" => Command::Temperature(rest.trim()),
        "/quelle" => Command::Source,
        "/hilfe" => Command::Help,
        "/ende" => Command::End,
        _ => Command::Unknown(name),
    })
}

impl<D: Operations + Planner> Chat<'_, D> {
    /// One question per line, and the finished answers one after another. Errors end it: nobody is
    /// there to ask again.
    fn piped(&mut self, input: impl BufRead, out: &mut impl Write) -> Result<()> {
        for line in input.lines() {
            let line = line.context("cannot read a question from standard input")?;
            let line = line.trim();
            if line.is_empty() {
                continue;
            }
            let text = match command(line) {
                Some(Command::End) => break,
                Some(command) => self.run_command(command),
                None => {
                    let answer = self
                        .conversation
                        .ask(line, &mut |_| Ok(ControlFlow::Continue(())))?;
                    let footer = footer(&answer.reply)
                        .map(|footer| format!("\n{footer}"))
                        .unwrap_or_default();
                    let text = format!("{}{footer}", answer.reply.text);
                    self.last = Some(answer);
                    text
                }
            };
            if print(out, &format!("{text}\n\n"))?.is_break() {
                break;
            }
        }
        Ok(())
    }

    fn interactive(&mut self, history: Option<&std::path::Path>) -> Result<()> {
        ctrlc::set_handler(|| {
            if !ANSWERING.load(Ordering::Relaxed) || STOP.swap(true, Ordering::Relaxed) {
                std::process::exit(130);
            }
        })
        .context("installing the Ctrl-C handler")?;
        let config = Config::builder().auto_add_history(true).build();
        match history {
            None => {
                let mut editor = Editor::<(), MemHistory>::with_history(config, MemHistory::new())
                    .context("cannot open the terminal")?;
                self.talk(&mut editor)
            }
            Some(path) => {
                let mut editor =
                    Editor::<(), FileHistory>::with_history(config, FileHistory::new())
                        .context("cannot open the terminal")?;
                if path.exists() {
                    let read = editor.load_history(path);
                    read.with_context(|| format!("cannot read the history {}", path.display()))?;
                }
                self.talk(&mut editor)?;
                let saved = editor.save_history(path);
                saved.with_context(|| format!("cannot write the history {}", path.display()))
            }
        }
    }

    fn talk<H: History>(&mut self, editor: &mut Editor<(), H>) -> Result<()> {
        let welcome = match self.conversation.has_model() {
            true => WELCOME,
            false => WELCOME_WITHOUT_MODEL,
        };
        println!("{welcome}\n");
        loop {
            let line = match editor.readline("> ") {
                Ok(line) => line,
                // Ctrl-C at the prompt empties the line.
                Err(ReadlineError::Interrupted) => continue,
                Err(ReadlineError::Eof) => return Ok(()),
                Err(error) => return Err(error).context("cannot read from the terminal"),
            };
            let line = line.trim();
            if line.is_empty() {
                continue;
            }
            match command(line) {
                Some(Command::End) => return Ok(()),
                Some(command) => println!("{}\n", self.run_command(command)),
                None => {
                    if let Err(error) = self.answer(line) {
                        // A question too long, say: the conversation goes on.
                        println!("Das hat nicht geklappt: {error:#}\n");
                    }
                }
            }
        }
    }

    /// Streams one answer to the terminal.
    fn answer(&mut self, question: &str) -> Result<()> {
        let mut out = io::stdout().lock();
        STOP.store(false, Ordering::Relaxed);
        ANSWERING.store(true, Ordering::Relaxed);
        let answer = self.conversation.ask(question, &mut |text| {
            if STOP.load(Ordering::Relaxed) {
                return Ok(ControlFlow::Break(()));
            }
            print(&mut out, text)
        });
        ANSWERING.store(false, Ordering::Relaxed);
        let answer = answer?;
        let end = if answer.stopped || STOP.load(Ordering::Relaxed) {
            " [abgebrochen]\n\n".to_string()
        } else {
            let footer = footer(&answer.reply)
                .map(|footer| format!("\n{footer}"))
                .unwrap_or_default();
            format!("{}{footer}\n\n", correction(&answer))
        };
        let _ = print(&mut out, &end)?;
        self.last = Some(answer);
        Ok(())
    }

    /// Does what a command says and tells what it did.
    fn run_command(&mut self, command: Command) -> String {
        match command {
            Command::New => {
                self.conversation.clear();
                self.last = None;
                "Ein neues Gespräch beginnt.".to_string()
            }
            Command::Temperature(value) => match value.replace(',', ".").parse::<f32>() {
                Ok(value) if (0.0..=2.0).contains(&value) => {
                    self.conversation.settings.sampling.temperature = value;
                    format!("Die Temperatur ist jetzt {value}.")
                }
                _ => format!(
                    "Die Temperatur ist {}. Ändern lässt sie sich mit einer Zahl von 0 bis 2, zum \
                     Beispiel: /temperatur 0.3",
                    self.conversation.settings.sampling.temperature
                ),
            },
            Command::Source => self.source(),
            Command::Help | Command::End => HELP.to_string(),
            Command::Unknown(name) => format!("Den Befehl {name} gibt es nicht.\n{HELP}"),
        }
    }

    fn source(&self) -> String {
        let Some(answer) = &self.last else {
            return "Es wurde noch nichts beantwortet.".to_string();
        };
        let reply = &answer.reply;
        let mut lines = Vec::new();
        if let Some(service) = &reply.service {
            lines.push(format!("Leistung: {}", service.title));
        }
        if reply.sources.is_empty() {
            lines.push("Quelle: keine".to_string());
        } else {
            lines.push(format!("Quelle: {}", reply.sources.join("; ")));
        }
        lines.extend(
            reply
                .checked_on
                .as_deref()
                .map(|day| format!("Stand: {}", german_date(day))),
        );
        if let Some(office) = &reply.office {
            lines.push(format!("Zuständig: {}, {}", office.name, office.address));
            lines.push(format!("Telefon {}, E-Mail {}", office.phone, office.email));
            lines.push(format!("Öffnungszeiten: {}", office.hours));
        } else {
            let city = self
                .conversation
                .assistant()
                .knowledge()
                .municipality
                .value("stadt", None);
            lines.extend(city.map(|city| format!("Kommune: {city}")));
        }
        lines.push(format!("Prüfung der Antwort: {}", in_german(answer)));
        lines.join("\n")
    }
}

fn in_german(answer: &Answer) -> String {
    let reply = &answer.reply;
    let what = match reply.verdict {
        Verdict::Passed => "durch die Wissensbasis belegt",
        Verdict::Marked => "nicht belegt",
        Verdict::Replaced => "durch die Auskunft der Wissensbasis ersetzt",
        Verdict::Refused => "kein Anliegen der Ämter",
        Verdict::Knowledge => "Auskunft der Wissensbasis, ohne Sprachmodell",
        Verdict::Asked => "Rückfrage, weil mehrere Leistungen gemeint sein können",
    };
    match reply.reasons.is_empty() {
        true => what.to_string(),
        false => format!("{what} ({})", reply.reasons.join(", ")),
    }
}

/// What still has to be shown when the answer is over: all of it, or what holds instead of the part
/// that was shown.
fn correction(answer: &Answer) -> String {
    let reply = &answer.reply;
    if reply.text == reply.released {
        return String::new();
    }
    match reply.released.trim().is_empty() {
        true => reply.text.clone(),
        false => format!(" …\nBerichtigung: {}", reply.text),
    }
}
