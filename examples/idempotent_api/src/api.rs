//! The routes, and the responses to requests.

use std::time::Duration;

use atomically::idempotency::{IdempotencyExt as _, IdempotencyKey, InvalidKey, Outcome};
use atomically::{Error, Pessimistic, PoolTransactor, TransactorExt as _, Tx};
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::header::{CONTENT_TYPE, ETAG, IF_MATCH, LOCATION, RETRY_AFTER};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::Sqlite;

pub(crate) type Db = PoolTransactor<Sqlite, Pessimistic>;

/// The state that all requests share.
#[derive(Clone)]
pub(crate) struct Orders {
    pub(crate) db: Db,
    /// How long the response to a request is kept for repetitions of the request.
    pub(crate) keep: Duration,
}

pub(crate) async fn router(orders: Orders) -> Result<Router, Error> {
    let db = &orders.db;
    db.create_key_table().await?;
    db.run(async |tx| {
        let table = "CREATE TABLE IF NOT EXISTS orders (
            id INTEGER PRIMARY KEY, item TEXT NOT NULL, quantity INTEGER NOT NULL,
            version INTEGER NOT NULL DEFAULT 1
        )";
        sqlx::query(table).execute(&mut *tx).await?;
        Ok::<_, Error>(())
    })
    .await?;
    Ok(Router::new()
        .route("/orders", post(place))
        .route("/orders/{id}", get(show).put(change))
        .with_state(orders))
}

/// The body of a request.
#[derive(Debug, Clone, Deserialize)]
struct Wanted {
    item: String,
    quantity: i64,
}

/// The body of a response, which is kept for repetitions of the request.
#[derive(Debug, Clone, Serialize, Deserialize, sqlx::FromRow)]
struct Order {
    id: i64,
    item: String,
    quantity: i64,
    version: i64,
}

/// POST: stores one order for each key, and returns the same response each time.
async fn place(State(orders): State<Orders>, headers: HeaderMap, body: Bytes) -> Result<Response, Refusal> {
    let key = headers.get("Idempotency-Key").ok_or(Refusal::NoKey)?;
    // With a login, the scope would include the user.
    let key = IdempotencyKey::new("POST /orders", key)?.request(&body);
    let wanted: Wanted = serde_json::from_slice(&body)?;
    let outcome = orders
        .db
        .once(&key)
        .expires_after(orders.keep)
        .run(async |tx| {
            let insert = "INSERT INTO orders (item, quantity) VALUES ($1, $2) RETURNING *";
            let order = sqlx::query_as(insert).bind(&wanted.item).bind(wanted.quantity);
            Ok::<Order, Error>(order.fetch_one(&mut *tx).await?)
        })
        .await;
    let (order, is_replay) = match outcome {
        Ok(Outcome::Fresh(order)) => (order, false),
        Ok(Outcome::Replayed(order)) => (order, true),
        Ok(Outcome::InProgress) => return Err(Refusal::InProgress),
        Ok(Outcome::Mismatch) => return Err(Refusal::Mismatch),
        // SQLite has one writer at a time. It may be the same request, or any other.
        Err(error) if error.is_conflict() => return Err(Refusal::InProgress),
        Err(error) => return Err(error.into()),
    };
    let headers = [
        (LOCATION, format!("/orders/{}", order.id)),
        (HeaderName::from_static("idempotency-replayed"), is_replay.to_string()),
    ];
    Ok((StatusCode::CREATED, headers, order).into_response())
}

async fn show(State(orders): State<Orders>, Path(id): Path<i64>) -> Result<Order, Refusal> {
    orders.db.run(async |tx: &mut Tx<Sqlite>| find(tx, id).await?.ok_or(Refusal::NotFound)).await
}

