//! One question on the server: its request goes into the model's queue, the tokens that come back
//! go through the [`Exchange`](crate::answer::exchange::Exchange). What a client sees of it, and
//! when, is the caller's business.

use super::engine::{Job, JobEvent, Refusal};
use super::error::ApiError;
use super::openai::request::{ChatRequest, CompletionRequest, Options};
use super::openai::response::Usage;
use super::rate::patience;
use super::state::State;
use crate::answer::exchange::{ExchangeSettings, NoQuestion, Request, conversation_of};
use crate::answer::{Assistant, GuardMode, OfficeContact, Reply, Turn, Understanding, Verdict};
use crate::generate::{Finish, SamplingSettings};
use std::sync::atomic::Ordering;
use std::time::Instant;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::timeout_at;

/// A request whose answer the model is working on or about to.
pub(super) struct Submission {
    pub history: Vec<Turn>,
    pub question: String,
    pub options: Options,
    request: Request,
    /// `None` where no model is run.
    tokens: Option<UnboundedReceiver<JobEvent>>,
    arrived: Instant,
}

/// A finished answer.
pub(super) struct Answer {
    pub reply: Reply,
    /// OpenAI's reason.
    pub finish: &'static str,
    pub usage: Usage,
}

impl Submission {
    /// Takes up a conversation's question.
    ///
    /// # Errors
    /// If it is too long for the model, no place is free, or the server stops.
    pub(crate) fn chat(
        state: &State,
        request: ChatRequest,
        arrived: Instant,
    ) -> Result<Self, ApiError> {
        let ChatRequest {
            history,
            question,
            options,
        } = request;
        let settings = exchange_settings(state, &options);
        let request = state
            .pipeline()
            .request(&history, &question, &settings)
            .map_err(|error| too_long("messages", &error))?;
        Self::submit(state, history, question, options, request, arrived)
    }

    /// Takes up a text to continue. While the guard is on, or no model could continue it, the text
    /// is a conversation like any other: an answer that nobody checked must not come out by another
    /// door.
    ///
    /// # Errors
    /// As [`Submission::chat`], and if the text begins an answer while the guard is on.
    pub(crate) fn completion(
        state: &State,
        request: CompletionRequest,
        arrived: Instant,
    ) -> Result<Self, ApiError> {
        let CompletionRequest { prompt, options } = request;
        if state.settings.guard != GuardMode::Off || state.is_knowledge_only() {
            let (history, question) = conversation_of(&prompt).map_err(no_question)?;
            let request = ChatRequest {
                history,
                question,
                options,
            };
            return Self::chat(state, request, arrived);
        }
        let settings = exchange_settings(state, &options);
        let request = state
            .pipeline()
            .continuation(&prompt, &settings)
            .map_err(|error| too_long("prompt", &error))?;
        Self::submit(state, Vec::new(), prompt, options, request, arrived)
    }

    fn submit(
        state: &State,
        history: Vec<Turn>,
        question: String,
        options: Options,
        request: Request,
        arrived: Instant,
    ) -> Result<Self, ApiError> {
        let mut submission = Self {
            history,
            question,
            options,
            request,
            tokens: None,
            arrived,
        };
        let request = &submission.request;
        if !request.needs_model() {
            return Ok(submission);
        }
        let (events, tokens) = unbounded_channel();
        let job = Job {
            prompt: request.prompt().to_vec(),
            settings: request.generate_settings().clone(),
            events,
        };
        match state.queue.submit(job) {
            Ok(()) => submission.tokens = Some(tokens),
            Err(Refusal::Full(waiting)) => {
                state.metrics.refused.add("reason=\"queue_full\"".into());
                return Err(ApiError::queue_full(patience(waiting)));
            }
            Err(Refusal::Closed) => return Err(ApiError::stopping()),
        }
        Ok(submission)
    }

    /// The office that is responsible, known before the answer is; none where the citizen is asked
    /// which service is meant.
    pub(crate) fn office(&self, assistant: &Assistant) -> Option<OfficeContact> {
        if self.understanding().is_guess() {
            return None;
        }
        let office = self.understanding().office.as_ref()?;
        assistant
            .offices()
            .into_iter()
            .find(|contact| contact.id == office.id)
    }

    /// What was understood.
    pub(crate) fn understanding(&self) -> &Understanding {
        self.request.understanding()
    }

    /// Answers; `show` gets each piece of text that can be shown. Dropping the future gives the
    /// answer up.
    ///
    /// # Errors
    /// If the time runs out, the model fails or the server stops.
    pub(crate) async fn answer(
        &mut self,
        state: &State,
        show: &mut (dyn FnMut(&str) + Send),
    ) -> Result<Answer, ApiError> {
        let deadline =
            tokio::time::Instant::from_std(self.arrived + state.settings.request_timeout);
        let mut exchange = state.pipeline().begin(&self.request);
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
            let token = match event {
                JobEvent::Token(token) => token,
                JobEvent::Finished(end) => {
                    if matches!(end, Finish::MaxNewTokens | Finish::ContextFull) {
                        finish = "length";
                    }
                    break;
                }
                JobEvent::Failed => return Err(ApiError::model_failed()),
            };
            if exchange.new_tokens() == 0 {
                state.metrics.first_token.observe(self.arrived.elapsed());
            }
            let release = exchange.push(token).map_err(|_| ApiError::model_failed())?;
            if !release.text.is_empty() {
                show(&release.text);
            }
            if release.stop.is_some() {
                break;
            }
        }
        // Whatever the model still sends is not wanted.
        drop(tokens);
        let usage = Usage {
            prompt: self.request.prompt().len(),
            answer: exchange.new_tokens(),
        };
        let (rest, reply) = exchange.finish();
        if !rest.is_empty() {
            show(&rest);
        }
        // A text that was put in the model's place is whole.
        let own = [
            Verdict::Replaced,
            Verdict::Refused,
            Verdict::Knowledge,
            Verdict::Asked,
        ];
        if own.contains(&reply.verdict) {
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
        Ok(Answer {
            reply,
            finish,
            usage,
        })
    }
}

