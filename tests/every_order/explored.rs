//! A pair, explored.

use std::fmt;
use std::sync::{Arc, Mutex};

use atomically::testing::{Finding, Problem, explore};
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
    let result = if line.statement.reads() {
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

/// What can come of the pair, without what follows deadlocks, whose victim is the server's choice.
pub(crate) async fn outcomes<E: Engine>(pool: &Pool<E>, pair: &Pair) -> Ran {
    let notes: [Arc<Mutex<Notes>>; 2] = Default::default();
    let ends: Arc<Mutex<[String; 2]>> = Arc::default();
    let outcomes: Arc<Mutex<Outcomes>> = Arc::default();
    let dbs = pair.0.each_ref().map(|program| {
        let db = PoolTransactor::new(Unguarded(program.level.isolation), pool).attempts(program.attempts);
        db.options(program.level.options())
    });
    let reset = notes.clone();
    let mut exploration = explore(pool).allow_deadlocks().most_schedules(100_000).set_up(move |pool| {
        for notes in &reset {
            *notes.lock().expect("no panic") = Notes::default();
        }
        async move { E::reset(&pool).await }
    });
    for (client, db) in dbs.iter().enumerate() {
        let (program, own, ends) = (pair.0[client].clone(), notes[client].clone(), ends.clone());
        exploration = exploration.client(["a", "b"][client], db, move |db| {
            let (program, own, ends) = (program.clone(), own.clone(), ends.clone());
            async move {
                let result = db.run(async |tx: &mut Tx<E>| run(tx, &program, &own).await).await;
                ends.lock().expect("no panic")[client] = told(&result, &own.lock().expect("no panic"));
                Ok::<_, Error>(())
            }
        });
    }
    let found = outcomes.clone();
    let exploration = exploration.invariant("an outcome", move |pool| {
        let deadlock = notes.iter().any(|notes| notes.lock().expect("no panic").deadlock);
        let (ends, found) = (ends.lock().expect("no panic").clone(), found.clone());
        async move {
            let content = E::content(&pool).await;
            if !deadlock {
                found.lock().expect("no panic").insert(format!("{} | {} | {content}", ends[0], ends[1]));
            }
            Ok::<_, Error>(())
        }
    });
    let report = exploration.run().await.expect("explored");
    let is_chance = |problem: &Problem| matches!(problem, Problem::Diverged { .. });
    let is_chance = |finding: &Finding| finding.problems().iter().all(is_chance);
    assert!(report.complete || report.findings.iter().all(is_chance), "{pair}\n{report}");
    assert!(report.complete, "{pair}\n{report}");
    let outcomes = outcomes.lock().expect("no panic").clone();
    Ran { outcomes, orders: report.schedules }
}
