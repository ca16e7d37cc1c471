//! Batches of `Deltas` that are a single statement on SQLite, and those that cannot be.
//!
//! `conformance/coalescing.rs` tests the results, which are the same with and without the single statement.
//! Tests whose calls have to share a batch run on one thread: the task of the batch runs when all of them
//! have been made.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use atomically::DeltaOutcome::{Applied, NotFound, Refused};
use atomically::{DeltaOutcome, Deltas, ErrorKind, Event, Key, Options, UnitEvent};
use futures_util::future::join_all;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};
use sqlx::{Sqlite, SqlitePool};

use crate::conformance::increments::{counter, value};
use crate::support::{TestBackend, TestPool};

/// Deltas on `counter`, and the number of transactions that they have opened.
fn watched<K: Key<Sqlite>>(pool: &SqlitePool) -> (Deltas<Sqlite, K>, Arc<AtomicU32>) {
    let opened = Arc::new(AtomicU32::new(0));
    let counted = opened.clone();
    // Longer than the time for which SQLite waits for another writer, even on a busy machine.
    let watch =
        Options::new().deadline(Duration::from_secs(30)).observed_by(Arc::new(move |event: &Event<'_>| {
            if let Event::Unit { event: UnitEvent::Opened { .. }, .. } = event {
                counted.fetch_add(1, Ordering::Relaxed);
            }
        }));
    (Deltas::on(pool, "counter", "id", "value").options(watch), opened)
}

async fn made(statements: &str) -> TestPool<Sqlite> {
    let pool = Sqlite::pool(1).await;
    sqlx::raw_sql(sqlx::AssertSqlSafe(statements.to_owned())).execute(&*pool).await.expect(statements);
    pool
}

#[tokio::test]
async fn a_batch_is_one_statement_without_a_transaction() {
    let pool = counter::<Sqlite>(2).await;
    let (stock, opened) = watched::<i64>(&pool);
    let stock = stock.at_least(0);
    assert_eq!(stock.add(1, 10).await.expect("a commit"), Applied { value: 10 });
    let answers =
        join_all([(1, -3), (2, 5), (1, -7), (2, -5), (2, 1)].map(|(id, delta)| stock.add(id, delta))).await;
    let values: Vec<_> = answers.into_iter().map(|answer| answer.expect("a commit")).collect();
    assert_eq!(values, [7, 5, 0, 0, 1].map(|value| Applied { value }));
    assert_eq!(opened.load(Ordering::Relaxed), 0);
    assert_eq!(value(&pool).await, 0);
    // Only the calls on rows for which the statement cannot decide are left to a transaction.
    let calls = [(1, -1), (2, 5), (7, 1), (2, 1)].map(|(id, delta)| stock.add(id, delta));
    let answers: Vec<_> = join_all(calls).await.into_iter().map(|answer| answer.expect("a commit")).collect();
    assert_eq!(answers, [Refused { value: 0 }, Applied { value: 6 }, NotFound, Applied { value: 7 }]);
    assert_eq!(opened.load(Ordering::Relaxed), 1);
}

