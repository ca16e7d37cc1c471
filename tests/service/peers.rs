//! What sqlx and SeaORM do without this crate: the sources of the comparison in the README.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use atomically::{Pessimistic, TransactorExt as _};
use sea_orm::{
    ConnectionTrait as _, DatabaseConnection, DbErr, IsolationLevel, SqlxPostgresConnector,
    TransactionTrait as _,
};
use sqlx::{Connection as _, Postgres};
use tokio::time::timeout;

use crate::repository;
use crate::support::{TestBackend as _, TestPool, eventually};
use crate::{shop_database, stock_and_orders};

const OVERWRITE: &str = "UPDATE product SET stock = 5 WHERE id = 1";
const VIOLATION: &str = "UPDATE product SET stock = -1 WHERE id = 2";
const SHORT: Duration = Duration::from_secs(1);

/// Drops the unit once its update waits for the locked row.
async fn give_up_at_the_lock<E: std::fmt::Debug>(
    pool: &TestPool<Postgres>,
    unit: impl Future<Output = Result<(), E>>,
) {
    let watcher = Postgres::another(&pool.url).await;
    let waiting = "SELECT COUNT(*) FROM pg_stat_activity
        WHERE datname = current_database() AND wait_event_type = 'Lock'";
    let waiting = async || sqlx::query_scalar(waiting).fetch_one(&watcher).await.expect("a count");
    tokio::select! {
        ended = unit => panic!("the row is locked: {ended:?}"),
        () = eventually(1_i64, waiting) => {}
    }
}

#[tokio::test]
async fn sqlx_commits_an_aborted_transaction_without_an_error() {
    let pool = shop_database(1).await;
    let mut tx = pool.begin().await.expect("a transaction");
    sqlx::query(OVERWRITE).execute(&mut *tx).await.expect("an update");
    sqlx::query(VIOLATION).execute(&mut *tx).await.expect_err("a negative stock");
    tx.commit().await.expect("this is what sqlx reports");
    assert_eq!(stock_and_orders(&pool).await.0, 10, "nothing is stored");
}

/// The slot stays taken until the row is unlocked, however early the caller has given up.
#[tokio::test]
async fn sqlx_keeps_the_connection_of_a_caller_that_gave_up() {
    let pool = shop_database(1).await;
    let mut other = sqlx::PgConnection::connect(&pool.url).await.expect("a connection");
    let mut locked = other.begin().await.expect("a transaction");
    repository::overwrite_stock(&mut *locked, 1, 5).await.expect("a lock");

    let by_hand = async {
        let mut tx = pool.begin().await?;
        sqlx::query(OVERWRITE).execute(&mut *tx).await?;
        tx.commit().await
    };
    give_up_at_the_lock(&pool, by_hand).await;
    assert!(timeout(SHORT, pool.acquire()).await.is_err(), "and now the pool is used up");
    locked.rollback().await.expect("a rollback");
    timeout(Duration::from_secs(60), pool.acquire()).await.expect("in time").expect("a connection");
}

#[tokio::test]
async fn sea_orm_keeps_the_connection_of_a_caller_that_gave_up() {
    let pool = shop_database(1).await;
    let mut other = sqlx::PgConnection::connect(&pool.url).await.expect("a connection");
    let mut locked = other.begin().await.expect("a transaction");
    repository::overwrite_stock(&mut *locked, 1, 5).await.expect("a lock");

    let db = sea_orm(&pool);
    let unit = async {
        let tx = db.begin().await?;
        tx.execute_unprepared(OVERWRITE).await?;
        tx.commit().await
    };
    give_up_at_the_lock(&pool, unit).await;
    assert!(timeout(SHORT, pool.acquire()).await.is_err(), "and now the pool is used up");
    locked.rollback().await.expect("a rollback");
    timeout(Duration::from_secs(60), pool.acquire()).await.expect("in time").expect("a connection");
}

/// The same with this crate: the slot is free while the row is still locked.
#[tokio::test]
async fn a_caller_that_gave_up_does_not_keep_its_connection() {
    let pool = shop_database(1).await;
    let mut other = sqlx::PgConnection::connect(&pool.url).await.expect("a connection");
    let mut locked = other.begin().await.expect("a transaction");
    repository::overwrite_stock(&mut *locked, 1, 5).await.expect("a lock");

    let db = Pessimistic::default().on(&pool);
    let unit = db.run(async |tx| {
        sqlx::query(OVERWRITE).execute(&mut *tx).await?;
        Ok::<_, sqlx::Error>(())
    });
    give_up_at_the_lock(&pool, unit).await;
    timeout(Duration::from_secs(20), pool.acquire()).await.expect("in time").expect("a connection");
    locked.rollback().await.expect("a rollback");
}

#[tokio::test]
async fn sea_orm_commits_an_aborted_transaction_without_an_error() {
    let pool = shop_database(1).await;
    let db = sea_orm(&pool);
    let tx = db.begin().await.expect("a transaction");
    tx.execute_unprepared(OVERWRITE).await.expect("an update");
    tx.execute_unprepared(VIOLATION).await.expect_err("a negative stock");
    tx.commit().await.expect("this is what SeaORM reports");
    assert_eq!(stock_and_orders(&pool).await.0, 10, "nothing is stored");
}

/// The closure writes after another transaction has changed what it has read.
#[tokio::test]
async fn sea_orm_does_not_run_a_transaction_again() {
    let pool = shop_database(2).await;
    let db = sea_orm(&pool);
    let (attempts, other) = (Arc::new(AtomicU32::new(0)), pool.pool.clone());
    let counted = attempts.clone();
    let ended = db
        .transaction_with_config(
            move |tx| {
                Box::pin(async move {
                    counted.fetch_add(1, Ordering::Relaxed);
                    tx.execute_unprepared("SELECT stock FROM product WHERE id = 1").await?;
                    repository::overwrite_stock(&other, 1, 7).await.expect("an update of another client");
                    tx.execute_unprepared(OVERWRITE).await?;
                    Ok::<_, DbErr>(())
                })
            },
            Some(IsolationLevel::RepeatableRead),
            None,
        )
        .await;
    assert!(ended.expect_err("a conflict").to_string().contains("could not serialize access"));
    assert_eq!(attempts.load(Ordering::Relaxed), 1);
}

fn sea_orm(pool: &sqlx::PgPool) -> DatabaseConnection {
    SqlxPostgresConnector::from_sqlx_postgres_pool(pool.clone())
}
