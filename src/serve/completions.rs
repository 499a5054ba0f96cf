//! `/v1/chat/completions` and `/v1/completions`: an answer as one body, or as server-sent events
//! while it is made.

use super::error::ApiError;
use super::log;
use super::openai::request::{ChatRequest, CompletionRequest};
use super::openai::response::{DONE, Envelope, Kind, event, muni, muni_ahead};
use super::state::State;
use super::submission::{Answer, Submission};
use axum::body::{Body, Bytes};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Request};
use axum::response::{IntoResponse, Response};
use http_body::Frame;
use serde_json::{Map, Value, json};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// Marks what a machine wrote, for machines (EU AI Act, Article 50(2)).
const AI_GENERATED: HeaderName = HeaderName::from_static("x-ai-generated");
/// Sent by the widget, which shows a replacement itself.
const WIDGET: &str = "x-muni-widget";
/// For the whole of a request's body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Answers `POST /v1/chat/completions` and `POST /v1/completions`.
pub(super) async fn complete(state: Arc<State>, kind: Kind, request: Request<Body>) -> Response {
    match begin(&state, kind, request).await {
        Ok(completion) if completion.submission.options.stream => completion.stream(state),
        Ok(completion) => completion
            .whole(&state)
            .await
            .unwrap_or_else(ApiError::into_response),
        Err(error) => error.into_response(),
    }
}

/// An answer that is being made, and how its client wants it.
struct Completion {
    submission: Submission,
    envelope: Envelope,
    widget: bool,
    arrived: Instant,
}

async fn begin(state: &State, kind: Kind, request: Request<Body>) -> Result<Completion, ApiError> {
    let arrived = Instant::now();
    let widget = request.headers().contains_key(WIDGET);
    let body = read_body(state, request).await?;
    let model = &state.settings.model_name;
    let submission = match kind {
        Kind::Chat => Submission::chat(state, ChatRequest::parse(&body, model)?, arrived)?,
        Kind::Completion => {
            Submission::completion(state, CompletionRequest::parse(&body, model)?, arrived)?
        }
    };
    let prefix = match kind {
        Kind::Chat => "chatcmpl",
        Kind::Completion => "cmpl",
    };
    Ok(Completion {
        submission,
        envelope: Envelope {
            kind,
            id: format!("{prefix}-{:016x}{:016x}", state.random(), state.random()),
            created: log::unix_seconds(std::time::SystemTime::now()),
            model: model.clone(),
        },
        widget,
        arrived,
    })
}

