//! The known anomalies match no serial order.

use atomically::testing::{Client, Explore, explore};
use atomically::{
    Error, Isolation, Optimistic, Pessimistic, PoolTransactor, Serializable, Transactor, TransactorExt as _,
    Tx,
};
use sqlx::Pool;

use crate::program::Line::{self, Add, Count, Enter, EnterIfNone, Read};
use crate::program::{ACCOUNT, ENTRY, reset, run};
use crate::support::TestBackend;
use crate::{Unguarded, all, assert_not_serializable, assert_serializable, database};

pub(crate) const PRODUCT: &str =
    "CREATE TABLE product (id BIGINT PRIMARY KEY, stock BIGINT NOT NULL, version BIGINT NOT NULL)";
pub(crate) const DOCTOR: &str = "CREATE TABLE doctor (id BIGINT PRIMARY KEY, on_call BIGINT NOT NULL)";

/// The folklore: the statement checks the version, and the unit ignores its result.
pub(crate) async fn sell_without_expect_one<DB: TestBackend>(tx: &mut Tx<DB>) -> Result<i64, Error> {
    let read = DB::sql("SELECT stock * 1000 + version FROM product WHERE id = 1");
    let read = DB::fetch(tx, tx.for_update(read), &[]).await?;
    let (stock, version) = (read / 1000, read % 1000);
    let write = "UPDATE product SET stock = ?, version = version + 1 WHERE id = 1 AND version = ?";
    DB::execute(tx, DB::sql(write), &[stock - 1, version]).await?;
    Ok(stock - 1)
}

fn sales<'a, DB: TestBackend, X: Transactor<DB>>(pool: &Pool<DB>, db: &'a X) -> Explore<'a, DB> {
    explore(pool)
        .set_up(|pool| all(pool, &["DELETE FROM product", "INSERT INTO product VALUES (1, 10, 0)"]))
        .unit("alice", db, sell_without_expect_one)
        .unit("bob", db, sell_without_expect_one)
        .allow_deadlocks()
}

pub(crate) async fn a_version_check_without_expect_one_loses_updates<DB: TestBackend>() {
    let pool = database::<DB>(&[PRODUCT]).await;
    let db = Optimistic::default().on(&pool);
    let text = assert_not_serializable(|| sales(&pool, &db)).await;
    assert!(text.contains("≠   id = 1, stock = 9, version = 1"), "{text}");
    assert!(text.contains("│   id = 1, stock = 8, version = 2"), "{text}");
    assert_serializable(sales(&pool, &Pessimistic::default().on(&pool))).await;
    assert_serializable(sales(&pool, &Serializable::default().on(&pool))).await;
}

pub(crate) async fn go_off_duty<DB: TestBackend>(tx: &mut Tx<DB>, id: i64) -> Result<(), Error> {
    let on_call = "SELECT COUNT(*) FROM doctor WHERE on_call = 1";
    if DB::fetch(tx, DB::sql(on_call), &[]).await? > 1 {
        DB::execute(tx, DB::sql("UPDATE doctor SET on_call = 0 WHERE id = ?"), &[id]).await?;
    }
    Ok(())
}

fn duty<'a, DB: TestBackend, X: Transactor<DB>>(pool: &Pool<DB>, db: &'a X) -> Explore<'a, DB> {
    explore(pool)
        .set_up(|pool| all(pool, &["DELETE FROM doctor", "INSERT INTO doctor VALUES (1, 1), (2, 1)"]))
        .unit("alice", db, async |tx: &mut Tx<DB>| go_off_duty(tx, 1).await)
        .unit("bob", db, async |tx: &mut Tx<DB>| go_off_duty(tx, 2).await)
        .allow_deadlocks()
}

pub(crate) async fn write_skew_matches_no_serial_order_below_serializable<DB: TestBackend>() {
    let pool = database::<DB>(&[DOCTOR]).await;
    for isolation in [Isolation::ReadCommitted, Isolation::RepeatableRead] {
        let db = PoolTransactor::new(Unguarded(isolation), &pool);
        assert_not_serializable(|| duty(&pool, &db)).await;
    }
}

