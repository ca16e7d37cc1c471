//! The callers, and what goes on beside them.

mod holders;
mod jobs;
mod lists;
mod purchases;
mod requests;
mod transfers;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use anyhow::{Context as _, Result};
use atomically::{Atomic, DeltaOutcome, Deltas, Error, PoolTransactor};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use sqlx::Pool;
use sqlx::pool::PoolOptions;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::Settings;
use crate::database::{COUNTERS, SoakDatabase};
use crate::ledger::{Answer, Kind, Ledger};
use holders::{Holders, HoldersReport};
use jobs::{Jobs, JobsReport};
use lists::Lists;
use purchases::Purchases;
use requests::Requests;
use transfers::Transfers;

/// No call may take longer: ten seconds for its deadline, and room for a busy machine.
const STUCK: Duration = Duration::from_secs(60);

/// The connections of all pools but that of the callers.
pub(crate) const OTHER_CONNECTIONS: u32 = jobs::CONNECTIONS + others();

const fn others() -> u32 {
    holders::CONNECTIONS + lists::CONNECTIONS + purchases::CONNECTIONS
}

/// What the callers share.
pub(crate) struct Shared<DB: SoakDatabase> {
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) stopped: AtomicBool,
    transfers: Transfers<DB>,
    statements: PoolTransactor<DB, Atomic>,
    additions: Deltas<DB, DB::Id>,
    requests: Requests<DB>,
    purchases: Purchases<DB>,
    jobs: Jobs<DB>,
}

/// The work of a run that is in progress.
pub(crate) struct Work<DB: SoakDatabase> {
    shared: Arc<Shared<DB>>,
    callers: JoinSet<u64>,
    holders: Holders,
    lists: Lists,
}

/// What the audit needs to know beside the ledger.
#[derive(Debug)]
pub(crate) struct WorkReport {
    /// Calls that did not end in time.
    pub(crate) stuck: u64,
    pub(crate) jobs: JobsReport,
    pub(crate) holders: HoldersReport,
    /// How long it took until no hold was left; `None` if some were.
    pub(crate) holds_rest: Option<Duration>,
    /// How many histories were checked, and what was wrong with them.
    pub(crate) histories: u64,
    pub(crate) anomalies: Vec<String>,
}

impl<DB: SoakDatabase> Work<DB> {
    pub(crate) async fn start(settings: &Settings, url: &str, ledger: &Arc<Ledger>) -> Result<Self> {
        let pool = |connections| PoolOptions::<DB>::new().max_connections(connections);
        let callers = pool(settings.connections).connect(url).await.context("the callers' connections")?;
        let workers = pool(jobs::CONNECTIONS).connect(url).await.context("the workers' connections")?;
        let others = pool(others()).connect(url).await?;
        let shared = Arc::new(Shared {
            ledger: ledger.clone(),
            stopped: AtomicBool::new(false),
            transfers: Transfers::on(&callers),
            statements: Atomic::default().on(&callers).reuse_connections(),
            additions: Deltas::on(&callers, "counter", "id", "value").reuse_connections(),
            purchases: Purchases::start(&callers, &others),
            requests: Requests::on(&callers),
            jobs: Jobs::start(&workers)?,
        });
        let mut tasks = JoinSet::new();
        for caller in 0..settings.callers {
            let (shared, random) = (shared.clone(), StdRng::seed_from_u64(settings.seed ^ (caller << 32)));
            tasks.spawn(async move { shared.call(random).await });
        }
        let holders = Holders::start(&others, ledger);
        let lists = Lists::start(&others, ledger, settings.seed);
        Ok(Self { shared, callers: tasks, holders, lists })
    }

    /// Stops the callers, and lets the workers finish what is enqueued.
    pub(crate) async fn stop(self) -> WorkReport {
        self.shared.stopped.store(true, SeqCst);
        let stuck = self.callers.join_all().await.into_iter().sum();
        let holders = self.holders.stop().await;
        let (histories, anomalies) = self.lists.stop().await;
        let holds_rest = self.shared.purchases.stop().await;
        let jobs = self.shared.jobs.stop().await;
        WorkReport { stuck, jobs, holders, holds_rest, histories, anomalies }
    }
}

impl<DB: SoakDatabase> Shared<DB> {
    /// Runs one operation after the other. Returns how many did not end in time.
    async fn call(&self, mut random: StdRng) -> u64 {
        let mut stuck = 0;
        while !self.stopped.load(SeqCst) {
            let (kind, op) = (next_kind(&mut random), self.ledger.begin());
            let patience = if random.random_bool(0.1) {
                Duration::from_millis(random.random_range(1..200))
            } else {
                STUCK
            };
            let answer = match timeout(patience, self.run(kind, op, &mut random)).await {
                Ok(answer) => answer,
                Err(_) => {
                    stuck += u64::from(patience == STUCK);
                    Answer::GaveUp
                }
            };
            self.ledger.record(kind, op, answer);
        }
        stuck
    }

    async fn run(&self, kind: Kind, op: i64, random: &mut StdRng) -> Answer {
        match kind {
            Kind::Transfer => self.note(self.transfers.run(op, &self.ledger, random).await),
            Kind::Statement => {
                let row = random.random_range(1..=COUNTERS);
                let update = DB::sql("UPDATE hot SET value = value + 1, op = ? WHERE id = ?");
                self.note(DB::apply(&self.statements, update, &[op, row]).await)
            }
            Kind::Addition => {
                let added = self.additions.add(random.random_range(1..=COUNTERS).into(), 1).await;
                debug_assert!(!matches!(added, Ok(DeltaOutcome::Refused { .. } | DeltaOutcome::NotFound)));
                self.note(added)
            }
            Kind::Request => self.note(self.requests.run(op).await),
            Kind::Job => self.note(self.jobs.enqueue(op, random).await),
            Kind::Purchase => match self.purchases.run(op, random).await {
                Ok(false) => Answer::Failed,
                bought => self.note(bought),
            },
        }
    }

    fn note<T>(&self, result: Result<T, Error>) -> Answer {
        if let Err(error) = &result {
            self.ledger.failed(error.kind());
        }
        Answer::of(&result)
    }
}

fn next_kind(random: &mut StdRng) -> Kind {
    match random.random_range(0..100) {
        0..40 => Kind::Transfer,
        40..60 => Kind::Statement,
        60..80 => Kind::Addition,
        80..87 => Kind::Request,
        87..94 => Kind::Job,
        _ => Kind::Purchase,
    }
}

/// Creates a pool's transactor that waits for the end of an outage.
fn patient<DB: SoakDatabase>(pool: &Pool<DB>) -> PoolTransactor<DB, atomically::Pessimistic> {
    atomically::Pessimistic::default().on(pool).attempts(1_000).deadline(Duration::from_secs(30))
}
