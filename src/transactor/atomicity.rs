//! Checks which texts of the caller may run without a transaction around them, and which of those may be
//! retried.

use crate::backend::{Backend, WatchedQuery};
use crate::error::Error;
use crate::failure::{Failure, FailureKind};
use crate::sql_text::{LoneEffect, SqlStatement, SqlStatements, begins_with_a_query, has_inner_semicolon};
use crate::tx::unreadable;

/// Whether a statement that runs on its own is stored as a whole or not at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Atomicity {
    /// It is stored as a whole or not at all, so the strategy decides about retries.
    Whole,
    /// A part of it may be stored before it fails, so it is sent only once.
    MayStorePart,
}

/// Checks a text before it is sent on its own.
///
/// # Errors
///
/// [`Aborted`](crate::ErrorKind::Aborted) or [`Unsupported`](crate::ErrorKind::Unsupported) if the text
/// must not be sent on its own.
pub(super) fn check<DB: Backend>(query: &WatchedQuery<DB>) -> Result<Atomicity, Error> {
    let text = query.sql();
    if let Some(failure) = unreadable::<DB>(text) {
        return Err(Error::failed(failure, None));
    }
    // On a server, one query is one transaction. SQLite also has `OR FAIL`, so there the text is parsed.
    if DB::PREPARES_ONE_STATEMENT && !has_inner_semicolon(text) && begins_with_a_query(text) {
        return Ok(Atomicity::Whole);
    }
    let read = SqlStatements::of(DB::SYNTAX, text);
    let effects: Vec<_> = read.statements.iter().map(|it| (it, DB::lone_effect(it))).collect();
    let find = |effect| effects.iter().find(|(_, it)| *it == effect).map(|(statement, _)| *statement);
    if let Some(statement) = find(LoneEffect::LeavesState) {
        return Err(leaves_something(statement));
    }
    let in_parts = find(LoneEffect::MayStoreParts);
    let is_one_text = query.is_plain_text() || !DB::PREPARES_ONE_STATEMENT;
    if read.count > 1 && is_one_text {
        let databases = DB::SYNTAX.databases();
        if !DB::TEXT_IS_ONE_TRANSACTION {
            return Err(unsupported(format!(
                "{databases} cannot run several statements in one text as one transaction, so nothing was \
                 sent; run them as a unit of work"
            )));
        }
        if let Some(statement) = in_parts {
            return Err(unsupported(format!(
                "{} cannot be a part of one transaction with the other statements of its text, so nothing \
                 was sent; send it alone",
                statement.title()
            )));
        }
    }
    let other = SqlStatements::under_unusual_settings(DB::SYNTAX, text);
    let may_be_more = other.is_some_and(|other| is_one_text && other.count > read.count);
    if in_parts.is_some() || !read.complete || may_be_more {
        Ok(Atomicity::MayStorePart)
    } else {
        Ok(Atomicity::Whole)
    }
}

/// Fails if a statement cannot be stored as a part of a transaction.
pub(super) fn check_for_transaction(atomicity: Atomicity) -> Result<(), Error> {
    match atomicity {
        Atomicity::Whole => Ok(()),
        Atomicity::MayStorePart => Err(unsupported(
            "the options set a role or settings, which needs a transaction around the statement, and a part \
             of this statement may be stored without one; nothing was sent"
                .to_owned(),
        )),
    }
}

/// Adds to a failure the reason why it was not retried.
pub(super) fn sent_once(failure: Failure) -> Failure {
    failure.with_note(
        "it was sent once and is not sent again, because a part of it may be stored: look at what is there \
         before you repeat it",
    )
}

fn leaves_something(statement: &SqlStatement<'_>) -> Error {
    let message = format!(
        "{} was not sent: it would leave a transaction, a savepoint or a lock behind on a connection of the \
         pool; statements that belong together are a unit of work",
        statement.title()
    );
    Error::failed(Failure::new(FailureKind::Aborted, message), None)
}

fn unsupported(message: String) -> Error {
    Error::failed(Failure::new(FailureKind::Unsupported, message), None)
}
