//! Which locks `LockOrder` recognizes, and which ones it lists as unknown.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};

use atomically::testing::LockOrder;
use atomically::{Error, Pessimistic, RowLock, Transactor, TransactorExt as _, Tx};
use sqlx::{AssertSqlSafe, SqlSafeStr as _};
use tokio::sync::Barrier;

use super::locks::bank;
use crate::support::{TestBackend, TestPool};

/// Runs one transaction of these statements.
async fn run<DB: TestBackend>(db: &impl Transactor<DB>, statements: &[&str]) {
    let unit = async |tx: &mut Tx<DB>| {
        for sql in statements {
            send(tx, sql).await?;
        }
        Ok::<_, Error>(())
    };
    db.run(unit).await.expect("a commit");
}

/// Fetches the result of a SELECT, so that `LockOrder` observes it. Other statements have no result.
async fn send<DB: TestBackend>(tx: &mut Tx<DB>, sql: &str) -> Result<(), Error> {
    let text = AssertSqlSafe(sql.to_owned()).into_sql_str();
    if sql.starts_with("SELECT") {
        let _ = DB::fetch(tx, text, &[]).await;
    } else {
        DB::execute(tx, text, &[]).await?;
    }
    Ok(())
}

async fn prepare<DB: TestBackend>(pool: &TestPool<DB>, statements: &[&str]) {
    for sql in statements {
        let text = AssertSqlSafe((*sql).to_owned()).into_sql_str();
        DB::pool_execute(pool, text, &[]).await.expect(sql);
    }
}

/// Runs these two transactions one after the other, and returns their recorded order.
async fn order_of<DB: TestBackend>(pool: &TestPool<DB>, units: [&[&str]; 2]) -> LockOrder {
    let db = Pessimistic::default().on(&pool.pool);
    let order = LockOrder::new();
    for unit in units {
        run(&order.on(&db), unit).await;
    }
    order
}

fn is_certain(order: &LockOrder) -> bool {
    order.inversions().is_empty() && order.unknown().is_empty()
}

fn describe(order: &LockOrder) -> String {
    format!("{:?} {:?}", order.inversions(), order.unknown())
}

const FIRST: &str = "UPDATE account SET balance = balance + 1 WHERE id = 1";
const SECOND: &str = "UPDATE account SET balance = balance + 1 WHERE id = 2";

/// An assertion must not pass because the order is unknown.
pub(crate) async fn an_unknown_order_fails_the_consistency_assertion<DB: TestBackend>() {
    let pool = bank::<DB>(1).await;
    let unit = ["UPDATE account SET balance = 7 WHERE balance = 1"];
    let order = order_of(&pool, [&unit, &unit]).await;
    assert!(order.inversions().is_empty());
    assert_eq!(order.unknown().len(), 1);
    catch_unwind(AssertUnwindSafe(|| order.assert_consistent())).expect_err("the order is unknown");
}

/// A session lock that is released early does not keep other transactions out.
pub(crate) async fn a_released_session_lock_does_not_guard_other_locks<DB: TestBackend>() {
    let pool = bank::<DB>(1).await;
    let [lock, unlock] = match DB::NAME {
        "PostgreSQL" => [
            "SELECT 1::bigint FROM (SELECT pg_advisory_lock(7)) AS taken",
            "SELECT pg_advisory_unlock(7)::int::bigint",
        ],
        // Of this test alone, because such a lock is the same in all databases of a server.
        _ => ["SELECT GET_LOCK('released', 60)", "SELECT RELEASE_LOCK('released')"],
    };
    let unlocked = order_of(&pool, [&[lock, unlock, FIRST, SECOND], &[lock, unlock, SECOND, FIRST]]).await;
    assert_eq!(unlocked.inversions().len(), 1, "{}", describe(&unlocked));
    let kept = order_of(&pool, [&[lock, FIRST, SECOND, unlock], &[lock, SECOND, FIRST, unlock]]).await;
    assert_eq!(kept.inversions(), []);
    // The session lock is released before the commit and the rows are not: that must not be reported as
    // unknown.
    assert!(kept.unknown().is_empty(), "{}", describe(&kept));
}

