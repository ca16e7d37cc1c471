//! A load whose outcomes can be audited: units that add to hot accounts and record themselves in a ledger.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use atomically::{
    Adaptive, Error, ErrorKind, Optimistic, Options, Pessimistic, Resolve, Serializable, Transactor,
    TransactorExt as _,
};
use sqlx::Pool;
use tokio::time::Instant;

use super::{TestBackend, as_written};

const ACCOUNTS: i64 = 24;
const BALANCE: i64 = 1_000;

/// The tables. The ledger is unique by attempt only, so that a unit that is stored twice is detected.
pub(crate) const TABLES: [&str; 2] = [
    "CREATE TABLE account (id BIGINT PRIMARY KEY, balance BIGINT NOT NULL, version BIGINT NOT NULL)",
    "CREATE TABLE ledger (id BIGINT NOT NULL, attempt BIGINT NOT NULL, account BIGINT NOT NULL,
         amount BIGINT NOT NULL, PRIMARY KEY (id, attempt))",
];

/// The statement that fills the accounts.
pub(crate) fn accounts() -> String {
    let rows: Vec<String> = (0..ACCOUNTS).map(|id| format!("({id}, {BALANCE}, 0)")).collect();
    format!("INSERT INTO account VALUES {}", rows.join(", "))
}

/// How often each unit is stored, by the query that the audit runs.
pub(crate) const STORED: &str = "SELECT id, COUNT(*) FROM ledger GROUP BY id";

/// The accounts whose balance is not the sum of their ledger rows.
pub(crate) const WRONG_BALANCES: &str = "SELECT COUNT(*) FROM account WHERE balance - 1000 <>
    (SELECT COALESCE(SUM(amount), 0) FROM ledger WHERE ledger.account = account.id)";

/// Transactors of every strategy on a pool.
pub(crate) fn every_strategy<DB: TestBackend>(
    pool: &Pool<DB>,
    options: &Options,
) -> Vec<Arc<dyn Transactor<DB>>> {
    vec![
        Arc::new(Pessimistic::default().on(pool).options(options.clone())),
        Arc::new(Optimistic::default().on(pool).options(options.clone())),
        Arc::new(Serializable::default().on(pool).options(options.clone())),
        Arc::new(Adaptive::default().on(pool).options(options.clone())),
    ]
}

/// Options that resolve lost commits, or do not.
pub(crate) fn options(deadline: Duration, resolve: bool) -> Options {
    let options = Options::new().deadline(deadline).attempts(100_000);
    if resolve { options.resolve_commits(Resolve::Operation) } else { options }
}

/// What the clients have done so far.
#[derive(Debug, Default)]
pub(crate) struct Load {
    /// Whether the driver keeps the statements prepared, which poolers may not support.
    prepares: bool,
    next: AtomicI64,
    /// All attempts, retries included.
    attempts: AtomicU64,
    acknowledged: AtomicU64,
    pub(crate) in_flight: AtomicU64,
    stopped: AtomicBool,
    outcomes: Mutex<Vec<(i64, Option<ErrorKind>)>>,
    errors: Mutex<BTreeMap<String, u64>>,
    last: Mutex<Option<Instant>>,
    longest_stall: Mutex<Duration>,
}

impl Load {
    pub(crate) fn new(prepares: bool) -> Arc<Self> {
        Arc::new(Self { prepares, ..Self::default() })
    }

    /// Runs units until the load is stopped.
    pub(crate) async fn client<DB: TestBackend>(self: Arc<Self>, db: Arc<dyn Transactor<DB>>) {
        while !self.stopped.load(SeqCst) {
            let id = self.next.fetch_add(1, SeqCst);
            self.in_flight.fetch_add(1, SeqCst);
            let outcome = self.add(&*db, id).await;
            self.in_flight.fetch_sub(1, SeqCst);
            if outcome.is_ok() {
                self.acknowledge();
            }
            let kind = outcome.map_err(|error| self.count(&error)).err();
            self.outcomes.lock().expect("the outcomes").push((id, kind));
        }
    }

    fn acknowledge(&self) {
        self.acknowledged.fetch_add(1, SeqCst);
        let mut last = self.last.lock().expect("the last acknowledgement");
        if let Some(last) = last.replace(Instant::now()) {
            let mut longest = self.longest_stall.lock().expect("the longest stall");
            *longest = longest.max(last.elapsed());
        }
    }

    fn count(&self, error: &Error) -> ErrorKind {
        let mut errors = self.errors.lock().expect("the errors");
        *errors.entry(error.to_string()).or_default() += 1;
        error.kind()
    }

