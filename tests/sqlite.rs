//! The semantics on SQLite, and the peculiarities of SQLite.

mod conformance;
mod one_update;
mod support;

use std::time::Duration;

use atomically::{
    Atomic, Begin, Error, ErrorKind, FailureKind, Optimistic, Options, Pessimistic, TransactorExt as _, Tx,
};
use sqlx::Sqlite;
use support::TestBackend as _;

conformance!(Sqlite);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reports_a_constraint_violation_at_commit() {
    failures::reports_a_constraint_violation_at_commit::<Sqlite>().await;
}

/// SQLite's connections are not tied to a runtime.
#[test]
fn a_released_connection_returns_to_the_pool_while_another_runtime_is_at_rest() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (at_rest, running) = (runtime(), runtime());
    let pool = at_rest.block_on(increments::counter::<Sqlite>(1));
    let db = Pessimistic::default().on(&pool).reuse_connections();
    for runtime in [&at_rest, &running, &at_rest] {
        runtime.block_on(async {
            db.run(increments::increment::<Sqlite>).await.expect("an increment");
            support::eventually(1, async || pool.num_idle()).await;
        });
    }
}

/// SQLite has one isolation level, whichever is requested: a unit reads one snapshot, and cannot write once
/// that snapshot is outdated.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_isolation_level_is_serializable() {
    let pool = increments::counter::<Sqlite>(2).await;
    let others = Sqlite::another(&pool.url).await;
    let db = Optimistic::default().on(&pool);
    for level in options::LEVELS {
        let before = increments::value(&pool).await;
        let unit = async |tx: &mut Tx<Sqlite>| {
            let value = "SELECT value FROM counter WHERE id = 1";
            let first = Sqlite::fetch(tx, Sqlite::sql(value), &[]).await?;
            if tx.attempt() == 1 {
                let add = Sqlite::sql("UPDATE counter SET value = value + 10 WHERE id = 1");
                Sqlite::pool_execute(&others, add, &[]).await?;
            }
            assert_eq!(Sqlite::fetch(tx, Sqlite::sql(value), &[]).await?, first, "{level}");
            outcomes::set_value(tx, first + 1).await?;
            Ok::<_, Error>(tx.attempt())
        };
        let attempts = db.with(Options::new().isolation(level)).run(unit).await.expect("a commit");
        assert_eq!((attempts, increments::value(&pool).await), (2, before + 11), "{level}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_history_is_serializable() {
    histories::every_history_is_strictly_serializable::<Sqlite>().await;
}

/// SQLite's triggers change a row after its update.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn coalesced_sums_that_a_trigger_caps_are_not_applied() {
    let pool = stored_sums::database_with(&[
        "CREATE TABLE counter (id BIGINT PRIMARY KEY, value BIGINT NOT NULL)",
        "INSERT INTO counter VALUES (1, 1), (2, 1)",
        "CREATE TRIGGER cap AFTER UPDATE ON counter WHEN NEW.value > 10 BEGIN
             UPDATE counter SET value = 10 WHERE id = NEW.id;
         END",
    ])
    .await;
    let limited = stored_sums::Limited { start: 3, fits: 7, too_much: 12 };
    stored_sums::assert_only_stored_sums_are_applied::<Sqlite>("a trigger", &pool, limited).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refuses_unsupported_locks() {
    locks::refuses_unsupported_locks::<Sqlite>().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_database_is_a_conflict() {
    let pool = increments::counter::<Sqlite>(2).await;
    let _blocker = Sqlite::blocker(&pool.url).await;
    let impatient = Options::new().lock_timeout(Duration::from_millis(20)).attempts(2);
    let db = Pessimistic::default().on(&pool).options(impatient);
    let error = db.run(increments::increment::<Sqlite>).await.expect_err("another connection writes");
    assert_eq!(error.kind(), ErrorKind::Exhausted);
    assert_eq!(error.failure().map(|failure| failure.kind()), Some(FailureKind::Busy));
    assert!(error.is_conflict());
}

/// `OR ROLLBACK` ends the transaction and reports only "constraint failed": later statements would be stored
/// separately.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_automatic_rollback_is_noticed_before_the_next_statement() {
    let pool = increments::counter::<Sqlite>(1).await;
    let db = Pessimistic::default().on(&pool);
    let error = db
        .run(async |tx: &mut Tx<Sqlite>| {
            outcomes::set_value(tx, 5).await?;
            let _ = sqlx::query("INSERT OR ROLLBACK INTO counter VALUES (1, 0, 0)").execute(&mut *tx).await;
            let _ = outcomes::set_value(tx, 6).await;
            Ok::<_, Error>(())
        })
        .await
        .expect_err("the transaction had ended");
    assert_eq!(error.kind(), ErrorKind::Aborted, "{error:?}");
    assert_eq!(increments::value(&pool).await, 0);
    assert_eq!(Sqlite::open_transactions(&pool).await, 0);

    // Without a further statement, the COMMIT finds no transaction.
    let error = db
        .run(async |tx: &mut Tx<Sqlite>| {
            outcomes::set_value(tx, 5).await?;
            let _ = sqlx::query("INSERT OR ROLLBACK INTO counter VALUES (1, 0, 0)").execute(&mut *tx).await;
            Ok::<_, Error>(())
        })
        .await
        .expect_err("the transaction had ended");
    assert_eq!(error.kind(), ErrorKind::Aborted, "{error:?}");
    assert_eq!(increments::value(&pool).await, 0);
}

/// A savepoint outside of a transaction opens one of its own, and its release commits it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_automatic_rollback_is_noticed_before_a_savepoint() {
    let pool = increments::counter::<Sqlite>(1).await;
    let db = Pessimistic::default().on(&pool);
    let error = db
        .run(async |tx: &mut Tx<Sqlite>| {
            let _ = sqlx::query("INSERT OR ROLLBACK INTO counter VALUES (1, 0, 0)").execute(&mut *tx).await;
            let _ = tx
                .savepoint(async |tx: &mut Tx<Sqlite>| {
                    outcomes::set_value(tx, 6).await?;
                    Ok::<_, Error>(())
                })
                .await;
            Ok::<_, Error>(())
        })
        .await
        .expect_err("the transaction had ended");
    assert_eq!(error.kind(), ErrorKind::Aborted, "{error:?}");
    assert_eq!(increments::value(&pool).await, 0);
}

