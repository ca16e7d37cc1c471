//! Units under every strategy, while the primary is replaced.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use atomically::{Pessimistic, Transactor};
use sqlx::postgres::PgPool;
use sqlx::{Executor as _, Postgres};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::support::eventually;
use crate::support::ledger::{self, Load, Report};
use crate::support::proxy::Proxy;
use crate::{Cluster, DEADLINE, lazy_pool, number};

/// How many units are acknowledged between two steps of a test.
pub(crate) const SOME: u64 = 300;

/// How long a stalled primary is given before a standby is promoted, as by the managers of clusters.
const EVICTION: Duration = Duration::from_secs(3);

/// A cluster with an empty ledger.
pub(crate) async fn cluster() -> Cluster {
    let mut tables = ledger::TABLES.to_vec();
    let accounts = ledger::accounts();
    tables.push(&accounts);
    let cluster = Cluster::with(&tables).await;
    let pool = lazy_pool(cluster.servers[0].url());
    Pessimistic::default().on(&pool).create_operation_table().await.expect("the table of operations");
    pool.close().await;
    cluster
}

/// Two clients of each strategy, one of which resolves lost commits.
fn start(load: &Arc<Load>, pool: &PgPool) -> JoinSet<()> {
    let options = [false, true].map(|resolve| ledger::options(DEADLINE, resolve));
    let dbs = options.iter().flat_map(|options| ledger::every_strategy(pool, options));
    dbs.map(|db| load.clone().client(db)).collect()
}

/// One client for each of the transactors.
pub(crate) fn start_on(load: &Arc<Load>, dbs: Vec<Arc<dyn Transactor<Postgres>>>) -> JoinSet<()> {
    dbs.into_iter().map(|db| load.clone().client(db)).collect()
}

/// Ends the load, and compares what its clients were told with the ledger of the primary.
pub(crate) async fn audited(cluster: &Cluster, load: &Load, clients: JoinSet<()>) -> Report {
    load.progress(SOME).await;
    load.stop();
    clients.join_all().await;
    let wrong_balances = cluster.number(ledger::WRONG_BALANCES).await;
    let report = load.report(&cluster.pairs(ledger::STORED).await, wrong_balances);
    report.assert_right();
    report
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_units_are_stored_once() {
    let cluster = cluster().await;
    let load = Load::new(false);
    let clients = start(&load, &cluster.clients());
    load.progress(4 * SOME).await;
    let report = audited(&cluster, &load, clients).await;
    assert_eq!((report.refused, report.unknown), (0, 0), "{report}");
}

/// The dead server returns as a standby of the new primary.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_units_survive_the_death_of_the_primary() {
    let mut cluster = cluster().await;
    let load = Load::new(false);
    let clients = start(&load, &cluster.clients());
    load.progress(SOME).await;
    assert!(load.in_flight.load(SeqCst) > 0, "the primary was killed when no unit was in flight");
    cluster.kill_primary();
    cluster.promote().await;
    cluster.lead_to_primary();
    load.progress(2 * SOME).await;
    cluster.replace(0);
    let mut returned = cluster.connect(0).await;
    assert_eq!(number(&mut returned, "SELECT CAST(pg_is_in_recovery() AS INT)::bigint").await, 1);
    let report = audited(&cluster, &load, clients).await;
    assert_eq!(report.refused, 0, "the units are retried until the new primary is there: {report}");
}

/// A primary that is stopped for longer than a cluster manager waits, and wakes up when another server has
/// taken its place: what it is still told to commit waits for standbys that follow the new primary.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_units_survive_a_stall_of_the_primary() {
    let mut cluster = cluster().await;
    let load = Load::new(false);
    let clients = start(&load, &cluster.clients());
    load.progress(SOME).await;
    let frozen = cluster.servers[0].freeze();
    sleep(EVICTION).await;
    cluster.promote().await;
    cluster.lead_to_primary();
    drop(frozen);
    load.progress(2 * SOME).await;
    audited(&cluster, &load, clients).await;
}

/// The connections of the clients stay open, and lead to the old primary, which only reads from then on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_leave_a_demoted_primary_that_still_answers() {
    let mut cluster = cluster().await;
    let relay = Proxy::to(cluster.servers[0].url()).await;
    let pool = lazy_pool(&relay.url(cluster.servers[0].url()));
    let load = Load::new(true);
    let clients = start(&load, &pool);
    load.progress(SOME).await;

    let mut old = cluster.connect(0).await;
    for sql in ["ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()"] {
        old.execute(sql).await.expect("a demotion");
    }
    // What began before may still write, and the standbys must not receive that after the promotion.
    let demoted = async || {
        let mut fresh = cluster.connect(0).await;
        number(&mut fresh, "SELECT CAST(current_setting('transaction_read_only') = 'on' AS INT)::bigint")
            .await
    };
    eventually(1, demoted).await;
    let now = "SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS BIGINT)";
    let now = number(&mut old, now).await;
    let writing = "SELECT count(*) FROM pg_stat_activity WHERE extract(epoch FROM xact_start) * 1000000 <= $1
        AND backend_type = 'client backend'";
    let writing = async || sqlx::query_scalar(writing).bind(now).fetch_one(&mut old).await.expect("a count");
    eventually(0_i64, writing).await;
    cluster.promote().await;
    // At first, new connections lead to a standby, which refuses SERIALIZABLE in another way.
    let standby = (1..3).find(|server| *server != cluster.primary).expect("a standby");
    relay.lead_to(cluster.servers[standby].url());
    let mut refused = cluster.connect(standby).await;
    let sessions = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'
        AND pid <> pg_backend_pid()";
    eventually(true, async || number(&mut refused, sessions).await > 0).await;
    relay.lead_to(cluster.servers[cluster.primary].url());
    load.progress(2 * SOME).await;
    assert_eq!(number(&mut old, "SELECT 1::bigint").await, 1, "the old primary still answers");
    let report = audited(&cluster, &load, clients).await;
    assert_eq!((report.refused, report.unknown), (0, 0), "{report}");
}
