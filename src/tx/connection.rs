//! A pooled connection that is reused only after a clean, awaited end of its transaction.

use std::any::Any;
use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use scopeguard::ScopeGuard;
use sqlx::pool::PoolConnection;
use sqlx::{Connection as _, Pool};
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout};

use crate::backend::{Backend, BeforeLoneStatement, Closing, Engine, PreparedNames, Reply, failure_or_other};
use crate::boxed::boxed;
use crate::failure::FailureKind;
use crate::strategy::OwnLockLimit;
use crate::tx::identity;

mod abandoned;
mod engine_cache;
mod extra;
mod reuse;
mod server_cache;
mod pool_queue;
mod opening_count;
mod outage;

pub(crate) use engine_cache::EngineCache;
pub(crate) use opening_count::is_opening;
pub(crate) use outage::{RefusedConnection, refusal_since};
pub(crate) use reuse::ConnectionReuse;

/// How long an orderly close may take before the socket is simply closed.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

/// A connection for one transaction or one lone statement.
///
/// After a clean, awaited end the connection is [released](Self::release). If it is dropped without one, it
/// is closed as soon as the server has [finished](abandoned::close_when_done) with its last statement, and
/// the pool may open another connection at once, unless many connections are in that state already.
///
/// sqlx would send `ROLLBACK` and return such a connection to the pool. The `ROLLBACK` waits for the
/// statement that is in flight, and does not undo a BEGIN that was cut short (sqlx issue 4393).
pub(crate) struct PooledSession<DB: Backend> {
    open: GuardedConnection<DB>,
    /// Receives the connection after a clean end.
    reuse: ConnectionReuse<DB>,
}

/// A connection that is disposed of when it is dropped. Boxed, because it is moved several times.
type GuardedConnection<DB> = ScopeGuard<Box<OpenConnection<DB>>, fn(Box<OpenConnection<DB>>)>;

/// A connection that was acquired from the pool.
struct OpenConnection<DB: Backend> {
    connection: PoolConnection<DB>,
    pool: Pool<DB>,
    /// Spawns the task that releases or closes the connection, which may be dropped outside of the runtime.
    runtime: Handle,
    /// The SQL that makes the connection usable again if it must not be closed.
    reset: Cow<'static, str>,
    /// The time at which it was acquired from the pool.
    since: Instant,
    /// The number of runs that it has served since then.
    runs: u32,
    /// Whether the server has confirmed since then that the session is in autocommit mode.
    is_autocommit: bool,
    /// The session's own lock timeout, if it has reported that since then.
    own_lock: Option<OwnLockLimit>,
    /// The statements that it has prepared under names of this crate, if it has reported them since then.
    prepared: PreparedNames,
    /// The statement that restores the session's settings after a lone statement.
    restore: Option<&'static str>,
    /// Whether no statement is in flight, or one to which no response can be expected.
    is_settled: bool,
    /// Whether the server is sending rows, an unknown number of which are unread.
    is_streaming: Arc<AtomicBool>,
}

impl<DB: Backend> PooledSession<DB> {
    /// Acquires a connection, if possible without the pool's ping.
    ///
    /// Must be called inside of a Tokio runtime.
    pub(crate) async fn acquire(pool: &Pool<DB>, reuse: &ConnectionReuse<DB>) -> Result<Self, sqlx::Error> {
        if let Some(open) = reuse.take() {
            return Ok(Self::of(open, reuse));
        }
        // `try_acquire` skips the ping, but also the `before_acquire` callback, which the pool does not
        // reveal.
        let skips_ping = reuse.is_on() && pool.options().get_test_before_acquire();
        match skips_ping.then(|| pool.try_acquire()).flatten() {
            Some(connection) => Ok(Self::of(OpenConnection::new(connection, pool), reuse)),
            None => Self::wait(pool, reuse).await,
        }
    }

    /// Acquires a connection in autocommit mode for a statement that is its own transaction. Such a statement
    /// cannot be repeated on another connection, so the connection has just ended another run or passed the
    /// pool's ping.
    ///
    /// Must be called inside of a Tokio runtime.
    pub(crate) async fn acquire_for_lone_statement(
        pool: &Pool<DB>,
        reuse: &ConnectionReuse<DB>,
    ) -> Result<Self, sqlx::Error> {
        let mut session = match reuse.take() {
            Some(open) => Self::of(open, reuse),
            None => Self::wait(pool, reuse).await?,
        };
        if let Some(before) = DB::BEFORE_LONE_STATEMENT.filter(|_| !session.open.is_autocommit) {
            session.set_autocommit(&before).await?;
        }
        Ok(session)
    }

