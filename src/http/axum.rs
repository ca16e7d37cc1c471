//! Extractors and responses for axum.

use ::axum::body::{Body, Bytes};
use ::axum::extract::{FromRequest, FromRequestParts, OptionalFromRequestParts, OriginalUri, Request};
use ::axum::response::{IntoResponse, Response};
use ::http::StatusCode;
use ::http::request::Parts;

use crate::error::Error;

use super::buffered_response::BufferedResponse;
use super::entity_tag::IfMatch;
use super::key_header::key_of;
use super::keyed_request::KeyedRequest;
use super::problem::ProblemDetails;
use super::refusal::Refusal;

/// Reads the body up to the router's `DefaultBodyLimit`.
impl<S: Send + Sync> FromRequest<S> for KeyedRequest {
    type Rejection = ProblemDetails;

    async fn from_request(request: Request, state: &S) -> Result<Self, ProblemDetails> {
        let (mut head, body) = request.into_parts();
        // A request without a key is refused before its body is read.
        key_of(&head.headers)?;
        let Ok(OriginalUri(uri)) = OriginalUri::from_request_parts(&mut head, state).await;
        // The limit is an extension of the request.
        let body = Bytes::from_request(Request::from_parts(head.clone(), body), state).await;
        let body = body.map_err(|rejection| match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => {
                ProblemDetails::new(StatusCode::PAYLOAD_TOO_LARGE, "the body of the request is too long")
            }
            status => ProblemDetails::new(status, "the body of the request could not be read"),
        })?;
        Ok(Self::at(&uri, &head, body)?)
    }
}

/// Refuses requests without `If-Match` (428).
impl<S: Send + Sync> FromRequestParts<S> for IfMatch {
    type Rejection = Refusal;

    async fn from_request_parts(head: &mut Parts, _state: &S) -> Result<Self, Refusal> {
        Self::required(&head.headers)
    }
}

/// Is `None` for requests without `If-Match`.
impl<S: Send + Sync> OptionalFromRequestParts<S> for IfMatch {
    type Rejection = Refusal;

    async fn from_request_parts(head: &mut Parts, _state: &S) -> Result<Option<Self>, Refusal> {
        Self::optional(&head.headers)
    }
}

impl IntoResponse for BufferedResponse {
    fn into_response(self) -> Response {
        Self::into_response(self).map(Body::from)
    }
}

/// Responds with `application/problem+json`.
impl IntoResponse for ProblemDetails {
    fn into_response(self) -> Response {
        Self::into_response(self).map(Body::from)
    }
}

/// Responds with [`ProblemDetails`].
impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        IntoResponse::into_response(ProblemDetails::from(self))
    }
}

/// Responds with [`ProblemDetails`](crate::http::ProblemDetails), which contain no SQL. The error is an
/// extension of the response, of type `Arc<Error>`, for a layer that logs it.
impl IntoResponse for Error {
    fn into_response(self) -> Response {
        IntoResponse::into_response(ProblemDetails::from(self))
    }
}
