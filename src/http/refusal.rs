use http::StatusCode;

use crate::idempotency::IdempotencyKey;

/// Why a request is refused before or instead of running its unit of work. Nothing is stored.
///
/// Each reason has a [status](Self::status) and a text for the client. Convert it into
/// [`ProblemDetails`](super::ProblemDetails) for a response, or into an error type of your own.
#[derive(Debug, Clone, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The request has no `Idempotency-Key`: 400.
    #[error("an Idempotency-Key header is required")]
    MissingKey,
    /// The request has several `Idempotency-Key` headers: 400.
    #[error("the Idempotency-Key header must not be repeated")]
    RepeatedKey,
    /// The value of `Idempotency-Key` is neither a string in double quotes nor a bare key: 400.
    #[error("the value of Idempotency-Key is not valid: send printable ASCII characters in double quotes")]
    MalformedKey,
    /// The value of `Idempotency-Key` is empty: 400.
    #[error("the value of Idempotency-Key must not be empty")]
    EmptyKey,
    /// The value of `Idempotency-Key` has this many bytes, more than [`IdempotencyKey::MAX_BYTES`]: 400.
    #[error(
        "the value of Idempotency-Key has at most {max} bytes, and this one has {0}",
        max = IdempotencyKey::MAX_BYTES
    )]
    KeyTooLong(usize),
    /// The program names no caller for a key: 500. See [`KeyedRequest::for_caller`](super::KeyedRequest).
    #[error("the caller of a request with an idempotency key is empty")]
    EmptyCaller,
    /// The body is longer than this many bytes: 413.
    #[error("the body of the request must not be longer than {0} bytes")]
    BodyTooLarge(usize),
    /// The body is not the JSON that is expected: 400. Contains the reason.
    #[error("the body of the request is not valid: {0}")]
    InvalidBody(String),
    /// Another request with this key is in progress: 409, with `Retry-After`.
    #[error("a request with this Idempotency-Key is in progress; send it again later, with the same key")]
    InProgress,
    /// The key was used for a different request: 422.
    #[error("this Idempotency-Key was used for a different request")]
    Mismatch,
    /// The response is longer than this many bytes, and was not stored: 500. See
    /// [`RespondOnce::max_body_bytes`](super::RespondOnce::max_body_bytes).
    #[error("the response is longer than {0} bytes")]
    ResponseTooLarge(usize),
    /// The request has no `If-Match`: 428.
    #[error("an If-Match header is required, with the ETag of the version that is to be changed")]
    MissingIfMatch,
    /// The value of `If-Match` is neither `*` nor a list of entity tags, so that it matches nothing: 412.
    #[error("the value of If-Match is neither * nor a list of entity tags in double quotes")]
    MalformedIfMatch,
    /// The resource does not have any of the versions that `If-Match` names: 412.
    #[error("the resource has changed since the version that If-Match names")]
    Stale,
}

impl Refusal {
    /// Returns the status code of the response.
    #[must_use]
    pub const fn status(&self) -> StatusCode {
        match self {
            Self::MissingKey
            | Self::RepeatedKey
            | Self::MalformedKey
            | Self::EmptyKey
            | Self::KeyTooLong(_)
            | Self::InvalidBody(_) => StatusCode::BAD_REQUEST,
            Self::BodyTooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::InProgress => StatusCode::CONFLICT,
            Self::Mismatch => StatusCode::UNPROCESSABLE_ENTITY,
            Self::MissingIfMatch => StatusCode::PRECONDITION_REQUIRED,
            Self::MalformedIfMatch | Self::Stale => StatusCode::PRECONDITION_FAILED,
            Self::EmptyCaller | Self::ResponseTooLarge(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}
