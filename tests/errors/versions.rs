//! A comparison with NULL is distinguished from a version conflict.

use std::sync::atomic::{AtomicU32, Ordering};

use atomically::{Error, ErrorKind, Optimistic, TransactorExt as _, Tx};
use sqlx::SqlStr;

use crate::counter;
use crate::support::TestBackend;

/// Values to bind; `None` is NULL.
type Values<'a> = &'a [Option<i64>];

/// Runs an update and `expect_one`; returns the error and the number of attempts.
async fn update<DB: TestBackend>(sql: SqlStr, values: Values<'_>) -> (Error, u32) {
    let pool = counter::<DB>(1).await;
    let attempts = AtomicU32::new(0);
    let db = Optimistic::default().on(&pool).attempts(5);
    let run = db.run(async |tx: &mut Tx<DB>| {
        attempts.fetch_add(1, Ordering::Relaxed);
        let done = DB::execute_nullable(tx, sql.clone(), values).await?;
        tx.expect_one(done)
    });
    let error = run.await.expect_err("no row matches");
    (error, attempts.load(Ordering::Relaxed))
}

/// `version = NULL` never matches a row.
pub(crate) async fn a_comparison_with_null_is_not_retried<DB: TestBackend>() {
    let sql = "UPDATE counter SET value = ?, version = 1 WHERE id = ? AND version = ?";
    let (error, attempts) = update::<DB>(DB::sql(sql), &[Some(7), Some(1), None]).await;
    assert_eq!(error.kind(), ErrorKind::Aborted, "{error:?}");
    assert!(error.to_string().contains("version is compared with NULL"), "{error}");
    assert!(error.to_string().contains("NOT NULL"), "{error}");
    assert_eq!(attempts, 1);
}

/// NULL may be assigned, and a comparison with an alternative may match.
pub(crate) async fn other_uses_of_null_are_retried<DB: TestBackend>() {
    for sql in [
        "UPDATE counter SET version = ? WHERE id = ? AND version = ?",
        "UPDATE counter SET version = ? /* WHERE x = ? */ WHERE id = ? AND version = ?",
    ] {
        let sql =
            if DB::NAME == "PostgreSQL" { sql.replace("x = ?", "x = 1") } else { sql.replace("x = ?", "") };
        let (error, attempts) = update::<DB>(DB::sql(&sql), &[None, Some(1), Some(77)]).await;
        assert_eq!(error.kind(), ErrorKind::Exhausted, "{sql}: {error:?}");
        assert_eq!(attempts, 5, "{sql}");
    }
    let sql = "UPDATE counter SET value = ? WHERE id = ? AND (version = ? OR version = 77)";
    let (error, attempts) = update::<DB>(DB::sql(sql), &[Some(1), Some(1), None]).await;
    assert_eq!((error.kind(), attempts), (ErrorKind::Exhausted, 5), "{error:?}");
}
