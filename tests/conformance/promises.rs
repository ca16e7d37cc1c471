//! Promises of the crate beyond its strategies, in every interleaving of concurrent clients.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use atomically::testing::{Client, Counterexample, Explore, Fault, Faults, Moment, Problem, Report, explore};
use atomically::{
    Adaptive, Atomic, Error, Gate, Isolation, Optimistic, Options, Pessimistic, PoolTransactor, Resolve,
    RowLock, Serializable, Strategy, TransactorExt as _, Tx,
};
use sqlx::Pool;

use super::exploration::{Unguarded, all, database, integer};
use crate::support::TestBackend;

const ITEM: &str = "CREATE TABLE item (id BIGINT PRIMARY KEY, value BIGINT NOT NULL)";
const VALUE: &str = "SELECT value FROM item WHERE id = 1";

/// The number of interleavings of two clients with two steps each. With fewer, an exploration proves little.
const MIN_SCHEDULES: usize = 6;

/// Asserts that every interleaving was run and passed.
async fn assert_passes<DB: TestBackend>(exploration: Explore<'_, DB>) {
    let report = exploration.run().await.expect("explored");
    assert_eq!(report.diverged, 0, "a schedule diverged: {report}");
    report.assert_passes();
    assert!(report.complete && report.schedules >= MIN_SCHEDULES, "{report}");
}

/// An exploration that starts with two items of value 0.
fn items<DB: TestBackend>(pool: &Pool<DB>) -> Explore<'_, DB> {
    let items = ["DELETE FROM item", "INSERT INTO item VALUES (1, 0), (2, 0)"];
    explore(pool).set_up(move |pool| async move { all(pool, &items).await })
}

/// Reads the value and writes it back, without a guard.
async fn add_one<DB: TestBackend>(tx: &mut Tx<DB>) -> Result<(), Error> {
    let value = DB::fetch(tx, DB::sql(VALUE), &[]).await?;
    DB::execute(tx, DB::sql("UPDATE item SET value = ? WHERE id = 1"), &[value + 1]).await?;
    Ok(())
}

pub(crate) async fn advisory_locks_exclude_each_other<DB: TestBackend>() {
    let pool = database::<DB>(ITEM, 2).await;
    let db = PoolTransactor::new(Unguarded(Isolation::ReadCommitted), &pool);
    let unit = async |tx: &mut Tx<DB>| {
        tx.advisory_lock(("item", 1)).await?;
        add_one(tx).await
    };
    assert_passes(items(&pool).unit("alice", &db, unit).unit("bob", &db, unit).expect(
        "value",
        2_i64,
        |pool| integer(pool, VALUE),
    ))
    .await;
}

pub(crate) async fn skip_locked_takes_each_row_once<DB: TestBackend>() {
    let pool = database::<DB>(ITEM, 2).await;
    let db = PoolTransactor::new(Unguarded(Isolation::ReadCommitted), &pool);
    let unit = async |tx: &mut Tx<DB>| {
        let free = DB::sql("SELECT id FROM item WHERE value = 0 ORDER BY id LIMIT 1");
        let id = DB::fetch(tx, tx.locking(RowLock::UPDATE.skip_locked(), free)?, &[]).await?;
        DB::execute(tx, DB::sql("UPDATE item SET value = value + 1 WHERE id = ?"), &[id]).await?;
        Ok::<_, Error>(())
    };
    assert_passes(items(&pool).unit("alice", &db, unit).unit("bob", &db, unit).expect(
        "items that were taken once",
        2_i64,
        |pool| integer(pool, "SELECT COUNT(*) FROM item WHERE value = 1"),
    ))
    .await;
}

