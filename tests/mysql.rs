//! The semantics on MariaDB, and what is MariaDB's and MySQL's own.

mod conformance;
mod support;

use atomically::{Deltas, Error, ErrorKind, Pessimistic, TransactorExt as _};
use sqlx::mysql::MySqlPoolOptions;
use support::TestPool;

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

/// Without the strict mode, MySQL and MariaDB cut a number to the range of its column, and call that a warning.
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
        let limited = coalescing::Limited { start: maximum - 7, fits: 7, too_much: 12 };
        let create = format!("CREATE TABLE counter (id BIGINT PRIMARY KEY, value {kind} NOT NULL)");
        let pool = lenient(&[&create, "INSERT INTO counter VALUES (1, 1), (2, 1)"]).await;
        coalescing::only_sums_that_are_stored_are_applied(kind, &pool, limited).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn coalesced_sums_that_are_rounded_are_not_applied() {
    let create = "CREATE TABLE counter (id BIGINT PRIMARY KEY, value FLOAT NOT NULL)";
    let pool = lenient(&[create, "INSERT INTO counter VALUES (1, 1), (2, 1)"]).await;
    let limited = coalescing::Limited { start: 1 << 24, fits: 2, too_much: 1 };
    coalescing::only_sums_that_are_stored_are_applied("FLOAT", &pool, limited).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn coalesced_sums_that_a_trigger_caps_are_not_applied() {
    let pool = lenient(&[
        "CREATE TABLE counter (id BIGINT PRIMARY KEY, value BIGINT NOT NULL)",
        "INSERT INTO counter VALUES (1, 1), (2, 1)",
        "CREATE TRIGGER cap BEFORE UPDATE ON counter FOR EACH ROW SET NEW.value = LEAST(NEW.value, 10)",
    ])
    .await;
    let limited = coalescing::Limited { start: 3, fits: 7, too_much: 12 };
    coalescing::only_sums_that_are_stored_are_applied("a trigger", &pool, limited).await;
}

/// Without the strict mode, MariaDB ignores what a generated column is set to, and calls that a warning.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_generated_column_is_not_added_to() {
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

/// A table `counter`, and a connection to it without the strict mode.
async fn lenient(statements: &[&str]) -> TestPool<sqlx::MySql> {
    let mut made = coalescing::made_by::<sqlx::MySql>(statements).await;
    let lenient = MySqlPoolOptions::new().max_connections(1).after_connect(|connection, _| {
        Box::pin(async move { sqlx::raw_sql("SET sql_mode = ''").execute(connection).await.map(drop) })
    });
    made.pool = lenient.connect(&made.url).await.expect("a connection");
    made
}
