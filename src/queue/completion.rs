//! Ends claims: completes, fails or releases their jobs.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::claim::{Claim, JobOutcome};
use super::giving_back::GivenBack;
use super::job::micros;
use super::key::JobKey;
use super::log::{self, Death};
use super::resend::{SendAttempt, SendOutcome};
use super::slots::{self, FreedSlots};
use super::sql::{QueueSql, execute, fetch_integers, id_list};
use crate::backend::Backend;
use crate::error::Error;
use crate::strategies::Pessimistic;
use crate::transactor::{PoolTransactor, TransactorExt as _};
use crate::tx::Tx;

/// When a failed job is retried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Retry {
    /// After the delay of the queue's [backoff](super::Queue::backoff).
    Backoff,
    /// After this delay.
    After(Duration),
    /// Never: the job is dead.
    Never,
}

/// What [`Claim::fail`] did with the job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FailOutcome {
    /// The job is retried after this delay.
    Retried(Duration),
    /// The job is dead, because of [`Retry::Never`] or because this was its last attempt.
    Dead,
}

impl<DB: Backend> Claim<DB> {
    /// Completes the job in the transaction that has its effects: both are stored, or neither.
    ///
    /// ```
    /// # use atomically::queue::Claim;
    /// # use atomically::{Error, Serializable, TransactorExt as _};
    /// # async fn example(pool: &sqlx::SqlitePool, claim: &Claim<sqlx::Sqlite>) -> Result<(), Error> {
    /// let (from, to, amount): (i64, i64, i64) = claim.payload()?;
    /// Serializable::default()
    ///     .on(pool)
    ///     .run(async |tx| {
    ///         for (account, change) in [(from, -amount), (to, amount)] {
    ///             sqlx::query("UPDATE account SET balance = balance + $1 WHERE id = $2")
    ///                 .bind(change)
    ///                 .bind(account)
    ///                 .execute(&mut *tx)
    ///                 .await?;
    ///         }
    ///         claim.complete_in(tx).await
    ///     })
    ///     .await
    /// # }
    /// ```
    ///
    /// The row of a completed job is deleted; store anything that you want to keep in a table of your own.
    /// Call this method *last*, because the job's row is locked from then on. To run the job again, use
    /// [`reschedule_in`](Self::reschedule_in) instead: until the job is complete, a successor with its unique
    /// key is a duplicate. This works under any strategy and isolation level, and extensions of the lease do
    /// not conflict with the transaction.
    ///
    /// # Errors
    ///
    /// [`StaleClaim`](crate::ErrorKind::StaleClaim): the job was taken over, completed, failed or released.
    /// The unit is rolled back and not run again, even if the closure discards the error; `run` returns it to
    /// its caller.
    pub async fn complete_in(&self, tx: &mut Tx<DB>) -> Result<(), Error> {
        complete_all_in(tx, std::slice::from_ref(self)).await
    }

    /// Completes the job in a transaction of its own, for jobs whose effects are elsewhere.
    ///
    /// If the connection is lost, the completion is sent again while the lease lasts. The token prevents it
    /// from being executed twice. A lost response therefore does not make a finished job run again.
    ///
    /// # Errors
    ///
    /// [`StaleClaim`](crate::ErrorKind::StaleClaim): the job was taken over, completed, failed or released.
    /// Otherwise, returns the database's last error before the lease expired. After a [commit
    /// unknown](crate::Error::is_commit_unknown) the job may be complete, or another worker may have taken it
    /// over.
    pub async fn complete(&self) -> Result<(), Error> {
        self.complete_after(None).await
    }

    /// Completes the job like [`complete`](Self::complete), after an earlier completion that ended with
    /// `unknown`, if there was one.
    pub(super) async fn complete_after(&self, unknown: Option<Error>) -> Result<(), Error> {
        let delete = &self.queue().schema().in_sql(delete([self]));
        let completion = self.progress().begin_completion();
        self.resend_after(unknown, |SendAttempt { db, is_repeated }| {
            Box::pin(async move {
                if is_repeated || self.key().is_some() {
                    return self.complete_in_transaction(&db, is_repeated).await;
                }
                match self.run_alone(&db, delete).await? {
                    0 => Err(self.stale_error()),
                    _ => Ok(SendOutcome::Changed),
                }
            })
        })
        .await?;
        completion.committed();
        Ok(())
    }