/// The body, bounded in size and time.
pub(super) async fn read_body(state: &State, request: Request<Body>) -> Result<Bytes, ApiError> {
    let limit = state.settings.max_body;
    let length = request
        .headers()
        .get(CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if length.is_some_and(|length| length > limit) {
        return Err(ApiError::too_large(limit));
    }
    let read = axum::body::to_bytes(request.into_body(), limit);
    match tokio::time::timeout(BODY_TIMEOUT, read).await {
        Ok(Ok(bytes)) => Ok(bytes),
        // Without a length the limit shows while reading; every other error is a connection that
        // broke.
        Ok(Err(_)) if length.is_none() => Err(ApiError::too_large(limit)),
        Ok(Err(_)) => Err(ApiError::body("the body ended before its announced length")),
        Err(_) => Err(ApiError::slow_body()),
    }
}

impl Completion {
    /// The answer as one body.
    async fn whole(mut self, state: &State) -> Result<Response, ApiError> {
        // Dropped with this future when the client goes away.
        let gone = CountIfDropped::new(state);
        let answer = self.submission.answer(state, &mut |_| {}).await;
        gone.done();
        let answer = answer?;
        let about = muni(&answer.reply, None, state.disclosure());
        let body = self
            .envelope
            .whole(&answer.reply.text, answer.finish, answer.usage, about);
        self.record(state, &answer);
        let body = Body::from(body.to_string());
        Ok(answer_response(state, "application/json", body))
    }

    /// The answer piece by piece, made by a task of its own that ends when the client goes away.
    fn stream(self, state: Arc<State>) -> Response {
        let (events, receiver) = unbounded_channel();
        let kind = "text/event-stream; charset=utf-8";
        let response = answer_response(&state, kind, Body::new(Events(receiver)));
        tokio::spawn(async move {
            let client_gone = events.clone();
            tokio::select! {
                () = self.send(&state, events) => {}
                () = client_gone.closed() => {
                    state.metrics.cancelled.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        response
    }

    async fn send(mut self, state: &State, events: UnboundedSender<Bytes>) {
        let logged = state.conversations.is_some();
        // A receiver that is gone ends this task; see `stream`.
        let send = |chunk: Value| drop(events.send(event(&chunk).into()));
        let mut first = self.envelope.chunk(Some(""), None);
        if let Some(office) = self.submission.office(&state.assistant) {
            first["muni"] = muni_ahead(
                &office,
                self.submission.understanding().service.as_ref(),
                logged,
            );
        }
        send(first);
        let envelope = self.envelope.clone();
        let mut show = |text: &str| send(envelope.chunk(Some(text), None));
        let answer = match self.submission.answer(state, &mut show).await {
            Ok(answer) => answer,
            Err(error) => {
                send(error.to_json());
                let _ = events.send(DONE.into());
                return;
            }
        };
        let reply = &answer.reply;
        let replace = (reply.text != reply.released).then_some(reply.text.as_str());
        if let Some(text) = replace.filter(|_| !self.widget) {
            let separator = if reply.released.is_empty() {
                ""
            } else {
                "\n\nBerichtigung: "
            };
            send(envelope.chunk(Some(&format!("{separator}{text}")), None));
        }
        let about = muni(reply, replace, state.disclosure());
        let mut last = self.envelope.chunk(None, Some(answer.finish));
        last["muni"] = about.clone();
        send(last);
        if self.submission.options.include_usage {
            let mut counts = self.envelope.usage_chunk(answer.usage);
            counts["muni"] = about;
            send(counts);
        }
        let _ = events.send(DONE.into());
        self.record(state, &answer);
    }

    /// What remains of an exchange: counts in the log, and the words where the operator keeps
    /// conversations.
    fn record(&self, state: &State, answer: &Answer) {
        let usage = answer.usage;
        log::event(
            "info",
            "answer",
            json!({
                "id": self.envelope.id,
                "milliseconds": self.arrived.elapsed().as_millis() as u64,
                "prompt_tokens": usage.prompt,
                "completion_tokens": usage.answer,
                "finish_reason": answer.finish,
                "verdict": answer.reply.verdict,
            }),
        );
        if let Some(conversations) = &state.conversations {
            let mut exchange = Map::new();
            exchange.insert("id".into(), json!(self.envelope.id));
            exchange.insert("history".into(), json!(self.submission.history));
            exchange.insert("question".into(), json!(self.submission.question));
            exchange.insert("answer".into(), json!(answer.reply.text));
            exchange.insert("model_text".into(), json!(answer.reply.model_text));
            exchange.insert("verdict".into(), json!(answer.reply.verdict));
            exchange.insert("reasons".into(), json!(answer.reply.reasons));
            conversations.write(exchange);
        }
    }
}

fn answer_response(state: &State, content_type: &'static str, body: Body) -> Response {
    let mut response = Response::new(body);
    let headers: &mut HeaderMap = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    if !state.is_knowledge_only() {
        headers.insert(AI_GENERATED, HeaderValue::from_static("true"));
    }
    // nginx would otherwise collect a stream before it passes anything on.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// Counts an answer as cancelled unless it was finished.
struct CountIfDropped<'a>(Option<&'a State>);

impl<'a> CountIfDropped<'a> {
    fn new(state: &'a State) -> Self {
        Self(Some(state))
    }

    fn done(mut self) {
        self.0 = None;
    }
}

impl Drop for CountIfDropped<'_> {
    fn drop(&mut self) {
        if let Some(state) = self.0 {
            state.metrics.cancelled.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Server-sent events as a body. What waits here is at most one answer, so it needs no bound.
struct Events(UnboundedReceiver<Bytes>);

impl http_body::Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let next = self.0.poll_recv(context);
        next.map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}
