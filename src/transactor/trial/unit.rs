//! One attempt at a unit of work.

use std::pin::pin;
use std::sync::Arc;

use futures_core::future::BoxFuture;
use sqlx::Pool;
use tokio::runtime::Handle;

use super::turn::Turn;
use super::{nobody_answered, waited_for_the_pool};
use crate::backend::Backend;
use crate::failure::{Failure, FailureKind};
use crate::gate::Place;
use crate::isolation::Access;
use crate::observe::{Observation, RunOutcome, watched};
use crate::policy::{Plan, Resolve, Trace};
use crate::transactor::attempt::{Otherwise, Outcome, Trial, is_unique_violation};
use crate::transactor::lone::sent_once;
use crate::transactor::options::Options;
use crate::transactor::resolve::{Fate, fate};
use crate::transactor::timer::{Clock, Timer};
use crate::transactor::{Ended, Unit, Wish};
use crate::tx::{self, Commit, End, Handoff, Hooks, NotOpened, Shield, Tx, Unseen, holding, identity};

/// A unit of work, in a transaction.
pub(in crate::transactor) struct UnitTrial<'a, DB: Backend> {
    pool: &'a Pool<DB>,
    handoff: &'a Handoff<DB>,
    options: &'a Options,
    unit: &'a mut dyn Unit<DB>,
    /// Those of the last attempt, which nothing has run yet.
    hooks: Hooks,
    /// What the last attempt can be found by.
    trace: Option<Trace>,
    /// What its opening answered, to ask for it by.
    answered: Vec<i64>,
    /// The last commit whose answer never came, and the hooks that wait for it.
    unresolved: Option<(Failure, Hooks)>,
}

impl<'a, DB: Backend> UnitTrial<'a, DB> {
    pub(in crate::transactor) fn new(
        pool: &'a Pool<DB>,
        handoff: &'a Handoff<DB>,
        options: &'a Options,
        unit: &'a mut dyn Unit<DB>,
    ) -> Self {
        Self {
            pool,
            handoff,
            options,
            unit,
            hooks: Hooks::default(),
            trace: None,
            answered: Vec::new(),
            unresolved: None,
        }
    }
}

impl<DB: Backend> Trial for UnitTrial<'_, DB> {
    type Output = Ended;

    const SYSTEM: &'static str = DB::SYSTEM;

    fn outcome(output: &Ended) -> RunOutcome {
        match output {
            Ended::Committed => RunOutcome::Committed,
            Ended::RolledBack => RunOutcome::RolledBack,
        }
    }

    async fn once(
        &mut self,
        plan: Plan,
        attempt: u32,
        mut place: Option<Place>,
        timer: &mut Timer,
    ) -> Outcome<Ended> {
        self.hooks = Hooks::default();
        if let Some(outcome) = self.look_back(timer).await {
            return outcome;
        }
        self.leave_trace();
        let turn = Turn::of::<DB>(&plan, self.trace.is_none() && !self.options.limits_idling());
        if let Some(outcome) =
            turn.wait(Turn::Outside, place.as_mut(), self.options.interceptors(), timer).await
        {
            return outcome;
        }
        let opening = self.opening(plan, attempt, timer);
        let opened = timer.within(pin!(opening.run())).await;
        let tx = match opened {
            Some(Ok(tx)) => tx,
            Some(Err(failure)) => return self.not_opened(failure, timer).await,
            None => return Outcome::OutOfTime(Some(nobody_answered(self.pool))),
        };
        self.run_unit(tx, turn, place, timer).await
    }

    fn unresolved(&self) -> Option<Failure> {
        self.unresolved.as_ref().map(|(failure, _)| failure.clone())
    }

    async fn ended(&mut self, timer: &mut Timer) {
        match self.unresolved.take() {
            Some((_, hooks)) => run_hooks(hooks, End::Unknown, timer).await,
            None => run_hooks(std::mem::take(&mut self.hooks), End::RolledBack, timer).await,
        }
    }
}

