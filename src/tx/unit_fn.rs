//! Traits for closures that run in a transaction.

use std::future::Future;

use crate::backend::Backend;
use crate::error::Error;

use super::Tx;

/// An async closure whose future can be named, so that it can be required to be `Send`.
///
/// Implemented for every async closure with one argument. `AsyncFnOnce` alone does not make the future
/// nameable, and a future that may not be `Send` cannot be spawned.
#[diagnostic::on_unimplemented(
    message = "this is not a unit of work",
    label = "expected an async closure: `async |tx| {{ … }}` or `async move |tx| {{ … }}`",
    note = "write `async |tx| {{ … }}`, not `|tx| async move {{ … }}`"
)]
pub trait TxFn<A, R>: AsyncFnOnce(A) -> R + FnOnce(A) -> <Self as TxFn<A, R>>::Fut {
    /// The closure's future.
    type Fut: Future<Output = R>;
}

impl<F, A, Fut, R> TxFn<A, R> for F
where
    F: AsyncFnOnce(A) -> R + FnOnce(A) -> Fut,
    Fut: Future<Output = R>,
{
    type Fut = Fut;
}

/// A closure that can be retried: each attempt runs a fresh clone.
///
/// Implemented for every type that is `Clone`, `Send` and `Sync`. It is a trait of its own so that the
/// compiler can explain why a closure does not qualify:
///
/// ```compile_fail
/// # use atomically::{Error, Optimistic, TransactorExt as _};
/// # async fn example(pool: sqlx::SqlitePool) -> Result<(), Error> {
/// let mut attempts = 0;
/// Optimistic::default().on(&pool).run(async |tx| -> Result<_, Error> {
///     attempts += 1; // changes a capture
///     sqlx::query("SELECT 1").execute(&mut *tx).await?;
///     Ok(())
/// }).await
/// # }
/// ```
///
/// ```compile_fail
/// # use atomically::{Error, Optimistic, TransactorExt as _};
/// # async fn example(pool: sqlx::SqlitePool) -> Result<(), Error> {
/// let name = std::rc::Rc::new(String::from("not for other threads"));
/// Optimistic::default().on(&pool).run(async |tx| -> Result<_, Error> {
///     sqlx::query("SELECT $1").bind(name.as_str()).execute(&mut *tx).await?;
///     Ok(())
/// }).await
/// # }
/// ```
#[diagnostic::on_unimplemented(
    message = "this unit of work cannot be run again",
    label = "changes what it captures, or captures something that is not `Clone`, `Send` and `Sync`",
    note = "each attempt runs a fresh clone of the closure: nothing leaks from one attempt into the next",
    note = "return a value instead of changing a captured variable; capture an `Arc` instead of an `Rc`"
)]
pub trait Repeatable: Clone + Send + Sync {}

#[diagnostic::do_not_recommend]
impl<F: Clone + Send + Sync> Repeatable for F {}

/// The error type of a unit of work: any type that holds the errors of this crate.
///
/// Implemented for every type that implements `From<atomically::Error>`: [`Error`](crate::Error) itself,
/// [`sqlx::Error`], `anyhow::Error`, `Box<dyn std::error::Error + Send + Sync>`, and an enum of your own with
/// these lines:
///
/// ```
/// #[derive(Debug, thiserror::Error)]
/// enum BookingError {
///     #[error("sold out")]
///     SoldOut,
///     #[error(transparent)]
///     Database(#[from] atomically::Error),
/// }
///
/// // For `?` on queries. It keeps constraints typed on every database.
/// impl From<sqlx::Error> for BookingError {
///     fn from(error: sqlx::Error) -> Self {
///         Self::Database(error.into())
///     }
/// }
/// ```
///
/// It is a trait of its own so that the compiler can say which lines are missing.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot hold the errors of a unit of work",
    label = "the error type `{Self}` does not implement `From<atomically::Error>`",
    note = "with thiserror, add a variant: `#[error(transparent)] Database(#[from] atomically::Error),`",
    note = "or write `impl From<atomically::Error> for {Self} {{ … }}`"
)]
pub trait UnitError: From<Error> {}

#[diagnostic::do_not_recommend]
impl<E: From<Error>> UnitError for E {}

