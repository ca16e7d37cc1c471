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
use crate::standing::{Panel, Standing, hold};
use crate::turn::{Turn, turn};
use crate::workload::Workload;

pub(crate) const CONNECTIONS: u32 = 16;
const PGBENCH: &str = "pgbench";
const ATOMICALLY: &str = "atomically";

/// How many turns each contender takes, and how long each of them is.
pub(crate) struct Turns {
    pub(crate) rounds: usize,
    pub(crate) length: Duration,
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
        rtt: u64,
        turns: &Turns,
        database: &Database,
    ) -> Result<Panel> {
        let mut panel = Panel { workload, rtt, standings: Vec::new() };
        let work = workload.next(&mut SmallRng::seed_from_u64(0));
        let ours = self.contenders.iter().filter(|(_, contender)| contender.offers(work));
        let entries: Vec<(&'static str, Option<&Arc<dyn Contender>>)> = std::iter::once((PGBENCH, None))
            .chain(ours.map(|(name, contender)| (*name, Some(contender))))
            .collect();
        let mut rates: Vec<Vec<f64>> = vec![Vec::with_capacity(turns.rounds); entries.len()];
        let mut p99s: Vec<Vec<f64>> = rates.clone();
        for round in 0..=turns.rounds {
            for i in 0..entries.len() {
                let i = (i + round) % entries.len();
                let turn = self.one(entries[i].1, workload, turns.length, database).await?;
                if round > 0 {
                    rates[i].push(turn.per_second);
                    p99s[i].extend(turn.p99);
                }
            }
            eprint!("\r{}: round {round} of {}", panel.title(), turns.rounds);
        }
        eprintln!();
        let of = |name| entries.iter().position(|entry| entry.0 == name).map_or(&[][..], |i| &rates[i][..]);
        let (pgbench, atomically) = (of(PGBENCH), of(ATOMICALLY));
        for (i, (name, contender)) in entries.iter().enumerate() {
            let per_second = median(rates[i].iter().copied());
            let is_serial = workload.is_serial() && contender.is_none_or(|one| one.commits_each());
            panel.standings.push(Standing {
                name: (*name).to_owned(),
                per_second,
                range: range(&rates[i]),
                p99: (!p99s[i].is_empty()).then(|| median(p99s[i].iter().copied())),
                holds: hold(per_second, panel.round_trip()).filter(|_| is_serial),
                of_pgbench: ratio(&rates[i], pgbench),
                behind: ratio(atomically, &rates[i]),
            });
        }
        Ok(panel)
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

/// The smallest number and the largest.
pub(crate) fn range(numbers: &[f64]) -> (f64, f64) {
    numbers.iter().fold((f64::MAX, 0.0), |(worst, best), number| (number.min(worst), number.max(best)))
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
