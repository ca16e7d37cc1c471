//! What PostgreSQL's statements do to transactions.

use crate::sql_text::{LoneEffect, Statement, TransactionEffect};

/// CALL and DO stay inside: within a transaction, the server refuses the COMMIT of a procedure.
pub(super) fn transaction_effect(statement: &Statement<'_>) -> TransactionEffect {
    if let Some(effect) = statement.savepoint_effect() {
        return effect;
    }
    let controls = statement.begins_with_any(&["BEGIN", "COMMIT", "END", "ABORT"])
        || statement.begins(&["START", "TRANSACTION"])
        || statement.begins(&["PREPARE", "TRANSACTION"]);
    if controls { TransactionEffect::Controls } else { TransactionEffect::Inside }
}

/// What may commit several times on its way ([transaction
/// management](https://www.postgresql.org/docs/current/plpgsql-transactions.html)), or runs as several
/// transactions.
pub(super) fn lone_effect(statement: &Statement<'_>) -> LoneEffect {
    if statement.savepoint_effect().is_some() || transaction_effect(statement) != TransactionEffect::Inside {
        return LoneEffect::LeavesSomething;
    }
    let in_steps = statement.begins_with_any(&["CALL", "DO", "VACUUM", "CLUSTER", "REINDEX"])
        || (statement.begins_with_any(&["CREATE", "DROP", "ALTER"])
            && statement.mentions_any(&["CONCURRENTLY"]));
    if in_steps { LoneEffect::InParts } else { LoneEffect::Whole }
}
