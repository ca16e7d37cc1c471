//! One statement as a unit of work.

use async_trait::async_trait;

use super::{Decision, Ended, Unit};
use crate::backend::{Backend, WatchedQuery};
use crate::error::Error;
use crate::tx::Tx;

/// A statement of the caller that needs a transaction around it.
pub(super) struct StatementUnit<DB: Backend> {
    query: WatchedQuery<DB>,
    /// The result of the last attempt: how many rows were affected.
    result: Option<Result<u64, Error>>,
}

impl<DB: Backend> StatementUnit<DB> {
    pub(super) const fn new(query: WatchedQuery<DB>) -> Self {
        Self { query, result: None }
    }

    /// Returns the result of the statement, given how its run ended.
    pub(super) fn end(self, ended: Ended) -> Result<u64, Error> {
        match (ended, self.result) {
            (Ended::Committed, Some(Ok(rows))) => Ok(rows),
            (Ended::RolledBack, Some(Err(error))) => Err(error),
            _ => Err(Error::transactor_broke_its_contract()),
        }
    }
}

#[async_trait]
impl<DB: Backend> Unit<DB> for StatementUnit<DB> {
    async fn attempt(&mut self, tx: &mut Tx<DB>) -> Decision {
        let result = tx.execute_query(self.query.clone()).await;
        let decision = if result.is_ok() { Decision::Commit } else { Decision::RollBack };
        self.result = Some(result.map_err(Error::from));
        decision
    }
}