    /// Records the completion once the transaction commits.
    pub(super) fn completes_with(&self, tx: &mut Tx<DB>) {
        let completion = self.progress().begin_completion();
        tx.on_commit(async move { completion.committed() });
    }

    /// Completes a job with a key, or repeats a completion whose outcome is unknown. A job that exists and is
    /// not held by this claim was taken over by another worker, even if this worker's clock says that its
    /// lease has not expired.
    async fn complete_in_transaction(
        &self,
        db: &PoolTransactor<DB, Pessimistic>,
        is_repeated: bool,
    ) -> Result<SendOutcome, Error> {
        let job = format!("SELECT id FROM atomically_job WHERE id = {}", self.id());
        let schema = self.queue().schema();
        db.run(async |tx| {
            if delete_held(tx, std::slice::from_ref(self)).await? > 0 {
                return Ok(SendOutcome::Changed);
            }
            if is_repeated && fetch_integers(tx, schema, job).await?.is_empty() {
                return Ok(SendOutcome::NotHeld);
            }
            Err(tx.stale_claim(self.stale()))
        })
        .await
    }

    /// Fails the job: it is retried later, or is dead if this was its last attempt.
    ///
    /// `error` is stored with the job in its alternate form (`{:#}`), in which an `anyhow::Error` includes
    /// its causes. The death of a job is logged as an error. Like [`complete`](Self::complete), this is sent
    /// again while the lease lasts.
    ///
    /// # Errors
    ///
    /// Those of [`complete`](Self::complete).
    pub async fn fail(&self, error: impl fmt::Display, retry: Retry) -> Result<FailOutcome, Error> {
        let delay = match retry {
            Retry::Backoff => Some(self.queue().delay_after(self.attempt())),
            Retry::After(delay) => Some(delay),
            Retry::Never => None,
        };
        let delay = delay.filter(|_| self.attempt() < self.max_attempts());
        let outcome = delay.map_or(FailOutcome::Dead, FailOutcome::Retried);
        let error = truncated(format!("{error:#}"));
        let frees = |key: &JobKey| match outcome {
            FailOutcome::Retried(_) => !key.is_ordered(),
            FailOutcome::Dead => self.queue().frees_dead(*key),
        };
        let freed = slots::slots_of(self.key().filter(frees));
        self.give_back(&GivenBack::failed::<DB>(delay, &error, freed)).await?;
        if outcome == FailOutcome::Dead {
            let death = if retry == Retry::Never { Death::GivenUp } else { Death::Exhausted };
            log::died(self.queue().name(), self.id(), death, self.attempt(), &error);
        }
        self.progress().record(match outcome {
            FailOutcome::Retried(_) => JobOutcome::Failed(error),
            FailOutcome::Dead => JobOutcome::Dead(error),
        });
        Ok(outcome)
    }

    /// Releases the job: it is due immediately, and the attempt does not count.
    ///
    /// Like [`complete`](Self::complete), this is sent again while the lease lasts. To release the job for
    /// later, use [`snooze`](Self::snooze).
    ///
    /// # Errors
    ///
    /// Those of [`complete`](Self::complete).
    pub async fn release(&self) -> Result<(), Error> {
        self.snooze(Duration::ZERO).await
    }

    /// Releases the job for later: it is due after `delay`, by the database's clock, and the attempt does not
    /// count.
    ///
    /// Use this for a job that cannot be done *yet*, because a service asked to retry later or because
    /// something is missing; a job that is released is claimed again immediately. A job can be snoozed any
    /// number of times; to limit that, use [`fail`](Self::fail) with [`Retry::After`]. Like
    /// [`complete`](Self::complete), this is sent again while the lease lasts.
    ///
    /// # Errors
    ///
    /// Those of [`complete`](Self::complete).
    pub async fn snooze(&self, delay: Duration) -> Result<(), Error> {
        let now = QueueSql::of::<DB>().now;
        let change = format!("due_at = {now} + {}, attempts = attempts - 1", micros(delay));
        let given_back = GivenBack { change, values: Vec::new(), freed: self.slot_of_limit() };
        self.give_back(&given_back).await?;
        self.progress().record(JobOutcome::Released);
        Ok(())
    }

