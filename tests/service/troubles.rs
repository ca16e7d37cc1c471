//! Requests that fail, and what the client is told.

use std::time::{Duration, Instant};

use atomically::testing::{Fault, Faults, Moment};
use atomically::{Optimistic, Options, Pessimistic, Serializable, TransactorExt as _};
use axum::http::Method;
use serde_json::json;
use sqlx::{Connection as _, PgPool, Postgres};

use crate::client::send;
use crate::repository::{self, note_if_possible};
use crate::support::{TestBackend as _, eventually};
use crate::{service, shop_database, stock_and_orders};

const SHORT: Duration = Duration::from_millis(400);

/// What sqlx waits for a connection by default.
const POOL_DEFAULT: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_refused_order_stores_nothing() {
    let pool = shop_database(2).await;
    let shop = service(Pessimistic::default().on(&pool));
    let answer = send(&shop, Method::POST, "/orders", json!({ "product": 1, "quantity": 11 })).await;
    assert_eq!((answer.status, answer.body.contains("only 10 in stock")), (409, true), "{answer:?}");
    let answer = send(&shop, Method::POST, "/orders", json!({ "product": 2, "quantity": 11 })).await;
    assert_eq!(answer.status, 409, "{answer:?}");
    assert_eq!(stock_and_orders(&pool).await, (10, 0), "the order was written before the refusal");
    let answer = send(&shop, Method::GET, "/products/3", json!(null)).await;
    assert_eq!((answer.status, answer.retry_after), (404, None));
}

#[tokio::test]
async fn a_violated_constraint_is_the_fault_of_the_client() {
    let pool = shop_database(2).await;
    let shop = service(Pessimistic::default().on(&pool));
    let answer = send(&shop, Method::PUT, "/products/1", json!({ "stock": -1, "note": "a" })).await;
    assert_eq!(answer.status, 422, "a CHECK: {answer:?}");
    // The violation happens in a helper that returns `sqlx::Error`, on the connection itself.
    assert_eq!(send(&shop, Method::POST, "/notes", json!("counted")).await.status, 201);
    let answer = send(&shop, Method::POST, "/notes", json!("counted")).await;
    assert_eq!(answer.status, 409, "a unique key: {answer:?}");
    let answer = send(&shop, Method::POST, "/orders", json!({ "product": 7, "quantity": 1 })).await;
    assert_eq!(answer.status, 409, "a foreign key: {answer:?}");
    assert!(!answer.body.contains("orders"), "the names of tables are for the log: {answer:?}");
}

#[tokio::test]
async fn a_locked_row_is_a_503() {
    let pool = shop_database(2).await;
    let shop = service(Pessimistic::default().on(&pool).deadline(SHORT));
    let mut other = sqlx::PgConnection::connect(&pool.url).await.expect("a connection");
    let mut locked = other.begin().await.expect("a transaction");
    repository::overwrite_stock(&mut *locked, 1, 5).await.expect("a lock");

    let answer = send(&shop, Method::PUT, "/products/1", json!({ "stock": 7, "note": "a" })).await;
    assert_eq!((answer.status, answer.retry_after.as_deref()), (503, Some("1")), "{}", answer.body);
    locked.rollback().await.expect("a rollback");
    let patient = service(Pessimistic::default().on(&pool));
    let answer = send(&patient, Method::PUT, "/products/1", json!({ "stock": 7, "note": "a" })).await;
    assert_eq!(answer.status, 204, "{answer:?}");
    assert_eq!(stock_and_orders(&pool).await, (7, 0));
}

/// On the pool, the same read would wait for 30 s.
#[tokio::test]
async fn a_read_without_a_free_connection_is_a_503_at_its_deadline() {
    let pool = shop_database(1).await;
    let reads = Optimistic::default().on(&pool).options(Options::new().read_only().deadline(SHORT));
    let shop = service(reads);
    let _held = pool.acquire().await.expect("the only connection");
    assert_eq!(pool.options().get_acquire_timeout(), POOL_DEFAULT);

    let begin = Instant::now();
    let answer = send(&shop, Method::GET, "/products/1", json!(null)).await;
    assert_eq!((answer.status, answer.retry_after.is_some()), (503, true), "{answer:?}");
    assert!(begin.elapsed() < POOL_DEFAULT / 2, "{:?}", begin.elapsed());
}

