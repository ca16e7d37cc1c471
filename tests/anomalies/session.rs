//! A client of the database, and whether it waits for another client.

use std::time::{Duration, Instant};

use atomically::Error;
use sqlx::{Connection as _, Pool};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::engines::{Engine, Reply};

/// The limit of every wait: a test that makes no progress fails.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// How long a statement may take before the server is queried whether it waits for a lock. This is not a
/// limit: only the server's response decides.
const PATIENCE: Duration = Duration::from_millis(5);

/// A connection with a task of its own, so that a statement that waits for a lock does not block the test.
pub(crate) struct Session {
    /// The server's own number for the connection.
    number: i64,
    statements: mpsc::UnboundedSender<String>,
    replies: mpsc::UnboundedReceiver<Result<Reply, Error>>,
}

impl Session {
    pub(crate) async fn connect<E: Engine>(url: &str, settings: &str) -> Self {
        let mut connection = E::Connection::connect(url).await.expect("a connection");
        E::ask(&mut connection, settings.to_owned()).await.expect("the settings");
        let number = E::ask(&mut connection, E::NUMBER.to_owned()).await.expect("the connection's number");
        let (statements, mut inbox) = mpsc::unbounded_channel();
        let (outbox, replies) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(statement) = inbox.recv().await {
                let reply = E::ask(&mut connection, statement).await;
                if outbox.send(reply.map_err(Error::from)).is_err() {
                    break;
                }
            }
        });
        Self { number: number.rows[0][0], statements, replies }
    }

    /// Sends the statement; `reply` returns its result.
    pub(crate) fn send(&self, statement: &str) {
        self.statements.send(statement.to_owned()).expect("a session that lives");
    }

    /// The result of the statement that was sent, or `None` once the server reports that it waits for a lock.
    pub(crate) async fn reply<E: Engine>(&mut self, pool: &Pool<E>) -> Option<Result<Reply, Error>> {
        let start = Instant::now();
        while start.elapsed() < LIMIT {
            if let Ok(reply) = timeout(PATIENCE, self.replies.recv()).await {
                return Some(reply.expect("a session that lives"));
            }
            if E::is_waiting(pool, self.number).await {
                return None;
            }
        }
        panic!("after {LIMIT:?} a statement has no result, and the server reports no wait for a lock");
    }

    /// The result of the statement that was sent, however long it has to wait for a lock.
    pub(crate) async fn final_reply(&mut self) -> Result<Reply, Error> {
        let reply = timeout(LIMIT, self.replies.recv()).await;
        reply
            .unwrap_or_else(|_| panic!("after {LIMIT:?} a statement still waits"))
            .expect("a session that lives")
    }
}
