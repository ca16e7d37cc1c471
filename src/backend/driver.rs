//! Classifies errors that the driver itself raises, without a server's report.

use std::io;

use crate::failure::{Failure, FailureKind, with_causes};

/// Classifies an error of the driver; `None` if it is about the caller's values or rows.
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

/// Returns the failure of a connection on which the driver can no longer follow the protocol.
fn lost(error: &sqlx::Error) -> Failure {
    Failure::new(FailureKind::ConnectionLost, with_causes(error)).retryable(true).definite(false)
}

/// Parts of the messages with which sqlx refuses to send a statement, and whether the connection remains
/// usable.
///
/// The driver for MySQL compares the number of parameters after it has registered an expected response: the
/// next statement on that connection would wait for that response until its deadline. A message that is too
/// long may leave others before it in the buffer.
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

/// Returns the failure of a statement that was not sent because of the caller's mistake, which a retry would
/// repeat.
fn misuse(message: &str) -> Option<Failure> {
    let (_, usable) = REFUSED.into_iter().find(|(part, _)| message.contains(part))?;
    // The driver for MySQL appends a line of its own source.
    let message = message.split(" (sqlx_").next().unwrap_or(message);
    let message = format!("the driver did not send the statement: {message}");
    Some(Failure::new(FailureKind::Other, message).spoiling_session(!usable))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_that_the_driver_refuses_is_not_retried() {
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
    fn any_other_protocol_error_loses_the_connection() {
        let failure = failure(&sqlx::Error::Protocol("unexpected message".to_owned())).expect("a failure");
        assert_eq!((failure.kind(), failure.is_retryable()), (FailureKind::ConnectionLost, true));
        assert!(failure.ends_session() && !failure.is_definite());
    }
}
