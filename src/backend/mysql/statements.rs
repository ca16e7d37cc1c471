//! What the statements of MySQL and MariaDB do to transactions.

use crate::sql_text::{LoneEffect, Statement, TransactionEffect};

/// What stays inside of a transaction, by its first word. What begins otherwise (CALL, EXECUTE, a compound
/// statement, one of a version to come) may hold anything.
const INSIDE: [&str; 28] = [
    "SELECT",
    "INSERT",
    "UPDATE",
    "DELETE",
    "REPLACE",
    "WITH",
    "VALUES",
    "TABLE",
    "LOAD",
    "HANDLER",
    "DO",
    "SET",
    "SHOW",
    "DESC",
    "DESCRIBE",
    "EXPLAIN",
    "USE",
    "HELP",
    "PREPARE",
    "DEALLOCATE",
    "SIGNAL",
    "RESIGNAL",
    "GET",
    "KILL",
    "CHECKSUM",
    "BINLOG",
    "PURGE",
    "ANALYZE",
];

/// What commits implicitly by its first word alone.
const COMMITS: [&str; 19] = [
    "ALTER",
    "CREATE",
    "DROP",
    "RENAME",
    "TRUNCATE",
    "GRANT",
    "REVOKE",
    "UNLOCK",
    "FLUSH",
    "OPTIMIZE",
    "REPAIR",
    "CHECK",
    "RESET",
    "INSTALL",
    "UNINSTALL",
    "IMPORT",
    "STOP",
    "CHANGE",
    "CACHE",
];

/// After the manuals' lists of statements that cause an implicit commit
/// ([MySQL](https://dev.mysql.com/doc/refman/8.4/en/implicit-commit.html),
/// [MariaDB](https://mariadb.com/docs/server/reference/sql-statements/transactions/sql-statements-that-cause-an-implicit-commit)).
pub(super) fn transaction_effect(statement: &Statement<'_>) -> TransactionEffect {
    use TransactionEffect::{CommitsImplicitly, Controls, Inside, MayEnd};

    if let Some(effect) = statement.savepoint_effect() {
        return effect;
    }
    let begins = |words: &[&str]| statement.begins(words);
    if begins(&["START", "TRANSACTION"]) || statement.begins_with_any(&["BEGIN", "COMMIT", "XA"]) {
        return Controls;
    }
    if begins(&["SET"]) {
        return set_effect(statement);
    }
    // MariaDB: ANALYZE runs a statement and shows its plan; on tables it commits.
    let analyzes_tables = begins(&["ANALYZE"])
        && (statement.has_any_at(1, &["TABLE", "TABLES"])
            || (statement.has_any_at(1, &["LOCAL", "NO_WRITE_TO_BINLOG"])
                && statement.has_any_at(2, &["TABLE", "TABLES"])));
    let makes_temporary_table = begins(&["CREATE", "TEMPORARY", "TABLE"])
        || begins(&["CREATE", "OR", "REPLACE", "TEMPORARY", "TABLE"])
        || begins(&["DROP", "TEMPORARY", "TABLE"])
        || begins(&["DROP", "TEMPORARY", "TABLES"]);
    if makes_temporary_table || begins(&["DROP", "PREPARE"]) {
        return Inside;
    }
    let commits = statement.begins_with_any(&COMMITS)
        || analyzes_tables
        || begins(&["LOAD", "INDEX"])
        || (begins(&["LOCK"]) && statement.has_any_at(1, &["TABLE", "TABLES"]))
        || begins(&["START"])
        || statement.begins_with_any(&["BACKUP", "CLONE", "RESTART", "SHUTDOWN"]);
    if commits {
        CommitsImplicitly
    } else if statement.begins_with_any(&INSIDE) || statement.is_in_parentheses() {
        Inside
    } else {
        MayEnd
    }
}

/// SET is about many things.
fn set_effect(statement: &Statement<'_>) -> TransactionEffect {
    use TransactionEffect::{CommitsImplicitly, Controls, Inside, MayEnd};

    // MariaDB: variables for one statement, which is the rest.
    if statement.begins(&["SET", "STATEMENT"]) {
        let inner = statement.after("FOR");
        return inner.map_or(MayEnd, |inner| transaction_effect(&inner));
    }
    if statement.mentions_any_setting(&["autocommit", "completion_type"]) {
        return Controls;
    }
    let account = statement.has_any_at(1, &["PASSWORD"])
        || statement.begins(&["SET", "DEFAULT", "ROLE"])
        || statement.begins(&["SET", "RESOURCE", "GROUP"]);
    if account { CommitsImplicitly } else { Inside }
}

/// A procedure commits each of its statements by itself where no transaction is open.
pub(super) fn lone_effect(statement: &Statement<'_>) -> LoneEffect {
    let leaves = statement.savepoint_effect().is_some()
        || statement.begins_with_any(&["LOCK", "UNLOCK", "BACKUP"])
        || (statement.begins(&["FLUSH"]) && (statement.mentions_any(&["LOCK", "EXPORT"])));
    match transaction_effect(statement) {
        _ if leaves => LoneEffect::LeavesSomething,
        TransactionEffect::Controls | TransactionEffect::TouchesGuard => {
            // `BEGIN NOT ATOMIC` ends by itself, but is no transaction.
            if statement.begins(&["BEGIN", "NOT", "ATOMIC"]) {
                LoneEffect::InParts
            } else {
                LoneEffect::LeavesSomething
            }
        }
        TransactionEffect::MayEnd => LoneEffect::InParts,
        TransactionEffect::Inside | TransactionEffect::CommitsImplicitly => LoneEffect::Whole,
    }
}
