//! Clients that transfer money, and record the outcome of each transfer.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use atomically::{
    Attempt, Error, ErrorKind, Failure, Options, Pessimistic, Plan, PoolTransactor, Resolve, Strategy,
    TransactorExt as _, Tx, Verdict,
};
use sqlx::Pool;

use crate::support::TestBackend;

pub(crate) const ACCOUNTS: i64 = 10;

/// Longer than a restart takes on a busy machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// What a client does about a commit that got no response.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Client {
    /// Lets the crate determine the outcome.
    Resolving,
    /// Leaves the outcome unknown.
    Careful,
    /// Retries the whole transfer, as hand-written loops do.
    Naive,
}

/// Counts the attempts of one run, and the attempts that failed for any reason but a lost response to the
/// commit: for lost responses the strategy is not consulted.
#[derive(Debug, Clone, Default)]
struct Counting {
    attempts: Arc<AtomicU32>,
    failures: Arc<AtomicU32>,
}

impl Strategy for Counting {
    fn plan(&self, attempt: &Attempt) -> Plan {
        self.attempts.store(attempt.number, SeqCst);
        Pessimistic::default().plan(attempt)
    }

    fn verdict(&self, failure: &Failure) -> Verdict {
        self.failures.fetch_add(1, SeqCst);
        Pessimistic::default().verdict(failure)
    }
}

/// The outcome of a transfer, as its client sees it.
#[derive(Debug)]
pub(crate) struct TransferOutcome {
    /// `Ok` holds the number of the attempt that was stored.
    pub(crate) outcome: Result<u32, ErrorKind>,
    pub(crate) attempts: u32,
    pub(crate) failures: u32,
    pub(crate) took: Duration,
}

pub(crate) struct Load<DB: TestBackend> {
    pool: Pool<DB>,
    client: Client,
    next: AtomicI64,
    in_flight: AtomicU32,
    stopped: AtomicBool,
    outcomes: Mutex<BTreeMap<i64, TransferOutcome>>,
}

impl<DB: TestBackend> Load<DB> {
    pub(crate) fn new(pool: Pool<DB>, client: Client) -> Self {
        let (next, in_flight, stopped) = Default::default();
        Self { pool, client, next, in_flight, stopped, outcomes: Mutex::default() }
    }

    async fn transfer(&self, k: i64) -> TransferOutcome {
        let (counting, start) = (Counting::default(), Instant::now());
        let options = Options::new().deadline(DEADLINE).attempts(u32::MAX);
        let options = if self.client == Client::Resolving {
            options.resolve_commits(Resolve::Operation)
        } else {
            options
        };
        let db = PoolTransactor::new(counting.clone(), &self.pool).options(options);
        let once = async || db.run(async |tx: &mut Tx<DB>| transfer(tx, k).await).await;
        let mut outcome = once().await;
        while self.client == Client::Naive && outcome.is_err() {
            outcome = once().await;
        }
        TransferOutcome {
            outcome: outcome.map_err(|error| error.kind()),
            attempts: counting.attempts.load(SeqCst),
            failures: counting.failures.load(SeqCst),
            took: start.elapsed(),
        }
    }

    /// Transfers until it is stopped.
    pub(crate) async fn run(&self) {
        while !self.stopped.load(SeqCst) {
            let k = self.next.fetch_add(1, SeqCst);
            self.in_flight.fetch_add(1, SeqCst);
            let seen = self.transfer(k).await;
            self.in_flight.fetch_sub(1, SeqCst);
            self.outcomes.lock().expect("the outcomes").insert(k, seen);
        }
    }

    pub(crate) fn stop(&self) {
        self.stopped.store(true, SeqCst);
    }

    /// How many transfers are in flight.
    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight.load(SeqCst)
    }

    /// The outcomes that the clients saw, by transfer.
    pub(crate) fn take_outcomes(&self) -> BTreeMap<i64, TransferOutcome> {
        std::mem::take(&mut *self.outcomes.lock().expect("the outcomes"))
    }

    pub(crate) fn done(&self) -> usize {
        self.outcomes.lock().expect("the outcomes").len()
    }
}

async fn transfer<DB: TestBackend>(tx: &mut Tx<DB>, k: i64) -> Result<u32, Error> {
    let (from, to) = (k % ACCOUNTS, (k * 3 + 1) % ACCOUNTS);
    DB::lock_accounts(tx, &[from, to]).await?;
    DB::execute(tx, DB::sql("UPDATE account SET balance = balance - 1 WHERE id = ?"), &[from]).await?;
    DB::execute(tx, DB::sql("UPDATE account SET balance = balance + 1 WHERE id = ?"), &[to]).await?;
    DB::execute(tx, DB::sql("INSERT INTO ledger VALUES (?)"), &[k]).await?;
    Ok(tx.attempt())
}