/// An async closure over a transaction that returns a `Result`: the bound of [`Tx::savepoint`].
///
/// Implemented for every such closure.
#[rustfmt::skip] // rustfmt joins the bounds into a line that is longer than its own limit.
pub trait ScopeFn<DB: Backend, T, E>:
    for<'t> AsyncFnOnce(&'t mut Tx<DB>) -> Result<T, E>
    + for<'t> TxFn<&'t mut Tx<DB>, Result<T, E>, Fut: Send>
{
}

impl<DB: Backend, T, E, F> ScopeFn<DB, T, E> for F where
    F: for<'t> AsyncFnOnce(&'t mut Tx<DB>) -> Result<T, E>
        + for<'t> TxFn<&'t mut Tx<DB>, Result<T, E>, Fut: Send>
{
}

/// A unit of work: an async closure over a transaction that can be retried. The bound of
/// [`run`](crate::TransactorExt::run).
///
/// Implemented for every such closure. Use it as the bound of your own functions around `run`:
///
/// ```
/// use atomically::{Error, Transactor, TransactorExt as _, UnitFn};
/// use sqlx::Sqlite;
///
/// async fn run_and_log<T: Send>(
///     db: &dyn Transactor<Sqlite>,
///     unit: impl UnitFn<Sqlite, T, Error>,
/// ) -> Result<T, Error> {
///     let result = db.run(unit).await;
///     if let Err(error) = &result {
///         eprintln!("{error}");
///     }
///     result
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "this unit of work cannot be run again",
    label = "changes a capture, captures what is not `Clone + Send + Sync`, or holds what is not `Send`",
    note = "each attempt runs a fresh clone of the closure: nothing leaks from one attempt into the next",
    note = "return a value instead of changing a captured variable; capture an `Arc` instead of an `Rc`",
    note = "a unit is an async closure: `async |tx| {{ … }}`, not `|tx| async move {{ … }}`"
)]
pub trait UnitFn<DB: Backend, T, E>:
    Repeatable
    + for<'t> AsyncFnOnce(&'t mut Tx<DB>) -> Result<T, E>
    + for<'t> TxFn<&'t mut Tx<DB>, Result<T, E>, Fut: Send>
{
}

#[diagnostic::do_not_recommend]
impl<DB: Backend, T, E, F> UnitFn<DB, T, E> for F where
    F: Repeatable
        + for<'t> AsyncFnOnce(&'t mut Tx<DB>) -> Result<T, E>
        + for<'t> TxFn<&'t mut Tx<DB>, Result<T, E>, Fut: Send>
{
}

/// An async closure with two arguments whose future can be named: [`TxFn`] for units that receive rows.
pub trait RowsTxFn<A, B, R>:
    AsyncFnOnce(A, B) -> R + FnOnce(A, B) -> <Self as RowsTxFn<A, B, R>>::Fut
{
    /// The closure's future.
    type Fut: Future<Output = R>;
}

impl<F, A, B, Fut, R> RowsTxFn<A, B, R> for F
where
    F: AsyncFnOnce(A, B) -> R + FnOnce(A, B) -> Fut,
    Fut: Future<Output = R>,
{
    type Fut = Fut;
}

/// A unit of work that receives its rows: an async closure over a transaction and rows that can be retried.
/// The bound of [`Reading::run`](crate::Reading::run).
///
/// Implemented for every such closure.
#[diagnostic::on_unimplemented(
    message = "this unit of work cannot be run again",
    label = "changes a capture, captures what is not `Clone + Send + Sync`, or holds what is not `Send`",
    note = "a unit that reads its rows is an async closure of two arguments: `async |tx, rows| {{ … }}`"
)]
pub trait RowsFn<DB: Backend, R, T, E>:
    Repeatable
    + for<'t> AsyncFnOnce(&'t mut Tx<DB>, R) -> Result<T, E>
    + for<'t> RowsTxFn<&'t mut Tx<DB>, R, Result<T, E>, Fut: Send>
{
}

#[diagnostic::do_not_recommend]
impl<DB: Backend, R, T, E, F> RowsFn<DB, R, T, E> for F where
    F: Repeatable
        + for<'t> AsyncFnOnce(&'t mut Tx<DB>, R) -> Result<T, E>
        + for<'t> RowsTxFn<&'t mut Tx<DB>, R, Result<T, E>, Fut: Send>
{
}
