//! The shop over HTTP.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::http::header::RETRY_AFTER;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};

use atomically::{ConstraintKind, Error};

use crate::repository::Stock;
use crate::shop::{Shop, ShopError};

type Shared<S> = State<Arc<Shop<S>>>;

pub(crate) fn router<S: Stock>(shop: Shop<S>) -> Router {
    Router::new()
        .route("/orders", post(order::<S>))
        .route("/products/{id}", get(show::<S>).put(restock::<S>))
        .route("/notes", post(note::<S>))
        .with_state(Arc::new(shop))
}

async fn order<S: Stock>(
    State(shop): Shared<S>,
    Json(wanted): Json<Value>,
) -> Result<(StatusCode, Json<Value>), ShopError> {
    let order = shop.order(integer(&wanted, "product"), integer(&wanted, "quantity")).await?;
    Ok((StatusCode::CREATED, Json(json!({ "order": order }))))
}

async fn show<S: Stock>(State(shop): Shared<S>, Path(id): Path<i64>) -> Result<Json<Value>, ShopError> {
    let product = shop.product(id).await?;
    Ok(Json(json!({ "stock": product.stock })))
}

async fn restock<S: Stock>(
    State(shop): Shared<S>,
    Path(id): Path<i64>,
    Json(wanted): Json<Value>,
) -> Result<StatusCode, ShopError> {
    shop.restock(id, integer(&wanted, "stock"), wanted["note"].as_str().unwrap_or_default()).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn note<S: Stock>(State(shop): Shared<S>, text: String) -> Result<StatusCode, ShopError> {
    shop.note(&text).await?;
    Ok(StatusCode::CREATED)
}

fn integer(body: &Value, name: &str) -> i64 {
    body[name].as_i64().unwrap_or_default()
}

impl IntoResponse for ShopError {
    fn into_response(self) -> Response {
        let status = match &self {
            Self::SoldOut(_) => StatusCode::CONFLICT,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::Transaction(error) => status_of(error),
        };
        let detail = match &self {
            // The texts of the database are for the log.
            Self::Transaction(_) => status.canonical_reason().unwrap_or_default().to_owned(),
            _ => self.to_string(),
        };
        let mut response = (status, Json(json!({ "detail": detail }))).into_response();
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(RETRY_AFTER, axum::http::HeaderValue::from_static("1"));
        }
        response
    }
}

fn status_of(error: &Error) -> StatusCode {
    match error.constraint().map(|constraint| constraint.kind) {
        Some(ConstraintKind::Check | ConstraintKind::NotNull) => StatusCode::UNPROCESSABLE_ENTITY,
        Some(_) => StatusCode::CONFLICT,
        None if may_succeed_later(error) => StatusCode::SERVICE_UNAVAILABLE,
        None => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn may_succeed_later(error: &Error) -> bool {
    error.is_exhausted()
        || error.is_deadline_exceeded()
        || error.is_unavailable()
        || error.is_overloaded()
        || error.is_conflict()
        || error.is_lock_timeout()
        || error.is_commit_unknown()
}
