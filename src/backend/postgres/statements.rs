//! What PostgreSQL's statements do to transactions.

use std::borrow::Cow;

use sqlx::Postgres;

use super::arguments;
use crate::backend::statements::StatementRules;
use crate::sql_text::{LoneEffect, SqlStatement, Syntax, TransactionEffect};

impl StatementRules for Postgres {
    const SYNTAX: Syntax = Syntax::Postgres;

    fn keeps_statements(connection: &Self::Connection) -> bool {
        sqlx::Connection::cached_statements_size(connection) > 0
    }

    const PREPARES_ONE_STATEMENT: bool = true;

    const TEXT_IS_ONE_TRANSACTION: bool = true;

    /// CALL and DO cannot end a transaction: within one, the server refuses the COMMIT of a procedure.
    fn transaction_effect(statement: &SqlStatement<'_>) -> TransactionEffect {
        if let Some(effect) = statement.savepoint_effect() {
            return effect;
        }
        let controls = statement.begins_with_any(&["BEGIN", "COMMIT", "END", "ABORT"])
            || statement.begins(&["START", "TRANSACTION"])
            || statement.begins(&["PREPARE", "TRANSACTION"]);
        if controls { TransactionEffect::Controls } else { TransactionEffect::Inside }
    }

    fn defines_data(statement: &SqlStatement<'_>) -> bool {
        statement.begins_with_any(&DEFINITIONS)
            || statement.begins(&["REFRESH", "MATERIALIZED"])
            || statement.begins(&["SECURITY", "LABEL"])
            || statement.begins(&["IMPORT", "FOREIGN"])
    }

    /// Procedures may commit several times ([transaction
    /// management](https://www.postgresql.org/docs/current/plpgsql-transactions.html)), and some commands
    /// run as several transactions.
    fn lone_effect(statement: &SqlStatement<'_>) -> LoneEffect {
        if statement.savepoint_effect().is_some()
            || Self::transaction_effect(statement) != TransactionEffect::Inside
        {
            return LoneEffect::LeavesState;
        }
        let in_steps = statement.begins_with_any(&["CALL", "DO", "VACUUM", "CLUSTER", "REINDEX"])
            || (statement.begins_with_any(&["CREATE", "DROP", "ALTER"])
                && statement.mentions_any(&["CONCURRENTLY"]));
        if in_steps { LoneEffect::MayStoreParts } else { LoneEffect::AllOrNothing }
    }

    fn placeholder(number: usize) -> Cow<'static, str> {
        format!("${number}").into()
    }

    const INTEGER_TYPE: &'static str = "BIGINT";

    fn argument_texts(arguments: &str) -> Option<Vec<String>> {
        arguments::argument_texts(arguments)
    }
}

/// First words of statements that define data.
const DEFINITIONS: [&str; 10] =
    ["CREATE", "ALTER", "DROP", "TRUNCATE", "GRANT", "REVOKE", "COMMENT", "REASSIGN", "REINDEX", "CLUSTER"];
