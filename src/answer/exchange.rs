//! One question from text to reply, without I/O and without a model: understanding, prompt and
//! budget are decided once (`Pipeline::request`), then the model's tokens go through stop strings
//! and guard (`Exchange::push`) until the reply is whole (`Exchange::finish`).
//!
//! Drivers bring the tokens: [`session`](super::session) for `chat`, `demo` and `prompt`, the
//! server, `eval answers`.

use super::guard::Guard;
use super::prompt::one_question;
use super::{Assistant, GuardMode, Reply, Turn, Understanding};
use crate::generate::text::{NEXT_QUESTION, Part, TokenText, parse_dialogue, prompt_ids};
use crate::generate::{Finish, GenerateSettings, SamplingSettings, TokenAutomaton};
use crate::tokenizer::Tokenizer;
use anyhow::{Context, Result, ensure};
use std::fmt;
use std::sync::Arc;

/// How an answer is made.
#[derive(Clone, Debug)]
pub struct ExchangeSettings {
    /// How each token is chosen.
    pub sampling: SamplingSettings,
    /// Most tokens of the answer; `None`: until the model's context is full.
    pub max_new_tokens: Option<usize>,
    /// What the guard does.
    pub guard: GuardMode,
    /// Strings that end the answer, besides the next question.
    pub stop_strings: Vec<String>,
}

impl Default for ExchangeSettings {
    fn default() -> Self {
        Self {
            sampling: SamplingSettings {
                temperature: 0.7,
                top_p: 0.9,
                ..SamplingSettings::default()
            },
            max_new_tokens: Some(224),
            guard: GuardMode::Replace,
            stop_strings: Vec::new(),
        }
    }
}

/// What a model can read.
#[derive(Clone, Copy)]
pub(crate) struct Window<'a> {
    /// The model's tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// Most tokens of prompt and answer together.
    pub context: usize,
}

/// Everything that a question meets on its way to the reply, but the model itself.
#[derive(Clone, Copy)]
pub(crate) struct Pipeline<'a> {
    /// Understands, lays out the prompt, guards.
    pub assistant: &'a Assistant,
    /// The model's window; `None` where there is no model and the knowledge base answers alone.
    pub window: Option<Window<'a>>,
}

/// A question, understood, with the prompt and the settings for its answer.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    understanding: Understanding,
    guard: GuardMode,
    prompt: Vec<u32>,
    generate: GenerateSettings,
    /// The answers that may be given, where they are known beforehand and fit.
    allowed: Option<Arc<TokenAutomaton>>,
    has_model: bool,
}

impl Request {
    /// What was understood.
    pub(crate) fn understanding(&self) -> &Understanding {
        &self.understanding
    }

    /// The prompt's tokens; none where there is no model.
    pub(crate) fn prompt(&self) -> &[u32] {
        &self.prompt
    }

    /// How the model continues the prompt.
    pub(crate) fn generate_settings(&self) -> &GenerateSettings {
        &self.generate
    }

    /// Whether the model is to be run: there is one, and where the guard replaces there are answers
    /// to choose between. There are none to a request that belongs elsewhere, to one that was not
    /// understood, and where the question or even the shortest answer is too long for the window.
    pub(crate) fn needs_model(&self) -> bool {
        let can_read = self.has_model && !self.prompt.is_empty();
        can_read && (self.guard != GuardMode::Replace || self.allowed.is_some())
    }

    /// The same request under another guard.
    pub(crate) fn with_guard(&self, guard: GuardMode) -> Request {
        let mut request = Request {
            guard: guard_of(&self.understanding, guard),
            ..self.clone()
        };
        request.constrain();
        request
    }

    /// Where the guard replaces, the model only chooses between answers that may be given.
    fn constrain(&mut self) {
        let replaces = self.guard == GuardMode::Replace;
        self.generate.allowed = self.allowed.clone().filter(|_| replaces);
    }
}

