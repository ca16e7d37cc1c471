//! The shop: its tables, its units of work and its bank.

use std::time::Duration;

use atomically::holds::{HoldKey, Holds, Sweeper};
use atomically::{Backend, Pessimistic, PoolTransactor, Tx};
use futures_util::future::BoxFuture;
use sqlx::{MySql, Pool, Postgres, Sqlite};

use crate::bank::Bank;

pub(crate) const EVENT: i64 = 1;
pub(crate) const SEATS: i64 = 200;

const CREATE: [&str; 4] = [
    "DROP TABLE IF EXISTS ticket_checkout_event",
    "DROP TABLE IF EXISTS ticket_checkout_order",
    "CREATE TABLE ticket_checkout_event (id BIGINT PRIMARY KEY, seats BIGINT NOT NULL)",
    "CREATE TABLE ticket_checkout_order (hold BIGINT PRIMARY KEY, customer BIGINT NOT NULL)",
];
const DROP: [&str; 2] = ["DROP TABLE ticket_checkout_event", "DROP TABLE ticket_checkout_order"];

/// The shop's own statements, on each database.
pub(crate) trait Database: Backend {
    fn execute<'a>(pool: &'a Pool<Self>, sql: &'static str) -> BoxFuture<'a, sqlx::Result<()>>;
    fn number<'a>(pool: &'a Pool<Self>, sql: &'static str) -> BoxFuture<'a, sqlx::Result<i64>>;
    fn store_order<'a>(tx: &'a mut Tx<Self>, hold: i64, customer: i64) -> BoxFuture<'a, sqlx::Result<()>>;
}

macro_rules! databases {
    ($($database:ty: $insert:literal),*) => {
        $(impl Database for $database {
            fn execute<'a>(pool: &'a Pool<Self>, sql: &'static str) -> BoxFuture<'a, sqlx::Result<()>> {
                Box::pin(async move { sqlx::query(sql).execute(pool).await.map(|_| ()) })
            }

            fn number<'a>(pool: &'a Pool<Self>, sql: &'static str) -> BoxFuture<'a, sqlx::Result<i64>> {
                Box::pin(async move { sqlx::query_scalar(sql).fetch_one(pool).await })
            }

            fn store_order<'a>(
                tx: &'a mut Tx<Self>,
                hold: i64,
                customer: i64,
            ) -> BoxFuture<'a, sqlx::Result<()>> {
                let insert = sqlx::query($insert).bind(hold).bind(customer);
                Box::pin(async move { insert.execute(tx).await.map(|_| ()) })
            }
        })*
    };
}

databases! {
    Postgres: "INSERT INTO ticket_checkout_order (hold, customer) VALUES ($1, $2)",
    MySql: "INSERT INTO ticket_checkout_order (hold, customer) VALUES (?, ?)",
    Sqlite: "INSERT INTO ticket_checkout_order (hold, customer) VALUES ($1, $2)"
}

pub(crate) struct Shop<DB: Database>
where
    i64: HoldKey<DB>,
{
    pub(crate) db: PoolTransactor<DB, Pessimistic>,
    pub(crate) seats: Holds<DB, i64>,
    pub(crate) bank: Bank,
    _sweeper: Sweeper,
}

impl<DB: Database> Shop<DB>
where
    i64: HoldKey<DB>,
{
    pub(crate) async fn open(pool: &Pool<DB>) -> anyhow::Result<Self> {
        for sql in CREATE {
            DB::execute(pool, sql).await?;
        }
        DB::execute(pool, "INSERT INTO ticket_checkout_event VALUES (1, 200)").await?;
        let seats = Holds::on(pool, "ticket_checkout_event", "id", "seats").at_least(0);
        seats.create_tables().await?;
        // For the page that shows how many seats are left. Callers that would be refused do not need it.
        let sweeper = seats.sweep_every(Duration::from_millis(200));
        let db = Pessimistic::default().on(pool);
        Ok(Self { db, seats, bank: Bank::default(), _sweeper: sweeper })
    }

    pub(crate) async fn orders(&self) -> sqlx::Result<i64> {
        DB::number(self.db.pool(), "SELECT COUNT(*) FROM ticket_checkout_order").await
    }

    pub(crate) async fn seats_left(&self) -> anyhow::Result<i64> {
        Ok(DB::number(self.db.pool(), "SELECT seats FROM ticket_checkout_event").await?)
    }

    pub(crate) async fn is_sold_out(&self) -> sqlx::Result<bool> {
        Ok(self.orders().await? == SEATS)
    }

    pub(crate) async fn close(&self) -> anyhow::Result<()> {
        self.seats.purge(Duration::ZERO).await?;
        for sql in DROP {
            DB::execute(self.db.pool(), sql).await?;
        }
        Ok(())
    }
}
