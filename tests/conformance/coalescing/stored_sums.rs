//! A call succeeds only if the row holds the sum after the column's type and triggers were applied.

use atomically::DeltaOutcome::Applied;
use atomically::{Atomic, ErrorKind, Key};

use super::{BlockedBatch, CallResult, deltas, expect_all, patient, run_behind, several_statements};
use crate::support::{TestBackend, TestPool};

/// Only the calls on the rows with such values fail.
pub(crate) async fn does_not_change_values_that_are_not_integers<DB: TestBackend>()
where
    i64: Key<DB>,
{
    let pool = DB::pool(1).await;
    let create = "CREATE TABLE counter (id BIGINT, value NUMERIC(30, 2))";
    DB::pool_execute(&pool, DB::sql(create), &[]).await.expect("create a table");
    let rows = "INSERT INTO counter VALUES (1, 5), (2, 2.5), (3, NULL), (4, 5), (4, 6)";
    DB::pool_execute(&pool, DB::sql(rows), &[]).await.expect("rows");
    let stock = deltas(&pool).at_least(0).max_batches(1);
    let blocked = BlockedBatch::new(&pool.url, &pool, &stock).await;
    let (_, results) = run_behind(blocked, (1..=4).map(|id| stock.add(id, -1))).await;
    let outcomes: Vec<_> =
        results.into_iter().map(|result| result.map_err(|error| error.to_string())).collect();
    assert_eq!(outcomes[0], Ok(Applied { value: 4 }));
    for (result, what) in outcomes[1..].iter().zip(["no integer", "no integer", "several rows"]) {
        assert!(result.as_ref().expect_err("an unsuitable value").contains(what), "{result:?}");
    }
    let left = DB::sql("SELECT COUNT(*) FROM counter WHERE value IN (4, 2.5, 5, 6) OR value IS NULL");
    assert_eq!(DB::pool_fetch(&pool, left, &[]).await.expect("a count"), 5);
}

/// Rows 1 and 2 of the table `counter` hold `start`. They can hold `start + fits`, but neither `start +
/// too_much` nor `start + fits + too_much`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limited {
    pub(crate) start: i64,
    pub(crate) fits: i64,
    pub(crate) too_much: i64,
}

/// Asserts that a call is applied if, and only if, the row holds the sum, whether or not the database reports
/// an error.
pub(crate) async fn assert_only_stored_sums_are_applied<DB: TestBackend>(
    what: &str,
    pool: &TestPool<DB>,
    limited: Limited,
) where
    i64: Key<DB>,
{
    let Limited { start, fits, too_much } = limited;
    let holds = async |id: i64, value: i64| {
        let select = DB::sql("SELECT COUNT(*) FROM counter WHERE id = ? AND value = ?");
        let count = DB::pool_fetch(pool, select, &[id, value]).await.expect("a count");
        assert_eq!(count, 1, "{what}: row {id} does not hold {value}");
    };
    for options in [patient(), several_statements()] {
        let restart = DB::sql("UPDATE counter SET value = ?");
        DB::pool_execute(pool, restart, &[start]).await.expect("the start");
        let stock = deltas(pool).max_batches(1).options(options);
        let refused = |result: CallResult| {
            let kind = result.map_err(|error| error.kind());
            let is_refused =
                matches!(kind, Err(ErrorKind::Aborted | ErrorKind::Database | ErrorKind::Constraint));
            assert!(is_refused, "{what}: adding {too_much} to {start} returned {kind:?}");
        };
        refused(stock.add(1, too_much).await);
        holds(1, start).await;

        let blocked = BlockedBatch::without_a_change(&pool.url, pool, &stock).await;
        let calls = [(1, fits), (1, too_much), (2, fits)].map(|(id, delta)| stock.add(id, delta));
        let mut results = run_behind(blocked, calls).await.1;
        refused(results.remove(1));
        assert_eq!(expect_all(results), [Applied { value: start + fits }; 2], "{what}");
        holds(1, start + fits).await;
        holds(2, start + fits).await;
    }
}

/// Creates a database by these statements.
pub(crate) async fn database_with<DB: TestBackend>(statements: &[&str]) -> TestPool<DB> {
    let pool = DB::pool(1).await;
    for sql in statements {
        // MySQL cannot prepare CREATE TRIGGER.
        let done = Atomic::default().on(&pool).apply(sqlx::raw_sql(DB::sql(sql))).await;
        done.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
    pool
}

/// A floating-point column does not report that a value is too big to grow by one.
pub(crate) async fn refuses_sums_that_a_double_cannot_represent<DB: TestBackend>()
where
    i64: Key<DB>,
{
    let create = "CREATE TABLE counter (id BIGINT PRIMARY KEY, value DOUBLE PRECISION NOT NULL)";
    let pool = database_with::<DB>(&[create, "INSERT INTO counter VALUES (1, 0), (2, 0)"]).await;
    let limited = Limited { start: 1 << 53, fits: 2, too_much: 1 };
    assert_only_stored_sums_are_applied("double precision", &pool, limited).await;
}