/// PUT: changes the order if it still has the version that the client read. It needs no key: a repetition is
/// refused.
async fn change(
    State(orders): State<Orders>,
    Path(id): Path<i64>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Order, Refusal> {
    let seen = headers.get(IF_MATCH).ok_or(Refusal::NoVersion)?;
    let version = seen.to_str().ok().and_then(version_of).ok_or(Refusal::Stale)?;
    let wanted: Wanted = serde_json::from_slice(&body)?;
    orders
        .db
        .run(async |tx: &mut Tx<Sqlite>| {
            let update = "UPDATE orders SET item = $1, quantity = $2, version = version + 1
                WHERE id = $3 AND version = $4 RETURNING *";
            let changed =
                sqlx::query_as(update).bind(&wanted.item).bind(wanted.quantity).bind(id).bind(version);
            match changed.fetch_optional(&mut *tx).await? {
                Some(order) => Ok(order),
                // Not `expect_one`: the version is the client's, so another attempt would fail as well.
                None if find(tx, id).await?.is_some() => Err(Refusal::Stale),
                None => Err(Refusal::NotFound),
            }
        })
        .await
}

async fn find(tx: &mut Tx<Sqlite>, id: i64) -> Result<Option<Order>, sqlx::Error> {
    sqlx::query_as("SELECT * FROM orders WHERE id = $1").bind(id).fetch_optional(&mut *tx).await
}

/// The version in an ETag such as `"7"`.
fn version_of(tag: &str) -> Option<i64> {
    tag.strip_prefix('"')?.strip_suffix('"')?.parse().ok()
}

impl IntoResponse for Order {
    fn into_response(self) -> Response {
        let tag = format!("\"{}\"", self.version);
        ([(ETAG, tag)], axum::Json(self)).into_response()
    }
}

/// Why a request was not served.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("an Idempotency-Key header is required")]
    NoKey,
    #[error(transparent)]
    InvalidKey(#[from] InvalidKey),
    #[error("not an order: {0}")]
    NoOrder(#[from] serde_json::Error),
    #[error("this request is being served; send it again later, with the same key")]
    InProgress,
    #[error("this Idempotency-Key was used for another request")]
    Mismatch,
    #[error("there is no such order")]
    NotFound,
    #[error("an If-Match header is required, with the ETag of the version that is to be changed")]
    NoVersion,
    #[error("the order has changed since this version")]
    Stale,
    #[error(transparent)]
    Database(#[from] Error),
}

impl From<sqlx::Error> for Refusal {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.into())
    }
}

impl Refusal {
    fn status(&self) -> StatusCode {
        match self {
            Self::NoKey | Self::InvalidKey(_) | Self::NoOrder(_) => StatusCode::BAD_REQUEST,
            Self::InProgress => StatusCode::CONFLICT,
            Self::Mismatch => StatusCode::UNPROCESSABLE_ENTITY,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::NoVersion => StatusCode::PRECONDITION_REQUIRED,
            Self::Stale => StatusCode::PRECONDITION_FAILED,
            Self::Database(error) if is_temporary(error) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Database(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The text for the client. Database errors contain SQL, names and values, which are for the log only.
    fn detail(&self, status: StatusCode) -> String {
        match self {
            Self::Database(_) if status == StatusCode::SERVICE_UNAVAILABLE => {
                "the service is busy; send the request again later".to_owned()
            }
            Self::Database(_) => "the request could not be served".to_owned(),
            refusal => refusal.to_string(),
        }
    }
}

/// Whether the same request may succeed later.
fn is_temporary(error: &Error) -> bool {
    error.is_exhausted()
        || error.is_deadline_exceeded()
        || error.is_unavailable()
        || error.is_overloaded()
        || error.is_conflict()
        || error.is_commit_unknown()
}

/// Problem details for HTTP APIs: RFC 9457.
impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = self.status();
        if let Self::Database(error) = &self {
            tracing::error!(
                status = status.as_u16(),
                error = error as &dyn std::error::Error,
                "database error"
            );
        }
        let problem = json!({
            "title": status.canonical_reason(),
            "status": status.as_u16(),
            "detail": self.detail(status),
        });
        let mut response = (status, axum::Json(problem)).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if matches!(status, StatusCode::CONFLICT | StatusCode::SERVICE_UNAVAILABLE) {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}
