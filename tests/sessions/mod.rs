//! Which failures close a session on PostgreSQL, because a new session would not have them.

mod outage;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use atomically::queue::{NewJob, Queue};
use atomically::{
    Atomic, DeltaOutcome, Deltas, Error, ErrorKind, FailureKind, Options, Pessimistic, TransactorExt as _,
};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;

use crate::increments::counter;
use crate::support::servers::Server;

/// Counts the connections that a pool opens.
#[derive(Debug, Clone, Default)]
struct Opened(Arc<AtomicI64>);

impl Opened {
    /// A pool of one connection, which is already open.
    async fn pool(&self, url: &str) -> PgPool {
        let counted = self.0.clone();
        let options = PgPoolOptions::new().max_connections(1).after_connect(move |_, _| {
            counted.fetch_add(1, Ordering::Relaxed);
            Box::pin(async { Ok(()) })
        });
        options.connect(url).await.expect("a pool")
    }

    fn count(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Changes the type of a column, so that the next statement of each kind finds its plan outdated.
async fn change_type(pool: &PgPool, round: usize) {
    let kind = if round.is_multiple_of(2) { "INTEGER" } else { "BIGINT" };
    let alter = format!("ALTER TABLE counter ALTER COLUMN value TYPE {kind}");
    sqlx::raw_sql(sqlx::AssertSqlSafe(alter)).execute(pool).await.expect("a migration");
}

const RETURNING: &str = "UPDATE counter SET value = value + 1 WHERE id = 1 RETURNING value";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_unit_whose_plan_is_outdated_commits_on_another_session() {
    let direct = counter::<sqlx::Postgres>(1).await;
    let opened = Opened::default();
    let pool = opened.pool(&direct.url).await;
    let db = Pessimistic::default().on(&pool);
    let unit = || {
        db.run(async |tx| {
            sqlx::query(RETURNING).fetch_all(&mut *tx).await?;
            Ok::<_, Error>(tx.attempt())
        })
    };
    assert_eq!(unit().await.expect("the statement is prepared"), 1);
    for round in 0..3 {
        change_type(&direct, round).await;
        assert_eq!(unit().await.expect("on another session"), 2, "round {round}");
    }
    assert_eq!(opened.count(), 4, "one for each migration");
}

/// Inside of a savepoint, a rollback does not repair the session: it would fail in the same way again and
/// again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outdated_plan_inside_of_a_savepoint_retries_the_unit() {
    let direct = counter::<sqlx::Postgres>(1).await;
    let opened = Opened::default();
    let pool = opened.pool(&direct.url).await;
    let db = Pessimistic::default().on(&pool);
    let unit = || {
        db.run(async |tx| {
            let scope = tx.savepoint(async |tx| {
                sqlx::query(RETURNING).fetch_all(&mut *tx).await?;
                Ok::<_, Error>(())
            });
            Ok::<_, Error>((scope.await.is_ok(), tx.attempt()))
        })
    };
    assert_eq!(unit().await.expect("the statement is prepared"), (true, 1));
    change_type(&direct, 0).await;
    assert_eq!(unit().await.expect("on another session"), (true, 2));
    assert_eq!(opened.count(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_applied_statement_whose_plan_is_outdated_is_sent_on_another_session() {
    let direct = counter::<sqlx::Postgres>(1).await;
    let opened = Opened::default();
    let pool = opened.pool(&direct.url).await;
    let db = Atomic::default().on(&pool).attempts(2);
    assert_eq!(db.apply(sqlx::query(RETURNING)).await.expect("the statement is prepared"), 1);
    change_type(&direct, 0).await;
    assert_eq!(db.apply(sqlx::query(RETURNING)).await.expect("on another session"), 1);
    assert_eq!(opened.count(), 2);
}

/// `DISCARD ALL`, which poolers and callbacks send, removes the prepared statements that the driver has
/// cached.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_lost_its_prepared_statements_is_not_reused() {
    let direct = counter::<sqlx::Postgres>(1).await;
    let opened = Opened::default();
    let pool = opened.pool(&direct.url).await;
    let db = Pessimistic::default().on(&pool);
    let unit = || {
        db.run(async |tx| {
            sqlx::query(RETURNING).fetch_all(&mut *tx).await?;
            Ok::<_, Error>(tx.attempt())
        })
    };
    unit().await.expect("the statement is prepared");
    sqlx::raw_sql("DEALLOCATE ALL").execute(&pool).await.expect("forgotten");
    // Behind a pooler, a retry might run another client's statement, so the error is returned.
    let error = unit().await.expect_err("the statement is gone");
    assert_eq!(error.failure().and_then(|failure| failure.code()), Some("26000"), "{error:?}");
    assert_eq!(unit().await.expect("on another session"), 1);

    // A statement that was never prepared is a mistake of the caller.
    let missing = db.run(async |tx| {
        sqlx::raw_sql("EXECUTE never_prepared").execute(&mut *tx).await?;
        Ok::<_, Error>(())
    });
    let error = missing.await.expect_err("there is no such statement");
    assert_eq!(error.kind(), ErrorKind::Database, "{error:?}");
    assert!(error.failure().is_some_and(|failure| !failure.is_retryable()), "{error:?}");
    assert_eq!(opened.count(), 2);
}

/// Sums and claims are prepared statements, and the results of `Deltas` and queues do not depend on the type
/// of a column.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn additions_continue_after_a_migration() {
    let direct = counter::<sqlx::Postgres>(1).await;
    let opened = Opened::default();
    let pool = opened.pool(&direct.url).await;
    let counters = Deltas::on(&pool, "counter", "id", "value");
    for round in 0..4_usize {
        let value = i64::try_from(round + 1).expect("a small number");
        let answer = counters.add(1_i64, 1).await.expect("a commit");
        assert_eq!(answer, DeltaOutcome::Applied { value });
        change_type(&direct, round).await;
    }
    assert!(opened.count() <= 5, "{} connections for four migrations", opened.count());
}

/// A server that has become a hot standby, and a pool of one connection to it.
async fn demoted() -> (Server, PgPool, Opened) {
    let mut server = tokio::task::spawn_blocking(Server::postgres).await.expect("a server");
    let opened = Opened::default();
    let pool = opened.pool(server.url()).await;
    for sql in [
        "CREATE TABLE counter (id BIGINT PRIMARY KEY, value BIGINT NOT NULL)",
        "INSERT INTO counter VALUES (1, 0)",
    ] {
        sqlx::raw_sql(sql).execute(&pool).await.expect("set up");
    }
    let queue = Queue::new("mails", &pool).expect("a name");
    queue.create_tables().await.expect("the tables");
    pool.close().await;
    server = tokio::task::spawn_blocking(move || {
        server.write("data/standby.signal", "");
        server.restart();
        server
    })
    .await
    .expect("a standby");
    let opened = Opened::default();
    let pool = opened.pool(server.url()).await;
    (server, pool, opened)
}

fn is_read_only(error: &Error) -> bool {
    error.failure().is_some_and(|failure| failure.kind() == FailureKind::ReadOnly)
}

/// Each attempt of each kind of call opens a new connection, to look for another server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_keeps_a_session_of_a_demoted_server() {
    let (server, pool, opened) = demoted().await;
    let mut before = opened.count();
    let mut left = |call: &str, attempts: Option<u32>| {
        let (now, attempts) = (opened.count(), i64::from(attempts.unwrap_or_default()));
        assert!(attempts > 1, "{call} was tried {attempts} times");
        // The first attempt may have got a connection that was already open.
        assert!(now - before >= attempts - 1, "{call}: {} connections for {attempts} attempts", now - before);
        before = now;
    };

    let options = Options::new().attempts(3);
    let db = Atomic::default().on(&pool).options(options.clone());
    let error = db.apply(sqlx::query("UPDATE counter SET value = 1")).await.expect_err("no writes here");
    assert!(is_read_only(&error), "{error:?}");
    left("apply", error.attempts());

    let db = Pessimistic::default().on(&pool).options(options.clone());
    let unit = db.run(async |tx| {
        sqlx::query("UPDATE counter SET value = 1").execute(&mut *tx).await?;
        Ok::<_, Error>(())
    });
    let error = unit.await.expect_err("no writes here");
    assert!(is_read_only(&error), "{error:?}");
    left("run", error.attempts());

    let queue = Queue::new("mails", &pool).expect("a name");
    let error = queue.claim(1).await.expect_err("no writes here");
    assert!(is_read_only(&error), "{error:?}");
    left("claim", error.attempts());

    let job = NewJob::new(&1).expect("a payload");
    let error = queue.enqueue_alone(job).await.expect_err("no writes here");
    assert!(is_read_only(&error), "{error:?}");
    left("enqueue_alone", error.attempts());

    let counters = Deltas::on(&pool, "counter", "id", "value").options(options);
    let error = counters.add(1_i64, 1).await.expect_err("no writes here");
    assert!(is_read_only(&error), "{error:?}");
    left("Deltas", error.attempts());
    drop(server);
}

/// `transaction_timeout` and similar errors are FATAL, whatever their code means elsewhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_the_server_ended_is_not_reused() {
    let direct = counter::<sqlx::Postgres>(2).await;
    let opened = Opened::default();
    let pool = opened.pool(&direct.url).await;
    let db = Atomic::default().on(&pool);
    let ends_itself = "SELECT pg_terminate_backend(pg_backend_pid()), pg_sleep(1)";
    let error = db.apply(sqlx::query(ends_itself)).await.expect_err("the session is gone");
    assert!(error.is_commit_unknown(), "{error:?}");
    let before = opened.count();
    // Without the pool's ping, a dead session that was released would be used here.
    let untested = tokio::time::timeout(Duration::from_secs(20), db.apply(sqlx::query(RETURNING)));
    assert_eq!(untested.await.expect("in time").expect("on another session"), 1);
    assert_eq!(opened.count(), before + 1);
}
