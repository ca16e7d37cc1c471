//! The result of each call, alone and in a batch with others.

use atomically::DeltaOutcome::{Applied, NotFound, Refused};
use atomically::{Deltas, ErrorKind, Key};
use futures_util::future::join_all;

use super::{BlockedBatch, add_rows, deltas, expect_all, patient, run_behind, values};
use crate::conformance::increments::counter;
use crate::support::TestBackend;

/// A table whose values must not be between 11 and 900.
const WITH_A_GAP: &str = "CREATE TABLE counter (
    id BIGINT PRIMARY KEY,
    value BIGINT NOT NULL CHECK (value NOT BETWEEN 11 AND 900))";

pub(crate) async fn each_call_returns_its_own_outcome<DB: TestBackend>()
where
    i64: Key<DB>,
{
    let pool = counter::<DB>(2).await;
    let stock = deltas(&pool).at_least(0).at_most(10);
    assert_eq!(stock.add(1, 7).await.expect("a commit"), Applied { value: 7 });
    assert_eq!(stock.add(1, -8).await.expect("a commit"), Refused { value: 7 });
    assert_eq!(stock.add(1, 4).await.expect("a commit"), Refused { value: 7 });
    assert_eq!(stock.add(1, 3).await.expect("a commit"), Applied { value: 10 });
    assert_eq!(stock.add(1, -10).await.expect("a commit"), Applied { value: 0 });
    assert_eq!(stock.add(1, 0).await.expect("a commit"), Applied { value: 0 });
    assert_eq!(stock.add(99, 1).await.expect("a commit"), NotFound);

    // The range of an `i64` is a bound as well.
    let unbounded = deltas(&pool);
    assert_eq!(unbounded.add(1, i64::MAX).await.expect("a commit"), Applied { value: i64::MAX });
    assert_eq!(unbounded.add(1, 1).await.expect("a commit"), Refused { value: i64::MAX });
    assert_eq!(unbounded.add(2, i64::MIN).await.expect("a commit"), Applied { value: i64::MIN });
    assert_eq!(unbounded.add(2, -1).await.expect("a commit"), Refused { value: i64::MIN });
    assert_eq!(values(&pool, &[1, 2]).await, [i64::MAX, i64::MIN]);
}

/// The database would refuse some of the calls if they ran alone, but accepts the sums of the batch.
pub(crate) async fn calls_made_during_a_batch_share_the_next_batch<DB: TestBackend>()
where
    i64: Key<DB>,
{
    let pool = DB::pool(1).await;
    DB::pool_execute(&pool, DB::sql(WITH_A_GAP), &[]).await.expect("create a table");
    DB::pool_execute(&pool, DB::sql("INSERT INTO counter VALUES (1, 8), (2, 9)"), &[])
        .await
        .expect("two rows");
    let stock = deltas(&pool).at_least(0).max_batches(1);
    let refused = stock.add(1, 5).await.expect_err("the database refuses the sum");
    assert_eq!(refused.kind(), ErrorKind::Constraint);

    let blocked = BlockedBatch::new(&pool.url, &pool, &stock).await;
    let calls = [(1, 5), (2, 100), (1, -5), (2, -100), (1, -9), (1, -8), (3, 1)];
    let (_, results) = run_behind(blocked, calls.map(|(id, delta)| stock.add(id, delta))).await;
    let expected = [
        Applied { value: 13 },
        Applied { value: 109 },
        Applied { value: 8 },
        Applied { value: 9 },
        Refused { value: 8 },
        Applied { value: 0 },
        NotFound,
    ];
    assert_eq!(expect_all(results), expected);
    assert_eq!(values(&pool, &[1, 2]).await, [0, 9]);
}

