//! Queries of this crate, for the features that are built on transactions.

use crate::backend::{Backend, WatchedQuery};
use crate::intercept::StatementAnswer;

use super::Tx;
use super::executor::{ResultReader, rows, watch};

impl<DB: Backend> Tx<DB> {
    /// Returns the rows of a query.
    pub(crate) async fn fetch_rows(&mut self, query: WatchedQuery<DB>) -> Result<Vec<DB::Row>, sqlx::Error> {
        watch(self.parts(), Ok(query), rows::<DB>(), DB::send_for_rows).await
    }

    /// Runs a statement and returns the number of rows that it affected.
    pub(crate) async fn execute_query(&mut self, query: WatchedQuery<DB>) -> Result<u64, sqlx::Error> {
        let reader =
            ResultReader { answer: |rows| StatementAnswer::affected(*rows), is_empty: |_: &u64| false };
        watch(self.parts(), Ok(query), reader, DB::run_statement).await
    }
}
