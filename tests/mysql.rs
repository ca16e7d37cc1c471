//! The semantics on MariaDB, and what is MariaDB's and MySQL's own.

mod conformance;
mod support;

use atomically::{Error, ErrorKind, Pessimistic, TransactorExt as _};

conformance!(server sqlx::MySql);

/// MySQL and MariaDB commit before they run DDL, and go on in autocommit. So it is not sent, and nothing is stored.
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
