//! Additions on connections that another user of the pool has returned in a transaction.

use atomically::DeltaOutcome::Applied;
use atomically::{Deltas, Key};

use crate::support::TestBackend;

/// Leaves a transaction open on the pool's only connection. On PostgreSQL a failed statement aborts it.
async fn leave_open<DB: TestBackend>(pool: &sqlx::Pool<DB>, statement: Option<&'static str>) {
    let mut connection = pool.acquire().await.expect("a connection");
    DB::raw(&mut connection, "BEGIN").await.expect("a transaction");
    if let Some(statement) = statement {
        let _ = DB::raw(&mut connection, statement).await;
    }
}

pub(crate) async fn no_addition_is_part_of_a_transaction_that_was_left_open<DB: TestBackend>()
where
    i64: Key<DB>,
{
    let pool = DB::pool(1).await;
    let create = DB::sql("CREATE TABLE counter (id BIGINT PRIMARY KEY, value BIGINT NOT NULL)");
    DB::pool_execute(&pool, create, &[]).await.expect("a table");
    DB::pool_execute(&pool, DB::sql("INSERT INTO counter VALUES (1, 0)"), &[]).await.expect("a row");
    let other = DB::another(&pool.url).await;
    let mut expected = 0;
    for statement in [None, Some("SELECT 1"), Some("SELECT nothing")] {
        for is_single in [true, false] {
            let stock = Deltas::on(&pool, "counter", "id", "value").single_statement(is_single);
            assert_eq!(stock.add(1_i64, 1).await.expect("a commit"), Applied { value: expected + 1 });
            leave_open(&pool, statement).await;
            expected += 11;
            assert_eq!(stock.add(1, 10).await.expect("a commit"), Applied { value: expected });
            let select = DB::sql("SELECT value FROM counter WHERE id = 1");
            let stored = DB::pool_fetch(&other, select, &[]).await.expect("a value");
            assert_eq!(stored, expected, "after {statement:?}, single statement: {is_single}");
        }
    }
}
