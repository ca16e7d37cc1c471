//! One attempt at a unit of work, or at a single statement.

use sqlx::Pool;
use tokio::runtime::Handle;

use crate::backend::{Backend, WatchedQuery, failure_of};
use crate::failure::{Failure, FailureKind};
use crate::isolation::Access;
use crate::policy::{Plan, Resolve, Trace};
use crate::tx::{
    Commit, End, Hooks, NotOpened, Session, Shield, Tx, holding, holds_connection_of, nested, not_connected,
};

use super::attempt::{Clock, Otherwise, Outcome, Timer, Trial, is_unique_violation};
use super::options::Options;
use super::resolve::{Fate, fate};
use super::{Ended, Unit, Wish};

/// A unit of work, in a transaction.
pub(super) struct UnitTrial<'a, DB: Backend> {
    pool: &'a Pool<DB>,
    options: &'a Options,
    before_acquire: bool,
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
    pub(super) fn new(
        pool: &'a Pool<DB>,
        options: &'a Options,
        before_acquire: bool,
        unit: &'a mut dyn Unit<DB>,
    ) -> Self {
        Self {
            pool,
            options,
            before_acquire,
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

    async fn once(&mut self, plan: Plan, attempt: u32, timer: &mut Timer) -> Outcome<Ended> {
        let clock = timer.clock;
        self.hooks = Hooks::default();
        if holds_connection_of(self.pool) {
            return Outcome::failed(nested());
        }
        if let Some(outcome) = self.look_back(timer).await {
            return outcome;
        }
        self.leave_trace();
        let mut tx = match timer.within(self.opening(plan, attempt, clock).run()).await {
            Some(Ok(tx)) => tx,
            Some(Err(failure)) => return self.not_opened(failure, timer).await,
            None => return Outcome::OutOfTime(Some(nobody_answered(self.pool))),
        };
        if DB::UNIQUE_KEYS_FENCE {
            self.unresolved = None;
        }
        if self.trace == Some(Trace::TransactionStatus) {
            self.answered = tx.answered().to_vec();
        }
        let unit = holding(self.pool, self.unit.attempt(&mut tx));
        let Some(wish) = timer.within(unit).await else {
            self.hooks = tx.take_hooks();
            return Outcome::OutOfTime(waited_for_the_pool(self.pool, &tx));
        };
        let failure = match (tx.over(), wish) {
            (Some(failure), _) => Some(failure.clone()),
            // Databases that undo the statement alone leave it to the unit what it makes of a violation.
            (None, Wish::RollBack) => tx.unique_violation().cloned(),
            (None, Wish::Commit) => None,
        };
        if let Some(failure) = failure {
            self.hooks = tx.take_hooks();
            tx.rollback().await;
            let otherwise = match wish {
                Wish::Commit => Otherwise::Swallowed,
                Wish::RollBack => Otherwise::Own(Ended::RolledBack),
            };
            return Outcome::Failed { failure, otherwise };
        }
        if wish == Wish::RollBack {
            // Behind the fence, and not wanted any more: nothing is left that could still be stored.
            self.unresolved = None;
        }
        if wish == Wish::RollBack || clock.is_over() {
            self.hooks = tx.take_hooks();
            tx.rollback().await;
            return if wish == Wish::RollBack {
                Outcome::Done(Ended::RolledBack)
            } else {
                Outcome::OutOfTime(None)
            };
        }
        let mut committing = tx.commit(clock.deadline);
        let (commit, hooks) = match timer.within(&mut committing).await {
            Some((commit, waiting)) => (commit, waiting.hooks),
            None => {
                (Commit::unanswered(), committing.give_up().map(|waiting| waiting.hooks).unwrap_or_default())
            }
        };
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
            Commit::Unknown(_) if plan.access == Access::ReadOnly && clock.is_over() => {
                Outcome::OutOfTime(None)
            }
            Commit::Unknown(failure) if plan.access == Access::ReadOnly => {
                Outcome::failed(Failure::new(FailureKind::ConnectionLost, failure.message()).retryable(true))
            }
            Commit::Unknown(failure) => {
                self.unresolved = Some((failure.clone(), hooks));
                Outcome::failed(failure.retryable(self.trace.is_some()))
            }
        }
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
    /// Each attempt writes an id of its own, until a commit goes unanswered: from then on that one's, so that at most one
    /// of them is ever stored.
    fn leave_trace(&mut self) {
        let keeps = self.unresolved.is_some() && self.trace.is_some();
        if !keeps {
            self.trace = self.options.resolves_commits().map(|by| match by {
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
        let Some(fate) = timer.within(fate(self.pool, &self.answered)).await else {
            return Some(Outcome::OutOfTime(None));
        };
        match fate {
            Ok(Fate::Committed) => {
                if let Some((_, hooks)) = self.unresolved.take() {
                    run_hooks(hooks, End::Committed, timer).await;
                }
                Some(Outcome::Done(Ended::Committed))
            }
            Ok(Fate::Aborted) => {
                self.unresolved = None;
                None
            }
            Ok(Fate::Pending) => Some(Outcome::failed(unknown.retryable(true))),
            Ok(Fate::Untold) => Some(Outcome::failed(unknown)),
            Err(failure) => Some(Outcome::failed(failure)),
        }
    }

    fn opening(&self, plan: Plan, attempt: u32, clock: Clock) -> Opening<'_, DB> {
        let (pool, options, trace) = (self.pool, self.options, self.trace);
        Opening { pool, options, plan, attempt, clock, trace, before_acquire: self.before_acquire }
    }

    /// An id that is there already is the answer that the commit never gave.
    async fn not_opened(&mut self, failure: Failure, timer: &mut Timer) -> Outcome<Ended> {
        if !is_unique_violation(&failure) {
            return Outcome::failed(failure);
        }
        match self.unresolved.take() {
            Some((_, hooks)) => {
                run_hooks(hooks, End::Committed, timer).await;
                Outcome::Done(Ended::Committed)
            }
            None => Outcome::failed(failure),
        }
    }
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
    options: &'a Options,
    plan: Plan,
    attempt: u32,
    clock: Clock,
    trace: Option<Trace>,
    before_acquire: bool,
}

impl<DB: Backend> Opening<'_, DB> {
    /// A pooled connection may have died since it was last used. Finding out is not an attempt: nothing was run. There
    /// are at most as many of them as the pool holds.
    async fn run(self) -> Result<Tx<DB>, Failure> {
        let mut replacements = self.pool.options().get_max_connections();
        loop {
            let limits = self.options.limits(self.clock.server_limit());
            let tx = Tx::open(self.pool, self.plan, limits, self.attempt, self.trace, self.before_acquire);
            match tx.await {
                Ok(tx) => return Ok(tx),
                Err(NotOpened { stale_connection: true, .. }) if replacements > 0 => replacements -= 1,
                Err(NotOpened { failure, .. }) => return Err(failure),
            }
        }
    }
}

/// A single statement, without BEGIN and COMMIT.
pub(super) struct StatementTrial<'a, DB: Backend> {
    pub(super) pool: &'a Pool<DB>,
    pub(super) query: WatchedQuery<DB>,
}

impl<DB: Backend> Trial for StatementTrial<'_, DB> {
    type Output = u64;

    fn unresolved(&self) -> Option<Failure> {
        None
    }

    async fn ended(&mut self, _timer: &mut Timer) {}

    async fn once(&mut self, _plan: Plan, _attempt: u32, timer: &mut Timer) -> Outcome<u64> {
        if holds_connection_of(self.pool) {
            return Outcome::failed(nested());
        }
        // A dead connection met by a statement cannot be told from a lost commit, so here the pool's test is worth
        // its round trip.
        let mut session = match timer.within(Session::acquire(self.pool, true)).await {
            Some(Ok(session)) => session,
            Some(Err(error)) => return Outcome::failed(not_connected::<DB>(&error)),
            None => return Outcome::OutOfTime(Some(nobody_answered(self.pool))),
        };
        let statement = DB::run_statement(session.connection(), self.query.clone());
        let error = match timer.within(statement).await {
            Some(Ok(rows)) => {
                session.release();
                return Outcome::Done(rows);
            }
            Some(Err(error)) => error,
            None => {
                return Outcome::failed(Failure::new(
                    FailureKind::CommitUnknown,
                    "the deadline passed before the server answered the statement",
                ));
            }
        };
        let failure = failure_of::<DB>(&error, self.query.asks_nowait())
            .unwrap_or_else(|| Failure::new(FailureKind::Other, error.to_string()));
        if in_doubt(&failure) {
            return Outcome::failed(failure.into_commit_unknown());
        }
        session.release();
        Outcome::failed(failure)
    }
}