/// The second client finds the row that the first one has created.
pub(crate) async fn get_or_create_creates_one_row<DB: TestBackend>() {
    let pool = database::<DB>(ITEM, 2).await;
    let db = Pessimistic::default().on(&pool).options(Options::new().retry_unique(1));
    let unit = async |tx: &mut Tx<DB>| {
        if DB::fetch(tx, DB::sql("SELECT COUNT(*) FROM item WHERE id = 7"), &[]).await? == 0 {
            DB::execute(tx, DB::sql("INSERT INTO item VALUES (7, 0)"), &[]).await?;
        }
        DB::execute(tx, DB::sql("UPDATE item SET value = value + 1 WHERE id = 7"), &[]).await?;
        Ok::<_, Error>(())
    };
    assert_passes(items(&pool).unit("alice", &db, unit).unit("bob", &db, unit).expect(
        "value",
        2_i64,
        |pool| integer(pool, "SELECT value FROM item WHERE id = 7"),
    ))
    .await;
}

/// Get or create with a savepoint around the INSERT.
pub(crate) async fn a_savepoint_survives_a_unique_violation<DB: TestBackend>() {
    let pool = database::<DB>(ITEM, 2).await;
    let db = Pessimistic::default().on(&pool);
    let unit = async |tx: &mut Tx<DB>| {
        let _ = tx
            .savepoint(async |tx: &mut Tx<DB>| {
                DB::execute(tx, DB::sql("INSERT INTO item VALUES (7, 0)"), &[]).await?;
                Ok::<_, Error>(())
            })
            .await;
        DB::execute(tx, DB::sql("UPDATE item SET value = value + 1 WHERE id = 7"), &[]).await?;
        Ok::<_, Error>(())
    };
    assert_passes(items(&pool).unit("alice", &db, unit).unit("bob", &db, unit).allow_deadlocks().expect(
        "value",
        2_i64,
        |pool| integer(pool, "SELECT value FROM item WHERE id = 7"),
    ))
    .await;
}

pub(crate) async fn commit_hooks_run_once_per_commit<DB: TestBackend>() {
    let pool = database::<DB>(ITEM, 2).await;
    let db = Serializable::default().on(&pool);
    let hooks = Arc::new(AtomicI64::new(0));
    let (counted, reset) = (hooks.clone(), hooks.clone());
    let unit = async move |tx: &mut Tx<DB>| {
        let hooks = counted.clone();
        tx.on_commit(async move {
            hooks.fetch_add(1, Ordering::Relaxed);
        });
        add_one(tx).await
    };
    let items = ["DELETE FROM item", "INSERT INTO item VALUES (1, 0), (2, 0)"];
    assert_passes(
        explore(&pool)
            .set_up(move |pool| {
                reset.store(0, Ordering::Relaxed);
                async move { all::<DB>(pool, &items).await }
            })
            .unit("alice", &db, unit.clone())
            .unit("bob", &db, unit)
            .allow_deadlocks()
            .expect("value", 2_i64, |pool| integer(pool, VALUE))
            .expect("hooks", 2_i64, move |_| {
                let count = hooks.load(Ordering::Relaxed);
                async move { Ok::<_, Error>(count) }
            }),
    )
    .await;
}

/// The operation rows of two units cause neither waits nor conflicts between them.
pub(crate) async fn operation_rows_do_not_conflict<DB: TestBackend>() {
    let pool = database::<DB>(ITEM, 2).await;
    let db = Pessimistic::default().on(&pool);
    db.create_operation_table().await.expect("a table");
    let db = db.options(Options::new().resolve_commits(Resolve::Operation));
    let unit = async |tx: &mut Tx<DB>| {
        DB::fetch(tx, tx.for_update(DB::sql(VALUE)), &[]).await?;
        add_one(tx).await
    };
    assert_passes(items(&pool).unit("alice", &db, unit).unit("bob", &db, unit).expect(
        "value",
        2_i64,
        |pool| integer(pool, VALUE),
    ))
    .await;
}

