//! Runs a pair in an exploration.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use atomically::testing::explore;
use atomically::{Attempt, Plan};
use atomically::{Error, FailureKind, Isolation, PoolTransactor, Strategy, TransactorExt as _, Tx};
use sqlx::Pool;

use crate::Outcomes;
use crate::brute_force::Orders;
use crate::engine::Engine;
use crate::program::{Line, Pair, Program, Scope};

/// A strategy without row locks or version checks.
#[derive(Debug)]
struct Unguarded(Isolation);

impl Strategy for Unguarded {
    fn plan(&self, _attempt: &Attempt) -> Plan {
        Plan::new(self.0)
    }
}

/// Why a program ended early.
#[derive(Debug)]
enum Ended {
    ByItself,
    Failed(Error),
}

impl From<Error> for Ended {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl From<sqlx::Error> for Ended {
    fn from(error: sqlx::Error) -> Self {
        Self::Failed(error.into())
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

fn kind(ended: &Ended) -> Option<FailureKind> {
    match ended {
        Ended::ByItself => None,
        Ended::Failed(error) => error.failure().map(|failure| failure.kind()),
    }
}

/// The observations of a client.
#[derive(Debug, Default)]
struct Observed {
    /// The values that the attempt has read.
    seen: Vec<i64>,
    /// Whether any statement ended with a deadlock.
    deadlock: bool,
}

async fn statement<E: Engine>(
    tx: &mut Tx<E>,
    line: Line,
    last: i64,
    observed: &Mutex<Observed>,
) -> Result<(), Ended> {
    let sql = E::sql(&line.statement.sql::<E>(last));
    let result = if line.statement.expects_one() {
        let done = E::execute(tx, sql, &[]).await?;
        return Ok(tx.expect_one(done)?);
    } else if line.statement.reads() {
        E::fetch(tx, sql, &[]).await.map(Some)
    } else {
        E::execute(tx, sql, &[]).await.map(|_| None)
    };
    match result {
        Ok(read) => {
            observed.lock().expect("no panic").seen.extend(read);
            Ok(())
        }
        Err(error) => {
            let ended = Ended::from(error);
            observed.lock().expect("no panic").deadlock |= kind(&ended) == Some(FailureKind::Deadlock);
            Err(ended)
        }
    }
}

async fn run<E: Engine>(tx: &mut Tx<E>, program: &Program, observed: &Mutex<Observed>) -> Result<(), Ended> {
    observed.lock().expect("no panic").seen.clear();
    for &line in &program.lines {
        let last = observed.lock().expect("no panic").seen.last().copied().unwrap_or(0);
        let Some(scope) = line.scope else {
            statement(tx, line, last, observed).await?;
            continue;
        };
        let result = tx
            .savepoint(async |tx: &mut Tx<E>| {
                statement(tx, line, last, observed).await?;
                if scope == Scope::Undone { Err(Ended::ByItself) } else { Ok(()) }
            })
            .await;
        match result {
            Err(ended) if !matches!(kind(&ended), None | Some(FailureKind::Constraint)) => return Err(ended),
            _ => {}
        }
    }
    if program.rolls_back { Err(Ended::ByItself) } else { Ok(()) }
}

fn describe(result: &Result<(), Ended>, observed: &Observed) -> String {
    let end = match result {
        Ok(()) => "committed",
        Err(Ended::ByItself) => "rolled back",
        Err(Ended::Failed(error)) if error.is_exhausted() => return String::from("exhausted"),
        Err(ended) if kind(ended) == Some(FailureKind::Constraint) => return String::from("violation"),
        Err(ended) => panic!("{ended}"),
    };
    format!("{end} {:?}", observed.seen)
}

/// The outcomes of all schedules of a pair, except for those with deadlocks. `None` if a schedule diverged
/// because the server chose another victim of a deadlock.
pub(crate) async fn outcomes<E: Engine>(
    pool: &Pool<E>,
    pair: &Pair,
    skips_equivalent: bool,
) -> Option<Orders> {
    let observed: [Arc<Mutex<Observed>>; 2] = Default::default();
    let ends: Arc<Mutex<[Vec<String>; 2]>> = Arc::default();
    let outcomes: Arc<Mutex<Outcomes>> = Arc::default();
    let deadlocks = Arc::new(AtomicBool::new(false));
    let (reset, no_ends) = (observed.clone(), ends.clone());
    let db = PoolTransactor::new(Unguarded(Isolation::ReadCommitted), pool);
    let mut exploration = explore(pool).allow_deadlocks().max_schedules(100_000).set_up(move |pool| {
        for observed in &reset {
            *observed.lock().expect("no panic") = Observed::default();
        }
        *no_ends.lock().expect("no panic") = Default::default();
        async move { E::reset(&pool).await }
    });
    if skips_equivalent {
        exploration = exploration.skip_equivalent();
    }
    for (client, programs) in pair.0.iter().enumerate() {
        let (programs, own, ends) = (programs.clone(), observed[client].clone(), ends.clone());
        exploration = exploration.client(["a", "b"][client], &db, move |db| {
            let (programs, own, ends) = (programs.clone(), own.clone(), ends.clone());
            async move {
                for program in &programs {
                    let db = db.with(program.options());
                    let result = db.run(async |tx: &mut Tx<E>| run(tx, program, &own).await).await;
                    let described = describe(&result, &own.lock().expect("no panic"));
                    ends.lock().expect("no panic")[client].push(described);
                }
                Ok::<_, Error>(())
            }
        });
    }
    let (found, had_deadlock) = (outcomes.clone(), deadlocks.clone());
    let exploration = exploration.invariant("records the outcome", move |pool| {
        let deadlock = observed.iter().any(|observed| observed.lock().expect("no panic").deadlock);
        had_deadlock.fetch_or(deadlock, Ordering::Relaxed);
        let (ends, found) = (ends.lock().expect("no panic").clone(), found.clone());
        async move {
            let content = E::content(&pool).await;
            if !deadlock {
                found.lock().expect("no panic").insert(format!("{:?} | {:?} | {content}", ends[0], ends[1]));
            }
            Ok::<_, Error>(())
        }
    });
    let report = exploration.run().await.expect("explored");
    if report.diverged > 0 && deadlocks.load(Ordering::Relaxed) {
        return None;
    }
    assert!(report.complete, "{pair}\n{report}");
    let outcomes = outcomes.lock().expect("no panic").clone();
    Some(Orders { outcomes, orders: report.schedules })
}
