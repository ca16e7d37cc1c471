//! Runs units of work that respond once for each key.

use std::future::Future;
use std::time::Duration;

use http::HeaderValue;
use http::header::{
    CACHE_CONTROL, CONTENT_LANGUAGE, CONTENT_LOCATION, CONTENT_TYPE, ETAG, HeaderName, LAST_MODIFIED, LINK,
    LOCATION,
};

use crate::backend::Backend;
use crate::error::Error;
use crate::failure::FailureKind;
use crate::idempotency::{IdempotencyExt as _, Once, Outcome};
use crate::transactor::Transactor;
use crate::tx::{Tx, UnitFn};

use super::buffered_response::{BufferedResponse, StoredResponse};
use super::keyed_request::RequestKey;
use super::refusal::Refusal;

const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// The headers that describe the response. The others describe the connection or the session.
const KEPT: [HeaderName; 8] =
    [CACHE_CONTROL, CONTENT_LANGUAGE, CONTENT_LOCATION, CONTENT_TYPE, ETAG, LAST_MODIFIED, LINK, LOCATION];

/// Adds responses to HTTP requests with idempotency keys to every [`Transactor`].
pub trait RespondExt<DB: Backend>: Transactor<DB> {
    /// Returns a builder that runs a unit of work once for this key, and sends its response to each request
    /// with the key: see [`RespondOnce`].
    fn respond_once(&self, key: &RequestKey) -> RespondOnce<'_, DB, Self> {
        let once = self.once(key.as_idempotency_key());
        RespondOnce { once, kept: KEPT.to_vec(), max_body_bytes: 1024 * 1024 }
    }
}

impl<DB: Backend, X: Transactor<DB> + ?Sized> RespondExt<DB> for X {}

/// Runs a unit of work that responds once for its key: [`RespondExt::respond_once`] returns it.
///
/// The status, the body and some of the headers of the response are stored in the transaction of the unit,
/// which has written the key first. So the effect, the key and the response are stored together or not at
/// all, wherever the server dies.
///
/// # Default
///
/// - headers that are stored: `Cache-Control`, `Content-Language`, `Content-Location`, `Content-Type`,
///   `ETag`, `Last-Modified`, `Link` and `Location` ([`keep_header`](Self::keep_header))
/// - longest body that is stored: 1 MiB ([`max_body_bytes`](Self::max_body_bytes))
/// - wait for a twin: 1 s ([`wait`](Self::wait))
/// - expiry of the key and its response: after 24 h ([`expires_after`](Self::expires_after))
#[derive(Debug)]
#[must_use = "nothing is run before `run`"]
pub struct RespondOnce<'a, DB, X: ?Sized> {
    once: Once<'a, DB, X>,
    kept: Vec<HeaderName>,
    max_body_bytes: usize,
}

impl<'a, DB: Backend, X: Transactor<DB> + ?Sized> RespondOnce<'a, DB, X> {
    /// Stores a further header of the response, so that repetitions of the request get it too. Headers that
    /// are not stored are sent with the first response only. Do not store a secret, such as a cookie.
    pub fn keep_header(mut self, name: HeaderName) -> Self {
        self.kept.push(name);
        self
    }

    /// Sets the length of the longest body that is stored. The default is 1 MiB. A longer one rolls the unit
    /// back, and the request is [refused](Refusal::ResponseTooLarge).
    pub fn max_body_bytes(mut self, max: usize) -> Self {
        self.max_body_bytes = max;
        self
    }

    /// Sets how long to wait for a twin before refusing a request, like [`Once::wait`]. The default is 1 s.
    pub fn wait(mut self, limit: Duration) -> Self {
        self.once = self.once.wait(limit);
        self
    }

    /// Sets how long the key and its response are kept, like [`Once::expires_after`]. The default is 24 h.
    pub fn expires_after(mut self, life: Duration) -> Self {
        self.once = self.once.expires_after(life);
        self
    }

