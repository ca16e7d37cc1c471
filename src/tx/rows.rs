//! Queries of the crate's own.

use crate::backend::{Backend, Key, Numbers, WatchedQuery};
use crate::intercept::StatementAnswer;

use super::Tx;
use super::executor::{Reading, rows, watch};

impl<DB: Backend> Tx<DB> {
    /// Returns the rows of a query.
    pub(crate) async fn fetch_rows(&mut self, query: WatchedQuery<DB>) -> Result<Vec<DB::Row>, sqlx::Error> {
        watch(self.parts(), Ok(query), rows::<DB>(), DB::send_for_rows).await
    }

    /// Returns a key and a number from each row.
    pub(crate) async fn fetch_numbers<K: Key<DB>>(
        &mut self,
        query: WatchedQuery<DB>,
    ) -> Result<Numbers<K>, sqlx::Error> {
        let reading = Reading {
            told: |rows: &Numbers<K>| StatementAnswer { rows_read: rows.len(), ..StatementAnswer::default() },
            is_nothing: Vec::is_empty,
        };
        watch(self.parts(), Ok(query), reading, |connection, query| DB::fetch_numbers(connection, query))
            .await
    }

    /// Runs a statement, and returns how many rows it affected.
    pub(crate) async fn execute_query(&mut self, query: WatchedQuery<DB>) -> Result<u64, sqlx::Error> {
        let reading = Reading { told: |rows| StatementAnswer::affected(*rows), is_nothing: |_: &u64| false };
        watch(self.parts(), Ok(query), reading, DB::run_statement).await
    }
}
