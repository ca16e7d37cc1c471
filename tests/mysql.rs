//! The semantics on MariaDB, and the peculiarities of MariaDB and MySQL.

mod conformance;
mod demoted;
mod result_sets;
mod support;
mod table_locks;

use std::time::Duration;

use atomically::{
    Atomic, Deltas, Error, ErrorKind, Isolation, Optimistic, Options, Pessimistic, Serializable,
    TransactorExt as _, Tx,
};
use sqlx::mysql::{MySqlPool, MySqlPoolOptions};
use support::TestPool;

conformance!(server sqlx::MySql);

/// A snapshot that MariaDB takes with the first read may contradict itself under load, so a report takes its
/// snapshot when it begins. An advisory lock that it acquired later would not protect what it reads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_report_on_mariadb_sees_the_moment_at_which_it_began() {
    let pool = increments::counter::<sqlx::MySql>(2).await;
    if !is_mariadb(&pool).await {
        return;
    }
    let report = Options::new().isolation(Isolation::RepeatableRead).read_only();
    for (options, seen) in [(report, 0), (Options::new().isolation(Isolation::RepeatableRead), 1)] {
        sqlx::query("UPDATE counter SET value = 0 WHERE id = 2").execute(&*pool).await.expect("a reset");
        let read = async |tx: &mut Tx<sqlx::MySql>| {
            sqlx::query("UPDATE counter SET value = 1 WHERE id = 2").execute(&*pool).await?;
            let refused =
                tx.advisory_lock("report").await.is_err_and(|error| error.kind() == ErrorKind::Unsupported);
            let value =
                sqlx::query_scalar("SELECT value FROM counter WHERE id = 2").fetch_one(&mut *tx).await?;
            Ok::<(i64, bool), Error>((value, refused))
        };
        let found = Optimistic::default().on(&pool).options(options).run(read).await;
        assert_eq!(found.expect("a report"), (seen, seen == 0));
    }
}

/// MySQL and MariaDB commit before they run DDL, and continue in autocommit mode. So the statement is not
/// sent, and nothing is stored.
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
    assert_eq!(increments::value(&pool).await, 0, "what came before it is rolled back");
}

/// A procedure that commits has stored what the unit did before it. Whatever error follows, the unit must not
/// be retried.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_unit_whose_procedure_commits_is_not_retried() {
    #[derive(Debug, Clone, Copy)]
    enum Then {
        OwnError,
        StaleVersion,
        Deadlock,
        AnotherProcedure,
    }

    let pool = increments::counter::<sqlx::MySql>(2).await;
    for sql in [
        "CREATE PROCEDURE commits() BEGIN UPDATE counter SET value = value + 10 WHERE id = 1; COMMIT; END",
        "CREATE PROCEDURE commits_and_begins() BEGIN COMMIT; START TRANSACTION; END",
        "CREATE PROCEDURE victim() SIGNAL SQLSTATE '40001' SET MYSQL_ERRNO = 1213, MESSAGE_TEXT = 'a cycle'",
    ] {
        sqlx::raw_sql(sql).execute(&*pool).await.expect("a procedure");
    }
    let db = Pessimistic::default().on(&pool).attempts(3);
    for call in ["CALL commits()", "CALL commits_and_begins()"] {
        for then in [Then::OwnError, Then::StaleVersion, Then::Deadlock, Then::AnotherProcedure] {
            let before = stored(&pool).await;
            let error = db
                .run(async |tx| {
                    sqlx::query("UPDATE counter SET value = value + 1 WHERE id = 2")
                        .execute(&mut *tx)
                        .await?;
                    sqlx::query(call).execute(&mut *tx).await?;
                    match then {
                        Then::OwnError => Err(sqlx::Error::RowNotFound.into()),
                        Then::StaleVersion => tx.expect_one(0),
                        Then::Deadlock | Then::AnotherProcedure => {
                            let next = if matches!(then, Then::Deadlock) { "CALL victim()" } else { call };
                            sqlx::query(next).execute(&mut *tx).await?;
                            Ok::<_, Error>(())
                        }
                    }
                })
                .await
                .expect_err("not one transaction");
            assert_eq!(error.kind(), ErrorKind::Aborted, "{call}, {then:?}: {error:?}");
            assert_eq!(
                stored(&pool).await,
                before + 1,
                "{call}, {then:?}: stored once, and reported to the caller"
            );
        }
    }
    // A procedure without a COMMIT is a statement like any other.
    let adds = "CREATE PROCEDURE adds() UPDATE counter SET value = value + 1 WHERE id = 2";
    sqlx::raw_sql(adds).execute(&*pool).await.expect("a procedure");
    let before = stored(&pool).await;
    db.run(async |tx| {
        sqlx::query("CALL adds()").execute(&mut *tx).await?;
        tx.expect_one(u64::from(tx.attempt() > 1))
    })
    .await
    .expect("the second attempt commits");
    assert_eq!(stored(&pool).await, before + 1);
}

