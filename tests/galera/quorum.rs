//! A node that has lost the others, and refuses statements before it executes them.

use std::time::Duration;

use atomically::{Atomic, Error, ErrorKind, FailureKind, Pessimistic, TransactorExt as _};
use sqlx::{Connection as _, MySql, MySqlConnection, Pool};

use crate::{Database, support};

const TABLES: [&str; 1] = ["CREATE TABLE counter (id BIGINT PRIMARY KEY, value BIGINT NOT NULL)"];
const ADD: &str = "UPDATE counter SET value = value + 1 WHERE id = 1";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statements_without_quorum_are_refused_and_not_unknown() {
    let mut database = Database::with(&TABLES).await;
    let pool = database.pools[0].clone();
    sqlx::query("INSERT INTO counter VALUES (1, 0)").execute(&pool).await.expect("a row");
    database.catch_up().await;
    database.kill(1);
    database.kill(2);
    support::eventually(Some("1047".to_owned()), async || code_of_a_read(&pool).await).await;

    let error = Atomic::default().on(&pool).attempts(2).apply(sqlx::query(ADD)).await;
    refused(&error.expect_err("no quorum"));
    let units = Pessimistic::default().on(&pool).attempts(2);
    let unit = units.run(async |tx| {
        sqlx::query(ADD).execute(&mut *tx).await?;
        Ok::<_, Error>(())
    });
    refused(&unit.await.expect_err("no quorum"));

    // A transaction that was open when the other nodes were lost cannot be committed, and the error says so.
    let bootstrap = "SET GLOBAL wsrep_provider_options = 'pc.bootstrap=YES'";
    sqlx::query(bootstrap).execute(&pool).await.expect("a cluster of one");
    let db = Pessimistic::default().on(&pool).deadline(Duration::from_secs(30));
    db.run(async |tx| {
        sqlx::query(ADD).execute(&mut *tx).await?;
        Ok::<_, Error>(())
    })
    .await
    .expect("it takes writes again");
    assert_eq!(database.audited(value).await, 1, "what was refused is stored");
}

fn refused(error: &Error) {
    assert_eq!((error.kind(), error.attempts()), (ErrorKind::Exhausted, Some(2)), "{error:?}");
    assert_eq!(error.failure().map(|failure| failure.kind()), Some(FailureKind::Unavailable), "{error:?}");
}

async fn code_of_a_read(pool: &Pool<MySql>) -> Option<String> {
    code(sqlx::query("SELECT value FROM counter").fetch_one(pool).await)
}

/// Waits until a node refuses statements, because it is not a member of a cluster that may commit.
pub(crate) async fn refuses_statements(url: &str) {
    let mut node = MySqlConnection::connect(url).await.expect("a connection to a node");
    let code_of_a_statement = async || code(sqlx::raw_sql("DO 1").execute(&mut node).await);
    support::eventually(Some("1047".to_owned()), code_of_a_statement).await;
}

fn code<T>(outcome: sqlx::Result<T>) -> Option<String> {
    let error = outcome.err()?;
    error
        .as_database_error()?
        .try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>()
        .map(|it| it.number().to_string())
}

async fn value(mut node: MySqlConnection) -> i64 {
    sqlx::query_scalar("SELECT value FROM counter").fetch_one(&mut node).await.expect("the counter")
}
