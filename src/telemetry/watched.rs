//! Detects transactions that are left idle.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};

use tokio::time::Sleep;

use super::RunClock;

/// Runs a unit, and notifies the observers of its run when it leaves its transaction idle for too long.
///
/// The timer is set only when the unit is pending without a statement in flight, which is rare between two
/// statements.
pub(crate) async fn watched<F: Future>(
    clock: Option<&RunClock>,
    pool_exhausted: impl Fn() -> bool,
    unit: F,
) -> F::Output {
    let mut unit = pin!(unit);
    let mut alarm: Option<Pin<Box<Sleep>>> = None;
    poll_fn(|context| {
        let polled = unit.as_mut().poll(context);
        if let (Some(clock), true) = (clock, polled.is_pending()) {
            clock.check_idle(&mut alarm, &pool_exhausted, context);
        }
        polled
    })
    .await
}
