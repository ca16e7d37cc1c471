//! How transactions begin and end.

use std::borrow::Cow;
use std::time::Duration;

use sqlx::Database;

use super::engine::Engine;
use crate::failure::Failure;
use crate::local_settings::LocalSettings;
use crate::strategy::{Limits, Plan};

/// The savepoint that guards the commit. Just before COMMIT, PostgreSQL sets it and MySQL and MariaDB release
/// it, which fails if the transaction is not the one that was opened.
pub(super) const GUARD_NAME: &str = "atomically_guard";

/// The SQL that begins, ends and checks a transaction.
#[doc(hidden)]
pub trait TransactionSql: Database {
    /// Fails if the database does not support the plan or the limits.
    fn check(plan: &Plan, limits: &Limits) -> Result<(), Failure>;

    /// Returns the text that opens a transaction and sets its limits in one round trip, on an engine that has
    /// what they [request](Engine::check).
    fn opening(engine: &Engine, plan: &Plan, limits: &Limits) -> String;

    /// Returns the statements, separated by semicolons, that set the caller's settings in an open
    /// transaction. They come last in the opening. Fails if the database does not support them, or if they
    /// are invalid.
    fn local_settings(_settings: &LocalSettings) -> Result<String, Failure> {
        Err(Failure::unsupported(Self::NAME, "settings or roles for single transactions"))
    }

    /// Reads the session's own lock timeout from the results of the opening; `None` unless the opening has
    /// replaced it with one that is derived from the deadline.
    fn own_lock_timeout(_limits: &Limits, _answers: &[String]) -> Option<OwnLockTimeout> {
        None
    }

    /// The statement at the end of the opening that returns how long the session may stay idle in its
    /// transaction; `None` if the engine says whether it does.
    const IDLE_LIMIT_QUERY: Option<&'static str> = None;

    /// Returns the query for the settings that the opening changes, in the order of [`Closing::saved`].
    fn settings_query(_closing: &Closing) -> Option<String> {
        None
    }

    /// Whether an opening failed because the pool handed out a connection with an open transaction.
    fn found_open_transaction(_failure: &Failure) -> bool {
        false
    }

    /// Returns the query that checks whether the server is read-only, if that may be why an opening failed
    /// with `failure`. The query returns 1 if the server is read-only.
    fn read_only_query(_failure: &Failure) -> Option<&'static str> {
        None
    }

    /// The text that fails, or returns 1, on a server that takes no writes, and returns 0 on any other.
    /// `None` if there is no server.
    const READ_ONLY_QUERY: Option<&'static str> = None;

    /// Detects whether a statement has ended its transaction; `None` if no admitted statement can.
    const PROBE: Option<ProbeSavepoint> = None;

    /// Detects, before a transaction is committed or rolled back, whether something has already ended it.
    const GUARD: Guard;

    /// Whether every error that the server reports ends the transaction.
    const EVERY_ERROR_ABORTS: bool = false;

    /// Whether `failure` made the server roll back the transaction, guard savepoint included.
    fn rolls_back_everything(_failure: &Failure) -> bool {
        false
    }

    /// Returns what is left of a transaction after `failure`.
    fn survival(failure: &Failure) -> Survival;

    /// Returns the texts that commit.
    fn commit(closing: &Closing) -> CommitSql;

    /// Returns the text that rolls back.
    fn rollback(closing: &Closing) -> Cow<'static, str>;

    /// Whether a savepoint replaces an earlier one with its name, so that savepoints need not be released.
    const SAVEPOINTS_REPLACE_EACH_OTHER: bool = false;

    /// Returns the text that rolls back to a savepoint. The savepoint may be gone afterwards.
    fn rollback_to(savepoint: &str) -> String {
        format!("ROLLBACK TO SAVEPOINT {savepoint}; RELEASE SAVEPOINT {savepoint}")
    }

    /// Returns the failure of a transaction that is gone although no statement of it can have ended it;
    /// `None` if that does not happen. Nothing of such a transaction is stored, nor of what was sent after
    /// its end.
    fn unreported_abort(_closing: &Closing) -> Option<Failure> {
        None
    }

    /// Whether a refused COMMIT leaves nothing to roll back.
    const REFUSED_COMMIT_ENDS_TRANSACTION: bool;
}

/// The session's own lock timeout.
#[doc(hidden)]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnLockTimeout {
    /// `None` if the session waits without a limit.
    pub limit: Option<Duration>,
    /// The text that corrects the timeout that the opening has set without knowing this one.
    pub correction: Option<String>,
}

/// What the SQL that ends a transaction depends on.
#[doc(hidden)]
#[derive(Debug, Clone)]
pub struct Closing {
    /// The product that the transaction runs on.
    pub engine: Engine,
    /// The plan that it was opened with.
    pub plan: Plan,
    /// The limits that it was opened with.
    pub limits: Limits,
    /// The session settings to restore, in the order of [`settings_query`](TransactionSql::settings_query).
    pub saved: Vec<i64>,
    /// The advisory locks that the transaction holds.
    pub advisory_locks: Vec<u64>,
    /// The prepared statement that a failed text has left on the session.
    pub left: Option<String>,
    /// Whether statements ran that the transaction did not see, or whose end it did not see.
    pub unwatched: bool,
}

impl Closing {
    pub(crate) const fn new(engine: Engine, plan: Plan, limits: Limits) -> Self {
        Self {
            engine,
            plan,
            limits,
            saved: Vec::new(),
            advisory_locks: Vec::new(),
            left: None,
            unwatched: false,
        }
    }
}

/// Checks whether the open transaction is still the one that was opened.
#[doc(hidden)]
#[derive(Debug)]
pub struct Guard {
    /// The statement that checks. Only a rollback may follow it.
    pub sql: &'static str,
    /// Whether the statement's result, a failure or none, proves that the transaction was ended.
    pub has_ended: fn(Option<&Failure>) -> bool,
}

/// A savepoint around a statement that may end its transaction.
#[doc(hidden)]
#[derive(Debug)]
pub struct ProbeSavepoint {
    /// Sets the savepoint.
    pub set: &'static str,
    /// Releases it, and fails with [`Aborted`](crate::FailureKind::Aborted) if it is gone.
    pub release: &'static str,
    /// Sets the guard again after it was checked.
    pub reset: &'static str,
}

/// What is left of a transaction after a failed statement.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Survival {
    /// Only the statement was undone; the transaction is open.
    Open,
    /// Only the server knows what is left: this statement fails if, and only if, the transaction is open.
    Ask(&'static str),
    /// The transaction is over, or must not continue.
    Over,
}

/// The texts that commit. Each is sent in a packet of its own.
#[doc(hidden)]
#[derive(Debug, Default, PartialEq, Eq)]
pub struct CommitSql {
    /// Fails if the transaction is not the one that was opened. COMMIT is not sent then.
    pub guard: Option<Cow<'static, str>>,
    /// One or more statements, COMMIT among them.
    pub sql: Cow<'static, str>,
    /// How many results precede that of COMMIT.
    pub before_commit: usize,
    /// Restores the session's settings, whatever the outcome of the commit.
    pub after: Option<Cow<'static, str>>,
}