impl<DB: Backend> UnitTrial<'_, DB> {
    /// Runs the unit in the transaction that was opened for it, and ends the transaction.
    async fn run_unit(
        &mut self,
        mut tx: Box<Tx<DB>>,
        turn: Turn,
        mut place: Option<Place>,
        timer: &mut Timer,
    ) -> Outcome<Ended> {
        if DB::unique_keys_fence(tx.engine()) && self.trace.is_some() {
            self.unresolved = None;
        }
        if self.trace == Some(Trace::TransactionStatus) {
            self.answered = tx.answered().to_vec();
        }
        if let Some(outcome) =
            turn.wait(Turn::Inside, place.as_mut(), self.options.interceptors(), timer).await
        {
            self.roll_back(tx).await;
            return outcome;
        }
        let observation = timer.observation.clone();
        let unit = holding(self.pool, self.unit.attempt(&mut tx));
        let wish = timer.within(pin!(watched(observation.as_deref(), unit))).await;
        let Some((wish, converted)) = wish else {
            self.hooks = tx.take_hooks();
            return Outcome::OutOfTime(waited_for_the_pool(self.pool, &tx));
        };
        // In a box of its own: in place, it would be in the future of every run.
        let unseen = if tx.is_unwatched() { Box::pin(unseen(&mut tx, wish, converted)).await } else { None };
        if let Some(Unseen::Ended(failure)) = unseen {
            self.roll_back(tx).await;
            return Outcome::failed(failure);
        }
        self.end(tx, wish, unseen, place, timer).await
    }

    /// Ends the transaction as the unit wishes, unless a failure stands in the way.
    async fn end(
        &mut self,
        mut tx: Box<Tx<DB>>,
        wish: Wish,
        unseen: Option<Unseen>,
        place: Option<Place>,
        timer: &mut Timer,
    ) -> Outcome<Ended> {
        let failure = match (tx.over(), wish) {
            (Some(failure), _) => Some(failure.clone()),
            // Databases that undo the statement alone leave it to the unit what it makes of a violation.
            (None, Wish::RollBack) => tx.unique_violation().cloned(),
            (None, Wish::Commit | Wish::Stop | Wish::AlreadyStored) => None,
        };
        let failure = match failure {
            Some(failure) => Some(explained(failure, &mut tx, self.pool, timer).await),
            None => None,
        };
        match (failure, wish) {
            (_, Wish::Stop) => {
                self.roll_back(tx).await;
                Outcome::Done(Ended::RolledBack)
            }
            (_, Wish::AlreadyStored) => {
                tx.rollback().await;
                self.already_stored(timer).await
            }
            (Some(failure), Wish::Commit | Wish::RollBack) if tx.may_be_stored_in_part(&failure) => {
                self.roll_back(tx).await;
                Outcome::Final(sent_once(failure))
            }
            (Some(failure), Wish::Commit) => {
                self.roll_back(tx).await;
                Outcome::Failed { failure, otherwise: Otherwise::Swallowed }
            }
            (Some(failure), Wish::RollBack) => {
                self.roll_back(tx).await;
                Outcome::Failed { failure, otherwise: Otherwise::Own(Ended::RolledBack) }
            }
            (None, Wish::RollBack) => {
                let is_fenced = DB::unique_keys_fence(tx.engine());
                self.roll_back(tx).await;
                match self.unresolved() {
                    // Another server may yet store what an earlier attempt has sent.
                    Some(unknown) if !is_fenced => Outcome::failed(unknown),
                    // This attempt had locked the row of the earlier one: nothing is left that could still be stored.
                    _ => {
                        self.unresolved = None;
                        Outcome::Done(Ended::RolledBack)
                    }
                }
            }
            (None, Wish::Commit) if timer.clock.is_over() => {
                self.roll_back(tx).await;
                Outcome::OutOfTime(None)
            }
            (None, Wish::Commit) => match (self.commit(tx, place, timer).await, unseen) {
                (Outcome::Failed { failure, .. }, Some(Unseen::Failed(cause)))
                    if failure.kind() == FailureKind::Aborted =>
                {
                    Outcome::Failed { failure: cause, otherwise: Otherwise::Swallowed }
                }
                (outcome, _) => outcome,
            },
        }
    }

    fn roll_back(&mut self, mut tx: Box<Tx<DB>>) -> BoxFuture<'static, ()> {
        self.hooks = tx.take_hooks();
        tx.rollback()
    }

    async fn commit(&mut self, tx: Box<Tx<DB>>, place: Option<Place>, timer: &mut Timer) -> Outcome<Ended> {
        let reads_only = tx.plan().access == Access::ReadOnly;
        let mut committing = tx.commit(timer.clock.deadline);
        let (commit, hooks) = match timer.within(&mut committing).await {
            Some((commit, waiting)) => (commit, waiting.hooks),
            None => {
                let waiting = committing.give_up();
                (Commit::unanswered(), waiting.map(|waiting| waiting.hooks).unwrap_or_default())
            }
        };
        // Nobody waits in line for hooks.
        drop(place);
        match commit {
            Commit::Done => {
                self.unresolved = None;
                run_hooks(hooks, End::Committed, timer).await;
                Outcome::Done(Ended::Committed)
            }
            Commit::Refused(failure) => {
                self.hooks = hooks;
                Outcome::failed(failure)
            }
            // Nothing was written, so nothing can have been stored or lost.
            Commit::Unknown(_) if reads_only && timer.clock.is_over() => Outcome::OutOfTime(None),
            Commit::Unknown(failure) if reads_only => {
                Outcome::failed(Failure::new(FailureKind::ConnectionLost, failure.message()).retryable(true))
            }
            Commit::Unknown(failure) => {
                self.unresolved = Some((failure.clone(), hooks));
                let is_found = self.trace.is_some() || self.unit.finds_its_commits();
                Outcome::failed(failure.retryable(is_found))
            }
        }
    }

    /// Each attempt writes an id of its own, until a commit goes unanswered: from then on that one's, so that at most one
    /// of them is ever stored.
    fn leave_trace(&mut self) {
        let keeps = self.unresolved.is_some() && self.trace.is_some();
        if !keeps {
            // One trace is enough.
            let wanted = self.options.resolves_commits().filter(|_| !self.unit.finds_its_commits());
            self.trace = wanted.map(|by| match by {
                Resolve::Operation => Trace::Operation(rand::random()),
                Resolve::TransactionStatus => Trace::TransactionStatus,
            });
        }
    }

    /// Asks for the commit that went unanswered, where it left nothing that the next attempt would run into. Answers the
    /// outcome of this attempt, unless the unit is to be run.
    async fn look_back(&mut self, timer: &mut Timer) -> Option<Outcome<Ended>> {
        if self.trace != Some(Trace::TransactionStatus) {
            return None;
        }
        let unknown = self.unresolved()?;
        let fate = timer.within(pin!(fate(self.pool, &self.answered))).await;
        let Some(fate) = fate else {
            return Some(Outcome::OutOfTime(None));
        };
        match fate {
            Ok(Fate::Committed) => Some(self.already_stored(timer).await),
            Ok(Fate::Aborted) => {
                self.unresolved = None;
                None
            }
            Ok(Fate::Pending) => Some(Outcome::failed(unknown.retryable(true))),
            Ok(Fate::Untold) => Some(Outcome::failed(unknown)),
            Err(failure) => Some(Outcome::failed(failure)),
        }
    }

    fn opening(&self, plan: Plan, attempt: u32, timer: &Timer) -> Opening<'_, DB> {
        let (pool, handoff, options, trace) = (self.pool, self.handoff, self.options, self.trace);
        let (clock, observation) = (timer.clock, timer.observation.clone());
        Opening { pool, handoff, options, plan, attempt, clock, trace, observation }
    }

    /// An id that is there already is the answer that the commit never gave.
    async fn not_opened(&mut self, failure: Failure, timer: &mut Timer) -> Outcome<Ended> {
        if !is_unique_violation(&failure) {
            return Outcome::failed(failure);
        }
        if self.unresolved.is_some() { self.already_stored(timer).await } else { Outcome::failed(failure) }
    }

    /// The commit that went unanswered was stored.
    async fn already_stored(&mut self, timer: &mut Timer) -> Outcome<Ended> {
        if let Some((_, hooks)) = self.unresolved.take() {
            run_hooks(hooks, End::Committed, timer).await;
        }
        Outcome::Done(Ended::Committed)
    }
}

