//! How a transaction is opened.

use std::fmt::Write as _;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sqlx::Pool;
use tokio::time::Instant;

use super::no_connection::not_connected;
use super::state::TxState;
use super::{Attempts, ConnectionReuse, Hooks, Interception, PooledSession, RightOfWay, Tx, identity, send};
use crate::backend::{Backend, Closing, Reply, failure_or_other};
use crate::failure::{Failure, FailureKind};
use crate::intercept::{Interceptors, StepKind};
use crate::strategy::{CommitMarker, Limits, Plan};
use crate::telemetry::{RunClock, counted};

/// How a transaction is to be opened.
pub(crate) struct Opening<'a> {
    pub(crate) plan: Plan,
    pub(crate) attempt: u32,
    pub(crate) max_attempts: u32,
    pub(crate) marker: Option<CommitMarker>,
    /// Whether the transaction may idle in line before its unit begins.
    pub(crate) waits_at_gate: bool,
    /// Set as soon as there is a connection.
    pub(crate) connected: &'a AtomicBool,
    /// To whom the transaction gives way.
    pub(crate) gives_way_to: Option<RightOfWay>,
    pub(crate) interceptors: Interceptors,
    pub(crate) observation: Option<Arc<RunClock>>,
}

/// Why no transaction could be opened.
#[derive(Debug)]
pub(crate) struct NotOpened {
    pub(crate) failure: Failure,
    /// The connection came from the pool and turned out to be dead: another one may do.
    pub(crate) stale_connection: bool,
}

impl Opening<'_> {
    /// What to ask for the number of the session, where that is wanted.
    fn asks_session<DB: Backend>(&self) -> Option<&'static str> {
        let observation = self.observation.as_ref()?;
        DB::SESSION_ID_QUERY.filter(|_| observation.wants_sessions())
    }

    fn asks_idle_limit<DB: Backend>(&self) -> Option<&'static str> {
        DB::IDLE_LIMIT_QUERY.filter(|_| self.waits_at_gate)
    }

    fn text<DB: Backend>(&self, limits: &Limits) -> Result<String, Failure> {
        let mut text = DB::opening(&self.plan, limits)?;
        for question in [self.asks_session::<DB>(), self.asks_idle_limit::<DB>()].into_iter().flatten() {
            let _ = write!(text, "; {question}");
        }
        // Last: behind the first write, a statement would need a packet of its own on a Galera cluster.
        if let Some(marker) = self.marker {
            let _ = write!(text, "; {}", DB::marker(marker)?);
        }
        Ok(text)
    }
}

impl<DB: Backend> Tx<DB> {
    /// Takes a connection and opens a transaction on it, in one round trip.
    ///
    /// It comes in a box: it goes through a few hands, and each would take its room once more in the future
    /// of every run.
    ///
    /// Cancellation: the connection is closed, so that no half-open transaction gets back into the pool.
    pub(crate) async fn open(
        pool: &Pool<DB>,
        reuse: &ConnectionReuse<DB>,
        opening: Opening<'_>,
        remaining: impl Fn() -> Limits,
    ) -> Result<Box<Self>, NotOpened> {
        let remaining = || Limits { own_lock: reuse.own_lock_timeout(), ..remaining() };
        // What the database does not have is told before anything is waited for.
        let (mut limits, asked) = (remaining(), Instant::now());
        let mut text = opening.text::<DB>(&limits).map_err(NotOpened::because)?;
        let watched = opening.observation.clone();
        let acquiring = PooledSession::acquire(pool, reuse);
        let session = counted(watched.as_deref(), |times| &mut times.pool, pin!(acquiring))
            .await
            .map_err(|error| NotOpened::because(not_connected(pool, asked, &error)))?;
        opening.connected.store(true, Ordering::Release);
        // What is left of the time is less by what a wait for a connection took; servers count in
        // milliseconds.
        if asked.elapsed() >= Duration::from_millis(1) {
            limits = remaining();
            text = opening.text::<DB>(&limits).map_err(NotOpened::because)?;
        }
        let (mut tx, connected) = (Self::on(session, pool, &opening, limits).await?, Instant::now());
        let begin = Begin { session: &mut tx.session, by: tx.interception.as_ref() };
        let begin = begin.send(text, &tx.closing);
        let mut reply = counted(watched.as_deref(), |times| &mut times.control, pin!(begin)).await;
        if let (Some(observation), None) = (&watched, &reply.error) {
            let asked_for = opening.asks_session::<DB>().filter(|_| !reply.integers.is_empty());
            let session = asked_for.map(|_| (identity(pool), reply.integers.remove(0)));
            observation.opened(connected - asked, connected.elapsed(), session);
        }
        tx.closing.saved = std::mem::take(&mut reply.integers);
        if !tx.closing.saved.is_empty() {
            tx.session.reset_with(DB::rollback(&tx.closing));
        }
        if opening.asks_idle_limit::<DB>().is_some() {
            tx.limits_idling |= reply.texts.pop().is_some_and(|limit| limit != "0");
        }
        let error = match reply.error {
            None => tx.correct_lock_timeout(&reply.texts).await,
            failed => failed,
        };
        match error {
            None => Ok(tx),
            Some(error) => Err(tx.not_opened(&error).await),
        }
    }

