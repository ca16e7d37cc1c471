//! Units that wait at a gate do not hold a session that the server closes for idling.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use atomically::{Error, Optimistic, TransactorExt as _, Tx};
use sqlx::mysql::MySqlPoolOptions;
use sqlx::postgres::PgPoolOptions;
use sqlx::{Executor as _, Pool};
use tokio::task::JoinSet;

use crate::counter;
use crate::support::{TestBackend, eventually, in_one_of};

/// Runs three units with one key, each of which takes longer than a session may idle. Each needs one attempt.
/// Between two statements a unit idles for an eighth of that, and on a busy machine it may idle for longer.
async fn one_attempt_each<DB: TestBackend>(pool: &Pool<DB>, idle_limit: Duration) {
    in_one_of(3, async || match attempts_of_three(pool, idle_limit).await {
        3 => Ok(()),
        attempts => Err(format!("units lost their sessions at the gate: {attempts} attempts")),
    })
    .await;
    eventually(0, async || DB::open_transactions(pool).await).await;
}

async fn attempts_of_three<DB: TestBackend>(pool: &Pool<DB>, idle_limit: Duration) -> u32 {
    let db = Optimistic::default().on(pool).deadline(Duration::from_secs(120));
    let (attempts, mut units) = (Arc::new(AtomicU32::new(0)), JoinSet::new());
    for _ in 0..3 {
        let (db, attempts) = (db.clone(), attempts.clone());
        units.spawn(async move {
            db.on_key("hot")
                .run(async |tx: &mut Tx<DB>| {
                    attempts.fetch_add(1, Ordering::SeqCst);
                    let read = DB::sql("SELECT value FROM counter WHERE id = 1");
                    for _ in 0..10 {
                        DB::fetch(tx, read.clone(), &[]).await?;
                        tokio::time::sleep(idle_limit / 8).await;
                    }
                    Ok::<_, Error>(())
                })
                .await
        });
    }
    while let Some(unit) = units.join_next().await {
        unit.expect("no panic").expect("a commit");
    }
    attempts.load(Ordering::SeqCst)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_at_the_gate_does_not_exceed_the_sessions_idle_limit_on_postgres() {
    let server = counter::<sqlx::Postgres>(1).await;
    let impatient = PgPoolOptions::new().max_connections(5).after_connect(|connection, _| {
        let set = "SET idle_in_transaction_session_timeout = '1500ms'";
        Box::pin(async move { connection.execute(sqlx::raw_sql(set)).await.map(drop) })
    });
    let pool = impatient.connect(&server.url).await.expect("a pool");
    one_attempt_each(&pool, Duration::from_millis(1500)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_at_the_gate_does_not_exceed_the_sessions_idle_limit_on_mariadb() {
    let server = counter::<sqlx::MySql>(1).await;
    let impatient = MySqlPoolOptions::new().max_connections(5).after_connect(|connection, _| {
        let set = "SET idle_transaction_timeout = 2";
        Box::pin(async move { connection.execute(sqlx::raw_sql(set)).await.map(drop) })
    });
    let pool = impatient.connect(&server.url).await.expect("a pool");
    one_attempt_each(&pool, Duration::from_secs(2)).await;
}
