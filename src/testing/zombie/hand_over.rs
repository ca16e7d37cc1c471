//! Hands a job over to a second worker while the first one is held still.

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

/// The longest time that one step of the check may take.
const LIMIT: Duration = Duration::from_secs(15);

/// How long the second worker may take while the first one is held. After that it is taken to wait for a lock
/// of the first one, and both go on.
const STANDSTILL: Duration = Duration::from_millis(300);

/// How often a lease is ended that the first worker has extended again, by a statement that was on its way.
const TRIES: u32 = 100;

/// A handler that waits more often than this is not checked any further.
const MAX_WAITS: usize = 2_000;

/// What the second worker does while the first one is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Heir {
    /// It only has the job.
    Holds,
    /// It does all of its work.
    Works,
}

/// A handler, and what is needed to run it again and again.
pub(super) struct Check<'a, DB: Backend, Enqueue, Handler, Count> {
    pub(super) queue: &'a Queue<DB>,
    /// The same queue, whose claims stop at each of their statements.
    pub(super) watched: Queue<DB>,
    pub(super) steps: Arc<ClaimSteps>,
    pub(super) enqueue: Enqueue,
    pub(super) handler: Handler,
    pub(super) count: Count,
}

impl<DB, Enqueue, Enqueued, Handler, Handled, Count, Counted> Check<'_, DB, Enqueue, Handler, Count>
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
    pub(super) async fn everywhere(&self) -> Result<(), NotFenced> {
        if self.queue.max_connections() < 2 {
            return Err(unchecked(
                "the pool of the queue has one connection, which the handler may hold while a second worker takes \
                 the job over; give it at least two (and SQLite a file in place of `:memory:`)",
            ));
        }
        let mut waits = self.undisturbed().await?;
        let steps = self.steps.count();
        self.at(Point::Start).await?;
        for step in 1..=steps {
            self.at(Point::ClaimStep(step)).await?;
        }
        // How often a handler waits differs from run to run, so the longest one counts.
        let mut wait = 1;
        while wait <= waits {
            if wait > MAX_WAITS {
                return Err(unchecked(format!("the handler waits more than {MAX_WAITS} times")));
            }
            waits = waits.max(self.at(Point::Wait(wait)).await?);
            wait += 1;
        }
        Ok(())
    }

    /// Without a disturbance the handler does its job, once. Returns how often it waits.
    async fn undisturbed(&self) -> Result<usize, NotFenced> {
        let (before, claim) = self.begin().await?;
        let (id, token) = (claim.id(), claim.token());
        let mut waits = 0;
        let handled = pin!((self.handler)(claim));
        let handled = run_up_to(handled, Point::Never, &self.steps, &mut waits);
        let result = limited("the handler did not end", handled).await?;
        if let Some(Err(error)) = result {
            return Err(unchecked(format!("the handler fails although nobody takes its job over: {error}")));
        }
        self.expect("when nobody took the job over", 1, before).await?;
        match self.queue.lapse(id, token).await {
            Err(error) if error.is_stale_claim() => Ok(waits),
            Err(error) => Err(unchecked(error)),
            Ok(()) => Err(unchecked("the handler ended without an error, and its job is not completed")),
        }
    }

    async fn at(&self, point: Point) -> Result<usize, NotFenced> {
        let held = self.hand_over_at(point, Heir::Holds).await?;
        let worked = self.hand_over_at(point, Heir::Works).await?;
        Ok(held.max(worked))
    }

    /// Runs the handler up to a point, hands the job over, and lets both workers end. Returns how often the
    /// handler waited if it was not disturbed.
    async fn hand_over_at(&self, point: Point, heir: Heir) -> Result<usize, NotFenced> {
        let (before, claim) = self.begin().await?;
        let (id, token) = (claim.id(), claim.token());
        let mut waits = 0;
        let mut zombie = pin!((self.handler)(claim));
        let up_to = run_up_to(zombie.as_mut(), point, &self.steps, &mut waits);
        let mut ended = limited("the handler did not end", up_to).await?;
        let claim = match ended {
            Some(_) => None,
            None => {
                limited("the job could not be claimed while its handler was held", self.take_over(id, token))
                    .await??
            }
        };
        let Some(claim) = claim else {
            if ended.is_none() {
                let rest = run_up_to(zombie, Point::Never, &self.steps, &mut waits);
                ended = limited("the handler did not end", rest).await?;
            }
            if let Some(Err(error)) = ended {
                return Err(unchecked(format!("the handler failed, and nobody had its job: {error}")));
            }
            self.expect("when nobody took the job over", 1, before).await?;
            return Ok(waits);
        };
        let moment = describe(point, heir);
        let (told, done) = match heir {
            Heir::Holds => {
                let there = self.counted().await? - before;
                let told = limited("the worker that had lost the job did not end", zombie).await?;
                self.expect(&moment, there, before).await?;
                let done = limited("the second worker did not end", (self.handler)(claim)).await?;
                (told, done)
            }
            Heir::Works => {
                let mut heir = pin!((self.handler)(claim));
                let both = async {
                    match timeout(STANDSTILL, heir.as_mut()).await {
                        Ok(done) => (zombie.await, done),
                        Err(_) => join(zombie, heir).await,
                    }
                };
                limited("the two workers did not end", both).await?
            }
        };
        done.map_err(NotFenced::HeirFailed)?;
        self.expect(&moment, 1, before).await?;
        if told.is_ok() { Err(NotFenced::NotTold { moment }) } else { Ok(0) }
    }

    /// The count of effects before a new job, and the claim of that job.
    async fn begin(&self) -> Result<(i64, Claim<DB>), NotFenced> {
        let before = self.counted().await?;
        limited("no job was enqueued", (self.enqueue)()).await??;
        let claims = limited("no job was claimed", self.watched.claim(2)).await?.map_err(unchecked)?;
        let Some(claim) = only_one(claims)? else {
            return Err(unchecked("one job was to be claimed from the queue, none was"));
        };
        self.steps.reset();
        Ok((before, claim))
    }

    /// Claims the job for a second worker. `None` if it cannot be claimed: it is done, or a transaction of
    /// the handler has locked it.
    async fn take_over(&self, id: i64, token: i64) -> Result<Option<Claim<DB>>, NotFenced> {
        for _ in 0..TRIES {
            let claims = match self.queue.lapse_at_once(id, token).await {
                Ok(()) => self.queue.claim_at_once(2).await,
                Err(error) => Err(error),
            };
            match claims {
                // A statement of the handler that is on its way may extend the lease, or lock the job,
                // meanwhile.
                Ok(claims) if claims.is_empty() => sleep(Duration::from_millis(2)).await,
                Ok(claims) => return only_one(claims),
                Err(error) if error.is_stale_claim() || is_locked(&error) => return Ok(None),
                Err(error) => return Err(unchecked(error)),
            }
        }
        Err(unchecked("the job could not be claimed a second time, although its lease had lapsed"))
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

fn describe(point: Point, heir: Heir) -> String {
    let taken = match point {
        Point::Start | Point::Never => String::from("before the handler began"),
        Point::ClaimStep(step) => {
            let side = if step % 2 == 1 { "before" } else { "after" };
            format!("{side} statement {} of its claim", step.div_ceil(2))
        }
        Point::Wait(wait) => format!("while the handler waited for the {wait}. time"),
    };
    let heir = match heir {
        Heir::Holds => "while another one had the job",
        Heir::Works => "after another one had done the job",
    };
    format!("{heir}, which was taken over {taken}")
}

pub(super) fn unchecked(error: impl Display) -> NotFenced {
    NotFenced::Unchecked(error.to_string())
}

async fn limited<T>(what: &str, future: impl Future<Output = T>) -> Result<T, NotFenced> {
    timeout(LIMIT, future).await.map_err(|_| unchecked(format!("{what} within {LIMIT:?}")))
}

fn only_one<DB: Backend>(mut claims: Vec<Claim<DB>>) -> Result<Option<Claim<DB>>, NotFenced> {
    match claims.len() {
        0 | 1 => Ok(claims.pop()),
        _ => Err(unchecked("one job was to be claimed from the queue, several were")),
    }
}

/// Whether a transaction has locked what was asked for.
fn is_locked(error: &Error) -> bool {
    use FailureKind::{Busy, LockNotAvailable, LockTimeout};
    error.failure().is_some_and(|failure| matches!(failure.kind(), Busy | LockNotAvailable | LockTimeout))
}
