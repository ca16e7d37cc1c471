//! A service as an existing sqlx code base would be, moved to this crate: helpers over connections and
//! executors, traits with async functions, an error enum of its own, and one transactor in axum's state.

#![allow(dead_code, reason = "the support code is that of all test binaries")]

mod api;
mod bridges;
mod client;
mod orders;
mod peers;
mod repository;
mod shop;
#[path = "../support/mod.rs"]
mod support;
mod troubles;

use std::sync::Arc;

use atomically::Transactor;
use axum::Router;
use sqlx::{PgPool, Postgres};

use repository::{Stock, StockTable};
use shop::Shop;
use support::{TestBackend as _, TestPool};

/// A database with two products, ten of each in stock.
async fn shop_database(connections: u32) -> TestPool<Postgres> {
    let pool = Postgres::pool(connections).await;
    let schema = "CREATE TABLE product (
            id BIGINT PRIMARY KEY,
            stock BIGINT NOT NULL CONSTRAINT stock_is_not_negative CHECK (stock >= 0),
            version BIGINT NOT NULL DEFAULT 0
        );
        CREATE TABLE orders (
            id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            product BIGINT NOT NULL REFERENCES product,
            quantity BIGINT NOT NULL
        );
        CREATE TABLE journal (text TEXT NOT NULL CONSTRAINT note_is_new UNIQUE);
        INSERT INTO product VALUES (1, 10), (2, 10);";
    sqlx::raw_sql(schema).execute(&pool.pool).await.expect("a schema");
    pool
}

/// The service on a transactor whose type it does not know.
fn service(db: impl Transactor<Postgres> + 'static) -> Router {
    service_with(db, StockTable)
}

fn service_with(db: impl Transactor<Postgres> + 'static, stock: impl Stock) -> Router {
    let db: Arc<dyn Transactor<Postgres>> = Arc::new(db);
    api::router(Shop::new(db, stock))
}

async fn stock_and_orders(pool: &PgPool) -> (i64, i64) {
    sqlx::query_as("SELECT (SELECT stock FROM product WHERE id = 1), (SELECT COUNT(*) FROM orders)")
        .fetch_one(pool)
        .await
        .expect("the stock and the orders")
}
