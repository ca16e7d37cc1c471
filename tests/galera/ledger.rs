//! Units that add to hot accounts, under every strategy.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use atomically::{
    Adaptive, Error, Optimistic, Options, Pessimistic, PoolTransactor, Resolve, Serializable, Strategy,
    TransactorExt as _,
};
use sqlx::{MySql, MySqlConnection, Pool};
use tokio::time::{Instant, sleep};

use crate::{Database, all};

const ACCOUNTS: i64 = 24;
const LOAD: Duration = Duration::from_secs(8);
/// The deadline of one unit: longer than the cluster needs to evict a dead node.
const DEADLINE: Duration = Duration::from_secs(5);

const TABLES: [&str; 2] = [
    "CREATE TABLE account (id BIGINT PRIMARY KEY, balance BIGINT NOT NULL, version BIGINT NOT NULL)",
    // Not unique by the id of the unit, so that a unit that is stored twice is detected.
    "CREATE TABLE ledger (
         n BIGINT AUTO_INCREMENT PRIMARY KEY,
         id BIGINT NOT NULL, account BIGINT NOT NULL, amount BIGINT NOT NULL
     )",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_units_are_stored_once_on_every_node() {
    let database = database().await;
    let load = Arc::new(Load::default());
    let outcomes = all(clients(&database, &load)).await;
    check(database, &load, outcomes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_units_are_stored_once_when_a_node_is_killed() {
    let mut database = database().await;
    let load = Arc::new(Load::default());
    let outcomes = tokio::spawn(all(clients(&database, &load)));
    sleep(LOAD / 3).await;
    assert!(load.in_flight.load(SeqCst) > 0, "the node was killed when no unit was in flight");
    database.kill(2);
    let before = load.acknowledged.load(SeqCst);
    let outcomes = outcomes.await.expect("no client dies");
    let after = load.acknowledged.load(SeqCst) - before;
    assert!(after > 100, "only {after} units were stored after the kill");
    check(database, &load, outcomes).await;
}

async fn database() -> Database {
    let database = Database::with(&TABLES).await;
    for id in 0..ACCOUNTS {
        let account = sqlx::query("INSERT INTO account VALUES (?, 1000, 0)").bind(id);
        account.execute(&database.pools[0]).await.expect("an account");
    }
    Pessimistic::default().on(&database.pools[0]).create_operation_table().await.expect("a table");
    database.catch_up().await;
    database
}

#[derive(Default)]
struct Load {
    next: AtomicI64,
    /// All attempts, retries included.
    attempts: AtomicU64,
    in_flight: AtomicU64,
    acknowledged: AtomicU64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ClientOutcome {
    Acknowledged,
    /// Nothing was stored.
    Refused,
    Unknown,
}

type Units = Vec<(i64, ClientOutcome)>;

/// Clients of every node, four for each strategy in all; half of them resolve lost commits.
fn clients(
    database: &Database,
    load: &Arc<Load>,
) -> Vec<std::pin::Pin<Box<dyn Future<Output = Units> + Send>>> {
    let mut clients: Vec<std::pin::Pin<Box<dyn Future<Output = Units> + Send>>> = Vec::new();
    for pool in &database.pools {
        for resolve in [false, true] {
            clients.push(Box::pin(client(load.clone(), db(Pessimistic::default(), pool, resolve))));
            clients.push(Box::pin(client(load.clone(), db(Optimistic::default(), pool, resolve))));
            clients.push(Box::pin(client(load.clone(), db(Serializable::default(), pool, resolve))));
            clients.push(Box::pin(client(load.clone(), db(Adaptive::default(), pool, resolve))));
        }
    }
    clients
}

fn db<S: Strategy>(strategy: S, pool: &Pool<MySql>, resolve: bool) -> PoolTransactor<MySql, S> {
    let options = Options::new().deadline(DEADLINE).attempts(10_000);
    let options = if resolve { options.resolve_commits(Resolve::Operation) } else { options };
    PoolTransactor::new(strategy, pool).options(options)
}

async fn client<S: Strategy>(load: Arc<Load>, db: PoolTransactor<MySql, S>) -> Units {
    let (start, mut outcomes) = (Instant::now(), Vec::new());
    while start.elapsed() < LOAD {
        let id = load.next.fetch_add(1, SeqCst);
        load.in_flight.fetch_add(1, SeqCst);
        let outcome = match add(&load, &db, id).await {
            Ok(()) => ClientOutcome::Acknowledged,
            Err(error) if error.is_commit_unknown() => ClientOutcome::Unknown,
            Err(_) => ClientOutcome::Refused,
        };
        load.in_flight.fetch_sub(1, SeqCst);
        load.acknowledged.fetch_add(u64::from(outcome == ClientOutcome::Acknowledged), SeqCst);
        outcomes.push((id, outcome));
    }
    outcomes
}

async fn add<S: Strategy>(load: &Load, db: &PoolTransactor<MySql, S>, id: i64) -> Result<(), Error> {
    let (account, amount) = (rand::random_range(0..ACCOUNTS), rand::random_range(1..10_i64));
    let attempts = &load.attempts;
    db.on_key(account)
        .run(async |tx| {
            attempts.fetch_add(1, SeqCst);
            let select = tx.for_update("SELECT balance, version FROM account WHERE id = ?");
            let found: (i64, i64) = sqlx::query_as(select).bind(account).fetch_one(&mut *tx).await?;
            let (balance, version) = found;
            let update = "UPDATE account SET balance = ?, version = version + 1 WHERE id = ? AND version = ?";
            let update = sqlx::query(update).bind(balance + amount).bind(account).bind(version);
            let updated = update.execute(&mut *tx).await?;
            tx.expect_one(updated.rows_affected())?;
            let row = sqlx::query("INSERT INTO ledger (id, account, amount) VALUES (?, ?, ?)");
            row.bind(id).bind(account).bind(amount).execute(&mut *tx).await?;
            Ok(())
        })
        .await
}

/// The contents of a node: how often each unit is stored, the balances, and the sums of the ledger.
type Found = (BTreeMap<i64, i64>, Vec<(i64, i64)>);

async fn read(mut node: MySqlConnection) -> Found {
    let rows = sqlx::query_as("SELECT id, COUNT(*) FROM ledger GROUP BY id").fetch_all(&mut node);
    let rows: Vec<(i64, i64)> = rows.await.expect("the ledger");
    let balances = "SELECT balance, 1000 + CAST(COALESCE(SUM(amount), 0) AS SIGNED)
                    FROM account LEFT JOIN ledger ON account = account.id GROUP BY account.id, balance";
    let balances = sqlx::query_as(balances).fetch_all(&mut node).await.expect("the balances");
    (rows.into_iter().collect(), balances)
}

async fn check(database: Database, load: &Load, outcomes: Vec<Units>) {
    let (stored, balances) = database.audited(read).await;
    let mut report = Report { attempts: load.attempts.load(SeqCst), ..Report::default() };
    for (id, outcome) in outcomes.into_iter().flatten() {
        report.count(outcome, stored.get(&id).copied().unwrap_or_default());
    }
    report.wrong_balances = balances.iter().filter(|(balance, sum)| balance != sum).count();
    println!("{report}");
    assert!(report.acknowledged > 200, "too few units to tell: {report}");
    assert!(report.attempts > report.acknowledged + report.refused, "there was no conflict: {report}");
    let wrong = report.lost + report.doubled + report.refused_stored;
    assert!(wrong == 0 && report.wrong_balances == 0, "{report}");
}

#[derive(Default)]
struct Report {
    acknowledged: u64,
    lost: u64,
    doubled: u64,
    refused: u64,
    refused_stored: u64,
    unknown: u64,
    unknown_stored: u64,
    wrong_balances: usize,
    attempts: u64,
}

impl Report {
    fn count(&mut self, outcome: ClientOutcome, stored: i64) {
        let is_stored = u64::from(stored > 0);
        self.doubled += u64::from(stored > 1);
        match outcome {
            ClientOutcome::Acknowledged => {
                self.acknowledged += 1;
                self.lost += 1 - is_stored;
            }
            ClientOutcome::Refused => {
                self.refused += 1;
                self.refused_stored += is_stored;
            }
            ClientOutcome::Unknown => {
                self.unknown += 1;
                self.unknown_stored += is_stored;
            }
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { acknowledged, lost, doubled, refused, refused_stored, .. } = self;
        let Self { unknown, unknown_stored, wrong_balances, attempts, .. } = self;
        write!(
            f,
            "of {acknowledged} acknowledged units {lost} are lost; {doubled} units are stored twice; of \
             {refused} units that ended with a definite error {refused_stored} are stored; of {unknown} \
             unknown ones {unknown_stored} are; {wrong_balances} of {ACCOUNTS} balances are not the sum of \
             their ledger rows ({attempts} attempts)"
        )
    }
}
