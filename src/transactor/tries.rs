//! What can be tried, and what becomes of it.

use std::future::Future;

use super::deadline::Timer;
use super::lines::Standing;
use crate::events::RunOutcome;
use crate::failure::Failure;
use crate::sql_text::Syntax;
use crate::strategy::Plan;

/// Something that can be tried, and tried again.
pub(super) trait Retryable: Send {
    type Output: Send;

    /// What observers know the database by.
    const SYSTEM: &'static str;

    /// How its statements are read.
    const SYNTAX: Syntax;

    /// What an output means to observers.
    fn outcome(output: &Self::Output) -> RunOutcome;

    /// One attempt. It leaves neither a lock nor a connection behind, nor its places in line, whatever it
    /// ends with.
    fn attempt(
        &mut self,
        plan: Plan,
        attempt: u32,
        standing: Standing,
        timer: &mut Timer,
    ) -> impl Future<Output = AttemptOutcome<Self::Output>> + Send;

    /// The commit that an attempt was waiting for in vain, while nobody knows what became of it.
    fn unresolved(&self) -> Option<Failure>;

    /// There will be no further attempt.
    fn ended(&mut self, timer: &mut Timer) -> impl Future<Output = ()> + Send;
}

/// What became of one attempt.
#[derive(Debug)]
pub(super) enum AttemptOutcome<T> {
    /// It ended as it was wished to.
    Done(T),
    /// The database was in the way.
    Failed { failure: Failure, otherwise: GiveUpWith<T> },
    /// It failed, and must not be tried again, whatever the strategy says: a part of it may be stored.
    Final(Failure),
    /// The deadline passed while the attempt waited for this, perhaps with something known about it.
    OutOfTime { failure: Option<Failure>, during: &'static str },
}

/// What the caller is told of a failure that is not worth another attempt.
#[derive(Debug)]
pub(super) enum GiveUpWith<T> {
    /// The failure.
    Failure,
    /// The failure, and that the unit of work had hidden it.
    Swallowed,
    /// What the unit of work made of it.
    Own(T),
}

impl<T> AttemptOutcome<T> {
    pub(super) const fn failed(failure: Failure) -> Self {
        Self::Failed { failure, otherwise: GiveUpWith::Failure }
    }

    pub(super) const fn out_of_time(during: &'static str, failure: Failure) -> Self {
        Self::OutOfTime { failure: Some(failure), during }
    }
}
