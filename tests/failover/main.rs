//! PostgreSQL with two standbys, behind pgbouncer: what clients were told holds on the new primary after a
//! failover.
//!
//! Commits wait until a standby has received them, and the standby that has received most is promoted.
//! Otherwise the servers themselves would lose acknowledged commits.

mod claims;
mod faults;
mod once;
mod pools;
mod queue;
#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};
use support::eventually;
use support::servers::Server;
use tokio::sync::{Mutex, MutexGuard};
use tokio::task::{JoinSet, block_in_place, spawn_blocking};

/// The maximum number of connections of the clients to the pooler, and of each pool to a server.
const CONNECTIONS: u32 = 16;

/// A primary, its standbys, and the pooler that leads to the primary, in the order in which they are dropped.
struct Cluster {
    pooler: Server,
    servers: Vec<Server>,
    primary: usize,
    /// The tests run one at a time.
    _turn: MutexGuard<'static, ()>,
}

impl Cluster {
    /// With these tables.
    async fn with(tables: &[&str]) -> Self {
        static TURN: Mutex<()> = Mutex::const_new(());
        let turn = TURN.lock().await;
        let start = || {
            let primary = Server::primary();
            let (one, other) = (primary.standby(), primary.standby());
            (primary.pgbouncer(false), vec![primary, one, other])
        };
        let (pooler, servers) = spawn_blocking(start).await.expect("the servers");
        let cluster = Self { pooler, servers, primary: 0, _turn: turn };
        let mut admin = cluster.connect(0).await;
        for table in tables {
            admin.execute(AssertSqlSafe((*table).to_owned())).await.expect("a table");
        }
        cluster
    }

    /// A connection to one of the servers.
    async fn connect(&self, server: usize) -> PgConnection {
        PgConnection::connect(self.servers[server].url()).await.expect("a connection to a server")
    }

    /// Clients that connect through the pooler.
    fn clients(&self) -> PgPool {
        lazy_pool(self.pooler.url())
    }

    /// Kills the primary.
    fn kill_primary(&mut self) {
        block_in_place(|| self.servers[self.primary].kill());
    }

    /// Promotes the standby that has received most, and has the other one follow it. The pooler still leads
    /// to the old primary.
    ///
    /// Both leave the old primary first. It might still be alive, and must not get another commit confirmed,
    /// or send one of them what the other one lacks.
    async fn promote(&mut self) {
        let standbys: Vec<usize> = (0..self.servers.len()).filter(|server| *server != self.primary).collect();
        let mut received = Vec::new();
        for standby in standbys.clone() {
            self.follow(standby, "").await;
            let follows = "SELECT count(*) FROM pg_stat_wal_receiver";
            eventually(0, async || number(&mut self.connect(standby).await, follows).await).await;
        }
        for standby in standbys.clone() {
            let position = "SELECT CAST(pg_last_wal_receive_lsn() - '0/0' AS BIGINT)";
            let position: i64 = number(&mut self.connect(standby).await, position).await;
            received.push((position, standby));
        }
        self.primary = received.into_iter().max().expect("a standby").1;
        let mut primary = self.connect(self.primary).await;
        primary.execute("SELECT pg_promote(true, 60)").await.expect("a promotion");
        let port = self.servers[self.primary].port();
        for standby in standbys.into_iter().filter(|server| *server != self.primary) {
            self.follow(standby, &format!("host=127.0.0.1 user=app port={port}")).await;
        }
        let followers = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'";
        eventually(1, async || number(&mut primary, followers).await).await;
    }

    /// Makes a standby follow the server of these connection parameters, or none.
    async fn follow(&self, standby: usize, parameters: &str) {
        let mut standby = self.connect(standby).await;
        let follow = format!("ALTER SYSTEM SET primary_conninfo = '{parameters}'");
        for sql in [&*follow, "SELECT pg_reload_conf()"] {
            standby.execute(AssertSqlSafe(sql.to_owned())).await.expect("a change of the configuration");
        }
    }

    /// Leads the pooler to the primary.
    fn lead_to_primary(&self) {
        self.pooler.lead_to(&self.servers[self.primary]);
    }

    /// Replaces a dead server by a new standby of the primary.
    fn replace(&mut self, server: usize) {
        let standby = block_in_place(|| self.servers[self.primary].standby());
        self.servers[server] = standby;
    }

    /// Returns the pairs that a query finds on the primary.
    async fn pairs(&self, sql: &'static str) -> BTreeMap<i64, i64> {
        let mut primary = self.connect(self.primary).await;
        let pairs: Vec<(i64, i64)> = sqlx::query_as(sql).fetch_all(&mut primary).await.expect(sql);
        pairs.into_iter().collect()
    }

    /// Returns the integer that a query finds on the primary.
    async fn number(&self, sql: &'static str) -> i64 {
        number(&mut self.connect(self.primary).await, sql).await
    }
}

async fn number(connection: &mut PgConnection, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql).fetch_one(connection).await.expect(sql)
}

/// A pool whose server need not be there yet.
fn lazy_pool(url: &str) -> PgPool {
    let options: PgConnectOptions = url.parse().expect("a URL");
    PgPoolOptions::new().max_connections(CONNECTIONS).connect_lazy_with(options)
}

/// Waits for the clients, and returns their results.
async fn all<T: Send + 'static>(
    clients: impl IntoIterator<Item = impl Future<Output = T> + Send + 'static>,
) -> Vec<T> {
    let clients: JoinSet<T> = clients.into_iter().collect();
    clients.join_all().await
}

/// The deadline of one unit: longer than a failover takes on a busy machine.
const DEADLINE: Duration = Duration::from_secs(20);
