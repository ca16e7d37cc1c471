//! A Galera cluster of three nodes, all of which accept writes: the outcomes that the clients of one node saw
//! hold on all nodes.
//!
//! Locks do not reach other nodes, so conflicts between clients of different nodes are detected at commit.
//! The tests share one cluster, and run one at a time.

mod claims;
mod deltas;
mod engine;
mod failover;
mod held_commits;
mod holds;
mod leases;
mod ledger;
mod once;
mod queue;
mod quorum;
#[path = "../support/mod.rs"]
mod support;
mod unreported;
mod write_skew;

use std::fmt::Debug;
use std::future::Future;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use sqlx::mysql::MySqlPoolOptions;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, MySql, MySqlConnection, Pool, Row as _};
use support::servers::galera::Cluster;
use tokio::sync::{Mutex, MutexGuard};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{Instant, sleep};

/// How long a node may take to join the others again.
const JOIN_LIMIT: Duration = Duration::from_secs(60);

/// The connections of the clients of one node.
const CONNECTIONS: u32 = 8;

/// All tests of this binary wait here for the cluster. If it fails to start, all of them fail immediately.
async fn cluster() -> MutexGuard<'static, Cluster> {
    static CLUSTER: OnceLock<Result<Mutex<Cluster>, String>> = OnceLock::new();
    let started = spawn_blocking(|| CLUSTER.get_or_init(|| Cluster::try_start().map(Mutex::new)));
    match started.await.expect("the cluster is started") {
        Ok(cluster) => cluster.lock().await,
        Err(reason) => panic!("{reason}"),
    }
}

/// An empty database on the cluster, and a pool of clients for each node.
struct Database {
    cluster: MutexGuard<'static, Cluster>,
    urls: Vec<String>,
    pools: Vec<Pool<MySql>>,
}

impl Database {
    /// Returns when the tables exist on every node.
    async fn with(tables: &[&'static str]) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let cluster = cluster().await;
        let name = format!("test{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let servers = cluster.urls();
        let mut admin = current(&servers[0]).await;
        admin.execute(AssertSqlSafe(format!("CREATE DATABASE {name}"))).await.expect("a database");
        let urls: Vec<String> =
            servers.iter().map(|url| format!("{}/{name}", url.trim_end_matches("/test"))).collect();
        let mut pools = Vec::new();
        for (server, url) in servers.iter().zip(&urls) {
            current(server).await.execute("SHOW DATABASES").await.expect("a node that has caught up");
            let pool = MySqlPoolOptions::new().max_connections(CONNECTIONS).connect(url).await;
            pools.push(pool.expect("connections to a node"));
        }
        let database = Self { cluster, urls, pools };
        for table in tables {
            database.pools[0].execute(*table).await.expect("a table");
        }
        database.catch_up().await;
        database
    }

    /// Waits until every node has applied all commits of all nodes.
    async fn catch_up(&self) {
        for url in &self.urls {
            current(url).await.execute("SHOW TABLES").await.expect("a node that has caught up");
        }
    }

    /// Kills a node.
    fn kill(&mut self, node: usize) {
        tokio::task::block_in_place(|| self.cluster.kill(node));
    }

    /// Restarts the killed nodes, and returns when they have caught up.
    fn restart(&mut self) {
        tokio::task::block_in_place(|| self.cluster.restart_dead());
    }

    /// Restarts the killed nodes, and returns the result of `audit`, which must be equal on all nodes.
    async fn audited<T: PartialEq + Debug>(mut self, audit: impl AsyncFn(MySqlConnection) -> T) -> T {
        self.restart();
        let mut found = Vec::new();
        for url in &self.urls {
            found.push(audit(current(url).await).await);
        }
        for pool in &self.pools {
            pool.close().await;
        }
        for other in &found[1..] {
            assert_eq!(other, &found[0], "the nodes differ");
        }
        found.swap_remove(0)
    }
}

/// A connection whose statements see every earlier commit of every node. Waits until its node has joined the
/// others and caught up: one that was suspended may still take itself for a member, and then the first
/// statement that waits for the others fails.
async fn current(url: &str) -> MySqlConnection {
    let mut connection = MySqlConnection::connect(url).await.expect("a connection to a node");
    let start = Instant::now();
    loop {
        let status = "SHOW STATUS LIKE 'wsrep_local_state_comment'";
        let status = sqlx::raw_sql(status).fetch_one(&mut connection).await.expect("its state");
        let mut state: String = status.get(1);
        if state == "Synced" {
            connection.execute("SET SESSION wsrep_sync_wait = 15").await.expect("a session that waits");
            match connection.execute("SELECT 1").await {
                Ok(_) => return connection,
                Err(error) => state = error.to_string(),
            }
            connection.execute("SET SESSION wsrep_sync_wait = 0").await.expect("a session that does not");
        }
        assert!(start.elapsed() < JOIN_LIMIT, "{url} is not a member of its cluster: {state}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// Waits for the clients, and returns their results.
async fn all<T: Send + 'static>(
    clients: impl IntoIterator<Item = impl Future<Output = T> + Send + 'static>,
) -> Vec<T> {
    let clients: JoinSet<T> = clients.into_iter().collect();
    clients.join_all().await
}
