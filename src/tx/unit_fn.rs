//! The bounds that let a unit of work be a plain async closure.

use std::future::Future;

/// An async closure whose future can be named, so that it can be required to be `Send`.
///
/// Implemented for every async closure of one argument; never by hand. `AsyncFnOnce` alone says nothing about its
/// future, and a future that may not be `Send` cannot be spawned.
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

/// What may be run again: each attempt runs a fresh clone.
///
/// Implemented for everything that is `Clone`, `Send` and `Sync`. It has a name of its own so that the compiler can say
/// what is wrong with a closure that is not:
///
/// ```compile_fail
/// # use atomically::{Error, Optimistic, TransactorExt as _};
/// # async fn example(pool: sqlx::SqlitePool) -> Result<(), Error> {
/// let mut attempts = 0;
/// Optimistic::default().on(&pool).run(async |tx| {
///     attempts += 1; // changes a capture
///     sqlx::query("SELECT 1").execute(&mut *tx).await?;
///     Ok::<_, Error>(())
/// }).await
/// # }
/// ```
///
/// ```compile_fail
/// # use atomically::{Error, Optimistic, TransactorExt as _};
/// # async fn example(pool: sqlx::SqlitePool) -> Result<(), Error> {
/// let name = std::rc::Rc::new(String::from("not for other threads"));
/// Optimistic::default().on(&pool).run(async |tx| {
///     sqlx::query("SELECT $1").bind(name.as_str()).execute(&mut *tx).await?;
///     Ok::<_, Error>(())
/// }).await
/// # }
/// ```
#[diagnostic::on_unimplemented(
    message = "this unit of work cannot be run again",
    label = "changes what it captures, or captures something that is not `Clone`, `Send` and `Sync`",
    note = "each attempt runs a fresh clone of the closure, so that nothing leaks from one attempt into the next",
    note = "return a value instead of changing a captured variable; capture an `Arc` instead of an `Rc`"
)]
pub trait Repeatable: Clone + Send + Sync {}

#[diagnostic::do_not_recommend]
impl<F: Clone + Send + Sync> Repeatable for F {}
