//! Opens a transaction.

use std::fmt::Write as _;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sqlx::Pool;
use tokio::time::Instant;

use super::no_connection::not_connected;
use super::row_request::RowRequest;
use super::state::TxState;
use super::{Attempts, ConnectionReuse, Hooks, Interception, PooledSession, RightOfWay, Tx, identity, send};
use crate::backend::{Backend, Capability, Closing, Engine, Reply, failure_or_other};
use crate::failure::{Failure, FailureKind};
use crate::intercept::{Interceptors, StepKind};
use crate::isolation::Access;
use crate::local_settings::LocalSettings;
use crate::schema::Schema;
use crate::strategy::{CommitMarker, Limits, Plan};
use crate::telemetry::{RunClock, counted};

/// The parameters of a new transaction.
pub(crate) struct OpenRequest<'a, DB: Backend> {
    pub(crate) plan: Plan,
    /// The limits that the caller requests.
    pub(crate) limits: Limits,
    pub(crate) attempt: u32,
    pub(crate) max_attempts: u32,
    pub(crate) marker: Option<CommitMarker>,
    /// The names of the crate's tables.
    pub(crate) schema: Schema,
    /// The caller's settings for this transaction.
    pub(crate) local: Option<&'a LocalSettings>,
    /// Whether a read-only transaction is opened as a usual one if the engine has no others.
    pub(crate) may_open_read_write: bool,
    /// Whether the transaction may wait at the gate, open and idle, before its unit begins.
    pub(crate) waits_at_gate: bool,
    /// The rows that the unit names.
    pub(crate) rows: Option<&'a dyn RowRequest<DB>>,
    /// Set once a connection was acquired.
    pub(crate) connected: &'a AtomicBool,
    /// The runs of the same unit that take precedence.
    pub(crate) gives_way_to: Option<RightOfWay>,
    pub(crate) interceptors: Interceptors,
    pub(crate) run_clock: Option<Arc<RunClock>>,
}

/// Why a transaction could not be opened.
#[derive(Debug)]
pub(crate) struct NotOpened {
    pub(crate) failure: Failure,
    /// Whether the connection was already dead when the pool returned it, lacked a prepared statement, or was
    /// in a transaction, so that another one may work, or the same one now.
    pub(crate) stale_connection: bool,
}

impl<DB: Backend> OpenRequest<'_, DB> {
    /// Returns the query for the number of the server session, if an observer needs it.
    fn session_query(&self) -> Option<&'static str> {
        let run_clock = self.run_clock.as_ref()?;
        DB::SESSION_ID_QUERY.filter(|_| run_clock.wants_sessions())
    }

    fn idle_limit_query(&self) -> Option<&'static str> {
        DB::IDLE_LIMIT_QUERY.filter(|_| self.waits_at_gate)
    }

    /// Returns whether the text that opens the transaction returns at most one row: the session's own lock
    /// timeout.
    fn returns_one_row(&self) -> bool {
        let queries = self.session_query().or_else(|| self.idle_limit_query());
        queries.is_none() && self.marker.is_none()
    }

    async fn interception(&self, connection: &mut DB::Connection) -> Interception {
        let attempts = Attempts { number: self.attempt, max: self.max_attempts };
        Interception::new::<DB>(self.interceptors.clone(), attempts, connection).await
    }

    fn check(&self, limits: &Limits) -> Result<(), Failure> {
        DB::check(&self.plan, limits)?;
        self.local.map_or(Ok(()), |settings| DB::local_settings(settings).map(drop))?;
        self.marker.map_or(Ok(()), |marker| DB::marker(marker).map(drop))
    }

    /// Fails if the engine lacks what the transaction requests.
    fn text(&self, engine: &Engine, limits: &Limits) -> Result<String, Failure> {
        let mut plan = self.plan;
        if self.may_open_read_write && engine.lacks(Capability::ReadOnlyTransactions) {
            plan.access = Access::ReadWrite;
        }
        engine.check(&plan, limits, self.local, self.marker)?;
        let mut text = DB::opening(engine, &plan, limits);
        for query in [self.session_query(), self.idle_limit_query()].into_iter().flatten() {
            let _ = write!(text, "; {query}");
        }
        // Last, because a statement after the first write would need a packet of its own on a Galera
        // cluster.
        if let Some(mut marker) = self.marker {
            if engine.has(Capability::UniqueKeysFence) {
                marker = marker.without_attempt();
            }
            let _ = write!(text, "; {}", self.schema.in_sql(DB::marker(marker)?));
        }
        // The table of the markers is not the caller's, so the settings and the role come after it.
        if let Some(settings) = self.local {
            let _ = write!(text, "; {}", DB::local_settings(settings)?);
        }
        Ok(text)
    }
}

