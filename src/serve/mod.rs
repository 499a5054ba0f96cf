//! The HTTP server: OpenAI's API over the guarded assistant, the city's page and widget, health and
//! figures.
//!
//! Two kinds of threads. The caller's thread is the model's: it takes requests from a bounded queue
//! into a batch and sends each its tokens (`engine`). Tokio's threads read requests, watch over
//! answers and write responses; they know the model only through the queue. An answer that nobody
//! waits for any more is found by its closed channel and dropped.
//!
//! - `connection` accepts; `gate` decides who may ask (`access`, `rate`) and puts the security
//!   headers on;
//! - `completions` and `openai` speak OpenAI's API, `submission` makes the answer;
//! - `site` and `assets` are everything else that is served.
//!
//! Nothing that was asked or answered is kept or logged, unless the operator names a file for it.

mod access;
pub(crate) mod assets;
mod completions;
mod connection;
mod engine;
mod error;
mod gate;
mod log;
mod metrics;
mod openai;
mod rate;
mod settings;
mod site;
mod state;
mod submission;

pub(crate) use access::{ApiKeys, Origin};
pub(crate) use settings::Settings;

use crate::answer::Assistant;
use crate::generate::Scheduler;
use crate::model::Model;
use crate::ops::{Operations, Planner};
use crate::tokenizer::Tokenizer;
use anyhow::{Context, Result, anyhow};
use axum::Router;
use axum::extract::{Path, Request, State as Extract};
use axum::middleware::from_fn_with_state;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use openai::response::Kind;
use serde_json::json;
use state::State;
use std::net::TcpListener;
use std::sync::Arc;

/// Threads that speak HTTP: they wait nearly always.
const HTTP_THREADS: usize = 2;

/// A model that a server answers with.
pub(crate) struct ServedModel<'a, D: Operations + Planner> {
    /// Where it computes.
    pub device: &'a D,
    /// The model.
    pub model: &'a Model<D>,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
}

/// Serves until the process is told to stop (SIGTERM, SIGINT); then answers under way are finished.
/// The calling thread is the model's, so an operation of the CPU device runs on the pool that it
/// belongs to. Without a model the knowledge base answers alone.
///
/// # Errors
/// If the settings are out of range, there is no memory, a thread cannot be started, or the device
/// fails.
pub(crate) fn serve<D: Operations + Planner>(
    listener: TcpListener,
    model: Option<ServedModel<'_, D>>,
    assistant: Assistant,
    settings: Settings,
) -> Result<()> {
    let (engine, tokenizer) = match model {
        Some(served) => {
            let context = served.model.config.max_position_embeddings;
            let engine = (served.device, served.model);
            (Some(engine), Some((served.tokenizer, context)))
        }
        None => (None, None),
    };
    let state = Arc::new(State::new(settings, assistant, tokenizer)?);
    let mut scheduler = match engine {
        Some((device, model)) => Some(Scheduler::new(
            device,
            model,
            state.settings.max_concurrent,
        )?),
        None => None,
    };
    let address = listener
        .local_addr()
        .context("the listener has no address")?;
    log::event(
        "info",
        "listening",
        json!({
            "address": address.to_string(),
            "url": format!("http://{address}/"),
            "model": state.settings.model_name,
            "knowledge_only": state.is_knowledge_only(),
            "device": engine.map(|(device, _)| device.name()),
            "guard": state.settings.guard.to_string(),
            "logs_conversations": state.conversations.is_some(),
        }),
    );
    let http = {
        let state = state.clone();
        std::thread::Builder::new()
            .name("http".to_string())
            .spawn(move || {
                let result = http(listener, &state);
                // Whatever the reason, nobody asks any more.
                state.queue.close(true);
                result
            })
            .context("cannot start the HTTP thread")?
    };
    let computed = match &mut scheduler {
        Some(scheduler) => {
            let computed = engine::run(scheduler, &state.queue, &state.metrics);
            // The engine ends first only where the device failed.
            state.stopping.send_replace(true);
            computed
        }
        // The HTTP thread ends when the process is told to stop.
        None => Ok(()),
    };
    let served = http
        .join()
        .unwrap_or_else(|_| Err(anyhow!("the HTTP thread ended unexpectedly")));
    computed.context("the model's device failed")?;
    served?;
    log::event("info", "stopped", json!({}));
    Ok(())
}

/// The HTTP side, to its end.
fn http(listener: TcpListener, state: &Arc<State>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(HTTP_THREADS)
        .thread_name("http")
        .enable_all()
        .build()
        .context("cannot start the HTTP threads")?;
    let result = runtime.block_on(async {
        listener
            .set_nonblocking(true)
            .context("cannot use the listener")?;
        let listener =
            tokio::net::TcpListener::from_std(listener).context("cannot use the listener")?;
        let stopping = state.clone();
        tokio::spawn(async move {
            match told_to_stop().await {
                Ok(signal) => log::event("info", "stopping", json!({"signal": signal})),
                Err(error) => {
                    log::event("error", "no_signals", json!({"reason": error.to_string()}));
                    return;
                }
            }
            stopping.stopping.send_replace(true);
        });
        connection::run(listener, state.clone(), router(state)).await
    });
    runtime.shutdown_background();
    result
}

/// Waits for a signal to stop; returns its name.
#[cfg(unix)]
async fn told_to_stop() -> std::io::Result<&'static str> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => Ok("SIGTERM"),
        _ = interrupt.recv() => Ok("SIGINT"),
    }
}

/// Waits for Ctrl-C.
#[cfg(not(unix))]
async fn told_to_stop() -> std::io::Result<&'static str> {
    tokio::signal::ctrl_c().await.map(|()| "Ctrl-C")
}

fn router(state: &Arc<State>) -> Router {
    type Shared = Extract<Arc<State>>;
    Router::new()
        .route(
            "/v1/chat/completions",
            post(|Extract(state): Shared, request: Request| {
                completions::complete(state, Kind::Chat, request)
            }),
        )
        .route(
            "/v1/completions",
            post(|Extract(state): Shared, request: Request| {
                completions::complete(state, Kind::Completion, request)
            }),
        )
        .route(
            "/v1/models",
            get(async |Extract(state): Shared| site::models(&state)),
        )
        .route(
            "/v1/models/{name}",
            get(async |Extract(state): Shared, Path(name): Path<String>| {
                site::model(&state, &name)
            }),
        )
        .route(
            "/health",
            get(async |Extract(state): Shared| site::health(&state)),
        )
        .route(
            "/ready",
            get(async |Extract(state): Shared| site::ready(&state)),
        )
        .route(
            "/metrics",
            get(async |Extract(state): Shared| site::metrics(&state)),
        )
        .route(
            "/api/offices",
            get(async |Extract(state): Shared| site::offices(&state)),
        )
        .route(
            "/api/feedback",
            post(async |Extract(state): Shared, request: Request| {
                site::feedback(&state, request)
                    .await
                    .unwrap_or_else(IntoResponse::into_response)
            }),
        )
        .fallback(get(async |request: Request| {
            site::asset(request.uri().path(), request.headers())
        }))
        .layer(from_fn_with_state(state.clone(), gate::pass))
        .with_state(state.clone())
}
