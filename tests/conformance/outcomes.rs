//! The results of units of work, and what their callers receive.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use atomically::{
    Adaptive, Atomic, Error, ErrorKind, FailureKind, Optimistic, Pessimistic, Serializable, Transactor,
    TransactorExt as _, Tx,
};
use futures_util::TryStreamExt as _;

use super::increments::{counter, increment, patient, value};
use crate::support::{TestBackend, eventually};

pub(crate) async fn set_value<DB: TestBackend>(tx: &mut Tx<DB>, value: i64) -> Result<(), sqlx::Error> {
    DB::execute(tx, DB::sql("UPDATE counter SET value = ? WHERE id = 1"), &[value]).await.map(drop)
}

pub(crate) async fn returns_the_units_own_error_and_rolls_back<DB: TestBackend>() {
    #[derive(Debug, PartialEq)]
    enum Booking {
        SoldOut(i64),
        Database(String),
    }
    impl From<Error> for Booking {
        fn from(error: Error) -> Self {
            Self::Database(error.to_string())
        }
    }
    impl From<sqlx::Error> for Booking {
        fn from(error: sqlx::Error) -> Self {
            Self::Database(error.to_string())
        }
    }

    let pool = counter::<DB>(1).await;
    let watcher = DB::another(&pool.url).await;
    let db = Pessimistic::default().on(&pool);
    let runs = AtomicU32::new(0);
    let result = db
        .run(async |tx: &mut Tx<DB>| {
            runs.fetch_add(1, Ordering::Relaxed);
            set_value(tx, 7).await?;
            Err::<(), _>(Booking::SoldOut(7))
        })
        .await;
    assert_eq!(result, Err(Booking::SoldOut(7)));
    assert_eq!(runs.load(Ordering::Relaxed), 1, "a unit that returned its own error was retried");
    assert_eq!(value(&pool).await, 0, "the connection returned to the pool inside of the transaction");
    eventually(0, async || DB::open_transactions(&watcher).await).await;
}

/// The unit converts the error to text, wraps it in `anyhow` or discards it: the conflict is detected in each
/// case, and the unit is retried.
pub(crate) async fn retries_conflicts_whatever_the_error_type<DB: TestBackend>() {
    let pool = counter::<DB>(2).await;
    let db = patient(Optimistic::default(), &pool);

    let as_text = db
        .run(async |tx: &mut Tx<DB>| {
            let rows = i64::from(tx.attempt() > 1);
            tx.expect_one(rows as u64).map_err(|error| TextError(error.to_string()))?;
            Ok::<_, TextError>(tx.attempt())
        })
        .await;
    assert_eq!(as_text, Ok(2));

    let in_anyhow = db
        .run(async |tx: &mut Tx<DB>| {
            let rows = i64::from(tx.attempt() > 1);
            tx.expect_one(rows as u64).map_err(|error| anyhow::Error::from(error).context("wrapped"))?;
            Ok::<_, anyhow::Error>(tx.attempt())
        })
        .await;
    assert_eq!(in_anyhow.expect("the second attempt"), 2);

    let discarded = db
        .run(async |tx: &mut Tx<DB>| {
            let rows = i64::from(tx.attempt() > 1);
            let _ = tx.expect_one(rows as u64);
            Ok::<_, Error>(tx.attempt())
        })
        .await;
    assert_eq!(discarded.expect("the second attempt"), 2);
}

#[derive(Debug, PartialEq)]
pub(crate) struct TextError(pub String);

impl From<Error> for TextError {
    fn from(error: Error) -> Self {
        Self(error.to_string())
    }
}

pub(crate) async fn retries_a_stale_version<DB: TestBackend>() {
    let pool = counter::<DB>(4).await;
    let db = patient(Optimistic::default(), &pool);
    let rival = pool.pool.clone();
    let attempts = db
        .run(async |tx: &mut Tx<DB>| {
            let version = DB::fetch(tx, DB::sql("SELECT version FROM counter WHERE id = 1"), &[]).await?;
            if tx.attempt() == 1 {
                let update = DB::sql("UPDATE counter SET version = version + 1 WHERE id = 1");
                DB::pool_execute(&rival, update, &[]).await?;
            }
            let update =
                DB::sql("UPDATE counter SET value = 5, version = version + 1 WHERE id = 1 AND version = ?");
            let done = DB::execute(tx, update, &[version]).await?;
            tx.expect_one(done)?;
            Ok::<_, Error>(tx.attempt())
        })
        .await
        .expect("the second attempt commits");
    assert_eq!(attempts, 2);
    assert_eq!(value(&pool).await, 5);
}

pub(crate) async fn a_missing_row_exhausts_the_attempts<DB: TestBackend>() {
    let pool = counter::<DB>(2).await;
    let db = Optimistic::default().on(&pool).attempts(3);
    let error = db
        .run(async |tx: &mut Tx<DB>| {
            set_value(tx, 9).await?;
            let done = DB::execute(tx, DB::sql("UPDATE counter SET value = 1 WHERE id = 99"), &[]).await?;
            tx.expect_one(done)
        })
        .await
        .expect_err("no such row");
    assert_eq!(error.kind(), ErrorKind::Exhausted);
    assert_eq!(error.attempts(), Some(3));
    assert!(error.elapsed().is_some());
    assert_eq!(error.failure().map(|failure| failure.kind()), Some(FailureKind::StaleVersion));
    assert!(error.is_exhausted() && error.is_conflict());
    assert!(error.to_string().starts_with("gave up after 3 attempts in "), "{error}");
    assert_eq!(value(&pool).await, 0);
}

