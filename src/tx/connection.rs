//! A pooled connection that is only used again after a clean, awaited end.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use scopeguard::ScopeGuard;
use sqlx::pool::PoolConnection;
use sqlx::{Connection as _, Pool};
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout};

use crate::backend::{Backend, BeforeLoneStatement, Engine, Reply};

mod abandoned;
mod engine;
mod reuse;
mod known;
mod pool_queue;
mod outage;
mod places;

pub(crate) use outage::refusal_since;
pub(crate) use reuse::ConnectionReuse;

/// How long an orderly farewell to a server may take before the socket is simply closed.
const FAREWELL_LIMIT: Duration = Duration::from_secs(1);

/// The unit of trust: "this connection had a clean, awaited end". One that had none is closed when this is
/// dropped, as soon as the server is [done with it](abandoned::close_when_done). Its place in the pool is
/// free at once, unless many are in that state already.
///
/// sqlx itself returns such a connection to the pool after sending `ROLLBACK`, which waits for whatever the
/// connection is busy with, and does nothing for a BEGIN that was cut short (sqlx issue 4393).
pub(crate) struct PooledSession<DB: Backend> {
    held: ScopeGuard<OpenConnection<DB>, fn(OpenConnection<DB>)>,
    /// Where the connection goes after a clean end.
    reuse: ConnectionReuse<DB>,
}

/// A connection outside of the pool.
struct OpenConnection<DB: Backend> {
    connection: PoolConnection<DB>,
    pool: Pool<DB>,
    /// Giving a connection back or closing it spawns a task, and a drop may happen anywhere.
    runtime: Handle,
    /// What makes the connection usable again where it must not be closed.
    reset: Cow<'static, str>,
    /// When it left the pool.
    since: Instant,
    /// How many runs it has served since then.
    runs: u32,
    /// It has said, since it left the pool, that it commits each statement by itself.
    commits_each: bool,
    /// What its owner's settings are put back by, where a statement of its own needed others.
    put_back: Option<&'static str>,
    /// The server has answered everything, or cannot be expected to.
    is_settled: bool,
    /// The server is sending rows, and how many are left is not known.
    is_streaming: Arc<AtomicBool>,
}

impl<DB: Backend> PooledSession<DB> {
    /// Takes a connection, without the round trip that tests it where the pool would spend one.
    ///
    /// Must be called inside of a Tokio runtime.
    pub(crate) async fn acquire(pool: &Pool<DB>, reuse: &ConnectionReuse<DB>) -> Result<Self, sqlx::Error> {
        if let Some(held) = reuse.take() {
            return Ok(Self::of(held, reuse));
        }
        // `try_acquire` skips the test, but also the `before_acquire` callback, whose presence nobody can ask
        // for.
        let skips_the_test = reuse.is_on() && pool.options().get_test_before_acquire();
        match skips_the_test.then(|| pool.try_acquire()).flatten() {
            Some(connection) => Ok(Self::of(OpenConnection::new(connection, pool), reuse)),
            None => Self::wait(pool, reuse).await,
        }
    }

    /// Takes a connection for a statement that is its own transaction: one that has answered a moment ago, to
    /// a run that ended or to the pool's test, and that commits each statement by itself.
    ///
    /// Must be called inside of a Tokio runtime.
    pub(crate) async fn acquire_for_lone_statement(
        pool: &Pool<DB>,
        reuse: &ConnectionReuse<DB>,
    ) -> Result<Self, sqlx::Error> {
        let mut session = match reuse.take() {
            Some(held) => Self::of(held, reuse),
            None => Self::wait(pool, reuse).await?,
        };
        if let Some(before) = DB::BEFORE_LONE_STATEMENT.filter(|_| !session.held.commits_each) {
            session.commit_each_statement(&before).await?;
        }
        Ok(session)
    }

    /// Any user of the pool may have left the session otherwise, and a statement that nothing commits would
    /// be reported as stored.
    async fn commit_each_statement(&mut self, before: &BeforeLoneStatement) -> Result<(), sqlx::Error> {
        let reply = DB::send_text(self.connection(), before.ask.to_owned()).await;
        if let Some(error) = reply.error {
            return Err(error);
        }
        if reply.integers.first() == Some(&1) {
            self.held.commits_each = true;
            return Ok(());
        }
        self.held.put_back = Some(before.put_back);
        DB::send_text(self.connection(), before.set.to_owned()).await.error.map_or(Ok(()), Err)
    }

