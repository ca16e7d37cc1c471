//! A claimed job, and what can become of it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::Queue;
use super::dialect::{QueueBackend, Row};
use super::job::micros;
use crate::backend::Backend;
use crate::error::Error;
use crate::transactor::TransactorExt as _;
use crate::tx::Tx;

/// A job that was claimed: to be worked on, and then completed, failed or released.
///
/// # The fence
///
/// A claim has a [token](Self::token), which is the number of times that the job has changed hands. Everything that is done
/// to a claimed job checks it in the same statement. Who holds a claim that was taken over, because its lease had lapsed,
/// gets [`StaleClaim`](crate::ErrorKind::StaleClaim), and a transaction that this happens in is rolled back with all its
/// effects. The lease only says when somebody else may take over; a clock that is wrong, a worker that slept, or a
/// connection that hung makes a job late, and never done twice.
///
/// That holds for effects *in the transaction that completes the job*. A mail that was sent is not rolled back. Hand the
/// token, or the id, to a service that can refuse what it has seen.
///
/// # Dropping it
///
/// Changes nothing: when its lease lapses, the job is claimed again.
#[must_use = "a claim that is dropped keeps its job from others until its lease lapses"]
pub struct Claim<DB: Backend> {
    queue: Queue<DB>,
    id: i64,
    token: i64,
    attempt: u32,
    max_attempts: u32,
    payload: String,
    last_error: Option<String>,
    progress: Arc<AtomicU8>,
    /// From when on its lease counts: before the database was asked.
    asked: Instant,
}

/// How far a claim has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Progress {
    /// A transaction that completes it is open, or was.
    Completing = 1,
    /// It is known to be completed, failed or released.
    Settled = 2,
}

/// When a job that failed is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Retry {
    /// After the queue's [backoff](Queue::backoff).
    Backoff,
    /// After this much time.
    After(Duration),
    /// Never: it is dead.
    Never,
}

/// What became of a job that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fate {
    /// It is tried again after this much time.
    Retried(Duration),
    /// It is dead: it was to be, or that was its last attempt.
    Dead,
}

impl<DB: QueueBackend> Claim<DB> {
    /// Of a row as it was when it was found, and so before it was claimed.
    pub(super) fn of(queue: &Queue<DB>, row: Row, asked: Instant) -> Self {
        Self {
            queue: queue.clone(),
            id: row.id,
            token: row.token + 1,
            attempt: row.attempts.unsigned_abs() + 1,
            max_attempts: row.max_attempts.unsigned_abs(),
            payload: row.payload,
            last_error: row.last_error,
            progress: Arc::default(),
            asked,
        }
    }

    /// The job's id: the same at each attempt, and never another job's.
    #[must_use]
    pub fn id(&self) -> i64 {
        self.id
    }

    /// The token: greater than that of every earlier claim of this job.
    #[must_use]
    pub fn token(&self) -> i64 {
        self.token
    }

    /// The number of this attempt, the first being 1. An attempt whose lease lapsed counts; one that was released does not.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// How often the job is tried at most.
    #[must_use]
    pub fn max_attempts(&self) -> u32 {
        self.max_attempts
    }

    /// What the attempt before this one failed with.
    #[must_use]
    pub fn last_error(&self) -> Option<&str> {
        self.last_error.as_deref()
    }

    /// The payload as it is kept, in JSON.
    #[must_use]
    pub fn json(&self) -> &str {
        &self.payload
    }

    /// The payload.
    ///
    /// # Errors
    ///
    /// It is not what was asked for.
    pub fn payload<T: DeserializeOwned>(&self) -> Result<T, Error> {
        let payload = serde_json::from_str(&self.payload);
        Ok(payload.map_err(|error| sqlx::Error::Decode(Box::new(error)))?)
    }

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
    /// A job that is complete is gone from its table; what is worth keeping of it is an effect. Call it *last*: from then
    /// on the job's row is locked. Every strategy and isolation level will do, and leases that are extended meanwhile do not
    /// get in the way.
    ///
    /// # Errors
    ///
    /// [`StaleClaim`](crate::ErrorKind::StaleClaim): the job was taken over, completed, failed or released. The unit is
    /// rolled back, whatever it makes of this error, and not run again; the caller of `run` is told.
    pub async fn complete_in(&self, tx: &mut Tx<DB>) -> Result<(), Error> {
        complete_all_in(tx, std::slice::from_ref(self)).await
    }

