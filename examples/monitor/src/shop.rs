//! Sells seats for many events, one of which most buyers want.

use std::future::Future;
use std::sync::Arc;

use atomically::{
    Adaptive, Atomic, Backend, Error, Gate, Observer, Optimistic, Options, Pessimistic, PoolTransactor,
    Serializable, Strategy, Transactor, TransactorExt as _, Tx,
};
use sqlx::{AssertSqlSafe, Pool};

use crate::settings::{Approach, Way};

/// The number of events. The first one is the hot one.
pub(crate) const EVENTS: i64 = 1000;
/// More than are sold while the program runs.
const SEATS: i64 = 1_000_000_000;

/// A database that seats can be sold on.
pub(crate) trait Shop: Backend {
    /// The unit of work, the same for every strategy that reads before it writes.
    fn buy(tx: &mut Tx<Self>, event: i64) -> impl Future<Output = Result<(), Error>> + Send;

    /// The database subtracts: one statement, which reads nothing first.
    fn buy_without_reading(
        db: &PoolTransactor<Self, Atomic>,
        options: Options,
        event: i64,
    ) -> impl Future<Output = Result<(), Error>> + Send;

    /// Creates the table anew.
    fn open(pool: &Pool<Self>) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Drops the table.
    fn close(pool: &Pool<Self>) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// The number of seats that are taken in the database.
    fn taken(pool: &Pool<Self>) -> impl Future<Output = Result<i64, sqlx::Error>> + Send;
}

// A macro, because this program supports three databases, and sqlx's executors are implemented for each of
// them. A program for one database needs only the functions.
macro_rules! shop {
    ($database:ty, $select:literal, $update:literal, $subtract:literal) => {
        impl Shop for $database {
            async fn buy(tx: &mut Tx<Self>, event: i64) -> Result<(), Error> {
                let select = tx.for_update($select);
                let (seats, version): (i64, i64) =
                    sqlx::query_as(select).bind(event).fetch_one(&mut *tx).await?;
                let update = sqlx::query($update).bind(seats - 1).bind(event).bind(version);
                let taken = update.execute(&mut *tx).await?.rows_affected();
                tx.expect_one(taken)
            }

            async fn buy_without_reading(
                db: &PoolTransactor<Self, Atomic>,
                options: Options,
                event: i64,
            ) -> Result<(), Error> {
                db.with(options).apply(sqlx::query($subtract).bind(event)).await.map(drop)
            }

            async fn open(pool: &Pool<Self>) -> Result<(), sqlx::Error> {
                Self::close(pool).await?;
                let table = "CREATE TABLE atomically_monitor_event
                    (id BIGINT PRIMARY KEY, seats BIGINT NOT NULL, version BIGINT NOT NULL)";
                sqlx::query(table).execute(pool).await?;
                let rows: Vec<_> = (1..=EVENTS).map(|event| format!("({event}, {SEATS}, 0)")).collect();
                let insert = format!(
                    "INSERT INTO atomically_monitor_event (id, seats, version) VALUES {}",
                    rows.join(", ")
                );
                sqlx::query(AssertSqlSafe(insert)).execute(pool).await?;
                Ok(())
            }

            async fn close(pool: &Pool<Self>) -> Result<(), sqlx::Error> {
                sqlx::query("DROP TABLE IF EXISTS atomically_monitor_event").execute(pool).await?;
                Ok(())
            }

            async fn taken(pool: &Pool<Self>) -> Result<i64, sqlx::Error> {
                let seats = sqlx::query_scalar("SELECT seats FROM atomically_monitor_event");
                let seats: Vec<i64> = seats.fetch_all(pool).await?;
                Ok(seats.into_iter().map(|left| SEATS - left).sum())
            }
        }
    };
}

#[cfg(feature = "postgres")]
shop!(
    sqlx::Postgres,
    "SELECT seats, version FROM atomically_monitor_event WHERE id = $1",
    "UPDATE atomically_monitor_event SET seats = $1, version = version + 1 WHERE id = $2 AND version = $3",
    "UPDATE atomically_monitor_event SET seats = seats - 1, version = version + 1 WHERE id = $1"
);
#[cfg(feature = "mysql")]
shop!(
    sqlx::MySql,
    "SELECT seats, version FROM atomically_monitor_event WHERE id = ?",
    "UPDATE atomically_monitor_event SET seats = ?, version = version + 1 WHERE id = ? AND version = ?",
    "UPDATE atomically_monitor_event SET seats = seats - 1, version = version + 1 WHERE id = ?"
);
shop!(
    sqlx::Sqlite,
    "SELECT seats, version FROM atomically_monitor_event WHERE id = ?",
    "UPDATE atomically_monitor_event SET seats = ?, version = version + 1 WHERE id = ? AND version = ?",
    "UPDATE atomically_monitor_event SET seats = seats - 1, version = version + 1 WHERE id = ?"
);

/// Sells seats with each of the strategies.
pub(crate) struct Counter<DB: Backend> {
    pessimistic: Arc<dyn Transactor<DB>>,
    optimistic: Arc<dyn Transactor<DB>>,
    serializable: Arc<dyn Transactor<DB>>,
    atomic: PoolTransactor<DB, Atomic>,
    adaptive: Arc<dyn Transactor<DB>>,
}

impl<DB: Shop> Counter<DB> {
    pub(crate) fn new(pool: &Pool<DB>, observers: &[Arc<dyn Observer>]) -> Self {
        // Shared, because units of the previous strategy may still run after a change.
        let gate = Gate::new();
        Self {
            pessimistic: Arc::new(watched(Pessimistic::default(), pool, &gate, observers)),
            optimistic: Arc::new(watched(Optimistic::default(), pool, &gate, observers)),
            serializable: Arc::new(watched(Serializable::default(), pool, &gate, observers)),
            atomic: watched(Atomic::default(), pool, &gate, observers),
            adaptive: Arc::new(watched(Adaptive::default(), pool, &gate, observers)),
        }
    }

    pub(crate) async fn sell(&self, way: Way, event: i64) -> Result<(), Error> {
        let options = Options::new().named(way.unit());
        // Units with the same key wait for each other at the gate.
        let options = if way.gate { options.on_key(event) } else { options };
        let db = match way.strategy {
            Approach::Pessimistic => &self.pessimistic,
            Approach::Optimistic => &self.optimistic,
            Approach::Serializable => &self.serializable,
            Approach::Adaptive => &self.adaptive,
            Approach::Atomic => return DB::buy_without_reading(&self.atomic, options, event).await,
        };
        db.with(options).run(async |tx: &mut Tx<DB>| DB::buy(tx, event).await).await
    }
}

fn watched<DB: Backend, S: Strategy>(
    strategy: S,
    pool: &Pool<DB>,
    gate: &Gate,
    observers: &[Arc<dyn Observer>],
) -> PoolTransactor<DB, S> {
    let db = PoolTransactor::new(strategy, pool).gate(gate);
    observers.iter().fold(db, |db, observer| db.options(Options::new().observed_by(observer.clone())))
}
