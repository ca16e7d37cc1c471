//! Leases and holds while the primary is replaced: one holder at each commit, and every seat accounted for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::SeqCst};
use std::time::Duration;

use atomically::holds::{Confirmation, HoldOutcome, Holds};
use atomically::lease::{Held, Lease};
use atomically::{Error, Options, Pessimistic, TransactorExt as _, Tx};
use rand::RngExt as _;
use sqlx::Postgres;
use sqlx::postgres::PgPool;
use tokio::time::sleep;

use crate::support::eventually;
use crate::{Cluster, DEADLINE, all, lazy_pool};

const CLIENTS: usize = 4;
const SEATS: i64 = 100_000;

const TABLES: [&str; 4] = [
    "CREATE TABLE fenced (id BIGINT PRIMARY KEY, token BIGINT NOT NULL, commits BIGINT NOT NULL)",
    "INSERT INTO fenced VALUES (1, 0, 0)",
    "CREATE TABLE event (id BIGINT PRIMARY KEY, seats BIGINT NOT NULL)",
    "CREATE TABLE ticket (hold BIGINT NOT NULL)",
];

#[derive(Debug, Default)]
struct Load {
    held: AtomicI64,
    stored: AtomicI64,
    unknown: AtomicI64,
    stale: AtomicI64,
    failed: AtomicI64,
    wrong: AtomicI64,
    stopped: AtomicBool,
}

impl Load {
    /// Counts how a commit ended.
    fn count(&self, error: &Error) {
        let counter = if error.is_commit_unknown() {
            &self.unknown
        } else if error.is_stale_claim() {
            &self.stale
        } else {
            &self.failed
        };
        counter.fetch_add(1, SeqCst);
    }
}

