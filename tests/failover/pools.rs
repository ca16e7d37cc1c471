//! `Failover` over the pools of all servers, without a pooler: units find the new primary by themselves.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use atomically::{
    Adaptive, Failover, Optimistic, Pessimistic, PoolTransactor, Serializable, Strategy, Transactor,
};
use sqlx::Postgres;
use sqlx::postgres::PgPool;

use crate::faults::{SOME, audited, cluster, start_on};
use crate::support::ledger::{self, Load};
use crate::{Cluster, DEADLINE, lazy_pool};

const PATIENCE: Duration = Duration::from_secs(1);

/// One client of each strategy that resolves lost commits, and one that does not.
fn clients(cluster: &Cluster) -> Vec<Arc<dyn Transactor<Postgres>>> {
    let pools: Vec<PgPool> = cluster.servers.iter().map(|server| lazy_pool(server.url())).collect();
    let mut clients: Vec<Arc<dyn Transactor<Postgres>>> = Vec::new();
    for resolve in [false, true] {
        clients.push(Arc::new(failover(Pessimistic::default(), &pools, resolve)));
        clients.push(Arc::new(failover(Optimistic::default(), &pools, resolve)));
        clients.push(Arc::new(failover(Serializable::default(), &pools, resolve)));
        clients.push(Arc::new(failover(Adaptive::default(), &pools, resolve)));
    }
    clients
}

fn failover<S: Strategy>(strategy: S, pools: &[PgPool], resolve: bool) -> Failover<Postgres, S> {
    let first = PoolTransactor::new(strategy, &pools[0]).options(ledger::options(DEADLINE, resolve));
    Failover::new(first, &pools[1..]).patience(PATIENCE)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn units_find_the_promoted_standby_when_the_primary_is_killed() {
    let mut cluster = cluster().await;
    let load = Load::new(true);
    let clients = start_on(&load, clients(&cluster));
    load.progress(SOME).await;
    assert!(load.in_flight.load(SeqCst) > 0, "the primary was killed when no unit was in flight");
    cluster.kill_primary();
    cluster.promote().await;
    let report = audited(&cluster, &load, clients).await;
    assert_eq!(report.refused, 0, "{report}");
}

/// It wakes up when the units have left it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn units_find_the_promoted_standby_when_the_primary_hangs() {
    let mut cluster = cluster().await;
    let load = Load::new(true);
    let clients = start_on(&load, clients(&cluster));
    load.progress(SOME).await;
    let frozen = cluster.servers[0].freeze();
    cluster.promote().await;
    load.progress(SOME).await;
    drop(frozen);
    let report = audited(&cluster, &load, clients).await;
    assert_eq!(report.refused, 0, "{report}");
}
