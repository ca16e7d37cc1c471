//! The semantics on MariaDB, and what is MariaDB's and MySQL's own.

mod conformance;
mod support;

use std::time::Duration;

use atomically::{Atomic, Error, ErrorKind, Optimistic, Pessimistic, Serializable, TransactorExt as _};
use sqlx::mysql::{MySqlPool, MySqlPoolOptions};

conformance!(server sqlx::MySql);

/// MySQL and MariaDB commit before they run DDL, and go on in autocommit. The unit cannot be undone any more, but it
/// does not end in `Ok` either.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_implicit_commit_is_noticed() {
    let pool = increments::counter::<sqlx::MySql>(2).await;
    let db = Pessimistic::default().on(&pool);
    let error = db
        .run(async |tx| {
            outcomes::set_value(tx, 5).await?;
            sqlx::query("CREATE TABLE surprise (id INT)").execute(&mut *tx).await?;
            outcomes::set_value(tx, 6).await?;
            Ok::<_, Error>(())
        })
        .await
        .expect_err("not one transaction");
    assert_eq!(error.kind(), ErrorKind::Aborted, "{error:?}");
    assert!(error.to_string().contains("commits implicitly"), "{error}");
}

/// A session that was ended by a statement that commits implicitly may still hold the locks that this statement took.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn table_locks_do_not_outlive_a_refused_commit() {
    let pool = increments::counter::<sqlx::MySql>(2).await;
    let db = Pessimistic::default().on(&pool);
    for own_error in [false, true] {
        let error = db
            .run(async |tx| {
                sqlx::raw_sql("LOCK TABLES counter WRITE").execute(tx.connection()?).await?;
                if own_error { Err(sqlx::Error::RowNotFound.into()) } else { Ok::<_, Error>(()) }
            })
            .await
            .expect_err("not one transaction");
        assert_eq!(error.kind(), ErrorKind::Aborted, "{error:?}");
        let others = <sqlx::MySql as support::TestBackend>::another(&pool.url).await;
        let write = sqlx::query("UPDATE counter SET value = value + 1").execute(&others);
        tokio::time::timeout(Duration::from_secs(10), write).await.expect("locked out").expect("a write");
    }
}

/// A pool whose sessions begin with this statement.
async fn pool_with(url: &str, statement: &'static str) -> MySqlPool {
    let options = MySqlPoolOptions::new().max_connections(1).after_connect(move |connection, _| {
        Box::pin(async move { sqlx::raw_sql(statement).execute(connection).await.map(drop) })
    });
    options.connect(url).await.expect("a pool")
}

/// A lone statement is committed by nothing then, and a SELECT on the pool leaves a transaction open.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_done_without_autocommit_is_stored() {
    let server = increments::counter::<sqlx::MySql>(2).await;
    for statement in ["SET autocommit = 0", "SET autocommit = 0, completion_type = 'CHAIN'"] {
        let before = increments::value(&server).await;
        let pool = pool_with(&server.url, statement).await;
        let lone = Atomic::default().on(&pool);
        let update = || sqlx::query("UPDATE counter SET value = value + 1 WHERE id = 1");
        assert_eq!(lone.apply(update()).await.expect("a commit"), 1);
        assert_eq!(increments::value(&server).await, before + 1, "apply under {statement}");

        for strategy in 0..2 {
            let _: i64 = sqlx::query_scalar("SELECT value FROM counter WHERE id = 1")
                .fetch_one(&pool)
                .await
                .expect("a value");
            let run = async |tx: &mut atomically::Tx<sqlx::MySql>| increments::increment(tx).await;
            let ran = match strategy {
                0 => Serializable::default().on(&pool).run(run).await,
                _ => Optimistic::default().on(&pool).run(run).await,
            };
            ran.expect("a commit");
            assert_eq!(increments::value(&server).await, before + 2 + strategy, "run under {statement}");
        }
        let kept: (i64, String) = sqlx::query_as("SELECT @@autocommit, @@completion_type")
            .fetch_one(&pool)
            .await
            .expect("settings");
        assert_eq!(kept.0, 0, "the session is its owner's");
    }
}

/// `CHAIN` would leave each session in another transaction, `RELEASE` would close it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_completion_type_of_the_session_changes_nothing() {
    let server = increments::counter::<sqlx::MySql>(2).await;
    for statement in ["SET completion_type = 'CHAIN'", "SET completion_type = 'RELEASE'"] {
        let pool = pool_with(&server.url, statement).await;
        let session = || sqlx::query_scalar("SELECT CONNECTION_ID()").fetch_one(&pool);
        let first: u64 = session().await.expect("a session");
        let db = Pessimistic::default().on(&pool);
        db.run(increments::increment::<sqlx::MySql>).await.expect("a commit");
        let failed = db.run(async |_| Err::<(), Error>(sqlx::Error::RowNotFound.into())).await;
        failed.expect_err("its own");
        sqlx::query("UPDATE counter SET value = value + 1 WHERE id = 2")
            .execute(&pool)
            .await
            .expect("a write");
        let stored = "SELECT value FROM counter WHERE id = 2";
        let stored: i64 = sqlx::query_scalar(stored).fetch_one(&*server).await.expect("a value");
        assert!(stored > 0, "the pool's own statement is in a transaction that nobody commits");
        assert_eq!(session().await.expect("a session"), first, "{statement}");
    }
}
