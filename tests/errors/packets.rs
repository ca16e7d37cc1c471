//! Statements that exceed the server's maximum size.

use std::sync::atomic::{AtomicU32, Ordering};

use atomically::{Error, ErrorKind, Pessimistic, TransactorExt as _, Tx};
use sqlx::{AssertSqlSafe, Executor as _, MySql};

use crate::support::servers::Server;

/// MariaDB closes the connection, possibly before the driver has sent the whole statement.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_beyond_max_allowed_packet_is_not_retried() {
    let server = tokio::task::spawn_blocking(Server::mariadb).await.expect("a server");
    let admin = sqlx::MySqlPool::connect(server.url()).await.expect("a pool");
    admin.execute(sqlx::raw_sql("CREATE TABLE t (body LONGTEXT)")).await.expect("a table");
    admin.execute(sqlx::raw_sql("SET GLOBAL max_allowed_packet = 1048576")).await.expect("a limit");
    admin.close().await;
    let pool = sqlx::MySqlPool::connect(server.url()).await.expect("a pool");
    let db = Pessimistic::default().on(&pool);
    for size in [1 << 20, 3 << 20, 10 << 20, 20 << 20] {
        for bound in [true, false] {
            let body = "x".repeat(size);
            let attempts = AtomicU32::new(0);
            let run = db.run(async |tx: &mut Tx<MySql>| {
                attempts.fetch_add(1, Ordering::Relaxed);
                if bound {
                    sqlx::query("INSERT INTO t VALUES (?)").bind(&body).execute(&mut *tx).await?;
                } else {
                    let text = AssertSqlSafe(format!("INSERT INTO t VALUES ('{body}')"));
                    sqlx::raw_sql(text).execute(&mut *tx).await?;
                }
                Ok::<_, Error>(())
            });
            let error = run.await.expect_err("too large");
            let attempts = attempts.load(Ordering::Relaxed);
            let text: String = error.to_string().chars().take(300).collect();
            println!("{size} {bound}: {attempts} attempts: {:?} {text}", error.kind());
            assert_eq!(error.kind(), ErrorKind::Database, "{size} {bound}: {text}");
            assert!(text.contains("max_allowed_packet"), "{size} {bound}: {text}");
            assert_eq!(attempts, 1, "{size} {bound}");
        }
    }
}
