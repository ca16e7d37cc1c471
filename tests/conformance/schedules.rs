//! A report is complete, or lists the schedules that were left out.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use atomically::testing::{Client, Counterexample, Explore, ExploreError, Gap, Problem, Report, explore};
use atomically::{Error, Isolation, Options, Pessimistic, PoolTransactor, TransactorExt as _, Tx};
use sqlx::Pool;

use super::exploration::{Unguarded, all, assert_passes, database, integer};
use crate::support::TestBackend;

const ITEM: &str = "CREATE TABLE item (id BIGINT PRIMARY KEY, value BIGINT NOT NULL)";
const VALUE: &str = "SELECT value FROM item WHERE id = 1";
const WRITTEN: &str = "SELECT COUNT(*) FROM item WHERE value = 1";

type Database<DB> = PoolTransactor<DB, Unguarded>;

/// An exploration that starts with two items of value 0.
fn items<DB: TestBackend>(pool: &Pool<DB>) -> Explore<'_, DB> {
    let items = ["DELETE FROM item", "INSERT INTO item VALUES (1, 0), (2, 0)"];
    explore(pool).set_up(move |pool| async move { all(pool, &items).await })
}

fn unguarded<DB: TestBackend>(pool: &Pool<DB>) -> Database<DB> {
    PoolTransactor::new(Unguarded(Isolation::ReadCommitted), pool)
}

async fn value<DB: TestBackend>(tx: &mut Tx<DB>) -> sqlx::Result<i64> {
    DB::fetch(tx, DB::sql(VALUE), &[]).await
}

async fn set<DB: TestBackend>(tx: &mut Tx<DB>, id: i64, value: i64) -> Result<(), Error> {
    DB::execute(tx, DB::sql("UPDATE item SET value = ? WHERE id = ?"), &[value, id]).await?;
    Ok(())
}

/// The message that `assert_passes` panics with.
fn panic_message(report: &Report) -> String {
    let panic = catch_unwind(AssertUnwindSafe(|| report.assert_passes())).expect_err("the assertion passed");
    panic.downcast_ref::<String>().expect("a message").clone()
}

fn problems(report: &Report) -> Vec<&Problem> {
    report.counterexamples.iter().flat_map(Counterexample::problems).collect()
}

/// The unit caches a result of the database for the lifetime of the process.
pub(crate) async fn a_cache_that_outlives_the_set_up_makes_schedules_diverge<DB: TestBackend>() {
    let pool = database::<DB>(ITEM, 2).await;
    let db = unguarded(&pool);
    let cached = Arc::new(AtomicBool::new(false));
    let unit = async move |tx: &mut Tx<DB>| {
        if !cached.load(Ordering::Relaxed) {
            value(tx).await?;
            cached.store(true, Ordering::Relaxed);
        }
        set(tx, 1, 1).await
    };
    let exploration = items(&pool).unit("alice", &db, unit.clone()).unit("bob", &db, unit);
    let report = exploration.run().await.expect("explored");
    assert!(!report.complete, "{report}");
    assert!(report.diverged > 0, "{report}");
    assert!(matches!(problems(&report)[..], [Problem::Diverged { .. }, ..]), "{report}");
    assert!(
        panic_message(&report).contains("Something other than the schedule affects the clients"),
        "{report}"
    );
}

/// The state that a schedule leaves behind changes the next one.
pub(crate) async fn a_set_up_that_resets_too_little_makes_schedules_diverge<DB: TestBackend>() {
    let pool = database::<DB>(ITEM, 2).await;
    all(pool.pool.clone(), &["INSERT INTO item VALUES (1, 0)"]).await.expect("an item");
    let db = unguarded(&pool);
    let unit = async |tx: &mut Tx<DB>| {
        if value(tx).await? == 0 {
            set(tx, 1, 1).await?;
        }
        Ok::<_, Error>(())
    };
    let report =
        explore(&pool).unit("alice", &db, unit).unit("bob", &db, unit).run().await.expect("explored");
    assert!(matches!(problems(&report)[..], [Problem::Diverged { .. }, ..]), "{report}");
    assert!(!report.complete, "{report}");
}

/// Two statements in one text. Sent one by one, another client could take a step between them.
async fn two_statements_in_one_text<DB: TestBackend>(tx: &mut Tx<DB>) -> Result<(), Error> {
    let both = "UPDATE item SET value = 1 WHERE id = 1; UPDATE item SET value = 1 WHERE id = 2";
    DB::plain(tx, DB::sql(both)).await?;
    Ok(())
}