    /// Completes the job, where its effects are elsewhere.
    ///
    /// # Errors
    ///
    /// [`StaleClaim`](crate::ErrorKind::StaleClaim), and the database's.
    pub async fn complete(&self) -> Result<(), Error> {
        self.queue.db.run(async |tx| self.complete_in(tx).await).await
    }

    /// Prolongs the lease to the [queue's](Queue::lease) time from now.
    ///
    /// # Why in a table of its own?
    ///
    /// A transaction under REPEATABLE READ or SERIALIZABLE that has begun before its job's row was changed cannot change
    /// that row any more: PostgreSQL refuses. Each prolongation would throw away the work that it is there to protect. So
    /// the lease of a claim is in the job's row, and prolonged ones are beside it. Jobs that end in time never have one.
    ///
    /// # Errors
    ///
    /// [`StaleClaim`](crate::ErrorKind::StaleClaim): stop working on it. A lease that has lapsed and was not taken over is
    /// prolonged as any other.
    pub async fn extend(&self) -> Result<(), Error> {
        let Self { id, token, .. } = self;
        let until = format!("{} + {}", DB::NOW, micros(self.queue.lease));
        let held = format!("SELECT id FROM atomically_job WHERE id = {id} AND token = {token}");
        let prolong = format!(
            "INSERT INTO atomically_job_lease (job_id, token, until) VALUES ({id}, {token}, {until}) {}",
            DB::REPLACING_LEASE
        );
        self.queue
            .db
            .run(async |tx| {
                if DB::fetch_integers(tx, held, Vec::new()).await?.is_empty() {
                    return Err(self.stale(tx));
                }
                DB::send(tx, prolong, Vec::new()).await?;
                Ok(())
            })
            .await
    }

    /// Gives the job back because it could not be done.
    ///
    /// It is tried again later, or is dead when this was its last attempt. `error` is kept with it.
    ///
    /// # Errors
    ///
    /// [`StaleClaim`](crate::ErrorKind::StaleClaim), and the database's.
    pub async fn fail(&self, error: impl fmt::Display, retry: Retry) -> Result<Fate, Error> {
        let delay = match retry {
            Retry::Backoff => Some(self.queue.delay_after(self.attempt)),
            Retry::After(delay) => Some(delay),
            Retry::Never => None,
        };
        let fate = delay.filter(|_| self.attempt < self.max_attempts).map_or(Fate::Dead, Fate::Retried);
        let change = match fate {
            Fate::Retried(delay) => format!("due_at = {} + {}", DB::NOW, micros(delay)),
            Fate::Dead => format!("due_at = NULL, died_at = {}", DB::NOW),
        };
        let placeholder = DB::placeholder(1);
        let change = format!("{change}, last_error = {placeholder}");
        self.give_back(&change, vec![Some(shortened(error.to_string()))]).await?;
        Ok(fate)
    }

    /// Gives the job back untouched: it is due at once, and the attempt does not count.
    ///
    /// # Errors
    ///
    /// [`StaleClaim`](crate::ErrorKind::StaleClaim), and the database's.
    pub async fn release(&self) -> Result<(), Error> {
        self.give_back(&format!("due_at = {}, attempts = attempts - 1", DB::NOW), Vec::new()).await
    }

    /// The token grows here too: who gave the job back, and does not remember, is refused.
    async fn give_back(&self, change: &str, arguments: Vec<Option<String>>) -> Result<(), Error> {
        let Self { id, token, .. } = self;
        let sql = format!(
            "UPDATE atomically_job SET {change}, claimed_at = NULL, token = token + 1 WHERE id = {id} AND token = {token}"
        );
        self.queue
            .db
            .run(async |tx| match DB::send(tx, sql, arguments).await? {
                0 => Err(self.stale(tx)),
                _ => Ok(()),
            })
            .await?;
        self.advance(Progress::Settled);
        Ok(())
    }

