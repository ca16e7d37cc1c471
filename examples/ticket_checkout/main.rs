//! Sells tickets while customers pay: some never do, and some are too late.
//!
//! `cargo run --example ticket_checkout`
//!
//! `cargo run --example ticket_checkout -- --database-url postgres://user:password@localhost/test`
//!
//! 500 customers want 200 seats. A seat is held for its customer while the bank authorizes the payment. 30 %
//! of them close the page and never pay, and for 10 % the bank takes longer than the hold lasts. The others try
//! until they have a seat, or all are sold. What one customer does is in `customer.rs`.
//!
//! PostgreSQL, and MySQL or MariaDB, need nothing but the URL: the example creates the tables
//! `ticket_checkout_event` and `ticket_checkout_order` and that of the holds, and drops its own again.

mod bank;
mod customer;
mod shop;

use std::env;
use std::sync::Arc;

use anyhow::{Context as _, bail, ensure};
use atomically::holds::HoldKey;
use customer::{Customer, End};
use futures_util::future::try_join_all;
use shop::{Database, SEATS, Shop};
use sqlx::Pool;
use sqlx::mysql::MySqlPoolOptions;
use sqlx::postgres::PgPoolOptions;
use sqlx::sqlite::SqlitePoolOptions;

const CUSTOMERS: i64 = 500;

async fn sell<DB: Database>(pool: Pool<DB>) -> anyhow::Result<()>
where
    i64: HoldKey<DB>,
{
    let shop = Arc::new(Shop::open(&pool).await?);
    println!("{CUSTOMERS} customers want {SEATS} seats.");
    let customers = (0..CUSTOMERS).map(|id| tokio::spawn(Customer::new(id).visit(shop.clone())));
    let ends = try_join_all(customers).await?.into_iter().collect::<anyhow::Result<Vec<End>>>()?;
    let count = |wanted: End| ends.iter().filter(|end| **end == wanted).count();
    println!("{} closed the page: their holds expired, and others bought the seats.", count(End::Left));
    println!("{} paid too late: nothing was taken from their accounts.", count(End::TooLate));
    println!("{} found that all seats are sold.", count(End::SoldOut));

    let (orders, left) = (shop.orders().await?, shop.seats_left().await?);
    let (captured, reserved) = shop.bank.totals();
    ensure!(orders + left == SEATS, "{orders} orders and {left} seats are not {SEATS} seats");
    ensure!(reserved == 0, "{reserved} payments are neither captured nor void");
    ensure!(captured == count(End::Seated) as i64, "a customer paid without a seat, or has one for nothing");
    println!("Sold are {orders} of {SEATS} seats, and {captured} payments were captured.");
    shop.close().await
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = env::args().skip(1);
    let url = match arguments.next().as_deref() {
        None => None,
        Some("--database-url") => Some(arguments.next().context("--database-url needs a URL")?),
        Some(other) => bail!("unknown argument {other}; the only one is --database-url URL"),
    };
    match url {
        None => {
            let directory = tempfile::tempdir()?;
            let url = format!("sqlite://{}?mode=rwc", directory.path().join("tickets.db").display());
            let pool = SqlitePoolOptions::new().max_connections(8).connect(&url).await?;
            sqlx::raw_sql("PRAGMA journal_mode = WAL").execute(&pool).await?;
            sell(pool).await
        }
        Some(url) if url.starts_with("postgres") => {
            sell(PgPoolOptions::new().max_connections(8).connect(&url).await?).await
        }
        Some(url) => sell(MySqlPoolOptions::new().max_connections(8).connect(&url).await?).await,
    }
}