pub(crate) async fn aborts_if_more_than_one_row_is_updated<DB: TestBackend>() {
    let pool = counter::<DB>(2).await;
    let db = Optimistic::default().on(&pool);
    let error = db
        .run(async |tx: &mut Tx<DB>| {
            let done = DB::execute(tx, DB::sql("UPDATE counter SET value = 1"), &[]).await?;
            tx.expect_one(done)
        })
        .await
        .expect_err("two rows");
    assert_eq!(error.kind(), ErrorKind::Aborted);
    assert_eq!(value(&pool).await, 0);
}

/// Units borrow or own their captures, call helper functions, and run in tasks behind `Arc<dyn Transactor>`.
pub(crate) async fn units_run_in_spawned_tasks_and_through_dyn_transactors<DB: TestBackend>() {
    let pool = counter::<DB>(4).await;
    let transactors: Vec<Arc<dyn Transactor<DB>>> = vec![
        Arc::new(Pessimistic::default().on(&pool)),
        Arc::new(Optimistic::default().on(&pool)),
        Arc::new(Serializable::default().on(&pool)),
        Arc::new(Atomic::default().on(&pool)),
        Arc::new(Adaptive::default().on(&pool)),
    ];
    for db in &transactors {
        let db = db.clone();
        let spawned = tokio::spawn(async move {
            let borrowed = String::from("borrowed");
            let owned = String::from("owned");
            let length = db.run(async |tx: &mut Tx<DB>| {
                increment(tx).await?;
                Ok::<_, Error>(borrowed.len())
            });
            let length = length.await?;
            db.run(async move |tx: &mut Tx<DB>| {
                increment(tx).await?;
                Ok::<_, Error>(owned.len() + length)
            })
            .await
        });
        assert_eq!(spawned.await.expect("no panic").expect("both units commit"), 13);
    }
    assert_eq!(value(&pool).await, 2 * transactors.len() as i64);
}

pub(crate) async fn refuses_transaction_control_statements<DB: TestBackend>() {
    let pool = counter::<DB>(2).await;
    let db = Pessimistic::default().on(&pool);
    for sql in ["COMMIT", "ROLLBACK", "  begin"] {
        let error = db
            .run(async |tx: &mut Tx<DB>| {
                set_value(tx, 9).await?;
                // The error is discarded, but the transaction records it.
                let _ = DB::execute(tx, DB::sql(sql), &[]).await;
                set_value(tx, 10).await.map_err(|error| {
                    assert!(error.to_string().contains("return Ok to commit"), "{error}");
                    Error::from(error)
                })
            })
            .await
            .expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::Aborted, "{error:?}");
        assert_eq!(value(&pool).await, 0);
    }
}

pub(crate) async fn commits_statements_run_through_raw_access<DB: TestBackend>() {
    let pool = counter::<DB>(2).await;
    let db = Pessimistic::default().on(&pool);
    db.run(async |tx: &mut Tx<DB>| {
        set_value(tx, 3).await?;
        let connection = tx.connection()?;
        DB::raw(connection, "UPDATE counter SET value = value + 1 WHERE id = 1").await?;
        Ok::<_, Error>(())
    })
    .await
    .expect("a commit");
    assert_eq!(value(&pool).await, 4);
}

pub(crate) async fn detects_a_rollback_through_raw_access<DB: TestBackend>() {
    let pool = counter::<DB>(2).await;
    let db = Pessimistic::default().on(&pool);
    let error = db
        .run(async |tx: &mut Tx<DB>| {
            set_value(tx, 3).await?;
            DB::raw(tx.connection()?, "ROLLBACK").await?;
            Ok::<_, Error>(())
        })
        .await
        .expect_err("the transaction was rolled back");
    assert_eq!(error.kind(), ErrorKind::Aborted, "{error:?}");
    assert_eq!(value(&pool).await, 0);
    eventually(0, async || DB::open_transactions(&pool).await).await;
}

pub(crate) async fn commits_after_a_stream_is_dropped_between_rows<DB: TestBackend>() {
    let pool = counter::<DB>(2).await;
    let db = Pessimistic::default().on(&pool);
    db.run(async |tx: &mut Tx<DB>| {
        set_value(tx, 3).await?;
        let first = DB::stream(tx, DB::sql("SELECT id FROM counter ORDER BY id")).try_next().await?;
        assert_eq!(first, Some(1));
        Ok::<_, Error>(())
    })
    .await
    .expect("a commit");
    assert_eq!(value(&pool).await, 3);
}

pub(crate) async fn apply_returns_affected_rows_and_typed_errors<DB: TestBackend>() {
    let pool = counter::<DB>(2).await;
    let db = Atomic::default().on(&pool);
    let update = |sql| db.apply(sqlx::raw_sql(DB::sql(sql)));
    assert_eq!(update("UPDATE counter SET value = value + 1").await.expect("two rows"), 2);
    assert_eq!(update("UPDATE counter SET value = 1 WHERE id = 99").await.expect("no row"), 0);
    let error = update("INSERT INTO counter VALUES (1, 0, 0)").await.expect_err("a duplicate");
    assert_eq!(error.kind(), ErrorKind::Constraint);
    assert_eq!(error.attempts(), Some(1));
    let error = update("UPDATE nothing SET value = 1").await.expect_err("no such table");
    assert_eq!(error.kind(), ErrorKind::Database);
    assert_eq!(value(&pool).await, 1);
}