/// The deadlock rolls back the savepoint that would show that the procedure had committed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_conflict_within_a_procedure_is_not_retried() {
    let pool = increments::counter::<sqlx::MySql>(2).await;
    let procedure = "CREATE PROCEDURE half() BEGIN
        UPDATE counter SET value = value + 1 WHERE id = 2; COMMIT;
        SIGNAL SQLSTATE '40001' SET MYSQL_ERRNO = 1213, MESSAGE_TEXT = 'a cycle'; END";
    sqlx::raw_sql(procedure).execute(&*pool).await.expect("a procedure");
    let db = Pessimistic::default().on(&pool).attempts(3);
    for (text, in_savepoint) in [
        ("CALL half()", false),
        ("CALL half()", true),
        ("EXECUTE IMMEDIATE 'CALL half()'", false),
        ("SELECT 1; CALL half()", false),
    ] {
        if text.starts_with("EXECUTE IMMEDIATE") && !is_mariadb(&pool).await {
            continue;
        }
        let before = stored(&pool).await;
        let error = db
            .run(async |tx| {
                if in_savepoint {
                    let call = async |tx: &mut atomically::Tx<sqlx::MySql>| {
                        sqlx::raw_sql(text).execute(tx).await.map(drop).map_err(Error::from)
                    };
                    return tx.savepoint(call).await;
                }
                sqlx::raw_sql(text).execute(&mut *tx).await?;
                Ok::<_, Error>(())
            })
            .await
            .expect_err("half of it is stored");
        assert_eq!(error.attempts(), Some(1), "{text}: {error:?}");
        assert!(error.to_string().contains("a part of it may be stored"), "{text}: {error}");
        assert_eq!(stored(&pool).await, before + 1, "{text}");
    }
}

/// Statements on the connection itself bypass the transaction's checks, so the guard is checked before the
/// next statement that does not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_implicit_commit_on_the_connection_is_noticed_before_a_conflict() {
    let pool = increments::counter::<sqlx::MySql>(2).await;
    let db = Pessimistic::default().on(&pool).attempts(3);
    let error = db
        .run(async |tx| {
            sqlx::query("UPDATE counter SET value = value + 1 WHERE id = 2").execute(&mut *tx).await?;
            let create = "CREATE TABLE IF NOT EXISTS surprise (id INT)";
            sqlx::raw_sql(create).execute(tx.connection()?).await?;
            let signal = "SIGNAL SQLSTATE '40001' SET MYSQL_ERRNO = 1213, MESSAGE_TEXT = 'a cycle'";
            sqlx::raw_sql(signal).execute(&mut *tx).await?;
            Ok::<_, Error>(())
        })
        .await
        .expect_err("not one transaction");
    assert_eq!(error.kind(), ErrorKind::Aborted, "{error:?}");
    assert_eq!(stored(&pool).await, 1, "stored once, and reported to the caller");
}

/// A transaction that a procedure leaves open is committed with the statement that called the procedure, and
/// stays open on no connection of the pool.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_a_transaction_that_a_single_call_left_open() {
    let pool = increments::counter::<sqlx::MySql>(1).await;
    let watcher = <sqlx::MySql as support::TestBackend>::another(&pool.url).await;
    let opens = "CREATE PROCEDURE opens() BEGIN
                     START TRANSACTION;
                     UPDATE counter SET value = value + 1 WHERE id = 2;
                 END";
    sqlx::raw_sql(opens).execute(&*pool).await.expect("a procedure");
    for db in [Atomic::default().on(&pool), Atomic::default().on(&pool).reuse_connections()] {
        for call in [
            "CALL opens()",
            "BEGIN NOT ATOMIC START TRANSACTION; UPDATE counter SET value = value + 1 WHERE id = 2; END",
        ] {
            if call.starts_with("BEGIN NOT ATOMIC") && !is_mariadb(&watcher).await {
                continue;
            }
            let before = stored(&watcher).await;
            db.apply(sqlx::raw_sql(call)).await.expect("a commit");
            assert_eq!(stored(&watcher).await, before + 1, "{call}");
            let update = sqlx::query("UPDATE counter SET value = value + 1 WHERE id = 2");
            assert_eq!(db.apply(update).await.expect("a commit"), 1);
            assert_eq!(stored(&watcher).await, before + 2, "behind {call}");
        }
    }
}

/// MySQL has neither `EXECUTE IMMEDIATE` nor statements outside of procedures that contain others.
async fn is_mariadb(pool: &MySqlPool) -> bool {
    let version: String = sqlx::query_scalar("SELECT VERSION()").fetch_one(pool).await.expect("a version");
    version.contains("MariaDB")
}

async fn stored(pool: &MySqlPool) -> i64 {
    sqlx::query_scalar("SELECT value FROM counter WHERE id = 2").fetch_one(pool).await.expect("a value")
}

