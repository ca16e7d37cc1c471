//! The semantics on PostgreSQL, and the peculiarities of PostgreSQL.

mod at_once;
mod conformance;
mod equivalence;
mod sessions;
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use atomically::{
    Backoff, DeltaOutcome, Deltas, Error, ErrorKind, FailureKind, Options, Pessimistic, Resolve,
    Serializable, TransactorExt as _, Tx,
};
use sqlx::Acquire as _;
use sqlx::postgres::PgPoolOptions;
use support::TestBackend as _;
use support::servers::Server;

conformance!(server sqlx::Postgres);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reports_a_constraint_violation_at_commit() {
    failures::reports_a_constraint_violation_at_commit::<sqlx::Postgres>().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_order_of_table_locks_is_not_certain() {
    lock_knowledge::the_order_of_table_locks_is_not_certain::<sqlx::Postgres>().await;
}

/// Why `Serializable` exists: without a lock on the rows that they read, both doctors go off duty.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn write_skew_is_possible_without_serializable() {
    let (on_call, attempts) = write_skew::both_go_off_duty::<sqlx::Postgres, _>(Pessimistic::default()).await;
    assert_eq!((on_call, attempts), (0, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn applies_no_transfer_twice_with_transaction_status() {
    commit_outcome::applies_no_transfer_twice_with_transaction_status::<sqlx::Postgres>().await;
}

/// The driver still counts the transaction that another user of the pool has forgotten.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_and_rolls_back_on_a_connection_with_a_forgotten_transaction() {
    for commits in [true, false] {
        let pool = increments::counter::<sqlx::Postgres>(1).await;
        let direct = sqlx::Postgres::another(&pool.url).await;
        let db = Pessimistic::default().on(&pool);
        let mut connection = pool.acquire().await.expect("a connection");
        std::mem::forget(connection.begin().await.expect("a transaction"));
        drop(connection);
        let unit = async |tx: &mut Tx<sqlx::Postgres>| {
            increments::increment(tx).await?;
            if commits { Ok(()) } else { Err(tx.stale_claim("rolled back")) }
        };
        assert_eq!(db.run(unit).await.is_ok(), commits);
        assert_eq!(increments::value(&direct).await, i64::from(commits));
        support::eventually(0, async || sqlx::Postgres::open_transactions(&direct).await).await;
    }
}

/// A trigger silently discards an update, so its caller must not get `Applied`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coalesced_update_that_a_trigger_discards_is_not_applied() {
    let pool = increments::counter::<sqlx::Postgres>(1).await;
    for sql in [
        "CREATE FUNCTION take_back() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
        "CREATE TRIGGER take_back BEFORE UPDATE ON counter FOR EACH ROW WHEN (OLD.id = 2)
         EXECUTE FUNCTION take_back()",
    ] {
        sqlx::query(sql).execute(&*pool).await.expect("set up");
    }
    let counters = Deltas::on(&pool, "counter", "id", "value");
    let (stored, taken_back) = tokio::join!(counters.add(1_i64, 1), counters.add(2, 1));
    assert_eq!(stored.expect("a commit"), DeltaOutcome::Applied { value: 1 });
    assert_eq!(taken_back.expect_err("not stored").kind(), ErrorKind::Aborted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn coalesced_sums_that_do_not_fit_their_type_are_not_applied() {
    for (kind, limited) in [
        ("SMALLINT", stored_sums::Limited { start: 32_760, fits: 7, too_much: 12 }),
        ("INTEGER", stored_sums::Limited { start: 2_147_483_640, fits: 7, too_much: 12 }),
        ("NUMERIC(3, 0)", stored_sums::Limited { start: 992, fits: 7, too_much: 12 }),
        ("REAL", stored_sums::Limited { start: 1 << 24, fits: 2, too_much: 1 }),
        // A scale of -1, which PostgreSQL supports since version 15, rounds to tens.
        ("NUMERIC(3, -1)", stored_sums::Limited { start: 100, fits: 10, too_much: 5 }),
    ] {
        let create = format!("CREATE TABLE counter (id BIGINT PRIMARY KEY, value {kind} NOT NULL)");
        let pool = stored_sums::database_with(&[&create, "INSERT INTO counter VALUES (1, 1), (2, 1)"]).await;
        stored_sums::assert_only_stored_sums_are_applied::<sqlx::Postgres>(kind, &pool, limited).await;
    }
}

/// A trigger caps the sum before the update, or changes the row once more after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn coalesced_sums_that_a_trigger_caps_are_not_applied() {
    let before = "BEGIN NEW.value := LEAST(NEW.value, 10); RETURN NEW; END";
    let after = "BEGIN UPDATE counter SET value = 10 WHERE value > 10; RETURN NULL; END";
    for (when, body) in [
        ("BEFORE UPDATE ON counter FOR EACH ROW", before),
        ("AFTER UPDATE ON counter FOR EACH ROW WHEN (pg_trigger_depth() = 0)", after),
        ("AFTER UPDATE ON counter FOR EACH STATEMENT WHEN (pg_trigger_depth() = 0)", after),
    ] {
        let pool = stored_sums::database_with(&[
            "CREATE TABLE counter (id BIGINT PRIMARY KEY, value BIGINT NOT NULL)",
            "INSERT INTO counter VALUES (1, 1), (2, 1)",
            &format!("CREATE FUNCTION cap() RETURNS trigger LANGUAGE plpgsql AS '{body}'"),
            &format!("CREATE TRIGGER cap {when} EXECUTE FUNCTION cap()"),
        ])
        .await;
        let limited = stored_sums::Limited { start: 3, fits: 7, too_much: 12 };
        stored_sums::assert_only_stored_sums_are_applied::<sqlx::Postgres>(when, &pool, limited).await;
    }
}

/// A longer deadline does not extend the lock timeout that is set for a role.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shorter_lock_timeout_of_the_session_is_kept() {
    let server = increments::counter::<sqlx::Postgres>(1).await;
    let patient = PgPoolOptions::new().max_connections(1).after_connect(|connection, _| {
        Box::pin(
            async move { sqlx::raw_sql("SET lock_timeout = '1234ms'").execute(connection).await.map(drop) },
        )
    });
    let pool = patient.connect(&server.url).await.expect("a pool");
    let db = Pessimistic::default().on(&pool);
    let second = Duration::from_secs(1);
    for (options, expected) in [
        (Options::new(), "1234ms"),
        (Options::new().lock_timeout(3600 * second), "1234ms"),
        (Options::new().lock_timeout(second), "1s"),
        (Options::new().lock_timeout(3 * second), "3s"),
    ] {
        let db = db.with(options);
        let shown = db.run(async |tx| {
            Ok::<_, Error>(sqlx::query_scalar("SHOW lock_timeout").fetch_one(&mut *tx).await?)
        });
        let shown: String = shown.await.expect("a setting");
        assert_eq!(shown, expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_only_unit_can_be_deferrable() {
    let pool = increments::counter::<sqlx::Postgres>(1).await;
    let db = Serializable::default().on(&pool).options(Options::new().read_only().deferrable());
    let deferrable: String = db
        .run(async |tx| {
            let show = "SELECT current_setting('transaction_deferrable') ||
                               current_setting('transaction_read_only')";
            Ok::<_, Error>(sqlx::query_scalar(show).fetch_one(&mut *tx).await?)
        })
        .await
        .expect("a report");
    assert_eq!(deferrable, "onon");
}

/// The server dies during the COMMIT of a transaction. The transaction's id never reached the disk and is
/// assigned to another transaction, whose status is `committed`: a caller that took this status for its own
/// would silently lose an update.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn does_not_trust_the_status_of_a_reused_transaction_id() {
    let start = || {
        let mut server = Server::postgres();
        // Otherwise a background process may write the transaction's id to the disk.
        server.write("data/postgresql.auto.conf", WITHOUT_BACKGROUND_WRITES);
        server.restart();
        server
    };
    let mut server = tokio::task::spawn_blocking(start).await.expect("a server");
    let url = server.url().to_owned();
    let pool = PgPoolOptions::new().max_connections(2).connect(&url).await.expect("a pool");
    for sql in [
        "CREATE TABLE stock (id BIGINT PRIMARY KEY, n BIGINT NOT NULL)",
        "INSERT INTO stock VALUES (1, 0)",
        "CREATE FUNCTION linger() RETURNS trigger LANGUAGE plpgsql
         AS 'BEGIN PERFORM pg_sleep(60); RETURN NULL; END'",
        "CREATE CONSTRAINT TRIGGER linger AFTER UPDATE ON stock DEFERRABLE INITIALLY DEFERRED
         FOR EACH ROW EXECUTE FUNCTION linger()",
        "CREATE TABLE burnt (n BIGINT)",
    ] {
        sqlx::query(sql).execute(&pool).await.expect("set up");
    }

    // The pause before the status query leaves time for the other transaction.
    let pause = Backoff::exponential(Duration::from_secs(30), Duration::from_secs(30));
    let options = Options::new()
        .resolve_commits(Resolve::TransactionStatus)
        .deadline(Duration::from_secs(120))
        .backoff(pause)
        .seed(SEED_OF_A_PAUSE_OF_SECONDS);
    let db = Pessimistic::default().on(&pool).options(options);
    let number = Arc::new(AtomicI64::new(0));
    let noted = number.clone();
    let run = tokio::spawn(async move {
        db.run(async |tx| {
            sqlx::query("UPDATE stock SET n = n + 1").execute(&mut *tx).await?;
            let number =
                sqlx::query_scalar("SELECT pg_current_xact_id()::text::bigint").fetch_one(&mut *tx).await?;
            noted.store(number, Ordering::Release);
            Ok::<_, Error>(())
        })
        .await
    });

    let watcher = PgPoolOptions::new().max_connections(1).connect(&url).await.expect("a pool");
    support::eventually(1_i64, async || {
        let lingering =
            "SELECT count(*) FROM pg_stat_activity WHERE query = 'COMMIT' AND wait_event = 'PgSleep'";
        sqlx::query_scalar(lingering).fetch_one(&watcher).await.expect("the activity")
    })
    .await;
    watcher.close().await;
    let server = tokio::task::spawn_blocking(move || {
        server.kill();
        server.restart();
        server
    });
    let server = server.await.expect("the server is back");
    let lost = number.load(Ordering::Acquire);
    let mut other = None;
    let others = PgPoolOptions::new().max_connections(1).connect(&url).await.expect("a pool");
    while other < Some(lost) {
        let burn = "INSERT INTO burnt VALUES (1) RETURNING pg_current_xact_id()::text::bigint";
        other = Some(sqlx::query_scalar(burn).fetch_one(&others).await.expect("a transaction"));
    }
    assert_eq!(other, Some(lost), "the number was not assigned again, so the test proves nothing");
    let status: String = sqlx::query_scalar("SELECT pg_xact_status($1::text::xid8)")
        .bind(lost.to_string())
        .fetch_one(&others)
        .await
        .expect("a status");
    assert_eq!(status, "committed", "the status belongs to the other transaction");

    let error = run.await.expect("no panic").expect_err("an unknown outcome");
    assert_eq!(error.kind(), ErrorKind::CommitUnknown, "{error:?}");
    let n: i64 = sqlx::query_scalar("SELECT n FROM stock").fetch_one(&others).await.expect("the stock");
    assert_eq!(n, 0, "the transaction was not committed");
    drop(server);
}

/// The server closes a session that is idle in its transaction for too long, and reports that in response to
/// the later COMMIT, which it has not read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_meets_a_closed_session_is_known_not_to_be_stored() {
    let pool = increments::counter::<sqlx::Postgres>(2).await;
    let watcher = PgPoolOptions::new().max_connections(1).connect(&pool.url).await.expect("a pool");
    let db = Pessimistic::default().on(&pool).options(Options::new().idle_timeout(Duration::from_secs(1)));
    let closings = AtomicI64::new(0);
    let attempts = db
        .run(async |tx| {
            let session: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut *tx).await?;
            outcomes::set_value(tx, 7).await?;
            if closings.fetch_add(1, Ordering::Relaxed) == 0 {
                closed(watcher.clone(), session).await;
            }
            Ok::<_, Error>(tx.attempt())
        })
        .await
        .expect("a later attempt commits");
    // A busy machine may idle for too long in further attempts.
    assert!(attempts > 1 && closings.into_inner() > 1, "the first attempt was reported as stored");
    assert_eq!(increments::value(&pool).await, 7);
}

/// Statements that the previous user of the connection left uncommitted are rolled back, and the next unit
/// succeeds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_left_open_on_a_pooled_connection_is_rolled_back() {
    let pool = increments::counter::<sqlx::Postgres>(1).await;
    sqlx::raw_sql("BEGIN; UPDATE counter SET value = 99 WHERE id = 2")
        .execute(&*pool)
        .await
        .expect("left open");
    let db = Serializable::default().on(&pool).attempts(1);
    db.run(increments::increment::<sqlx::Postgres>).await.expect("a commit");
    let values: Vec<i64> =
        sqlx::query_scalar("SELECT value FROM counter ORDER BY id").fetch_all(&*pool).await.expect("values");
    assert_eq!(values, [1, 0]);
}

