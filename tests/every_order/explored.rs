//! A pair, explored.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use atomically::testing::explore;
use atomically::{Attempt, Plan};
use atomically::{Error, FailureKind, Isolation, PoolTransactor, Strategy, TransactorExt as _, Tx};
use sqlx::Pool;

use crate::Outcomes;
use crate::by_hand::Ran;
use crate::engine::Engine;
use crate::program::{Line, Pair, Program, Scope};

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

/// What one attempt has read, and whether any attempt met a deadlock.
#[derive(Debug, Default)]
struct Notes {
    seen: Vec<i64>,
    deadlock: bool,
}

async fn statement<E: Engine>(
    tx: &mut Tx<E>,
    line: Line,
    last: i64,
    notes: &Mutex<Notes>,
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
            notes.lock().expect("no panic").seen.extend(read);
            Ok(())
        }
        Err(error) => {
            let ended = Ended::from(error);
            notes.lock().expect("no panic").deadlock |= kind(&ended) == Some(FailureKind::Deadlock);
            Err(ended)
        }
    }
}

async fn run<E: Engine>(tx: &mut Tx<E>, program: &Program, notes: &Mutex<Notes>) -> Result<(), Ended> {
    notes.lock().expect("no panic").seen.clear();
    for &line in &program.lines {
        let last = notes.lock().expect("no panic").seen.last().copied().unwrap_or(0);
        let Some(scope) = line.scope else {
            statement(tx, line, last, notes).await?;
            continue;
        };
        let result = tx
            .savepoint(async |tx: &mut Tx<E>| {
                statement(tx, line, last, notes).await?;
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

fn told(result: &Result<(), Ended>, notes: &Notes) -> String {
    let end = match result {
        Ok(()) => "committed",
        Err(Ended::ByItself) => "rolled back",
        Err(Ended::Failed(error)) if error.is_exhausted() => return String::from("used up"),
        Err(ended) if kind(ended) == Some(FailureKind::Constraint) => return String::from("violation"),
        Err(ended) => panic!("{ended}"),
    };
    format!("{end} {:?}", notes.seen)
}

/// What can come of the pair, without what follows deadlocks. `None` if a schedule did not repeat itself
/// because the server chose another victim of a deadlock.
pub(crate) async fn outcomes<E: Engine>(pool: &Pool<E>, pair: &Pair) -> Option<Ran> {
    let notes: [Arc<Mutex<Notes>>; 2] = Default::default();
    let ends: Arc<Mutex<[Vec<String>; 2]>> = Arc::default();
    let outcomes: Arc<Mutex<Outcomes>> = Arc::default();
    let deadlocks = Arc::new(AtomicBool::new(false));
    let (reset, no_ends) = (notes.clone(), ends.clone());
    let db = PoolTransactor::new(Unguarded(Isolation::ReadCommitted), pool);
    let mut exploration = explore(pool).allow_deadlocks().max_schedules(100_000).set_up(move |pool| {
        for notes in &reset {
            *notes.lock().expect("no panic") = Notes::default();
        }
        *no_ends.lock().expect("no panic") = Default::default();
        async move { E::reset(&pool).await }
    });
    for (client, programs) in pair.0.iter().enumerate() {
        let (programs, own, ends) = (programs.clone(), notes[client].clone(), ends.clone());
        exploration = exploration.client(["a", "b"][client], &db, move |db| {
            let (programs, own, ends) = (programs.clone(), own.clone(), ends.clone());
            async move {
                for program in &programs {
                    let db = db.with(program.options());
                    let result = db.run(async |tx: &mut Tx<E>| run(tx, program, &own).await).await;
                    let told = told(&result, &own.lock().expect("no panic"));
                    ends.lock().expect("no panic")[client].push(told);
                }
                Ok::<_, Error>(())
            }
        });
    }
    let (found, met) = (outcomes.clone(), deadlocks.clone());
    let exploration = exploration.invariant("an outcome", move |pool| {
        let deadlock = notes.iter().any(|notes| notes.lock().expect("no panic").deadlock);
        met.fetch_or(deadlock, Ordering::Relaxed);
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
    Some(Ran { outcomes, orders: report.schedules })
}
