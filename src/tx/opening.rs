//! Opens a transaction.

use std::fmt::Write as _;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

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
    /// Whether the connection was already dead when the pool returned it, or lacked a prepared statement, so
    /// that another one may work.
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
        if let Some(marker) = self.marker {
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
        request: OpenRequest<'_, DB>,
        remaining: impl Fn() -> Limits,
    ) -> Result<Box<Self>, NotOpened> {
        // A plan or a limit that the database does not support fails before any wait.
        request.check(&remaining()).map_err(NotOpened::because)?;
        let requested = Instant::now();
        let run_clock = request.run_clock.clone();
        let acquiring = PooledSession::acquire(pool, reuse);
        let mut session = counted(run_clock.as_deref(), |times| &mut times.pool, pin!(acquiring))
            .await
            .map_err(|error| NotOpened::because(not_connected(pool, requested, &error)))?;
        request.connected.store(true, Ordering::Release);
        let engine = session.engine().await.map_err(|error| NotOpened::on_connection::<DB>(&error))?;
        let limits = engine.limits(Limits { own_lock: session.own_lock_limit(), ..remaining() });
        let mut text = match request.text(&engine, &limits) {
            Ok(text) => text,
            Err(failure) => {
                // Nothing was sent.
                session.release();
                return Err(NotOpened::because(failure));
            }
        };
        let (mut tx, connected) = (Self::on(session, engine, pool, &request, limits).await, Instant::now());
        let asks_for_prepared = tx.ask_for_prepared(request.rows.is_some(), &mut text);
        let folded = tx.fold_rows(request.rows, &mut text);
        let results = match &folded {
            Some(query) => BeginResults::RowsBefore(query.results_after()),
            None if request.returns_one_row() && !asks_for_prepared => BeginResults::OneRow,
            None => BeginResults::Any,
        };
        let (interception, connection) = (tx.interception.as_ref(), tx.session.connection());
        let begin = send_begin::<DB>(interception, connection, text, results, &tx.closing);
        let (mut reply, rows) = counted(run_clock.as_deref(), |times| &mut times.control, pin!(begin)).await;
        if asks_for_prepared {
            tx.learn_prepared(&mut reply);
        }
        if let (Some(run_clock), None) = (&run_clock, &reply.error) {
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
                Err(Box::pin(tx.not_opened(failure, DB::has_other_names(&error))).await)
            }
        }
    }

    /// Creates the transaction's value, before a transaction is opened on the connection.
    async fn on(
        mut session: PooledSession<DB>,
        engine: Engine,
        pool: &Pool<DB>,
        request: &OpenRequest<'_, DB>,
        limits: Limits,
    ) -> Box<Self> {
        let interceptors = request.interceptors.clone();
        let interception = if interceptors.is_empty() {
            None
        } else {
            let attempts = Attempts { number: request.attempt, max: request.max_attempts };
            // Boxed, because in place it would enlarge the future of every run.
            Some(Box::pin(Interception::new::<DB>(interceptors, attempts, session.connection())).await)
        };
        let closing = Closing::new(engine, request.plan, limits);
        // A session that outlives a dropped run needs its settings restored, even if the run is dropped
        // before the server has returned them.
        if let Some(ask) = DB::settings_query(&closing)
            && DB::lives_in_its_connection(&pool.connect_options())
        {
            let saved = DB::send_text(session.connection(), ask).await.integers;
            session.reset_with(DB::rollback(&Closing { saved, ..closing.clone() }));
        }
        let mut state = TxState::new(request.run_clock.clone());
        state.takes_one_at_a_time = engine.lacks(Capability::SeveralStatementsInOnePacket);
        state.ddl_escapes = engine.lacks(Capability::TransactionalDdl).then(|| engine.name());
        state.gives_way_to = request.gives_way_to.clone();
        state.is_streaming = session.streaming();
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

    /// `has_other_names` says that the session lacked a statement that it was expected to have prepared.
    async fn not_opened(mut self: Box<Self>, failure: Failure, has_other_names: bool) -> NotOpened {
        let failure = self.why_not_opened(failure).await;
        let failure = self.explain_kept(failure).await;
        let stale_connection = failure.kind() == FailureKind::ConnectionLost || has_other_names;
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

/// Sends the text that opens a transaction. If the previous user of the connection has left a transaction
/// open, rolls that back, because it can never be committed, and sends the text again.
async fn send_begin<DB: Backend>(
    interception: Option<&Interception>,
    connection: &mut DB::Connection,
    text: String,
    results: BeginResults,
    closing: &Closing,
) -> (Reply, Vec<DB::Row>) {
    let mut is_first = true;
    loop {
        let sent = match results {
            BeginResults::RowsBefore(after) => DB::send_text_for_rows(connection, text.clone(), after).await,
            BeginResults::OneRow if interception.is_none() && is_first => {
                (DB::send_opening(connection, text.clone()).await, Vec::new())
            }
            BeginResults::OneRow | BeginResults::Any => {
                (send::<DB>(interception, connection, StepKind::Begin, text.clone()).await, Vec::new())
            }
        };
        let refused = sent.0.error.as_ref().map(failure_or_other::<DB>);
        if !refused.is_some_and(|failure| DB::found_open_transaction(&failure)) || !is_first {
            return sent;
        }
        let rolled_back = DB::send_text(connection, DB::rollback(closing).into_owned()).await;
        if rolled_back.error.is_some() {
            return sent;
        }
        is_first = false;
    }
}
