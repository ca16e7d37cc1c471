//! What is known to be wrong is found by exploring, and what the guide recommends passes.

use std::fmt::Display;

use atomically::testing::{Explore, Problem, Report, explore};
use atomically::{
    Error, Failure, Isolation, Optimistic, Pessimistic, Plan, PoolTransactor, Serializable, Strategy, Tx,
    Verdict,
};
use sqlx::{Pool, SqlStr};

use crate::support::{TestBackend, TestPool};

/// A transaction around it, and nothing else.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Unguarded(pub Isolation);

impl Strategy for Unguarded {
    fn plan(&self, _attempt: u32) -> Plan {
        Plan::new(self.0)
    }

    fn verdict(&self, failure: &Failure) -> Verdict {
        if failure.is_retryable() { Verdict::RunAgain } else { Verdict::GiveUp }
    }
}

/// A pool with these tables, for so many clients.
async fn database<DB: TestBackend>(tables: &[&str], clients: u32) -> TestPool<DB> {
    let pool = DB::pool(clients + 1).await;
    for sql in tables {
        DB::pool_execute(&pool, DB::sql(sql), &[]).await.expect("a table");
    }
    pool
}

async fn all<DB: TestBackend>(pool: Pool<DB>, statements: &[&str]) -> sqlx::Result<()> {
    for sql in statements {
        DB::pool_execute(&pool, DB::sql(sql), &[]).await?;
    }
    Ok(())
}

async fn integer<DB: TestBackend>(pool: Pool<DB>, sql: &str) -> sqlx::Result<i64> {
    DB::pool_fetch(&pool, DB::sql(sql), &[]).await
}

// --- the lost update ---

const PRODUCT: &str =
    "CREATE TABLE product (id BIGINT PRIMARY KEY, stock BIGINT NOT NULL, version BIGINT NOT NULL)";
const TEN: [&str; 2] = ["DELETE FROM product", "INSERT INTO product VALUES (1, 10, 0)"];

/// The folklore fix: read, subtract and write inside of a transaction.
async fn sell_one<DB: TestBackend>(tx: &mut Tx<DB>) -> Result<(), Error> {
    let stock = DB::fetch(tx, tx.for_update(DB::sql("SELECT stock FROM product WHERE id = 1")), &[]).await?;
    DB::execute(tx, DB::sql("UPDATE product SET stock = ? WHERE id = 1"), &[stock - 1]).await?;
    Ok(())
}

async fn sell_one_checked<DB: TestBackend>(tx: &mut Tx<DB>) -> Result<(), Error> {
    let read = "SELECT stock * 1000 + version FROM product WHERE id = 1";
    let read = DB::fetch(tx, tx.for_update(DB::sql(read)), &[]).await?;
    let (stock, version) = (read / 1000, read % 1000);
    let write = "UPDATE product SET stock = ?, version = version + 1 WHERE id = 1 AND version = ?";
    let done = DB::execute(tx, DB::sql(write), &[stock - 1, version]).await?;
    tx.expect_one(done)
}

fn sales<DB: TestBackend>(pool: &Pool<DB>) -> Explore<'_, DB> {
    explore(pool)
        .set_up(|pool| all(pool, &TEN))
        .expect("stock", 8_i64, |pool| integer(pool, "SELECT stock FROM product WHERE id = 1"))
}

pub(crate) async fn the_folklore_fix_loses_updates<DB: TestBackend>() {
    let pool = database::<DB>(&[PRODUCT], 2).await;
    let db = PoolTransactor::new(Unguarded(Isolation::ReadCommitted), &pool);
    let report =
        sales(&pool).unit("alice", &db, sell_one).unit("bob", &db, sell_one).run().await.expect("explored");
    println!("{report}\n{} schedules in {:?}", report.schedules, report.elapsed);
    assert!(!report.passes());
}

pub(crate) async fn guarded_sales_pass<DB: TestBackend>() {
    let pool = database::<DB>(&[PRODUCT], 2).await;
    let db = Pessimistic::default().on(&pool);
    let report =
        sales(&pool).unit("alice", &db, sell_one).unit("bob", &db, sell_one).run().await.expect("explored");
    println!("pessimistic {report}\n{} schedules in {:?}", report.schedules, report.elapsed);
    let db = Optimistic::default().on(&pool);
    let report = sales(&pool)
        .unit("alice", &db, sell_one_checked)
        .unit("bob", &db, sell_one_checked)
        .run()
        .await
        .expect("explored");
    println!("optimistic {report}\n{} schedules in {:?}", report.schedules, report.elapsed);
    let db = Serializable::default().on(&pool);
    let report =
        sales(&pool).unit("alice", &db, sell_one).unit("bob", &db, sell_one).run().await.expect("explored");
    println!("serializable {report}\n{} schedules in {:?}", report.schedules, report.elapsed);
}
