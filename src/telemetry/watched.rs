//! A unit under observation while it waits.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};

use tokio::time::Sleep;

use super::RunClock;

/// Runs a unit; those who watch are told while it lets its transaction wait for something else.
///
/// A timer is set only when the unit is found waiting while nothing of its own is on its way to the database,
/// which hardly ever happens between two statements.
pub(crate) async fn watched<F: Future>(
    observation: Option<&RunClock>,
    pool_exhausted: impl Fn() -> bool,
    unit: F,
) -> F::Output {
    let mut unit = pin!(unit);
    let mut alarm: Option<Pin<Box<Sleep>>> = None;
    poll_fn(|context| {
        let polled = unit.as_mut().poll(context);
        if let (Some(observation), true) = (observation, polled.is_pending()) {
            observation.look_at_the_clock(&mut alarm, &pool_exhausted, context);
        }
        polled
    })
    .await
}