/// A statement without BEGIN is one step.
pub(crate) async fn single_statements_lose_no_update<DB: TestBackend>() {
    let pool = database::<DB>(ITEM, 2).await;
    let db = Atomic::default().on(&pool);
    async fn add<DB: TestBackend>(db: Client<'_, PoolTransactor<DB, Atomic>>) -> Result<(), Error> {
        for _ in 0..2 {
            db.apply(sqlx::raw_sql(DB::sql("UPDATE item SET value = value + 1 WHERE id = 1"))).await?;
        }
        Ok(())
    }
    assert_passes(items(&pool).client("alice", &db, add).client("bob", &db, add).expect(
        "value",
        4_i64,
        |pool| integer(pool, VALUE),
    ))
    .await;
}

/// The set-up plans the fault anew, so that it happens in each schedule.
pub(crate) async fn faults_are_injected_into_every_schedule<DB: TestBackend>() {
    let pool = database::<DB>(ITEM, 2).await;
    let db = Pessimistic::default().on(&pool);
    let faults = Faults::new();
    let faulty = faults.on(&db);
    let unit = async |tx: &mut Tx<DB>| {
        DB::fetch(tx, tx.for_update(DB::sql(VALUE)), &[]).await?;
        add_one(tx).await
    };
    let planned = faults.clone();
    let exploration =
        items(&pool)
            .set_up(move |pool| {
                let _ = planned.clone().at(Moment::Statement(2), Fault::Deadlock);
                async move {
                    all::<DB>(pool, &["DELETE FROM item", "INSERT INTO item VALUES (1, 0), (2, 0)"]).await
                }
            })
            .unit("alice", &faulty, unit)
            .unit("bob", &faulty, unit)
            .allow_deadlocks()
            .expect("value", 2_i64, |pool| integer(pool, VALUE));
    let report = exploration.run().await.expect("explored");
    report.assert_passes();
    assert!(report.schedules >= MIN_SCHEDULES, "{report}");
    assert_eq!(faults.pending(), 0);
}

/// Reads the value for update and writes it with a check of the value that was read.
async fn add_one_guarded<DB: TestBackend>(tx: &mut Tx<DB>) -> Result<(), Error> {
    let value = DB::fetch(tx, tx.for_update(DB::sql(VALUE)), &[]).await?;
    let write = DB::sql("UPDATE item SET value = ? WHERE id = 1 AND value = ?");
    let done = DB::execute(tx, write, &[value + 1, value]).await?;
    tx.expect_one(done)
}

async fn behind_a_gate<DB: TestBackend, S: Strategy>(
    pool: &Pool<DB>,
    strategy: S,
    min_schedules: usize,
) -> Report {
    let db = PoolTransactor::new(strategy, pool).gate(&Gate::new().width(1));
    let keyed = db.on_key(("item", 1));
    let exploration = items(pool)
        .unit("alice", &keyed, add_one_guarded)
        .unit("bob", &keyed, add_one_guarded)
        .unit("carol", &keyed, add_one_guarded)
        .expect("value", 3_i64, |pool| integer(pool, VALUE))
        .max_preemptions(2)
        .allow_deadlocks();
    let report = exploration.run().await.expect("explored");
    assert!(report.schedules >= min_schedules, "{report}");
    report
}

/// Clients in a gate's queue do not block the others, and are admitted in turn.
pub(crate) async fn gates_admit_every_client<DB: TestBackend>() {
    let pool = database::<DB>(ITEM, 3).await;
    // If a transaction locks the database when it begins, the others wait before they begin, so there is only
    // one order.
    let min_if_locked = if DB::NAME == "SQLite" { 1 } else { MIN_SCHEDULES };
    for report in [
        behind_a_gate(&pool, Pessimistic::default(), min_if_locked).await,
        behind_a_gate(&pool, Optimistic::default(), MIN_SCHEDULES).await,
        behind_a_gate(&pool, Serializable::default(), MIN_SCHEDULES).await,
    ] {
        assert!(report.passes(), "{report}");
    }
    // Adaptive learns from one schedule and behaves differently in the next one.
    let report = behind_a_gate(&pool, Adaptive::default(), MIN_SCHEDULES).await;
    let mut problems = report.counterexamples.iter().flat_map(Counterexample::problems);
    assert!(problems.all(|problem| matches!(problem, Problem::Diverged { .. })), "{report}");
}