/// axum drops the future of a handler when its client disconnects.
#[tokio::test]
async fn a_client_that_disconnects_leaves_nothing_behind() {
    let pool = shop_database(2).await;
    let shop = service(Pessimistic::default().on(&pool));
    let mut other = sqlx::PgConnection::connect(&pool.url).await.expect("a connection");
    let mut locked = other.begin().await.expect("a transaction");
    repository::overwrite_stock(&mut *locked, 1, 5).await.expect("a lock");

    let request = send(&shop, Method::POST, "/orders", json!({ "product": 1, "quantity": 1 }));
    assert!(tokio::time::timeout(SHORT, request).await.is_err(), "the row is locked");
    locked.rollback().await.expect("a rollback");
    eventually(0, async || Postgres::open_transactions(&pool).await).await;
    assert_eq!(stock_and_orders(&pool).await, (10, 0));
}

/// The helper ignores the error of a note, and the database ends the transaction because of it.
#[tokio::test]
async fn an_ignored_error_is_never_a_success() {
    let pool = shop_database(2).await;
    let shop = service(Pessimistic::default().on(&pool));
    assert_eq!(send(&shop, Method::POST, "/notes", json!("counted")).await.status, 201);
    let answer = send(&shop, Method::PUT, "/products/1", json!({ "stock": 7, "note": "counted" })).await;
    assert_eq!(answer.status, 500, "{answer:?}");
    assert_eq!(stock_and_orders(&pool).await, (10, 0));

    // As the code was before: a success, and nothing is stored.
    restock_as_before(&pool, 7, "counted").await.expect("this is what sqlx reports");
    assert_eq!(stock_and_orders(&pool).await, (10, 0));
}

async fn restock_as_before(pool: &PgPool, stock: i64, note: &str) -> Result<(), sqlx::Error> {
    let mut tx = pool.begin().await?;
    repository::overwrite_stock(&mut *tx, 1, stock).await?;
    note_if_possible(&mut tx, note).await?;
    tx.commit().await
}

/// `return Ok(false)` used to roll back, because the transaction was dropped.
#[tokio::test]
async fn an_early_ok_commits_what_was_written_before() {
    async fn before(pool: &PgPool) -> Result<bool, sqlx::Error> {
        let mut tx = pool.begin().await?;
        repository::overwrite_stock(&mut *tx, 1, 0).await?;
        if repository::find_product(&mut *tx, 3).await?.is_none() {
            return Ok(false);
        }
        tx.commit().await?;
        Ok(true)
    }
    let pool = shop_database(2).await;
    assert!(!before(&pool).await.expect("nothing fails"));
    assert_eq!(stock_and_orders(&pool).await.0, 10, "rolled back");

    let db = Pessimistic::default().on(&pool);
    let moved = db
        .run(async |tx| {
            repository::overwrite_stock(&mut *tx, 1, 0).await?;
            Ok::<_, sqlx::Error>(repository::find_product(&mut *tx, 3).await?.is_some())
        })
        .await;
    assert!(!moved.expect("nothing fails"));
    assert_eq!(stock_and_orders(&pool).await.0, 0, "committed");
}

/// No mock is needed to see how the service behaves when the database fails.
#[tokio::test]
async fn faults_reach_the_service_through_its_transactor() {
    let pool = shop_database(2).await;
    let faults = Faults::new()
        .at(Moment::Statement(1), Fault::ConnectionLost)
        .at(Moment::Commit, Fault::SerializationFailure);
    let shop = service(Serializable::default().on(&pool).options(faults.options()));
    let answer = send(&shop, Method::POST, "/orders", json!({ "product": 1, "quantity": 1 })).await;
    assert_eq!((answer.status, faults.pending()), (201, 0), "{answer:?}");
    assert_eq!(stock_and_orders(&pool).await, (9, 1));

    let faults = Faults::new().at(Moment::Commit, Fault::SerializationFailure);
    let shop = service(Serializable::default().on(&pool).attempts(1).options(faults.options()));
    let answer = send(&shop, Method::POST, "/orders", json!({ "product": 1, "quantity": 1 })).await;
    assert_eq!((answer.status, answer.retry_after.as_deref()), (503, Some("1")), "{answer:?}");
    assert_eq!(stock_and_orders(&pool).await, (9, 1));

    let faults = Faults::new().at(Moment::Commit, Fault::AnswerLost);
    let shop = service(Serializable::default().on(&pool).options(faults.options()));
    let answer = send(&shop, Method::POST, "/orders", json!({ "product": 1, "quantity": 1 })).await;
    assert_eq!((answer.status, faults.pending()), (503, 0), "{answer:?}");
    assert_eq!(stock_and_orders(&pool).await, (8, 2), "stored, and only the client does not know");
}
