//! Runs the contenders in turns.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use atomically::Pessimistic;
use rand::SeedableRng as _;
use rand::rngs::SmallRng;

use crate::contender::{
    Atomically, Coalesced, Contender, Diesel, Gated, Locking, SeaOrm, Sqlx, TwoTrips, pool,
};
use crate::database::Database;
use crate::pgbench::Pgbench;
use crate::turn::{Turn, turn};
use crate::workload::Workload;

pub(crate) const CONNECTIONS: u32 = 16;
const PGBENCH: &str = "pgbench";
const ATOMICALLY: &str = "atomically";

/// The result of one contender.
#[derive(Debug)]
pub(crate) struct Standing {
    pub(crate) name: &'static str,
    pub(crate) per_second: f64,
    /// The worst and the best turn.
    pub(crate) range: (f64, f64),
    /// The ratio of this contender to pgbench.
    pub(crate) of_pgbench: f64,
    /// The ratio of `atomically` to this contender.
    pub(crate) behind: f64,
}

/// The contenders.
pub(crate) struct Contest {
    pgbench: Pgbench,
    contenders: Vec<(&'static str, Arc<dyn Contender>)>,
}

impl Contest {
    pub(crate) async fn new(url: &str) -> Result<Self> {
        let tested = pool(url, CONNECTIONS, true).await?;
        let untested = pool(url, CONNECTIONS, false).await?;
        let ours = |pool, locking| Arc::new(Atomically::new(Pessimistic::default(), pool, locking));
        let contenders: Vec<(_, Arc<dyn Contender>)> = vec![
            (ATOMICALLY, ours(&tested, Locking::OneRead)),
            ("atomically, no acquire test", ours(&untested, Locking::OneRead)),
            ("atomically, two reads", ours(&tested, Locking::TwoReads)),
            ("atomically, lock_rows", ours(&tested, Locking::LockRows)),
            ("atomically, on_rows + at_commit", Arc::new(TwoTrips::new(&tested))),
            ("atomically, gated", Arc::new(Gated::new(&tested))),
            ("atomically, coalesced", Arc::new(Coalesced::new(&tested))),
            ("sqlx", Arc::new(Sqlx(tested))),
            ("sqlx, no acquire test", Arc::new(Sqlx(untested))),
            ("SeaORM", Arc::new(SeaOrm::new(url, CONNECTIONS, true).await?)),
            ("SeaORM, no acquire test", Arc::new(SeaOrm::new(url, CONNECTIONS, false).await?)),
            ("diesel-async", Arc::new(Diesel::new(url, CONNECTIONS, true).await?)),
            ("diesel-async, no acquire test", Arc::new(Diesel::new(url, CONNECTIONS, false).await?)),
        ];
        Ok(Self { pgbench: Pgbench::new(url, CONNECTIONS)?, contenders })
    }

    /// Runs round after round, each in another order; the first one only warms up caches.
    pub(crate) async fn of(
        &self,
        workload: Workload,
        rounds: usize,
        length: Duration,
        database: &Database,
    ) -> Result<Vec<Standing>> {
        let work = workload.next(&mut SmallRng::seed_from_u64(0));
        let ours = self.contenders.iter().filter(|(_, contender)| contender.offers(work));
        let entries: Vec<(&'static str, Option<&Arc<dyn Contender>>)> = std::iter::once((PGBENCH, None))
            .chain(ours.map(|(name, contender)| (*name, Some(contender))))
            .collect();
        let mut turns: Vec<Vec<f64>> = vec![Vec::with_capacity(rounds); entries.len()];
        for round in 0..=rounds {
            for i in 0..entries.len() {
                let i = (i + round) % entries.len();
                let turn = self.one(entries[i].1, workload, length, database).await?;
                if round > 0 {
                    turns[i].push(turn.per_second);
                }
            }
            eprint!("\r{}: round {round} of {rounds}", workload.title());
        }
        eprintln!();
        let of = |name| entries.iter().position(|entry| entry.0 == name).map_or(&[][..], |i| &turns[i][..]);
        let (pgbench, atomically) = (of(PGBENCH), of(ATOMICALLY));
        let standing = |(name, turns): (&'static str, &Vec<f64>)| Standing {
            name,
            per_second: median(turns.iter().copied()),
            range: turns
                .iter()
                .fold((f64::MAX, 0.0), |(worst, best), turn| (turn.min(worst), turn.max(best))),
            of_pgbench: ratio(turns, pgbench),
            behind: ratio(atomically, turns),
        };
        Ok(entries.iter().map(|entry| entry.0).zip(&turns).map(standing).collect())
    }

    /// Runs one turn, on a table without dead rows. Fails unless the changes of each account match the
    /// acknowledged transactions.
    async fn one(
        &self,
        contender: Option<&Arc<dyn Contender>>,
        workload: Workload,
        length: Duration,
        database: &Database,
    ) -> Result<Turn> {
        database.tidy().await?;
        let before = database.balances().await?;
        let turn = match contender {
            None => self.pgbench.turn(workload, length).await?,
            Some(contender) => turn(contender, workload, length).await?,
        };
        let after = database.balances().await?;
        if let Some(ledger) = &turn.ledger {
            ledger.check(&before, &after)?;
        }
        let taken = before.values().sum::<i64>() - after.values().sum::<i64>();
        let wanted = turn.transactions * workload.takes();
        ensure!(taken == wanted, "{wanted} were to be taken from the accounts, and {taken} were");
        Ok(turn)
    }
}

/// The median, over the rounds, of the ratio of two contenders in the same round, whose turns other load on
/// the machine affects alike.
pub(crate) fn ratio(one: &[f64], other: &[f64]) -> f64 {
    median(one.iter().zip(other).map(|(one, other)| one / other))
}

pub(crate) fn median(numbers: impl Iterator<Item = f64>) -> f64 {
    let mut numbers: Vec<f64> = numbers.collect();
    numbers.sort_by(f64::total_cmp);
    match numbers.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => numbers[n / 2],
        n => f64::midpoint(numbers[n / 2 - 1], numbers[n / 2]),
    }
}
