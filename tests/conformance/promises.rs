//! What the crate promises besides its strategies, in every interleaving of two who ask for it at once.

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

/// The interleavings of two clients with two steps each; fewer show that something was not tried.
const MIN_SCHEDULES: usize = 6;

/// Every interleaving was tried, and nothing went wrong.
async fn passes<DB: TestBackend>(exploration: Explore<'_, DB>) {
    let report = exploration.run().await.expect("explored");
    assert_eq!(report.diverged, 0, "a schedule did not repeat itself: {report}");
    report.assert_passes();
    assert!(report.complete && report.schedules >= MIN_SCHEDULES, "{report}");
}

/// Two items of value 0.
fn items<DB: TestBackend>(pool: &Pool<DB>) -> Explore<'_, DB> {
    let items = ["DELETE FROM item", "INSERT INTO item VALUES (1, 0), (2, 0)"];
    explore(pool).set_up(move |pool| async move { all(pool, &items).await })
}

/// Reads and writes back, guarded by nothing.
async fn add_one<DB: TestBackend>(tx: &mut Tx<DB>) -> Result<(), Error> {
    let value = DB::fetch(tx, DB::sql(VALUE), &[]).await?;
    DB::execute(tx, DB::sql("UPDATE item SET value = ? WHERE id = 1"), &[value + 1]).await?;
    Ok(())
}

pub(crate) async fn advisory_locks_exclude<DB: TestBackend>() {
    let pool = database::<DB>(ITEM, 2).await;
    let db = PoolTransactor::new(Unguarded(Isolation::ReadCommitted), &pool);
    let unit = async |tx: &mut Tx<DB>| {
        tx.advisory_lock(("item", 1)).await?;
        add_one(tx).await
    };
    passes(
        items(&pool)
            .unit("alice", &db, unit)
            .unit("bob", &db, unit)
            .expect("value", 2_i64, |pool| integer(pool, VALUE)),
    )
    .await;
}

pub(crate) async fn locked_rows_are_skipped<DB: TestBackend>() {
    let pool = database::<DB>(ITEM, 2).await;
    let db = PoolTransactor::new(Unguarded(Isolation::ReadCommitted), &pool);
    let unit = async |tx: &mut Tx<DB>| {
        let free = DB::sql("SELECT id FROM item WHERE value = 0 ORDER BY id LIMIT 1");
        let id = DB::fetch(tx, tx.locking(RowLock::UPDATE.skip_locked(), free)?, &[]).await?;
        DB::execute(tx, DB::sql("UPDATE item SET value = value + 1 WHERE id = ?"), &[id]).await?;
        Ok::<_, Error>(())
    };
    passes(items(&pool).unit("alice", &db, unit).unit("bob", &db, unit).expect(
        "items that were taken once",
        2_i64,
        |pool| integer(pool, "SELECT COUNT(*) FROM item WHERE value = 1"),
    ))
    .await;
}

/// The one who comes second finds what the first one has made.
pub(crate) async fn get_or_create_makes_one<DB: TestBackend>() {
    let pool = database::<DB>(ITEM, 2).await;
    let db = Pessimistic::default().on(&pool).options(Options::new().retry_unique(1));
    let unit = async |tx: &mut Tx<DB>| {
        if DB::fetch(tx, DB::sql("SELECT COUNT(*) FROM item WHERE id = 7"), &[]).await? == 0 {
            DB::execute(tx, DB::sql("INSERT INTO item VALUES (7, 0)"), &[]).await?;
        }
        DB::execute(tx, DB::sql("UPDATE item SET value = value + 1 WHERE id = 7"), &[]).await?;
        Ok::<_, Error>(())
    };
    passes(
        items(&pool)
            .unit("alice", &db, unit)
            .unit("bob", &db, unit)
            .expect("value", 2_i64, |pool| integer(pool, "SELECT value FROM item WHERE id = 7")),
    )
    .await;
}

/// The same with a scope that may fail.
pub(crate) async fn a_savepoint_rescues_the_second<DB: TestBackend>() {
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
    passes(items(&pool).unit("alice", &db, unit).unit("bob", &db, unit).allow_deadlocks().expect(
        "value",
        2_i64,
        |pool| integer(pool, "SELECT value FROM item WHERE id = 7"),
    ))
    .await;
}

/// As many hooks as commits, whatever had to be run again.
pub(crate) async fn hooks_run_once_for_each_commit<DB: TestBackend>() {
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
    passes(
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
                let run = hooks.load(Ordering::Relaxed);
                async move { Ok::<_, Error>(run) }
            }),
    )
    .await;
}

/// Operations' rows are in nobody's way.
pub(crate) async fn operations_do_not_interfere<DB: TestBackend>() {
    let pool = database::<DB>(ITEM, 2).await;
    let db = Pessimistic::default().on(&pool);
    db.create_operation_table().await.expect("a table");
    let db = db.options(Options::new().resolve_commits(Resolve::Operation));
    let unit = async |tx: &mut Tx<DB>| {
        DB::fetch(tx, tx.for_update(DB::sql(VALUE)), &[]).await?;
        add_one(tx).await
    };
    passes(
        items(&pool)
            .unit("alice", &db, unit)
            .unit("bob", &db, unit)
            .expect("value", 2_i64, |pool| integer(pool, VALUE)),
    )
    .await;
}

/// A lone statement is one step.
pub(crate) async fn lone_statements_add_up<DB: TestBackend>() {
    let pool = database::<DB>(ITEM, 2).await;
    let db = Atomic::default().on(&pool);
    async fn add<DB: TestBackend>(db: Client<'_, PoolTransactor<DB, Atomic>>) -> Result<(), Error> {
        for _ in 0..2 {
            db.apply(sqlx::raw_sql(DB::sql("UPDATE item SET value = value + 1 WHERE id = 1"))).await?;
        }
        Ok(())
    }
    passes(
        items(&pool)
            .client("alice", &db, add)
            .client("bob", &db, add)
            .expect("value", 4_i64, |pool| integer(pool, VALUE)),
    )
    .await;
}

/// Who explores also has what other test tools plan: once in each schedule, which is how each can be
/// repeated.
pub(crate) async fn faults_happen_in_explorations<DB: TestBackend>() {
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

/// Reads for update, and writes with a check of what was read.
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

/// Whoever waits in line holds up nobody else, and comes in when it is its turn.
pub(crate) async fn gates_let_everybody_in<DB: TestBackend>() {
    let pool = database::<DB>(ITEM, 3).await;
    // Where a transaction locks as soon as it is open, the others wait before they begin: there is one order
    // only.
    let min_if_locked = if DB::NAME == "SQLite" { 1 } else { MIN_SCHEDULES };
    for report in [
        behind_a_gate(&pool, Pessimistic::default(), min_if_locked).await,
        behind_a_gate(&pool, Optimistic::default(), MIN_SCHEDULES).await,
        behind_a_gate(&pool, Serializable::default(), MIN_SCHEDULES).await,
    ] {
        assert!(report.passes(), "{report}");
    }
    // What it learns in one schedule changes how the next one goes.
    let report = behind_a_gate(&pool, Adaptive::default(), MIN_SCHEDULES).await;
    let mut problems = report.counterexamples.iter().flat_map(Counterexample::problems);
    assert!(problems.all(|problem| matches!(problem, Problem::Diverged { .. })), "{report}");
}