pub(crate) async fn a_database_error_fails_only_the_calls_that_caused_it<DB: TestBackend>()
where
    i64: Key<DB>,
{
    let pool = DB::pool(1).await;
    DB::pool_execute(&pool, DB::sql(WITH_A_GAP), &[]).await.expect("create a table");
    DB::pool_execute(&pool, DB::sql("INSERT INTO counter VALUES (1, 0), (2, 0), (3, 0)"), &[])
        .await
        .expect("three rows");
    let stock = deltas(&pool).at_least(0).max_batches(1);
    let blocked = BlockedBatch::new(&pool.url, &pool, &stock).await;
    let calls = [(1, 1), (2, 2), (3, 11), (2, 3), (3, 4), (1, 20), (1, 5)];
    let (_, results) = run_behind(blocked, calls.map(|(id, delta)| stock.add(id, delta))).await;
    let outcomes: Vec<_> = results.into_iter().map(|result| result.map_err(|error| error.kind())).collect();
    let expected = [
        Ok(Applied { value: 1 }),
        Ok(Applied { value: 2 }),
        Err(ErrorKind::Constraint),
        Ok(Applied { value: 5 }),
        Ok(Applied { value: 4 }),
        Err(ErrorKind::Constraint),
        Ok(Applied { value: 6 }),
    ];
    assert_eq!(outcomes, expected);
    assert_eq!(values(&pool, &[1, 2, 3]).await, [6, 5, 4]);
}

/// Covers one key, powers of two, counts between them, and more keys than one statement can have.
pub(crate) async fn updates_any_number_of_keys_once_each<DB: TestBackend>()
where
    i64: Key<DB>,
{
    let pool = counter::<DB>(1).await;
    add_rows(&pool, 3..=600).await;
    let watcher = DB::another(&pool.url).await;
    let stock = deltas(&pool);
    for count in [1, 2, 3, 5, 8, 255, 256, 257, 600] {
        let blocked = BlockedBatch::new(&pool.url, &pool, &stock).await;
        let before = values(&watcher, &[1, count]).await;
        let (_, results) = run_behind(blocked, (1..=count).rev().map(|id| stock.add(id, id))).await;
        assert!(expect_all(results).iter().all(|result| matches!(result, Applied { .. })), "{count}");
        let after = values(&pool, &[1, count]).await;
        assert_eq!(after, [before[0] + 1, before[1] + count], "{count}");
    }
    let rows = DB::sql("SELECT COUNT(*) FROM counter WHERE value < id");
    assert_eq!(DB::pool_fetch(&pool, rows, &[]).await.expect("a count"), 0);
}

/// The keys are text, and the values are 32-bit integers.
pub(crate) async fn keys_can_be_text<DB: TestBackend>()
where
    String: Key<DB>,
{
    let pool = DB::pool(2).await;
    let create = "CREATE TABLE tag (name VARCHAR(40) PRIMARY KEY, uses INTEGER NOT NULL)";
    DB::pool_execute(&pool, DB::sql(create), &[]).await.expect("create a table");
    let rows = "INSERT INTO tag VALUES ('rust', 0), ('sql', 7), ('é', 1)";
    DB::pool_execute(&pool, DB::sql(rows), &[]).await.expect("rows");
    let uses = Deltas::on(&pool, "tag", "name", "uses").options(patient());
    for _ in 0..3 {
        let calls = ["rust", "sql", "é", "no such", "rust"].map(|name| uses.add(name.to_owned(), 1));
        assert_eq!(expect_all(join_all(calls).await)[3], NotFound);
    }
    let expected = [7, 11, 5].map(|value| Applied { value });
    let calls = ["rust", "sql", "é"].map(|name| uses.add(name.to_owned(), 1));
    assert_eq!(expect_all(join_all(calls).await), expected);
    let small = uses.add("rust".to_owned(), i64::from(i32::MAX)).await;
    if DB::NAME == "SQLite" {
        // All of its integers have 64 bits.
        assert_eq!(small.expect("a commit"), Applied { value: 7 + i64::from(i32::MAX) });
    } else {
        let error = small.expect_err("the column is too small");
        assert_eq!(error.kind(), ErrorKind::Database, "{error:?}");
    }
}
