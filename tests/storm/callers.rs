//! Callers that give up soon, and a record of the outcomes that they saw.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use atomically::{
    Adaptive, Atomic, Error, ErrorKind, Optimistic, Pessimistic, PoolTransactor, Serializable, Transactor,
    TransactorExt as _, Tx,
};
use futures_util::TryStreamExt as _;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use sqlx::Pool;
use sqlx::pool::PoolOptions;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::clock::Clock;
use crate::server::StormServer;

pub(crate) const CALLERS: i64 = 64;
pub(crate) const ROWS: i64 = 8;
pub(crate) const CONNECTIONS: u32 = 16;

/// How long a caller waits, in milliseconds.
const PATIENCE: std::ops::RangeInclusive<u64> = 50..=200;

/// How a caller adds to a row.
enum Way<DB: StormServer> {
    Unit(Arc<dyn Transactor<DB>>),
    /// Through the gate, keyed by the number of the row.
    Keyed(Arc<dyn Transactor<DB>>),
    Applied(Box<PoolTransactor<DB, Atomic>>),
}

impl<DB: StormServer> Way<DB> {
    /// All strategies, and `apply` twice, because it has no transaction that could be rolled back.
    fn all(pool: &Pool<DB>) -> [Self; 8] {
        [
            Self::Unit(Arc::new(Pessimistic::default().on(pool))),
            Self::Applied(Box::new(Atomic::default().on(pool))),
            Self::Unit(Arc::new(Optimistic::default().on(pool))),
            Self::Unit(Arc::new(Serializable::default().on(pool))),
            Self::Unit(Arc::new(Pessimistic::default().on(pool).reuse_connections())),
            Self::Applied(Box::new(Atomic::default().on(pool).reuse_connections())),
            Self::Keyed(Arc::new(Adaptive::default().on(pool))),
            Self::Keyed(Arc::new(Pessimistic::default().on(pool))),
        ]
    }

    async fn add(&self, row: i64, op: i64) -> Result<(), Error> {
        match self {
            Self::Unit(db) => db.as_ref().run(async |tx: &mut Tx<DB>| add(tx, row, op).await).await,
            Self::Keyed(db) => {
                db.as_ref().on_key(row).run(async |tx: &mut Tx<DB>| add(tx, row, op).await).await
            }
            Self::Applied(db) => {
                let update = DB::sql("UPDATE hot SET value = value + 1, op = ? WHERE id = ?");
                DB::apply(db, update, &[op, row]).await.map(drop)
            }
        }
    }
}

/// Reads, adds, and writes if nothing has changed: correct under every strategy.
async fn add<DB: StormServer>(tx: &mut Tx<DB>, row: i64, op: i64) -> Result<(), Error> {
    let select = tx.for_update(DB::sql("SELECT value FROM hot WHERE id = ?"));
    let value = DB::fetch(tx, select, &[row]).await?;
    let update = DB::sql("UPDATE hot SET value = ?, op = ? WHERE id = ? AND value = ?");
    let done = DB::execute(tx, update, &[value + 1, op, row, value]).await?;
    tx.expect_one(done)
}

/// The outcomes that callers saw, by the number of the operation.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    pub(crate) committed: Vec<i64>,
    pub(crate) failed: BTreeMap<i64, ErrorKind>,
    pub(crate) unknown: Vec<i64>,
    pub(crate) gave_up: Vec<i64>,
}

impl Calls {
    fn add(&mut self, other: Self) {
        self.committed.extend(other.committed);
        self.failed.extend(other.failed);
        self.unknown.extend(other.unknown);
        self.gave_up.extend(other.gave_up);
    }
}

pub(crate) struct Callers<DB> {
    stopped: Arc<AtomicBool>,
    calling: JoinSet<Calls>,
    database: PhantomData<DB>,
}

impl<DB: StormServer> Callers<DB> {
    pub(crate) async fn start(url: &str, clock: &Arc<Clock>) -> Self {
        let pool = PoolOptions::<DB>::new().max_connections(CONNECTIONS).connect(url).await.expect("a pool");
        let ways = Arc::new(Way::all(&pool));
        let (stopped, mut calling) = (Arc::new(AtomicBool::new(false)), JoinSet::new());
        for caller in 0..CALLERS {
            let (ways, clock, stopped) = (ways.clone(), clock.clone(), stopped.clone());
            calling.spawn(async move {
                let way = &ways[caller as usize % ways.len()];
                call(way, caller, &clock, &stopped).await
            });
        }
        Self { stopped, calling, database: PhantomData }
    }

    pub(crate) async fn stop(self) -> Calls {
        self.stopped.store(true, SeqCst);
        let mut all = Calls::default();
        for calls in self.calling.join_all().await {
            all.add(calls);
        }
        all
    }
}

async fn call<DB: StormServer>(way: &Way<DB>, caller: i64, clock: &Clock, stopped: &AtomicBool) -> Calls {
    let mut chance = StdRng::seed_from_u64(caller.unsigned_abs());
    let mut calls = Calls::default();
    for n in 1.. {
        if stopped.load(SeqCst) {
            break;
        }
        let (row, op) = (chance.random_range(1..=ROWS), n * CALLERS + caller);
        let patience = Duration::from_millis(chance.random_range(PATIENCE));
        match timeout(patience, way.add(row, op)).await {
            Ok(Ok(())) => {
                clock.commit();
                calls.committed.push(op);
            }
            Ok(Err(error)) if error.is_commit_unknown() => calls.unknown.push(op),
            Ok(Err(error)) => drop(calls.failed.insert(op, error.kind())),
            Err(_) => calls.gave_up.push(op),
        }
    }
    calls
}

/// The contents of the database.
#[derive(Debug)]
pub(crate) struct Stored {
    /// The number of rows whose value differs from the number of their lines in the ledger.
    pub(crate) inexact: i64,
    /// The operations in the ledger, which has a unique key on them.
    pub(crate) ops: Vec<i64>,
}

pub(crate) async fn stored<DB: StormServer>(pool: &Pool<DB>) -> Stored {
    let inexact = "SELECT COUNT(*) FROM hot
                   WHERE value <> (SELECT COUNT(*) FROM ledger WHERE ledger.hot = hot.id)";
    let inexact = DB::pool_fetch(pool, DB::sql(inexact), &[]).await.expect("the balances");
    let ledger = Pessimistic::default().on(pool).deadline(Duration::from_secs(60));
    let ops = ledger.run(async |tx: &mut Tx<DB>| {
        let rows = DB::stream(tx, DB::sql("SELECT op FROM ledger ORDER BY op"));
        Ok::<Vec<i64>, Error>(rows.try_collect().await?)
    });
    Stored { inexact, ops: ops.await.expect("the ledger") }
}