/// Calls on the table of these statements, with and without the single statement.
async fn outcomes(statements: &str, id: &str) -> ([Vec<Result<DeltaOutcome, ErrorKind>>; 2], u32) {
    let (mut both, mut transactions) = ([Vec::new(), Vec::new()], 0);
    for (outcomes, is_allowed) in both.iter_mut().zip([true, false]) {
        let pool = made(statements).await;
        let (stock, opened) = watched::<String>(&pool);
        let stock = stock.single_statement(is_allowed);
        for delta in [1, 2, -1] {
            outcomes.push(stock.add(id.to_owned(), delta).await.map_err(|error| error.kind()));
        }
        if is_allowed {
            transactions = opened.load(Ordering::Relaxed);
        }
    }
    (both, transactions)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_which_a_statement_may_store_another_number_are_changed_in_transactions() {
    for (statements, what) in [
        (
            "CREATE TABLE counter (id TEXT PRIMARY KEY, value INTEGER); INSERT INTO counter VALUES ('a', 1);
             CREATE TRIGGER cap AFTER UPDATE ON counter WHEN NEW.value > 3 BEGIN
                 UPDATE counter SET value = 3 WHERE id = NEW.id;
             END",
            "a trigger",
        ),
        (
            "CREATE TABLE counter (id TEXT PRIMARY KEY, value INTEGER); INSERT INTO counter VALUES ('a', 1);
             CREATE TEMP TRIGGER cap AFTER UPDATE ON Counter WHEN NEW.value > 3 BEGIN
                 UPDATE counter SET value = 3 WHERE id = NEW.id;
             END",
            "a temporary trigger",
        ),
        (
            "CREATE TABLE counter (id TEXT PRIMARY KEY, value INTEGER); INSERT INTO counter VALUES ('a', 1);
             CREATE TEMP TABLE counter (id TEXT PRIMARY KEY, value REAL);
             INSERT INTO temp.counter VALUES ('a', 9007199254740991)",
            "a temporary table of the same name",
        ),
        (
            "CREATE TABLE counter (id TEXT PRIMARY KEY, value REAL);
             INSERT INTO counter VALUES ('a', 9007199254740991)",
            "a floating-point number",
        ),
        (
            "CREATE TABLE counter (id TEXT PRIMARY KEY, value TEXT); INSERT INTO counter VALUES ('a', 'b')",
            "a text",
        ),
        (
            "CREATE TABLE counter (id TEXT PRIMARY KEY, value INTEGER);
             INSERT INTO counter VALUES ('a', NULL)",
            "no number",
        ),
        (
            "CREATE TABLE counter (id TEXT, value INTEGER); INSERT INTO counter VALUES ('a', 1), ('a', 5)",
            "two rows",
        ),
        (
            "CREATE TABLE counter (id TEXT PRIMARY KEY COLLATE NOCASE, value INTEGER);
             INSERT INTO counter VALUES ('A', 1)",
            "a key that differs in case",
        ),
        (
            "CREATE TABLE counter (id TEXT PRIMARY KEY, value INTEGER UNIQUE ON CONFLICT IGNORE);
             INSERT INTO counter VALUES ('a', 1), ('b', 2)",
            "a constraint that is ignored",
        ),
        (
            "CREATE TABLE counter (id TEXT PRIMARY KEY, value INTEGER UNIQUE ON CONFLICT REPLACE);
             INSERT INTO counter VALUES ('a', 1), ('b', 2)",
            "a constraint that deletes rows",
        ),
        (
            "CREATE TABLE stored (id TEXT PRIMARY KEY, value INTEGER); INSERT INTO stored VALUES ('a', 1);
             CREATE VIEW counter AS SELECT * FROM stored;
             CREATE TRIGGER written INSTEAD OF UPDATE ON counter BEGIN
                 UPDATE stored SET value = min(NEW.value, 3) WHERE id = NEW.id;
             END",
            "a view",
        ),
    ] {
        let ([one, several], transactions) = outcomes(statements, "a").await;
        assert_eq!(one, several, "{what}");
        assert!(transactions > 0, "{what}: no transaction");
    }
}

/// Otherwise the rows with a key would be counted in a list of the statement that hides the table.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_may_have_the_name_of_a_part_of_the_statement() {
    for table in ["change", "target", "other"] {
        let rows = format!(
            "CREATE TABLE {table} (id INTEGER, value INTEGER);
             INSERT INTO {table} VALUES (1, 5), (1, 6), (2, 7)"
        );
        let pool = made(&rows).await;
        let stock: Deltas<Sqlite, i64> = Deltas::on(&pool, table, "id", "value");
        assert_eq!(stock.add(2, 1).await.expect("a commit"), Applied { value: 8 }, "{table}");
        let error = stock.add(1, 1).await.expect_err("two rows have the key");
        assert!(error.to_string().contains("several rows"), "{table}: {error}");
    }
}

async fn assert_found<K: Key<Sqlite> + Debug>(kind: &str, keys: &[K]) {
    let pool = made(&format!("CREATE TABLE counter (id {kind} PRIMARY KEY, value INTEGER NOT NULL)")).await;
    for key in keys {
        let insert = sqlx::query("INSERT INTO counter VALUES (?, 0)").bind(key);
        insert.execute(&*pool).await.expect(kind);
    }
    let (uses, opened) = watched::<K>(&pool);
    for round in 1..=2 {
        for (key, answer) in keys.iter().zip(join_all(keys.iter().map(|key| uses.add(key.clone(), 1))).await)
        {
            assert_eq!(answer.expect("a commit"), Applied { value: round }, "{kind}: {key:?}");
        }
    }
    assert_eq!(opened.load(Ordering::Relaxed), 0, "{kind}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_the_usual_types_are_found_by_the_statement() {
    assert_found::<i64>("INTEGER", &[i64::MIN, -1, 0, i64::MAX]).await;
    assert_found::<i64>("BIGINT", &[i64::MIN, -1, 0, i64::MAX]).await;
    assert_found::<i32>("INTEGER", &[i32::MIN, -1, 0, i32::MAX]).await;
    assert_found::<i16>("SMALLINT", &[i16::MIN, -1, 0, i16::MAX]).await;
    let texts = ["", "a", "A", "NULL", "é", "it's", "a\\b", "\"", " a ", "?1", "7"].map(str::to_owned);
    assert_found::<String>("TEXT", &texts).await;
    assert_found::<String>("VARCHAR(20)", &texts).await;
}

/// The limit of a connection for its wait applies to the statement, whose calls can no longer be withdrawn.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_that_might_wait_for_too_long_is_not_sent() {
    let direct = counter::<Sqlite>(1).await;
    let path = direct.connect_options().get_filename().to_owned();
    let options = SqliteConnectOptions::new().filename(path).busy_timeout(Duration::from_secs(60));
    let patient = SqlitePoolOptions::new().max_connections(1).connect_with(options).await.expect("a pool");
    for (pool, options) in
        [(&patient, Options::new()), (&*direct, Options::new().deadline(Duration::from_secs(4)))]
    {
        let (stock, opened) = watched::<i64>(pool);
        let stock = stock.options(options);
        for _ in 0..2 {
            assert!(matches!(stock.add(1, 1).await.expect("a commit"), Applied { .. }));
        }
        assert_eq!(opened.load(Ordering::Relaxed), 2);
    }
    assert_eq!(value(&direct).await, 4);
}
