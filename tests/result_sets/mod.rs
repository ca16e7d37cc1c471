//! Errors that the server reports after it has sent rows. The driver returns the first row before it has read
//! the rest, and then reports the error as the answer to the next statement.

use atomically::{Error, Pessimistic, TransactorExt as _, Tx};
use sqlx::MySql;

use crate::support::{TestBackend as _, TestPool};

/// Fails for the second row, which has two smaller ones in the subquery.
const FAILS_AFTER_ONE_ROW: &str =
    "SELECT id, (SELECT id FROM item AS other WHERE other.id <= item.id) AS only_one FROM item ORDER BY id";

async fn items() -> TestPool<MySql> {
    let pool = MySql::pool(2).await;
    for sql in
        ["CREATE TABLE item (id BIGINT PRIMARY KEY, value BIGINT)", "INSERT INTO item VALUES (1, 0), (2, 0)"]
    {
        sqlx::query(sql).execute(&*pool).await.expect(sql);
    }
    pool
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_that_follows_the_first_row_is_that_of_its_query() {
    let pool = items().await;
    let db = Pessimistic::default().on(&pool);
    let unit = async |tx: &mut Tx<MySql>| {
        let failed = sqlx::query(FAILS_AFTER_ONE_ROW).fetch_one(&mut *tx).await;
        assert!(failed.is_err_and(|error| error.to_string().contains("1242")), "the error is still to come");
        sqlx::query("UPDATE item SET value = 1").execute(&mut *tx).await?;
        Ok::<_, Error>(())
    };
    db.run(unit).await.expect("the unit goes on");
    let stored: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM item WHERE value = 1")
        .fetch_one(&*pool)
        .await
        .expect("a number");
    assert_eq!(stored, 2);
}