    /// Turns autocommit on. Another user of the pool may have turned it off, and then the statement would be
    /// reported as stored but never be committed.
    async fn set_autocommit(&mut self, before: &BeforeLoneStatement) -> Result<(), sqlx::Error> {
        let reply = DB::send_text(self.connection(), before.ask.to_owned()).await;
        if let Some(error) = reply.error {
            return Err(error);
        }
        if reply.integers.first() == Some(&1) {
            self.open.is_autocommit = true;
            return Ok(());
        }
        self.open.restore = Some(before.put_back);
        DB::send_text(self.connection(), before.set.to_owned()).await.error.map_or(Ok(()), Err)
    }

    /// Returns the engine of the server: from the cache, or by a query outside of any transaction.
    pub(super) async fn engine(&mut self) -> Result<Engine, sqlx::Error> {
        if let Some(embedded) = DB::EMBEDDED {
            return Ok(embedded);
        }
        let OpenConnection { connection, pool, .. } = &mut **self.open;
        engine_of(self.reuse.server().engines(pool), pool, connection).await
    }

    async fn wait(pool: &Pool<DB>, reuse: &ConnectionReuse<DB>) -> Result<Self, sqlx::Error> {
        // Boxed, because it would make the future of every run several times as large.
        Ok(Self::of(boxed(|| reuse.wait(pool)).await?, reuse))
    }

    fn of(open: Box<OpenConnection<DB>>, reuse: &ConnectionReuse<DB>) -> Self {
        Self { open: scopeguard::guard(open, abandon), reuse: reuse.clone() }
    }

    pub(crate) fn connection(&mut self) -> &mut DB::Connection {
        &mut self.open.connection
    }

    /// Sets the rollback that also restores the session's settings.
    pub(super) fn reset_with(&mut self, rollback: Cow<'static, str>) {
        self.open.reset = rollback;
    }

    /// Queries the settings that a transaction will change, if the session outlives a dropped run: they need
    /// to be restored even if the run is dropped before the opening has returned them.
    pub(super) async fn save_settings(&mut self, pool: &Pool<DB>, closing: &Closing) {
        if let Some(ask) = DB::settings_query(closing)
            && DB::lives_in_its_connection(&pool.connect_options())
        {
            let saved = DB::send_text(self.connection(), ask).await.integers;
            self.reset_with(DB::rollback(&Closing { saved, ..closing.clone() }));
        }
    }

    /// Caches the lock timeout that the session had before the transaction changed it.
    pub(super) fn cache_lock_timeout(&mut self, timeout: Option<Duration>) {
        self.reuse.server().set_lock_timeout(timeout);
        self.open.own_lock = Some(OwnLockLimit::Known(timeout));
    }

    /// Returns the lock timeout of the session itself: the one that it has reported, or else the last one
    /// that another session of the pool has reported.
    pub(super) fn own_lock_limit(&self) -> OwnLockLimit {
        let likely = || OwnLockLimit::Likely(self.reuse.server().lock_timeout());
        self.open.own_lock.unwrap_or_else(likely)
    }

    /// Returns the statements that the session has prepared under names of this crate.
    pub(super) fn prepared(&mut self) -> &mut PreparedNames {
        &mut self.open.prepared
    }

    /// Returns whether the session has to be asked for its prepared statements.
    pub(super) fn asks_for_prepared(&self) -> bool {
        !self.open.prepared.are_known() && self.reuse.server().keeps_prepared() == Some(true)
    }

    /// Lets the next transactions ask their sessions for prepared statements.
    pub(super) fn keep_prepared(&self) {
        self.reuse.server().keep_prepared();
    }

    /// Stops keeping statements prepared, because the session is not the one that has prepared them.
    pub(super) fn distrust_prepared(&mut self) {
        self.open.prepared = PreparedNames::default();
        self.reuse.server().distrust_prepared();
    }

    /// Returns the identity of the pool.
    pub(super) fn pool_identity(&self) -> usize {
        identity(&self.open.pool)
    }

    /// Returns the flag that a transaction sets while rows of a statement are unread.
    pub(super) fn streaming(&self) -> Arc<AtomicBool> {
        self.open.is_streaming.clone()
    }

