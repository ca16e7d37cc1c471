//! Runs a script: the steps of several sessions, in the given order.

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

use atomically::FailureKind;
use sqlx::Pool;

use crate::engines::{Engine, Level, Reply, Rows};
use crate::session::{LIMIT, Session};
use crate::support::TestPool;

/// An anomaly: how to provoke it, and how to detect it.
pub(crate) struct Case {
    pub name: &'static str,
    /// The steps, each with its session. A transaction begins with the first step of its session. A step
    /// whose session waits is executed as soon as the session can continue.
    pub steps: &'static [(usize, &'static str)],
    /// Called only when every transaction has committed, because the reads of a failed transaction do not
    /// count.
    pub happened: fn(&Seen) -> bool,
}

/// The observations of a script.
pub(crate) struct Seen {
    /// The results of the `SELECT`s of each session, in order.
    pub by: Vec<Vec<Rows>>,
    /// The table after all sessions have finished.
    pub after: Rows,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The anomaly happened.
    Possible,
    /// It did not; all transactions committed, possibly after waiting.
    Prevented,
    /// It did not, because a transaction failed with a retryable error.
    Aborted,
}

/// In the notation of the guide.
impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Possible => "possible",
            Self::Prevented => "—",
            Self::Aborted => "fails",
        })
    }
}

/// A session with its part of the script.
struct Player {
    session: Session,
    begin: &'static str,
    begun: bool,
    /// Whether its transaction has not touched the database yet.
    fresh: bool,
    to_do: VecDeque<&'static str>,
    running: Option<&'static str>,
    failed: bool,
    readings: Vec<Rows>,
}

impl Player {
    fn new(session: Session, begin: &'static str) -> Self {
        let (to_do, readings) = (VecDeque::new(), Vec::new());
        Self { session, begin, begun: false, fresh: true, to_do, running: None, failed: false, readings }
    }

    fn take_on(&mut self, statement: &'static str) {
        if !std::mem::replace(&mut self.begun, true) {
            self.to_do.push_back(self.begin);
        }
        if !self.failed {
            self.to_do.push_back(statement);
        }
    }

    fn is_done(&self) -> bool {
        self.running.is_none() && self.to_do.is_empty()
    }

    /// Continues until no step is left or a lock blocks the session. Returns whether any statement completed.
    async fn go_on<E: Engine>(&mut self, pool: &Pool<E>) -> bool {
        let mut progress = false;
        loop {
            let statement = match self.running {
                Some(statement) => statement,
                None => {
                    let Some(next) = self.to_do.pop_front() else { return progress };
                    self.session.send(next);
                    *self.running.insert(next)
                }
            };
            let Some(reply) = self.session.reply(pool).await else { return progress };
            self.running = None;
            match reply {
                Ok(reply) => self.learn(statement, reply),
                Err(error) => match error.failure().map(|failure| failure.kind()) {
                    // With a busy timeout SQLite would wait, but only before the transaction has read
                    // anything. So this error is its way of being blocked, and the statement is sent again
                    // when other sessions have moved.
                    Some(FailureKind::Busy) if self.fresh => {
                        self.to_do.push_front(statement);
                        return progress;
                    }
                    Some(FailureKind::Busy | FailureKind::Deadlock | FailureKind::SerializationFailure) => {
                        self.failed = true;
                        self.to_do = VecDeque::from(["ROLLBACK"]);
                    }
                    _ => panic!("{statement}: {error:?}"),
                },
            }
            progress = true;
        }
    }

    fn learn(&mut self, statement: &'static str, reply: Reply) {
        // Any other statement takes a snapshot or a lock.
        self.fresh &= statement == "BEGIN";
        if statement.starts_with("SELECT") {
            self.readings.push(reply.rows);
        }
    }
}

/// Runs the case in the database of the pool, in a table of its own.
pub(crate) async fn run<E: Engine>(
    case: &Case,
    level: &Level,
    settings: &str,
    pool: &TestPool<E>,
) -> Outcome {
    let create = format!("CREATE TABLE test (id BIGINT PRIMARY KEY, value BIGINT) {}", level.storage);
    let setup = ["DROP TABLE IF EXISTS test", &create, "INSERT INTO test VALUES (1, 10), (2, 20)"];
    for statement in setup {
        E::pool_execute(pool, E::sql(statement), &[]).await.expect("the table");
    }
    let mut players = Vec::new();
    for _ in 0..=case.steps.iter().map(|(index, _)| *index).max().unwrap_or(0) {
        players.push(Player::new(Session::connect::<E>(&pool.url, settings).await, level.begin));
    }
    for (index, statement) in case.steps {
        players[*index].take_on(statement);
        go_on(&mut players, pool).await;
    }
    finish(&mut players, pool).await;
    if players.iter().any(|player| player.failed) {
        return Outcome::Aborted;
    }
    let mut observer = Session::connect::<E>(&pool.url, settings).await;
    observer.send("SELECT id, value FROM test");
    let after = observer.final_reply().await.expect("the table").rows;
    let seen = Seen { by: players.into_iter().map(|player| player.readings).collect(), after };
    if (case.happened)(&seen) { Outcome::Possible } else { Outcome::Prevented }
}

/// Runs until every session has finished its steps or waits for another one.
async fn go_on<E: Engine>(players: &mut [Player], pool: &Pool<E>) {
    let mut progress = true;
    while progress {
        progress = false;
        for player in &mut *players {
            progress |= player.go_on(pool).await;
        }
    }
}

/// Runs until all sessions have finished. The server breaks a cycle of transactions that wait for each other,
/// after its own timeout.
async fn finish<E: Engine>(players: &mut [Player], pool: &Pool<E>) {
    let start = Instant::now();
    while !players.iter().all(Player::is_done) {
        assert!(start.elapsed() < LIMIT, "the script is over, and after {LIMIT:?} a session still waits");
        tokio::time::sleep(Duration::from_millis(5)).await;
        go_on(players, pool).await;
    }
}
