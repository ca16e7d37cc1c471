//! Queries of the crate's own, over whatever database.

use crate::backend::{Backend, Key, Numbers, WatchedQuery};

use super::Tx;
use super::executor::watch;

impl<DB: Backend> Tx<DB> {
    /// A key and a number from each row.
    pub(crate) async fn fetch_numbers<K: Key<DB>>(
        &mut self,
        query: WatchedQuery<DB>,
    ) -> Result<Numbers<K>, sqlx::Error> {
        let (journal, connection) = self.parts();
        watch::<DB, _, _>(journal, connection, Ok(query), DB::fetch_numbers).await
    }

    /// How many rows were touched.
    pub(crate) async fn execute_query(&mut self, query: WatchedQuery<DB>) -> Result<u64, sqlx::Error> {
        let (journal, connection) = self.parts();
        watch::<DB, _, _>(journal, connection, Ok(query), DB::run_statement).await
    }
}