    /// Waits until that many more units have been acknowledged.
    pub(crate) async fn progress(&self, units: u64) {
        const LIMIT: Duration = Duration::from_secs(60);
        let (start, wanted) = (Instant::now(), self.acknowledged.load(SeqCst) + units);
        while self.acknowledged.load(SeqCst) < wanted {
            let errors = self.errors.lock().expect("the errors").clone();
            assert!(start.elapsed() < LIMIT, "no {units} units were stored within {LIMIT:?}: {errors:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub(crate) fn stop(&self) {
        self.stopped.store(true, SeqCst);
    }

    async fn add<DB: TestBackend>(&self, db: &dyn Transactor<DB>, id: i64) -> Result<(), Error> {
        let (account, amount) = (rand::random_range(0..ACCOUNTS), rand::random_range(1..10_i64));
        db.on_key(account)
            .run(async |tx| {
                let attempt = self.attempts.fetch_add(1, SeqCst).cast_signed();
                let select = "SELECT balance * 1000000 + version FROM account WHERE id = ";
                let update = "UPDATE account SET version = version + 1, balance = ";
                let insert = "INSERT INTO ledger (id, attempt, account, amount) VALUES ";
                let read = if self.prepares {
                    let select = tx.for_update(DB::sql(&format!("{select} ?")));
                    DB::fetch(tx, select, &[account]).await?
                } else {
                    let select = tx.for_update(as_written(&format!("{select} {account}")));
                    DB::fetch_plain(tx, select).await?
                };
                let (balance, version) = (read / 1_000_000 + amount, read % 1_000_000);
                let updated = if self.prepares {
                    let update = DB::sql(&format!("{update} ? WHERE id = ? AND version = ?"));
                    DB::execute(tx, update, &[balance, account, version]).await?
                } else {
                    let rest = format!("{balance} WHERE id = {account} AND version = {version}");
                    DB::execute_plain(tx, as_written(&format!("{update} {rest}"))).await?
                };
                tx.expect_one(updated)?;
                if self.prepares {
                    let insert = DB::sql(&format!("{insert} (?, ?, ?, ?)"));
                    DB::execute(tx, insert, &[id, attempt, account, amount]).await?;
                } else {
                    let values = format!("({id}, {attempt}, {account}, {amount})");
                    DB::execute_plain(tx, as_written(&format!("{insert} {values}"))).await?;
                }
                Ok(())
            })
            .await
    }

    /// Compares what the clients were told with what is stored.
    pub(crate) fn report(&self, stored: &BTreeMap<i64, i64>, wrong_balances: i64) -> Report {
        let mut report = Report {
            attempts: self.attempts.load(SeqCst),
            wrong_balances,
            longest_stall: *self.longest_stall.lock().expect("the longest stall"),
            errors: self.errors.lock().expect("the errors").clone(),
            ..Report::default()
        };
        for (id, outcome) in &*self.outcomes.lock().expect("the outcomes") {
            report.count(*outcome, stored.get(id).copied().unwrap_or_default());
        }
        report
    }
}

/// What became of the units.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) acknowledged: u64,
    lost: u64,
    doubled: u64,
    pub(crate) refused: u64,
    refused_stored: u64,
    pub(crate) unknown: u64,
    unknown_stored: u64,
    wrong_balances: i64,
    attempts: u64,
    pub(crate) longest_stall: Duration,
    pub(crate) errors: BTreeMap<String, u64>,
}

impl Report {
    fn count(&mut self, outcome: Option<ErrorKind>, stored: i64) {
        let is_stored = u64::from(stored > 0);
        self.doubled += u64::from(stored > 1);
        match outcome {
            None => {
                self.acknowledged += 1;
                self.lost += 1 - is_stored;
            }
            Some(ErrorKind::CommitUnknown) => {
                self.unknown += 1;
                self.unknown_stored += is_stored;
            }
            Some(_) => {
                self.refused += 1;
                self.refused_stored += is_stored;
            }
        }
    }

    /// Asserts that acknowledged units are stored once, and that no unit with a definite error is.
    #[track_caller]
    pub(crate) fn assert_right(&self) {
        println!("{self}");
        assert!(self.acknowledged > 200, "too few units to tell: {self}");
        assert!(self.attempts > self.acknowledged + self.refused, "there was no conflict: {self}");
        let wrong = self.lost + self.doubled + self.refused_stored;
        assert!(wrong == 0 && self.wrong_balances == 0, "{self}");
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { acknowledged, lost, doubled, refused, refused_stored, longest_stall, .. } = self;
        let Self { unknown, unknown_stored, wrong_balances, attempts, errors, .. } = self;
        write!(
            f,
            "of {acknowledged} acknowledged units {lost} are lost; {doubled} units are stored twice; of \
             {refused} units that ended with a definite error {refused_stored} are stored; of {unknown} \
             unknown ones {unknown_stored} are; {wrong_balances} of {ACCOUNTS} balances are not the sum of \
             their ledger rows ({attempts} attempts, the longest stall was {longest_stall:.1?}; {errors:?})"
        )
    }
}
