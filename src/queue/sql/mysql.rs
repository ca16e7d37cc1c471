//! Queues in MySQL and MariaDB.

use futures_core::future::BoxFuture;
use sqlx::MySql;

use super::{Dialect, Inserted, QueueBackend};
use crate::queue::doctor::{DoctorCheck, FindingKind};
use crate::queue::insertion::NewRows;
use crate::tx::Tx;

/// Every server takes statements of fewer bytes than this, unless it was told to take next to nothing.
const MIN_CHECKED: usize = 1_000_000;

impl QueueBackend for MySql {}

impl Dialect for MySql {
    /// Names and keys are bytes: the usual collations take `a`, `A` and `a ` for the same. There are no
    /// partial indexes: the key that is unique is a column of its own, which is NULL for the dead, and NULLs
    /// are not compared.
    const SCHEMA: &'static str = "CREATE TABLE IF NOT EXISTS atomically_job (
    id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    queue VARBINARY(100) NOT NULL,
    priority SMALLINT NOT NULL,
    due_at BIGINT,
    token BIGINT NOT NULL DEFAULT 0,
    attempts INT NOT NULL DEFAULT 0,
    max_attempts INT NOT NULL,
    enqueued_at BIGINT NOT NULL,
    claimed_at BIGINT,
    died_at BIGINT,
    unique_key VARBINARY(255),
    unique_until_claimed BOOLEAN NOT NULL DEFAULT FALSE,
    live_key VARBINARY(255) AS (IF(died_at IS NULL, unique_key, NULL)) STORED,
    payload LONGTEXT CHARACTER SET utf8mb4 NOT NULL,
    last_error TEXT CHARACTER SET utf8mb4,
    KEY atomically_job_claim (queue, priority, due_at, id),
    UNIQUE KEY atomically_job_unique (queue, live_key),
    KEY atomically_job_dead (queue, died_at)
) ENGINE = InnoDB;
CREATE TABLE IF NOT EXISTS atomically_job_lease (
    job_id BIGINT NOT NULL PRIMARY KEY,
    token BIGINT NOT NULL,
    until BIGINT NOT NULL
) ENGINE = InnoDB;
";

    /// `UNIX_TIMESTAMP` would ask for the time zone of the session, in which an hour of each year is there
    /// twice.
    const NOW: &'static str = "TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6))";

    const CHECKS: &'static [DoctorCheck] = &[
        DoctorCheck {
            fault: FindingKind::Version,
            sql: "SELECT CONVERT(CONCAT('version ', VERSION(), ' has no SKIP LOCKED: MySQL 8.0 or MariaDB 10.6 have') USING utf8mb4)
                  FROM (SELECT 1) AS one
                  WHERE CAST(SUBSTRING_INDEX(VERSION(), '.', 1) AS UNSIGNED) * 100
                      + CAST(SUBSTRING_INDEX(SUBSTRING_INDEX(VERSION(), '.', 2), '.', -1) AS UNSIGNED)
                      < IF(VERSION() LIKE '%MariaDB%', 1006, 800)",
        },
        DoctorCheck {
            fault: FindingKind::ReadOnly,
            sql: "SELECT CONVERT('the server takes no writes' USING utf8mb4) FROM (SELECT 1) AS one WHERE @@global.read_only",
        },
        DoctorCheck {
            fault: FindingKind::Missing,
            sql: "SELECT CONVERT(CONCAT('there is no table ', name) USING utf8mb4)
                  FROM (SELECT 'atomically_job' AS name UNION ALL SELECT 'atomically_job_lease') AS wanted
                  WHERE NOT EXISTS (SELECT 1 FROM information_schema.tables
                                    WHERE table_schema = DATABASE() AND table_name = name)",
        },
        DoctorCheck {
            fault: FindingKind::Missing,
            sql: "SELECT CONVERT('the table atomically_job is of an earlier version: ALTER TABLE atomically_job ADD COLUMN unique_until_claimed BOOLEAN NOT NULL DEFAULT FALSE' USING utf8mb4)
                  FROM information_schema.tables
                  WHERE table_schema = DATABASE() AND table_name = 'atomically_job'
                  AND NOT EXISTS (SELECT 1 FROM information_schema.columns
                                  WHERE table_schema = DATABASE() AND table_name = 'atomically_job'
                                  AND column_name = 'unique_until_claimed')",
        },
        DoctorCheck {
            fault: FindingKind::Engine,
            sql: "SELECT CONVERT(CONCAT('the table ', table_name, ' is kept by ', engine,
                         ', which ignores SKIP LOCKED and has no transactions') USING utf8mb4)
                  FROM information_schema.tables
                  WHERE table_schema = DATABASE() AND table_name IN ('atomically_job', 'atomically_job_lease')
                  AND engine <> 'InnoDB'",
        },
        DoctorCheck {
            fault: FindingKind::Index,
            sql: "SELECT CONVERT(CONCAT('atomically_job has no', IF(non_unique, '', ' unique'), ' index ', name, ' on (', columns,
                         '): ', otherwise) USING utf8mb4)
                  FROM (SELECT 'atomically_job_claim' AS name, 'queue,priority,due_at,id' AS columns, 1 AS non_unique,
                               'a claim locks every row that it reads, and the next one finds none' AS otherwise
                        UNION ALL
                        SELECT 'atomically_job_unique', 'queue,live_key', 0, 'unique keys are not unique') AS wanted
                  WHERE EXISTS (SELECT 1 FROM information_schema.tables
                                WHERE table_schema = DATABASE() AND table_name = 'atomically_job')
                  AND NOT EXISTS (SELECT 1 FROM information_schema.statistics AS found
                                  WHERE table_schema = DATABASE() AND table_name = 'atomically_job'
                                  AND found.non_unique = wanted.non_unique AND index_name = name
                                  GROUP BY index_name
                                  HAVING GROUP_CONCAT(column_name ORDER BY seq_in_index) = columns)",
        },
        DoctorCheck {
            fault: FindingKind::Collation,
            sql: "SELECT CONVERT(CONCAT('the column ', column_name, ' is ', column_type, ' and not of bytes: it takes different ',
                         'texts for equal') USING utf8mb4)
                  FROM information_schema.columns
                  WHERE table_schema = DATABASE() AND table_name = 'atomically_job'
                  AND column_name IN ('queue', 'unique_key', 'live_key') AND data_type <> 'varbinary'",
        },
        DoctorCheck {
            fault: FindingKind::Journal,
            sql: "SELECT CONVERT('the binary log is written by statement, which knows neither READ COMMITTED nor SKIP LOCKED'
                         USING utf8mb4) FROM (SELECT 1) AS one
                  WHERE @@global.log_bin AND @@session.binlog_format = 'STATEMENT'",
        },
        DoctorCheck {
            fault: FindingKind::Vacuum,
            sql: "SELECT CONVERT(CONCAT('session ', trx_mysql_thread_id, ' has held back the purge of old rows since ', trx_started,
                         ': claims become slower while it does') USING utf8mb4)
                  FROM information_schema.innodb_trx
                  WHERE trx_started < NOW() - INTERVAL 10 MINUTE AND trx_mysql_thread_id <> CONNECTION_ID()",
        },
    ];

    /// InnoDB locks every row that it reads on the way, before it sorts and counts them. Without this index,
    /// read in its order, one claim locks the whole queue, and the next one finds none. Neither makes a range
    /// of a comparison of rows.
    fn behind(due_at: &str, id: &str) -> String {
        format!("due_at >= {due_at} AND (due_at > {due_at} OR id > {id})")
    }

    const HINT: &'static str = "FORCE INDEX (atomically_job_claim)";

    /// The server closes the connection on which it is sent too much, which cannot be told from one that
    /// broke.
    fn check_size(tx: &mut Tx<Self>, bytes: usize) -> BoxFuture<'_, Result<(), sqlx::Error>> {
        Box::pin(async move {
            if bytes < MIN_CHECKED {
                return Ok(());
            }
            let sql = "SELECT CAST(@@max_allowed_packet AS SIGNED)".to_owned();
            let limit = Self::fetch_integers(tx, sql, Vec::new()).await?.first().copied().unwrap_or(i64::MAX);
            if i64::try_from(bytes).is_ok_and(|bytes| bytes < limit) {
                return Ok(());
            }
            let message = format!(
                "a job of about {bytes} bytes does not fit into the server's max_allowed_packet of {limit}: keep large \
                 payloads elsewhere and enqueue their name, or raise max_allowed_packet"
            );
            Err(sqlx::Error::Configuration(message.into()))
        })
    }

    /// `IGNORE` and not `ON DUPLICATE KEY UPDATE`, after which nobody can tell a new row from an old one:
    /// sqlx asks the server to count rows that were found. What else `IGNORE` lets pass, values that are too
    /// long, has been refused before.
    fn insert<'t>(tx: &'t mut Tx<Self>, rows: NewRows<'_>) -> BoxFuture<'t, Result<Inserted, sqlx::Error>> {
        let ((values, arguments), bytes) = (rows.values::<Self>(), rows.bytes());
        Box::pin(async move {
            Self::check_size(tx, bytes).await?;
            let sql = sqlx::AssertSqlSafe(format!("INSERT IGNORE INTO {values}"));
            let query = sqlx::query(sql).persistent(false);
            let query = arguments.into_iter().fold(query, |query, text| query.bind(text));
            let done = query.execute(&mut *tx).await?;
            Ok(Inserted {
                rows: done.rows_affected(),
                id: (done.rows_affected() > 0).then(|| done.last_insert_id().cast_signed()),
            })
        })
    }

    const REPLACING_LEASE: &'static str =
        "ON DUPLICATE KEY UPDATE token = VALUES(token), until = VALUES(until)";

    /// InnoDB waits for a row that is being changed, and compares it again then.
    fn delete_batch(table: &str, _key: &str, condition: &str) -> String {
        format!("DELETE FROM {table} WHERE {condition} LIMIT 1000")
    }
}
