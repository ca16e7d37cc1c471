//! Queues in MySQL and MariaDB.

use super::{DoctorCheck, QueueSql, WaitingSearch};
use crate::queue::finding::FindingKind;

#[cfg(feature = "mysql")]
mod insert;

pub(super) const SQL: QueueSql = QueueSql {
    // `UNIX_TIMESTAMP` depends on the time zone of the session, in which one hour of each year occurs twice.
    now: "TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6))",
    checks: CHECKS,
    // InnoDB locks every row that it reads before it sorts and limits them. Without reading this index in its
    // order, one claim would lock the whole queue and the next one would find no jobs.
    index_hint: "FORCE INDEX (atomically_job_claim)",
    next_waiting,
    lock: "FOR UPDATE SKIP LOCKED",
    // Neither server reads an index range for a comparison of rows.
    after: |due_at, id| format!("due_at >= {due_at} AND (due_at > {due_at} OR id > {id})"),
    // Under REPEATABLE READ, an INSERT … SELECT would lock the row that it reads. MySQL cannot limit the
    // waits of one statement.
    lone_prefix: "SET TRANSACTION ISOLATION LEVEL READ COMMITTED; \
                  /*M! SET STATEMENT innodb_lock_wait_timeout = 9, lock_wait_timeout = 9 FOR */ ",
    lone_limit: "",
    // MySQL has no RETURNING.
    completion_prefix: None,
    id_among: super::id_among,
    max_statement_bytes: Some("SELECT CAST(@@max_allowed_packet AS SIGNED)"),
    replace_lease: "ON DUPLICATE KEY UPDATE token = VALUES(token), until = VALUES(until)",
    // InnoDB waits for a row that is being changed, and then evaluates the condition again.
    replace_slots: "ON DUPLICATE KEY UPDATE slots = VALUES(slots)",
    keep_slots: "ON DUPLICATE KEY UPDATE slots = atomically_job_key.slots",
    free_slots: None,
    delete_batch: |table, _key, condition| format!("DELETE FROM {table} WHERE {condition} LIMIT 1000"),
};

#[cfg(feature = "mysql")]
pub(super) static CALLS: super::DriverCalls<sqlx::MySql> =
    super::DriverCalls { insert: insert::insert, insert_alone: None, claim: None };

/// InnoDB locks the first row behind a range. That may be a job of another key that a transaction has just
/// enqueued, and the search would wait for it. The range is therefore read without locks, and its rows are
/// locked by their ids.
///
/// At a higher level, a read without locks may not see the jobs that are waiting. Behind the rows with one
/// value InnoDB locks none, but it reads all index entries of the key, which include those of earlier jobs
/// while an old snapshot exists.
fn next_waiting(search: &WaitingSearch<'_>) -> String {
    let WaitingSearch { key, from_id, limit, lock, is_read_committed } = search;
    // With the primary key, the search would wait for jobs of other keys.
    let waiting = "atomically_job FORCE INDEX (atomically_job_waiting)";
    if !is_read_committed {
        return format!(
            "SELECT id FROM {waiting} WHERE waiting_key = {key} AND id + 0 >= {from_id} ORDER BY id \
             LIMIT {limit} {lock}"
        );
    }
    format!(
        "SELECT job.id FROM (SELECT id FROM {waiting} WHERE waiting_key = {key} AND id >= {from_id} \
         ORDER BY id LIMIT {limit}) AS next \
         STRAIGHT_JOIN atomically_job AS job FORCE INDEX (PRIMARY) ON job.id = next.id \
         WHERE job.waiting_key = {key} ORDER BY job.id {lock}"
    )
}

