//! Everything that needs no model: the page and the widget, offices, ratings, the model's name,
//! health and figures.

use super::assets;
use super::completions::read_body;
use super::error::ApiError;
use super::openai::fields::Fields;
use super::state::State;
use crate::answer::Verdict;
use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use axum::http::{HeaderMap, HeaderValue, Request, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

/// A JSON body.
fn json_body(value: &Value) -> Response {
    let mut response = Response::new(Body::from(value.to_string()));
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}

/// `GET /v1/models`
pub(super) fn models(state: &State) -> Response {
    json_body(&json!({"object": "list", "data": [model_json(state)]}))
}

/// `GET /v1/models/NAME`
pub(super) fn model(state: &State, name: &str) -> Response {
    match name == state.settings.model_name {
        true => json_body(&model_json(state)),
        false => ApiError::no_such_model(&state.settings.model_name).into_response(),
    }
}

fn model_json(state: &State) -> Value {
    json!({
        "id": state.settings.model_name,
        "object": "model",
        "created": state.started,
        "owned_by": "muni-engine",
    })
}

/// `GET /health`: the process answers.
pub(super) fn health(state: &State) -> Response {
    json_body(&json!({"status": "ok", "knowledge_only": state.is_knowledge_only()}))
}

/// `GET /ready`: questions are taken.
pub(super) fn ready(state: &State) -> Response {
    match state.is_stopping() {
        true => ApiError::stopping().into_response(),
        false => json_body(&json!({"status": "ready"})),
    }
}

/// `GET /metrics`
pub(super) fn metrics(state: &State) -> Response {
    let mut response = Response::new(Body::from(state.metrics.text(state.queue.waiting())));
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

/// `GET /api/offices`
pub(super) fn offices(state: &State) -> Response {
    let municipality = &state.assistant.knowledge().municipality;
    json_body(&json!({
        "city": municipality.value("stadt", None),
        "offices": state.assistant.offices(),
        "model": state.settings.model_name,
        "notice": state.notice(),
        "guard": state.settings.guard.to_string(),
        "knowledge_only": state.is_knowledge_only(),
        "logs_conversations": state.conversations.is_some(),
    }))
}

/// `POST /api/feedback`: counted, and nothing else kept.
pub(super) async fn feedback(state: &State, request: Request<Body>) -> Result<Response, ApiError> {
    let body = read_body(state, request).await?;
    let mut fields = Fields::parse(&body)?;
    let rating = one_of(&mut fields, "rating", &["up", "down"])?;
    let Some(rating) = rating else {
        return Err(ApiError::field(
            "rating",
            "missing",
            "rating is missing, expected up or down",
        ));
    };
    // Labels come from closed lists, so that nobody writes into the figures.
    let ids: Vec<String> = state
        .assistant
        .offices()
        .into_iter()
        .map(|o| o.id)
        .collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let office = one_of(&mut fields, "office", &ids)?.unwrap_or_default();
    let verdicts = Verdict::ALL.map(|verdict| verdict.to_string());
    let verdicts = verdicts.each_ref().map(String::as_str);
    let verdict = one_of(&mut fields, "verdict", &verdicts)?.unwrap_or_default();
    state.metrics.feedback.add(format!(
        "rating=\"{rating}\",office=\"{office}\",verdict=\"{verdict}\""
    ));
    Ok(StatusCode::NO_CONTENT.into_response())
}

fn one_of(fields: &mut Fields, name: &str, allowed: &[&str]) -> Result<Option<String>, ApiError> {
    match fields.string(name)? {
        Some(value) if !allowed.contains(&value.as_str()) => Err(ApiError::field(
            name,
            "invalid_value",
            format!(
                "{name} has an unknown value, expected one of: {}",
                allowed.join(", ")
            ),
        )),
        value => Ok(value),
    }
}

/// The page, the widget, the privacy notice.
pub(super) fn asset(path: &str, headers: &HeaderMap) -> Response {
    let Some(asset) = assets::asset(path) else {
        return ApiError::not_found().into_response();
    };
    let known = headers
        .get(IF_NONE_MATCH)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|tags| {
            tags.split(',')
                .any(|tag| tag.trim().trim_start_matches("W/") == asset.etag)
        });
    let mut response = match known {
        true => StatusCode::NOT_MODIFIED.into_response(),
        false => Response::new(Body::from(asset.body)),
    };
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(asset.content_type));
    headers.insert(ETAG, HeaderValue::from_static(asset.etag));
    // Kept, but asked about each time: an update of the server is seen at once.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    if asset.for_other_pages {
        headers.insert(
            "cross-origin-resource-policy",
            HeaderValue::from_static("cross-origin"),
        );
    }
    response
}