impl<DB: Backend> Tx<DB> {
    /// Acquires a connection and opens a transaction on it, in one round trip.
    ///
    /// Boxed, because the transaction is moved several times, and each move would add its size to the future
    /// of every run.
    ///
    /// Cancellation: the connection is closed, so that no half-open transaction returns to the pool.
    pub(crate) async fn open(
        pool: &Pool<DB>,
        reuse: &ConnectionReuse<DB>,
        request: &OpenRequest<'_, DB>,
        remaining: impl Fn() -> Duration,
    ) -> Result<Box<Self>, NotOpened> {
        let requested = Instant::now();
        let (tx, text) = Self::connect(pool, reuse, request, requested, remaining).await?;
        tx.begin(pool, request, text, requested).await
    }

    /// Acquires a connection. Returns the transaction that is to be opened on it, and the text that opens it.
    async fn connect(
        pool: &Pool<DB>,
        reuse: &ConnectionReuse<DB>,
        request: &OpenRequest<'_, DB>,
        requested: Instant,
        remaining: impl Fn() -> Duration,
    ) -> Result<(Box<Self>, String), NotOpened> {
        // A plan or a limit that the database does not support fails before any wait.
        request.check(&request.limits).map_err(NotOpened::because)?;
        let acquiring = PooledSession::acquire(pool, reuse);
        let mut session = counted(request.run_clock.as_deref(), |times| &mut times.pool, pin!(acquiring))
            .await
            .map_err(|error| NotOpened::because(not_connected(pool, requested, &error)))?;
        request.connected.store(true, Ordering::Release);
        let engine = session.engine().await.map_err(|error| NotOpened::on_connection::<DB>(&error))?;
        let (left, own_lock) = (Some(remaining()), session.own_lock_limit());
        let limits = engine.limits(Limits { left, own_lock, ..request.limits });
        let text = match request.text(&engine, &limits) {
            Ok(text) => text,
            Err(failure) => {
                // Nothing was sent.
                session.release();
                return Err(NotOpened::because(failure));
            }
        };
        let closing = Closing::new(engine, request.plan, limits);
        // Boxed, because both are rare and would enlarge the future of every run.
        if DB::EMBEDDED.is_some() {
            Box::pin(session.save_settings(pool, &closing)).await;
        }
        let interception = match request.interceptors.is_empty() {
            true => None,
            false => Some(Box::pin(request.interception(session.connection())).await),
        };
        Ok((Self::on(session, request, closing, interception), text))
    }

    /// Sends the text that opens the transaction.
    async fn begin(
        self: Box<Self>,
        pool: &Pool<DB>,
        request: &OpenRequest<'_, DB>,
        mut text: String,
        requested: Instant,
    ) -> Result<Box<Self>, NotOpened> {
        let (mut tx, run_clock) = (self, request.run_clock.as_deref());
        let connected = tx.opened;
        let asks_for_prepared = tx.ask_for_prepared(request.rows.is_some(), &mut text);
        let folded = tx.fold_rows(request.rows, &mut text);
        let results = match &folded {
            Some(query) => BeginResults::RowsBefore(query.results_after()),
            None if request.returns_one_row() && !asks_for_prepared => BeginResults::OneRow,
            None => BeginResults::Any,
        };
        let (interception, connection) = (tx.interception.as_ref(), tx.session.connection());
        let begin = send_begin::<DB>(interception, connection, text, results);
        let (mut reply, rows) = counted(run_clock, |times| &mut times.control, pin!(begin)).await;
        if asks_for_prepared {
            tx.learn_prepared(&mut reply);
        }
        if let (Some(run_clock), None) = (run_clock, &reply.error) {
            let query = request.session_query().filter(|_| !reply.integers.is_empty());
            let session = query.map(|_| (identity(pool), reply.integers.remove(0)));
            run_clock.opened(connected - requested, connected.elapsed(), session);
        }
        let refused =
            folded.and_then(|folded| tx.end_rows(*folded, request.rows, rows, &reply, connected.elapsed()));
        tx.closing.saved = std::mem::take(&mut reply.integers);
        if !tx.closing.saved.is_empty() {
            tx.session.reset_with(DB::rollback(&tx.closing));
        }
        if request.idle_limit_query().is_some() {
            tx.limits_idling |= reply.texts.pop().is_some_and(|limit| limit != "0");
        }
        let error = match reply.error {
            None => tx.correct_lock_timeout(&reply.texts).await,
            failed => failed,
        };
        match error {
            None => Ok(tx),
            // Boxed, because in place it would enlarge the future of every run.
            Some(error) => {
                let failure = refused.unwrap_or_else(|| failure_or_other::<DB>(&error));
                let repeats = DB::has_other_names(&error) || DB::found_open_transaction(&failure);
                Err(Box::pin(tx.not_opened(failure, repeats)).await)
            }
        }
    }

