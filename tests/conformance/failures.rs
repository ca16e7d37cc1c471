//! Errors that the tests provoke on real databases.

use std::sync::atomic::{AtomicU32, Ordering};

use atomically::{
    Attempt, ConstraintKind, Error, ErrorKind, Failure, FailureKind, Optimistic, Pessimistic, Plan,
    Serializable, Strategy, TransactorExt as _, Tx, Verdict,
};
use sqlx::Pool;
use tokio::sync::Barrier;

use super::increments::{counter, increment, patient, value};
use super::outcomes::{TextError, set_value};
use crate::support::{ServerBackend, TestBackend, eventually};

/// Plans like `Pessimistic`, but never retries.
#[derive(Debug)]
pub(crate) struct NeverRetry;

impl Strategy for NeverRetry {
    fn plan(&self, attempt: &Attempt) -> Plan {
        Pessimistic::default().plan(attempt)
    }

    fn verdict(&self, _failure: &Failure) -> Verdict {
        Verdict::GiveUp
    }
}

async fn parent_and_child<DB: TestBackend>() -> crate::support::TestPool<DB> {
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
    pool
}

pub(crate) async fn constraint_violations_identify_the_constraint<DB: TestBackend>() {
    let pool = parent_and_child::<DB>().await;
    let db = Pessimistic::default().on(&pool);
    let sqlite = DB::NAME == "SQLite";
    for (row, kind, name, column) in [
        ("2, 1, 1, 0", ConstraintKind::Unique, "child_code", "code"),
        ("2, 1, 2, -1", ConstraintKind::Check, "child_amount", ""),
        ("2, 99, 2, 0", ConstraintKind::ForeignKey, "child_parent", "parent_id"),
        ("2, NULL, 2, 0", ConstraintKind::NotNull, "", "parent_id"),
    ] {
        let insert = format!("INSERT INTO child VALUES ({row})");
        let unit = async |tx: &mut Tx<DB>| {
            DB::execute(tx, DB::sql("INSERT INTO parent VALUES (2)"), &[]).await?;
            DB::execute(tx, DB::sql(&insert), &[]).await?;
            Ok::<_, Error>(())
        };
        let error = db.run(unit).await.expect_err("a violation");
        assert_eq!(error.kind(), ErrorKind::Constraint, "{error:?}");
        let constraint = error.constraint().expect("a constraint");
        assert_eq!(constraint.kind, kind);
        let named = constraint.name.as_deref() == Some(name);
        let columns_named = constraint.columns == [column];
        // SQLite reports neither the name nor the columns of a foreign key.
        assert!(named || columns_named || (sqlite && kind == ConstraintKind::ForeignKey), "{constraint:?}");
        let parents = DB::pool_fetch(&pool, DB::sql("SELECT COUNT(*) FROM parent"), &[]).await;
        assert_eq!(parents.expect("a count"), 1, "the unit is rolled back");
    }
}

/// After the failed COMMIT, SQLite keeps the transaction open and PostgreSQL does not.
pub(crate) async fn reports_a_constraint_violation_at_commit<DB: TestBackend>() {
    let pool = DB::pool(1).await;
    for sql in [
        "CREATE TABLE parent (id BIGINT PRIMARY KEY)",
        "CREATE TABLE child (parent_id BIGINT NOT NULL REFERENCES parent (id) DEFERRABLE INITIALLY DEFERRED)",
    ] {
        DB::pool_execute(&pool, DB::sql(sql), &[]).await.expect("set up");
    }
    let db = Pessimistic::default().on(&pool);
    let unit = async |tx: &mut Tx<DB>| {
        DB::execute(tx, DB::sql("INSERT INTO child VALUES (7)"), &[]).await?;
        Ok::<_, Error>(())
    };
    let error = db.run(unit).await.expect_err("no such parent");
    assert_eq!(
        error.constraint().map(|constraint| constraint.kind),
        Some(ConstraintKind::ForeignKey),
        "{error:?}"
    );
    let children = DB::pool_fetch(&pool, DB::sql("SELECT COUNT(*) FROM child"), &[]).await;
    assert_eq!(children.expect("the pool works"), 0);
    eventually(0, async || DB::open_transactions(&pool).await).await;
}