/// Without strict mode, MySQL and MariaDB clamp a number to the range of its column, with no more than a
/// warning.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn coalesced_sums_that_are_cut_are_not_applied() {
    for (kind, maximum) in [
        ("INT", 2_147_483_647),
        ("SMALLINT", 32_767),
        ("TINYINT UNSIGNED", 255),
        ("DECIMAL(3, 0)", 999),
        ("YEAR", 2155),
        ("VARCHAR(3)", 999),
    ] {
        let limited = stored_sums::Limited { start: maximum - 7, fits: 7, too_much: 12 };
        let create = format!("CREATE TABLE counter (id BIGINT PRIMARY KEY, value {kind} NOT NULL)");
        let pool = lenient(&[&create, "INSERT INTO counter VALUES (1, 1), (2, 1)"]).await;
        stored_sums::assert_only_stored_sums_are_applied(kind, &pool, limited).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn coalesced_sums_that_are_rounded_are_not_applied() {
    let create = "CREATE TABLE counter (id BIGINT PRIMARY KEY, value FLOAT NOT NULL)";
    let pool = lenient(&[create, "INSERT INTO counter VALUES (1, 1), (2, 1)"]).await;
    let limited = stored_sums::Limited { start: 1 << 24, fits: 2, too_much: 1 };
    stored_sums::assert_only_stored_sums_are_applied("FLOAT", &pool, limited).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn coalesced_sums_that_a_trigger_caps_are_not_applied() {
    let pool = lenient(&[
        "CREATE TABLE counter (id BIGINT PRIMARY KEY, value BIGINT NOT NULL)",
        "INSERT INTO counter VALUES (1, 1), (2, 1)",
        "CREATE TRIGGER cap BEFORE UPDATE ON counter FOR EACH ROW SET NEW.value = LEAST(NEW.value, 10)",
    ])
    .await;
    let limited = stored_sums::Limited { start: 3, fits: 7, too_much: 12 };
    stored_sums::assert_only_stored_sums_are_applied("a trigger", &pool, limited).await;
}

/// Without strict mode, MariaDB ignores the value assigned to a generated column, with no more than a
/// warning.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn additions_to_a_generated_column_fail() {
    let pool = lenient(&[
        "CREATE TABLE counter (id BIGINT PRIMARY KEY, base BIGINT NOT NULL, value BIGINT AS (2 * base))",
        "INSERT INTO counter (id, base) VALUES (1, 1)",
    ])
    .await;
    let error =
        Deltas::on(&pool, "counter", "id", "value").add(1_i64, 5).await.expect_err("nothing is stored");
    assert!(matches!(error.kind(), ErrorKind::Aborted | ErrorKind::Database), "{error:?}");
    assert_eq!(increments::value::<sqlx::MySql>(&pool).await, 2);
}

/// A table `counter`, and a connection to it without strict mode.
async fn lenient(statements: &[&str]) -> TestPool<sqlx::MySql> {
    let mut made = stored_sums::database_with::<sqlx::MySql>(statements).await;
    made.pool = pool_with(&made.url, "SET sql_mode = ''").await;
    made
}

/// A session whose transaction was ended by a statement with an implicit commit may still hold the locks of
/// this statement.
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

/// Without autocommit, no COMMIT follows a lone statement, and a SELECT on the pool leaves a transaction
/// open.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_single_calls_without_autocommit() {
    let server = increments::counter::<sqlx::MySql>(2).await;
    let chains = "SET autocommit = 0, completion_type = 'CHAIN'";
    for (statement, reuses) in [("SET autocommit = 0", false), (chains, false), ("SET autocommit = 0", true)]
    {
        let before = increments::value(&server).await;
        let pool = pool_with(&server.url, statement).await;
        let lone = Atomic::default().on(&pool);
        let lone = if reuses { lone.reuse_connections() } else { lone };
        let update = || sqlx::query("UPDATE counter SET value = value + 1 WHERE id = 1");
        assert_eq!(lone.apply(update()).await.expect("a commit"), 1);
        assert_eq!(increments::value(&server).await, before + 1, "apply under {statement}");
        for times in 2..=5 {
            assert_eq!(lone.apply(update()).await.expect("a commit"), 1);
            assert_eq!(increments::value(&server).await, before + times, "apply {times} times");
        }
        let before = before + 4;

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
        assert_eq!(kept.0, 0, "the setting of the session was changed");
    }
}

/// `CHAIN` would leave each session in another transaction, `RELEASE` would close it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_completion_type_of_the_session_has_no_effect() {
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
        assert!(stored > 0, "the pool's own statement is in a transaction that is never committed");
        assert_eq!(session().await.expect("a session"), first, "{statement}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropping_a_stream_releases_its_locks() {
    // The hint keeps MySQL from joining three of the four before it sends the first row.
    let endless = "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 900)
                   SELECT /*+ NO_BNL(a, b, c, d) */ CAST(a.n AS SIGNED) FROM n AS a, n AS b, n AS c, n AS d";
    cancellation::dropping_a_stream_releases_its_locks::<sqlx::MySql>(endless).await;
}
