//! Adds to numbers that many tasks change at the same time, without reading them first.
//!
//! `cargo run --example counters`
//!
//! `Atomic` sends one statement that computes the new value, without BEGIN and COMMIT. `Deltas` collects the
//! additions of many tasks, and stores them in one commit.

use anyhow::ensure;
use atomically::{Atomic, DeltaOutcome, Deltas};
use futures_util::future::try_join_all;
use sqlx::{Sqlite, SqlitePool};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("shop.db");
    let pool = SqlitePool::connect(&format!("sqlite://{}?mode=rwc", file.display())).await?;
    let schema = "PRAGMA journal_mode = WAL;
        CREATE TABLE page (id INTEGER PRIMARY KEY, views INTEGER NOT NULL);
        CREATE TABLE product (id INTEGER PRIMARY KEY, stock INTEGER NOT NULL);
        INSERT INTO page (id, views) VALUES (1, 0);
        INSERT INTO product (id, stock) VALUES (7, 100);";
    sqlx::raw_sql(schema).execute(&pool).await?;

    // One statement for each view.
    let db = Atomic::default().on(&pool);
    let view = || db.apply(sqlx::query("UPDATE page SET views = views + 1 WHERE id = $1").bind(1));
    try_join_all((0..50).map(|_| view())).await?;
    let views: i64 = sqlx::query_scalar("SELECT views FROM page WHERE id = 1").fetch_one(&pool).await?;
    ensure!(views == 50, "50 views became {views}");
    println!("50 tasks add one view each: the page has {views} views.");

    // One commit for many purchases. No purchase may leave less than nothing in stock.
    let stock = Deltas::<Sqlite, i64>::on(&pool, "product", "id", "stock").at_least(0);
    let outcomes = try_join_all((0..150).map(|_| stock.add(7, -1))).await?;
    let sold = outcomes.iter().filter(|outcome| matches!(outcome, DeltaOutcome::Applied { .. })).count();
    let refused = outcomes.iter().filter(|outcome| matches!(outcome, DeltaOutcome::Refused { .. })).count();
    ensure!((sold, refused) == (100, 50), "{sold} were sold, {refused} were refused");
    println!("150 tasks take one of 100 pieces each: {sold} get one, {refused} are refused.");

    let left: i64 = sqlx::query_scalar("SELECT stock FROM product WHERE id = 7").fetch_one(&pool).await?;
    ensure!(left == 0, "{left} pieces are left");
    println!("Nothing is left in stock.");
    Ok(())
}
