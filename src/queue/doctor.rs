//! Checks the database of a queue.

use super::Queue;
use super::finding::{Finding, FindingKind};
use super::sql::{DoctorCheck, QueueSql, fetch_texts};
use crate::backend::{Backend, failure_or_other};
use crate::error::{Error, ErrorKind};
use crate::schema::Schema;
use crate::transactor::TransactorExt as _;

/// MySQL's and MariaDB's error for a missing privilege, such as `PROCESS`.
const PRIVILEGE_MISSING: &str = "1227";

impl<DB: Backend> Queue<DB> {
    /// Checks the queue's database for problems: its version, tables, indexes, collations, isolation level
    /// and journal. An empty list means that none was found.
    ///
    /// Most of these problems cause no errors. A claim without its index works while the table is small, and
    /// a case-insensitive collation does no harm until two names differ only in case.
    ///
    /// # Errors
    ///
    /// Returns the database's error.
    pub async fn doctor(&self) -> Result<Vec<Finding>, Error> {
        let findings: Result<_, Error> = self
            .db
            .run(async |tx| {
                let mut findings = Vec::new();
                for DoctorCheck { kind, sql } in QueueSql::of::<DB>().checks {
                    // The checks contain no data, and name the tables in string literals too.
                    let sql = self.schema().everywhere_in(sql);
                    match fetch_texts(tx, Schema::new(), sql).await {
                        Ok(messages) => {
                            findings.extend(messages.into_iter().map(|text| Finding::new(*kind, text)));
                        }
                        Err(error) if failure_or_other::<DB>(&error).code() == Some(PRIVILEGE_MISSING) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
                Ok(findings)
            })
            .await;
        match findings {
            // A read-only SQLite database refuses the transaction itself.
            Err(error) if error.kind() == ErrorKind::ReadOnly => {
                Ok(vec![Finding::new(FindingKind::ReadOnly, error.to_string())])
            }
            findings => findings,
        }
    }
}
