//! Requests to the service, without a network.

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{Method, Request};
use serde_json::Value;
use tower::ServiceExt as _;

/// A response.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) retry_after: Option<String>,
    pub(crate) body: String,
}

/// Sends a request with a body: JSON, or a text.
pub(crate) async fn send(service: &Router, method: Method, path: &str, body: Value) -> Answer {
    let (kind, body) = match body {
        Value::String(text) => ("text/plain", text),
        json => ("application/json", json.to_string()),
    };
    let request = Request::builder().method(method).uri(path).header(CONTENT_TYPE, kind);
    let request = request.body(Body::from(body)).expect("a request");
    let response = service.clone().oneshot(request).await.expect("a response");
    let status = response.status().as_u16();
    let retry_after = response.headers().get(RETRY_AFTER);
    let retry_after = retry_after.map(|value| value.to_str().expect("text").to_owned());
    let body = to_bytes(response.into_body(), 1 << 20).await.expect("a body");
    Answer { status, retry_after, body: String::from_utf8(body.to_vec()).expect("text") }
}