    /// Lets the lease end now.
    #[cfg(feature = "testing")]
    pub(crate) async fn lapse(&self) -> Result<(), Error> {
        let Self { id, token, .. } = self;
        let job =
            format!("UPDATE atomically_job SET due_at = {} - 1 WHERE id = {id} AND token = {token}", DB::NOW);
        let lease = format!("DELETE FROM atomically_job_lease WHERE job_id = {id} AND token = {token}");
        self.queue
            .db
            .run(async |tx| {
                if DB::send(tx, job, Vec::new()).await? == 0 {
                    return Err(self.stale(tx));
                }
                DB::send(tx, lease, Vec::new()).await?;
                Ok(())
            })
            .await
    }

    fn stale(&self, tx: &mut Tx<DB>) -> Error {
        let Self { id, token, .. } = self;
        tx.stale_claim(format!(
            "job {id} of the queue {:?} is not held by the claim with the token {token} any more",
            self.queue.name()
        ))
    }

    pub(super) fn asked(&self) -> Instant {
        self.asked
    }

    pub(super) fn queue(&self) -> &Queue<DB> {
        &self.queue
    }

    pub(super) fn is(&self, progress: Progress) -> bool {
        self.progress.load(Ordering::Acquire) >= progress as u8
    }

    fn advance(&self, progress: Progress) {
        self.progress.fetch_max(progress as u8, Ordering::AcqRel);
    }
}

/// Completes several jobs in one statement, as [`Claim::complete_in`] does one.
///
/// # Errors
///
/// [`StaleClaim`](crate::ErrorKind::StaleClaim) where one of the claims was taken over: none is completed.
pub async fn complete_all_in<DB: QueueBackend>(tx: &mut Tx<DB>, claims: &[Claim<DB>]) -> Result<(), Error> {
    let Some(first) = claims.first() else { return Ok(()) };
    let sql = match claims {
        [Claim { id, token, .. }] => {
            format!("DELETE FROM atomically_job WHERE id = {id} AND token = {token}")
        }
        claims => {
            let ids: Vec<_> = claims.iter().map(|claim| claim.id.to_string()).collect();
            let tokens: Vec<_> =
                claims.iter().map(|claim| format!("WHEN {} THEN {}", claim.id, claim.token)).collect();
            let (ids, tokens) = (ids.join(", "), tokens.join(" "));
            format!("DELETE FROM atomically_job WHERE id IN ({ids}) AND token = CASE id {tokens} END")
        }
    };
    let done = DB::send(tx, sql, Vec::new()).await?;
    if done == claims.len() as u64 {
        for claim in claims {
            claim.advance(Progress::Completing);
            let progress = claim.progress.clone();
            tx.on_commit(async move { progress.fetch_max(Progress::Settled as u8, Ordering::AcqRel) });
        }
        return Ok(());
    }
    Err(match claims {
        [_] => first.stale(tx),
        claims => tx.stale_claim(format!(
            "{} of {} jobs of the queue {:?} are not held any more",
            claims.len() as u64 - done,
            claims.len(),
            first.queue.name()
        )),
    })
}

/// Errors are kept to be read, and may quote whole documents.
fn shortened(mut error: String) -> String {
    const LONGEST: usize = 4_000;
    let end = (0..=LONGEST).rev().find(|end| error.is_char_boundary(*end)).unwrap_or(0);
    error.truncate(end);
    // PostgreSQL keeps no NUL in a text.
    error.replace('\0', "\u{fffd}")
}

impl<DB: Backend> fmt::Debug for Claim<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claim")
            .field("id", &self.id)
            .field("token", &self.token)
            .field("attempt", &self.attempt)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_shortened_between_characters() {
        assert_eq!(shortened("short".to_owned()), "short");
        assert_eq!(shortened("é".repeat(3_000)).len(), 4_000);
        assert_eq!(shortened(format!("a{}", "é".repeat(3_000))).len(), 3_999);
        assert_eq!(shortened("a\0b".to_owned()), "a\u{fffd}b");
    }
}
