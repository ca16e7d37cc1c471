//! Errors as responses: no database is involved.

use std::sync::Arc;
use std::time::Duration;

use atomically::http::ProblemDetails;
use atomically::testing::{constraint_error, error};
use atomically::{ConstraintKind, Error, ErrorKind};
use axum::body::to_bytes;
use axum::http::StatusCode;
use axum::response::IntoResponse as _;

/// The body, the status, and the seconds of `Retry-After`.
async fn response(error: Error) -> (serde_json::Value, u16, Option<u64>) {
    let response = error.into_response();
    assert_eq!(response.headers()["content-type"], "application/problem+json");
    assert!(response.extensions().get::<Arc<Error>>().is_some(), "no error for the log");
    let status = response.status().as_u16();
    let retry_after = response.headers().get("retry-after").map(|value| value.to_str().expect("a number"));
    let retry_after = retry_after.map(|seconds| seconds.parse().expect("a number"));
    let body = to_bytes(response.into_body(), usize::MAX).await.expect("the body");
    (serde_json::from_slice(&body).expect("JSON"), status, retry_after)
}

#[tokio::test]
async fn every_error_is_a_problem_with_its_status() {
    for kind in ErrorKind::ALL {
        let expected = (error(kind).http_status(), error(kind).retry_after().map(|wait| wait.as_secs()));
        let (body, status, retry_after) = response(error(kind)).await;
        assert_eq!((status, retry_after), expected, "{kind:?}");
        assert_eq!(body["status"], status, "{kind:?}");
        let detail = body["detail"].as_str().expect("a detail");
        assert!(!detail.is_empty() && !detail.contains(&error(kind).to_string()), "{kind:?}: {detail}");
    }
}

#[tokio::test]
async fn errors_that_are_worth_a_repetition_are_503_with_retry_after() {
    for kind in [
        ErrorKind::CommitUnknown,
        ErrorKind::Overloaded,
        ErrorKind::Exhausted,
        ErrorKind::DeadlineExceeded,
        ErrorKind::Unavailable,
    ] {
        let (_, status, retry_after) = response(error(kind)).await;
        assert_eq!((status, retry_after.is_some()), (503, true), "{kind:?}");
    }
    let (body, ..) = response(error(ErrorKind::CommitUnknown)).await;
    assert!(body["detail"].as_str().expect("a detail").contains("may have been carried out"), "{body}");
}

#[tokio::test]
async fn a_violated_constraint_is_not_named() {
    let (body, status, _) = response(constraint_error(ConstraintKind::Unique, "secret_key")).await;
    assert_eq!(status, 409);
    assert!(!body.to_string().contains("secret"), "{body}");
}

#[test]
fn retry_after_is_rounded_up_to_whole_seconds() {
    let problem = ProblemDetails::new(StatusCode::TOO_MANY_REQUESTS, "slow down");
    let response = problem.retry_after(Duration::from_millis(1500)).into_response();
    assert_eq!(
        (response.status().as_u16(), &response.headers()["retry-after"]),
        (429, &"2".parse().expect("2"))
    );
}
