//! A connection of a certification, and whether its statement waits for another one.

use std::marker::PhantomData;
use std::pin::pin;
use std::time::Duration;

use futures_util::future::{Either, select};
use sqlx::{Connection as _, Pool};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::obstacle::CheckObstacle;
use super::watch::LockWatch;
use crate::backend::{Backend, CertifiedLevel, Value, WatchedQuery, failure_or_other};
use crate::failure::{Failure, FailureKind};

/// The limit of every wait for an answer.
pub(super) const ANSWER_LIMIT: Duration = Duration::from_secs(15);

/// How long a statement may take before the server is queried whether it waits for a lock.
const POLL_AFTER: Duration = Duration::from_millis(15);

/// A statement that takes longer waits for a lock, if the server does not report waits.
const PATIENCE: Duration = Duration::from_millis(800);

/// The same if it does: a wait is reported long before, and a statement may be slow on a busy server.
const PATIENCE_WITH_REPORTS: Duration = Duration::from_secs(5);

/// The answer to a statement, or to several in one text.
#[derive(Debug, Clone, Default)]
pub(super) struct LabAnswer {
    /// The first column of each row in which it is an integer.
    pub(super) integers: Vec<i64>,
    /// The first column of each row in which it is text.
    pub(super) texts: Vec<String>,
    pub(super) failure: Option<Failure>,
}

impl LabAnswer {
    /// The only integer.
    pub(super) fn integer(&self) -> Option<i64> {
        self.integers.first().copied()
    }

    /// The kind of the failure.
    pub(super) fn kind(&self) -> Option<FailureKind> {
        self.failure.as_ref().map(Failure::kind)
    }
}

enum LabRequest {
    /// One or more statements, as they are.
    Text(String),
    /// A statement that the driver keeps prepared, with its value.
    Prepared(String, i64),
}

/// A connection with a task of its own, so that a statement that waits for a lock blocks nothing else.
pub(super) struct LabSession<DB: Backend> {
    requests: mpsc::UnboundedSender<LabRequest>,
    answers: mpsc::UnboundedReceiver<LabAnswer>,
    /// The comment in each statement that names its check, for the server's log.
    tag: String,
    /// The server's id of the session, once it is known.
    id: Option<i64>,
    /// The statement that waits for a lock: its text, to send it again where the database refuses to wait.
    waiting: Option<String>,
    refused: bool,
    has_begun: bool,
    /// Whether the transaction has not read or locked anything yet.
    fresh: bool,
    database: PhantomData<fn() -> DB>,
}

impl<DB: Backend> LabSession<DB> {
    /// Connects like the pool. Returns the session, and its task, which ends when the session is dropped.
    pub(super) async fn connect(pool: &Pool<DB>, tag: &str) -> Result<(Self, JoinHandle<()>), CheckObstacle> {
        let options = pool.connect_options();
        let connecting = timeout(ANSWER_LIMIT, DB::Connection::connect_with(&options)).await;
        let connection = match connecting {
            Ok(connected) => connected.map_err(|error| failed_to_connect::<DB>(&error))?,
            Err(_) => return Err(CheckObstacle::no_answer("connect", ANSWER_LIMIT)),
        };
        let (requests, inbox) = mpsc::unbounded_channel();
        let (outbox, answers) = mpsc::unbounded_channel();
        let task = tokio::spawn(serve::<DB>(connection, inbox, outbox));
        let (tag, database) = (format!(" /* certify {tag} */"), PhantomData);
        let (id, waiting, refused, has_begun, fresh) = (None, None, false, false, true);
        let mut session = Self { requests, answers, tag, id, waiting, refused, has_begun, fresh, database };
        if let Some(setup) = DB::CERTIFICATION.session_setup {
            session.ask(setup).await?;
        }
        Ok((session, task))
    }

    fn send(&self, request: LabRequest) -> Result<(), CheckObstacle> {
        let closed = |_| CheckObstacle::Failed(String::from("the connection's task has ended"));
        self.requests.send(request).map_err(closed)
    }

    fn tagged(&self, sql: &str) -> String {
        format!("{sql}{}", self.tag)
    }