/// Two units lock two rows in opposite orders, and each requests its second row when both have locked their
/// first. `handle` maps the error to the result of the unit.
async fn opposite_order<DB, E>(
    pool: &Pool<DB>,
    attempts: u32,
    handle: fn(sqlx::Error) -> Result<(), E>,
) -> [Result<(), E>; 2]
where
    DB: TestBackend,
    E: From<Error> + Send + 'static,
{
    let db = patient(Optimistic::default(), pool).attempts(attempts);
    let both_hold_one = Barrier::new(2);
    let both_hold_one = &both_hold_one;
    let run = |first: i64, second: i64| {
        db.run(async move |tx: &mut Tx<DB>| {
            let add = || DB::sql("UPDATE counter SET value = value + 1 WHERE id = ?");
            DB::execute(tx, add(), &[first]).await.map_err(Error::from)?;
            if tx.attempt() == 1 {
                both_hold_one.wait().await;
            }
            match DB::execute(tx, add(), &[second]).await {
                Ok(_) => Ok(()),
                Err(error) => {
                    let handled = handle(error);
                    // If the transaction had ended, this statement would be committed separately.
                    let _ = DB::execute(tx, add(), &[second]).await;
                    handled
                }
            }
        })
    };
    let (one, other) = tokio::join!(run(1, 2), run(2, 1));
    [one, other]
}

pub(crate) async fn retries_a_deadlock_victim<DB: TestBackend>() {
    let pool = counter::<DB>(4).await;
    for result in opposite_order::<DB, Error>(&pool, 10, |error| Err(error.into())).await {
        result.expect("both units commit");
    }
    assert_eq!(both_rows(&pool).await, [2, 2]);
}

/// Each unit has one attempt, so the caller of the victim receives the failure: as a typed error, with
/// nothing stored, whatever the unit returns.
pub(crate) async fn fails_if_the_unit_ignores_a_deadlock<DB: TestBackend>() {
    let pool = counter::<DB>(4).await;
    let discarded = opposite_order::<DB, Error>(&pool, 1, |_| Ok(())).await;
    let errors: Vec<_> = discarded.into_iter().filter_map(Result::err).collect();
    assert_eq!(errors.len(), 1, "there should be one victim: {errors:?}");
    assert_eq!(errors[0].kind(), ErrorKind::Exhausted);
    assert_eq!(errors[0].failure().map(Failure::kind), Some(FailureKind::Deadlock));
    assert_eq!(both_rows(&pool).await, [1, 1], "a part of the victim is stored");

    let wrapped =
        opposite_order::<DB, anyhow::Error>(&pool, 1, |error| Err(anyhow::anyhow!("wrapped: {error}"))).await;
    let errors: Vec<_> = wrapped.into_iter().filter_map(Result::err).collect();
    assert_eq!(errors.len(), 1);
    assert!(errors[0].downcast_ref::<Error>().is_some_and(Error::is_conflict), "{:?}", errors[0]);
    assert_eq!(both_rows(&pool).await, [2, 2]);

    let as_text = opposite_order::<DB, TextError>(&pool, 1, |error| Err(TextError(error.to_string()))).await;
    let errors: Vec<_> = as_text.into_iter().filter_map(Result::err).collect();
    assert_eq!(errors.len(), 1);
    assert!(
        errors[0].0.contains("gave up after 1 attempt") && errors[0].0.contains("deadlock"),
        "{:?}",
        errors[0]
    );
    assert_eq!(both_rows(&pool).await, [3, 3]);
}

async fn both_rows<DB: TestBackend>(pool: &Pool<DB>) -> [i64; 2] {
    let row = |id| {
        DB::pool_fetch(
            pool,
            DB::sql("SELECT value FROM counter WHERE id = ?"),
            if id == 1 { &[1] } else { &[2] },
        )
    };
    [row(1).await.expect("row 1"), row(2).await.expect("row 2")]
}

