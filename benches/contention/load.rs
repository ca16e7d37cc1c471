//! Tasks that update rows, one of which is hot.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use atomically::{Error, Options, Transactor, TransactorExt as _, Tx};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::task::JoinSet;

use crate::support::TestBackend;

pub(crate) const TASKS: u64 = 64;
/// Row 1 is the hot one.
const ROWS: i64 = 1_000;
/// The cold rows, for the task that never touches the hot row.
const COLD: i64 = 100;

/// A contender: a way to run units.
pub(crate) struct Contender<DB: TestBackend> {
    pub(crate) name: &'static str,
    pub(crate) db: Arc<dyn Transactor<DB>>,
    /// Whether units name the row that they contend for.
    pub(crate) keyed: bool,
}

impl<DB: TestBackend> Clone for Contender<DB> {
    fn clone(&self) -> Self {
        Self { name: self.name, db: self.db.clone(), keyed: self.keyed }
    }
}

pub(crate) async fn table<DB: TestBackend>(pool: &sqlx::Pool<DB>) {
    let create =
        "CREATE TABLE counter (id BIGINT PRIMARY KEY, value BIGINT NOT NULL, version BIGINT NOT NULL)";
    DB::pool_execute(pool, DB::sql(create), &[]).await.expect("create a table");
    for id in 1..=ROWS + COLD {
        DB::pool_execute(pool, DB::sql("INSERT INTO counter VALUES (?, 0, 0)"), &[id]).await.expect("a row");
    }
}

/// Correct under every strategy.
async fn increment<DB: TestBackend>(tx: &mut Tx<DB>, id: i64) -> Result<(), Error> {
    let select = tx.for_update(DB::sql("SELECT value * 1000000 + version FROM counter WHERE id = ?"));
    let read = DB::fetch(tx, select, &[id]).await?;
    let (value, version) = (read / 1_000_000, read % 1_000_000);
    let update = DB::sql("UPDATE counter SET value = ?, version = ? WHERE id = ? AND version = ?");
    let done = DB::execute(tx, update, &[value + 1, (version + 1) % 1_000_000, id, version]).await?;
    tx.expect_one(done)
}

impl<DB: TestBackend> Contender<DB> {
    /// Returns the number of attempts.
    async fn once(&self, id: i64) -> Result<u64, Error> {
        let attempts = AtomicU64::new(0);
        let unit = async |tx: &mut Tx<DB>| {
            attempts.fetch_add(1, Relaxed);
            increment(tx, id).await
        };
        let options = if self.keyed { Options::new().on_key(("counter", id)) } else { Options::new() };
        self.db.with(options).run(unit).await?;
        Ok(attempts.load(Relaxed))
    }

    /// Draws a row: the hot one in `hot_percent` of 100 cases.
    fn row(chance: &mut StdRng, hot_percent: u32) -> i64 {
        if chance.random_range(0..100) < hot_percent { 1 } else { chance.random_range(2..=ROWS) }
    }

    /// Runs this many units, on `TASKS` tasks.
    pub(crate) async fn units(&self, units: u64, hot_percent: u32) {
        let left = Arc::new(AtomicU64::new(units));
        let mut tasks = JoinSet::new();
        for task in 0..TASKS {
            let (contender, left) = (self.clone(), left.clone());
            let mut chance = StdRng::seed_from_u64(task);
            tasks.spawn(async move {
                while left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok() {
                    contender.once(Self::row(&mut chance, hot_percent)).await.expect("a commit");
                }
            });
        }
        while let Some(task) = tasks.join_next().await {
            task.expect("a task");
        }
    }

    /// Runs units on `tasks` tasks for this time, while one more task updates cold rows if `cold` is set.
    pub(crate) async fn during(&self, time: Duration, tasks: u64, hot_percent: u32, cold: bool) -> Figures {
        let end = Instant::now() + time;
        let mut working = JoinSet::new();
        for task in 0..tasks {
            let contender = self.clone();
            let mut chance = StdRng::seed_from_u64(task);
            working.spawn(async move {
                let mut figures = Figures::default();
                while Instant::now() < end {
                    let started = Instant::now();
                    match contender.once(Self::row(&mut chance, hot_percent)).await {
                        Ok(attempts) => figures.attempts += attempts,
                        Err(error) => {
                            figures.attempts += u64::from(error.attempts().unwrap_or(0));
                            figures.errors += 1;
                        }
                    }
                    figures.latencies.push(started.elapsed());
                }
                figures
            });
        }
        let mut figures = Figures { time, ..Figures::default() };
        if cold {
            let stranger = Self { keyed: false, ..self.clone() };
            let mut chance = StdRng::seed_from_u64(0);
            while Instant::now() < end {
                tokio::time::sleep(Duration::from_millis(2)).await;
                let started = Instant::now();
                stranger.once(ROWS + chance.random_range(1..=COLD)).await.expect("a commit");
                figures.cold.push(started.elapsed());
            }
        }
        while let Some(worked) = working.join_next().await {
            let worked = worked.expect("a task");
            figures.latencies.extend(worked.latencies);
            figures.attempts += worked.attempts;
            figures.errors += worked.errors;
        }
        figures.latencies.sort();
        figures.cold.sort();
        figures
    }
}

/// The work done in a period of time.
#[derive(Debug, Clone, Default)]
pub(crate) struct Figures {
    time: Duration,
    latencies: Vec<Duration>,
    cold: Vec<Duration>,
    attempts: u64,
    errors: u64,
}

impl Figures {
    pub(crate) fn per_second(&self) -> f64 {
        (self.latencies.len() as f64 - self.errors as f64) / self.time.as_secs_f64()
    }

    /// One for each run, successful or not.
    pub(crate) fn attempts(&self) -> f64 {
        self.attempts as f64 / self.latencies.len() as f64
    }

    pub(crate) fn errors(&self) -> u64 {
        self.errors
    }

    /// In milliseconds, like all percentiles.
    pub(crate) fn p50(&self) -> f64 {
        at(&self.latencies, 50)
    }

    pub(crate) fn p99(&self) -> f64 {
        at(&self.latencies, 99)
    }

    pub(crate) fn cold_p50(&self) -> f64 {
        at(&self.cold, 50)
    }
}

fn at(sorted: &[Duration], percent: usize) -> f64 {
    sorted.get(sorted.len() * percent / 100).map_or(f64::NAN, |time| time.as_secs_f64() * 1e3)
}