    /// Returns the answer, whether it is a failure or not.
    pub(super) async fn ask(&mut self, sql: &str) -> Result<LabAnswer, CheckObstacle> {
        let start = Instant::now();
        loop {
            self.send(LabRequest::Text(self.tagged(sql)))?;
            let answer = self.answer(sql).await?;
            // SQLite refuses to wait for the connections of an earlier check, which are about to close.
            let is_refused = answer.kind() == Some(FailureKind::Busy) && !self.has_begun;
            if is_refused && start.elapsed() < ANSWER_LIMIT {
                sleep(POLL_AFTER).await;
                continue;
            }
            self.after(sql);
            return Ok(answer);
        }
    }

    /// A statement has been answered.
    fn after(&mut self, sql: &str) {
        self.fresh = false;
        self.has_begun &= !["COMMIT", "ROLLBACK"].contains(&sql);
    }

    /// Runs a statement that must succeed.
    pub(super) async fn run(&mut self, sql: &str) -> Result<LabAnswer, CheckObstacle> {
        let answer = self.ask(sql).await?;
        succeeded::<DB>(sql, answer)
    }

    /// Returns the integers of a query that the driver keeps prepared.
    pub(super) async fn prepared(&mut self, sql: &str, value: i64) -> Result<LabAnswer, CheckObstacle> {
        self.send(LabRequest::Prepared(self.tagged(sql), value))?;
        self.answer(sql).await
    }

    async fn answer(&mut self, sql: &str) -> Result<LabAnswer, CheckObstacle> {
        match timeout(ANSWER_LIMIT, self.answers.recv()).await {
            Ok(Some(answer)) => Ok(answer),
            Ok(None) => Err(CheckObstacle::Failed(format!("{sql}: the connection's task has ended"))),
            Err(_) => Err(CheckObstacle::no_answer(sql, ANSWER_LIMIT)),
        }
    }

    /// Opens a transaction.
    pub(super) async fn begin(&mut self, level: &CertifiedLevel) -> Result<(), CheckObstacle> {
        let answer = self.run(level.opening).await?;
        self.begun(&answer);
        Ok(())
    }

    /// A transaction has been opened.
    pub(super) fn begun(&mut self, answer: &LabAnswer) {
        self.id = answer.integer();
        (self.has_begun, self.fresh) = (true, true);
    }

    /// The server's id of the session that runs the open transaction.
    pub(super) fn id(&self) -> Option<i64> {
        self.id
    }

    /// Sends a statement without waiting for its answer, which [`granted`](Self::granted) returns.
    pub(super) fn start(&mut self, sql: &str) -> Result<(), CheckObstacle> {
        self.send(LabRequest::Text(self.tagged(sql)))?;
        self.waiting = Some(sql.to_owned());
        Ok(())
    }

    /// Sends a statement, and returns its answer, or `None` if it waits for another session.
    pub(super) async fn attempt(
        &mut self,
        sql: &str,
        watch: &LockWatch<DB>,
    ) -> Result<Option<LabAnswer>, CheckObstacle> {
        self.start(sql)?;
        self.poll(watch, self.patience(watch, PATIENCE).await).await
    }

    /// Returns after how long a statement without an answer counts as one that waits: `otherwise`, unless the
    /// server reports waits.
    pub(super) async fn patience(&self, watch: &LockWatch<DB>, otherwise: Duration) -> Duration {
        match self.id {
            Some(id) if watch.reports(id).await => PATIENCE_WITH_REPORTS,
            _ => otherwise,
        }
    }

    /// Returns the answer to the statement that waits, or `None` if it still waits.
    pub(super) async fn poll(
        &mut self,
        watch: &LockWatch<DB>,
        patience: Duration,
    ) -> Result<Option<LabAnswer>, CheckObstacle> {
        let Some(sql) = self.waiting.clone() else { return Ok(None) };
        if std::mem::take(&mut self.refused) {
            self.send(LabRequest::Text(self.tagged(&sql)))?;
        }
        let start = Instant::now();
        let answer = loop {
            match timeout(POLL_AFTER, self.answers.recv()).await {
                Ok(Some(answer)) => break answer,
                Ok(None) => {
                    return Err(CheckObstacle::Failed(format!("{sql}: the connection's task has ended")));
                }
                Err(_) if start.elapsed() > patience => return Ok(None),
                Err(_) if self.is_reported(watch).await => return Ok(None),
                Err(_) => {}
            }
        };
        // SQLite refuses what it cannot do at once. A transaction that has read must then start again; any
        // other statement succeeds later.
        if answer.kind() == Some(FailureKind::Busy) && (self.fresh || !self.has_begun) {
            self.refused = true;
            return Ok(None);
        }
        self.waiting = None;
        self.after(&sql);
        Ok(Some(answer))
    }

