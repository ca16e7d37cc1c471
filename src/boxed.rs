//! Futures that are created in the box that they stay in.

use std::pin::Pin;

/// Boxes the future that `create` returns, without copying it.
///
/// `Box::pin` creates the future on the stack and copies all of it to the heap, including the states that it
/// has not reached yet: the compiler cannot leave the copy out, because it would have to drop the future if
/// the allocation failed. Here the allocation comes first.
pub(crate) fn boxed<F>(create: impl FnOnce() -> F) -> Pin<Box<F>> {
    Box::into_pin(Box::write(Box::new_uninit(), create()))
}
