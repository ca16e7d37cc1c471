//! The shop: what is done for one buyer, with the crate and without it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use atomically::{
    Atomic, Backend, Error, Optimistic, Pessimistic, PoolTransactor, Serializable, Strategy, Transactor,
    TransactorExt as _, Tx,
};
use sqlx::{AssertSqlSafe, MySql, Pool, Postgres, SqlSafeStr as _, SqlStr, Sqlite};

/// What a buyer is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Sold,
    SoldOut,
}

// A macro only because this program speaks to three databases, and sqlx's executors want to know which one.
macro_rules! shop {
    ($database:ty, numbered_parameters: $numbered:literal) => {
        impl Shop for $database {
            const NUMBERED_PARAMETERS: bool = $numbered;

            /// The unit of work: plain sqlx, and the same for pessimistic, optimistic and serializable.
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

            /// The unit of work for atomic: the database does the sum, so nothing is read.
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

            /// The cautionary tale: nothing keeps another buyer from reading the same number of seats.
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

shop!(Postgres, numbered_parameters: true);
shop!(MySql, numbered_parameters: false);
shop!(Sqlite, numbered_parameters: false);

const CLOSE: [&str; 2] =
    ["DROP TABLE IF EXISTS atomically_flash_sale_event", "DROP TABLE IF EXISTS atomically_flash_sale_ticket"];

// The primary key of a ticket would stop a purchase from being done twice for one buyer.
const OPEN: [&str; 4] = [
    CLOSE[0],
    CLOSE[1],
    "CREATE TABLE atomically_flash_sale_event
        (id BIGINT PRIMARY KEY, seats BIGINT NOT NULL, version BIGINT NOT NULL)",
    "CREATE TABLE atomically_flash_sale_ticket (buyer BIGINT PRIMARY KEY)",
];

/// What the database says after the sale.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Books {
    pub(crate) seats_left: i64,
    pub(crate) tickets: i64,
}

/// A database that tickets can be sold on.
pub(crate) trait Shop: Backend {
    const NUMBERED_PARAMETERS: bool;

    fn buy(tx: &mut Tx<Self>, buyer: i64) -> impl Future<Output = Result<Answer, Error>> + Send;

    fn buy_without_reading(
        tx: &mut Tx<Self>,
        buyer: i64,
    ) -> impl Future<Output = Result<Answer, Error>> + Send;

    fn buy_unguarded(
        db: &mut Self::Connection,
        buyer: i64,
    ) -> impl Future<Output = Result<Answer, sqlx::Error>> + Send;

    /// Begins with fresh tables.
    fn open(pool: &Pool<Self>, seats: i64) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Leaves nothing behind.
    fn close(pool: &Pool<Self>) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    fn books(pool: &Pool<Self>) -> impl Future<Output = Result<Books, sqlx::Error>> + Send;

    /// The text with this database's own parameters in place of each `?`.
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
    /// Reads, then writes, each statement by itself; a cautionary tale
    Naive,
    /// The same in a transaction, which helps less than is believed; a cautionary tale
    Folklore,
    /// Locks the event's row as it reads it
    Pessimistic,
    /// Checks the event's version as it writes
    Optimistic,
    /// Has the database see to it that the outcome is that of some serial order
    Serializable,
    /// Has the database subtract
    Atomic,
}

impl Approach {
    /// Whether the crate vouches for it.
    pub(crate) const fn is_strategy(self) -> bool {
        !matches!(self, Self::Naive | Self::Folklore)
    }
}

/// Where buyers are served in one way.
pub(crate) struct Counter<DB: Backend> {
    way: Way<DB>,
    /// How often anybody was served, counting those that had to be served again.
    pub(crate) attempts: AtomicU64,
}

enum Way<DB: Backend> {
    Naive(Pool<DB>),
    Folklore(Pool<DB>),
    Reading(Arc<dyn Transactor<DB>>),
    WithoutReading(Arc<dyn Transactor<DB>>),
}

impl<DB: Shop> Counter<DB> {
    /// The one place that picks the strategy.
    pub(crate) fn new(approach: Approach, pool: &Pool<DB>, deadline: Duration) -> Self {
        let way = match approach {
            Approach::Naive => Way::Naive(pool.clone()),
            Approach::Folklore => Way::Folklore(pool.clone()),
            Approach::Pessimistic => Way::Reading(patient(Pessimistic::default(), pool, deadline)),
            Approach::Optimistic => Way::Reading(patient(Optimistic::default(), pool, deadline)),
            Approach::Serializable => Way::Reading(patient(Serializable::default(), pool, deadline)),
            Approach::Atomic => Way::WithoutReading(patient(Atomic::default(), pool, deadline)),
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

/// A thousand buyers for one row are far more than the defaults have in mind, and none of them may be lost.
fn patient<DB: Backend>(
    strategy: impl Strategy,
    pool: &Pool<DB>,
    deadline: Duration,
) -> Arc<dyn Transactor<DB>> {
    Arc::new(PoolTransactor::new(strategy, pool).attempts(10_000).deadline(deadline))
}
