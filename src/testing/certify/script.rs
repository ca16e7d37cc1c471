//! Runs an anomaly's script: the steps of two transactions, in the given order.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::lab::Lab;
use super::obstacle::CheckObstacle;
use super::session::{ANSWER_LIMIT, LabAnswer, LabSession, is_unknown, succeeded};
use crate::backend::{Backend, CertifiedLevel};
use crate::failure::Failure;

/// The first transaction of a script, and the second one.
pub(super) const T1: usize = 0;
pub(super) const T2: usize = 1;

/// How long a transaction that waited is given to notice that it can go on, each time another one has moved,
/// if the server does not report waits.
const GRACE: Duration = Duration::from_millis(40);

/// An anomaly, with steps that are ordered so that the results alone show whether it happened, whichever
/// transaction had to wait. After [Hermitage](https://github.com/ept/hermitage).
#[derive(Debug)]
pub(super) struct AnomalyScript {
    pub(super) id: &'static str,
    pub(super) promise: &'static str,
    /// Each step with its transaction, which begins with its first step; `{}` stands for the table. A SELECT
    /// returns `1000 * id + value` of its rows.
    pub(super) steps: &'static [(usize, &'static str)],
    /// Whether it happened, if both transactions have committed.
    pub(super) happened: fn(&ScriptResult) -> bool,
}

/// What both transactions have read, and what is stored at the end.
#[derive(Debug)]
pub(super) struct ScriptResult {
    pub(super) reads: [Vec<Vec<i64>>; 2],
    /// The failure of the first transaction that failed.
    pub(super) failure: Option<Failure>,
    /// Whether a transaction had to wait for the other one.
    pub(super) waited: bool,
}

struct ScriptPlayer<DB: Backend> {
    node: usize,
    session: LabSession<DB>,
    level: CertifiedLevel,
    begun: bool,
    to_do: VecDeque<String>,
    current: Option<String>,
    reads: Vec<Vec<i64>>,
    failure: Option<Failure>,
    waited: bool,
}

impl<DB: Backend> ScriptPlayer<DB> {
    fn add(&mut self, statement: String) {
        if !std::mem::replace(&mut self.begun, true) {
            self.to_do.push_back(self.level.opening.to_owned());
        }
        if self.failure.is_none() {
            self.to_do.push_back(statement);
        }
    }

    fn is_done(&self) -> bool {
        self.current.is_none() && self.to_do.is_empty()
    }

    /// Continues until no step is left or another transaction blocks this one. Returns whether it got on.
    async fn go_on(&mut self, lab: &Lab<DB>) -> Result<bool, CheckObstacle> {
        let (mut progress, watch) = (false, lab.watch_on(self.node));
        loop {
            let answer = if self.current.is_some() {
                let patience = self.session.patience(watch, GRACE).await;
                self.session.poll(watch, patience).await?
            } else {
                let Some(next) = self.to_do.pop_front() else { return Ok(progress) };
                self.current = Some(next.clone());
                self.session.attempt(&next, watch).await?
            };
            let Some(answer) = answer else {
                self.waited = true;
                return Ok(progress);
            };
            let statement = self.current.take().unwrap_or_default();
            self.learn(&statement, answer)?;
            progress = true;
        }
    }

    fn learn(&mut self, statement: &str, answer: LabAnswer) -> Result<(), CheckObstacle> {
        if statement == self.level.opening {
            let answer = succeeded::<DB>(statement, answer)?;
            self.session.begun(&answer);
            return Ok(());
        }
        match answer.failure {
            Some(failure) if statement == "ROLLBACK" && self.failure.is_some() => drop(failure),
            Some(failure) if failure.is_retryable() => {
                self.failure = Some(failure);
                self.to_do = VecDeque::from([String::from("ROLLBACK")]);
            }
            Some(failure) => {
                return Err(CheckObstacle::of_failure(statement, &failure, is_unknown::<DB>(&failure)));
            }
            None if statement.starts_with("SELECT") => self.reads.push(answer.integers),
            None => {}
        }
        Ok(())
    }
}

/// Runs the script at a level, on a new table, with the transactions on these nodes.
pub(super) async fn play<DB: Backend>(
    lab: &Lab<DB>,
    script: &AnomalyScript,
    level: &CertifiedLevel,
    nodes: [usize; 2],
) -> Result<ScriptResult, CheckObstacle> {
    let table = if nodes == [0, 0] { lab.table().await? } else { lab.shared_table().await? };
    let mut players = Vec::new();
    for node in nodes {
        players.push(ScriptPlayer {
            node,
            session: lab.session_on(node).await?,
            level: *level,
            begun: false,
            to_do: VecDeque::new(),
            current: None,
            reads: Vec::new(),
            failure: None,
            waited: false,
        });
    }
    for (player, statement) in script.steps {
        players[*player].add(statement.replace("{}", &table));
        while go_on(&mut players, lab).await? {}
    }
    let start = Instant::now();
    while !players.iter().all(ScriptPlayer::is_done) {
        if start.elapsed() > ANSWER_LIMIT {
            return Err(CheckObstacle::Failed(format!("a transaction still waited after {ANSWER_LIMIT:?}")));
        }
        go_on(&mut players, lab).await?;
    }
    let failure = players.iter().find_map(|player| player.failure.clone());
    let waited = players.iter().any(|player| player.waited);
    let mut reads = players.into_iter().map(|player| player.reads);
    let reads = [reads.next().unwrap_or_default(), reads.next().unwrap_or_default()];
    Ok(ScriptResult { reads, failure, waited })
}

/// Lets each transaction get on. Returns whether one did.
async fn go_on<DB: Backend>(players: &mut [ScriptPlayer<DB>], lab: &Lab<DB>) -> Result<bool, CheckObstacle> {
    let mut progress = false;
    for player in players {
        progress |= player.go_on(lab).await?;
    }
    Ok(progress)
}
