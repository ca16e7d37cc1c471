//! One statement as a unit of work.

use async_trait::async_trait;

use super::output::UnitOutput;
use super::{Decision, Ended, Unit};
use crate::backend::{Backend, WatchedQuery};
use crate::error::Error;
use crate::tx::Tx;

/// A statement of the caller that needs a transaction around it.
pub(super) struct StatementUnit<DB: Backend> {
    query: WatchedQuery<DB>,
    /// How many rows the attempts affected.
    output: UnitOutput<u64, Error>,
}

impl<DB: Backend> StatementUnit<DB> {
    pub(super) const fn new(query: WatchedQuery<DB>) -> Self {
        Self { query, output: UnitOutput::new() }
    }

    /// Returns the result of the statement, given how its run ended.
    pub(super) fn end(self, ended: Ended) -> Result<u64, Error> {
        self.output.end(Ok(ended))
    }
}

#[async_trait]
impl<DB: Backend> Unit<DB> for StatementUnit<DB> {
    async fn attempt(&mut self, tx: &mut Tx<DB>) -> Decision {
        let affected = tx.execute_query(self.query.clone()).await;
        self.output.store(affected.map_err(Error::from))
    }

    fn commit_is_unknown(&mut self, attempt: u32) {
        self.output.commit_is_unknown(attempt);
    }

    fn commit_was_found(&mut self, attempt: u32) {
        self.output.commit_was_found(attempt);
    }
}
