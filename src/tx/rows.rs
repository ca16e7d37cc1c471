//! Queries of the crate's own, over whatever database.

use crate::backend::{Backend, Key, WatchedQuery};
use crate::intercept::Answer;

use super::Tx;
use super::executor::watch;

impl<DB: Backend> Tx<DB> {
    /// A key and a number from each row.
    pub(crate) async fn fetch_numbers<K: Key<DB>>(
        &mut self,
        query: WatchedQuery<DB>,
    ) -> Result<Vec<(K, Option<i64>)>, sqlx::Error> {
        let told = |rows: &Vec<(K, Option<i64>)>| Answer { rows_read: rows.len(), ..Answer::default() };
        watch(self.parts(), Ok(query), told, |connection, query| DB::fetch_numbers(connection, query)).await
    }

    /// How many rows were touched.
    pub(crate) async fn execute_query(&mut self, query: WatchedQuery<DB>) -> Result<u64, sqlx::Error> {
        watch(self.parts(), Ok(query), |rows| Answer::affected(*rows), DB::run_statement).await
    }
}
