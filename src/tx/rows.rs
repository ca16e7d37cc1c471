//! Queries of the crate's own, over whatever database.

use crate::backend::{Backend, Key, Numbers, WatchedQuery};
use crate::intercept::Answer;

use super::Tx;
use super::executor::{Reading, watch};

impl<DB: Backend> Tx<DB> {
    /// A key and a number from each row.
    pub(crate) async fn fetch_numbers<K: Key<DB>>(
        &mut self,
        query: WatchedQuery<DB>,
    ) -> Result<Numbers<K>, sqlx::Error> {
        let reading = Reading {
            told: |rows: &Numbers<K>| Answer { rows_read: rows.len(), ..Answer::default() },
            is_nothing: Vec::is_empty,
        };
        watch(self.parts(), Ok(query), reading, |connection, query| DB::fetch_numbers(connection, query))
            .await
    }

    /// How many rows were touched.
    pub(crate) async fn execute_query(&mut self, query: WatchedQuery<DB>) -> Result<u64, sqlx::Error> {
        let reading = Reading { told: |rows| Answer::affected(*rows), is_nothing: |_: &u64| false };
        watch(self.parts(), Ok(query), reading, DB::run_statement).await
    }
}
