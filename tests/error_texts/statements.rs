//! Statements that fail.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use atomically::{
    Atomic, Backoff, Error, Optimistic, Options, Pessimistic, RetryBudget, Serializable, TransactorExt as _,
    Tx,
};
use sqlx::Postgres;
use tokio::sync::Barrier;

use crate::support::{TestBackend, TestPool};
use crate::table::{Table, checkout};

pub(crate) async fn counter<DB: TestBackend>(connections: u32) -> TestPool<DB> {
    let pool = DB::pool(connections).await;
    for sql in [
        "CREATE TABLE counter (id BIGINT PRIMARY KEY, value BIGINT NOT NULL, version BIGINT)",
        "INSERT INTO counter VALUES (1, 0, 0), (2, 0, 0)",
    ] {
        DB::pool_execute(&pool, DB::sql(sql), &[]).await.expect("set up");
    }
    pool
}

/// A unit that consists of this statement.
pub(crate) async fn unit<DB: TestBackend>(tx: &mut Tx<DB>, sql: &str) -> Result<(), Error> {
    DB::execute(tx, DB::sql(sql), &[]).await?;
    Ok(())
}

pub(crate) async fn that_fail<DB: TestBackend>(table: &mut Table) {
    let pool = counter::<DB>(1).await;
    let db = Pessimistic::default().on(&pool);
    for (what, sql) in [
        ("table missing", "SELECT id FROM no_such_table"),
        ("syntax error", "SELEC id FROM counter"),
        ("value of the wrong type", "SELECT 'a text'"),
        ("no row", "SELECT id FROM counter WHERE id = 99"),
    ] {
        let named = checkout(&db);
        let run = named.run(async |tx: &mut Tx<DB>| {
            DB::fetch(tx, DB::sql(sql), &[]).await?;
            Ok::<_, Error>(())
        });
        table.record(what, run).await;
    }
    let named = checkout(&db);
    let run = named.run(async |tx: &mut Tx<DB>| {
        let _ = DB::fetch(tx, DB::sql("SELECT id FROM no_such_table"), &[]).await;
        DB::fetch(tx, DB::sql("SELECT id FROM no_such_table"), &[]).await.map_err(Error::from)
    });
    table.record("a statement after one that failed", run).await;
    let lone = Atomic::default().on(&pool);
    let missing = sqlx::raw_sql(DB::sql("UPDATE no_such_table SET id = 1"));
    table.record("table missing, a lone statement", checkout(&lone).apply(missing)).await;
    let named = checkout(&db);
    let run = named.run(async |tx: &mut Tx<DB>| Err::<(), _>(tx.stale_claim("another worker has this task")));
    table.record("stale claim", run).await;
    let reader = Pessimistic::default().on(&pool).options(Options::new().read_only());
    let named = checkout(&reader);
    let run = named.run(async |tx: &mut Tx<DB>| unit(tx, "UPDATE counter SET value = 1").await);
    table.record("a write in a read-only run", run).await;
}

pub(crate) async fn without_a_value<DB: TestBackend>(table: &mut Table) {
    let pool = counter::<DB>(2).await;
    let db = Pessimistic::default().on(&pool);
    let named = checkout(&db);
    let run = named.run(async |tx: &mut Tx<DB>| {
        DB::execute(tx, DB::sql("UPDATE counter SET value = ? WHERE id = ?"), &[7]).await.map_err(Error::from)
    });
    table.record("missing bind", run).await;
}

pub(crate) async fn that_violate_constraints<DB: TestBackend>(table: &mut Table) {
    let pool = DB::pool(2).await;
    for sql in [
        "CREATE TABLE parent (id BIGINT PRIMARY KEY)",
        "CREATE TABLE child (
            id BIGINT PRIMARY KEY,
            parent_id BIGINT NOT NULL,
            code BIGINT NOT NULL,
            amount BIGINT NOT NULL,
            CONSTRAINT child_code UNIQUE (code),
            CONSTRAINT child_parent FOREIGN KEY (parent_id) REFERENCES parent (id),
            CONSTRAINT child_amount CHECK (amount >= 0))",
        "INSERT INTO parent VALUES (1)",
        "INSERT INTO child VALUES (1, 1, 1, 0)",
    ] {
        DB::pool_execute(&pool, DB::sql(sql), &[]).await.expect("set up");
    }
    let db = Pessimistic::default().on(&pool);
    for (what, row) in [
        ("unique violation", "2, 1, 1, 0"),
        ("foreign key violation", "2, 99, 2, 0"),
        ("NULL in a column without", "2, NULL, 2, 0"),
        ("check violation", "2, 1, 2, -1"),
    ] {
        let insert = format!("INSERT INTO child VALUES ({row})");
        table.record(what, checkout(&db).run(async |tx: &mut Tx<DB>| unit(tx, &insert).await)).await;
    }
    let again = db.clone().options(Options::new().retry_unique(2));
    let insert = "INSERT INTO child VALUES (1, 1, 1, 0)";
    let named = checkout(&again);
    let run = named.run(async |tx: &mut Tx<DB>| unit(tx, insert).await);
    table.record("unique violation, retried", run).await;
}

