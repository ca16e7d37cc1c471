//! A statement outside of a unit is one transaction, or is sent only once, or is refused.

use std::time::Duration;

use atomically::{Atomic, ErrorKind, Options};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, MySql, Postgres, Sqlite};

use crate::control::{counter, value};
use crate::support::{TestBackend, eventually};

pub(crate) async fn transaction_control_is_refused_outside_of_a_unit<DB: TestBackend>() {
    let pool = counter::<DB>(1).await;
    let others = DB::another(&pool.url).await;
    let db = Atomic::default().on(&pool);
    let mut texts = vec![
        "BEGIN",
        "/* why */ begin",
        "COMMIT",
        "ROLLBACK",
        "SAVEPOINT a",
        "SELECT 1; BEGIN",
        "UPDATE counter SET value = 1 WHERE id = 1; COMMIT",
    ];
    if DB::NAME == "MySQL" {
        texts.extend([
            "# why\nBEGIN",
            "/*! BEGIN */",
            "LOCK TABLES counter WRITE",
            "SET autocommit = 0",
            "XA START 'x'",
        ]);
    }
    for sql in texts {
        let error = db.apply(sqlx::raw_sql(sql)).await.expect_err(sql);
        assert_eq!(error.kind(), ErrorKind::Aborted, "{sql}: {error}");
        assert_eq!(DB::open_transactions(&others).await, 0, "{sql}");
    }
    let update = sqlx::raw_sql("UPDATE counter SET value = value + 1 WHERE id = 1");
    assert_eq!(db.apply(update).await.expect("a change"), 1);
    let stored = DB::pool_fetch(&others, DB::sql("SELECT value FROM counter WHERE id = 1"), &[]).await;
    assert_eq!(stored.expect("the value"), 1, "another session does not see the update");
}

pub(crate) async fn several_statements_are_one_transaction_or_refused<DB: TestBackend>() {
    let pool = counter::<DB>(2).await;
    let db = Atomic::default().on(&pool);
    let both = "UPDATE counter SET value = value + 1 WHERE id = 1; \
                UPDATE counter SET value = value + 1 WHERE id = 2";
    let half = "UPDATE counter SET value = value + 1 WHERE id = 1; INSERT INTO counter VALUES (1, 1)";
    if DB::NAME == "PostgreSQL" {
        db.apply(sqlx::raw_sql(both)).await.expect("one transaction");
        let error = db.apply(sqlx::raw_sql(half)).await.expect_err("a duplicate");
        assert_eq!(error.kind(), ErrorKind::Constraint, "{error}");
        assert_eq!((value(&pool, 1).await, value(&pool, 2).await), (1, 1));
        let error = db.apply(sqlx::raw_sql("SELECT 1; DO 'BEGIN COMMIT; END'")).await.expect_err("DO");
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    } else {
        for sql in [both, half] {
            let error = db.apply(sqlx::raw_sql(sql)).await.expect_err("several");
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
            assert!(error.to_string().contains("unit of work"), "{error}");
        }
        assert_eq!((value(&pool, 1).await, value(&pool, 2).await), (0, 0));
    }
    // A semicolon at the end, or in a string, does not begin another statement.
    for sql in [
        "UPDATE counter SET value = 9 WHERE id = 3;",
        "UPDATE counter SET value = 9 WHERE ';' = ';' -- ; BEGIN",
    ] {
        assert!(db.apply(sqlx::raw_sql(sql)).await.expect(sql) >= 1);
    }
}

pub(crate) async fn creating_a_schema_twice_succeeds<DB: TestBackend>() {
    let pool = DB::pool(2).await;
    let db = Atomic::default().on(&pool);
    for _ in 0..2 {
        db.create_operation_table().await.expect("a table");
    }
}

const LOCK_ROW_3: &str = "BEGIN; UPDATE counter SET value = value + 100 WHERE id = 3";