/// The key of the lock depends on the data.
pub(crate) async fn an_advisory_lock_keyed_by_a_column_is_unknown<DB: TestBackend>() {
    let pool = bank::<DB>(1).await;
    let [one, other] = match DB::NAME {
        "PostgreSQL" => [
            "SELECT id FROM (SELECT id, pg_advisory_xact_lock(id) FROM account WHERE id = 5) AS taken",
            "SELECT id FROM (SELECT id, pg_advisory_xact_lock(id) FROM account WHERE id = 6) AS taken",
        ],
        _ => [
            "SELECT GET_LOCK(id, 60) FROM account WHERE id = 5",
            "SELECT GET_LOCK(id, 60) FROM account WHERE id = 6",
        ],
    };
    let order = order_of(&pool, [&[one, FIRST, SECOND], &[other, SECOND, FIRST]]).await;
    assert!(!is_certain(&order), "the two locks may be the same or not");
}

/// Both statements lock the same key.
pub(crate) async fn treats_differently_spelled_advisory_keys_as_the_same_lock<DB: TestBackend>() {
    let pool = bank::<DB>(1).await;
    let [plain, cast] = match DB::NAME {
        "PostgreSQL" => [
            "SELECT 1::bigint FROM (SELECT pg_advisory_xact_lock(7)) AS taken",
            "SELECT 1::bigint FROM (SELECT pg_advisory_xact_lock(7::bigint)) AS taken",
        ],
        _ => ["SELECT GET_LOCK('spelled', 60)", "SELECT GET_LOCK('SPELLED', 60)"],
    };
    let order = order_of(&pool, [&[plain, FIRST], &[FIRST, cast]]).await;
    assert_eq!(order.inversions().len(), 1, "{}", describe(&order));
}

/// Two concurrent transactions that insert the same values in opposite orders would deadlock.
pub(crate) async fn reports_unique_keys_in_opposite_orders<DB: TestBackend>() {
    let pool = bank::<DB>(1).await;
    let create = "CREATE TABLE member (id BIGINT PRIMARY KEY, email VARCHAR(20) NOT NULL UNIQUE)";
    prepare(&pool, &[create]).await;
    let order = order_of(
        &pool,
        [
            &[
                "INSERT INTO member (id, email) VALUES (1, 'a')",
                "INSERT INTO member (id, email) VALUES (2, 'b')",
                "DELETE FROM member WHERE id = 1",
                "DELETE FROM member WHERE id = 2",
            ],
            &[
                "INSERT INTO member (id, email) VALUES (3, 'b')",
                "INSERT INTO member (id, email) VALUES (4, 'a')",
            ],
        ],
    )
    .await;
    assert_eq!(order.inversions().len(), 1, "{}", describe(&order));
    assert_eq!(order.unknown(), []);
}

/// The statements name the same table with and without its schema.
pub(crate) async fn treats_a_schema_qualified_name_as_the_same_table<DB: TestBackend>() {
    let pool = bank::<DB>(1).await;
    let schema = match DB::NAME {
        "PostgreSQL" => "public".to_owned(),
        "MySQL" => pool.url.rsplit('/').next().expect("a database").to_owned(),
        _ => "main".to_owned(),
    };
    let [first, second] = [FIRST, SECOND].map(|sql| sql.replace("account", &format!("{schema}.account")));
    let order = order_of(&pool, [&[FIRST, SECOND], &[&second, &first]]).await;
    assert_eq!(order.inversions().len(), 1, "{}", describe(&order));
    assert_eq!(order.unknown(), []);
}

/// TRUNCATE locks the whole table and names no row.
pub(crate) async fn the_order_of_table_locks_is_not_certain<DB: TestBackend>() {
    let pool = bank::<DB>(1).await;
    prepare(&pool, &["CREATE TABLE note (id BIGINT)"]).await;
    let order = order_of(&pool, [&["TRUNCATE note", FIRST], &[FIRST, "TRUNCATE note"]]).await;
    assert!(!is_certain(&order), "the transactions can deadlock");
}

#[derive(Clone, Copy, PartialEq)]
enum Held {
    AdvisoryLock,
    Row,
}

/// Runs `during` while a transaction on another pool holds the lock.
async fn while_held<DB: TestBackend>(pool: &TestPool<DB>, held: Held, during: impl Future<Output = ()>) {
    let other = DB::another(&pool.url).await;
    let db = Pessimistic::default().on(&other);
    let locked = Barrier::new(2);
    let holder = db.run(async |tx: &mut Tx<DB>| {
        match held {
            Held::AdvisoryLock => tx.advisory_lock("gate").await?,
            Held::Row => send(tx, "UPDATE account SET balance = 1 WHERE id = 3").await?,
        }
        locked.wait().await;
        locked.wait().await;
        Ok::<_, Error>(())
    });
    let rest = async {
        locked.wait().await;
        during.await;
        locked.wait().await;
    };
    tokio::join!(holder, rest).0.expect("a commit");
}

