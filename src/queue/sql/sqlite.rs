//! Queues in SQLite.

use super::{DoctorCheck, QueueSql};
use crate::queue::finding::FindingKind;

pub(super) const SQL: QueueSql = QueueSql {
    // `unixepoch('subsec')` needs SQLite 3.42.
    now: "(CAST(round((julianday('now') - 2440587.5) * 86400000.0) AS INTEGER) * 1000)",
    checks: CHECKS,
    index_hint: "",
    next_waiting: super::next_waiting,
    // There is one writer at a time, so there is nothing to lock or to skip.
    lock: "",
    after: |due_at, id| format!("(due_at, id) > ({due_at}, {id})"),
    lone_prefix: "",
    lone_limit: "",
    completion_prefix: Some(""),
    id_among: super::id_among,
    max_statement_bytes: None,
    replace_lease: "ON CONFLICT (job_id) DO UPDATE SET token = excluded.token, until = excluded.until",
    replace_slots: "ON CONFLICT (id) DO UPDATE SET slots = excluded.slots",
    keep_slots: "ON CONFLICT (id) DO UPDATE SET slots = atomically_job_key.slots",
    free_slots: None,
    // There is one writer at a time: nothing changes between the search and the deletion.
    delete_batch: |table, key, condition| {
        format!("DELETE FROM {table} WHERE {key} IN (SELECT {key} FROM {table} WHERE {condition} LIMIT 1000)")
    },
};

const CHECKS: &[DoctorCheck] = &[
    DoctorCheck {
        kind: FindingKind::Missing,
        sql: "SELECT 'there is no table ' || name
              FROM (SELECT 'atomically_job' AS name UNION ALL SELECT 'atomically_job_lease'
                    UNION ALL SELECT 'atomically_job_key' UNION ALL SELECT 'atomically_job_pause')
              WHERE name NOT IN (SELECT name FROM sqlite_master WHERE type = 'table')",
    },
    DoctorCheck {
        kind: FindingKind::Missing,
        sql: "SELECT 'the table atomically_job is of an earlier version: '
                  || 'ALTER TABLE atomically_job ADD COLUMN ' || wanted.name || ' ' || type
              FROM (SELECT 'unique_until_claimed' AS name, 'INTEGER NOT NULL DEFAULT 0' AS type
                    UNION ALL SELECT 'key_name', 'TEXT' UNION ALL SELECT 'key_id', 'INTEGER'
                    UNION ALL SELECT 'key_limit', 'INTEGER' UNION ALL SELECT 'has_slot', 'INTEGER'
                    UNION ALL SELECT 'waiting_key', 'INTEGER' UNION ALL SELECT 'wanted_at', 'INTEGER')
                    AS wanted
              WHERE EXISTS (SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'atomically_job')
              AND wanted.name NOT IN (SELECT name FROM pragma_table_info('atomically_job'))",
    },
    DoctorCheck {
        kind: FindingKind::Engine,
        sql: "SELECT 'the ids of atomically_job are not AUTOINCREMENT: they are reused' FROM sqlite_master
              WHERE type = 'table' AND name = 'atomically_job' AND sql NOT LIKE '%AUTOINCREMENT%'",
    },
    DoctorCheck {
        kind: FindingKind::Index,
        sql: "SELECT 'no' || iif(is_unique, ' unique', '') || ' index of atomically_job starts with ('
                  || columns || '): ' || otherwise
              FROM (SELECT 'queue,priority,due_at,id' AS columns, 0 AS is_unique,
                           'each claim reads the whole table' AS otherwise
                    UNION ALL SELECT 'queue,unique_key', 1, 'unique keys are not enforced'
                    UNION ALL SELECT 'waiting_key,id', 0,
                              'the next job of a key is searched in the whole table')
              WHERE EXISTS (SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'atomically_job')
              AND NOT EXISTS (SELECT 1 FROM pragma_index_list('atomically_job') AS list
                  WHERE list.\"unique\" = is_unique
                  AND columns = (SELECT group_concat(name) FROM pragma_index_info(list.name)))",
    },
    DoctorCheck {
        kind: FindingKind::Collation,
        sql: "SELECT 'the collation ' || info.coll || ' of the column ' || info.name
                  || ' treats different strings as equal'
              FROM pragma_index_list('atomically_job') AS list, pragma_index_xinfo(list.name) AS info
              WHERE info.name IN ('queue', 'unique_key') AND info.key AND info.coll <> 'BINARY'",
    },
    DoctorCheck {
        kind: FindingKind::Journal,
        sql: "SELECT 'the journal mode is ' || journal_mode
                  || ' and not WAL: readers and workers block each other'
              FROM pragma_journal_mode WHERE journal_mode NOT IN ('wal', 'memory')",
    },
];
