//! Waits for a metadata lock, behind an ALTER that waits for a reader.

use std::time::Duration;

use atomically::{ErrorKind, Options, Pessimistic, TransactorExt as _};
use sqlx::{Connection as _, Executor as _, MySqlConnection, MySqlPool};
use tokio::task::JoinHandle;

use crate::increments::{counter, increment};
use crate::support::{eventually, with_longer_limits};

/// How many sessions of this database wait for a metadata lock.
async fn waiting(watcher: &MySqlPool) -> i64 {
    let sql = "SELECT COUNT(*) FROM information_schema.processlist
               WHERE db = database() AND state = 'Waiting for table metadata lock'";
    sqlx::query_scalar(sql).fetch_one(watcher).await.expect("the sessions")
}

/// A reader in an open transaction, and an ALTER that waits for it and blocks all later statements.
async fn blocked(url: &str, watcher: &MySqlPool) -> (MySqlConnection, JoinHandle<()>) {
    let mut reader = MySqlConnection::connect(url).await.expect("a reader");
    reader.execute("START TRANSACTION").await.expect("a transaction");
    reader.execute("SELECT * FROM counter").await.expect("a read");
    let mut altering = MySqlConnection::connect(url).await.expect("a connection");
    let alter = tokio::spawn(async move {
        altering.execute("ALTER TABLE counter ADD COLUMN note INT").await.expect("a migration");
    });
    eventually(1, async || waiting(watcher).await).await;
    (reader, alter)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wait_for_a_migration_is_a_lock_timeout_and_leaves_no_session_waiting() {
    let direct = counter::<sqlx::MySql>(1).await;
    let pool = MySqlPool::connect(&direct.url).await.expect("a pool");
    let (mut reader, alter) = blocked(&direct.url, &direct).await;

    let db = Pessimistic::default().on(&pool);
    for run in 0..3 {
        with_longer_limits(Duration::from_millis(2500), async |deadline| {
            let db = db.clone().deadline(deadline);
            let error = db.run(increment::<sqlx::MySql>).await.expect_err("the table is locked");
            assert_eq!(error.kind(), ErrorKind::DeadlineExceeded, "{error:?}");
            // Unless less than a second was left when the first attempt began.
            if error.is_lock_timeout() { Ok(()) } else { Err(error) }
        })
        .await;
        // The last attempt had less than a second left, the unit of the server's timeout.
        eventually(1, async || waiting(&direct).await).await;
        assert!(!alter.is_finished(), "run {run}: the reader is open, and so the ALTER waits");
    }

    let limits = Options::new().lock_timeout(Duration::from_secs(1)).deadline(Duration::from_secs(60));
    let impatient = db.options(limits.attempts(1));
    let error = impatient.run(increment::<sqlx::MySql>).await.expect_err("the table is locked");
    assert!(error.is_lock_timeout(), "{error:?}");
    // Only the ALTER waits.
    eventually(1, async || waiting(&direct).await).await;

    reader.execute("COMMIT").await.expect("the reader ends");
    alter.await.expect("the migration is through");
    Pessimistic::default().on(&pool).run(increment::<sqlx::MySql>).await.expect("an increment");
}
