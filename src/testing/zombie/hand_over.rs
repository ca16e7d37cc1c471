//! Hands a job over to a second worker while the first one is paused.

use std::fmt::Display;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join;
use tokio::time::{sleep, timeout};

use super::NotFenced;
use super::pausing::{ClaimSteps, Point, run_up_to};
use crate::backend::Backend;
use crate::error::Error;
use crate::failure::FailureKind;
use crate::queue::{Claim, Queue};

/// The time limit of one step of the check.
const STEP_TIMEOUT: Duration = Duration::from_secs(15);

/// How long the second worker may take while the first one is paused. After that, it presumably waits for a
/// lock of the first one, so the first one resumes as well.
const BLOCKED_AFTER: Duration = Duration::from_millis(300);

/// How often the lease is ended again after a pending statement of the first worker has extended it.
const MAX_TRIES: u32 = 100;

/// The maximum number of times that the future of a handler may be pending.
const MAX_WAITS: usize = 2_000;

/// What the second worker does while the first one is paused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SecondWorker {
    /// It claims the job.
    Claims,
    /// It claims the job and completes it.
    Completes,
}

/// A handler, with everything that is needed to run it repeatedly.
pub(super) struct FencingCheck<'a, DB: Backend, Enqueue, Handler, Count> {
    pub(super) queue: &'a Queue<DB>,
    /// The same queue. Its claims yield before and after each of their statements.
    pub(super) stepped: Queue<DB>,
    pub(super) steps: Arc<ClaimSteps>,
    pub(super) enqueue: Enqueue,
    pub(super) handler: Handler,
    pub(super) count: Count,
}

impl<DB, Enqueue, Enqueued, Handler, Handled, Count, Counted> FencingCheck<'_, DB, Enqueue, Handler, Count>
where
    DB: Backend,
    Enqueue: Fn() -> Enqueued,
    Enqueued: Future<Output = Result<(), NotFenced>>,
    Handler: Fn(Claim<DB>) -> Handled,
    Handled: Future<Output = Result<(), String>>,
    Count: Fn() -> Counted,
    Counted: Future<Output = Result<i64, NotFenced>>,
{
    /// Hands the job over at every point of the handler's work.
    pub(super) async fn all_points(&self) -> Result<(), NotFenced> {
        if self.queue.max_connections() < 2 {
            return Err(check_failed(
                "the pool of the queue allows one connection, which the handler may hold while a second \
                 worker claims the job; allow at least two (and with SQLite, use a file instead of \
                 `:memory:`)",
            ));
        }
        let mut waits = self.undisturbed().await?;
        let steps = self.steps.count();
        self.at(Point::Start).await?;
        for step in 1..=steps {
            self.at(Point::ClaimStep(step)).await?;
        }
        // The number of waits differs from run to run, so the maximum counts.
        let mut wait = 1;
        while wait <= waits {
            if wait > MAX_WAITS {
                return Err(check_failed(format!("the handler waits more than {MAX_WAITS} times")));
            }
            waits = waits.max(self.at(Point::Wait(wait)).await?);
            wait += 1;
        }
        Ok(())
    }

    /// Checks that the handler completes its job if it is not disturbed. Returns how often it waits.
    async fn undisturbed(&self) -> Result<usize, NotFenced> {
        let (before, claim) = self.begin().await?;
        let (id, token) = (claim.id(), claim.token());
        let mut waits = 0;
        let handled = pin!((self.handler)(claim));
        let handled = run_up_to(handled, Point::Never, &self.steps, &mut waits);
        let result = limited("the handler did not end", handled).await?;
        if let Some(Err(error)) = result {
            return Err(check_failed(format!("the handler fails although it keeps its lease: {error}")));
        }
        self.expect("when the handler kept its lease", 1, before).await?;
        match self.queue.lapse(id, token).await {
            Err(error) if error.is_stale_claim() => Ok(waits),
            Err(error) => Err(check_failed(error)),
            Ok(()) => Err(check_failed("the handler returned Ok without completing its job")),
        }
    }

    /// Hands the job over at one point, in both ways. Returns how often the handler waited if it was not
    /// disturbed.
    async fn at(&self, point: Point) -> Result<usize, NotFenced> {
        let claimed = self.hand_over_at(point, SecondWorker::Claims).await?;
        let completed = self.hand_over_at(point, SecondWorker::Completes).await?;
        Ok(claimed.max(completed))
    }

    /// Runs the handler up to a point, hands the job over, and lets both workers end.
    async fn hand_over_at(&self, point: Point, second: SecondWorker) -> Result<usize, NotFenced> {
        let (before, claim) = self.begin().await?;
        let (id, token) = (claim.id(), claim.token());
        let mut waits = 0;
        let mut zombie = pin!((self.handler)(claim));
        let up_to = run_up_to(zombie.as_mut(), point, &self.steps, &mut waits);
        let mut ended = limited("the handler did not end", up_to).await?;
        let claim = match ended {
            Some(_) => None,
            None => {
                limited(
                    "the job could not be claimed while its handler was paused",
                    self.take_over(id, token),
                )
                .await??
            }
        };
        let Some(claim) = claim else {
            if ended.is_none() {
                let rest = run_up_to(zombie, Point::Never, &self.steps, &mut waits);
                ended = limited("the handler did not end", rest).await?;
            }
            if let Some(Err(error)) = ended {
                return Err(check_failed(format!(
                    "the handler failed although no other worker had its job: {error}"
                )));
            }
            self.expect("when the handler kept its lease", 1, before).await?;
            return Ok(waits);
        };
        let moment = describe(point, second);
        let (first_result, second_result) = match second {
            SecondWorker::Claims => {
                let effects = self.counted().await? - before;
                let first_result = limited("the worker that had lost the job did not end", zombie).await?;
                self.expect(&moment, effects, before).await?;
                let second_result = limited("the second worker did not end", (self.handler)(claim)).await?;
                (first_result, second_result)
            }
            SecondWorker::Completes => {
                let mut successor = pin!((self.handler)(claim));
                let both = async {
                    match timeout(BLOCKED_AFTER, successor.as_mut()).await {
                        Ok(result) => (zombie.await, result),
                        Err(_) => join(zombie, successor).await,
                    }
                };
                limited("the two workers did not end", both).await?
            }
        };
        second_result.map_err(NotFenced::SuccessorFailed)?;
        self.expect(&moment, 1, before).await?;
        if first_result.is_ok() { Err(NotFenced::LossNotReported { moment }) } else { Ok(0) }
    }

    /// Enqueues a job and claims it. Returns the number of effects before, and the claim.
    async fn begin(&self) -> Result<(i64, Claim<DB>), NotFenced> {
        let before = self.counted().await?;
        limited("no job was enqueued", (self.enqueue)()).await??;
        let claims = limited("no job was claimed", self.stepped.claim(2)).await?.map_err(check_failed)?;
        let Some(claim) = only_one(claims)? else {
            return Err(check_failed("no job could be claimed after `enqueue`"));
        };
        self.steps.reset();
        Ok((before, claim))
    }

    /// Claims the job for a second worker. `None` if that is not possible, because the job is completed or
    /// locked by a transaction of the handler.
    async fn take_over(&self, id: i64, token: i64) -> Result<Option<Claim<DB>>, NotFenced> {
        for _ in 0..MAX_TRIES {
            let claims = match self.queue.lapse_at_once(id, token).await {
                Ok(()) => self.queue.claim_at_once(2).await,
                Err(error) => Err(error),
            };
            match claims {
                // A pending statement of the handler may have extended the lease or locked the job.
                Ok(claims) if claims.is_empty() => sleep(Duration::from_millis(2)).await,
                Ok(claims) => return only_one(claims),
                Err(error) if error.is_stale_claim() || is_locked(&error) => return Ok(None),
                Err(error) => return Err(check_failed(error)),
            }
        }
        Err(check_failed("the job could not be claimed again, although its lease had expired"))
    }

    async fn counted(&self) -> Result<i64, NotFenced> {
        limited("the effects could not be counted", (self.count)()).await?
    }

    async fn expect(&self, moment: &str, expected: i64, before: i64) -> Result<(), NotFenced> {
        let found = self.counted().await? - before;
        if expected == found {
            return Ok(());
        }
        Err(NotFenced::Effects { moment: moment.to_owned(), expected, found })
    }
}