/// What became of a transaction in statements that were not seen, `converted` being what the unit has said of them. A
/// failure that certainly ends the transaction has ended it; one that only the commit can confirm is returned.
async fn unseen<DB: Backend>(tx: &mut Tx<DB>, wish: Wish, converted: Option<Failure>) -> Option<Unseen> {
    let converted = converted.filter(Tx::<DB>::ends_with);
    if wish == Wish::Commit && tx.over().is_none() {
        let failure = converted?;
        // Where a transaction survives its conflicts, the commit would go through.
        if !DB::EVERY_ERROR_ABORTS && failure.kind().is_conflict() {
            tx.end(failure.clone());
        }
        return Some(Unseen::Failed(failure));
    }
    let found = tx.look_for_unseen(converted).await;
    if let Unseen::Failed(failure) = &found {
        tx.end(failure.clone());
    }
    Some(found)
}

/// Those who watch are told of a deadlock which units it was between.
async fn explained<DB: Backend>(
    failure: Failure,
    tx: &mut Tx<DB>,
    pool: &Pool<DB>,
    timer: &Timer,
) -> Failure {
    let Some(observation) = timer.observation.as_ref().filter(|_| failure.kind() == FailureKind::Deadlock)
    else {
        return failure;
    };
    // In a box of its own: in place, it would be in the future of every run.
    let failure = Box::pin(tx.explain(failure)).await;
    let mut report = failure.deadlock().cloned().unwrap_or_default();
    observation.name_units(&mut report, identity(pool));
    failure.with_deadlock(Some(report))
}