    /// The connection, and what is known of it, before anything is opened on it.
    async fn on(
        mut session: PooledSession<DB>,
        pool: &Pool<DB>,
        opening: &Opening<'_>,
        limits: Limits,
    ) -> Result<Box<Self>, NotOpened> {
        let engine = session.engine().await.map_err(|error| NotOpened::on_connection::<DB>(&error))?;
        let interceptors = opening.interceptors.clone();
        let interception = if interceptors.is_empty() {
            None
        } else {
            let attempts = Attempts { number: opening.attempt, most: opening.max_attempts };
            Some(Interception::new::<DB>(interceptors, attempts, session.connection()).await)
        };
        let closing = Closing::new(engine, opening.plan, limits);
        // A session that outlives a dropped run has to get its settings back, also when the run is dropped
        // before the opening has answered what they were.
        if let Some(ask) = DB::settings_query(&closing)
            && DB::lives_in_its_connection(&pool.connect_options())
        {
            let saved = DB::send_text(session.connection(), ask).await.integers;
            session.reset_with(DB::rollback(&Closing { saved, ..closing.clone() }));
        }
        let mut state = TxState::new(opening.observation.clone());
        state.takes_one_at_a_time = engine.is_galera;
        state.gives_way_to = opening.gives_way_to.clone();
        state.is_streaming = session.streaming();
        Ok(Box::new(Self {
            session,
            state,
            hooks: Hooks::default(),
            attempt: opening.attempt,
            opened: Instant::now(),
            depth: 0,
            closing,
            limits_idling: engine.limits_idling,
            latest: None,
            interception,
        }))
    }

    /// Gives the session its own limit for lock waits back, where the opening did not know of it.
    async fn correct_lock_timeout(&mut self, answers: &[String]) -> Option<sqlx::Error> {
        let own = DB::own_lock_timeout(&self.closing.limits, answers)?;
        let correction = own.correction?;
        self.session.learn_lock_timeout(own.limit);
        DB::send_text(self.session.connection(), correction).await.error
    }

    async fn not_opened(mut self: Box<Self>, error: &sqlx::Error) -> NotOpened {
        let failure = self.why_not_opened(failure_or_other::<DB>(error)).await;
        let stale_connection = failure.kind() == FailureKind::ConnectionLost;
        self.state.end(failure.clone());
        self.rollback().await;
        NotOpened { failure, stale_connection }
    }

    /// A server that takes no writes may refuse to open a transaction without saying why.
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

    /// A question of the crate's own was not answered, before anything was opened.
    fn on_connection<DB: Backend>(error: &sqlx::Error) -> Self {
        let failure = failure_or_other::<DB>(error);
        let stale_connection = failure.kind() == FailureKind::ConnectionLost;
        Self { failure, stale_connection }
    }
}

/// The round trip that opens a transaction.
struct Begin<'a, DB: Backend> {
    session: &'a mut PooledSession<DB>,
    by: Option<&'a Interception>,
}

impl<DB: Backend> Begin<'_, DB> {
    /// Sends the opening; a second time, where the pool's last user had left a transaction open, which
    /// nothing can commit any more.
    async fn send(self, opening: String, closing: &Closing) -> Reply {
        let connection = self.session.connection();
        let reply = send::<DB>(self.by, connection, StepKind::Begin, opening.clone()).await;
        let refused = reply.error.as_ref().map(failure_or_other::<DB>);
        if !refused.is_some_and(|failure| DB::found_open_transaction(&failure)) {
            return reply;
        }
        let rolled_back = DB::send_text(connection, DB::rollback(closing).into_owned()).await;
        if rolled_back.error.is_some() {
            return reply;
        }
        send::<DB>(self.by, connection, StepKind::Begin, opening).await
    }
}
