//! A pgbouncer that assigns a server connection for one transaction at a time (transaction pooling).

mod holds;
mod leases;
mod queue;
mod statements;
#[path = "../support/mod.rs"]
mod support;
mod two_round_trips;
mod units;

use std::collections::BTreeSet;

use atomically::{Error, Pessimistic, Tx};
use sqlx::postgres::{PgPool, PgPoolOptions};
use sqlx::{Postgres, Row as _};
use support::servers::Server;
use tokio::task::spawn_blocking;

const TASKS: u32 = 16;
const ROUNDS: i64 = 40;
/// The `default_pool_size` of pgbouncer.
const SERVER_CONNECTIONS: u32 = 4;

/// A pooler and the server behind it, in the order in which they are dropped.
struct Pooled {
    pooler: Server,
    server: Server,
}

impl Pooled {
    /// With a table `counter` and a table of operations.
    async fn start(prepared_statements: bool) -> Self {
        let start = move || {
            let server = Server::postgres();
            Self { pooler: server.pgbouncer(prepared_statements), server }
        };
        let pooled = spawn_blocking(start).await.expect("a pooler and a server");
        let direct = pooled.direct().await;
        let create = "CREATE TABLE counter (id BIGINT PRIMARY KEY, value BIGINT NOT NULL);
                      CREATE TABLE tried (k BIGINT);
                      INSERT INTO counter VALUES (1, 0), (2, 0)";
        sqlx::raw_sql(create).execute(&direct).await.expect("the tables");
        Pessimistic::default().on(&direct).create_operation_table().await.expect("the table of operations");
        pooled
    }

    async fn direct(&self) -> PgPool {
        PgPoolOptions::new().max_connections(1).connect(self.server.url()).await.expect("a direct pool")
    }

    async fn clients(&self, most: u32) -> PgPool {
        let pool = PgPoolOptions::new().max_connections(most).connect(self.pooler.url()).await;
        pool.expect("a pool by way of pgbouncer")
    }

    async fn sum(&self) -> i64 {
        let sum = sqlx::query_scalar("SELECT CAST(sum(value) AS BIGINT) FROM counter");
        sum.fetch_one(&self.direct().await).await.expect("the sum of the counters")
    }
}

/// Adds to the counter, or subtracts, with a statement that the driver caches or does not cache.
async fn change(tx: &mut Tx<Postgres>, sql: &'static str, by: i64, keep: bool) -> Result<(), Error> {
    let done = sqlx::query(sql).bind(by).persistent(keep).execute(&mut *tx).await?;
    tx.expect_one(done.rows_affected())
}

/// Checks all server connections of the pooler, held at the same time, through separate clients.
async fn no_setting_is_left_behind(pooled: &Pooled) {
    let (pool, mut held, mut servers) =
        (pooled.clients(SERVER_CONNECTIONS).await, Vec::new(), BTreeSet::new());
    for _ in 0..SERVER_CONNECTIONS {
        let mut client = pool.acquire().await.expect("a client");
        for ask in [
            "BEGIN; SHOW lock_timeout",
            "SHOW statement_timeout",
            "SHOW idle_in_transaction_session_timeout",
            "SELECT coalesce(nullif(current_setting('app.tenant', true), ''), '0')",
        ] {
            let answer = sqlx::raw_sql(ask).fetch_one(&mut *client).await.expect(ask);
            assert_eq!(answer.get::<String, _>(0), "0", "{ask}");
        }
        let server = sqlx::raw_sql("SELECT pg_backend_pid()").fetch_one(&mut *client).await.expect("its pid");
        servers.insert(server.get::<i32, _>(0));
        held.push(client);
    }
    assert_eq!(servers.len(), SERVER_CONNECTIONS as usize, "not all connections were checked");
}