/// The unit ignores a violation. It commits if the database rolls back only the failed statement, and fails
/// if the database aborts the transaction.
pub(crate) async fn ignoring_a_violation_loses_nothing_silently<DB: TestBackend>() {
    let pool = counter::<DB>(2).await;
    let db = Pessimistic::default().on(&pool);
    let unit = async |tx: &mut Tx<DB>| {
        set_value(tx, 5).await?;
        let _ = DB::execute(tx, DB::sql("INSERT INTO counter VALUES (1, 0, 0)"), &[]).await;
        Ok::<_, Error>(())
    };
    match db.run(unit).await {
        Ok(()) => {
            assert_ne!(DB::NAME, "PostgreSQL");
            assert_eq!(value(&pool).await, 5);
        }
        Err(error) => {
            assert_eq!(DB::NAME, "PostgreSQL");
            assert_eq!(error.constraint().map(|constraint| constraint.kind), Some(ConstraintKind::Unique));
            assert!(error.to_string().starts_with("the unit of work returned Ok, but"), "{error}");
            assert_eq!(value(&pool).await, 0);
        }
    }
    eventually(0, async || DB::open_transactions(&pool).await).await;
}

/// Two serializable units read the same row before both write it.
pub(crate) async fn retries_a_serialization_failure<DB: TestBackend>() {
    let pool = counter::<DB>(4).await;
    let db = patient(Serializable::default(), &pool);
    let (attempts, both_have_read) = (AtomicU32::new(0), Barrier::new(2));
    let (attempts, both_have_read) = (&attempts, &both_have_read);
    let run = || {
        db.run(async move |tx: &mut Tx<DB>| {
            attempts.fetch_add(1, Ordering::Relaxed);
            let read = DB::fetch(tx, DB::sql("SELECT value FROM counter WHERE id = 1"), &[]).await?;
            if tx.attempt() == 1 {
                both_have_read.wait().await;
            }
            set_value(tx, read + 1).await?;
            Ok::<_, Error>(())
        })
    };
    let (one, other) = tokio::join!(run(), run());
    one.expect("one commits");
    other.expect("the other commits");
    assert_eq!(value(&pool).await, 2);
    assert!(attempts.load(Ordering::Relaxed) > 2, "neither unit was retried");
}

pub(crate) async fn nowait_and_lock_timeouts_have_different_errors<DB: ServerBackend>() {
    let pool = counter::<DB>(2).await;
    let blocker = DB::blocker(&pool.url).await;

    let nowait = async |tx: &mut Tx<DB>| {
        let select = DB::sql("SELECT value FROM counter WHERE id = 1 FOR UPDATE NOWAIT");
        DB::fetch(tx, select, &[]).await?;
        Ok::<_, Error>(())
    };
    let error = Pessimistic::default().on(&pool).run(nowait).await.expect_err("the row is locked");
    assert_eq!(error.kind(), ErrorKind::LockNotAvailable, "{error:?}");
    assert!(error.is_lock_not_available() && !error.is_lock_timeout());

    let timeout = async |tx: &mut Tx<DB>| {
        DB::execute(tx, DB::sql(DB::SHORT_LOCK_TIMEOUT), &[]).await?;
        increment(tx).await
    };
    let error =
        atomically::PoolTransactor::new(NeverRetry, &pool).run(timeout).await.expect_err("the row is locked");
    assert_eq!(error.kind(), ErrorKind::LockTimeout, "{error:?}");
    assert!(error.is_lock_timeout() && error.is_conflict() && !error.is_lock_not_available());

    drop(blocker);
    eventually(0, async || DB::open_transactions(&pool).await).await;
    assert_eq!(value(&pool).await, 0);
}

/// A session that is killed during a unit has stored nothing, so the unit is retried on another session.
pub(crate) async fn retries_a_unit_whose_session_was_killed<DB: ServerBackend>() {
    let pool = counter::<DB>(1).await;
    let url = pool.url.clone();
    let db = Pessimistic::default().on(&pool);
    let unit = async |tx: &mut Tx<DB>| {
        increment(tx).await?;
        if tx.attempt() == 1 {
            DB::kill_sessions(&url).await;
        }
        increment(tx).await?;
        Ok::<_, Error>(tx.attempt())
    };
    assert_eq!(db.run(unit).await.expect("the second attempt commits"), 2);
    assert_eq!(value(&pool).await, 2);
}