/// Hooks are waited for until the deadline, and finished in any case.
async fn run_hooks(hooks: Hooks, end: End, timer: &mut Timer) {
    if !hooks.is_empty() {
        timer.within(Shield::new(Handle::current(), hooks.run(end), ())).await;
    }
}

/// What it takes to open a transaction.
struct Opening<'a, DB: Backend> {
    pool: &'a Pool<DB>,
    handoff: &'a Handoff<DB>,
    options: &'a Options,
    plan: Plan,
    attempt: u32,
    clock: Clock,
    trace: Option<Trace>,
    observation: Option<Arc<Observation>>,
}

impl<DB: Backend> Opening<'_, DB> {
    /// A pooled connection may have died since it was last used. Finding out is not an attempt: nothing was run. There
    /// are at most as many of them as the pool holds.
    async fn run(self) -> Result<Box<Tx<DB>>, Failure> {
        let mut replacements = self.pool.options().get_max_connections();
        loop {
            let opening = tx::Opening {
                plan: self.plan,
                attempt: self.attempt,
                most_attempts: self.options.most_attempts(),
                trace: self.trace,
                interceptors: self.options.interceptors().clone(),
                observation: self.observation.clone(),
            };
            let limits = || self.options.limits(self.clock.server_limit());
            match Tx::open(self.pool, self.handoff, opening, limits).await {
                Ok(tx) => return Ok(tx),
                Err(NotOpened { stale_connection: true, .. }) if replacements > 0 => replacements -= 1,
                Err(NotOpened { failure, .. }) => return Err(failure),
            }
        }
    }
}
