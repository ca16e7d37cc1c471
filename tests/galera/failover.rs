//! `Failover`: one process that uses one node at a time, and moves when that node fails.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use atomically::{
    Adaptive, Failover, Optimistic, Pessimistic, PoolTransactor, Serializable, Strategy, Transactor,
};
use sqlx::mysql::{MySqlConnectOptions, MySqlPoolOptions};
use sqlx::{Executor as _, MySql, Pool};
use tokio::time::sleep;

use crate::current;
use crate::ledger::{audited, database, start};
use crate::quorum::refuses_statements;
use crate::support::eventually;
use crate::support::ledger::{self, Load};

const SOME: u64 = 500;
/// Longer than it takes to give up a node that hangs, on a busy machine.
const DEADLINE: Duration = Duration::from_secs(20);
const PATIENCE: Duration = Duration::from_secs(1);
/// Longer than it takes to give up a node that hangs, and than the cluster needs to evict it.
const STALL: Duration = Duration::from_secs(4);

fn failover<S: Strategy>(strategy: S, pools: &[Pool<MySql>], resolve: bool) -> Failover<MySql, S> {
    let options = ledger::options(DEADLINE, resolve);
    let first = PoolTransactor::new(strategy, &pools[0]).options(options);
    Failover::new(first, &pools[1..]).patience(PATIENCE).pause(Duration::from_secs(1))
}

/// Clients of every strategy; half of them resolve lost commits.
fn clients(pools: &[Pool<MySql>]) -> Vec<Arc<dyn Transactor<MySql>>> {
    let of = |resolve| -> [Arc<dyn Transactor<MySql>>; 4] {
        [
            Arc::new(failover(Pessimistic::default(), pools, resolve)),
            Arc::new(failover(Optimistic::default(), pools, resolve)),
            Arc::new(failover(Serializable::default(), pools, resolve)),
            Arc::new(failover(Adaptive::default(), pools, resolve)),
        ]
    };
    of(false).into_iter().chain(of(true)).chain(of(true)).collect()
}

/// The clients follow the first node that takes writes, and return to the first node when it is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn units_move_away_from_a_node_that_is_killed() {
    let (mut database, load) = (database().await, Load::new(true));
    let watched = failover(Pessimistic::default(), &database.pools, true);
    let mut dbs = clients(&database.pools);
    dbs.push(Arc::new(watched.clone()));
    let clients = start(&load, dbs);
    load.progress(SOME).await;
    assert!(load.in_flight.load(SeqCst) > 0, "the node was killed when no unit was in flight");
    let node_in_use = || port(watched.pool());
    assert_eq!(node_in_use(), port(&database.pools[0]));
    database.kill(0);
    load.progress(SOME).await;
    // While the others evict the dead node, a unit may look at the third one as well.
    eventually(port(&database.pools[1]), async || node_in_use()).await;
    database.restart();
    eventually(port(&database.pools[0]), async || node_in_use()).await;
    load.progress(SOME).await;
    let report = audited(database, &load, clients).await;
    assert_eq!(report.refused, 0, "{report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn units_move_away_from_a_node_that_hangs() {
    let (database, load) = (database().await, Load::new(true));
    let clients = start(&load, clients(&database.pools));
    load.progress(SOME).await;
    let frozen = database.cluster.freeze(0);
    sleep(STALL).await;
    load.progress(SOME).await;
    drop(frozen);
    load.progress(SOME).await;
    let report = audited(database, &load, clients).await;
    assert_eq!(report.refused, 0, "{report}");
}

/// A node that is cut off from the others refuses statements (1047), although it still answers `SELECT 1`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn units_move_away_from_a_node_without_quorum() {
    let (database, load) = (database().await, Load::new(true));
    let clients = start(&load, clients(&database.pools));
    load.progress(SOME).await;
    let mut node = current(&database.urls[0]).await;
    let isolate = "SET GLOBAL wsrep_provider_options = 'gmcast.isolate=1'";
    node.execute(isolate).await.expect("a node that is cut off");
    refuses_statements(&database.urls[0]).await;
    load.progress(SOME).await;
    let join = "SET GLOBAL wsrep_provider_options = 'gmcast.isolate=0'";
    node.execute(join).await.expect("a node that joins again");
    load.progress(SOME).await;
    let report = audited(database, &load, clients).await;
    assert_eq!(report.refused, 0, "{report}");
}

/// A node that is down when the program starts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn units_begin_on_the_first_node_that_is_there() {
    let (mut database, load) = (database().await, Load::new(true));
    database.kill(0);
    let pools: Vec<_> = database.urls.iter().map(|url| lazy_pool(url)).collect();
    let clients = start(&load, clients(&pools));
    load.progress(SOME).await;
    let report = audited(database, &load, clients).await;
    assert_eq!((report.refused, report.unknown), (0, 0), "{report}");
}

fn lazy_pool(url: &str) -> Pool<MySql> {
    let options: MySqlConnectOptions = url.parse().expect("a URL");
    MySqlPoolOptions::new().max_connections(crate::CONNECTIONS).connect_lazy_with(options)
}

fn port(pool: &Pool<MySql>) -> u16 {
    pool.connect_options().get_port()
}