/// A BEGIN that takes the write lock immediately blocks other writers, and a deferred one does not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn begin_takes_the_requested_lock() {
    let pool = increments::counter::<Sqlite>(2).await;
    let db = Pessimistic::default().on(&pool);
    for (begin, locked) in [(Begin::Deferred, 0), (Begin::Immediate, 1), (Begin::Exclusive, 1)] {
        let others = pool.pool.clone();
        let unit = db.with(Options::new().begin(begin));
        let seen = unit
            .run(async |_: &mut Tx<Sqlite>| Ok::<_, Error>(Sqlite::open_transactions(&others).await))
            .await;
        assert_eq!(seen.expect("a commit"), locked, "{begin:?}");
    }
}

/// A database in memory lives in its connection, which must survive a dropped run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_in_memory_survives_a_dropped_run() {
    for url in ["sqlite::memory:", "sqlite://name?mode=memory"] {
        let pool =
            sqlx::sqlite::SqlitePoolOptions::new().max_connections(1).connect(url).await.expect("in memory");
        sqlx::query("CREATE TABLE counter (id BIGINT, value BIGINT)").execute(&pool).await.expect("a table");
        sqlx::query("INSERT INTO counter VALUES (1, 0)").execute(&pool).await.expect("a row");
        let db = Pessimistic::default().on(&pool).deadline(Duration::from_millis(50));
        let before = Sqlite::limits(&pool).await;
        let run = db.run(async |tx: &mut Tx<Sqlite>| {
            outcomes::set_value(tx, 9).await?;
            std::future::pending::<()>().await;
            Ok::<_, Error>(())
        });
        assert_eq!(run.await.expect_err("too slow").kind(), ErrorKind::DeadlineExceeded);
        let read_only = db.with(Options::new().read_only());
        let run = read_only.run(async |_: &mut Tx<Sqlite>| {
            std::future::pending::<()>().await;
            Ok::<_, Error>(())
        });
        assert_eq!(run.await.expect_err("too slow").kind(), ErrorKind::DeadlineExceeded);
        assert_eq!(Sqlite::limits(&pool).await, before, "{url}");
        let update = Sqlite::sql("UPDATE counter SET value = value + 0");
        Sqlite::pool_execute(&pool, update, &[]).await.expect("the next borrower may write");
        assert_eq!(increments::value(&pool).await, 0, "{url}");
    }
}

