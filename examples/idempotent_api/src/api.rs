//! The routes, and the responses to requests.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use atomically::http::{
    BufferedResponse, EntityTag, IfMatch, KeyedRequest, ProblemDetails, Refusal, RespondExt as _,
};
use atomically::{Error, Pessimistic, PoolTransactor, TransactorExt as _, Tx};
use axum::Router;
use axum::body::Bytes;
use axum::extract::{FromRequestParts, Path, State};
use axum::http::StatusCode;
use axum::http::header::{AUTHORIZATION, ETAG, LOCATION};
use axum::http::request::Parts;
use axum::middleware::map_response;
use axum::response::Response;
use axum::routing::{get, post};

use crate::orders::{Order, OrderStore, RowAccess, Wanted};

pub(crate) type Db<DB> = PoolTransactor<DB, Pessimistic>;

/// The state that all requests share.
pub(crate) struct Orders<DB: OrderStore> {
    pub(crate) db: Db<DB>,
    /// How long the response to a request is kept for repetitions of the request.
    pub(crate) keep: Duration,
}

pub(crate) fn router<DB: OrderStore>(orders: Orders<DB>) -> Router {
    Router::new()
        .route("/orders", post(place::<DB>))
        .route("/orders/{id}", get(show::<DB>).put(change::<DB>))
        .layer(map_response(log_error))
        .with_state(Arc::new(orders))
}

/// Whom a key belongs to. A service with a login verifies here who it is; this example believes the header.
struct Customer(String);

impl<S: Sync> FromRequestParts<S> for Customer {
    type Rejection = Infallible;

    async fn from_request_parts(head: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let customer = head.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        Ok(Self(customer.filter(|text| !text.is_empty()).unwrap_or("anonymous").to_owned()))
    }
}

/// POST: stores one order for each key, and returns the same response each time.
async fn place<DB: OrderStore>(
    State(orders): State<Arc<Orders<DB>>>,
    Customer(customer): Customer,
    request: KeyedRequest,
) -> Result<BufferedResponse, ProblemDetails> {
    let wanted: Wanted = request.json()?;
    orders
        .db
        .respond_once(&request.for_caller(customer)?)
        .expires_after(orders.keep)
        .run(async |tx: &mut Tx<DB>| -> Result<BufferedResponse, ProblemDetails> {
            let id = DB::insert(tx, &wanted).await?;
            let Wanted { item, quantity } = wanted;
            let response = response(StatusCode::CREATED, &Order { id, item, quantity, version: 1 })?;
            Ok(response.header(LOCATION, format!("/orders/{id}"))?)
        })
        .await
}

async fn show<DB: OrderStore>(
    State(orders): State<Arc<Orders<DB>>>,
    Path(id): Path<i64>,
) -> Result<BufferedResponse, ProblemDetails> {
    let find = async |tx: &mut Tx<DB>| -> Result<Order, ProblemDetails> {
        DB::find(tx, id, RowAccess::Show).await?.ok_or_else(no_such_order)
    };
    Ok(response(StatusCode::OK, &orders.db.run(find).await?)?)
}

/// PUT: changes the order if it still has the version that the client read. It needs no key: a repetition is
/// refused.
async fn change<DB: OrderStore>(
    State(orders): State<Arc<Orders<DB>>>,
    Path(id): Path<i64>,
    if_match: IfMatch,
    body: Bytes,
) -> Result<BufferedResponse, ProblemDetails> {
    let wanted: Wanted =
        serde_json::from_slice(&body).map_err(|error| Refusal::InvalidBody(error.to_string()))?;
    let change = async |tx: &mut Tx<DB>| -> Result<Order, ProblemDetails> {
        let found = DB::find(tx, id, RowAccess::Change).await?.ok_or_else(no_such_order)?;
        if_match.check(found.version)?;
        let Wanted { item, quantity } = wanted;
        let order = Order { id, item, quantity, version: found.version + 1 };
        let changed = DB::update(tx, &order).await?;
        tx.expect_one(changed)?;
        Ok(order)
    };
    Ok(response(StatusCode::OK, &orders.db.run(change).await?)?)
}

fn response(status: StatusCode, order: &Order) -> Result<BufferedResponse, Error> {
    let tag = EntityTag::of_version(order.version);
    BufferedResponse::json(status, order)?.header(ETAG, tag.header_value())
}

fn no_such_order() -> ProblemDetails {
    ProblemDetails::new(StatusCode::NOT_FOUND, "there is no such order")
}

/// Logs the database error that a response stands for. The response itself does not show it.
async fn log_error(response: Response) -> Response {
    if let Some(error) = response.extensions().get::<Arc<Error>>() {
        let (status, error) = (response.status().as_u16(), &**error as &dyn std::error::Error);
        tracing::error!(status, error, "database error");
    }
    response
}
