//! The shop over HTTP.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};

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
        let status = match self {
            Self::SoldOut(_) => StatusCode::CONFLICT,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::Transaction(error) => return error.into_response(),
        };
        (status, Json(json!({ "detail": self.to_string() }))).into_response()
    }
}
