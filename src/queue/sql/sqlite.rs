//! Queues in SQLite.

use sqlx::Sqlite;

use super::{Dialect, QueueBackend};
use crate::queue::doctor::{DoctorCheck, FindingKind};

impl QueueBackend for Sqlite {}

impl Dialect for Sqlite {
    /// `AUTOINCREMENT`: without it the id of a job that is done is given to the next one, whose tokens begin
    /// anew.
    const SCHEMA: &'static str = "CREATE TABLE IF NOT EXISTS atomically_job (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    queue TEXT NOT NULL,
    priority INTEGER NOT NULL,
    due_at INTEGER,
    token INTEGER NOT NULL DEFAULT 0,
    attempts INTEGER NOT NULL DEFAULT 0,
    max_attempts INTEGER NOT NULL,
    enqueued_at INTEGER NOT NULL,
    claimed_at INTEGER,
    died_at INTEGER,
    unique_key TEXT,
    unique_until_claimed INTEGER NOT NULL DEFAULT 0,
    payload TEXT NOT NULL,
    last_error TEXT
);
CREATE INDEX IF NOT EXISTS atomically_job_claim ON atomically_job (queue, priority, due_at, id);
CREATE UNIQUE INDEX IF NOT EXISTS atomically_job_unique ON atomically_job (queue, unique_key)
    WHERE unique_key IS NOT NULL AND died_at IS NULL;
CREATE INDEX IF NOT EXISTS atomically_job_dead ON atomically_job (queue, died_at) WHERE died_at IS NOT NULL;
CREATE TABLE IF NOT EXISTS atomically_job_lease (
    job_id INTEGER PRIMARY KEY,
    token INTEGER NOT NULL,
    until INTEGER NOT NULL
);
";

    /// `unixepoch('subsec')` needs SQLite 3.42.
    const NOW: &'static str = "(CAST(round((julianday('now') - 2440587.5) * 86400000.0) AS INTEGER) * 1000)";

    const CHECKS: &'static [DoctorCheck] = &[
        DoctorCheck {
            fault: FindingKind::Missing,
            sql: "SELECT 'there is no table ' || name
                  FROM (SELECT 'atomically_job' AS name UNION ALL SELECT 'atomically_job_lease')
                  WHERE name NOT IN (SELECT name FROM sqlite_master WHERE type = 'table')",
        },
        DoctorCheck {
            fault: FindingKind::Missing,
            sql: "SELECT 'the table atomically_job is of an earlier version: ALTER TABLE atomically_job ADD COLUMN unique_until_claimed INTEGER NOT NULL DEFAULT 0' FROM sqlite_master
                  WHERE type = 'table' AND name = 'atomically_job'
                  AND 'unique_until_claimed' NOT IN (SELECT name FROM pragma_table_info('atomically_job'))",
        },
        DoctorCheck {
            fault: FindingKind::Engine,
            sql: "SELECT 'the ids of atomically_job are not AUTOINCREMENT: they are given out again' FROM sqlite_master
                  WHERE type = 'table' AND name = 'atomically_job' AND sql NOT LIKE '%AUTOINCREMENT%'",
        },
        DoctorCheck {
            fault: FindingKind::Index,
            sql: "SELECT 'no' || iif(is_unique, ' unique', '') || ' index of atomically_job begins with (' || columns || '): '
                      || otherwise
                  FROM (SELECT 'queue,priority,due_at,id' AS columns, 0 AS is_unique,
                               'each claim reads the whole table' AS otherwise
                        UNION ALL SELECT 'queue,unique_key', 1, 'unique keys are not unique')
                  WHERE EXISTS (SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'atomically_job')
                  AND NOT EXISTS (SELECT 1 FROM pragma_index_list('atomically_job') AS list WHERE list.\"unique\" = is_unique
                      AND columns = (SELECT group_concat(name) FROM pragma_index_info(list.name)))",
        },
        DoctorCheck {
            fault: FindingKind::Collation,
            sql: "SELECT 'the column ' || info.name || ' takes different texts for equal: it is compared by ' || info.coll
                  FROM pragma_index_list('atomically_job') AS list, pragma_index_xinfo(list.name) AS info
                  WHERE info.name IN ('queue', 'unique_key') AND info.key AND info.coll <> 'BINARY'",
        },
        DoctorCheck {
            fault: FindingKind::Journal,
            sql: "SELECT 'the journal mode is ' || journal_mode || ' and not WAL: readers and workers wait for each other'
                  FROM pragma_journal_mode WHERE journal_mode NOT IN ('wal', 'memory')",
        },
    ];

    /// There is one writer at a time, so nothing has to be locked or left out.
    const LOCK: &'static str = "";

    /// There is one writer at a time, and this is it: nothing changes between the search and the removal.
    fn delete_batch(table: &str, key: &str, condition: &str) -> String {
        format!("DELETE FROM {table} WHERE {key} IN (SELECT {key} FROM {table} WHERE {condition} LIMIT 1000)")
    }
}
