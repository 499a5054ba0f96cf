//! What every request passes on its way in (may it ask?) and every response on its way out
//! (security headers, CORS, log, counts).

use super::access::{Page, client_of, origin_of};
use super::assets::CONTENT_SECURITY_POLICY;
use super::error::ApiError;
use super::log;
use super::state::State;
use axum::body::Body;
use axum::extract;
use axum::http::header::{self, HeaderName};
use axum::http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde_json::json;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

/// The peer's address, put into each request by the connection it came on.
#[derive(Clone, Copy)]
pub(super) struct Peer(pub IpAddr);

/// What a path is called in log and figures. A path that is none of these may hold anything, so it
/// is not written down.
pub(super) fn route_of(path: &str) -> &'static str {
    const KNOWN: [&str; 14] = [
        "/",
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/models",
        "/health",
        "/ready",
        "/metrics",
        "/api/offices",
        "/api/feedback",
        "/datenschutz",
        "/widget.js",
        "/page.js",
        "/page.css",
        "/favicon.svg",
    ];
    match KNOWN.iter().find(|known| **known == path) {
        Some(known) => known,
        None if path.starts_with("/v1/models/") => "/v1/models/{name}",
        None => "other",
    }
}

/// The way in and out.
pub(super) async fn pass(
    extract::State(state): extract::State<Arc<State>>,
    request: Request<Body>,
    next: Next,
) -> Response {
    let arrived = Instant::now();
    let route = route_of(request.uri().path());
    let method = request.method().clone();
    let page = origin_of(request.headers(), &state.settings.origins);
    let origin = request.headers().get(header::ORIGIN).cloned();
    let mut response = match admit(&state, &request, page) {
        Ok(Admitted::Preflight) => preflight(page),
        Ok(Admitted::Request) => next.run(request).await,
        Err(error) => error.into_response(),
    };
    if response.status() == StatusCode::METHOD_NOT_ALLOWED {
        // The router's own has no body.
        let allow = response.headers_mut().remove(header::ALLOW);
        response = ApiError::wrong_method().into_response();
        if let Some(allow) = allow {
            response.headers_mut().insert(header::ALLOW, allow);
        }
    }
    decorate(&state, response.headers_mut(), page, origin);
    let status = response.status().as_u16();
    let name = method_name(&method);
    state.metrics.requests.add(format!(
        "route=\"{route}\",method=\"{name}\",status=\"{status}\""
    ));
    // Probes come every few seconds and say nothing.
    if !(matches!(route, "/health" | "/ready" | "/metrics") && status < 400) {
        log::event(
            if status >= 500 { "error" } else { "info" },
            "request",
            json!({
                "route": route,
                "method": name,
                "status": status,
                "milliseconds": arrived.elapsed().as_millis() as u64,
            }),
        );
    }
    response
}

/// A method by a name of ours: a client may invent its own.
fn method_name(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

enum Admitted {
    Preflight,
    Request,
}

/// Whether a request may go on.
fn admit(state: &State, request: &Request<Body>, page: Page) -> Result<Admitted, ApiError> {
    let (path, headers) = (request.uri().path(), request.headers());
    let route = route_of(path);
    let refused = |reason: &str| state.metrics.refused.add(format!("reason=\"{reason}\""));
    if state.is_stopping() && !matches!(route, "/health" | "/ready" | "/metrics") {
        refused("stopping");
        return Err(ApiError::stopping());
    }
    let asks_first = headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    let changes = !matches!(*request.method(), Method::GET | Method::HEAD);
    // A foreign page may not make a citizen's or clerk's browser ask; that it could not read the
    // answer is not enough.
    if page == Page::Foreign && changes {
        refused("origin");
        return Err(ApiError::foreign_origin());
    }
    if request.method() == Method::OPTIONS && asks_first {
        return Ok(Admitted::Preflight);
    }
    let guarded = path.starts_with("/v1/") || route == "/metrics";
    if guarded
        && state
            .settings
            .keys
            .as_ref()
            .is_some_and(|keys| !keys.allow(headers))
    {
        refused("key");
        return Err(ApiError::no_key());
    }
    if changes {
        let peer = request.extensions().get::<Peer>();
        // Every connection says who it is; without it nobody could be told apart, so nobody is let
        // in.
        let Some(peer) = peer else {
            return Err(ApiError::too_often(60));
        };
        let client = client_of(peer.0, headers, &state.settings.proxies);
        if let Err(seconds) = state.rate.take(client, Instant::now()) {
            refused("rate");
            return Err(ApiError::too_often(seconds));
        }
    }
    Ok(Admitted::Request)
}

/// The answer to a browser that asks whether it may ask.
fn preflight(page: Page) -> Response {
    let mut response = StatusCode::NO_CONTENT.into_response();
    if page == Page::Listed {
        let headers = response.headers_mut();
        for (name, value) in [
            (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST"),
            (
                header::ACCESS_CONTROL_ALLOW_HEADERS,
                "content-type, authorization, x-muni-widget",
            ),
            (header::ACCESS_CONTROL_MAX_AGE, "600"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
    }
    response
}

/// What every response carries.
fn decorate(state: &State, headers: &mut HeaderMap, page: Page, origin: Option<HeaderValue>) {
    let fixed = [
        ("content-security-policy", CONTENT_SECURITY_POLICY),
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
        ("referrer-policy", "no-referrer"),
        (
            "permissions-policy",
            "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
        ),
        ("cross-origin-opener-policy", "same-origin"),
    ];
    for (name, value) in fixed {
        headers.insert(
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        );
    }
    // Unless something is meant for other pages, or kept, as the page's files are.
    let default = |headers: &mut HeaderMap, name: HeaderName, value| {
        headers
            .entry(name)
            .or_insert(HeaderValue::from_static(value));
    };
    let policy = HeaderName::from_static("cross-origin-resource-policy");
    default(headers, policy, "same-origin");
    default(headers, header::CACHE_CONTROL, "no-store");
    headers.append(header::VARY, HeaderValue::from_static("Origin"));
    if let (Page::Listed, Some(origin)) = (page, origin) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(
            header::ACCESS_CONTROL_EXPOSE_HEADERS,
            HeaderValue::from_static("retry-after, x-ai-generated"),
        );
        let policy = HeaderName::from_static("cross-origin-resource-policy");
        headers.insert(policy, HeaderValue::from_static("cross-origin"));
    }
    if state.is_stopping() {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::assets;

    #[test]
    fn routes_are_named_from_a_closed_list() {
        assert_eq!(route_of("/health"), "/health");
        assert_eq!(route_of("/v1/models/muni"), "/v1/models/{name}");
        for path in ["/wo-wohnt-frau-meier", "/v1", "/health/", "//"] {
            assert_eq!(route_of(path), "other");
        }
        for path in [
            "/",
            "/datenschutz",
            "/widget.js",
            "/page.js",
            "/page.css",
            "/favicon.svg",
        ] {
            assert!(
                assets::asset(path).is_some() && route_of(path) == path,
                "{path}"
            );
        }
    }
}
