//! A pooled connection that only goes back to the pool after a clean, awaited end.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use scopeguard::ScopeGuard;
use sqlx::pool::PoolConnection;
use sqlx::{Connection as _, Pool};
use tokio::runtime::Handle;

use crate::backend::Backend;

/// How long an orderly farewell to a server may take before the socket is simply closed.
const FAREWELL_LIMIT: Duration = Duration::from_secs(1);

/// The unit of trust: "this connection had a clean, awaited end". One that had none is closed when this is dropped,
/// and its place in the pool is free at once.
///
/// sqlx itself returns such a connection to the pool after sending `ROLLBACK`, which waits for whatever the connection
/// is busy with, and does nothing for a BEGIN that was cut short (sqlx issue 4393).
pub(crate) struct Session<DB: Backend>(ScopeGuard<Held<DB>, fn(Held<DB>)>);

struct Held<DB: Backend> {
    connection: PoolConnection<DB>,
    /// Closing a connection spawns a task, and a drop may happen anywhere.
    runtime: Handle,
    options: Arc<<DB::Connection as sqlx::Connection>::Options>,
    /// What makes the connection usable again where it must not be closed.
    cure: Cow<'static, str>,
}

impl<DB: Backend> Session<DB> {
    /// Takes a connection, without the round trip that tests it where the pool would spend one.
    ///
    /// Must be called inside of a Tokio runtime.
    pub(crate) async fn acquire(pool: &Pool<DB>, before_acquire: bool) -> Result<Self, sqlx::Error> {
        // `try_acquire` skips the test, but also the `before_acquire` callback, whose presence nobody can ask for.
        let tested = pool.options().get_test_before_acquire() && !before_acquire;
        let idle = if tested { pool.try_acquire() } else { None };
        let connection = match idle {
            Some(connection) => connection,
            // In a box of its own: in place, it would make the future of every run several times as large.
            None => Box::pin(pool.acquire()).await?,
        };
        let (runtime, options) = (Handle::current(), pool.connect_options());
        let held = Held { connection, runtime, options, cure: "ROLLBACK".into() };
        Ok(Self(scopeguard::guard(held, abandon)))
    }

    pub(crate) fn connection(&mut self) -> &mut DB::Connection {
        &mut self.0.connection
    }

    /// What a rollback has to put back, besides.
    pub(super) fn cured_by(&mut self, rollback: Cow<'static, str>) {
        self.0.cure = rollback;
    }

    /// Gives the connection back to the pool after a clean end.
    pub(crate) fn release(self) {
        drop(ScopeGuard::into_inner(self.0).connection);
    }
}

/// The end of a connection that had no clean one.
fn abandon<DB: Backend>(held: Held<DB>) {
    let Held { mut connection, runtime, options, cure } = held;
    let _inside = runtime.enter();
    if DB::lives_in_its_connection(&options) {
        // Closing it would lose the database. In memory there is no network to be stuck on.
        runtime.spawn(async move {
            let _ = DB::send_text(&mut connection, cure.into_owned()).await;
        });
    } else {
        let connection = connection.detach();
        // Whether the farewell is orderly or not, the connection is gone.
        runtime.spawn(async move {
            let _ = tokio::time::timeout(FAREWELL_LIMIT, connection.close()).await;
        });
    }
}