pub(crate) async fn serializable_units_match_a_serial_order<DB: TestBackend>() {
    let pool = database::<DB>(&[DOCTOR, PRODUCT]).await;
    let db = Serializable::default().on(&pool);
    assert_serializable(duty(&pool, &db)).await;
    assert_serializable(sales(&pool, &db)).await;
}

fn two<'a, DB: TestBackend>(
    pool: &Pool<DB>,
    db: &'a PoolTransactor<DB, Unguarded>,
    [alice, bob]: [&'static [Line]; 2],
) -> Explore<'a, DB> {
    explore(pool)
        .set_up(reset)
        .unit("alice", db, async move |tx: &mut Tx<DB>| run(tx, alice).await)
        .unit("bob", db, async move |tx: &mut Tx<DB>| run(tx, bob).await)
        .allow_deadlocks()
}

pub(crate) async fn an_audit_sees_half_a_transfer_at_read_committed_only<DB: TestBackend>() {
    let pool = database::<DB>(&[ACCOUNT, ENTRY]).await;
    let units: [&[Line]; 2] = [&[Add(1, -5), Add(2, 5)], &[Read(1), Read(2)]];
    let db = PoolTransactor::new(Unguarded(Isolation::ReadCommitted), &pool);
    let text = assert_not_serializable(|| two(&pool, &db, units)).await;
    assert!(text.contains("≠   [100, 205]"), "the tables are as they should be: {text}");
    let db = PoolTransactor::new(Unguarded(Isolation::RepeatableRead), &pool);
    assert_serializable(two(&pool, &db, units)).await;
}

pub(crate) async fn phantoms_match_no_serial_order<DB: TestBackend>() {
    let pool = database::<DB>(&[ACCOUNT, ENTRY]).await;
    let counted_twice: [&[Line]; 2] = [&[Count(1), Count(1)], &[Enter(1)]];
    let db = PoolTransactor::new(Unguarded(Isolation::ReadCommitted), &pool);
    assert_not_serializable(|| two(&pool, &db, counted_twice)).await;
    let entered_twice: [&[Line]; 2] = [&[Count(1), EnterIfNone(1)]; 2];
    assert_not_serializable(|| two(&pool, &db, entered_twice)).await;
    let db = PoolTransactor::new(Unguarded(Isolation::RepeatableRead), &pool);
    assert_serializable(two(&pool, &db, counted_twice)).await;
    assert_not_serializable(|| two(&pool, &db, entered_twice)).await;
    let db = PoolTransactor::new(Unguarded(Isolation::Serializable), &pool);
    assert_serializable(two(&pool, &db, entered_twice)).await;
}

async fn sell_in_two_transactions<DB: TestBackend>(
    db: Client<'_, PoolTransactor<DB, Pessimistic>>,
) -> Result<(), Error> {
    let read = async |tx: &mut Tx<DB>| {
        let read = DB::sql("SELECT stock FROM product WHERE id = 1");
        Ok::<_, Error>(DB::fetch(tx, read, &[]).await?)
    };
    let stock = db.run(read).await?;
    db.run(async move |tx: &mut Tx<DB>| {
        DB::execute(tx, DB::sql("UPDATE product SET stock = ? WHERE id = 1"), &[stock - 1]).await?;
        Ok::<_, Error>(())
    })
    .await
}

/// A client counts as one unit.
pub(crate) async fn reading_and_writing_in_two_transactions_matches_no_serial_order<DB: TestBackend>() {
    let pool = database::<DB>(&[PRODUCT]).await;
    let db = Pessimistic::default().on(&pool);
    assert_not_serializable(|| {
        explore(&pool)
            .set_up(|pool| all(pool, &["DELETE FROM product", "INSERT INTO product VALUES (1, 10, 0)"]))
            .client("alice", &db, sell_in_two_transactions)
            .client("bob", &db, sell_in_two_transactions)
    })
    .await;
}
