//! Functions that a unit calls with the connection itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use atomically::{Error, ErrorKind, Serializable, TransactorExt as _, Tx};
use tokio::sync::{Barrier, Notify};
use tokio::task::JoinSet;

use super::increments::{counter, patient, value};
use crate::support::{ServerBackend, TestBackend, eventually};

const UNITS: u32 = 4;
const INCREMENT: &str = "UPDATE counter SET value = value + 1 WHERE id = 1";

/// The error of a repository, which has no variant for transactions.
#[derive(Debug, thiserror::Error)]
enum RepositoryError {
    #[error("the counter could not be changed")]
    Database(#[from] sqlx::Error),
}

/// The error of an application that uses the repository.
#[derive(Debug, thiserror::Error)]
enum AppError {
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    #[error(transparent)]
    Transaction(#[from] Error),
}

async fn read<DB: TestBackend>(connection: &mut DB::Connection) -> Result<(), RepositoryError> {
    Ok(DB::raw(connection, "SELECT value FROM counter WHERE id = 1").await?)
}

async fn increment<DB: TestBackend>(connection: &mut DB::Connection) -> Result<(), RepositoryError> {
    Ok(DB::raw(connection, INCREMENT).await?)
}

pub(crate) async fn retries_a_conflict_in_a_connection_function<DB: TestBackend>() {
    conflicting_increments::<DB>(false).await;
}

pub(crate) async fn retries_an_ignored_conflict_in_a_connection_function<DB: TestBackend>() {
    conflicting_increments::<DB>(true).await;
}

/// All units have read before the first of them writes, so only one of them can commit its first attempt.
async fn conflicting_increments<DB: TestBackend>(ignores_errors: bool) {
    let pool = counter::<DB>(UNITS).await;
    let db = patient(Serializable::default(), &pool);
    let (have_read, attempts) = (Arc::new(Barrier::new(UNITS as usize)), Arc::new(AtomicU32::new(0)));
    let mut units = JoinSet::new();
    for _ in 0..UNITS {
        let (db, have_read, attempts) = (db.clone(), have_read.clone(), attempts.clone());
        units.spawn(async move {
            db.run(async |tx: &mut Tx<DB>| {
                attempts.fetch_add(1, Ordering::Relaxed);
                tx.on_connection(async |connection: &mut DB::Connection| read::<DB>(connection).await)
                    .await?;
                if tx.attempt() == 1 {
                    have_read.wait().await;
                }
                let incremented = tx
                    .on_connection(async |connection: &mut DB::Connection| increment::<DB>(connection).await)
                    .await;
                if ignores_errors { Ok(()) } else { incremented.map_err(AppError::from) }
            })
            .await
        });
    }
    for ended in units.join_all().await {
        ended.expect("an increment");
    }
    assert_eq!(value(&pool).await, i64::from(UNITS));
    assert!(attempts.load(Ordering::Relaxed) > UNITS, "no conflict occurred, so the test proves nothing");
}

/// The function ignores that one of its statements has failed.
pub(crate) async fn does_not_commit_a_transaction_that_a_connection_function_broke<DB: ServerBackend>() {
    let pool = counter::<DB>(2).await;
    let mut blocker = DB::blocker(&pool.url).await;
    let db = Serializable::default().on(&pool).attempts(1);
    let ended = db
        .run(async |tx: &mut Tx<DB>| {
            tx.on_connection(async |connection: &mut DB::Connection| {
                DB::raw(connection, DB::SHORT_LOCK_TIMEOUT).await?;
                DB::raw(connection, "UPDATE counter SET value = 5 WHERE id = 2").await?;
                let _ignored = DB::raw(connection, INCREMENT).await;
                Ok::<_, sqlx::Error>(())
            })
            .await?;
            Ok::<_, Error>(())
        })
        .await;
    DB::raw(&mut blocker, "ROLLBACK").await.expect("a rollback");
    let second = DB::pool_fetch(&pool, DB::sql("SELECT value FROM counter WHERE id = 2"), &[]);
    let second = second.await.expect("the second counter");
    match ended {
        // If the database rolls back only the statement, the rest can be committed.
        Ok(()) => assert_eq!((DB::NAME, second), ("MySQL", 5)),
        Err(error) => assert_eq!((error.kind(), second), (ErrorKind::Aborted, 0), "{error:?}"),
    }
    assert_eq!(value(&pool).await, 0);
}

/// A statement of the function may still be running on the server.
pub(crate) async fn dropping_a_connection_function_aborts_the_transaction<DB: TestBackend>() {
    let pool = counter::<DB>(1).await;
    let db = Serializable::default().on(&pool);
    let error = db
        .run(async |tx: &mut Tx<DB>| {
            let has_written = Notify::new();
            let function = tx.on_connection(async |connection: &mut DB::Connection| {
                increment::<DB>(connection).await?;
                has_written.notify_one();
                std::future::pending::<Result<(), RepositoryError>>().await
            });
            tokio::select! {
                _ = function => panic!("the function never returns"),
                () = has_written.notified() => {}
            }
            Ok::<_, Error>(())
        })
        .await
        .expect_err("the connection is in an unknown state");
    assert_eq!(error.kind(), ErrorKind::Aborted, "{error:?}");
    assert_eq!(value(&pool).await, 0);
    eventually(0, async || DB::open_transactions(&pool).await).await;
}

/// Units of existing code may return the driver's error type.
pub(crate) async fn units_can_return_sqlx_errors<DB: TestBackend>() {
    let pool = counter::<DB>(1).await;
    let db = Serializable::default().on(&pool).attempts(2);
    let insert = DB::sql("INSERT INTO counter VALUES (1, 0, 0)");
    let error: sqlx::Error = db
        .run(async |tx: &mut Tx<DB>| DB::execute(tx, insert.clone(), &[]).await.map(drop))
        .await
        .expect_err("a duplicate key");
    assert!(error.as_database_error().is_some_and(|error| error.is_unique_violation()), "{error:?}");

    let runs = AtomicU32::new(0);
    let error: sqlx::Error = db
        .run(async |tx: &mut Tx<DB>| {
            runs.fetch_add(1, Ordering::Relaxed);
            tx.expect_one(0).map_err(sqlx::Error::from)
        })
        .await
        .expect_err("the version is stale in every attempt");
    let error = Error::from(error);
    assert_eq!((error.kind(), error.attempts()), (ErrorKind::Exhausted, Some(2)), "{error:?}");
    assert_eq!(runs.into_inner(), 2);
}