/// What the client asked for, within what the operator allows.
fn exchange_settings(state: &State, options: &Options) -> ExchangeSettings {
    let limit = options.max_tokens.unwrap_or(usize::MAX);
    ExchangeSettings {
        sampling: SamplingSettings {
            temperature: options.temperature,
            top_p: options.top_p,
            seed: options.seed.unwrap_or_else(|| state.random()),
            ..SamplingSettings::default()
        },
        max_new_tokens: Some(limit.min(state.settings.max_tokens)),
        guard: state.settings.guard,
        stop_strings: options.stop.clone(),
    }
}

fn too_long(param: &str, error: &anyhow::Error) -> ApiError {
    ApiError::field(param, "context_length_exceeded", format!("{error:#}"))
}

fn no_question(reason: NoQuestion) -> ApiError {
    match reason {
        NoQuestion::BegunAnswer => ApiError::field(
            "prompt",
            "unsupported_parameter",
            "the prompt begins an answer, which this server does not continue while its guard is \
             on: \
             end with the question",
        ),
        NoQuestion::Empty => ApiError::field("prompt", "empty", "the prompt holds no question"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::settings::Settings;
    use super::*;
    use crate::generate::text::NEXT_QUESTION;
    use crate::knowledge::Knowledge;
    use crate::tokenizer::Tokenizer;
    use std::time::Duration;

    fn state(has_model: bool) -> State {
        let settings = Settings {
            model_name: "muni".to_string(),
            guard: GuardMode::Replace,
            max_concurrent: 1,
            queue: 1,
            max_tokens: 64,
            max_body: 1 << 16,
            max_connections: 1,
            request_timeout: Duration::from_secs(60),
            shutdown_timeout: Duration::from_secs(1),
            keys: None,
            origins: Vec::new(),
            rate_limit: 0,
            proxies: Vec::new(),
            conversations: None,
        };
        let assistant = Assistant::new(Knowledge::bundled().unwrap()).unwrap();
        let model = has_model.then(|| (Tokenizer::gpt2().unwrap(), 256));
        State::new(settings, assistant, model).unwrap()
    }

    fn submitted(state: &State, question: &str) -> Submission {
        let body = serde_json::json!({"messages": [{"role": "user", "content": question}]});
        let request = ChatRequest::parse(body.to_string().as_bytes(), "muni").unwrap();
        Submission::chat(state, request, Instant::now()).unwrap()
    }

    /// The answer and what was shown of it, where the model says `said`.
    fn answered(state: &State, mut submission: Submission, said: &str) -> (Answer, String) {
        if let Some(job) = state.queue.next(false) {
            let tokenizer = state.pipeline().window.unwrap().tokenizer;
            for token in tokenizer.encode(said).unwrap() {
                job.events.send(JobEvent::Token(token)).unwrap();
            }
            job.events
                .send(JobEvent::Finished(Finish::EndOfText))
                .unwrap();
        }
        let mut shown = String::new();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        let mut show = |text: &str| shown.push_str(text);
        let answer = runtime.block_on(submission.answer(state, &mut show));
        let Ok(answer) = answer else {
            panic!("no answer")
        };
        (answer, shown)
    }

    #[test]
    fn submission_answers_with_what_the_model_said() {
        let state = state(true);
        let submission = submitted(&state, "Was kostet ein neuer Personalausweis?");
        let own = "Der Personalausweis kostet 46 Euro, für Personen unter 24 Jahren 27,60 Euro.";
        let said = format!(" {own}{NEXT_QUESTION} Wer?");
        let (answer, shown) = answered(&state, submission, &said);
        assert_eq!(
            (answer.reply.verdict, answer.finish),
            (Verdict::Passed, "stop")
        );
        assert_eq!((answer.reply.text.as_str(), shown.as_str()), (own, own));
        assert!(answer.usage.prompt > 10 && answer.usage.answer > 10);
    }

    #[test]
    fn submission_that_needs_no_model_asks_none() {
        let with_model = state(true);
        let submission = submitted(&with_model, "Wie wird das Wetter morgen?");
        assert_eq!(with_model.queue.waiting(), 0);
        let (answer, _) = answered(&with_model, submission, "");
        assert_eq!(
            (answer.reply.verdict, answer.usage.answer),
            (Verdict::Refused, 0)
        );

        let alone = state(false);
        let submission = submitted(&alone, "Was kostet ein neuer Personalausweis?");
        let (answer, shown) = answered(&alone, submission, "");
        assert_eq!(answer.reply.verdict, Verdict::Knowledge);
        assert_eq!(shown, answer.reply.text);
        assert_eq!((answer.usage.prompt, answer.usage.answer), (0, 0));
    }
}
