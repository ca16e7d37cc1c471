//! Sells one seat to one buyer, with the crate and without it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use atomically::{
    Adaptive, Atomic, Backend, Error, Optimistic, Options, Pessimistic, PoolTransactor, Serializable,
    Strategy, Transactor, TransactorExt as _, Tx,
};
use sqlx::pool::PoolOptions;
use sqlx::{AssertSqlSafe, Pool, SqlSafeStr as _, SqlStr};

/// The response to a buyer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Sold,
    SoldOut,
}

// A macro, because this program supports three databases, and sqlx's executors are implemented for each of
// them. A program for one database needs only the functions.
macro_rules! shop {
    ($database:ty, numbered_parameters: $numbered:literal $(, $pool_options:item)?) => {
        impl Shop for $database {
            const NUMBERED_PARAMETERS: bool = $numbered;

            $($pool_options)?

            /// The unit of work: plain sqlx, the same for every strategy that reads before it writes.
            async fn buy(tx: &mut Tx<Self>, buyer: i64) -> Result<Answer, Error> {
                let event =
                    tx.for_update("SELECT seats, version FROM atomically_flash_sale_event WHERE id = 1");
                let (seats, version): (i64, i64) = sqlx::query_as(event).fetch_one(&mut *tx).await?;
                if seats == 0 {
                    return Ok(Answer::SoldOut);
                }
                let take_seat = "UPDATE atomically_flash_sale_event SET seats = ?, version = version + 1 \
                                 WHERE id = 1 AND version = ?";
                let taken = sqlx::query(Self::sql(take_seat))
                    .bind(seats - 1)
                    .bind(version)
                    .execute(&mut *tx)
                    .await?
                    .rows_affected();
                tx.expect_one(taken)?;
                let issue_ticket = Self::sql("INSERT INTO atomically_flash_sale_ticket (buyer) VALUES (?)");
                sqlx::query(issue_ticket).bind(buyer).execute(&mut *tx).await?;
                Ok(Answer::Sold)
            }

            /// The unit of work for `Atomic`: the database subtracts, so nothing is read.
            async fn buy_without_reading(tx: &mut Tx<Self>, buyer: i64) -> Result<Answer, Error> {
                let take_seat =
                    "UPDATE atomically_flash_sale_event SET seats = seats - 1 WHERE id = 1 AND seats >= 1";
                if sqlx::query(take_seat).execute(&mut *tx).await?.rows_affected() == 0 {
                    return Ok(Answer::SoldOut);
                }
                let issue_ticket = Self::sql("INSERT INTO atomically_flash_sale_ticket (buyer) VALUES (?)");
                sqlx::query(issue_ticket).bind(buyer).execute(&mut *tx).await?;
                Ok(Answer::Sold)
            }

            /// The cautionary tale: nothing stops another buyer from reading the same number of seats.
            async fn buy_unguarded(db: &mut Self::Connection, buyer: i64) -> Result<Answer, sqlx::Error> {
                let event = "SELECT seats FROM atomically_flash_sale_event WHERE id = 1";
                let seats: i64 = sqlx::query_scalar(event).fetch_one(&mut *db).await?;
                if seats == 0 {
                    return Ok(Answer::SoldOut);
                }
                let take_seat = Self::sql("UPDATE atomically_flash_sale_event SET seats = ? WHERE id = 1");
                sqlx::query(take_seat).bind(seats - 1).execute(&mut *db).await?;
                let issue_ticket = Self::sql("INSERT INTO atomically_flash_sale_ticket (buyer) VALUES (?)");
                sqlx::query(issue_ticket).bind(buyer).execute(&mut *db).await?;
                Ok(Answer::Sold)
            }

            async fn open(pool: &Pool<Self>, seats: i64) -> Result<(), sqlx::Error> {
                for statement in OPEN {
                    sqlx::query(statement).execute(pool).await?;
                }
                let offer = Self::sql(
                    "INSERT INTO atomically_flash_sale_event (id, seats, version) VALUES (1, ?, 0)",
                );
                sqlx::query(offer).bind(seats).execute(pool).await?;
                Ok(())
            }

            async fn close(pool: &Pool<Self>) -> Result<(), sqlx::Error> {
                for statement in CLOSE {
                    sqlx::query(statement).execute(pool).await?;
                }
                Ok(())
            }

            async fn books(pool: &Pool<Self>) -> Result<Books, sqlx::Error> {
                let event = "SELECT seats FROM atomically_flash_sale_event WHERE id = 1";
                let tickets = "SELECT count(*) FROM atomically_flash_sale_ticket";
                Ok(Books {
                    seats_left: sqlx::query_scalar(event).fetch_one(pool).await?,
                    tickets: sqlx::query_scalar(tickets).fetch_one(pool).await?,
                })
            }
        }
    };
}

shop!(sqlx::Sqlite, numbered_parameters: false);

#[cfg(feature = "postgres")]
shop!(sqlx::Postgres, numbered_parameters: true);

#[cfg(feature = "mysql")]
shop!(
    sqlx::MySql,
    numbered_parameters: false,
    /// PostgreSQL's default level, so that folklore means the same on both. The crate's strategies set their
    /// own.
    fn pool_options() -> PoolOptions<Self> {
        PoolOptions::new().after_connect(|connection: &mut sqlx::MySqlConnection, _| {
            Box::pin(async move {
                let level = "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED";
                sqlx::Executor::execute(connection, level).await.map(drop)
            })
        })
    }
);

const CLOSE: [&str; 2] =
    ["DROP TABLE IF EXISTS atomically_flash_sale_event", "DROP TABLE IF EXISTS atomically_flash_sale_ticket"];

