//! How a database parses statements, and what they do to transactions.

use std::borrow::Cow;

use sqlx::Database;

use crate::sql_text::{LoneEffect, SqlStatement, Syntax, TransactionEffect};

/// The database's rules for the statements of the caller.
#[doc(hidden)]
pub trait StatementRules: Database {
    /// The syntax of its SQL.
    const SYNTAX: Syntax;

    /// Returns whether the connection already keeps prepared statements, the caller's or this crate's.
    fn keeps_statements(_connection: &Self::Connection) -> bool {
        true
    }

    /// Whether only single statements can be prepared.
    const PREPARES_ONE_STATEMENT: bool;

    /// Whether a text of several statements that is sent outside of a transaction runs as one transaction.
    const TEXT_IS_ONE_TRANSACTION: bool;

    /// Prepares a session for a statement that is its own transaction; `None` if every session is ready.
    const BEFORE_LONE_STATEMENT: Option<BeforeLoneStatement> = None;

    /// Commits after a lone statement that may have left a transaction open, such as a call of a procedure
    /// that began one. The connection is then closed. `None` if no statement can leave a transaction open.
    const COMMIT_AFTER_CALL: Option<&'static str> = None;

    /// Whether a statement that violates a constraint may be stored in part, because a table or a trigger can
    /// request that.
    const VIOLATIONS_MAY_STORE_PARTS: bool = false;

    /// Returns what a statement does to the transaction that it runs in.
    fn transaction_effect(statement: &SqlStatement<'_>) -> TransactionEffect;

    /// Whether a statement defines data, in a database in which that is part of the transaction on some
    /// engines only.
    fn defines_data(_statement: &SqlStatement<'_>) -> bool {
        false
    }

    /// Returns what a statement does when it runs outside of a transaction.
    fn lone_effect(statement: &SqlStatement<'_>) -> LoneEffect;

    /// Returns the placeholder of a parameter, counted from 1.
    fn placeholder(number: usize) -> Cow<'static, str>;

    /// The type of a CAST whose result decodes as an `i64`.
    const INTEGER_TYPE: &'static str;

    /// Reads the bound values of a statement from the `Debug` output of the driver's arguments, the only
    /// form in which the driver shows them. `None` if the output is not understood.
    fn argument_texts(arguments: &str) -> Option<Vec<String>>;
}

/// Prepares a session for a statement that is its own transaction.
#[doc(hidden)]
#[derive(Debug)]
pub struct BeforeLoneStatement {
    /// The query that returns 1 if the session is in autocommit mode.
    pub ask: &'static str,
    /// The statement that turns autocommit on.
    pub set: &'static str,
    /// The statement that restores the session's setting.
    pub put_back: &'static str,
}