pub(crate) async fn an_exclusion_constraint(table: &mut Table) {
    let pool = Postgres::pool(1).await;
    let create = "CREATE TABLE booking (during INT4RANGE, EXCLUDE USING gist (during WITH &&))";
    Postgres::pool_execute(&pool, Postgres::sql(create), &[]).await.expect("a table");
    let db = Pessimistic::default().on(&pool);
    let named = checkout(&db);
    let run = named.run(async |tx: &mut Tx<Postgres>| {
        unit(tx, "INSERT INTO booking VALUES ('[1,3)')").await?;
        unit(tx, "INSERT INTO booking VALUES ('[2,4)')").await
    });
    table.record("exclusion violation", run).await;
}

pub(crate) async fn that_conflict<DB: TestBackend>(table: &mut Table) {
    let pool = counter::<DB>(2).await;
    let db = Optimistic::default().on(&pool).attempts(2).backoff(Backoff::none());
    let stale = async |tx: &mut Tx<DB>| {
        let update = DB::sql("UPDATE counter SET value = 1 WHERE id = 1 AND version = ?");
        let done = DB::execute(tx, update, &[99]).await?;
        tx.expect_one(done)
    };
    table.record("version conflict, attempts spent", checkout(&db).run(stale)).await;
    let spent = db.clone().retry_budget(&RetryBudget::new().reserve(0));
    table.record("version conflict, retry budget spent", checkout(&spent).run(stale)).await;
    let slow = db.clone().backoff(Backoff::exponential(Duration::from_secs(9), Duration::from_secs(9)));
    let slow = slow.deadline(Duration::from_millis(50)).options(Options::new().seed(5));
    let run = async || checkout(&slow).run(stale).await;
    table.record_in_time("version conflict, no time for the next attempt", run).await;
    let named = checkout(&db);
    let run = named.run(async |tx: &mut Tx<DB>| {
        let update = DB::sql("UPDATE counter SET value = 1 WHERE id = ? AND version = ?");
        let done = DB::execute_nullable(tx, update, &[Some(1), None]).await?;
        tx.expect_one(done)
    });
    table.record("version that is NULL", run).await;
    let named = checkout(&db);
    let run = named.run(async |tx: &mut Tx<DB>| {
        let done = DB::execute(tx, DB::sql("UPDATE counter SET value = value + 1"), &[]).await?;
        tx.expect_one(done)
    });
    table.record("more rows than one", run).await;
    let named = checkout(&db);
    let run = named.run(async |tx: &mut Tx<DB>| {
        let _ = stale(tx).await;
        Ok::<_, Error>(())
    });
    table.record("a conflict that the unit hides", run).await;
}

pub(crate) async fn that_deadlock<DB: TestBackend>(table: &mut Table) {
    let pool = counter::<DB>(3).await;
    let db = Optimistic::default().on(&pool).attempts(1);
    let (both, taken) = (Barrier::new(2), AtomicBool::new(false));
    let in_order = async |first: i64, second: i64| {
        let unit = async |tx: &mut Tx<DB>| {
            let add = || DB::sql("UPDATE counter SET value = value + 1 WHERE id = ?");
            DB::execute(tx, add(), &[first]).await?;
            both.wait().await;
            DB::execute(tx, add(), &[second]).await.map_err(Error::from)
        };
        let ended = checkout(&db).run(unit).await.map(drop);
        taken.store(true, Ordering::Relaxed);
        ended
    };
    let victim = async {
        let (one, other) = tokio::join!(in_order(1, 2), in_order(2, 1));
        one.and(other)
    };
    table.record("deadlock", victim).await;

    let db = Serializable::default().on(&pool).attempts(1);
    let both = Barrier::new(2);
    let read_and_write = async || {
        let unit = async |tx: &mut Tx<DB>| {
            let read = DB::fetch(tx, DB::sql("SELECT value FROM counter WHERE id = 1"), &[]).await?;
            both.wait().await;
            let write = DB::sql("UPDATE counter SET value = ? WHERE id = 1");
            DB::execute(tx, write, &[read + 1]).await.map_err(Error::from)
        };
        checkout(&db).run(unit).await.map(drop)
    };
    let loser = async {
        let (one, other) = tokio::join!(read_and_write(), read_and_write());
        one.and(other)
    };
    table.record("serialization conflict", loser).await;
}
