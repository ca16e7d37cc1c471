//! Leases whose holders and successors are clients of different nodes: at no commit are there two holders,
//! although no lock reaches another node.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use atomically::lease::{Held, Lease};
use atomically::{Error, Pessimistic, TransactorExt as _};
use sqlx::{MySql, MySqlConnection, Pool};
use tokio::time::{Instant, sleep};

use crate::{Database, all};

const CLIENTS_OF_A_NODE: usize = 2;
const LOAD: Duration = Duration::from_secs(8);

const TABLES: [&str; 2] = [
    "CREATE TABLE fenced (id BIGINT PRIMARY KEY, token BIGINT NOT NULL, commits BIGINT NOT NULL)",
    "INSERT INTO fenced VALUES (1, 0, 0)",
];

#[derive(Debug, Default)]
struct Load {
    held: AtomicU64,
    stored: AtomicU64,
    stale: AtomicU64,
    wrong: AtomicU64,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_is_one_holder_at_each_commit() {
    let database = Database::with(&TABLES).await;
    lease(&database.pools[0]).create_tables().await.expect("the tables");
    database.catch_up().await;
    let load = Arc::new(Load::default());
    let pools = database.pools.iter().flat_map(|pool| std::iter::repeat_n(pool, CLIENTS_OF_A_NODE));
    all(pools.map(|pool| client(pool.clone(), load.clone()))).await;
    let commits = database.audited(commits).await;
    println!("{load:?}");
    assert_eq!(load.wrong.load(SeqCst), 0, "a later holder had committed before: {load:?}");
    assert_eq!(commits, load.stored.load(SeqCst), "{load:?}");
    assert!(load.stale.load(SeqCst) > 0, "no zombie tried to commit: {load:?}");
}

fn lease(pool: &Pool<MySql>) -> Lease<MySql> {
    Lease::new("report", pool).ttl(Duration::from_secs(2)).poll_every(Duration::from_millis(20))
}

async fn client(pool: Pool<MySql>, load: Arc<Load>) {
    let start = Instant::now();
    while start.elapsed() < LOAD {
        let Ok(Some(held)) = lease(&pool).acquire(Duration::from_secs(1)).await else { continue };
        load.held.fetch_add(1, SeqCst);
        commit(&pool, &held, &load).await;
        // As if the holder had been suspended until its lease expired.
        let expire = "UPDATE atomically_lease_expiry SET until = 1 WHERE token = ?";
        if sqlx::query(expire).bind(held.token()).execute(&pool).await.is_err() {
            continue;
        }
        for _ in 0..5 {
            commit(&pool, &held, &load).await;
            sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Commits under the lease, unless a later holder has committed.
async fn commit(pool: &Pool<MySql>, held: &Held<MySql>, load: &Load) {
    let token = held.token();
    let db = Pessimistic::default().on(pool).attempts(1_000);
    let stored = db.run(async |tx| {
        held.check_in(tx).await?;
        let update = "UPDATE fenced SET token = ?, commits = commits + 1 WHERE id = 1 AND token <= ?";
        let updated = sqlx::query(update).bind(token).bind(token).execute(&mut *tx).await?;
        Ok::<_, Error>(updated.rows_affected())
    });
    let outcome = match stored.await {
        Ok(1) => &load.stored,
        Ok(_) => &load.wrong,
        Err(error) if error.is_stale_claim() => &load.stale,
        Err(error) => panic!("{error}"),
    };
    outcome.fetch_add(1, SeqCst);
}

async fn commits(mut node: MySqlConnection) -> u64 {
    let commits: i64 =
        sqlx::query_scalar("SELECT commits FROM fenced").fetch_one(&mut node).await.expect("the commits");
    commits.try_into().expect("a count")
}