fn describe(point: Point, second: SecondWorker) -> String {
    let when = match point {
        Point::Start | Point::Never => String::from("before the handler began"),
        Point::ClaimStep(step) => {
            let side = if step % 2 == 1 { "before" } else { "after" };
            format!("{side} statement {} of its claim", step.div_ceil(2))
        }
        Point::Wait(wait) => format!("while the handler waited for the {wait}. time"),
    };
    let who = match second {
        SecondWorker::Claims => "while another worker held the job",
        SecondWorker::Completes => "after another worker had completed the job",
    };
    format!("{who}, which was taken over {when}")
}

pub(super) fn check_failed(error: impl Display) -> NotFenced {
    NotFenced::CheckFailed(error.to_string())
}

async fn limited<T>(what: &str, future: impl Future<Output = T>) -> Result<T, NotFenced> {
    timeout(STEP_TIMEOUT, future).await.map_err(|_| check_failed(format!("{what} within {STEP_TIMEOUT:?}")))
}

fn only_one<DB: Backend>(mut claims: Vec<Claim<DB>>) -> Result<Option<Claim<DB>>, NotFenced> {
    match claims.len() {
        0 | 1 => Ok(claims.pop()),
        _ => Err(check_failed(
            "several jobs could be claimed; the queue must have no jobs but those of `enqueue`",
        )),
    }
}

/// Whether a transaction has locked the job.
fn is_locked(error: &Error) -> bool {
    use FailureKind::{Busy, LockNotAvailable, LockTimeout};
    error.failure().is_some_and(|failure| matches!(failure.kind(), Busy | LockNotAvailable | LockTimeout))
}
