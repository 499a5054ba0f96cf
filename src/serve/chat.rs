//! One answer from question to text: understanding, prompt, the model's tokens through stop strings and guard. What a client
//! sees of it, and when, is the caller's business.

use super::engine::{Job, JobEvent, Refusal};
use super::error::ApiError;
use super::openai::request::{ChatRequest, CompletionRequest, Options};
use super::openai::response::Usage;
use super::rate::patience;
use super::state::State;
use crate::answer::{
    Assistant, GuardMode, OfficeContact, Reply, Role, Turn, Understanding, Verdict,
};
use crate::generate::text::{ANSWER, NEXT_QUESTION, QUESTION};
use crate::generate::{Finish, GenerateSettings, SamplingSettings, TextStream};
use std::sync::atomic::Ordering;
use std::time::Instant;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::timeout_at;

/// A question, understood, whose answer the model is working on or about to.
pub(super) struct Asked {
    pub history: Vec<Turn>,
    pub question: String,
    pub options: Options,
    understanding: Understanding,
    guard: GuardMode,
    prompt_tokens: usize,
    stop_strings: Vec<String>,
    trim: bool,
    /// `None` where no model is needed: the request is none of the offices' business.
    tokens: Option<UnboundedReceiver<JobEvent>>,
    arrived: Instant,
}

/// A finished answer.
pub(super) struct Answered {
    pub reply: Reply,
    /// OpenAI's reason.
    pub finish: &'static str,
    pub usage: Usage,
}

impl Asked {
    /// Takes up a conversation's question.
    ///
    /// # Errors
    /// If it is too long for the model, no place is free, or the server stops.
    pub fn chat(state: &State, request: ChatRequest, arrived: Instant) -> Result<Self, ApiError> {
        let ChatRequest {
            history,
            question,
            options,
        } = request;
        let room = answer_room(state, &options);
        // The separator before the prompt is counted by the assistant.
        let budget = state.context.saturating_sub(room + 1);
        let prompt = state
            .assistant
            .prompt(&state.tokenizer, &history, &question, budget)
            .map_err(|error| too_long("messages", &error))?;
        let prompt = ids(state, &prompt).map_err(|error| too_long("messages", &error))?;
        Self::submit(state, history, question, options, prompt, false, arrived)
    }

    /// Takes up a text to continue. While the guard is on, the text is a conversation like any other: an answer that nobody
    /// checked must not come out by another door.
    ///
    /// # Errors
    /// As [`Asked::chat`], and if the text begins an answer while the guard is on.
    pub fn completion(
        state: &State,
        request: CompletionRequest,
        arrived: Instant,
    ) -> Result<Self, ApiError> {
        let CompletionRequest { prompt, options } = request;
        if state.settings.guard != GuardMode::Off {
            let (history, question) = turns_of(&prompt)?;
            let request = ChatRequest {
                history,
                question,
                options,
            };
            return Self::chat(state, request, arrived);
        }
        let tokens = ids(state, &prompt).map_err(|error| too_long("prompt", &error))?;
        if tokens.len() >= state.context {
            let error = anyhow::anyhow!(
                "the prompt has {} tokens, expected fewer than the model's context of {}",
                tokens.len(),
                state.context
            );
            return Err(too_long("prompt", &error));
        }
        Self::submit(state, Vec::new(), prompt, options, tokens, true, arrived)
    }

    fn submit(
        state: &State,
        history: Vec<Turn>,
        question: String,
        options: Options,
        prompt: Vec<u32>,
        raw: bool,
        arrived: Instant,
    ) -> Result<Self, ApiError> {
        let understanding = state.assistant.understand(&history, &question);
        let guard = state.settings.guard;
        let mut stop_strings = options.stop.clone();
        if !raw {
            stop_strings.push(NEXT_QUESTION.to_string());
        }
        let mut asked = Self {
            prompt_tokens: prompt.len(),
            tokens: None,
            trim: !raw,
            history,
            question,
            options,
            understanding,
            guard,
            stop_strings,
            arrived,
        };
        if guard == GuardMode::Replace && asked.understanding.out_of_remit.is_some() {
            return Ok(asked);
        }
        let limit = asked.options.max_tokens.unwrap_or(usize::MAX);
        let settings = GenerateSettings {
            sampling: SamplingSettings {
                temperature: asked.options.temperature,
                top_p: asked.options.top_p,
                seed: asked.options.seed.unwrap_or_else(|| state.random()),
                ..SamplingSettings::default()
            },
            max_new_tokens: Some(limit.min(state.settings.max_tokens)),
            end_token: Some(state.tokenizer.end_of_text()),
            ..GenerateSettings::default()
        };
        let (events, tokens) = unbounded_channel();
        let job = Job {
            prompt,
            settings,
            events,
        };
        match state.queue.submit(job) {
            Ok(()) => asked.tokens = Some(tokens),
            Err(Refusal::Full(waiting)) => {
                state.metrics.refused.add("reason=\"queue_full\"".into());
                return Err(ApiError::queue_full(patience(waiting)));
            }
            Err(Refusal::Closed) => return Err(ApiError::stopping()),
        }
        Ok(asked)
    }

    /// The office that is responsible, known before the answer is.
    pub fn office(&self, assistant: &Assistant) -> Option<OfficeContact> {
        let office = self.understanding.office.as_ref()?;
        assistant
            .offices()
            .into_iter()
            .find(|contact| contact.id == office.id)
    }