pub(crate) async fn several_statements_in_one_text_are_a_gap<DB: TestBackend>() {
    let pool = database::<DB>(ITEM, 2).await;
    let db = unguarded(&pool);
    let read = async |tx: &mut Tx<DB>| Ok::<_, Error>(value(tx).await?);
    let two = || items(&pool).unit("alice", &db, two_statements_in_one_text).unit("bob", &db, read);
    let report = two().run().await.expect("explored");
    assert!(report.passes() && !report.complete, "{report}");
    assert!(matches!(&report.gaps[..], [Gap::Unseen { client, .. }] if client == "alice"), "{report}");
    assert!(panic_message(&report).contains("send the statements one by one"), "{report}");
    let report = two().allow_unseen_statements().run().await.expect("explored");
    report.assert_passes();
    assert!(!report.complete, "{report}");
}

pub(crate) async fn raw_access_is_a_gap<DB: TestBackend>() {
    let pool = database::<DB>(ITEM, 2).await;
    let db = unguarded(&pool);
    let raw = async |tx: &mut Tx<DB>| {
        DB::raw(tx.connection()?, "UPDATE item SET value = 1 WHERE id = 2").await?;
        Ok::<_, Error>(())
    };
    let read = async |tx: &mut Tx<DB>| Ok::<_, Error>(value(tx).await?);
    let report = items(&pool).unit("alice", &db, raw).unit("bob", &db, read).run().await.expect("explored");
    assert!(!report.complete, "{report}");
    assert!(panic_message(&report).contains("Tx::connection"), "{report}");
}

/// Succeeds only after another client has set the value, and does not wait for it.
async fn needs_the_value<DB: TestBackend>(tx: &mut Tx<DB>) -> Result<(), Error> {
    let found = u64::from(value(tx).await? == 1);
    tx.expect_one(found)
}

pub(crate) async fn a_unit_with_few_attempts_is_run_until_they_are_exhausted<DB: TestBackend>() {
    let pool = database::<DB>(ITEM, 2).await;
    let many = unguarded(&pool);
    let few = unguarded(&pool).attempts(4);
    let write = async |tx: &mut Tx<DB>| set(tx, 1, 1).await;
    let report = items(&pool).unit("alice", &few, needs_the_value).unit("bob", &many, write).run().await;
    let report = report.expect("explored");
    assert!(report.complete, "{report}");
    let is_exhausted = |problem: &&Problem| {
        matches!(problem, Problem::Failed { client, error }
            if client == "alice" && error.contains("4 attempts"))
    };
    assert!(problems(&report).iter().all(is_exhausted), "{report}");
    assert!(!report.passes(), "{report}");

    // Of the default of 50 attempts only some are explored, and the report says so.
    let report = items(&pool).unit("alice", &many, needs_the_value).unit("bob", &many, write).run().await;
    let report = report.expect("explored");
    report.assert_passes();
    assert_eq!(report.retrying, ["alice"]);
    assert!(report.to_string().contains("except where alice would use up all attempts"), "{report}");
}

/// Two clients of seven steps have 3432 orders.
pub(crate) async fn reaching_the_default_limit_fails_the_assertion<DB: TestBackend>() {
    let pool = database::<DB>(ITEM, 2).await;
    let db = unguarded(&pool);
    let long = async |tx: &mut Tx<DB>| {
        for _ in 0..5 {
            value(tx).await?;
        }
        Ok::<_, Error>(())
    };
    let two = || items(&pool).unit("alice", &db, long).unit("bob", &db, long);
    let report = two().run().await.expect("explored");
    assert_eq!((report.schedules, &report.gaps[..]), (1000, &[Gap::Schedules { limit: 1000 }][..]));
    assert!(panic_message(&report).contains("set `max_schedules` yourself"), "{report}");

    let report = two().max_schedules(20).run().await.expect("explored");
    report.assert_passes();
    assert!(report.to_string().ends_with("there are more schedules than the 20 that were run"), "{report}");
    let report = two().max_preemptions(1).run().await.expect("explored");
    report.assert_passes();
    assert_eq!((report.preemptions, report.complete), (Some(1), false), "{report}");
}

/// Two clients of three steps can each be interrupted twice.
pub(crate) async fn a_complete_report_has_the_maximum_number_of_preemptions<DB: TestBackend>() {
    let pool = database::<DB>(ITEM, 2).await;
    let db = unguarded(&pool);
    let read = async |tx: &mut Tx<DB>| Ok::<_, Error>(value(tx).await?);
    let report = items(&pool).unit("alice", &db, read).unit("bob", &db, read).run().await.expect("explored");
    report.assert_passes();
    assert_eq!((report.schedules, report.complete, report.preemptions), (20, true, Some(4)), "{report}");
}

