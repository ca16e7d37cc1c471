//! The shop: many events, one of which everybody wants.

use std::future::Future;
use std::sync::Arc;

use atomically::{
    Adaptive, Atomic, Backend, Error, Gate, Observer, Optimistic, Options, Pessimistic, PoolTransactor,
    Serializable, Strategy, Transactor, TransactorExt as _, Tx,
};
use sqlx::{AssertSqlSafe, MySql, Pool, Postgres, Sqlite};

use crate::settings::{Approach, Way};

/// The event that everybody wants is the first.
pub(crate) const EVENTS: i64 = 1000;
/// More than are sold in the time that somebody watches.
const SEATS: i64 = 1_000_000_000;

/// A database that seats can be sold on.
pub(crate) trait Shop: Backend {
    /// The unit of work, which is the same for every strategy that reads before it writes.
    fn buy(tx: &mut Tx<Self>, event: i64) -> impl Future<Output = Result<(), Error>> + Send;

    /// The database does the sum, so nothing is read, and one statement is all of it.
    fn buy_without_reading(
        db: &PoolTransactor<Self, Atomic>,
        options: Options,
        event: i64,
    ) -> impl Future<Output = Result<(), Error>> + Send;

    /// Begins with fresh tables.
    fn open(pool: &Pool<Self>) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Leaves nothing behind.
    fn close(pool: &Pool<Self>) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// How many seats are taken, as the database has it.
    fn taken(pool: &Pool<Self>) -> impl Future<Output = Result<i64, sqlx::Error>> + Send;
}

// A macro only because this program speaks to three databases, and sqlx's executors want to know which one.
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

shop!(
    Postgres,
    "SELECT seats, version FROM atomically_monitor_event WHERE id = $1",
    "UPDATE atomically_monitor_event SET seats = $1, version = version + 1 WHERE id = $2 AND version = $3",
    "UPDATE atomically_monitor_event SET seats = seats - 1, version = version + 1 WHERE id = $1"
);
shop!(
    MySql,
    "SELECT seats, version FROM atomically_monitor_event WHERE id = ?",
    "UPDATE atomically_monitor_event SET seats = ?, version = version + 1 WHERE id = ? AND version = ?",
    "UPDATE atomically_monitor_event SET seats = seats - 1, version = version + 1 WHERE id = ?"
);
shop!(
    Sqlite,
    "SELECT seats, version FROM atomically_monitor_event WHERE id = ?",
    "UPDATE atomically_monitor_event SET seats = ?, version = version + 1 WHERE id = ? AND version = ?",
    "UPDATE atomically_monitor_event SET seats = seats - 1, version = version + 1 WHERE id = ?"
);

/// Where seats are sold under each of the strategies.
pub(crate) struct Counter<DB: Backend> {
    pessimistic: Arc<dyn Transactor<DB>>,
    optimistic: Arc<dyn Transactor<DB>>,
    serializable: Arc<dyn Transactor<DB>>,
    atomic: PoolTransactor<DB, Atomic>,
    adaptive: Arc<dyn Transactor<DB>>,
}

impl<DB: Shop> Counter<DB> {
    pub(crate) fn new(pool: &Pool<DB>, observers: &[Arc<dyn Observer>]) -> Self {
        // The same for all: whoever changes the strategy meets units that are still at work under the old one.
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
        // Units that name what they want wait for each other at the gate.
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
