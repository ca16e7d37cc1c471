//! Queues in PostgreSQL.

use super::{DoctorCheck, QueueSql};
use crate::queue::finding::FindingKind;

#[cfg(feature = "postgres")]
mod claim;
#[cfg(feature = "postgres")]
mod insert;

pub(super) const SQL: QueueSql = QueueSql {
    // The time of the statement does not change while an index is read. `clock_timestamp()` does, and could
    // not be used for an index condition.
    now: "(extract(epoch FROM statement_timestamp()) * 1000000)::bigint",
    checks: CHECKS,
    index_hint: "",
    next_waiting: super::next_waiting,
    lock: "FOR UPDATE SKIP LOCKED",
    after: |due_at, id| format!("(due_at, id) > ({due_at}, {id})"),
    // A text of several statements is one transaction, at whose end the setting is undone.
    lone_prefix: "SET TRANSACTION ISOLATION LEVEL READ COMMITTED; SET LOCAL statement_timeout = 9900; ",
    lone_limit: " AND set_config('lock_timeout', '9900', true) IS NOT NULL",
    // The rows have just been claimed, so they are cached. The server assumes that they are not, and would
    // rather read the whole table than a few hundred of its pages by the index.
    completion_prefix: Some(
        "SET TRANSACTION ISOLATION LEVEL READ COMMITTED; SET LOCAL statement_timeout = 9900; \
         SET LOCAL lock_timeout = 20; SET LOCAL enable_seqscan = off; ",
    ),
    // The server reads an array faster than a list of expressions.
    id_among: |ids| format!("id = ANY('{{{ids}}}'::bigint[])"),
    max_statement_bytes: None,
    replace_lease: "ON CONFLICT (job_id) DO UPDATE SET token = excluded.token, until = excluded.until",
    replace_slots: "ON CONFLICT (id) DO UPDATE SET slots = excluded.slots",
    keep_slots: "ON CONFLICT (id) DO UPDATE SET slots = atomically_job_key.slots",
    free_slots: Some(free_slots),
    delete_batch,
};

/// The jobs are updated by an array of ids: a join with `next`, whose size the planner overestimates, could
/// read the whole table.
fn free_slots(freed: &[(i64, u64)]) -> String {
    let freed: Vec<_> = freed.iter().map(|(key, slots)| format!("({key}::bigint, {slots})")).collect();
    format!(
        "WITH freed (key_id, count) AS (VALUES {}), \
         key AS (SELECT id, slots - taken + count AS free, next_id \
                 FROM atomically_job_key JOIN freed ON key_id = id), \
         next AS MATERIALIZED (SELECT job.id FROM key, LATERAL (\
             SELECT id FROM atomically_job WHERE waiting_key = key.id AND atomically_job.id >= next_id \
             ORDER BY id LIMIT GREATEST(free, 0)) AS job), \
         given AS (UPDATE atomically_job SET {} WHERE id = ANY(ARRAY(SELECT id FROM next)) \
                   RETURNING key_id, id), \
         totals AS (SELECT key_id, COUNT(*) AS jobs, MAX(id) AS last FROM given GROUP BY key_id) \
         UPDATE atomically_job_key SET taken = taken - count + COALESCE(jobs, 0), \
         next_id = COALESCE(last + 1, next_id) FROM freed LEFT JOIN totals USING (key_id) \
         WHERE atomically_job_key.id = freed.key_id RETURNING taken",
        freed.join(", "),
        SQL.give_slot()
    )
}

/// A row may change between the search and the deletion. The lock prevents that, and skips a row that is
/// being changed. The condition is repeated because after a wait PostgreSQL checks only that of the outer
/// statement again.
fn delete_batch(table: &str, key: &str, condition: &str) -> String {
    format!(
        "DELETE FROM {table} WHERE {key} = ANY(ARRAY(SELECT {key} FROM {table} WHERE {condition} LIMIT 1000 \
         FOR UPDATE SKIP LOCKED)) AND {condition}"
    )
}

#[cfg(feature = "postgres")]
pub(super) static CALLS: super::DriverCalls<sqlx::Postgres> = super::DriverCalls {
    insert: insert::insert,
    insert_alone: Some(insert::insert_alone),
    claim: Some(claim::claim),
};

