//! Units that add to hot accounts through all nodes, under every strategy, while nodes fail.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use atomically::{Pessimistic, Transactor};
use sqlx::{AssertSqlSafe, Executor as _, MySql, MySqlConnection};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::Database;
use crate::support::ledger::{self, Load, Report};

/// How many units are acknowledged between two steps of a test.
const SOME: u64 = 600;
/// The deadline of one unit: longer than the cluster needs to evict a dead node.
const DEADLINE: Duration = Duration::from_secs(5);
/// Longer than the cluster needs to evict a node that does not answer.
const STALL: Duration = Duration::from_secs(4);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_units_are_stored_once_on_every_node() {
    let (database, load) = (database().await, Load::new(true));
    let clients = start(&load, clients_of(&database, 0..3));
    load.progress(4 * SOME).await;
    audited(database, &load, clients).await;
}

/// The clients of the dead node are told what they cannot know. It catches up when it returns.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_units_are_stored_once_when_a_node_is_killed_and_returns() {
    let (mut database, load) = (database().await, Load::new(true));
    let clients = start(&load, clients_of(&database, 0..3));
    load.progress(SOME).await;
    assert!(load.in_flight.load(SeqCst) > 0, "the node was killed when no unit was in flight");
    database.kill(2);
    load.progress(2 * SOME).await;
    database.restart();
    load.progress(SOME).await;
    audited(database, &load, clients).await;
}

/// The node is evicted meanwhile. When it wakes up, it refuses the commits that were in flight, and joins
/// again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_units_are_stored_once_when_a_node_stalls() {
    let (database, load) = (database().await, Load::new(true));
    let clients = start(&load, clients_of(&database, 0..3));
    load.progress(SOME).await;
    let frozen = database.cluster.freeze(1);
    sleep(STALL).await;
    drop(frozen);
    load.progress(2 * SOME).await;
    audited(database, &load, clients).await;
}

/// With two of three nodes stopped, the third one is no longer a member of a cluster that may commit, and
/// refuses statements (1047).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_units_are_stored_once_when_the_quorum_is_lost_for_a_while() {
    let (database, load) = (database().await, Load::new(true));
    let clients = start(&load, clients_of(&database, 0..3));
    load.progress(SOME).await;
    let frozen = [0, 1].map(|node| database.cluster.freeze(node));
    crate::quorum::refuses_statements(&database.urls[2]).await;
    drop(frozen);
    load.progress(2 * SOME).await;
    audited(database, &load, clients).await;
}

/// A database with an empty ledger.
pub(crate) async fn database() -> Database {
    let database = Database::with(&ledger::TABLES).await;
    let accounts = AssertSqlSafe(ledger::accounts());
    database.pools[0].execute(accounts).await.expect("the accounts");
    Pessimistic::default().on(&database.pools[0]).create_operation_table().await.expect("a table");
    database.catch_up().await;
    database
}

/// Two clients of each strategy for each of these nodes, one of which resolves lost commits.
fn clients_of(database: &Database, nodes: std::ops::Range<usize>) -> Vec<Arc<dyn Transactor<MySql>>> {
    let options = [false, true].map(|resolve| ledger::options(DEADLINE, resolve));
    let pools = database.pools[nodes].iter();
    pools.flat_map(|pool| options.iter().flat_map(|options| ledger::every_strategy(pool, options))).collect()
}

/// Starts one client for each of the transactors.
pub(crate) fn start(load: &Arc<Load>, dbs: Vec<Arc<dyn Transactor<MySql>>>) -> JoinSet<()> {
    dbs.into_iter().map(|db| load.clone().client(db)).collect()
}

/// Ends the load, and compares what its clients were told with the ledger, which must be the same on all
/// nodes.
pub(crate) async fn audited(database: Database, load: &Load, clients: JoinSet<()>) -> Report {
    load.stop();
    clients.join_all().await;
    let (stored, wrong_balances) = database.audited(read).await;
    let report = load.report(&stored, wrong_balances);
    report.assert_right();
    report
}

async fn read(mut node: MySqlConnection) -> (BTreeMap<i64, i64>, i64) {
    let rows = sqlx::query_as(ledger::STORED).fetch_all(&mut node);
    let rows: Vec<(i64, i64)> = rows.await.expect("the ledger");
    let wrong = sqlx::query_scalar(ledger::WRONG_BALANCES).fetch_one(&mut node).await;
    (rows.into_iter().collect(), wrong.expect("the balances"))
}
