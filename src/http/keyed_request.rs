use bytes::Bytes;
use http::Uri;
use http::header::CONTENT_TYPE;
use http::request::Parts;
use serde::de::DeserializeOwned;
use sha2::{Digest as _, Sha256};

use crate::idempotency::{IdempotencyKey, InvalidKey};

use super::key_header::key_of;
use super::refusal::Refusal;

/// A request with an `Idempotency-Key`, and its body.
///
/// The key is a string of structured fields (`"8e03978e"`, in double quotes), as the IETF's draft for the
/// header has it, or the same without quotes. It has 1 to 255 printable ASCII characters.
///
/// [`for_caller`](Self::for_caller) returns the key in the scope of a caller, which is what
/// [`respond_once`](super::RespondExt::respond_once) requires.
///
/// With the feature `axum`, this is an extractor. It reads bodies up to axum's `DefaultBodyLimit`, which is
/// 2 MB unless the router sets another one, and rejects with [`ProblemDetails`](super::ProblemDetails).
#[derive(Debug, Clone)]
pub struct KeyedRequest {
    key: String,
    fingerprint: [u8; 32],
    body: Bytes,
}

/// The idempotency key of a request, in the scope of its caller, with a fingerprint of the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestKey(IdempotencyKey);

impl KeyedRequest {
    /// Reads the key from the head of a request, and computes the fingerprint of the request: a hash of its
    /// method, path, query, content type and body. The same key with another fingerprint is a
    /// [mismatch](Refusal::Mismatch).
    ///
    /// Limit the size of the body when you read it from the network as well: a body that is longer than
    /// `max_body_bytes` is refused here, but it is in memory already.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no key, if it is not valid, and if the body is too long.
    pub fn new(head: &Parts, body: impl Into<Bytes>, max_body_bytes: usize) -> Result<Self, Refusal> {
        let body = body.into();
        if body.len() > max_body_bytes {
            return Err(Refusal::BodyTooLarge(max_body_bytes));
        }
        Self::at(&head.uri, head, body)
    }

    /// Like [`new`](Self::new), with the URI that the client requested: a router may have removed a prefix
    /// from the URI of the head.
    pub(super) fn at(uri: &Uri, head: &Parts, body: Bytes) -> Result<Self, Refusal> {
        let key = key_of(&head.headers)?;
        Ok(Self { key, fingerprint: fingerprint(uri, head, &body), body })
    }

    /// Returns the key of this request in the scope of a caller.
    ///
    /// The caller is the user or tenant that the server has authenticated, never what the request claims to
    /// be. Two callers may use the same key for different requests, and none of them gets the response of the
    /// other. If one service has several hosts, include the host.
    ///
    /// # Errors
    ///
    /// Returns [`Refusal::EmptyCaller`] if the caller is empty: usually a caller that was not authenticated.
    pub fn for_caller(&self, caller: impl AsRef<[u8]>) -> Result<RequestKey, Refusal> {
        match caller.as_ref() {
            [] => Err(Refusal::EmptyCaller),
            caller => Ok(RequestKey(key_in(caller, &self.key)?.request(self.fingerprint))),
        }
    }

    /// Returns the key of this request in a scope that all callers share, for a service without callers: any
    /// client that sends this request with this key gets its response.
    ///
    /// # Errors
    ///
    /// Returns an error if the key is not valid.
    pub fn for_any_caller(&self) -> Result<RequestKey, Refusal> {
        Ok(RequestKey(key_in(b"", &self.key)?.request(self.fingerprint)))
    }

    /// Returns the key as the client has chosen it, without quotes.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Returns the body of the request.
    #[must_use]
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// Deserializes the body as JSON, whatever its content type.
    ///
    /// # Errors
    ///
    /// Returns [`Refusal::InvalidBody`].
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Refusal> {
        serde_json::from_slice(&self.body).map_err(|error| Refusal::InvalidBody(error.to_string()))
    }
}

impl RequestKey {
    /// Returns the key for the functions of [`idempotency`](crate::idempotency): to find or release it, or
    /// to run part of a unit once.
    #[must_use]
    pub const fn as_idempotency_key(&self) -> &IdempotencyKey {
        &self.0
    }
}

fn key_in(scope: &[u8], key: &str) -> Result<IdempotencyKey, Refusal> {
    IdempotencyKey::new(scope, key).map_err(|error| match error {
        InvalidKey::Empty => Refusal::EmptyKey,
        InvalidKey::TooLong(bytes) => Refusal::KeyTooLong(bytes),
    })
}

/// Hashes what makes two requests the same. Processes of different versions share the table of keys, so the
/// result must never change.
fn fingerprint(uri: &Uri, head: &Parts, body: &[u8]) -> [u8; 32] {
    let mut digest = Sha256::new();
    let mut part = |bytes: &[u8]| {
        // The length separates each part from the next one.
        digest.update((bytes.len() as u64).to_le_bytes());
        digest.update(bytes);
    };
    part(head.method.as_str().as_bytes());
    part(uri.path().as_bytes());
    part(uri.query().unwrap_or_default().as_bytes());
    part(head.headers.get(CONTENT_TYPE).map_or(&[], |value| value.as_bytes()));
    part(body);
    digest.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_are_stable() {
        let request = http::Request::post("/orders?dry=1").header(CONTENT_TYPE, "text/plain").body(());
        let (head, ()) = request.expect("a request").into_parts();
        assert_eq!(fingerprint(&head.uri, &head, b"tea")[..4], [239, 124, 137, 107]);
    }
}
