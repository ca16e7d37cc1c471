//! Pauses a handler at a point of its work.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;

use async_trait::async_trait;
use tokio::task::yield_now;

use crate::intercept::{Fault, Interceptor, Next, StatementAnswer, Step};

/// A point at which a handler is paused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Point {
    /// Before it is polled.
    Start,
    /// Before or after a statement of the claim itself: these points are counted from 1.
    ClaimStep(usize),
    /// When its future is pending for the nth time: for an answer, a connection, a timer.
    Wait(usize),
    /// At no point.
    Never,
}

/// Counts the points before and after each statement of a claim, and lets its handler yield there.
///
/// A handler can only be paused where its future is pending, and an answer of the database may be ready at
/// once. Yielding ensures that there is a point between any two calls on a claim in every run.
#[derive(Debug, Default)]
pub(super) struct ClaimSteps(AtomicUsize);

impl ClaimSteps {
    pub(super) fn reset(&self) {
        self.0.store(0, Ordering::Release);
    }

    pub(super) fn count(&self) -> usize {
        self.0.load(Ordering::Acquire)
    }

    async fn pass(&self) {
        self.0.fetch_add(1, Ordering::AcqRel);
        yield_now().await;
    }
}

#[async_trait]
impl Interceptor for ClaimSteps {
    async fn before(&self, _step: &Step) -> Option<Fault> {
        self.pass().await;
        None
    }

    async fn after(&self, _step: &Step, _answer: &StatementAnswer) -> Next {
        self.pass().await;
        Next::GoOn
    }
}

/// Runs a handler up to a point, and counts how often it is pending. Returns its result if it ends before
/// that point.
pub(super) async fn run_up_to<F: Future>(
    mut handler: Pin<&mut F>,
    point: Point,
    steps: &ClaimSteps,
    waits: &mut usize,
) -> Option<F::Output> {
    if point == Point::Start {
        return None;
    }
    poll_fn(|context| {
        if let Poll::Ready(result) = handler.as_mut().poll(context) {
            return Poll::Ready(Some(result));
        }
        *waits += 1;
        let is_reached = match point {
            Point::Start => true,
            Point::ClaimStep(step) => steps.count() >= step,
            Point::Wait(wait) => *waits >= wait,
            Point::Never => false,
        };
        if is_reached { Poll::Ready(None) } else { Poll::Pending }
    })
    .await
}