/// Waits until the server has closed this session.
fn closed(watcher: sqlx::PgPool, session: i32) -> futures_util::future::BoxFuture<'static, ()> {
    // Boxed, because a pool that is borrowed across an await would keep the unit from being `Send`.
    Box::pin(support::eventually(0_i64, async move || {
        let alive = "SELECT count(*) FROM pg_stat_activity WHERE pid = $1";
        sqlx::query_scalar(alive).bind(session).fetch_one(&watcher).await.expect("the activity")
    }))
}

/// A hot standby refuses `Serializable` as an unsupported feature. After a failover the same address leads to
/// a server that accepts writes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reconnects_to_leave_a_hot_standby() {
    let mut server = tokio::task::spawn_blocking(Server::postgres).await.expect("a server");
    server = tokio::task::spawn_blocking(move || {
        server.write("data/standby.signal", "");
        server.restart();
        server
    })
    .await
    .expect("a standby");
    let opened = Arc::new(AtomicI64::new(0));
    let counted = opened.clone();
    let options = PgPoolOptions::new().max_connections(1).after_connect(move |_, _| {
        counted.fetch_add(1, Ordering::Relaxed);
        Box::pin(async { Ok(()) })
    });
    let pool = options.connect(server.url()).await.expect("a pool");
    let db = Serializable::default().on(&pool).attempts(3);
    let error = db.run(async |_| Ok::<_, Error>(())).await.expect_err("no writes here");
    assert_eq!((error.kind(), error.attempts()), (ErrorKind::Exhausted, Some(3)), "{error:?}");
    assert_eq!(error.failure().map(|failure| failure.kind()), Some(FailureKind::ReadOnly), "{error:?}");
    assert!(error.to_string().contains("the server is a standby"), "{error}");
    assert_eq!(opened.load(Ordering::Relaxed), 3, "each attempt opens a new connection");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropping_a_stream_releases_its_locks() {
    let endless = "SELECT generate_series(1::bigint, 1000000000000)";
    cancellation::dropping_a_stream_releases_its_locks::<sqlx::Postgres>(endless).await;
}

/// No snapshot of the running transactions, which a primary writes every 15 seconds, and no autovacuum.
const WITHOUT_BACKGROUND_WRITES: &str = "wal_level = minimal\nmax_wal_senders = 0\nautovacuum = off\n";

/// Draws some four seconds out of thirty.
const SEED_OF_A_PAUSE_OF_SECONDS: u64 = 34;

/// A view has no triggers of its own to check for, but its table may have some, so the additions run in a
/// transaction.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn additions_to_a_view_are_applied() {
    let pool = increments::counter::<sqlx::Postgres>(1).await;
    sqlx::query("CREATE VIEW seen AS SELECT id, value FROM counter").execute(&*pool).await.expect("a view");
    let counters = Deltas::on(&pool, "seen", "id", "value");
    for value in 1..=3 {
        assert_eq!(counters.add(1_i64, 1).await.expect("a commit"), DeltaOutcome::Applied { value });
    }
}
