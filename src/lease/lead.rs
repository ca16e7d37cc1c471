//! Leader election.

use std::pin::pin;

use super::{Attempted, Held, Lease, may_pass};
use crate::backend::Backend;
use crate::error::Error;
use crate::tx::{Repeatable, TxFn};
use futures_util::future::{Either, select};

/// Runs `work` while this process holds the lease, until it completes: leader election in one call.
///
/// Waits for the lease without limit. When the lease is lost, the future of `work` is dropped, and `work` is
/// called again once this process has the lease again. What `work` writes is stored by the leader only if its
/// transactions [check in](Held::check_in).
///
/// # Errors
///
/// Returns the error of `work`, and an error of the database that will not pass by itself, such as a missing
/// table. Other errors of the database count as a lease that is not free.
///
/// # Cancellation
///
/// May be dropped at any time, which drops `work` and releases the lease.
///
/// ```no_run
/// # async fn example(pool: sqlx::PgPool) -> Result<(), atomically::Error> {
/// use atomically::lease::{Lease, lead};
///
/// let lease = Lease::new("scheduler", &pool);
/// lead(&lease, async |held| {
///     loop {
///         println!("leading with token {}", held.token());
///         tokio::time::sleep(std::time::Duration::from_secs(60)).await;
///     }
/// })
/// .await
/// # }
/// ```
pub fn lead<DB, T, E, F>(lease: &Lease<DB>, work: F) -> impl Future<Output = Result<T, E>> + Send
where
    DB: Backend,
    F: LeaderFn<DB, T, E>,
    E: From<Error> + Send,
    T: Send,
{
    let lease = lease.clone();
    async move {
        loop {
            let held = acquire(&lease).await?;
            let led = match select(pin!(work.clone()(&held)), pin!(held.lost())).await {
                Either::Left((done, _)) => Some(done),
                Either::Right(((), _)) => None,
            };
            if let Some(done) = led {
                // The work is done: a lease that could not be released expires.
                let _ = held.release().await;
                return done;
            }
        }
    }
}

/// What a leader does: an async closure over the lease that it holds, which can be called again. The bound of
/// [`lead`].
///
/// Implemented for every such closure.
#[diagnostic::on_unimplemented(
    message = "this work of a leader cannot be begun again",
    label = "changes a capture, captures what is not `Clone + Send + Sync`, or holds what is not `Send`",
    note = "each time that the lease is acquired runs a fresh clone of the closure",
    note = "it is an async closure: `async |held| {{ … }}`, not `|held| async move {{ … }}`"
)]
pub trait LeaderFn<DB: Backend, T, E>:
    Repeatable
    + for<'h> AsyncFnOnce(&'h Held<DB>) -> Result<T, E>
    + for<'h> TxFn<&'h Held<DB>, Result<T, E>, Fut: Send>
{
}

#[diagnostic::do_not_recommend]
impl<DB: Backend, T, E, F> LeaderFn<DB, T, E> for F where
    F: Repeatable
        + for<'h> AsyncFnOnce(&'h Held<DB>) -> Result<T, E>
        + for<'h> TxFn<&'h Held<DB>, Result<T, E>, Fut: Send>
{
}

async fn acquire<DB: Backend>(lease: &Lease<DB>) -> Result<Held<DB>, Error> {
    loop {
        let pause = match lease.attempt().await {
            Ok(Attempted::Acquired(held)) => return Ok(held),
            Ok(Attempted::HeldElsewhere(remaining)) => lease.pause(remaining),
            Err(error) if may_pass(&error) => lease.pause(lease.poll),
            Err(error) => return Err(error),
        };
        lease.wait(pause).await;
    }
}