    /// Runs the closure, unless it has committed for this key before, and returns the response: that of the
    /// closure with `Idempotency-Replayed: false`, or the stored one with `Idempotency-Replayed: true`.
    ///
    /// # Which responses are stored?
    ///
    /// | the closure returns | effect | response |
    /// |---|---|---|
    /// | `Ok` with 2xx, 3xx or 4xx | committed | stored |
    /// | `Ok` with 408, 425, 429 or 5xx | rolled back | sent once; the request may succeed later |
    /// | `Err` | rolled back | that of the error; the request may succeed later |
    ///
    /// A final refusal of the application, such as a declined card, is an `Ok` with its 4xx status: every
    /// repetition of the request gets it. What the closure has written until then is committed with it, so
    /// refuse before you write, or write in a [savepoint](Tx::savepoint).
    ///
    /// # Errors
    ///
    /// Returns the closure's own error; [`Refusal::InProgress`], [`Refusal::Mismatch`] or
    /// [`Refusal::ResponseTooLarge`]; or this crate's error, which may be a
    /// [`KeyError`](crate::idempotency::KeyError).
    ///
    /// On SQLite, all writers wait for the same lock. A request that could not write in time is refused as
    /// [`InProgress`](Refusal::InProgress), because it may have waited for its twin.
    ///
    /// # Panics
    ///
    /// If the closure panics, and outside a Tokio runtime. In both cases neither the key nor an effect is
    /// stored.
    ///
    /// # Cancellation
    ///
    /// The future can be dropped at any time, for example because the client has closed its connection. A
    /// COMMIT that was sent is finished in the background; sending the same request again reveals the
    /// outcome.
    #[track_caller]
    pub fn run<F, E>(
        self,
        unit: F,
    ) -> impl Future<Output = Result<BufferedResponse, E>> + Send + use<'a, DB, X, F, E>
    where
        F: UnitFn<DB, BufferedResponse, E>,
        E: From<Error> + From<Refusal> + Send,
    {
        let Self { once, kept, max_body_bytes } = self;
        let run = once.run(async move |tx: &mut Tx<DB>| {
            let response = unit.clone()(tx).await.map_err(NotCommitted::Failed)?;
            if response.is_temporary() {
                return Err(NotCommitted::Temporary(response));
            }
            if response.body().len() > max_body_bytes {
                return Err(NotCommitted::Failed(Refusal::ResponseTooLarge(max_body_bytes).into()));
            }
            Ok(StoredResponse { response, kept: kept.clone() })
        });
        async move {
            match run.await {
                Ok(Outcome::Fresh(stored)) => Ok(marked(stored.response, "false")),
                Ok(Outcome::Replayed(stored)) => Ok(marked(stored.response, "true")),
                Ok(Outcome::InProgress) => Err(Refusal::InProgress.into()),
                Ok(Outcome::Mismatch) => Err(Refusal::Mismatch.into()),
                Err(NotCommitted::Temporary(response)) => Ok(response),
                Err(NotCommitted::Failed(error)) => Err(error),
                Err(NotCommitted::Database(error)) if is_busy(&error) => Err(Refusal::InProgress.into()),
                Err(NotCommitted::Database(error)) => Err(error.into()),
            }
        }
    }
}

/// Why a unit was rolled back.
enum NotCommitted<E> {
    /// It returned a response that must not be stored.
    Temporary(BufferedResponse),
    /// It returned an error.
    Failed(E),
    /// The run failed.
    Database(Error),
}

impl<E> From<Error> for NotCommitted<E> {
    fn from(error: Error) -> Self {
        Self::Database(error)
    }
}

fn marked(mut response: BufferedResponse, is_replayed: &'static str) -> BufferedResponse {
    response.headers_mut().insert(REPLAYED, HeaderValue::from_static(is_replayed));
    response
}

/// Whether SQLite had another writer until the time was up.
fn is_busy(error: &Error) -> bool {
    error.failure().is_some_and(|failure| failure.kind() == FailureKind::Busy)
}
