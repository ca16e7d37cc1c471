//! Lost updates: found without a guard, and not found with the guards that the guide recommends.

use atomically::testing::{Client, Explore, explore};
use atomically::{
    Atomic, Error, Isolation, Optimistic, Pessimistic, PoolTransactor, Serializable, TransactorExt as _, Tx,
};
use sqlx::Pool;

use super::{Unguarded, all, assert_passes, assert_violation, database, integer};
use crate::support::TestBackend;

pub(super) const PRODUCT: &str =
    "CREATE TABLE product (id BIGINT PRIMARY KEY, stock BIGINT NOT NULL, version BIGINT NOT NULL)";

/// Reads the stock, subtracts one and writes it back, without a version check.
pub(super) async fn sell_one<DB: TestBackend>(tx: &mut Tx<DB>) -> Result<(), Error> {
    let read = tx.for_update(DB::sql("SELECT stock FROM product WHERE id = 1"));
    let stock = DB::fetch(tx, read, &[]).await?;
    DB::execute(tx, DB::sql("UPDATE product SET stock = ? WHERE id = 1"), &[stock - 1]).await?;
    Ok(())
}

async fn sell_one_versioned<DB: TestBackend>(tx: &mut Tx<DB>) -> Result<(), Error> {
    let read = "SELECT stock * 1000 + version FROM product WHERE id = 1";
    let read = DB::fetch(tx, tx.for_update(DB::sql(read)), &[]).await?;
    let (stock, version) = (read / 1000, read % 1000);
    let write = "UPDATE product SET stock = ?, version = version + 1 WHERE id = 1 AND version = ?";
    let done = DB::execute(tx, DB::sql(write), &[stock - 1, version]).await?;
    tx.expect_one(done)
}

async fn subtract_one<DB: TestBackend>(tx: &mut Tx<DB>) -> Result<(), Error> {
    let done = DB::execute(tx, DB::sql("UPDATE product SET stock = stock - 1 WHERE id = 1"), &[]).await?;
    tx.expect_one(done)
}

pub(super) fn sales<DB: TestBackend>(pool: &Pool<DB>) -> Explore<'_, DB> {
    explore(pool)
        .set_up(|pool| all(pool, &["DELETE FROM product", "INSERT INTO product VALUES (1, 10, 0)"]))
        .expect("stock", 8_i64, |pool| integer(pool, "SELECT stock FROM product WHERE id = 1"))
}

pub(crate) async fn an_unguarded_read_modify_write_loses_updates<DB: TestBackend>() {
    let pool = database::<DB>(PRODUCT, 2).await;
    let db = PoolTransactor::new(Unguarded(Isolation::ReadCommitted), &pool);
    let report =
        assert_violation(|| sales(&pool).unit("alice", &db, sell_one).unit("bob", &db, sell_one)).await;
    assert!(report.complete);
    assert_eq!(
        (report.schedules, report.counterexamples.len()),
        (50, 40),
        "8 over 4, less the orders that differ only in waits"
    );
}

async fn sell_one_in_two_transactions<DB: TestBackend>(
    db: Client<'_, PoolTransactor<DB, Pessimistic>>,
) -> Result<(), Error> {
    let stock = db
        .run(async |tx: &mut Tx<DB>| {
            let read = DB::sql("SELECT stock FROM product WHERE id = 1");
            Ok::<_, Error>(DB::fetch(tx, read, &[]).await?)
        })
        .await?;
    db.run(async move |tx: &mut Tx<DB>| {
        DB::execute(tx, DB::sql("UPDATE product SET stock = ? WHERE id = 1"), &[stock - 1]).await?;
        Ok::<_, Error>(())
    })
    .await
}

/// Loses updates on SQLite too, where every transaction is serializable.
pub(crate) async fn reading_and_writing_in_two_transactions_loses_updates<DB: TestBackend>() {
    let pool = database::<DB>(PRODUCT, 2).await;
    let db = Pessimistic::default().on(&pool);
    assert_violation(|| {
        sales(&pool).client("alice", &db, sell_one_in_two_transactions).client(
            "bob",
            &db,
            sell_one_in_two_transactions,
        )
    })
    .await;
}

pub(crate) async fn guarded_sales_lose_no_update<DB: TestBackend>() {
    let pool = database::<DB>(PRODUCT, 2).await;
    let db = Pessimistic::default().on(&pool);
    assert_passes(sales(&pool).unit("alice", &db, sell_one).unit("bob", &db, sell_one)).await;
    let db = Optimistic::default().on(&pool);
    assert_passes(sales(&pool).unit("alice", &db, sell_one_versioned).unit("bob", &db, sell_one_versioned))
        .await;
    let db = Atomic::default().on(&pool);
    assert_passes(sales(&pool).unit("alice", &db, subtract_one).unit("bob", &db, subtract_one)).await;
    // On MariaDB, SERIALIZABLE reads acquire shared locks, so both clients may deadlock when they write.
    let db = Serializable::default().on(&pool);
    assert_passes(sales(&pool).unit("alice", &db, sell_one).unit("bob", &db, sell_one).allow_deadlocks())
        .await;
}

/// Compares the display with a snapshot file.
pub(crate) async fn a_counterexample_is_displayed_as_swim_lanes<DB: TestBackend>() {
    let pool = database::<DB>(PRODUCT, 2).await;
    let db = Pessimistic::default().on(&pool);
    let report = sales(&pool)
        .unit("alice", &db, sell_one)
        .client("bob", &db, sell_one_in_two_transactions)
        .max_schedules(40)
        .run()
        .await
        .expect("explored");
    let lanes = report.first().expect("bob reads in one transaction and writes in another").to_string();
    let file =
        format!("{}/tests/snapshots/lanes.{}.txt", env!("CARGO_MANIFEST_DIR"), DB::NAME.to_lowercase());
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        std::fs::write(&file, &lanes).expect("write the snapshot");
    }
    let snapshot = std::fs::read_to_string(&file).expect("a snapshot");
    assert_eq!(
        lanes, snapshot,
        "differs from {file}; review it and update the file with UPDATE_SNAPSHOTS=1:\n{lanes}"
    );
}
