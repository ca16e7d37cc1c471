//! Queries a server for the sessions that wait for locks.

use std::time::Duration;

use sqlx::{Connection as _, Pool};
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::backend::Backend;

/// How long a query for waits may take.
const QUERY_LIMIT: Duration = Duration::from_secs(1);

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
        let Some(query) = DB::lock_wait_query(&[session]) else { return false };
        let mut state = self.connection.lock().await;
        if matches!(*state, WatchConnection::Unused) {
            let options = self.pool.connect_options();
            *state = match timeout(QUERY_LIMIT, DB::Connection::connect_with(&options)).await {
                Ok(Ok(connection)) => WatchConnection::Open(connection),
                _ => WatchConnection::Useless,
            };
        }
        let WatchConnection::Open(connection) = &mut *state else { return false };
        match timeout(QUERY_LIMIT, DB::fetch_text(connection, query.sql)).await {
            Ok(Ok(lines)) => {
                lines.iter().flat_map(|line| (query.read)(line)).any(|wait| wait.session == session)
            }
            _ => {
                *state = WatchConnection::Useless;
                false
            }
        }
    }
}
