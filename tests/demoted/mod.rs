//! A MariaDB server that has become read-only: no call keeps its session.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use atomically::queue::{NewJob, Queue};
use atomically::{Atomic, Deltas, Error, FailureKind, Options, Pessimistic, TransactorExt as _};
use sqlx::MySqlPool;
use sqlx::mysql::MySqlPoolOptions;

use crate::support::servers::Server;

/// A user without the privilege to write on a read-only server, which administrators may have.
const SETUP: [&str; 4] = [
    "CREATE USER clerk@'%' IDENTIFIED BY ''",
    "GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, INDEX ON test.* TO clerk@'%'",
    "CREATE TABLE counter (id BIGINT PRIMARY KEY, value BIGINT NOT NULL)",
    "INSERT INTO counter VALUES (1, 0)",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_keeps_a_session_of_a_demoted_server() {
    let server = tokio::task::spawn_blocking(Server::mariadb).await.expect("a server");
    let admin = MySqlPool::connect(server.url()).await.expect("an administrator");
    for sql in SETUP {
        sqlx::raw_sql(sql).execute(&admin).await.expect("set up");
    }
    Queue::new("mails", &admin).expect("a name").create_tables().await.expect("the tables");
    sqlx::raw_sql("SET GLOBAL read_only = 1").execute(&admin).await.expect("a demotion");

    let opened = Arc::<AtomicI64>::default();
    let counted = opened.clone();
    let options = MySqlPoolOptions::new().max_connections(1).after_connect(move |_, _| {
        counted.fetch_add(1, Ordering::Relaxed);
        Box::pin(async { Ok(()) })
    });
    // MySQL's own user has no password, and MySQL takes one only over TLS or with the driver's `mysql-rsa`.
    let clerk = server.url().replace("app:app@", "clerk@").replace("app@", "clerk@");
    let pool = options.connect(&clerk).await.expect("a pool");
    let mut before = opened.load(Ordering::Relaxed);
    let mut left = |call: &str, error: &Error| {
        let kind = error.failure().map(|failure| failure.kind());
        assert_eq!(kind, Some(FailureKind::ReadOnly), "{call}: {error:?}");
        let (now, attempts) =
            (opened.load(Ordering::Relaxed), i64::from(error.attempts().unwrap_or_default()));
        assert!(attempts > 1, "{call} was tried {attempts} times");
        // The first attempt may have got a connection that was already open.
        assert!(now - before >= attempts - 1, "{call}: {} connections for {attempts} attempts", now - before);
        before = now;
    };

    let options = Options::new().attempts(3);
    let db = Atomic::default().on(&pool).options(options.clone());
    let applied = db.apply(sqlx::query("UPDATE counter SET value = 1")).await;
    left("apply", &applied.expect_err("no writes here"));

    let db = Pessimistic::default().on(&pool).options(options.clone());
    let unit = db.run(async |tx| {
        sqlx::query("UPDATE counter SET value = 1").execute(&mut *tx).await?;
        Ok::<_, Error>(())
    });
    left("run", &unit.await.expect_err("no writes here"));

    let queue = Queue::new("mails", &pool).expect("a name");
    let job = NewJob::new(&1).expect("a payload");
    left("enqueue_alone", &queue.enqueue_alone(job).await.expect_err("no writes here"));

    let counters = Deltas::on(&pool, "counter", "id", "value").options(options);
    left("Deltas", &counters.add(1_i64, 1).await.expect_err("no writes here"));
    drop(server);
}