/// Statements that the previous user of the connection left uncommitted are rolled back, and the next unit
/// succeeds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_left_open_on_a_pooled_connection_is_rolled_back() {
    let pool = increments::counter::<Sqlite>(1).await;
    sqlx::raw_sql("BEGIN; UPDATE counter SET value = 99 WHERE id = 1")
        .execute(&*pool)
        .await
        .expect("left open");
    let db = Pessimistic::default().on(&pool).attempts(1);
    db.run(increments::increment::<Sqlite>).await.expect("a commit");
    assert_eq!(increments::value(&pool).await, 1);
}

/// A column or a trigger may specify that changes before a violation are kept.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lone_statement_that_violates_a_constraint_is_not_retried() {
    let pool = Sqlite::pool(1).await;
    let table = "CREATE TABLE item (id INTEGER PRIMARY KEY, n INTEGER UNIQUE ON CONFLICT FAIL);
                 INSERT INTO item VALUES (1, 1), (2, 100), (3, 200)";
    sqlx::raw_sql(table).execute(&*pool).await.expect("a table");
    let db = Atomic::default().on(&pool).options(Options::new().retry_unique(5));
    let update = "UPDATE item SET n = CASE id WHEN 1 THEN n + 1 ELSE 200 END WHERE id < 3";
    let error = db.apply(sqlx::query(update)).await.expect_err("a violation");
    assert_eq!((error.kind(), error.attempts()), (ErrorKind::Constraint, Some(1)), "{error:?}");
    let n: i64 =
        sqlx::query_scalar("SELECT n FROM item WHERE id = 1").fetch_one(&*pool).await.expect("a value");
    assert_eq!(n, 2, "once");
}

/// The driver would never finish such a text, and would keep the database locked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_text_with_a_nul_is_refused() {
    let pool = increments::counter::<Sqlite>(1).await;
    let db = Pessimistic::default().on(&pool);
    let run = db.run(async |tx: &mut Tx<Sqlite>| {
        sqlx::query("SELECT 1\0").execute(&mut *tx).await?;
        Ok::<_, Error>(())
    });
    assert_eq!(run.await.expect_err("refused").kind(), ErrorKind::Aborted);
    let lone = Atomic::default().on(&pool).apply(sqlx::query("UPDATE counter SET value = 1\0")).await;
    assert_eq!(lone.expect_err("refused").kind(), ErrorKind::Aborted);
    db.run(increments::increment::<Sqlite>).await.expect("the database is not locked");
}

