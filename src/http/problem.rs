use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};

use crate::error::{Error, ErrorKind};

use super::refusal::Refusal;

const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");

/// How long a client should wait before it sends a request again.
const RETRY: Duration = Duration::from_secs(1);

/// The problem details of a response that reports an error, as in
/// [RFC 9457](https://www.rfc-editor.org/rfc/rfc9457): `application/problem+json`.
///
/// Neither the response nor the text of this value contains SQL, names of the schema or values of the
/// database. [`cause`](Self::cause) returns the error for the log.
///
/// It can be the error type of a handler and its unit of work: `?` converts [`Error`], [`sqlx::Error`] and
/// [`Refusal`].
///
/// A [`Refusal`] has [its own status](Refusal::status), with `Retry-After` for a 409. An [`Error`] has its
/// [`http_status`](Error::http_status) and [`retry_after`](Error::retry_after).
#[derive(Debug, Clone)]
pub struct ProblemDetails {
    status: StatusCode,
    detail: Cow<'static, str>,
    retry_after: Option<Duration>,
    cause: Option<Arc<Error>>,
}

impl ProblemDetails {
    /// Creates problem details with a text for the client.
    #[must_use]
    pub fn new(status: StatusCode, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { status, detail: detail.into(), retry_after: None, cause: None }
    }

    /// Sets after how long the client should send the request again. Responses have whole seconds, rounded
    /// up.
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// Returns the status code.
    #[must_use]
    pub const fn status(&self) -> StatusCode {
        self.status
    }

    /// Returns the error of the crate that this reports, for the log.
    #[must_use]
    pub const fn cause(&self) -> Option<&Arc<Error>> {
        self.cause.as_ref()
    }

    /// Returns the response. It has the [cause](Self::cause) as an extension, of type `Arc<Error>`, for a
    /// layer that logs it.
    #[must_use]
    pub fn into_response(self) -> Response<Bytes> {
        let body = serde_json::json!({
            "title": self.status.canonical_reason(),
            "status": self.status.as_u16(),
            "detail": self.detail,
        });
        let mut response = Response::new(Bytes::from(body.to_string()));
        *response.status_mut() = self.status;
        response.headers_mut().insert(CONTENT_TYPE, PROBLEM_JSON);
        if let Some(wait) = self.retry_after {
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(cause) = self.cause {
            response.extensions_mut().insert(cause);
        }
        response
    }
}

impl fmt::Display for ProblemDetails {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl std::error::Error for ProblemDetails {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.cause.as_ref().map(|cause| &**cause as _)
    }
}

impl From<Refusal> for ProblemDetails {
    fn from(refusal: Refusal) -> Self {
        let status = refusal.status();
        let problem = match refusal {
            // Defects of the program are not for the client.
            Refusal::EmptyCaller | Refusal::ResponseTooLarge(_) => Self::new(status, detail_of(status)),
            refusal => Self::new(status, refusal.to_string()),
        };
        if status == StatusCode::CONFLICT { problem.retry_after(RETRY) } else { problem }
    }
}

impl From<Error> for ProblemDetails {
    fn from(error: Error) -> Self {
        let status = StatusCode::from_u16(error.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let detail = match error.kind() {
            ErrorKind::CommitUnknown => {
                "the outcome of the request is unknown: it may have been carried out; if it has an \
                 Idempotency-Key, send it again with the same key"
            }
            _ => detail_of(status),
        };
        let retry_after = error.retry_after();
        Self { status, detail: detail.into(), retry_after, cause: Some(Arc::new(error)) }
    }
}

impl From<sqlx::Error> for ProblemDetails {
    fn from(error: sqlx::Error) -> Self {
        Error::from(error).into()
    }
}

/// The text for the client, if the error itself is not for it.
fn detail_of(status: StatusCode) -> &'static str {
    match status {
        StatusCode::SERVICE_UNAVAILABLE => "the service is busy; send the request again later",
        StatusCode::CONFLICT => "the request conflicts with another one or with what is stored",
        StatusCode::UNPROCESSABLE_ENTITY => "the request contains values that are not acceptable",
        StatusCode::NOT_FOUND => "there is no such resource",
        _ => "the request could not be served",
    }
}