/// The second unit of alice starts with a write, which may have to wait for bob.
pub(crate) async fn every_unit_of_a_client_may_wait_for_its_first_lock<DB: TestBackend>() {
    let pool = database::<DB>(ITEM, 2).await;
    let db = unguarded(&pool).attempts(1);
    async fn two<DB: TestBackend>(db: Client<'_, Database<DB>>) -> Result<(), Error> {
        for id in [1, 2] {
            db.run(async |tx: &mut Tx<DB>| set(tx, id, 1).await).await?;
        }
        Ok(())
    }
    let write = async |tx: &mut Tx<DB>| set(tx, 2, 1).await;
    assert_passes(items(&pool).client("alice", &db, two).unit("bob", &db, write).expect(
        "written",
        2,
        |pool| integer(pool, WRITTEN),
    ))
    .await;
}

pub(crate) async fn concurrent_units_of_one_client_are_an_error<DB: TestBackend>() {
    let pool = database::<DB>(ITEM, 3).await;
    let db = Pessimistic::default().on(&pool);
    async fn both<DB: TestBackend>(db: Client<'_, PoolTransactor<DB, Pessimistic>>) -> Result<(), Error> {
        let (one, other) = tokio::join!(
            db.run(async |tx: &mut Tx<DB>| set(tx, 1, 1).await),
            db.run(async |tx: &mut Tx<DB>| set(tx, 2, 1).await),
        );
        one.and(other)
    }
    let write = async |tx: &mut Tx<DB>| set(tx, 2, 1).await;
    let result = items(&pool).client("alice", &db, both).unit("bob", &db, write).run().await;
    let error = result.expect_err("concurrent units");
    assert!(matches!(&error, ExploreError::ConcurrentUnits { client } if client == "alice"), "{error}");
    // With a client for each unit it works.
    let one = async |tx: &mut Tx<DB>| set(tx, 1, 1).await;
    let three = items(&pool).unit("alice", &db, one).unit("bob", &db, write).unit("carol", &db, write);
    three.max_preemptions(1).run().await.expect("explored").assert_passes();
}

/// A client may drop a unit and run another one.
pub(crate) async fn a_dropped_unit_is_not_concurrent_with_the_next_one<DB: TestBackend>() {
    let pool = database::<DB>(ITEM, 2).await;
    let db = unguarded(&pool);
    async fn drops_a_unit<DB: TestBackend>(db: Client<'_, Database<DB>>) -> Result<(), Error> {
        let endless = db.run(async |tx: &mut Tx<DB>| {
            value(tx).await?;
            std::future::pending::<Result<(), Error>>().await
        });
        let _ = tokio::time::timeout(std::time::Duration::from_millis(20), endless).await;
        db.run(async |tx: &mut Tx<DB>| set(tx, 1, 1).await).await
    }
    let exploration = items(&pool).client("alice", &db, drops_a_unit).max_schedules(1);
    let report = exploration.run().await.expect("explored");
    assert!(!problems(&report).iter().any(|problem| matches!(problem, Problem::Failed { .. })), "{report}");
}

/// A replay is kept as a regression test after a bug was fixed.
pub(crate) async fn a_passing_schedule_can_be_replayed<DB: TestBackend>() {
    let pool = database::<DB>(ITEM, 2).await;
    let db = unguarded(&pool);
    let write = async |tx: &mut Tx<DB>| set(tx, 1, 1).await;
    let two = || items(&pool).unit("alice", &db, write).unit("bob", &db, write);
    let report = two().replay("a1b1").await.expect("replayed");
    report.assert_passes();
    assert_eq!((report.to_string().as_str(), report.complete), ("the schedule passed", false));
    // A schedule with more steps than the units take is not feasible.
    let report = two().replay("a3b4").await.expect("replayed");
    assert_eq!(problems(&report), [&Problem::Infeasible { step: 7, client: 1 }]);
}

/// A client waits for a lock until the other client has moved, whatever the transactor's limit is.
pub(crate) async fn a_lock_timeout_of_the_transactor_is_ignored<DB: TestBackend>() {
    let pool = database::<DB>(ITEM, 2).await;
    let options = Options::new().lock_timeout(std::time::Duration::from_millis(1));
    let db = Pessimistic::default().on(&pool).options(options);
    let write = async |tx: &mut Tx<DB>| set(tx, 1, 1).await;
    let report =
        items(&pool).unit("alice", &db, write).unit("bob", &db, write).run().await.expect("explored");
    report.assert_passes();
    assert_eq!((report.complete, report.retrying.len()), (true, 0), "{report}");
}
