//! Transfers between accounts: opposite lock orders deadlock, and no strategy loses money.

use atomically::testing::{Explore, Problem, explore};
use atomically::{Atomic, Error, Optimistic, Pessimistic, Serializable, Transactor, Tx};
use sqlx::Pool;

use super::{all, assert_passes, database, explored, integer};
use crate::support::TestBackend;

const ACCOUNT: &str =
    "CREATE TABLE account (id BIGINT PRIMARY KEY, balance BIGINT NOT NULL, version BIGINT NOT NULL)";

/// Reads both accounts for update and writes them with a version check, which is correct under every
/// strategy.
async fn transfer<DB: TestBackend>(tx: &mut Tx<DB>, from: i64, to: i64) -> Result<(), Error> {
    for (id, amount) in [(from, -1), (to, 1)] {
        let read = "SELECT balance * 1000 + version FROM account WHERE id = ?";
        let read = DB::fetch(tx, tx.for_update(DB::sql(read)), &[id]).await?;
        let (balance, version) = (read / 1000, read % 1000);
        let write = "UPDATE account SET balance = ?, version = version + 1 WHERE id = ? AND version = ?";
        let done = DB::execute(tx, DB::sql(write), &[balance + amount, id, version]).await?;
        tx.expect_one(done)?;
    }
    Ok(())
}

async fn transfer_in_order<DB: TestBackend>(tx: &mut Tx<DB>, from: i64, to: i64) -> Result<(), Error> {
    DB::lock_accounts(tx, &[from, to]).await?;
    transfer(tx, from, to).await
}

fn bank<'a, DB: TestBackend>(pool: &Pool<DB>) -> Explore<'a, DB> {
    let accounts = ["DELETE FROM account", "INSERT INTO account VALUES (1, 10, 0), (2, 10, 0), (3, 10, 0)"];
    explore(pool).set_up(move |pool| async move { all(pool, &accounts).await })
}

pub(crate) async fn opposite_lock_orders_deadlock<DB: TestBackend>() {
    let pool = database::<DB>(ACCOUNT, 2).await;
    let db = Pessimistic::default().on(&pool);
    let report = explored(
        bank(&pool)
            .unit("alice", &db, async |tx: &mut Tx<DB>| transfer(tx, 1, 2).await)
            .unit("bob", &db, async |tx: &mut Tx<DB>| transfer(tx, 2, 1).await)
            .max_preemptions(1),
    )
    .await;
    let counterexample = report.first().expect("a deadlock");
    assert_eq!(counterexample.problems(), [Problem::Deadlock], "{report}");
    assert!(counterexample.to_string().contains("deadlock ("), "{report}");
}

pub(crate) async fn a_common_lock_order_does_not_deadlock<DB: TestBackend>() {
    let pool = database::<DB>(ACCOUNT, 2).await;
    let db = Pessimistic::default().on(&pool);
    assert_passes(
        bank(&pool).unit("alice", &db, async |tx: &mut Tx<DB>| transfer_in_order(tx, 1, 2).await).unit(
            "bob",
            &db,
            async |tx: &mut Tx<DB>| transfer_in_order(tx, 2, 1).await,
        ),
    )
    .await;
}

/// The transfers form a ring, so in the end each account has its initial balance.
pub(crate) async fn three_transfers_conserve_money<DB: TestBackend>() {
    let pool = database::<DB>(ACCOUNT, 3).await;
    three_transfers(&pool, &Pessimistic::default().on(&pool)).await;
    three_transfers(&pool, &Optimistic::default().on(&pool)).await;
    three_transfers(&pool, &Serializable::default().on(&pool)).await;
    three_transfers(&pool, &Atomic::default().on(&pool)).await;
}

async fn three_transfers<DB: TestBackend, X: Transactor<DB>>(pool: &Pool<DB>, db: &X) {
    let exploration = bank(pool)
        .unit("alice", db, async |tx: &mut Tx<DB>| transfer(tx, 1, 2).await)
        .unit("bob", db, async |tx: &mut Tx<DB>| transfer(tx, 2, 3).await)
        .unit("carol", db, async |tx: &mut Tx<DB>| transfer(tx, 3, 1).await)
        .expect("money", 30_i64, |pool| integer(pool, DB::TOTAL))
        .expect("the lowest balance", 10_i64, |pool| integer(pool, "SELECT MIN(balance) FROM account"))
        .max_preemptions(1)
        .max_schedules(100)
        .allow_deadlocks();
    let report = exploration.run().await.expect("explored");
    report.assert_passes();
    assert!(report.schedules >= 6, "at least every order of the three units: {report}");
}