/// Runs the clients until some have committed, replaced the primary, and committed again.
async fn across_a_failover<F>(cluster: &mut Cluster, client: impl Fn(PgPool, Arc<Load>) -> F) -> Arc<Load>
where
    F: Future<Output = ()> + Send + 'static,
{
    let (load, pool) = (Arc::new(Load::default()), cluster.clients());
    let clients: Vec<_> = (0..CLIENTS).map(|_| client(pool.clone(), load.clone())).collect();
    let clients = tokio::spawn(all(clients));
    let more = async |commits: i64| {
        let wanted = load.stored.load(SeqCst) + commits;
        eventually(true, async || load.stored.load(SeqCst) >= wanted).await;
    };
    more(100).await;
    cluster.kill_primary();
    cluster.promote().await;
    cluster.lead_to_primary();
    more(100).await;
    load.stopped.store(true, SeqCst);
    clients.await.expect("no client dies");
    println!("{load:?}");
    load
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_has_one_holder_at_each_commit_across_a_failover() {
    let mut cluster = Cluster::with(&TABLES).await;
    let direct = lazy_pool(cluster.servers[0].url());
    lease(&direct).create_tables().await.expect("the tables");
    direct.close().await;
    let load = across_a_failover(&mut cluster, lead).await;
    assert_eq!(load.wrong.load(SeqCst), 0, "a later holder had committed before: {load:?}");
    let commits = cluster.number("SELECT commits FROM fenced").await;
    let stored = load.stored.load(SeqCst);
    assert!((stored..=stored + load.unknown.load(SeqCst)).contains(&commits), "{commits} stored: {load:?}");
    assert!(load.stale.load(SeqCst) > 0, "no zombie tried to commit: {load:?}");
}

fn lease(pool: &PgPool) -> Lease<Postgres> {
    Lease::new("report", pool).ttl(Duration::from_secs(2)).poll_every(Duration::from_millis(20))
}

async fn lead(pool: PgPool, load: Arc<Load>) {
    while !load.stopped.load(SeqCst) {
        let Ok(Some(held)) = lease(&pool).acquire(Duration::from_secs(1)).await else { continue };
        load.held.fetch_add(1, SeqCst);
        for _ in 0..5 {
            let _ = commit(&pool, &held, &load).await;
        }
        // As if the holder had been suspended until its lease expired.
        let expire = "UPDATE atomically_lease_expiry SET until = 1 WHERE token = $1";
        let expired = sqlx::query(expire).bind(held.token()).persistent(false).execute(&pool).await;
        if expired.is_ok() {
            for _ in 0..50 {
                if commit(&pool, &held, &load).await.is_err_and(|error| error.is_stale_claim()) {
                    break;
                }
                sleep(Duration::from_millis(5)).await;
            }
        }
    }
}

/// Commits under the lease, unless a later holder has committed.
async fn commit(pool: &PgPool, held: &Held<Postgres>, load: &Load) -> Result<(), Error> {
    let (token, db) = (held.token(), Pessimistic::default().on(pool).deadline(DEADLINE));
    let stored = db.run(async |tx: &mut Tx<Postgres>| {
        held.check_in(tx).await?;
        let update = "UPDATE fenced SET token = $1, commits = commits + 1 WHERE id = 1 AND token <= $1";
        let updated = sqlx::query(update).bind(token).persistent(false).execute(&mut *tx).await?;
        Ok::<_, Error>(updated.rows_affected())
    });
    match stored.await {
        Ok(1) => _ = load.stored.fetch_add(1, SeqCst),
        Ok(_) => _ = load.wrong.fetch_add(1, SeqCst),
        Err(error) => {
            load.count(&error);
            return Err(error);
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn seats_are_accounted_for_across_a_failover() {
    let mut cluster = Cluster::with(&TABLES).await;
    let direct = lazy_pool(cluster.servers[0].url());
    holds(&direct).create_tables().await.expect("the table of holds");
    let insert = sqlx::query("INSERT INTO event VALUES (1, $1)").bind(SEATS);
    insert.execute(&direct).await.expect("a row");
    direct.close().await;
    let load = across_a_failover(&mut cluster, trade).await;
    let total = "SELECT CAST((SELECT sum(seats) FROM event) + (SELECT count(*) FROM ticket) \
                 + (SELECT coalesce(sum(amount), 0) FROM atomically_hold WHERE confirmed_at IS NULL) \
                 AS BIGINT)";
    assert_eq!(cluster.number(total).await, SEATS, "{load:?}");
    let tickets = cluster.number("SELECT count(*) FROM ticket").await;
    let distinct = cluster.number("SELECT count(DISTINCT hold) FROM ticket").await;
    let in_time =
        cluster.number("SELECT count(*) FROM atomically_hold WHERE confirmed_at < expires_at").await;
    assert_eq!((distinct, in_time), (tickets, tickets), "{load:?}");
    let stored = load.stored.load(SeqCst);
    assert!((stored..=stored + load.unknown.load(SeqCst)).contains(&tickets), "{tickets} tickets: {load:?}");
}

fn holds(pool: &PgPool) -> Holds<Postgres, i64> {
    Holds::on(pool, "event", "id", "seats").persistent(false).options(Options::new().deadline(DEADLINE))
}

/// Holds seats, and buys some of them.
async fn trade(pool: PgPool, load: Arc<Load>) {
    let (holds, db) = (holds(&pool), Pessimistic::default().on(&pool).deadline(DEADLINE));
    while !load.stopped.load(SeqCst) {
        let ttl = Duration::from_millis(rand::rng().random_range(1..20_000));
        let hold = match holds.hold(1, 1, ttl).await {
            Ok(HoldOutcome::Held(hold)) => hold,
            Ok(other) => panic!("there are enough: {other:?}"),
            Err(_) => continue,
        };
        load.held.fetch_add(1, SeqCst);
        let bought = db.run(async |tx: &mut Tx<Postgres>| {
            let confirmation = hold.confirm_in(tx).await?;
            assert_eq!(confirmation, Confirmation::Confirmed);
            let insert = sqlx::query("INSERT INTO ticket VALUES ($1)").bind(hold.id());
            insert.persistent(false).execute(&mut *tx).await?;
            Ok::<_, Error>(())
        });
        match bought.await {
            Ok(()) => _ = load.stored.fetch_add(1, SeqCst),
            Err(error) => load.count(&error),
        }
    }
}
