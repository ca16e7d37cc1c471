//! Runs existing functions that take a connection inside of a transaction.

use std::error::Error as StdError;

use super::{Tx, TxFn};
use crate::backend::{Backend, SyntheticError, failure_of};
use crate::error::Error;
use crate::failure::Failure;

impl<DB: Backend> Tx<DB> {
    /// Runs a function that takes a connection, such as an existing helper with a `&mut PgConnection`
    /// parameter.
    ///
    /// ```
    /// # use atomically::{Error, Serializable, TransactorExt as _, Tx};
    /// # use sqlx::{SqliteConnection, SqlitePool};
    /// mod repo {
    /// #   use sqlx::SqliteConnection;
    ///     pub async fn take_one(conn: &mut SqliteConnection, id: i64) -> Result<(), sqlx::Error> {
    ///         let sql = "UPDATE item SET stock = stock - 1 WHERE id = $1";
    ///         sqlx::query(sql).bind(id).execute(conn).await.map(drop)
    ///     }
    /// }
    ///
    /// # async fn example(pool: SqlitePool) -> Result<(), Error> {
    /// let db = Serializable::default().on(&pool);
    /// let id = 7;
    /// db.run(async |tx: &mut Tx<_>| -> Result<_, Error> {
    ///     tx.on_connection(async |conn: &mut SqliteConnection| repo::take_one(conn, id).await).await?;
    ///     Ok(())
    /// })
    /// .await
    /// # }
    /// ```
    ///
    /// The transaction remembers an error that the function returns like an error of its own statements. It
    /// classifies the [`sqlx::Error`] or [`Error`](crate::Error) in the returned error or its chain of
    /// sources, and a conflict is retried even if the unit ignores it.
    ///
    /// An error that the function itself ignores is detected before the commit, in one round trip to the
    /// server, and a failed transaction is not committed. The function must not end the transaction, and that
    /// includes `begin`: sqlx does not know that the connection is in a transaction, so the `commit` that
    /// belongs to it would commit the unit's transaction. The limits of [`connection`](Self::connection)
    /// apply here as well.
    ///
    /// The guide has a [table](crate::guide::migrating#which-helpers-work) of the functions that can be
    /// called like this.
    ///
    /// # Errors
    ///
    /// Returns the function's own error. If the transaction has already ended, the function is not called,
    /// and the failure that ended the transaction is returned as a [`sqlx::Error`].
    ///
    /// # Cancellation
    ///
    /// Dropping the future before the function has returned ends the transaction and closes its connection.
    pub async fn on_connection<F, T, E>(&mut self, function: F) -> Result<T, E>
    where
        F: for<'c> AsyncFnOnce(&'c mut DB::Connection) -> Result<T, E>
            + for<'c> TxFn<&'c mut DB::Connection, Result<T, E>, Fut: Send>,
        E: StdError + From<sqlx::Error> + 'static,
    {
        if let Some(failure) = self.state.over() {
            return Err(sqlx::Error::from(SyntheticError::TransactionOver(failure.clone())).into());
        }
        self.touch();
        self.state.set_in_flight(true);
        let result = function(self.session.connection()).await;
        self.state.set_in_flight(false);
        if let Some(failure) = result.as_ref().err().and_then(|error| in_chain::<DB>(error)) {
            self.state.note::<DB>(failure);
        }
        result
    }
}

/// Returns the first database failure in a chain of errors.
fn in_chain<DB: Backend>(error: &(dyn StdError + 'static)) -> Option<Failure> {
    let mut next = Some(error);
    while let Some(error) = next {
        let driver = error.downcast_ref::<sqlx::Error>();
        let original =
            driver.and_then(sqlx::Error::as_database_error).and_then(|error| error.try_downcast_ref());
        let own: Option<&Error> = error.downcast_ref().or(original);
        let failure = own.and_then(Error::failure).cloned();
        if let Some(failure) = failure.or_else(|| failure_of::<DB>(driver?, false)) {
            return Some(failure);
        }
        next = error.source();
    }
    None
}
