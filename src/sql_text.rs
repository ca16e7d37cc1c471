//! What the crate reads in the caller's SQL, and the one thing that it writes into it: a lock clause.
//!
//! Plain functions over text: no I/O and no database. The words that matter are the databases' own, so each
//! backend judges a [`SqlStatement`] itself (`transaction_effect`, `lone_effect`).
//!
//! # Why not the tokenizer of `sqlparser`?
//!
//! It reads a few texts otherwise than the servers do, and each difference would hide a COMMIT or a lock
//! clause: MariaDB runs `/*M! COMMIT */`, which it takes for a comment; on PostgreSQL `@/* ' */` begins a
//! comment, which it takes for an operator and a string; `U&'\'` it refuses; and it has no word for a session
//! with `NO_BACKSLASH_ESCAPES`. It also knows lines and columns where a clause has to be put at a byte.

mod locking;
mod nowait;
mod null;
mod shown;
mod statement;
mod tokens;
mod waiting;

pub(crate) use locking::with_lock_clause;
pub(crate) use nowait::asks_nowait;
pub(crate) use null::{column_compared_with_null, is_update_or_delete};
pub(crate) use shown::ShownStatement;
#[allow(unreachable_pub, reason = "named by a sealed trait that is public")]
pub use statement::SqlStatement;
pub(crate) use statement::{SqlStatements, begins_with_a_query, has_inner_semicolon};
#[cfg(feature = "testing")]
pub(crate) use tokens::without_values;
use tokens::{Kind, Token, TokenizedText};

/// Whose SQL it is.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Syntax {
    /// PostgreSQL and what speaks its protocol.
    Postgres,
    /// MySQL and MariaDB.
    MySql,
    /// SQLite.
    Sqlite,
}

impl Syntax {
    /// What messages call the databases.
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
    /// It runs inside of the transaction.
    Inside,
    /// It may end the transaction unseen: a procedure, a prepared or compound statement, a text that cannot
    /// be read.
    MayEnd,
    /// The database commits before it runs it.
    CommitsImplicitly,
    /// It begins, ends or prepares a transaction, or sets how transactions begin and end.
    Controls,
    /// It touches a savepoint that is the crate's own.
    TouchesGuard,
}

/// What a statement is when it runs on its own, without a transaction around it.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoneEffect {
    /// All of it is stored, or nothing.
    Atomic,
    /// A part of it may be stored when it fails.
    MayStoreParts,
    /// It leaves something behind on its connection: a transaction, a savepoint, a lock on a table.
    LeavesState,
}