    /// The product that answers. It is asked once in a while, outside of any transaction.
    pub(super) async fn engine(&mut self) -> Result<Engine, sqlx::Error> {
        let Some(ask) = DB::ENGINE_QUERY else { return Ok(Engine::default()) };
        if let Some(known) = self.reuse.engine() {
            return Ok(known);
        }
        let answers = DB::fetch_text(self.connection(), ask.sql.to_owned()).await?;
        let engine = (ask.read)(&answers);
        self.reuse.learn(engine);
        Ok(engine)
    }

    async fn wait(pool: &Pool<DB>, reuse: &ConnectionReuse<DB>) -> Result<Self, sqlx::Error> {
        // In a box of its own: in place, it would make the future of every run several times as large.
        Ok(Self::of(Box::pin(reuse.wait(pool)).await?, reuse))
    }

    fn of(held: OpenConnection<DB>, reuse: &ConnectionReuse<DB>) -> Self {
        Self { held: scopeguard::guard(held, abandon), reuse: reuse.clone() }
    }

    pub(crate) fn connection(&mut self) -> &mut DB::Connection {
        &mut self.held.connection
    }

    /// What a rollback has to put back, besides.
    pub(super) fn reset_with(&mut self, rollback: Cow<'static, str>) {
        self.held.reset = rollback;
    }

    /// The session's own limit for lock waits was this one.
    pub(super) fn learn_lock_timeout(&self, own: Option<Duration>) {
        self.reuse.known().learn_lock_timeout(own);
    }

    /// What a transaction sets while it reads the rows of a statement.
    pub(super) fn streaming(&self) -> Arc<AtomicBool> {
        self.held.is_streaming.clone()
    }

    /// Statements ran that were not seen, and may have changed its settings.
    pub(super) fn forget_settings(&mut self) {
        self.held.commits_each = false;
    }

    /// Closes the connection at once: there is nothing on its way that the server would have to be waited
    /// for.
    pub(crate) fn close(mut self) {
        self.held.is_settled = true;
    }

    /// Gives the connection to the next run, or back to the pool, after a clean end.
    pub(crate) fn release(self) {
        self.reuse.pass_on(ScopeGuard::into_inner(self.held));
    }

    /// The same, after a statement that was its own transaction.
    ///
    /// Cancellation: the connection is closed.
    pub(crate) async fn release_after_lone_statement(mut self) {
        if let Some(put_back) = self.held.put_back.take() {
            let settings = DB::send_text(self.connection(), put_back.to_owned());
            if !matches!(timeout(FAREWELL_LIMIT, settings).await, Ok(Reply { error: None, .. })) {
                return;
            }
        }
        self.release();
    }
}

impl<DB: Backend> OpenConnection<DB> {
    /// As it comes out of the pool.
    fn new(connection: PoolConnection<DB>, pool: &Pool<DB>) -> Self {
        let (runtime, since) = (Handle::current(), Instant::now());
        Self {
            connection,
            pool: pool.clone(),
            runtime,
            reset: ROLLBACK,
            since,
            runs: 0,
            commits_each: false,
            put_back: None,
            is_settled: false,
            is_streaming: Arc::default(),
        }
    }
}

const ROLLBACK: Cow<'static, str> = Cow::Borrowed("ROLLBACK");

/// The end of a connection that had no clean one.
fn abandon<DB: Backend>(held: OpenConnection<DB>) {
    let OpenConnection { mut connection, pool, runtime, reset, is_settled, is_streaming, .. } = held;
    let _inside = runtime.enter();
    if DB::lives_in_its_connection(&pool.connect_options()) {
        // Closing it would lose the database. In memory there is no network to be stuck on.
        runtime.spawn(async move {
            let _ = DB::send_text(&mut connection, reset.into_owned()).await;
        });
    } else if DB::SESSION_ID_QUERY.is_some() && is_streaming.load(Ordering::Acquire) {
        // A server that sends rows notices a closed socket at once. Reading the rest of them could take for
        // ever.
        drop(connection.detach());
    } else if DB::SESSION_ID_QUERY.is_some() && !is_settled {
        abandoned::close_when_done(connection, &pool, &runtime);
    } else {
        let connection = connection.detach();
        // Whether the farewell is orderly or not, the connection is gone.
        runtime.spawn(async move {
            let _ = timeout(FAREWELL_LIMIT, connection.close()).await;
        });
    }
}