    /// Creates the transaction's value, before a transaction is opened on the connection.
    fn on(
        session: PooledSession<DB>,
        request: &OpenRequest<'_, DB>,
        closing: Closing,
        interception: Option<Interception>,
    ) -> Box<Self> {
        let engine = closing.engine;
        let mut state = TxState::new(request.run_clock.clone(), session.streaming());
        state.takes_one_at_a_time = engine.lacks(Capability::SeveralStatementsInOnePacket);
        state.ddl_escapes = engine.lacks(Capability::TransactionalDdl).then(|| engine.name());
        state.gives_way_to = request.gives_way_to.clone();
        Box::new(Self {
            session,
            state,
            hooks: Hooks::default(),
            attempt: request.attempt,
            opened: Instant::now(),
            depth: 0,
            schema: request.schema,
            closing,
            limits_idling: engine.limits_idling,
            kept: Vec::new(),
            opened_with: None,
            latest: None,
            found_attempt: None,
            fences_earlier: false,
            interception,
        })
    }

    /// Restores the session's own lock timeout if the opening has set a longer one because it was not
    /// known.
    async fn correct_lock_timeout(&mut self, answers: &[String]) -> Option<sqlx::Error> {
        let own = DB::own_lock_timeout(&self.closing.limits, answers)?;
        self.session.cache_lock_timeout(own.limit);
        let correction = own.correction?;
        DB::send_text(self.session.connection(), correction).await.error
    }

    /// `repeats` says that the session lacked a statement that it was expected to have prepared, or that its
    /// previous user has left a transaction open. The rollback ends that one, which can never be committed.
    async fn not_opened(mut self: Box<Self>, failure: Failure, repeats: bool) -> NotOpened {
        let failure = self.why_not_opened(failure).await;
        let failure = self.explain_kept(failure).await;
        let stale_connection = failure.kind() == FailureKind::ConnectionLost || repeats;
        self.state.end(failure.clone());
        self.rollback().await;
        NotOpened { failure, stale_connection }
    }

    /// Finds out whether the server refused to open the transaction because it is read-only, since its error
    /// need not say so.
    async fn why_not_opened(&mut self, failure: Failure) -> Failure {
        let Some(ask) = DB::read_only_query(&failure) else { return failure };
        let answer = DB::send_text(self.session.connection(), ask.to_owned()).await;
        if answer.integers.first() != Some(&1) {
            return failure;
        }
        let message = format!("the server is a standby, which takes no writes: {}", failure.message());
        let read_only = Failure::new(FailureKind::ReadOnly, message).retryable(true);
        read_only.with_code(failure.code().unwrap_or_default())
    }
}

impl NotOpened {
    const fn because(failure: Failure) -> Self {
        Self { failure, stale_connection: false }
    }

    /// Returns the failure of a query of this crate before the opening.
    fn on_connection<DB: Backend>(error: &sqlx::Error) -> Self {
        let failure = failure_or_other::<DB>(error);
        let stale_connection = failure.kind() == FailureKind::ConnectionLost;
        Self { failure, stale_connection }
    }
}

/// What the text that opens a transaction returns.
#[derive(Clone, Copy)]
enum BeginResults {
    /// At most one row.
    OneRow,
    /// Rows that are needed as they are, in the result that is followed by this number of others.
    RowsBefore(usize),
    /// Any number of rows.
    Any,
}

/// Sends the text that opens a transaction.
async fn send_begin<DB: Backend>(
    interception: Option<&Interception>,
    connection: &mut DB::Connection,
    text: String,
    results: BeginResults,
) -> (Reply, Vec<DB::Row>) {
    match results {
        BeginResults::RowsBefore(after) => DB::send_text_for_rows(connection, text, after).await,
        BeginResults::OneRow if interception.is_none() => {
            (DB::send_opening(connection, text).await, Vec::new())
        }
        BeginResults::OneRow | BeginResults::Any => {
            (send::<DB>(interception, connection, StepKind::Begin, text).await, Vec::new())
        }
    }
}