const CHECKS: &[DoctorCheck] = &[
    DoctorCheck {
        kind: FindingKind::Version,
        sql: "SELECT 'PostgreSQL ' || current_setting('server_version') || ' is older than 12'
              WHERE current_setting('server_version_num')::int < 120000",
    },
    DoctorCheck {
        kind: FindingKind::ReadOnly,
        sql: "SELECT CASE WHEN pg_is_in_recovery() THEN 'the server is a standby and accepts no writes'
                  ELSE 'transactions are read-only by default: default_transaction_read_only is on' END
              WHERE current_setting('transaction_read_only')::bool",
    },
    DoctorCheck {
        kind: FindingKind::Missing,
        sql: "SELECT 'there is no table ' || name
              FROM unnest(ARRAY['atomically_job', 'atomically_job_lease', 'atomically_job_key',
                                'atomically_job_pause']) AS name
              WHERE to_regclass(name) IS NULL",
    },
    DoctorCheck {
        kind: FindingKind::Missing,
        sql: "SELECT 'the table atomically_job is of an earlier version: '
                  || 'ALTER TABLE atomically_job ADD COLUMN ' || name || ' ' || type
              FROM (VALUES ('unique_until_claimed', 'BOOLEAN NOT NULL DEFAULT FALSE'), ('key_name', 'TEXT'),
                           ('key_id', 'BIGINT'), ('key_limit', 'INTEGER'), ('has_slot', 'SMALLINT'),
                           ('waiting_key', 'BIGINT'), ('wanted_at', 'BIGINT')) AS wanted (name, type)
              WHERE to_regclass('atomically_job') IS NOT NULL AND NOT EXISTS (
                  SELECT FROM pg_attribute WHERE attrelid = to_regclass('atomically_job')
                  AND attname = name AND NOT attisdropped)",
    },
    DoctorCheck {
        kind: FindingKind::Engine,
        sql: "SELECT 'the table ' || relname || ' is not logged: a crash of the server empties it'
              FROM pg_class
              WHERE oid IN (to_regclass('atomically_job'), to_regclass('atomically_job_lease'),
                            to_regclass('atomically_job_key'), to_regclass('atomically_job_pause'))
              AND relpersistence <> 'p'",
    },
    DoctorCheck {
        kind: FindingKind::Index,
        sql: "SELECT 'no valid' || CASE WHEN is_unique THEN ' unique' ELSE '' END
                  || ' index of atomically_job starts with (' || columns || '): ' || otherwise
              FROM (VALUES ('queue,priority,due_at,id', false, 'each claim reads the whole table'),
                           ('queue,unique_key', true, 'unique keys are not enforced'),
                           ('waiting_key,id', false, 'the next job of a key is searched in the whole table'))
                  AS wanted (columns, is_unique, otherwise)
              WHERE to_regclass('atomically_job') IS NOT NULL AND NOT EXISTS (
                  SELECT FROM pg_index
                  WHERE indrelid = to_regclass('atomically_job') AND indisvalid AND indisunique = is_unique
                  AND columns = (SELECT string_agg(attname, ',' ORDER BY position)
                                 FROM unnest(indkey) WITH ORDINALITY AS key (number, position)
                                 JOIN pg_attribute ON attrelid = indrelid AND attnum = number))",
    },
    DoctorCheck {
        kind: FindingKind::Collation,
        sql: "SELECT 'the collation of the column ' || attname || ' treats different strings as equal'
              FROM pg_attribute JOIN pg_collation ON pg_collation.oid = attcollation
              WHERE attrelid = to_regclass('atomically_job') AND attname IN ('queue', 'unique_key')
              AND NOT collisdeterministic",
    },
    DoctorCheck {
        kind: FindingKind::Isolation,
        sql: "SELECT 'a transaction that requests READ COMMITTED gets '
                  || upper(current_setting('transaction_isolation')) || ': concurrent claims will conflict'
              WHERE current_setting('transaction_isolation') <> 'read committed'",
    },
    DoctorCheck {
        kind: FindingKind::Vacuum,
        sql: "SELECT 'session ' || pid || ' has held back vacuum for '
                  || date_trunc('second', now() - xact_start) || ': claims become slower meanwhile'
              FROM pg_stat_activity
              WHERE backend_xmin IS NOT NULL AND xact_start < now() - interval '10 minutes'
              AND datname = current_database() AND pid <> pg_backend_pid()",
    },
];
