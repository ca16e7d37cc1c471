//! What is wrong with a queue's database, before it goes wrong.

use std::fmt;

use super::{Queue, QueueBackend};
use crate::backend::failure_or_other;
use crate::error::{Error, ErrorKind};
use crate::transactor::TransactorExt as _;

/// What the doctor found.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Finding {
    /// What is wrong.
    pub fault: FindingKind,
    /// With what, and what comes of it.
    pub message: String,
}

/// What can be wrong with a queue's database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FindingKind {
    /// The database is too old for what is asked of it.
    Version,
    /// It takes no writes.
    ReadOnly,
    /// A table is not there, or lacks a column.
    Missing,
    /// A table is kept in a way that loses or mixes up jobs: on MySQL and MariaDB not by InnoDB, on
    /// PostgreSQL not logged, on SQLite with ids that are used again.
    Engine,
    /// An index is not there or is not valid: claims are slow, on MySQL and MariaDB they also find nothing
    /// where there is something, and unique keys are not unique.
    Index,
    /// Texts that are different are taken for the same.
    Collation,
    /// Transactions do not get the isolation level that they ask for.
    Isolation,
    /// The journal of SQLite, or the binary log of MySQL and MariaDB, is kept in a way that does not go with
    /// a queue.
    Journal,
    /// A transaction that has been open for more than ten minutes holds back PostgreSQL's vacuum, or the
    /// purge of MySQL and MariaDB, which those show only to accounts with the privilege `PROCESS`.
    Vacuum,
    /// A worker has as many handlers as its pool has connections, or more:
    /// [`Worker::doctor`](super::Worker::doctor).
    Pool,
}

/// A statement that answers a row, in words, for everything that is wrong.
#[doc(hidden)]
#[derive(Debug)]
pub struct DoctorCheck {
    pub fault: FindingKind,
    pub sql: &'static str,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl<DB: QueueBackend> Queue<DB> {
    /// Looks for what is wrong with the database that the queue is in, as far as that can be seen from
    /// outside: its version, tables, indexes, collations, isolation level and journal. Nothing found is an
    /// empty list.
    ///
    /// Most of it is silent otherwise. A claim without its index works, on a small table; and names that are
    /// compared without regard to case are, until there are two of them.
    ///
    /// # Errors
    ///
    /// The database's.
    pub async fn doctor(&self) -> Result<Vec<Finding>, Error> {
        let looked: Result<_, Error> = self
            .db
            .run(async |tx| {
                let mut findings = Vec::new();
                for DoctorCheck { fault, sql } in DB::CHECKS {
                    match DB::fetch_texts(tx, (*sql).to_owned()).await {
                        Ok(messages) => findings
                            .extend(messages.into_iter().map(|message| Finding { fault: *fault, message })),
                        // MySQL's and MariaDB's "you need the PROCESS privilege": that is not shown to
                        // everybody.
                        Err(error) if failure_or_other::<DB>(&error).code() == Some("1227") => {}
                        Err(error) => return Err(error.into()),
                    }
                }
                Ok(findings)
            })
            .await;
        match looked {
            // SQLite refuses the transaction.
            Err(error) if error.kind() == ErrorKind::ReadOnly => {
                Ok(vec![Finding { fault: FindingKind::ReadOnly, message: error.to_string() }])
            }
            looked => looked,
        }
    }
}