/// A lone statement commits itself, so what breaks while it is in flight may break its commit.
fn in_doubt(failure: &Failure) -> bool {
    !failure.is_definite()
        && matches!(
            failure.kind(),
            FailureKind::ConnectionLost | FailureKind::CommitUnknown | FailureKind::Unavailable
        )
}

/// What a unit may have waited for that was not its own statement.
fn waited_for_the_pool<DB: Backend>(pool: &Pool<DB>, tx: &Tx<DB>) -> Option<Failure> {
    (!tx.is_in_flight() && all_in_use(pool)).then(|| {
        let most = pool.options().get_max_connections();
        let message = format!(
            "the unit waited for something else than its own statement while all {most} connections of the pool were in \
             use: if it asked for a second one, run those queries on `tx`"
        );
        Failure::new(FailureKind::Unavailable, message).retryable(true)
    })
}

fn all_in_use<DB: Backend>(pool: &Pool<DB>) -> bool {
    pool.size() >= pool.options().get_max_connections() && pool.num_idle() == 0
}

/// What the deadline was spent on while there was no transaction yet.
fn nobody_answered<DB: Backend>(pool: &Pool<DB>) -> Failure {
    let (open, idle, most) = (pool.size(), pool.num_idle(), pool.options().get_max_connections());
    let message = if all_in_use(pool) {
        format!("all {most} connections of the pool stayed in use")
    } else {
        format!(
            "the server did not let a transaction begin (pool: {open} of {most} connections open, {idle} idle)"
        )
    };
    Failure::new(FailureKind::Unavailable, message).retryable(true)
}