    /// What was understood.
    pub fn understanding(&self) -> &Understanding {
        &self.understanding
    }

    /// Answers; `show` gets each piece of text that can be shown. Dropping the future gives the answer up.
    ///
    /// # Errors
    /// If the time runs out, the model fails or the server stops.
    pub async fn answer(
        &mut self,
        state: &State,
        show: &mut (dyn FnMut(&str) + Send),
    ) -> Result<Answered, ApiError> {
        let deadline =
            tokio::time::Instant::from_std(self.arrived + state.settings.request_timeout);
        let mut guard = state
            .assistant
            .guard(self.understanding.clone(), self.guard);
        let mut decoder = state.tokenizer.decode_stream();
        let mut stream = TextStream::new(&self.stop_strings, self.trim);
        let mut usage = Usage {
            prompt: self.prompt_tokens,
            answer: 0,
        };
        let mut finish = "stop";
        let mut tokens = self.tokens.take();
        while let Some(events) = &mut tokens {
            let event = match timeout_at(deadline, events.recv()).await {
                Ok(Some(event)) => event,
                // The model's thread is gone.
                Ok(None) => return Err(ApiError::stopping()),
                Err(_) => {
                    state.metrics.cancelled.fetch_add(1, Ordering::Relaxed);
                    return Err(ApiError::too_slow());
                }
            };
            let text = match event {
                JobEvent::Token(token) => {
                    if usage.answer == 0 {
                        state.metrics.first_token.observe(self.arrived.elapsed());
                    }
                    usage.answer += 1;
                    let piece = decoder.push(token).map_err(|_| ApiError::model_failed())?;
                    stream.push(&piece)
                }
                JobEvent::Finished(end) => {
                    if matches!(end, Finish::MaxNewTokens | Finish::ContextFull) {
                        finish = "length";
                    }
                    break;
                }
                JobEvent::Failed => return Err(ApiError::model_failed()),
            };
            let progress = guard.push(&text);
            if !progress.release.is_empty() {
                show(&progress.release);
            }
            if stream.stopped() || progress.stop {
                break;
            }
        }
        // Whatever the model still sends is not wanted.
        drop(tokens);
        let mut rest = stream.push(&decoder.finish());
        rest.push_str(&stream.finish());
        let last = guard.push(&rest);
        let (end, reply) = guard.finish();
        let end = last.release + &end;
        if !end.is_empty() {
            show(&end);
        }
        // A text that was put in the model's place is whole.
        if matches!(reply.verdict, Verdict::Replaced | Verdict::Refused) {
            finish = "stop";
        }
        let metrics = &state.metrics;
        metrics.answer.observe(self.arrived.elapsed());
        metrics
            .prompt_tokens
            .fetch_add(usage.prompt as u64, Ordering::Relaxed);
        metrics
            .answer_tokens
            .fetch_add(usage.answer as u64, Ordering::Relaxed);
        metrics
            .answers
            .add(format!("verdict=\"{}\"", reply.verdict));
        Ok(Answered {
            reply,
            finish,
            usage,
        })
    }
}

/// Tokens kept free for the answer: what was asked for, at most half of the window.
fn answer_room(state: &State, options: &Options) -> usize {
    let wanted = options.max_tokens.unwrap_or(usize::MAX);
    wanted
        .min(state.settings.max_tokens)
        .clamp(1, (state.context / 2).max(1))
}

/// The prompt's tokens behind the separator that every training example begins with.
fn ids(state: &State, prompt: &str) -> anyhow::Result<Vec<u32>> {
    let mut ids = vec![state.tokenizer.end_of_text()];
    ids.extend(state.tokenizer.encode(prompt)?);
    Ok(ids)
}

fn too_long(param: &str, error: &anyhow::Error) -> ApiError {
    ApiError::field(param, "context_length_exceeded", format!("{error:#}"))
}

/// A text in the form of the training set, `Frage: ...\nAntwort: ...\nFrage: ...`, as a conversation that ends with a
/// question; any other text is the question.
fn turns_of(prompt: &str) -> Result<(Vec<Turn>, String), ApiError> {
    let mut turns = Vec::new();
    for part in prompt.split(QUESTION) {
        let (question, answer) = part.split_once(ANSWER).unwrap_or((part, ""));
        if !question.trim().is_empty() {
            turns.push(Turn::citizen(question.trim()));
        }
        if !answer.trim().is_empty() {
            turns.push(Turn::assistant(answer.trim()));
        }
    }
    match turns.pop() {
        Some(last) if last.role == Role::Citizen => Ok((turns, last.text)),
        Some(_) => Err(ApiError::field(
            "prompt",
            "unsupported_parameter",
            "the prompt begins an answer, which this server does not continue while its guard is on: end with the question",
        )),
        None => Err(ApiError::field(
            "prompt",
            "empty",
            "the prompt holds no question",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_is_read_as_the_conversation_it_is() {
        let (turns, question) =
            turns_of("Frage: Wo?\nAntwort: Hier.\nFrage: Wann?\nAntwort:").unwrap();
        assert_eq!(turns, [Turn::citizen("Wo?"), Turn::assistant("Hier.")]);
        assert_eq!(question, "Wann?");
        assert_eq!(
            turns_of(" Wo ist das? ").unwrap(),
            (vec![], "Wo ist das?".to_string())
        );
        for wrong in ["Frage: Wo?\nAntwort: Im", "Frage:\nAntwort:", " "] {
            assert!(turns_of(wrong).is_err(), "{wrong}");
        }
    }
}