/// Where somebody may be in danger the knowledge base answers, whatever the guard is set to. How an
/// office can be reached no model knows: it is not asked unless its answer is wanted as it comes.
fn guard_of(understanding: &Understanding, guard: GuardMode) -> GuardMode {
    match guard {
        _ if understanding.is_danger() => GuardMode::Replace,
        GuardMode::Mark if understanding.contact.is_some() => GuardMode::Replace,
        guard => guard,
    }
}

impl<'a> Pipeline<'a> {
    /// Takes up a question. What was said before goes into the prompt as far as a long answer still
    /// fits behind it: as many tokens as were asked for, at most half of the window.
    ///
    /// # Errors
    /// If nothing is asked, or the question alone is too long for the window and the guard would
    /// show what the model says.
    pub(crate) fn request(
        &self,
        history: &[Turn],
        question: &str,
        settings: &ExchangeSettings,
    ) -> Result<Request> {
        let understanding = self.assistant.understand(history, question);
        let prompt = match self.window {
            // Help does not depend on the length of what is said.
            _ if understanding.is_danger() => Vec::new(),
            None => {
                one_question(question)?;
                Vec::new()
            }
            Some(Window { tokenizer, context }) => {
                let most = (context / 2).max(1);
                let answer = settings.max_new_tokens.unwrap_or(most).clamp(1, most);
                // One token is kept back: a prompt must leave room for its continuation.
                let budget = context.saturating_sub(answer + 1);
                one_question(question)?;
                let prompt = self.assistant.prompt(tokenizer, history, question, budget);
                match prompt {
                    Ok(prompt) => prompt_ids(tokenizer, &prompt)?,
                    // The model cannot read it, the knowledge base can.
                    Err(_) if settings.guard == GuardMode::Replace => Vec::new(),
                    Err(error) => return Err(error),
                }
            }
        };
        let mut stop_strings = settings.stop_strings.clone();
        stop_strings.push(NEXT_QUESTION.to_string());
        let mut request = self.with_prompt(understanding, prompt, settings, stop_strings, true);
        request.allowed = self.allowed(&request, question)?;
        request.constrain();
        Ok(request)
    }

    /// The answers that may be given to a request. `None` also where not even the shortest fits.
    fn allowed(&self, request: &Request, question: &str) -> Result<Option<Arc<TokenAutomaton>>> {
        let Some(Window { tokenizer, context }) = self.window else {
            return Ok(None);
        };
        if request.prompt.is_empty() {
            return Ok(None);
        }
        let understanding = &request.understanding;
        let automaton = self
            .assistant
            .automaton(understanding, question, tokenizer)?;
        let most = request.generate.max_new_tokens.unwrap_or(context);
        let room = most.min(context.saturating_sub(request.prompt.len()));
        let fitting = automaton.filter(|automaton| automaton.shortest() <= room);
        Ok(fitting.map(Arc::new))
    }

    /// Takes up a text that the model continues exactly as it stands, with no guard over the
    /// continuation.
    ///
    /// # Errors
    /// If there is no model, or the text fills its window.
    pub(crate) fn continuation(&self, text: &str, settings: &ExchangeSettings) -> Result<Request> {
        let Window { tokenizer, context } = self
            .window
            .context("there is no model that could continue a text")?;
        let understanding = self.assistant.understand(&[], text);
        let prompt = prompt_ids(tokenizer, text)?;
        ensure!(
            prompt.len() < context,
            "the prompt has {} tokens, expected fewer than the model's context of {context}",
            prompt.len()
        );
        let unguarded = ExchangeSettings {
            guard: GuardMode::Off,
            ..settings.clone()
        };
        let stop_strings = settings.stop_strings.clone();
        Ok(self.with_prompt(understanding, prompt, &unguarded, stop_strings, false))
    }

    fn with_prompt(
        &self,
        understanding: Understanding,
        prompt: Vec<u32>,
        settings: &ExchangeSettings,
        stop_strings: Vec<String>,
        trim: bool,
    ) -> Request {
        Request {
            guard: guard_of(&understanding, settings.guard),
            understanding,
            prompt,
            generate: GenerateSettings {
                sampling: settings.sampling,
                max_new_tokens: settings.max_new_tokens,
                end_token: self.window.map(|window| window.tokenizer.end_of_text()),
                allowed: None,
                stop_strings,
                trim,
            },
            allowed: None,
            has_model: self.window.is_some(),
        }
    }

