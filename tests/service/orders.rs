//! Concurrent requests for one product.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use atomically::{Adaptive, Optimistic, Pessimistic, Serializable, Strategy};
use axum::http::Method;
use serde_json::json;
use sqlx::{PgConnection, Postgres};
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use crate::client::send;
use crate::repository::{Product, RepositoryError, Stock, StockTable};
use crate::support::{TestBackend as _, eventually};
use crate::{service, service_with, shop_database, stock_and_orders};

const REQUESTS: u32 = 6;

/// Lets the first attempts of all requests read before any of them writes, and counts the reads.
#[derive(Debug, Clone)]
struct Rendezvous {
    all_have_read: Arc<Barrier>,
    reads: Arc<AtomicU32>,
}

impl Stock for Rendezvous {
    async fn product(&self, conn: &mut PgConnection, id: i64) -> Result<Product, RepositoryError> {
        let product = StockTable.product(conn, id).await?;
        if self.reads.fetch_add(1, Ordering::Relaxed) < REQUESTS {
            self.all_have_read.wait().await;
        }
        Ok(product)
    }
}

async fn concurrent_orders_are_exact(strategy: impl Strategy + 'static) {
    let pool = shop_database(REQUESTS).await;
    let stock =
        Rendezvous { all_have_read: Arc::new(Barrier::new(REQUESTS as usize)), reads: Arc::default() };
    let db = atomically::PoolTransactor::new(strategy, &pool).deadline(Duration::from_secs(120));
    let shop = service_with(db, stock.clone());

    let mut requests = JoinSet::new();
    for _ in 0..REQUESTS {
        let shop = shop.clone();
        requests.spawn(async move {
            send(&shop, Method::POST, "/orders", json!({ "product": 1, "quantity": 1 })).await
        });
    }
    for answer in requests.join_all().await {
        assert_eq!(answer.status, 201, "{answer:?}");
    }

    let requests = i64::from(REQUESTS);
    assert_eq!(stock_and_orders(&pool).await, (10 - requests, requests));
    assert!(stock.reads.load(Ordering::Relaxed) > REQUESTS, "no conflict happened, so nothing was shown");
    eventually(0, async || Postgres::open_transactions(&pool).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_orders_are_exact_when_serializable() {
    concurrent_orders_are_exact(Serializable::default()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_orders_are_exact_when_optimistic() {
    concurrent_orders_are_exact(Optimistic::default()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_orders_are_exact_when_pessimistic() {
    concurrent_orders_are_exact(Pessimistic::default()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_orders_are_exact_when_adaptive() {
    concurrent_orders_are_exact(Adaptive::default()).await;
}

/// Products are sold until there are none, and the refused requests leave no order behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_is_sold_than_there_is() {
    let pool = shop_database(4).await;
    let shop = service(Serializable::default().on(&pool).deadline(Duration::from_secs(120)));
    let mut requests = JoinSet::new();
    for _ in 0..8 {
        let shop = shop.clone();
        requests.spawn(async move {
            send(&shop, Method::POST, "/orders", json!({ "product": 1, "quantity": 2 })).await.status
        });
    }
    let mut answers = requests.join_all().await;
    answers.sort_unstable();
    assert_eq!(answers, [201, 201, 201, 201, 201, 409, 409, 409]);
    assert_eq!(stock_and_orders(&pool).await, (0, 5));
}