/// Connections to a database in memory share a cache, whose lock conflicts SQLite reports as a kind of
/// deadlock of their own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deadlocks_in_a_shared_cache_are_retried() {
    let pool = sqlx::SqlitePool::connect("sqlite::memory:").await.expect("in memory");
    sqlx::query("CREATE TABLE counter (id BIGINT, value BIGINT, version BIGINT)")
        .execute(&pool)
        .await
        .expect("a table");
    sqlx::query("INSERT INTO counter VALUES (1, 0, 0)").execute(&pool).await.expect("a row");
    let db = increments::patient(Optimistic::default(), &pool);
    let mut units = tokio::task::JoinSet::new();
    for _ in 0..30 {
        let db = db.clone();
        units.spawn(async move { db.run(increments::increment::<Sqlite>).await });
    }
    for ended in units.join_all().await {
        ended.expect("an increment");
    }
    assert_eq!(increments::value(&pool).await, 30);
}

/// With a rollback journal, a writer's commit waits for readers, and a reader that starts to write waits for
/// the writer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn explorations_see_readers_and_writers_wait_for_each_other() {
    let directory = tempfile::tempdir().expect("make a temporary directory");
    let options = sqlx::sqlite::SqliteConnectOptions::new()
        .filename(directory.path().join("test.db"))
        .create_if_missing(true)
        .journal_mode(sqlx::sqlite::SqliteJournalMode::Delete)
        .synchronous(sqlx::sqlite::SqliteSynchronous::Off);
    let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(3).connect_with(options).await;
    let pool = pool.expect("open SQLite");
    sqlx::query("CREATE TABLE item (value INTEGER)").execute(&pool).await.expect("a table");
    let db = Optimistic::default().on(&pool);
    let look_and_add = async |tx: &mut Tx<Sqlite>| {
        let value: i64 = sqlx::query_scalar("SELECT value FROM item").fetch_one(&mut *tx).await?;
        sqlx::query("UPDATE item SET value = $1").bind(value + 1).execute(&mut *tx).await?;
        Ok::<_, Error>(())
    };
    let look = async |tx: &mut Tx<Sqlite>| {
        let value: i64 = sqlx::query_scalar("SELECT value FROM item").fetch_one(&mut *tx).await?;
        let again: i64 = sqlx::query_scalar("SELECT value FROM item").fetch_one(&mut *tx).await?;
        assert_eq!(value, again);
        Ok::<_, Error>(())
    };
    let exploration = atomically::testing::explore(&pool)
        .set_up(|pool| async move {
            sqlx::raw_sql("DELETE FROM item; INSERT INTO item VALUES (0)").execute(&pool).await
        })
        .unit("alice", &db, look_and_add)
        .unit("bob", &db, look_and_add)
        .unit("carol", &db, look)
        .allow_deadlocks()
        .max_preemptions(1)
        .expect("value", 2_i64, |pool| async move {
            sqlx::query_scalar("SELECT value FROM item").fetch_one(&pool).await
        });
    let report = exploration.run().await.expect("explored");
    report.assert_passes();
    assert_eq!(report.diverged, 0, "{report}");
}

/// No unit can continue while another connection holds the lock: the unit that started last fails, and in a
/// replay the same one does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn explorations_blocked_by_another_connection_can_be_replayed() {
    let pool = increments::counter::<Sqlite>(2).await;
    let _blocker = Sqlite::blocker(&pool.url).await;
    let db = Pessimistic::default().on(&pool).attempts(1);
    let exploration = || {
        let increment = increments::increment::<Sqlite>;
        atomically::testing::explore(&pool).unit("alice", &db, increment).unit("bob", &db, increment)
    };
    let report = exploration().run().await.expect("explored");
    let finding = report.first().expect("neither gets the lock");
    let again = exploration().replay(&finding.schedule().to_string()).await.expect("replayed");
    let lanes = |finding: &atomically::testing::Counterexample| {
        // The deadlock is followed by errors that contain durations.
        finding.to_string().split_once("deadlock:").map(|(lanes, _)| lanes.to_owned())
    };
    assert!(lanes(finding).is_some(), "{report}");
    assert_eq!(again.first().and_then(lanes), lanes(finding));
    assert_eq!(report.diverged, 0, "{report}");
}