    /// Returns the slot of a limited job, which it gives away until its next attempt.
    pub(super) fn slot_of_limit(&self) -> FreedSlots {
        slots::slots_of(self.key().filter(|key| !key.is_ordered()))
    }
}

/// Completes several jobs in one statement, like [`Claim::complete_in`].
///
/// # Errors
///
/// [`StaleClaim`](crate::ErrorKind::StaleClaim): at least one of the jobs was taken over, completed, failed
/// or released. None is completed.
pub async fn complete_all_in<DB: Backend>(tx: &mut Tx<DB>, claims: &[Claim<DB>]) -> Result<(), Error> {
    let Some(first) = claims.first() else { return Ok(()) };
    let completed = delete_held(tx, claims).await?;
    if completed == claims.len() as u64 {
        for claim in claims {
            claim.completes_with(tx);
        }
        return Ok(());
    }
    Err(tx.stale_claim(match claims {
        [_] => first.stale(),
        claims => format!(
            "{} of {} jobs of the queue {:?} are no longer held by their claims: \
             they were taken over, or have ended",
            claims.len() as u64 - completed,
            claims.len(),
            first.queue().name()
        ),
    }))
}

/// Deletes the jobs that these claims still hold, and makes the next jobs of their keys due. Returns how many
/// it has deleted; if that is not all of them, the caller has to roll back.
async fn delete_held<DB: Backend>(tx: &mut Tx<DB>, claims: &[Claim<DB>]) -> Result<u64, Error> {
    let Some(first) = claims.first() else { return Ok(0) };
    let (schema, freed) =
        (first.queue().schema(), slots::slots_of(claims.iter().filter_map(|claim| claim.key())));
    slots::lock(tx, schema, &freed).await?;
    let completed = execute(tx, schema, delete(claims)).await?;
    if completed == claims.len() as u64 {
        slots::free(tx, schema, &freed).await?;
    }
    Ok(completed)
}

/// Returns the statement that deletes the jobs that these claims still hold.
pub(super) fn delete<'c, DB: Backend>(claims: impl IntoIterator<Item = &'c Claim<DB>>) -> String {
    format!("DELETE FROM atomically_job WHERE {}", held(claims))
}

/// Returns the condition that a job is held by one of these claims. Most claims have the same token, so the
/// condition is grouped by token to keep the text short.
pub(super) fn held<'c, DB: Backend>(claims: impl IntoIterator<Item = &'c Claim<DB>>) -> String {
    let mut by_token = BTreeMap::<_, Vec<_>>::new();
    for claim in claims {
        by_token.entry(claim.token()).or_default().push(claim.id());
    }
    let id_among = QueueSql::of::<DB>().id_among;
    let held: Vec<_> = by_token
        .into_iter()
        .map(|(token, ids)| format!("(token = {token} AND {})", id_among(&id_list(ids))))
        .collect();
    held.join(" OR ")
}

/// Limits the size of an error, which may quote whole documents, and replaces NULs, which PostgreSQL does not
/// store.
fn truncated(mut error: String) -> String {
    const MAX_BYTES: usize = 4_000;
    let end = (0..=MAX_BYTES).rev().find(|end| error.is_char_boundary(*end)).unwrap_or(0);
    error.truncate(end);
    error.replace('\0', "\u{fffd}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_truncated_between_characters() {
        assert_eq!(truncated("short".to_owned()), "short");
        assert_eq!(truncated("é".repeat(3_000)).len(), 4_000);
        assert_eq!(truncated(format!("a{}", "é".repeat(3_000))).len(), 3_999);
        assert_eq!(truncated("a\0b".to_owned()), "a\u{fffd}b");
    }
}
