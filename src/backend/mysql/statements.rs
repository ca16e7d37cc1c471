//! What the statements of MySQL and MariaDB do to transactions.

use std::borrow::Cow;

use sqlx::MySql;

use super::{arguments, transaction};
use crate::backend::statements::{BeforeLoneStatement, StatementRules};
use crate::sql_text::{LoneEffect, SqlStatement, Syntax, TransactionEffect};

impl StatementRules for MySql {
    const SYNTAX: Syntax = Syntax::MySql;

    const PREPARES_ONE_STATEMENT: bool = true;

    const TEXT_IS_ONE_TRANSACTION: bool = false;

    const BEFORE_LONE_STATEMENT: Option<BeforeLoneStatement> = Some(BeforeLoneStatement {
        ask: "SELECT @@autocommit",
        set: "ROLLBACK AND NO CHAIN NO RELEASE; SET autocommit = 1",
        put_back: "SET autocommit = 0",
    });

    const COMMIT_AFTER_CALL: Option<&'static str> = Some(transaction::COMMIT);

    /// Follows the manuals' lists of statements that cause an implicit commit ([MySQL][mysql],
    /// [MariaDB][mariadb]).
    ///
    /// [mysql]: https://dev.mysql.com/doc/refman/8.4/en/implicit-commit.html
    /// [mariadb]: https://mariadb.com/kb/en/sql-statements-that-cause-an-implicit-commit/
    fn transaction_effect(statement: &SqlStatement<'_>) -> TransactionEffect {
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
        // MariaDB: ANALYZE of a statement executes it and shows its plan; ANALYZE TABLE commits.
        let analyzes_tables = begins(&["ANALYZE"])
            && (statement.has_any_at(1, &["TABLE", "TABLES"])
                || (statement.has_any_at(1, &["LOCAL", "NO_WRITE_TO_BINLOG"])
                    && statement.has_any_at(2, &["TABLE", "TABLES"])));
        let is_temporary_table = begins(&["CREATE", "TEMPORARY", "TABLE"])
            || begins(&["CREATE", "OR", "REPLACE", "TEMPORARY", "TABLE"])
            || begins(&["DROP", "TEMPORARY", "TABLE"])
            || begins(&["DROP", "TEMPORARY", "TABLES"]);
        if is_temporary_table || begins(&["DROP", "PREPARE"]) {
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

    /// Outside of a transaction, each statement of a procedure commits by itself.
    fn lone_effect(statement: &SqlStatement<'_>) -> LoneEffect {
        let leaves = statement.savepoint_effect().is_some()
            || statement.begins_with_any(&["LOCK", "UNLOCK", "BACKUP"])
            || (statement.begins(&["FLUSH"]) && (statement.mentions_any(&["LOCK", "EXPORT"])));
        match Self::transaction_effect(statement) {
            _ if leaves => LoneEffect::LeavesState,
            TransactionEffect::Controls | TransactionEffect::TouchesGuard => {
                // `BEGIN NOT ATOMIC` is a complete block, but not a transaction.
                if statement.begins(&["BEGIN", "NOT", "ATOMIC"]) {
                    LoneEffect::MayStoreParts
                } else {
                    LoneEffect::LeavesState
                }
            }
            TransactionEffect::MayEnd => LoneEffect::MayStoreParts,
            TransactionEffect::Inside | TransactionEffect::CommitsImplicitly => LoneEffect::AllOrNothing,
        }
    }

    fn placeholder(_number: usize) -> Cow<'static, str> {
        "?".into()
    }

    const INTEGER_TYPE: &'static str = "SIGNED";

    fn argument_texts(arguments: &str) -> Option<Vec<String>> {
        arguments::argument_texts(arguments)
    }
}

/// First words of statements that cannot end a transaction. A statement that begins with another word
/// (CALL, EXECUTE, a compound statement, one of a future version) may execute anything.
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

/// First words of statements that commit implicitly.
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

/// Returns the effect of a SET statement: most assign variables, and a few affect transactions.
fn set_effect(statement: &SqlStatement<'_>) -> TransactionEffect {
    use TransactionEffect::{CommitsImplicitly, Controls, Inside, MayEnd};

    // MariaDB: sets variables for one statement, which follows FOR.
    if statement.begins(&["SET", "STATEMENT"]) {
        let inner = statement.after("FOR");
        return inner.map_or(MayEnd, |inner| MySql::transaction_effect(&inner));
    }
    if statement.mentions_any_setting(&["autocommit", "completion_type"]) {
        return Controls;
    }
    let account = statement.has_any_at(1, &["PASSWORD"])
        || statement.begins(&["SET", "DEFAULT", "ROLE"])
        || statement.begins(&["SET", "RESOURCE", "GROUP"]);
    if account { CommitsImplicitly } else { Inside }
}