/// The procedure commits its first half and fails with a deadlock in the second.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_does_not_retry_a_procedure_that_has_committed() {
    let pool = counter::<Postgres>(3).await;
    let body = "UPDATE counter SET value = value + 1 WHERE id = 1; COMMIT;
                UPDATE counter SET value = value + 1 WHERE id = 2;
                UPDATE counter SET value = value + 1 WHERE id = 3;";
    let procedure = format!("CREATE PROCEDURE halves() LANGUAGE plpgsql AS $$ BEGIN {body} END $$");
    pool.execute(AssertSqlSafe(procedure)).await.expect("a procedure");
    // The session with the shorter timeout detects the deadlock first and becomes its victim.
    let with_deadlock_timeout =
        |seconds| (*pool.connect_options()).clone().options([("deadlock_timeout", seconds)]);
    let mut calls = 0;
    for call in [String::from("CALL halves()"), format!("DO $$ BEGIN {body} END $$")] {
        let mut rival =
            sqlx::PgConnection::connect_with(&with_deadlock_timeout("60s")).await.expect("a connection");
        rival.execute(sqlx::raw_sql(LOCK_ROW_3)).await.expect("the lock of row 3");
        let callers =
            sqlx::postgres::PgPoolOptions::new().max_connections(1).connect_with(with_deadlock_timeout("3s"));
        let db = Atomic::default().on(&callers.await.expect("a pool"));
        let running = tokio::spawn(async move { db.apply(sqlx::raw_sql(AssertSqlSafe(call))).await });
        eventually(1_i64, async || {
            let waiting = "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid)
                           WHERE NOT granted AND datname = current_database()";
            sqlx::query_scalar(waiting).fetch_one(&*pool).await.expect("the locks")
        })
        .await;
        let row_2 = sqlx::raw_sql("UPDATE counter SET value = value + 100 WHERE id = 2; ROLLBACK");
        rival.execute(row_2).await.expect("the other session is the victim");
        let error = running.await.expect("no panic").expect_err("a deadlock");
        calls += 1;
        assert!(error.is_conflict(), "{error:?}");
        assert!(error.to_string().contains("sent once"), "{error}");
        assert_eq!(value(&pool, 1).await, calls, "each call has stored its first half once");
        assert_eq!(value(&pool, 2).await, 0);
    }
}

/// Outside of a transaction, each statement of a procedure commits by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mysql_does_not_retry_a_procedure_that_has_stored_a_part() {
    let pool = counter::<MySql>(3).await;
    let impatient = sqlx::mysql::MySqlPoolOptions::new().max_connections(1).after_connect(|connection, _| {
        Box::pin(async move {
            connection.execute(sqlx::raw_sql("SET innodb_lock_wait_timeout = 1")).await.map(drop)
        })
    });
    let impatient = impatient.connect(&pool.url).await.expect("a pool");
    let body = "UPDATE counter SET value = value + 1 WHERE id = 1; \
                UPDATE counter SET value = value + 1 WHERE id = 3;";
    let procedure = format!("CREATE PROCEDURE halves() BEGIN {body} END");
    pool.execute(sqlx::raw_sql(AssertSqlSafe(procedure))).await.expect("a procedure");
    let mut rival = sqlx::MySqlConnection::connect(&pool.url).await.expect("a connection");
    rival.execute(sqlx::raw_sql(LOCK_ROW_3)).await.expect("the lock of row 3");
    let db = Atomic::default().on(&impatient).deadline(Duration::from_secs(20)).attempts(3);
    let compound = format!("BEGIN NOT ATOMIC {body} END");
    let mut calls = 0;
    for call in ["CALL halves()", "/* why */ call halves()", "EXECUTE IMMEDIATE 'CALL halves()'", &compound] {
        let error = db.apply(sqlx::raw_sql(AssertSqlSafe(call))).await.expect_err("row 3 is locked");
        calls += 1;
        assert_eq!(error.attempts(), Some(1), "{call}: {error:?}");
        assert_eq!(error.kind(), ErrorKind::LockTimeout, "{call}: {error:?}");
        assert!(error.to_string().contains("sent once"), "{call}: {error}");
        assert_eq!(value(&pool, 1).await, calls, "{call}");
    }
}

/// `OR FAIL` keeps the rows that were changed before the failure.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_does_not_retry_a_statement_that_keeps_a_part() {
    let pool = counter::<Sqlite>(1).await;
    let set_up = "CREATE UNIQUE INDEX one_nine ON counter (value) WHERE value = 9; \
                  UPDATE counter SET value = 9 WHERE id = 3";
    sqlx::raw_sql(set_up).execute(&*pool).await.expect("set up");
    let db = Atomic::default().on(&pool).options(Options::new().retry_unique(5));
    let update = "UPDATE OR FAIL counter SET value = CASE id WHEN 1 THEN value + 1 ELSE 9 END WHERE id < 3";
    let error = db.apply(sqlx::query(update)).await.expect_err("a duplicate");
    assert_eq!(error.kind(), ErrorKind::Constraint, "{error:?}");
    assert_eq!(value(&pool, 1).await, 1, "changed once");
}
