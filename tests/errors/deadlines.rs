//! Runs whose deadline passes while they wait for a lock.

use std::time::Duration;

use atomically::{ErrorKind, Isolation, Options, Pessimistic, TransactorExt as _};
use sqlx::Executor as _;
use sqlx::postgres::PgPoolOptions;
use tokio::time::timeout;

use crate::support::proxy::Proxy;
use crate::support::{TestBackend, in_one_of};
use crate::{TEST_TIMEOUT, add_one, counter};

/// The server's limit ends a twentieth or a tenth of a second before the deadline, and a busy machine may
/// take longer to deliver its response.
const ROUNDS: usize = 20;

/// At every isolation level, even if no query may precede the unit's first statement.
pub(crate) async fn a_lock_wait_that_meets_the_deadline_is_a_lock_timeout<DB: TestBackend>() {
    let pool = counter::<DB>(2).await;
    let blocker = DB::blocker(&pool.url).await;
    for isolation in [Isolation::ReadCommitted, Isolation::RepeatableRead, Isolation::Serializable] {
        let options = Options::new().isolation(isolation).deadline(Duration::from_millis(4500));
        let db = Pessimistic::default().on(&pool).options(options);
        in_one_of(ROUNDS, async || {
            let run = timeout(TEST_TIMEOUT, db.run(add_one::<DB>));
            let error = run.await.expect("in time").expect_err("locked");
            assert_eq!(error.kind(), ErrorKind::DeadlineExceeded, "{isolation}: {error:?}");
            if error.is_lock_timeout() && error.is_conflict() { Ok(()) } else { Err(error) }
        })
        .await;
    }
    drop(blocker);
}

/// PostgreSQL's timeouts have milliseconds, so this includes deadlines of about a second.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_short_deadline_is_a_lock_timeout_on_postgres() {
    let pool = counter::<sqlx::Postgres>(2).await;
    let blocker = sqlx::Postgres::blocker(&pool.url).await;
    for deadline in [700, 1500] {
        let db = Pessimistic::default().on(&pool).deadline(Duration::from_millis(deadline));
        in_one_of(ROUNDS, async || {
            let error = db.run(add_one::<sqlx::Postgres>).await.expect_err("locked");
            assert_eq!(error.kind(), ErrorKind::DeadlineExceeded, "{error:?}");
            if error.is_lock_timeout() { Ok(()) } else { Err(error) }
        })
        .await;
    }
    drop(blocker);
}

/// A statement that is slow without waiting for a lock is a statement timeout.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_statement_is_not_a_lock_timeout_on_postgres() {
    let pool = counter::<sqlx::Postgres>(1).await;
    let db = Pessimistic::default().on(&pool).deadline(Duration::from_millis(500));
    let error = db
        .run(async |tx| {
            sqlx::query("SELECT pg_sleep(5)").execute(&mut *tx).await?;
            Ok::<_, atomically::Error>(())
        })
        .await
        .expect_err("too slow");
    assert_eq!(error.kind(), ErrorKind::DeadlineExceeded, "{error:?}");
    assert!(!error.is_lock_timeout(), "{error:?}");
}

/// At every isolation level, and independently of the timeouts of earlier sessions.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_keeps_its_own_shorter_lock_timeout_on_postgres() {
    let server = counter::<sqlx::Postgres>(1).await;
    let pool = PgPoolOptions::new().max_connections(1).connect(&server.url).await.expect("a pool");
    let db = Pessimistic::default().on(&pool);
    for isolation in [Isolation::ReadCommitted, Isolation::RepeatableRead, Isolation::Serializable] {
        for (own, expected) in [("0", None), ("150ms", Some(150)), ("0", None), ("2s", Some(2_000))] {
            let mut session = pool.acquire().await.expect("the session");
            let set = sqlx::AssertSqlSafe(format!("SET lock_timeout = '{own}'"));
            session.execute(sqlx::raw_sql(set)).await.expect("set");
            drop(session);
            let options = Options::new().isolation(isolation).deadline(Duration::from_secs(60));
            let millis: i64 = db
                .with(options)
                .run(async |tx| {
                    let ask = "SELECT setting::bigint FROM pg_settings WHERE name = 'lock_timeout'";
                    Ok::<_, atomically::Error>(sqlx::query_scalar(ask).fetch_one(&mut *tx).await?)
                })
                .await
                .expect("a setting");
            match expected {
                Some(own) => assert_eq!(millis, own, "{isolation}"),
                // Derived from what is left of the deadline when the transaction begins.
                None => assert!((30_000..59_950).contains(&millis), "{isolation}: {millis} ms"),
            }
        }
    }
}

/// A reused connection reports its own limit once, and again after a unit that may have changed it.
#[tokio::test]
async fn a_lock_timeout_that_a_unit_sets_for_its_session_applies_to_the_next_run() {
    let server = counter::<sqlx::Postgres>(1).await;
    let pool = PgPoolOptions::new().max_connections(1).connect(&server.url).await.expect("a pool");
    let db = Pessimistic::default().on(&pool).reuse_connections();
    let run = async |sql: &'static str| {
        db.run(async |tx| {
            sqlx::raw_sql(sql).execute(&mut *tx).await?;
            let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut *tx).await?;
            let shown: String =
                sqlx::query_scalar("SELECT current_setting('lock_timeout')").fetch_one(&mut *tx).await?;
            Ok::<_, atomically::Error>((pid, shown))
        })
        .await
        .expect("a setting")
    };
    let (first, _) = run("SELECT 1").await;
    run("SET lock_timeout = '150ms'").await;
    for _ in 0..3 {
        assert_eq!(run("SELECT 1").await, (first, "150ms".to_owned()));
    }
    run("SET lock_timeout = 0").await;
    let (_, shown) = run("SELECT 1").await;
    assert_ne!(shown, "150ms");
}

/// BEGIN, one statement and COMMIT are three requests, and nothing is read before the unit's first
/// statement, which takes the transaction's snapshot.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deriving_a_lock_timeout_from_the_deadline_costs_no_round_trip_on_postgres() {
    let direct = counter::<sqlx::Postgres>(2).await;
    let proxy = Proxy::to(&direct.url).await;
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .test_before_acquire(false)
        .connect(&proxy.url(&direct.url))
        .await
        .expect("a pool");
    let serializable = Options::new().isolation(Isolation::Serializable);
    let db = Pessimistic::default().on(&pool).reuse_connections().options(serializable);
    let other = direct.pool.clone();
    let unit = async |tx: &mut atomically::Tx<sqlx::Postgres>| {
        // Committed after the transaction was opened, and before it has read anything.
        sqlx::raw_sql("UPDATE counter SET value = 5 WHERE id = 2").execute(&other).await?;
        let value: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe("SELECT value FROM counter WHERE id = 2"))
            .persistent(true)
            .fetch_one(&mut *tx)
            .await?;
        Ok::<_, atomically::Error>(value)
    };
    assert_eq!(db.run(unit).await.expect("a commit"), 5, "the snapshot is older than the first statement");
    let count = async || {
        let before = proxy.requests();
        let one = async |tx: &mut atomically::Tx<sqlx::Postgres>| {
            sqlx::raw_sql("SELECT 1").execute(&mut *tx).await?;
            Ok::<_, atomically::Error>(())
        };
        db.run(one).await.expect("a commit");
        proxy.requests() - before
    };
    // A connection that was returned to the pool in between is pinged, so the minimum counts.
    let mut fewest = u32::MAX;
    for _ in 0..20 {
        fewest = fewest.min(count().await);
    }
    assert_eq!(fewest, 3);
}
