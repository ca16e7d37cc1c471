//! The statements with which a certification tests what a server does.

use std::time::Duration;

use futures_core::future::BoxFuture;
use sqlx::{Database, Pool};

/// The SQL of a certification.
#[doc(hidden)]
pub trait CertificationSql: Database {
    /// The statements.
    const CERTIFICATION: CertificationTexts;

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

/// The statements of a certification. What is `None` is not offered by the database.
#[doc(hidden)]
#[derive(Debug, Clone, Copy)]
pub struct CertificationTexts {
    /// The isolation levels, from the weakest to the strongest.
    pub levels: &'static [CertifiedLevel],
    /// The first parameter of a statement.
    pub parameter: &'static str,
    /// Sent once on each connection.
    pub session_setup: Option<&'static str>,
    /// Returns the server's version as text, for people.
    pub version_query: &'static str,
    /// Creates and drops a namespace of its own; `{}` stands for its name.
    pub namespace: Option<CertifiedNamespace>,
    /// Limits how long a `DROP` waits for locks, before and after it.
    pub limited_drop: [&'static str; 2],
    /// Tries to take an advisory lock without waiting, and releases it; `{}` stands for its number.
    pub advisory_lock: Option<[&'static str; 2]>,
    /// Limits the waits for locks of the open transaction to a second or less.
    pub short_lock_timeout: Option<&'static str>,
    /// Limits the statements of the open transaction to a second or less.
    pub short_statement_timeout: Option<&'static str>,
    /// Ends the session if it stays idle in its open transaction, and how long it is left idle.
    pub short_idle_timeout: Option<(&'static str, Duration)>,
    /// A statement that runs for a quarter of a minute, and locks nothing.
    pub long_statement: Option<&'static str>,
    /// Cancels the statement of another session; `{}` stands for its id.
    pub cancel: Option<&'static str>,
    /// Sets, reads (as 0 or 1) and clears a mark in the state of a session.
    pub session_mark: [&'static str; 3],
    /// Returns the server's clock in milliseconds.
    pub clock: Option<&'static str>,
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
