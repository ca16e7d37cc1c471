//! The statements with which a certification tests what a server does.

use std::time::Duration;

use futures_core::future::BoxFuture;
use sqlx::{Database, Pool};

/// The SQL of a certification. What is `None` is not offered by the database.
#[doc(hidden)]
pub trait CertificationSql: Database {
    /// The isolation levels, from the weakest to the strongest.
    const CERTIFIED_LEVELS: &'static [CertifiedLevel];

    /// The first parameter of a statement.
    const PARAMETER: &'static str = "?";

    /// Sent once on each connection.
    const SESSION_SETUP: Option<&'static str> = None;

    /// Returns the server's version as text, for people.
    const VERSION_QUERY: &'static str;

    /// Creates and drops a namespace of its own; `{}` stands for its name.
    const NAMESPACE: Option<CertifiedNamespace> = None;

    /// Limits how long a `DROP` waits for locks, before and after it.
    const LIMITED_DROP: [&'static str; 2] = ["", ""];

    /// Tries to take an advisory lock without waiting, and releases it; `{}` stands for its number.
    const ADVISORY_LOCK: Option<[&'static str; 2]> = None;

    /// Limits the waits for locks of the open transaction to a second or less.
    const CERTIFIED_LOCK_TIMEOUT: Option<&'static str> = None;

    /// Limits the statements of the open transaction to a second or less.
    const SHORT_STATEMENT_TIMEOUT: Option<&'static str> = None;

    /// Ends the session if it stays idle in its open transaction, and how long it is left idle.
    const SHORT_IDLE_TIMEOUT: Option<(&'static str, Duration)> = None;

    /// A statement that runs for a quarter of a minute, and locks nothing.
    const LONG_STATEMENT: Option<&'static str> = None;

    /// Cancels the statement of another session; `{}` stands for its id.
    const CANCEL: Option<&'static str> = None;

    /// Sets, reads (as 0 or 1) and clears a mark in the state of a session.
    const SESSION_MARK: [&'static str; 3];

    /// Returns the server's clock in milliseconds.
    const CLOCK: Option<&'static str> = None;

    /// Returns whether this code says that the server does not know a statement or a setting.
    fn is_unknown_to_the_server(code: &str) -> bool;

    /// Returns whether a notification reaches a session that listens.
    fn notification_arrives(
        _pool: &Pool<Self>,
        _channel: String,
    ) -> Option<BoxFuture<'_, Result<bool, sqlx::Error>>> {
        None
    }
}

/// An isolation level.
#[doc(hidden)]
#[derive(Debug, Clone, Copy)]
pub struct CertifiedLevel {
    /// Its name in the ids of checks.
    pub id: &'static str,
    /// Opens a transaction at this level. Ends with a query for the session's id on servers that may give
    /// each transaction another session.
    pub opening: &'static str,
}

/// A schema or a database.
#[doc(hidden)]
#[derive(Debug, Clone, Copy)]
pub struct CertifiedNamespace {
    /// The statement that creates it.
    pub create: &'static str,
    /// The statement that drops it with everything in it.
    pub drop: &'static str,
}
