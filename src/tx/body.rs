//! The bound that lets a unit of work be a plain async closure.

use std::future::Future;

/// An async closure whose future can be named, so that it can be required to be `Send`.
///
/// Implemented for every async closure of one argument; never by hand. `AsyncFnOnce` alone says nothing about its
/// future, and a future that may not be `Send` cannot be spawned.
#[diagnostic::on_unimplemented(
    message = "this is not a unit of work that can be run and run again",
    label = "expected `async |tx| {{ … }}` or `async move |tx| {{ … }}`",
    note = "each attempt runs a fresh clone of the closure: what it captures must be `Clone` and `Send`, and must not be changed by it",
    note = "write `async |tx| …`, not `|tx| async move {{ … }}`"
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