    async fn is_reported(&self, watch: &LockWatch<DB>) -> bool {
        match self.id {
            Some(id) => watch.is_waiting(id).await,
            None => false,
        }
    }

    /// Returns the answer to the statement that waits, which nothing blocks any more.
    pub(super) async fn granted(&mut self, watch: &LockWatch<DB>) -> Result<LabAnswer, CheckObstacle> {
        let sql = self.waiting.clone().unwrap_or_default();
        let start = Instant::now();
        loop {
            if let Some(answer) = self.poll(watch, self.patience(watch, PATIENCE).await).await? {
                return Ok(answer);
            }
            if start.elapsed() > ANSWER_LIMIT || self.waiting.is_none() {
                return Err(CheckObstacle::no_answer(&sql, ANSWER_LIMIT));
            }
            sleep(POLL_AFTER).await;
        }
    }
}

/// Fails unless the statement succeeded.
pub(super) fn succeeded<DB: Backend>(sql: &str, answer: LabAnswer) -> Result<LabAnswer, CheckObstacle> {
    match &answer.failure {
        None => Ok(answer),
        Some(failure) => Err(CheckObstacle::of_failure(sql, failure, is_unknown::<DB>(failure))),
    }
}

/// Whether the server does not know what it was asked for.
pub(super) fn is_unknown<DB: Backend>(failure: &Failure) -> bool {
    failure.kind() == FailureKind::Unsupported || failure.code().is_some_and(DB::is_unknown_to_the_server)
}

fn failed_to_connect<DB: Backend>(error: &sqlx::Error) -> CheckObstacle {
    CheckObstacle::Failed(format!("could not connect: {}", failure_or_other::<DB>(error)))
}

async fn serve<DB: Backend>(
    mut connection: DB::Connection,
    mut inbox: mpsc::UnboundedReceiver<LabRequest>,
    outbox: mpsc::UnboundedSender<LabAnswer>,
) {
    while let Some(request) = inbox.recv().await {
        // A session that was dropped needs no answer: closing its connection ends its transaction.
        let (answer, dropped) = (pin!(perform::<DB>(&mut connection, request)), pin!(outbox.closed()));
        let Either::Left((answer, _)) = select(answer, dropped).await else { return };
        if outbox.send(answer).is_err() {
            return;
        }
    }
    let _ = timeout(ANSWER_LIMIT, connection.close()).await;
}

async fn perform<DB: Backend>(connection: &mut DB::Connection, request: LabRequest) -> LabAnswer {
    match request {
        LabRequest::Text(sql) => {
            let reply = DB::send_text(connection, sql).await;
            let failure = reply.error.map(|error| failure_or_other::<DB>(&error));
            LabAnswer { integers: reply.integers, texts: reply.texts, failure }
        }
        LabRequest::Prepared(sql, value) => {
            let query = WatchedQuery::<DB>::with_values(sql, [Value::Integer(value)]);
            let rows = match query {
                Ok(query) => DB::send_for_rows(connection, query.persistent_if(true)).await,
                Err(error) => Err(error),
            };
            let read = |rows: Vec<DB::Row>| {
                rows.iter().map(|row| DB::integer(row, 0)).collect::<Result<Vec<_>, _>>()
            };
            match rows.and_then(read) {
                Ok(integers) => {
                    LabAnswer { integers: integers.into_iter().flatten().collect(), ..LabAnswer::default() }
                }
                Err(error) => {
                    LabAnswer { failure: Some(failure_or_other::<DB>(&error)), ..LabAnswer::default() }
                }
            }
        }
    }
}
