//! Determines from a statement's text, before it is sent, what it would do to its transaction.

use crate::backend::{Backend, WatchedQuery};
use crate::failure::{Failure, FailureKind};
use crate::sql_text::{
    SqlStatement, SqlStatements, Syntax, TransactionEffect, begins_with_a_query, has_inner_semicolon,
};

/// Whether a statement may be sent, and what it does to the transaction.
#[derive(Debug)]
pub(super) enum Admission {
    /// The statement is a query, which leaves the transaction open.
    Admitted,
    /// The statement leaves the transaction open. It is not a query, so it may change settings of the
    /// session.
    MayChangeSettings,
    /// The statement leaves the transaction open and sets a savepoint.
    SetsSavepoint,
    /// The text holds several statements, and those after the first are not watched.
    Unwatched,
    /// The statement may end the transaction unseen: a procedure, a prepared or a compound statement, or a
    /// text that cannot be parsed.
    MayEnd,
    /// The statement must not be sent.
    Refused(Failure),
}

/// Classifies a statement, and parses no more of its text than necessary: for a single query, the first word
/// is enough.
///
/// `ddl_escapes` is the name of the engine if its data definition is not part of the transaction.
pub(super) fn admission<DB: Backend>(
    query: &WatchedQuery<DB>,
    ddl_escapes: Option<&'static str>,
) -> Admission {
    let text = query.sql();
    let may_hold_several =
        (query.is_plain_text() || !DB::PREPARES_ONE_STATEMENT) && has_inner_semicolon(text);
    if let Some(failure) = unreadable::<DB>(text) {
        return Admission::Refused(failure);
    }
    if !may_hold_several && begins_with_a_query(text) {
        return Admission::Admitted;
    }
    let read = SqlStatements::of(DB::SYNTAX, text);
    // A server that prepares one statement at a time rejects a text with more before it executes any.
    let executed = if may_hold_several { read.statements.len() } else { read.firsts };
    let executed = &read.statements[..executed];
    if let Some(failure) = executed.iter().find_map(|statement| refusal::<DB>(statement, ddl_escapes)) {
        return Admission::Refused(failure);
    }
    let stays_inside =
        |statement: &SqlStatement<'_>| DB::transaction_effect(statement) == TransactionEffect::Inside;
    let other = || SqlStatements::under_unusual_settings(DB::SYNTAX, text);
    let is_certain = |other: SqlStatements<'_>| other.complete && other.statements.iter().all(stays_inside);
    let may_end = !read.complete
        || !executed.iter().all(stays_inside)
        || (may_hold_several && !other().is_none_or(is_certain));
    if may_end {
        Admission::MayEnd
    } else if may_hold_several && read.count > 1 {
        Admission::Unwatched
    } else if executed.iter().any(|statement| statement.begins(&["SAVEPOINT"])) {
        Admission::SetsSavepoint
    } else {
        Admission::MayChangeSettings
    }
}

/// Returns a failure for a text with a NUL on SQLite, where the driver would loop for ever at the NUL while
/// it holds the lock of the whole database.
pub(crate) fn unreadable<DB: Backend>(text: &str) -> Option<Failure> {
    let has_nul = DB::SYNTAX == Syntax::Sqlite && text.contains('\0');
    has_nul.then(|| {
        Failure::new(
            FailureKind::Aborted,
            "the statement was not sent: its text contains a NUL character; bind the value instead",
        )
    })
}

fn refusal<DB: Backend>(statement: &SqlStatement<'_>, ddl_escapes: Option<&'static str>) -> Option<Failure> {
    let databases = DB::SYNTAX.databases();
    let message = match DB::transaction_effect(statement) {
        TransactionEffect::Inside if DB::defines_data(statement) => format!(
            "{} was not sent: on {} it is not part of the transaction, so it, or what the unit did before, \
             would be stored whatever the unit returns; run it on the pool, outside of a unit of work",
            statement.title(),
            ddl_escapes?
        ),
        TransactionEffect::Inside | TransactionEffect::MayEnd => return None,
        TransactionEffect::Controls => format!(
            "{} was not sent: a unit of work must not begin, commit or roll back by itself; return Ok to \
             commit, or Err to roll back",
            statement.title()
        ),
        TransactionEffect::TouchesGuard => format!(
            "{} was not sent: savepoints whose names begin with atomically_ are reserved; use another \
             name, or `tx.savepoint`",
            statement.title()
        ),
        TransactionEffect::CommitsImplicitly => format!(
            "{} was not sent: it commits implicitly on {databases}, so what the unit did before would be \
             stored whatever it returns; run it on the pool, outside of a unit of work",
            statement.title()
        ),
    };
    Some(Failure::new(FailureKind::Aborted, message))
}

#[cfg(all(test, feature = "postgres", feature = "mysql", feature = "sqlite"))]
mod tests;
