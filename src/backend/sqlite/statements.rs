//! What SQLite's statements do to transactions.

use std::borrow::Cow;

use sqlx::Sqlite;

use super::arguments;
use crate::backend::statements::StatementRules;
use crate::sql_text::{LoneEffect, SqlStatement, Syntax, TransactionEffect};

impl StatementRules for Sqlite {
    const SYNTAX: Syntax = Syntax::Sqlite;

    /// The driver runs all statements of a text, with or without arguments.
    const PREPARES_ONE_STATEMENT: bool = false;

    const TEXT_IS_ONE_TRANSACTION: bool = false;

    /// A column's `ON CONFLICT FAIL`, and `INSERT OR FAIL` in a trigger, store the rows before the violation.
    const VIOLATIONS_MAY_STORE_PARTS: bool = true;

    fn transaction_effect(statement: &SqlStatement<'_>) -> TransactionEffect {
        statement.savepoint_effect().unwrap_or_else(|| {
            if statement.begins_with_any(&["BEGIN", "START", "COMMIT", "END"]) {
                TransactionEffect::Controls
            } else {
                TransactionEffect::Inside
            }
        })
    }

    /// A savepoint opens a transaction if none is open. `OR FAIL` keeps the rows that were changed before
    /// the failure.
    fn lone_effect(statement: &SqlStatement<'_>) -> LoneEffect {
        if statement.savepoint_effect().is_some()
            || Self::transaction_effect(statement) != TransactionEffect::Inside
        {
            LoneEffect::LeavesState
        } else if statement.has_sequence(&["OR", "FAIL"]) {
            LoneEffect::MayStoreParts
        } else {
            LoneEffect::AllOrNothing
        }
    }

    fn placeholder(_number: usize) -> Cow<'static, str> {
        "?".into()
    }

    const INTEGER_TYPE: &'static str = "INTEGER";

    fn argument_texts(arguments: &str) -> Option<Vec<String>> {
        arguments::argument_texts(arguments)
    }
}