// The primary key of a ticket stops a purchase from being stored twice for one buyer.
const OPEN: [&str; 4] = [
    CLOSE[0],
    CLOSE[1],
    "CREATE TABLE atomically_flash_sale_event
        (id BIGINT PRIMARY KEY, seats BIGINT NOT NULL, version BIGINT NOT NULL)",
    "CREATE TABLE atomically_flash_sale_ticket (buyer BIGINT PRIMARY KEY)",
];

/// What the tables contain after the sale.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Books {
    pub(crate) seats_left: i64,
    pub(crate) tickets: i64,
}

/// A database that tickets can be sold on.
pub(crate) trait Shop: Backend {
    const NUMBERED_PARAMETERS: bool;

    /// The pool for all buyers.
    fn pool_options() -> PoolOptions<Self> {
        PoolOptions::new()
    }

    fn buy(tx: &mut Tx<Self>, buyer: i64) -> impl Future<Output = Result<Answer, Error>> + Send;

    fn buy_without_reading(
        tx: &mut Tx<Self>,
        buyer: i64,
    ) -> impl Future<Output = Result<Answer, Error>> + Send;

    fn buy_unguarded(
        db: &mut Self::Connection,
        buyer: i64,
    ) -> impl Future<Output = Result<Answer, sqlx::Error>> + Send;

    /// Creates the tables anew.
    fn open(pool: &Pool<Self>, seats: i64) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Drops the tables.
    fn close(pool: &Pool<Self>) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    fn books(pool: &Pool<Self>) -> impl Future<Output = Result<Books, sqlx::Error>> + Send;

    /// The text with this database's own placeholders instead of `?`.
    fn sql(text: &'static str) -> SqlStr {
        if !Self::NUMBERED_PARAMETERS {
            return text.into_sql_str();
        }
        let mut parts = text.split('?');
        let mut sql = parts.next().unwrap_or_default().to_owned();
        for (number, part) in (1..).zip(parts) {
            sql.push_str(&format!("${number}{part}"));
        }
        AssertSqlSafe(sql).into_sql_str()
    }
}

/// A way to sell a seat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Approach {
    /// Reads, then writes, without a transaction; a cautionary tale
    Naive,
    /// The same in a transaction, which is widely believed to be enough; a cautionary tale
    Folklore,
    /// Locks the event's row when it reads it
    Pessimistic,
    /// Checks the event's version when it writes
    Optimistic,
    /// Lets the database detect conflicts (SERIALIZABLE)
    Serializable,
    /// Lets the database subtract, in one statement
    Atomic,
    /// Begins optimistic, and locks the row once it is contended
    Adaptive,
}

impl Approach {
    /// Whether it is a strategy of the crate.
    pub(crate) const fn is_strategy(self) -> bool {
        !matches!(self, Self::Naive | Self::Folklore)
    }
}

/// Serves buyers with one approach.
pub(crate) struct Counter<DB: Backend> {
    way: Way<DB>,
    /// Attempts so far, retries included.
    pub(crate) attempts: AtomicU64,
}

enum Way<DB: Backend> {
    Naive(Pool<DB>),
    Folklore(Pool<DB>),
    Reading(Arc<dyn Transactor<DB>>),
    WithoutReading(Arc<dyn Transactor<DB>>),
}

impl<DB: Shop> Counter<DB> {
    /// The only place that chooses the strategy.
    pub(crate) fn new(approach: Approach, pool: &Pool<DB>, deadline: Duration) -> Self {
        let way = match approach {
            Approach::Naive => Way::Naive(pool.clone()),
            Approach::Folklore => Way::Folklore(pool.clone()),
            Approach::Pessimistic => Way::Reading(patient(Pessimistic::default(), pool, deadline)),
            Approach::Optimistic => Way::Reading(patient(Optimistic::default(), pool, deadline)),
            Approach::Serializable => Way::Reading(patient(Serializable::default(), pool, deadline)),
            Approach::Atomic => Way::WithoutReading(patient(Atomic::default(), pool, deadline)),
            Approach::Adaptive => Way::Reading(patient(Adaptive::default(), pool, deadline)),
        };
        Self { way, attempts: AtomicU64::new(0) }
    }

    pub(crate) async fn serve(&self, buyer: i64) -> Result<Answer, Error> {
        match &self.way {
            Way::Naive(pool) => {
                self.attempts.fetch_add(1, Ordering::Relaxed);
                Ok(DB::buy_unguarded(&mut *pool.acquire().await?, buyer).await?)
            }
            Way::Folklore(pool) => {
                self.attempts.fetch_add(1, Ordering::Relaxed);
                let mut transaction = pool.begin().await?;
                let answer = DB::buy_unguarded(&mut transaction, buyer).await?;
                transaction.commit().await?;
                Ok(answer)
            }
            Way::Reading(db) => {
                db.run(async |tx: &mut Tx<DB>| {
                    self.attempts.fetch_add(1, Ordering::Relaxed);
                    DB::buy(tx, buyer).await
                })
                .await
            }
            Way::WithoutReading(db) => {
                db.run(async |tx: &mut Tx<DB>| {
                    self.attempts.fetch_add(1, Ordering::Relaxed);
                    DB::buy_without_reading(tx, buyer).await
                })
                .await
            }
        }
    }
}

/// A transactor that gives a thousand buyers of one row enough attempts and time, so that none of them is
/// lost.
///
/// The key names the contended row. `Adaptive` needs it, and the others ignore it without a gate.
fn patient<DB: Backend>(
    strategy: impl Strategy,
    pool: &Pool<DB>,
    deadline: Duration,
) -> Arc<dyn Transactor<DB>> {
    let options = Options::new().attempts(10_000).deadline(deadline).on_key(("event", 1));
    Arc::new(PoolTransactor::new(strategy, pool).options(options))
}
