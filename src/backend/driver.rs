//! Errors that the driver raises by itself, without a server's report.

use std::io;

use crate::failure::{Failure, FailureKind, with_causes};

/// What such an error says about the database; `None` where it says something about the caller's values or
/// rows.
pub(super) fn failure(error: &sqlx::Error) -> Option<Failure> {
    let kind = match error {
        sqlx::Error::Protocol(message) => {
            return Some(misuse(message).unwrap_or_else(|| lost(error)));
        }
        sqlx::Error::Io(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            FailureKind::Unavailable
        }
        sqlx::Error::Io(_) | sqlx::Error::WorkerCrashed => return Some(lost(error)),
        sqlx::Error::PoolTimedOut => FailureKind::Unavailable,
        sqlx::Error::Tls(_) | sqlx::Error::PoolClosed | sqlx::Error::BeginFailed => FailureKind::Other,
        _ => return None,
    };
    let retryable = kind != FailureKind::Other;
    Some(Failure::new(kind, with_causes(error)).retryable(retryable).definite(false))
}

/// A driver that lost its place in the protocol cannot be trusted with another statement.
fn lost(error: &sqlx::Error) -> Failure {
    Failure::new(FailureKind::ConnectionLost, with_causes(error)).retryable(true).definite(false)
}

/// Statements that sqlx refuses to send, as parts of its messages, and whether the connection can be used
/// again.
///
/// The driver for MySQL compares the numbers of parameters after it has noted that an answer is to come:
/// the next statement on that connection would wait for that answer until its deadline. A message that is too
/// long may have others before it in the buffer.
const REFUSED: [(&str, bool); 9] = [
    // MySQL
    ("parameters were provided", false),
    // PostgreSQL
    ("too many arguments for query", true),
    ("too large for binary protocol", true),
    ("too many parameter format codes", false),
    ("message size out of range for protocol", false),
    // SQLite
    ("query contains nul bytes", true),
    ("query string must be smaller", true),
    ("unsupported SQL parameter format", true),
    ("parameters with non-integer names", true),
];

/// A statement that was not sent, for a reason that is the caller's and stays the same however often it is
/// tried.
fn misuse(message: &str) -> Option<Failure> {
    let (_, usable) = REFUSED.into_iter().find(|(part, _)| message.contains(part))?;
    // Behind it, the driver for MySQL names a line of its own source.
    let message = message.split(" (sqlx_").next().unwrap_or(message);
    let message = format!("the driver did not send the statement: {message}");
    Some(Failure::new(FailureKind::Other, message).spoiling_session(!usable))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_that_the_driver_refuses_is_the_callers_mistake() {
        for (message, usable) in [
            ("prepared statement expected 2 parameters but 1 parameters were provided", false),
            ("PgConnection::run(): too many arguments for query: 70000", true),
            ("query contains nul bytes", true),
        ] {
            let failure = failure(&sqlx::Error::Protocol(message.to_owned())).expect("a failure");
            assert_eq!((failure.kind(), failure.is_retryable()), (FailureKind::Other, false), "{message}");
            assert_eq!(failure.ends_session(), !usable, "{message}");
            assert!(failure.is_definite(), "{message}: nothing was sent");
        }
    }

    #[test]
    fn any_other_trouble_with_the_protocol_loses_the_connection() {
        let failure = failure(&sqlx::Error::Protocol("unexpected message".to_owned())).expect("a failure");
        assert_eq!((failure.kind(), failure.is_retryable()), (FailureKind::ConnectionLost, true));
        assert!(failure.ends_session() && !failure.is_definite());
    }
}