async fn try_first<DB: TestBackend>(db: &impl Transactor<DB>, granted: bool, rows: [&str; 2]) {
    let unit = async |tx: &mut Tx<DB>| {
        assert_eq!(tx.try_advisory_lock("gate").await?, granted);
        for sql in rows {
            send(tx, sql).await?;
        }
        Ok::<_, Error>(())
    };
    db.run(unit).await.expect("a commit");
}

/// A lock that was not granted keeps no transaction out.
pub(crate) async fn a_lock_that_is_not_granted_does_not_guard_other_locks<DB: TestBackend>() {
    let pool = bank::<DB>(3).await;
    let db = Pessimistic::default().on(&pool.pool);
    for granted in [true, false] {
        let order = LockOrder::new();
        let watched = order.on(&db);
        let both = async {
            try_first(&watched, granted, [FIRST, SECOND]).await;
            try_first(&watched, granted, [SECOND, FIRST]).await;
        };
        if granted {
            both.await
        } else {
            while_held(&pool, Held::AdvisoryLock, both).await
        }
        assert_eq!(order.inversions().len(), usize::from(!granted), "granted: {granted}");
    }
}

/// The row does not exist, so the statement locks nothing.
pub(crate) async fn a_missing_row_does_not_guard_other_locks<DB: TestBackend>() {
    let pool = bank::<DB>(2).await;
    let missing = "UPDATE account SET balance = 1 WHERE id = 99";
    let order = order_of(&pool, [&[missing, FIRST, SECOND], &[missing, SECOND, FIRST]]).await;
    assert_eq!(order.inversions().len(), 1, "{}", describe(&order));
    let existing = "UPDATE account SET balance = 1 WHERE id = 3";
    let order = order_of(&pool, [&[existing, FIRST, SECOND], &[existing, SECOND, FIRST]]).await;
    assert!(is_certain(&order), "{}", describe(&order));
}

async fn skip_first<DB: TestBackend>(db: &impl Transactor<DB>, rows: [&str; 2]) {
    let unit = async |tx: &mut Tx<DB>| {
        let select = DB::sql("SELECT balance FROM account WHERE id = 3");
        let _ = DB::fetch(tx, tx.locking(RowLock::UPDATE.skip_locked(), select)?, &[]).await;
        for sql in rows {
            send(tx, sql).await?;
        }
        Ok::<_, Error>(())
    };
    db.run(unit).await.expect("a commit");
}

/// SKIP LOCKED does not lock a row that another transaction holds.
pub(crate) async fn a_skipped_row_does_not_guard_other_locks<DB: TestBackend>() {
    let pool = bank::<DB>(2).await;
    let db = Pessimistic::default().on(&pool.pool);
    let order = LockOrder::new();
    let watched = order.on(&db);
    let both = async {
        skip_first(&watched, [FIRST, SECOND]).await;
        skip_first(&watched, [SECOND, FIRST]).await;
    };
    while_held(&pool, Held::Row, both).await;
    assert_eq!(order.inversions().len(), 1, "{}", describe(&order));
}

/// Rows of different tenants are different rows, even if they have the same id.
pub(crate) async fn distinguishes_rows_by_composite_key<DB: TestBackend>() {
    let pool = bank::<DB>(1).await;
    prepare(
        &pool,
        &[
            "CREATE TABLE item (tenant BIGINT NOT NULL, id BIGINT NOT NULL, n BIGINT NOT NULL, \
             PRIMARY KEY (tenant, id))",
            "INSERT INTO item VALUES (1, 1, 0), (1, 2, 0), (2, 1, 0), (2, 2, 0)",
        ],
    )
    .await;
    let change =
        |tenant: i64, id: i64| format!("UPDATE item SET n = n + 1 WHERE tenant = {tenant} AND id = {id}");
    let order = order_of(&pool, [&[&change(1, 1), &change(1, 2)], &[&change(2, 2), &change(2, 1)]]).await;
    assert!(is_certain(&order), "{}", describe(&order));
    let order = order_of(&pool, [&[&change(1, 1), &change(1, 2)], &[&change(1, 2), &change(1, 1)]]).await;
    assert_eq!(order.inversions().len(), 1, "{}", describe(&order));
}
