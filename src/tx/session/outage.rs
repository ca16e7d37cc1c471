//! The end of an outage.

use std::time::Duration;

use sqlx::{Connection as _, Pool};
use tokio::time::{sleep, timeout};

use super::FAREWELL_LIMIT;
use super::known::Known;
use crate::backend::Backend;
use crate::failure::with_causes;

/// The pause before a server is asked, and again while it does not answer.
const PAUSE: Duration = Duration::from_millis(200);

/// How long one answer is waited for.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);

/// Connects to the server, past the pool, until that succeeds. Returns whether it failed before: then the pool, which tries
/// less and less often, may have missed the end of an outage. Otherwise opening a connection just takes its time.
///
/// The pool keeps to itself why it could not connect, so the reason is noted here.
pub(super) async fn is_over<DB: Backend>(pool: Pool<DB>, known: Known) -> bool {
    let mut was_down = false;
    loop {
        sleep(PAUSE).await;
        let options = pool.connect_options();
        match timeout(ANSWER_LIMIT, DB::Connection::connect_with(&options)).await {
            Ok(Ok(connection)) => {
                tokio::spawn(timeout(FAREWELL_LIMIT, connection.close()));
                return was_down;
            }
            Ok(Err(error)) => {
                known.refused(match &error {
                    sqlx::Error::Io(error) => with_causes(error),
                    error => with_causes(error),
                });
                was_down = true;
            }
            Err(_) => {
                known.refused(format!("no answer within {ANSWER_LIMIT:?}"));
                was_down = true;
            }
        }
    }
}
