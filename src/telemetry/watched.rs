//! Detects transactions that are left idle.

use std::future::{Future, poll_fn};
use std::pin::Pin;

use tokio::time::Sleep;

use super::RunClock;

/// Runs a unit, and notifies the observers of its run when it leaves its transaction idle for too long.
///
/// The timer is set only when the unit is pending without a statement in flight, which is rare between two
/// statements. The caller pins the unit: moving it here would store it twice in the future of every run.
pub(crate) async fn watched<F: Future + Unpin>(
    clock: Option<&RunClock>,
    pool_exhausted: impl Fn() -> bool,
    mut unit: F,
) -> F::Output {
    let mut alarm: Option<Pin<Box<Sleep>>> = None;
    poll_fn(|context| {
        let polled = Pin::new(&mut unit).poll(context);
        if let (Some(clock), true) = (clock, polled.is_pending()) {
            clock.check_idle(&mut alarm, &pool_exhausted, context);
        }
        polled
    })
    .await
}
