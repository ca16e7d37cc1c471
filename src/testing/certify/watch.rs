//! Queries a server for the sessions that wait for locks.

use std::time::Duration;

use sqlx::{Connection as _, Pool};
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::backend::Backend;

/// How long a query for waits may take.
const QUERY_LIMIT: Duration = Duration::from_secs(5);

/// A connection of its own that reads which sessions wait, where the server reports it and the user may see
/// it.
pub(super) struct LockWatch<DB: Backend> {
    pool: Pool<DB>,
    connection: Mutex<WatchConnection<DB::Connection>>,
}

enum WatchConnection<C> {
    Unused,
    Open(C),
    /// The server does not report waits.
    Useless,
}

impl<DB: Backend> LockWatch<DB> {
    pub(super) fn new(pool: &Pool<DB>) -> Self {
        Self { pool: pool.clone(), connection: Mutex::new(WatchConnection::Unused) }
    }

    /// Whether the server reports that this session waits for a lock.
    pub(super) async fn is_waiting(&self, session: i64) -> bool {
        self.waits_of(session).await.unwrap_or(false)
    }

    /// Whether the server reports the waits of this session.
    pub(super) async fn reports(&self, session: i64) -> bool {
        self.waits_of(session).await.is_some()
    }

    /// Whether this session waits for a lock; `None` if the server does not tell.
    async fn waits_of(&self, session: i64) -> Option<bool> {
        let query = DB::lock_wait_query(&[session])?;
        let mut state = self.connection.lock().await;
        if matches!(*state, WatchConnection::Unused) {
            let options = self.pool.connect_options();
            *state = match timeout(QUERY_LIMIT, DB::Connection::connect_with(&options)).await {
                Ok(Ok(connection)) => WatchConnection::Open(connection),
                _ => WatchConnection::Useless,
            };
        }
        let WatchConnection::Open(connection) = &mut *state else { return None };
        let Ok(Ok(lines)) = timeout(QUERY_LIMIT, DB::fetch_text(connection, query.sql)).await else {
            *state = WatchConnection::Useless;
            return None;
        };
        Some(lines.iter().flat_map(|line| (query.read)(line)).any(|wait| wait.session == session))
    }
}
