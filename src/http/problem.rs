use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};

use crate::error::{Error, ErrorKind};
use crate::failure::ConstraintKind;

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
/// | error | status | `Retry-After` |
/// |---|---|---|
/// | [`Refusal`] | [its status](Refusal::status) | with 409 |
/// | commit unknown, overloaded, unavailable, attempts or deadline used up | 503 | yes |
/// | connection lost, read-only server, lock or statement timeout | 503 | yes |
/// | conflict, `NOWAIT` lock | 409 | yes |
/// | stale claim | 409 | no |
/// | violated constraint: unique, exclusion, foreign key | 409 | no |
/// | violated constraint: check, not-null | 422 | no |
/// | anything else | 500 | no |
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
        let status = status_of(&error);
        let detail = match error.kind() {
            ErrorKind::CommitUnknown => {
                "the outcome of the request is unknown: it may have been carried out; if it has an \
                 Idempotency-Key, send it again with the same key"
            }
            _ => detail_of(status),
        };
        let is_temporary = match status {
            StatusCode::SERVICE_UNAVAILABLE => true,
            StatusCode::CONFLICT => {
                matches!(error.kind(), ErrorKind::Conflict | ErrorKind::LockNotAvailable)
            }
            _ => false,
        };
        let retry_after = is_temporary.then_some(RETRY);
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

fn status_of(error: &Error) -> StatusCode {
    if let Some(constraint) = error.constraint() {
        return match constraint.kind {
            ConstraintKind::NotNull | ConstraintKind::Check => StatusCode::UNPROCESSABLE_ENTITY,
            _ => StatusCode::CONFLICT,
        };
    }
    match error.kind() {
        ErrorKind::Exhausted
        | ErrorKind::DeadlineExceeded
        | ErrorKind::BudgetSpent
        | ErrorKind::Overloaded
        | ErrorKind::Unavailable
        | ErrorKind::ConnectionLost
        | ErrorKind::ReadOnly
        | ErrorKind::LockTimeout
        | ErrorKind::StatementTimeout
        | ErrorKind::CommitUnknown => StatusCode::SERVICE_UNAVAILABLE,
        ErrorKind::Conflict | ErrorKind::LockNotAvailable | ErrorKind::StaleClaim | ErrorKind::Constraint => {
            StatusCode::CONFLICT
        }
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
