//! The requests, and what they are answered.

use atomically::idempotency::{IdempotencyExt as _, IdempotencyKey, InvalidKey, Outcome};
use atomically::{Error, Pessimistic, PoolTransactor, TransactorExt as _, Tx};
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::header::{ETAG, IF_MATCH, LOCATION, RETRY_AFTER};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::{Deserialize, Serialize};
use sqlx::Sqlite;

type Db = PoolTransactor<Sqlite, Pessimistic>;

pub(crate) async fn router(db: Db) -> Result<Router, Error> {
    db.create_key_table().await?;
    db.run(async |tx| {
        let table = "CREATE TABLE IF NOT EXISTS orders (
            id INTEGER PRIMARY KEY, item TEXT NOT NULL, quantity INTEGER NOT NULL, version INTEGER NOT NULL DEFAULT 1
        )";
        sqlx::query(table).execute(&mut *tx).await?;
        Ok::<_, Error>(())
    })
    .await?;
    Ok(Router::new()
        .route("/orders", post(place))
        .route("/orders/{id}", get(show).put(change))
        .with_state(db))
}

/// What a client wants.
#[derive(Debug, Clone, Deserialize)]
struct Wanted {
    item: String,
    quantity: i64,
}

/// What is answered, and kept for whoever sends the request again.
#[derive(Debug, Clone, Serialize, Deserialize, sqlx::FromRow)]
struct Order {
    id: i64,
    item: String,
    quantity: i64,
    version: i64,
}

/// POST: done once for each key, and answered the same each time.
async fn place(State(db): State<Db>, headers: HeaderMap, body: Bytes) -> Result<Response, Refusal> {
    let key = headers.get("Idempotency-Key").ok_or(Refusal::NoKey)?;
    // Behind a login, who it is would be the scope.
    let key = IdempotencyKey::new("POST /orders", key)?.request(&body);
    let wanted: Wanted = serde_json::from_slice(&body)?;
    let outcome = db
        .once(&key)
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
        // SQLite has one writer at a time, and does not say who it is: the same request, or any other.
        Err(error) if error.is_conflict() => return Err(Refusal::InProgress),
        Err(error) => return Err(error.into()),
    };
    let headers = [
        (LOCATION, format!("/orders/{}", order.id)),
        (HeaderName::from_static("idempotency-replayed"), is_replay.to_string()),
    ];
    Ok((StatusCode::CREATED, headers, order).into_response())
}

async fn show(State(db): State<Db>, Path(id): Path<i64>) -> Result<Order, Refusal> {
    db.run(async |tx: &mut Tx<Sqlite>| find(tx, id).await?.ok_or(Refusal::NotFound)).await
}

/// PUT: changes the version that the client has seen, or nothing. It needs no key: sent again, it is refused.
async fn change(
    State(db): State<Db>,
    Path(id): Path<i64>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Order, Refusal> {
    let seen = headers.get(IF_MATCH).ok_or(Refusal::NoVersion)?;
    let version = seen.to_str().ok().and_then(version_of).ok_or(Refusal::Stale)?;
    let wanted: Wanted = serde_json::from_slice(&body)?;
    db.run(async |tx: &mut Tx<Sqlite>| {
        let update =
            "UPDATE orders SET item = $1, quantity = $2, version = version + 1 WHERE id = $3 AND version = $4
                      RETURNING *";
        let changed = sqlx::query_as(update).bind(&wanted.item).bind(wanted.quantity).bind(id).bind(version);
        match changed.fetch_optional(&mut *tx).await? {
            Some(order) => Ok(order),
            // Not `expect_one`: the version is the client's, and running it again would not make it a newer one.
            None if find(tx, id).await?.is_some() => Err(Refusal::Stale),
            None => Err(Refusal::NotFound),
        }
    })
    .await
}

async fn find(tx: &mut Tx<Sqlite>, id: i64) -> Result<Option<Order>, sqlx::Error> {
    sqlx::query_as("SELECT * FROM orders WHERE id = $1").bind(id).fetch_optional(&mut *tx).await
}

/// `"7"`
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
    #[error("an Idempotency-Key is required")]
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
    #[error("If-Match is required: the ETag of the version that is to be changed")]
    NoVersion,
    #[error("the order has been changed since")]
    Stale,
    #[error(transparent)]
    Database(#[from] Error),
}

impl From<sqlx::Error> for Refusal {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.into())
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = match &self {
            Self::NoKey | Self::InvalidKey(_) | Self::NoOrder(_) => StatusCode::BAD_REQUEST,
            Self::InProgress => StatusCode::CONFLICT,
            Self::Mismatch => StatusCode::UNPROCESSABLE_ENTITY,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::NoVersion => StatusCode::PRECONDITION_REQUIRED,
            Self::Stale => StatusCode::PRECONDITION_FAILED,
            Self::Database(error) if error.is_exhausted() => StatusCode::SERVICE_UNAVAILABLE,
            Self::Database(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let mut response = (status, self.to_string()).into_response();
        if matches!(status, StatusCode::CONFLICT | StatusCode::SERVICE_UNAVAILABLE) {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}
