//! Existing helpers, by what they take. The guide's table "From `pool.begin()` to `run`" has these rows;
//! those that do not compile are in `tests/ui`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use atomically::{Error, ErrorKind, Pessimistic, PoolTransactor, Serializable, TransactorExt as _, Tx};
use sqlx::{PgConnection, PgPool, Postgres};
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use crate::repository::{self, RepositoryError, Stock as _, StockTable};
use crate::{shop_database, stock_and_orders};

/// Rolls back what a helper did, and reports that it got there.
#[derive(Debug, thiserror::Error)]
enum Undone {
    #[error("rolled back")]
    OnPurpose,
    #[error(transparent)]
    Transaction(#[from] Error),
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    #[error(transparent)]
    Repository(#[from] RepositoryError),
}

#[tokio::test]
async fn helpers_over_executors_take_the_transaction() {
    let pool = shop_database(1).await;
    let db = Pessimistic::default().on(&pool);
    let undone = db
        .run(async |tx| {
            repository::insert_order(&mut *tx, 1, 1).await?;
            repository::overwrite_stock(tx, 1, 5).await?;
            Err::<(), _>(Undone::OnPurpose)
        })
        .await;
    assert!(matches!(undone, Err(Undone::OnPurpose)), "{undone:?}");
    assert_eq!(stock_and_orders(&pool).await, (10, 0));
}

#[tokio::test]
async fn helpers_over_connections_run_on_the_connection_of_the_transaction() {
    let pool = shop_database(1).await;
    let db = Pessimistic::default().on(&pool);
    let undone = db
        .run(async |tx| {
            let read = tx.on_connection(async |conn| StockTable.product(conn, 1).await).await?;
            tx.on_connection(async |conn| repository::set_stock(conn, read, 5).await).await?;
            Err::<(), _>(Undone::OnPurpose)
        })
        .await;
    assert!(matches!(undone, Err(Undone::OnPurpose)), "{undone:?}");
    assert_eq!(stock_and_orders(&pool).await, (10, 0));
}

#[tokio::test]
async fn helpers_over_acquire_run_on_the_connection_of_the_transaction() {
    let pool = shop_database(1).await;
    let db = Pessimistic::default().on(&pool);
    let count = db
        .run(async |tx| {
            repository::insert_order(&mut *tx, 1, 1).await?;
            tx.on_connection(async |conn| repository::count_orders(conn).await).await
        })
        .await;
    let count: Result<i64, sqlx::Error> = count;
    assert_eq!(count.expect("an order"), 1);
}

/// sqlx does not know that the connection is in a transaction: `begin` is no savepoint, and `commit` ends
/// the whole transaction.
#[tokio::test]
async fn a_helper_that_begins_a_transaction_is_reported() {
    let pool = shop_database(1).await;
    let db = Pessimistic::default().on(&pool);
    let error = db
        .run(async |tx: &mut Tx<Postgres>| {
            repository::overwrite_stock(&mut *tx, 1, 5).await?;
            tx.on_connection(async |conn: &mut PgConnection| {
                repository::insert_in_a_transaction(conn, 1).await
            })
            .await?;
            Ok::<_, Error>(())
        })
        .await
        .expect_err("the helper has committed the transaction of the unit");
    assert_eq!((error.kind(), error.attempts()), (ErrorKind::Aborted, Some(1)), "{error:?}");
    assert_eq!(stock_and_orders(&pool).await, (5, 1));
}

#[tokio::test]
async fn a_savepoint_takes_the_place_of_a_nested_transaction() {
    let pool = shop_database(1).await;
    let db = Pessimistic::default().on(&pool);
    let stored = db
        .run(async |tx: &mut Tx<Postgres>| {
            repository::overwrite_stock(&mut *tx, 1, 5).await?;
            let inserted = tx
                .savepoint(async |tx| {
                    repository::insert_order(&mut *tx, 7, 1).await?;
                    Ok::<_, Error>(())
                })
                .await;
            Ok::<_, Error>(inserted.is_ok())
        })
        .await;
    assert!(!stored.expect("the unit survives"), "there is no product 7");
    assert_eq!(stock_and_orders(&pool).await, (5, 0));
}

/// It compiles, and runs outside of the transaction.
#[tokio::test]
async fn a_helper_over_the_pool_is_not_part_of_the_transaction() {
    let pool = shop_database(2).await;
    let db = Pessimistic::default().on(&pool);
    let shared: PgPool = pool.pool.clone();
    let undone = db
        .run(async |_tx: &mut Tx<Postgres>| {
            repository::insert_through_pool(&shared, 1).await?;
            Err::<(), _>(Undone::OnPurpose)
        })
        .await;
    assert!(matches!(undone, Err(Undone::OnPurpose)), "{undone:?}");
    assert_eq!(stock_and_orders(&pool).await, (10, 1), "not rolled back");
}

/// The counter of the units below.
struct Increments {
    db: PoolTransactor<Postgres, Serializable>,
    all_have_read: Barrier,
    attempts: AtomicU32,
}

const UNITS: u32 = 4;

impl Increments {
    fn new(pool: &PgPool) -> Arc<Self> {
        let db = Serializable::default().on(pool).attempts(1000).deadline(Duration::from_secs(120));
        Arc::new(Self { db, all_have_read: Barrier::new(UNITS as usize), attempts: AtomicU32::new(0) })
    }

    async fn meet(&self, attempt: u32) {
        self.attempts.fetch_add(1, Ordering::Relaxed);
        if attempt == 1 {
            self.all_have_read.wait().await;
        }
    }

    /// The helpers know nothing of this crate, and neither does the unit's error.
    async fn on_connection(&self) -> Result<(), RepositoryError> {
        let unit = async |tx: &mut Tx<Postgres>| {
            let read = tx.on_connection(async |conn| StockTable.product(conn, 1).await).await?;
            self.meet(tx.attempt()).await;
            tx.on_connection(async |conn| repository::set_stock(conn, read, read.stock + 1).await).await?;
            Ok(())
        };
        self.db.run(unit).await
    }

    /// The same, without `on_connection`.
    async fn connection(&self) -> Result<(), RepositoryError> {
        let unit = async |tx: &mut Tx<Postgres>| {
            let read = StockTable.product(tx.connection()?, 1).await?;
            self.meet(tx.attempt()).await;
            repository::set_stock(tx.connection()?, read, read.stock + 1).await?;
            Ok(())
        };
        self.db.run(unit).await
    }
}

impl From<Error> for RepositoryError {
    fn from(error: Error) -> Self {
        Self::Database(error.into())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conflicts_in_helpers_are_retried_through_on_connection() {
    let pool = shop_database(UNITS).await;
    let increments = Increments::new(&pool);
    let mut units = JoinSet::new();
    for _ in 0..UNITS {
        let increments = increments.clone();
        units.spawn(async move { increments.on_connection().await });
    }
    for ended in units.join_all().await {
        ended.expect("an increment");
    }
    assert_eq!(stock_and_orders(&pool).await.0, 10 + i64::from(UNITS));
    assert!(increments.attempts.load(Ordering::Relaxed) > UNITS, "no conflict happened");
}

/// The transaction does not see the conflict, and the unit's error hides it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conflicts_in_helpers_are_returned_through_connection() {
    let pool = shop_database(UNITS).await;
    let increments = Increments::new(&pool);
    let mut units = JoinSet::new();
    for _ in 0..UNITS {
        let increments = increments.clone();
        units.spawn(async move { increments.connection().await });
    }
    let ended = units.join_all().await;
    let stored = ended.iter().filter(|ended| ended.is_ok()).count();
    assert_eq!(stored, 1, "the others have read what the first one has changed: {ended:?}");
    assert_eq!(increments.attempts.load(Ordering::Relaxed), UNITS);
    assert_eq!(stock_and_orders(&pool).await.0, 11, "no update is lost");
}
