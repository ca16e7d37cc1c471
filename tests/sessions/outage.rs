//! An outage that is shorter than the deadline.

use std::time::Duration;

use atomically::{Atomic, Error, Options, Pessimistic, TransactorExt as _};
use futures_util::future::join_all;
use sqlx::postgres::PgPoolOptions;
use tokio::time::{Instant, sleep};

use super::RETURNING;
use crate::support::servers::Server;

/// The maximum time from the server's return to the last commit. On a machine that is not busy, it takes a
/// quarter of that.
const LIMIT: Duration = Duration::from_secs(2);

/// By then, sqlx's pool has just begun to sleep for two and a half seconds.
const OUTAGE: Duration = Duration::from_millis(2700);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn units_begin_soon_after_the_server_is_back() {
    crate::support::in_one_of(3, async || match last_commit_after_an_outage().await {
        soon if soon < LIMIT => Ok(()),
        late => Err(format!("the last one is done {late:?} after the server was back")),
    })
    .await;
}

/// Returns how long after the server's return the last of several calls committed.
async fn last_commit_after_an_outage() -> Duration {
    let mut server = tokio::task::spawn_blocking(Server::postgres).await.expect("a server");
    let pool = PgPoolOptions::new().max_connections(4).connect(server.url()).await.expect("a pool");
    for sql in [
        "CREATE TABLE counter (id BIGINT PRIMARY KEY, value BIGINT NOT NULL)",
        "INSERT INTO counter VALUES (1, 0)",
    ] {
        sqlx::raw_sql(sql).execute(&pool).await.expect("set up");
    }
    let options = Options::new().deadline(Duration::from_secs(60));
    let units = Pessimistic::default().on(&pool).options(options.clone());
    let reusing = units.clone().reuse_connections();
    let lone = Atomic::default().on(&pool).options(options);

    server.kill();
    let killed = Instant::now();
    let mut calls = tokio::task::JoinSet::new();
    for db in [units, reusing] {
        for _ in 0..4 {
            let db = db.clone();
            calls.spawn(async move {
                db.run(async |tx| {
                    sqlx::query(RETURNING).fetch_all(&mut *tx).await?;
                    Ok::<_, Error>(())
                })
                .await
                .map(|()| Instant::now())
            });
        }
    }
    for _ in 0..4 {
        let lone = lone.clone();
        calls.spawn(async move { lone.apply(sqlx::query(RETURNING)).await.map(|_| Instant::now()) });
    }
    sleep(OUTAGE.saturating_sub(killed.elapsed())).await;
    let restarted = tokio::task::spawn_blocking(move || {
        server.restart();
        (server, Instant::now())
    });
    let (server, back) = restarted.await.expect("the server is back");
    let ended = calls.join_all().await;
    let late = ended
        .into_iter()
        .map(|end| end.expect("a commit").saturating_duration_since(back))
        .max()
        .expect("there were calls");
    let value: i64 = sqlx::query_scalar("SELECT value FROM counter").fetch_one(&pool).await.expect("a value");
    assert_eq!(value, 12);
    drop(server);
    late
}

/// The pool has other users, which keep their position in its queue.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_opens_no_more_connections_than_the_pool_may() {
    let mut server = tokio::task::spawn_blocking(Server::postgres).await.expect("a server");
    let pool = PgPoolOptions::new().max_connections(2).connect(server.url()).await.expect("a pool");
    server.kill();
    let db = Pessimistic::default().on(&pool).deadline(Duration::from_secs(60));
    let runs = (0..6).map(|_| db.run(async |_| Ok::<_, Error>(())));
    let (ended, server) = tokio::join!(join_all(runs), async {
        sleep(Duration::from_millis(700)).await;
        let restarted = tokio::task::spawn_blocking(move || {
            server.restart();
            server
        });
        restarted.await.expect("the server is back")
    });
    assert!(ended.iter().all(Result::is_ok), "{ended:?}");
    // The connections that probed the server are closed.
    crate::support::eventually(2, async || {
        let sessions = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'";
        let sessions: i64 = sqlx::query_scalar(sessions).fetch_one(&pool).await.expect("the sessions");
        sessions.max(2)
    })
    .await;
    assert!(pool.size() <= 2, "{} connections", pool.size());
    drop(server);
}
