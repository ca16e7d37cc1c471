//! Analyzes the caller's SQL, and appends lock clauses to it.
//!
//! These are functions of the text, without I/O. Each backend interprets a [`SqlStatement`] itself
//! (`transaction_effect`, `lone_effect`), because the keywords differ between databases.
//!
//! # Why not the tokenizer of `sqlparser`?
//!
//! It reads a few texts differently from the servers, and each difference could hide a COMMIT or a lock
//! clause. It treats `/*M! COMMIT */` as a comment, but MariaDB executes it. It reads `@/* ' */` as an
//! operator and the beginning of a string, but on PostgreSQL it contains a comment. It rejects `U&'\'`, and
//! cannot represent a session with `NO_BACKSLASH_ESCAPES`. It reports lines and columns, while a clause must
//! be inserted at a byte offset.

mod locking;
mod masked;
mod nowait;
mod null;
mod statement;
mod only_statement;
mod tokens;
mod waiting;

pub(crate) use locking::with_lock_clause;
pub(crate) use masked::MaskedStatement;
#[cfg(feature = "testing")]
pub(crate) use masked::normalized;
pub(crate) use nowait::has_nowait;
pub(crate) use null::{column_compared_with_null, is_update_or_delete};
pub(crate) use only_statement::{is_data_statement, only_statement};
#[allow(unreachable_pub, reason = "named by a sealed trait that is public")]
pub use statement::SqlStatement;
pub(crate) use statement::{SqlStatements, begins_with_a_query, has_inner_semicolon};
use tokens::{Kind, Token, TokenizedText};

/// The dialect of a text.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Syntax {
    /// PostgreSQL, and products that speak its protocol.
    Postgres,
    /// MySQL and MariaDB.
    MySql,
    /// SQLite.
    Sqlite,
}

impl Syntax {
    /// Returns the names of the databases for messages.
    pub(crate) const fn databases(self) -> &'static str {
        match self {
            Self::Postgres => "PostgreSQL",
            Self::MySql => "MySQL and MariaDB",
            Self::Sqlite => "SQLite",
        }
    }
}

/// What a statement does to the transaction that it runs in.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TransactionEffect {
    /// The statement runs within the transaction and has no effect on it.
    Inside,
    /// The statement may end the transaction without the driver noticing: a procedure, a prepared or compound
    /// statement, or a text that cannot be parsed.
    MayEnd,
    /// The database commits before it executes the statement.
    CommitsImplicitly,
    /// The statement begins, ends or prepares a transaction, or changes how transactions begin and end.
    Controls,
    /// The statement sets, releases or rolls back to one of the crate's own savepoints.
    TouchesGuard,
}

/// What a statement does when it runs outside of a transaction.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoneEffect {
    /// The statement is stored completely or not at all.
    AllOrNothing,
    /// Part of the statement may be stored even if it fails.
    MayStoreParts,
    /// The statement leaves state on its connection: a transaction, a savepoint or a table lock.
    LeavesState,
}