const CHECKS: &[DoctorCheck] = &[
    DoctorCheck {
        kind: FindingKind::Version,
        sql: "SELECT CONVERT(CONCAT('version ', VERSION(), ' has no SKIP LOCKED: use MySQL 8.0 or ',
                     'MariaDB 10.6, or later') USING utf8mb4)
              FROM (SELECT 1) AS one
              WHERE CAST(SUBSTRING_INDEX(VERSION(), '.', 1) AS UNSIGNED) * 100
                  + CAST(SUBSTRING_INDEX(SUBSTRING_INDEX(VERSION(), '.', 2), '.', -1) AS UNSIGNED)
                  < IF(VERSION() LIKE '%MariaDB%', 1006, 800)",
    },
    DoctorCheck {
        kind: FindingKind::ReadOnly,
        sql: "SELECT CONVERT('the server accepts no writes' USING utf8mb4) FROM (SELECT 1) AS one
              WHERE @@global.read_only",
    },
    DoctorCheck {
        kind: FindingKind::Missing,
        sql: "SELECT CONVERT(CONCAT('there is no table ', name) USING utf8mb4)
              FROM (SELECT 'atomically_job' AS name UNION ALL SELECT 'atomically_job_lease'
                    UNION ALL SELECT 'atomically_job_key' UNION ALL SELECT 'atomically_job_pause') AS wanted
              WHERE NOT EXISTS (SELECT 1 FROM information_schema.tables
                                WHERE table_schema = DATABASE() AND table_name = name)",
    },
    DoctorCheck {
        kind: FindingKind::Missing,
        sql: "SELECT CONVERT(CONCAT('the table atomically_job is of an earlier version: ',
                     'ALTER TABLE atomically_job ADD COLUMN ', name, ' ', type) USING utf8mb4)
              FROM (SELECT 'unique_until_claimed' AS name, 'BOOLEAN NOT NULL DEFAULT FALSE' AS type
                    UNION ALL SELECT 'key_name', 'VARCHAR(255) CHARACTER SET utf8mb4'
                    UNION ALL SELECT 'key_id', 'BIGINT' UNION ALL SELECT 'key_limit', 'INT'
                    UNION ALL SELECT 'has_slot', 'SMALLINT' UNION ALL SELECT 'waiting_key', 'BIGINT'
                    UNION ALL SELECT 'wanted_at', 'BIGINT') AS wanted
              WHERE EXISTS (SELECT 1 FROM information_schema.tables
                            WHERE table_schema = DATABASE() AND table_name = 'atomically_job')
              AND NOT EXISTS (SELECT 1 FROM information_schema.columns
                              WHERE table_schema = DATABASE() AND table_name = 'atomically_job'
                              AND column_name = name)",
    },
    DoctorCheck {
        kind: FindingKind::Engine,
        sql: "SELECT CONVERT(CONCAT('the table ', table_name, ' is stored by ', engine,
                     ', which ignores SKIP LOCKED and has no transactions') USING utf8mb4)
              FROM information_schema.tables
              WHERE table_schema = DATABASE() AND table_name IN (
                  'atomically_job', 'atomically_job_lease', 'atomically_job_key', 'atomically_job_pause')
              AND engine <> 'InnoDB'",
    },
    DoctorCheck {
        kind: FindingKind::Index,
        sql: "SELECT CONVERT(CONCAT('atomically_job has no', IF(non_unique, '', ' unique'), ' index ', name,
                     ' on (', columns, '): ', otherwise) USING utf8mb4)
              FROM (SELECT 'atomically_job_claim' AS name, 'queue,priority,due_at,id' AS columns,
                           1 AS non_unique,
                           'a claim locks every row that it reads, and others find no jobs' AS otherwise
                    UNION ALL
                    SELECT 'atomically_job_unique', 'queue,live_key', 0, 'unique keys are not enforced'
                    UNION ALL
                    SELECT 'atomically_job_waiting', 'waiting_key,id', 1,
                           'the next job of a key is searched in the whole table')
                  AS wanted
              WHERE EXISTS (SELECT 1 FROM information_schema.tables
                            WHERE table_schema = DATABASE() AND table_name = 'atomically_job')
              AND NOT EXISTS (SELECT 1 FROM information_schema.statistics AS found
                              WHERE table_schema = DATABASE() AND table_name = 'atomically_job'
                              AND found.non_unique = wanted.non_unique AND index_name = name
                              GROUP BY index_name
                              HAVING GROUP_CONCAT(column_name ORDER BY seq_in_index) = columns)",
    },
    DoctorCheck {
        kind: FindingKind::Collation,
        sql: "SELECT CONVERT(CONCAT('the column ', column_name, ' is ', column_type, ' and not VARBINARY: ',
                     'it treats different strings as equal') USING utf8mb4)
              FROM information_schema.columns
              WHERE table_schema = DATABASE() AND table_name = 'atomically_job'
              AND column_name IN ('queue', 'unique_key', 'live_key') AND data_type <> 'varbinary'",
    },
    DoctorCheck {
        kind: FindingKind::Journal,
        sql: "SELECT CONVERT(CONCAT('binlog_format is STATEMENT, which supports neither READ COMMITTED ',
                     'nor SKIP LOCKED') USING utf8mb4)
              FROM (SELECT 1) AS one
              WHERE @@global.log_bin AND @@session.binlog_format = 'STATEMENT'",
    },
    DoctorCheck {
        kind: FindingKind::Vacuum,
        sql: "SELECT CONVERT(CONCAT('session ', trx_mysql_thread_id, ' has held back the purge of old rows ',
                     'since ', trx_started, ': claims become slower meanwhile') USING utf8mb4)
              FROM information_schema.innodb_trx
              WHERE trx_started < NOW() - INTERVAL 10 MINUTE AND trx_mysql_thread_id <> CONNECTION_ID()",
    },
];