    /// Discards what is known of the session's settings, because unwatched statements may have changed them.
    pub(super) fn forget_settings(&mut self) {
        self.open.is_autocommit = false;
        self.open.own_lock = None;
        self.open.prepared = PreparedNames::default();
    }

    /// Closes the connection at once, without waiting for the server.
    pub(crate) fn close(mut self) {
        self.open.is_settled = true;
    }

    /// Passes the connection to the next run, or returns it to the pool, after a clean end.
    pub(crate) fn release(self) {
        self.reuse.release(ScopeGuard::into_inner(self.open));
    }

    /// Restores the settings that a lone statement needed, and releases the connection.
    ///
    /// Cancellation: the connection is closed.
    pub(crate) async fn release_after_lone_statement(mut self) {
        self.open.own_lock = None;
        if let Some(restore) = self.open.restore.take() {
            let restored = DB::send_text(self.connection(), restore.to_owned());
            if !matches!(timeout(CLOSE_LIMIT, restored).await, Ok(Reply { error: None, .. })) {
                return;
            }
        }
        self.release();
    }
}

impl<DB: Backend> OpenConnection<DB> {
    fn new(connection: PoolConnection<DB>, pool: &Pool<DB>) -> Box<Self> {
        let (runtime, since) = (Handle::current(), Instant::now());
        Box::new(Self {
            connection,
            pool: pool.clone(),
            runtime,
            reset: ROLLBACK,
            since,
            runs: 0,
            is_autocommit: false,
            own_lock: None,
            prepared: PreparedNames::default(),
            restore: None,
            is_settled: false,
            is_streaming: Arc::default(),
        })
    }
}

const ROLLBACK: Cow<'static, str> = Cow::Borrowed("ROLLBACK");

/// Returns the engine of the server behind a connection, which is in no transaction: from the cache, or by a
/// query.
pub(crate) async fn engine_of<DB: Backend>(
    cache: &EngineCache,
    pool: &Pool<DB>,
    connection: &mut DB::Connection,
) -> Result<Engine, sqlx::Error> {
    let version = DB::version_at_connect(connection);
    if let Some(known) = cache.engine(version, DB::ENGINE_LIFETIME) {
        return Ok(known);
    }
    // Boxed, because this is rare and would enlarge the future of every run.
    let engine = Box::pin(query_engine(pool, connection)).await?;
    let options: Arc<dyn Any + Send + Sync> = pool.connect_options();
    cache.store(&options, version, engine);
    Ok(engine)
}

async fn query_engine<DB: Backend>(
    pool: &Pool<DB>,
    connection: &mut DB::Connection,
) -> Result<Engine, sqlx::Error> {
    let ask = &DB::ENGINE_QUERY;
    let mut answers = Vec::new();
    for sql in [ask.sql, ask.fallback] {
        match DB::fetch_text(connection, sql.to_owned()).await {
            Ok(found) => {
                answers = found;
                break;
            }
            Err(error) if is_refusal::<DB>(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok((ask.read)(&answers, &DB::address(&pool.connect_options())))
}

/// Whether the server does not understand a query.
fn is_refusal<DB: Backend>(error: &sqlx::Error) -> bool {
    let failure = failure_or_other::<DB>(error);
    matches!(error, sqlx::Error::Database(_))
        && matches!(failure.kind(), FailureKind::Other | FailureKind::Unsupported)
}

/// Disposes of a connection that had no clean end.
#[expect(clippy::boxed_local, reason = "sessions hold boxed connections")]
fn abandon<DB: Backend>(open: Box<OpenConnection<DB>>) {
    let OpenConnection { mut connection, pool, runtime, reset, is_settled, is_streaming, .. } = *open;
    let _entered = runtime.enter();
    if DB::lives_in_its_connection(&pool.connect_options()) {
        // Closing the connection would lose the database, and there is no network to wait for.
        runtime.spawn(async move {
            let _ = DB::send_text(&mut connection, reset.into_owned()).await;
        });
    } else if DB::SESSION_ID_QUERY.is_some() && is_streaming.load(Ordering::Acquire) {
        // A server that is sending rows notices a closed socket at once, and reading the rest may never end.
        drop(connection.detach());
    } else if DB::SESSION_ID_QUERY.is_some() && !is_settled {
        abandoned::close_when_done(connection, &pool, &runtime);
    } else {
        let connection = connection.detach();
        runtime.spawn(async move {
            let _ = timeout(CLOSE_LIMIT, connection.close()).await;
        });
    }
}
