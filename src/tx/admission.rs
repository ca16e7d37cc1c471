//! What a statement would do to its transaction, read from its text before it is sent.

use crate::backend::{Backend, WatchedQuery};
use crate::failure::{Failure, FailureKind};
use crate::sql_text::{
    Statement, Statements, Syntax, TransactionEffect, begins_with_a_query, has_inner_semicolon,
};

/// Whether a statement may be sent.
#[derive(Debug)]
pub(super) enum Admission {
    /// It stays inside of the transaction.
    Admitted,
    /// It stays inside of the transaction, and sets a savepoint.
    SetsSavepoint,
    /// Several statements in one text: the ones behind the first are not seen.
    Unwatched,
    /// It may end the transaction unseen: a procedure, a prepared or a compound statement, a text that cannot
    /// be read.
    MayEnd,
    /// It must not be sent.
    Refused(Failure),
}

/// Reads the text only as far as it takes: of one statement the first word says it all.
pub(super) fn admission<DB: Backend>(query: &WatchedQuery<DB>) -> Admission {
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
    // A server that prepares one statement refuses a text of more, before it has run any.
    let seen = if may_hold_several { read.statements.len() } else { read.firsts };
    let seen = &read.statements[..seen];
    if let Some(failure) = seen.iter().find_map(refusal::<DB>) {
        return Admission::Refused(failure);
    }
    let stays_inside =
        |statement: &SqlStatement<'_>| DB::transaction_effect(statement) == TransactionEffect::Inside;
    let other = || SqlStatements::under_unusual_settings(DB::SYNTAX, text);
    let is_certain = |other: SqlStatements<'_>| other.complete && other.statements.iter().all(stays_inside);
    let may_end = !read.complete
        || !seen.iter().all(stays_inside)
        || (may_hold_several && !other().is_none_or(is_certain));
    if may_end {
        Admission::MayEnd
    } else if may_hold_several && read.count > 1 {
        Admission::Unwatched
    } else if seen.iter().any(|statement| statement.begins(&["SAVEPOINT"])) {
        Admission::SetsSavepoint
    } else {
        Admission::Admitted
    }
}

/// The driver of SQLite never gets behind a NUL, with the lock of the whole database in its hands.
pub(crate) fn unreadable<DB: Backend>(text: &str) -> Option<Failure> {
    let is_it = DB::SYNTAX == Syntax::Sqlite && text.contains('\0');
    is_it.then(|| {
        Failure::new(
            FailureKind::Aborted,
            "the statement was not sent: its text has a NUL in it; bind the value",
        )
    })
}

fn refusal<DB: Backend>(statement: &SqlStatement<'_>) -> Option<Failure> {
    let databases = DB::SYNTAX.databases();
    let message = match DB::transaction_effect(statement) {
        TransactionEffect::Inside | TransactionEffect::MayEnd => return None,
        TransactionEffect::Controls => format!(
            "{} was not sent: a unit of work must not begin, commit or roll back by itself; return Ok to \
             commit, or Err to \
             roll back",
            statement.title()
        ),
        TransactionEffect::TouchesGuard => format!(
            "{} was not sent: savepoints whose names begin with atomically_ belong to the transaction itself; use \
             another name, or `tx.savepoint`",
            statement.title()
        ),
        TransactionEffect::CommitsImplicitly => format!(
            "{} was not sent: it commits implicitly on {databases}, so what the unit did before would be stored \
             whatever it returns; run it on the pool, outside of a unit of work",
            statement.title()
        ),
    };
    Some(Failure::new(FailureKind::Aborted, message))
}

#[cfg(all(test, feature = "postgres", feature = "mysql", feature = "sqlite"))]
mod tests;