    /// Starts the answer to a request of this pipeline.
    pub(crate) fn begin(&self, request: &Request) -> Exchange<'a> {
        let GenerateSettings {
            stop_strings, trim, ..
        } = &request.generate;
        let window = self.window.filter(|_| request.needs_model());
        let text = window.map(|window| TokenText::new(window.tokenizer, stop_strings, *trim));
        let understanding = request.understanding.clone();
        Exchange {
            guard: self.assistant.guard(understanding, request.guard),
            text,
            stopped: None,
            new_tokens: 0,
        }
    }
}

/// What [`Exchange::push`] says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Release {
    /// What can be shown now.
    pub text: String,
    /// Why no more tokens are wanted: a stop string came, or the guard has seen enough
    /// (`Cancelled`).
    pub stop: Option<Finish>,
}

/// One answer under way: tokens in, text out.
pub(crate) struct Exchange<'a> {
    guard: Guard<'a>,
    /// `None` where no token is wanted: the knowledge base answers alone.
    text: Option<TokenText<'a>>,
    stopped: Option<Finish>,
    new_tokens: usize,
}

impl Exchange<'_> {
    /// Takes the model's next token. One that comes after the end changes nothing.
    ///
    /// # Errors
    /// If the token is outside the vocabulary.
    pub(crate) fn push(&mut self, token: u32) -> Result<Release> {
        let stopped = self.stopped;
        let Some(text) = self.text.as_mut().filter(|_| stopped.is_none()) else {
            return Ok(Release {
                text: String::new(),
                stop: stopped.or(Some(Finish::Cancelled)),
            });
        };
        self.new_tokens += 1;
        let progress = self.guard.push(&text.push(token)?);
        self.stopped = match (progress.stop, text.stopped()) {
            (true, _) => Some(Finish::Cancelled),
            (false, true) => Some(Finish::StopString),
            (false, false) => None,
        };
        Ok(Release {
            text: progress.release,
            stop: self.stopped,
        })
    }

    /// Tokens that were taken.
    pub(crate) fn new_tokens(&self) -> usize {
        self.new_tokens
    }

    /// The answer is over: what is left to show, and the whole reply.
    pub(crate) fn finish(mut self) -> (String, Reply) {
        let Some(text) = self.text.take() else {
            return self.guard.finish_without_model();
        };
        let mut rest = String::new();
        if self.stopped != Some(Finish::Cancelled) {
            rest = self.guard.push(&text.finish()).release;
        }
        let (end, reply) = self.guard.finish();
        (rest + &end, reply)
    }
}

/// Why a text is no conversation that waits for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoQuestion {
    /// It holds no question.
    Empty,
    /// It ends with the beginning of an answer.
    BegunAnswer,
}

impl fmt::Display for NoQuestion {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            NoQuestion::Empty => "the prompt holds no question",
            NoQuestion::BegunAnswer => {
                "the prompt begins an answer, which is not continued while the guard is on: \
                 end with the question"
            }
        })
    }
}

impl std::error::Error for NoQuestion {}

/// A text in the form of the training set, `Frage: ...\nAntwort: ...\nFrage: ...`, as what was said
/// before and the question; a text without labels is the question.
///
/// # Errors
/// If it does not end with a question.
pub(crate) fn conversation_of(text: &str) -> Result<(Vec<Turn>, String), NoQuestion> {
    let mut parts = parse_dialogue(text);
    let question = match parts.pop() {
        Some(Part::Question(question)) => question.to_string(),
        Some(Part::Answer(_)) => return Err(NoQuestion::BegunAnswer),
        None => return Err(NoQuestion::Empty),
    };
    let turns = parts.into_iter().map(|part| match part {
        Part::Question(text) => Turn::citizen(text),
        Part::Answer(text) => Turn::assistant(text),
    });
    Ok((turns.collect(), question))
}

#[cfg(test)]
mod tests;
