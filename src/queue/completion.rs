//! What becomes of a job that is worked on.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use sqlx::AssertSqlSafe;

use super::claim::{Claim, Settled};
use super::job::micros;
use super::log::{self, Death};
use super::resend::{EndSending, SentEnd};
use super::sql::QueueBackend;
use crate::backend::WatchedQuery;
use crate::error::Error;
use crate::strategies::Pessimistic;
use crate::transactor::{PoolTransactor, TransactorExt as _};
use crate::tx::Tx;

/// When a job that failed is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Retry {
    /// After the queue's [backoff](super::Queue::backoff).
    Backoff,
    /// After this much time.
    After(Duration),
    /// Never: it is dead.
    Never,
}

/// What became of a job that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FailOutcome {
    /// It is tried again after this much time.
    Retried(Duration),
    /// It is dead: it was to be, or that was its last attempt.
    Dead,
}

impl<DB: QueueBackend> Claim<DB> {
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
    /// A job that is complete is gone from its table; what is worth keeping of it is an effect. Call it
    /// *last*: from then on the job's row is locked. A job that comes again is not completed, but
    /// [rescheduled](Self::reschedule_in): until it is complete, a successor with its unique key is a
    /// duplicate. Every strategy and isolation level will do, and leases that are extended meanwhile do not
    /// get in the way.
    ///
    /// # Errors
    ///
    /// [`StaleClaim`](crate::ErrorKind::StaleClaim): the job was taken over, completed, failed or released.
    /// The unit is rolled back, whatever it makes of this error, and not run again; the caller of `run` is
    /// told.
    pub async fn complete_in(&self, tx: &mut Tx<DB>) -> Result<(), Error> {
        complete_all_in(tx, std::slice::from_ref(self)).await
    }

    /// Completes the job, where its effects are elsewhere.
    ///
    /// A completion whose connection breaks is sent again while the lease lasts; the token keeps it from
    /// being done twice. So a handler that has finished is not run again because an answer was lost.
    ///
    /// # Errors
    ///
    /// [`StaleClaim`](crate::ErrorKind::StaleClaim); the database's, when it gave no answer until the lease
    /// had lapsed. After a [commit unknown](crate::Error::is_commit_unknown) the job may be complete, or
    /// another worker's.
    pub async fn complete(&self) -> Result<(), Error> {
        let removal = &removal(std::slice::from_ref(self));
        let completing = self.progress().completes();
        self.resend(|EndSending { db, is_repeated }| {
            Box::pin(async move {
                if is_repeated {
                    return self.complete_again(&db, removal).await;
                }
                let sql = AssertSqlSafe(format!("{}{removal}", DB::ALONE));
                match db.run_statement(WatchedQuery::new(sqlx::raw_sql(sql))?).await? {
                    0 => Err(self.stale_error()),
                    _ => Ok(SentEnd::Changed),
                }
            })
        })
        .await?;
        completing.settle();
        Ok(())
    }

    /// Notes that this run of the job is complete if the transaction commits.
    pub(super) fn completes_with(&self, tx: &mut Tx<DB>) {
        let completing = self.progress().completes();
        tx.on_commit(async move { completing.settle() });
    }

    /// A job that is there, and not held by this claim, is another worker's, whatever the clocks say.
    async fn complete_again(
        &self,
        db: &PoolTransactor<DB, Pessimistic>,
        removal: &str,
    ) -> Result<SentEnd, Error> {
        let job = format!("SELECT id FROM atomically_job WHERE id = {}", self.id());
        db.run(async |tx| {
            if DB::send(tx, removal.to_owned(), Vec::new()).await? > 0 {
                return Ok(SentEnd::Changed);
            }
            if DB::fetch_integers(tx, job, Vec::new()).await?.is_empty() {
                return Ok(SentEnd::NotHeld);
            }
            Err(tx.stale_claim(self.stale()))
        })
        .await
    }

    /// Gives the job back because it could not be done.
    ///
    /// It is tried again later, or is dead when this was its last attempt, which is written to the log as an
    /// error. `error` is kept with it, as its alternate form (`{:#}`) shows it: an `anyhow::Error` with its
    /// causes. SentEnd again while the lease lasts, as [`complete`](Self::complete) is.
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
        let fate = delay
            .filter(|_| self.attempt() < self.max_attempts())
            .map_or(FailOutcome::Dead, FailOutcome::Retried);
        let change = match fate {
            FailOutcome::Retried(delay) => format!("due_at = {} + {}", DB::NOW, micros(delay)),
            FailOutcome::Dead => format!("due_at = NULL, died_at = {}", DB::NOW),
        };
        let placeholder = DB::placeholder(1);
        let change = format!("{change}, last_error = {placeholder}");
        let error = shortened(format!("{error:#}"));
        self.give_back(&change, vec![Some(error.clone())]).await?;
        if fate == FailOutcome::Dead {
            let death = if retry == Retry::Never { Death::GivenUp } else { Death::Exhausted };
            log::died(self.queue().name(), self.id(), death, self.attempt(), &error);
        }
        self.progress().settle(match fate {
            FailOutcome::Retried(_) => Settled::Failed(error),
            FailOutcome::Dead => Settled::Dead(error),
        });
        Ok(fate)
    }

    /// Gives the job back untouched: it is due at once, and the attempt does not count. SentEnd again while the
    /// lease lasts, as [`complete`](Self::complete) is. For later, [`snooze`](Self::snooze).
    ///
    /// # Errors
    ///
    /// Those of [`complete`](Self::complete).
    pub async fn release(&self) -> Result<(), Error> {
        self.give_back(&format!("due_at = {}, attempts = attempts - 1", DB::NOW), Vec::new()).await?;
        self.progress().settle(Settled::Released);
        Ok(())
    }

    /// Gives the job back for later: it is due after `delay`, by the database's clock, and the attempt does
    /// not count.
    ///
    /// For a job that cannot be done *yet*: a service asks for patience, or something that it needs is not
    /// there. Released at once, it would come back at once. SentEnd again while the lease lasts, as
    /// [`complete`](Self::complete) is. A job can be snoozed any number of times; to limit that, use
    /// [`fail`](Self::fail) with [`Retry::After`].
    ///
    /// # Errors
    ///
    /// Those of [`complete`](Self::complete).
    pub async fn snooze(&self, delay: Duration) -> Result<(), Error> {
        let change = format!("due_at = {} + {}, attempts = attempts - 1", DB::NOW, micros(delay));
        self.give_back(&change, Vec::new()).await?;
        self.progress().settle(Settled::Released);
        Ok(())
    }

    /// The token grows here too: a worker that gave the job back, and does not remember, is refused.
    async fn give_back(&self, change: &str, arguments: Vec<Option<String>>) -> Result<(), Error> {
        let (id, token) = (self.id(), self.token());
        let sql = &format!(
            "UPDATE atomically_job SET {change}, claimed_at = NULL, token = token + 1 WHERE id = {id} AND token = {token}"
        );
        let arguments = &arguments;
        self.resend(|EndSending { db, is_repeated }| {
            Box::pin(async move {
                let (sql, arguments) = (sql.clone(), arguments.clone());
                db.run(async |tx| match DB::send(tx, sql, arguments).await? {
                    0 if is_repeated => Ok(SentEnd::NotHeld),
                    0 => Err(tx.stale_claim(self.stale())),
                    _ => Ok(SentEnd::Changed),
                })
                .await
            })
        })
        .await
    }
}

/// Completes several jobs in one statement, as [`Claim::complete_in`] does one.
///
/// # Errors
///
/// [`StaleClaim`](crate::ErrorKind::StaleClaim) where one of the claims was taken over: none is completed.
pub async fn complete_all_in<DB: QueueBackend>(tx: &mut Tx<DB>, claims: &[Claim<DB>]) -> Result<(), Error> {
    let Some(first) = claims.first() else { return Ok(()) };
    let done = DB::send(tx, removal(claims), Vec::new()).await?;
    if done == claims.len() as u64 {
        for claim in claims {
            claim.completes_with(tx);
        }
        return Ok(());
    }
    Err(tx.stale_claim(match claims {
        [_] => first.stale(),
        claims => format!(
            "{} of {} jobs of the queue {:?} are not held any more",
            claims.len() as u64 - done,
            claims.len(),
            first.queue().name()
        ),
    }))
}

/// The statement that removes the jobs of claims that are still held. Most have the same token, and few
/// tokens make a short text.
fn removal<DB: QueueBackend>(claims: &[Claim<DB>]) -> String {
    let mut by_token = BTreeMap::<_, Vec<_>>::new();
    for claim in claims {
        by_token.entry(claim.token()).or_default().push(claim.id().to_string());
    }
    let held: Vec<_> = by_token
        .into_iter()
        .map(|(token, ids)| format!("(token = {token} AND id IN ({}))", ids.join(", ")))
        .collect();
    format!("DELETE FROM atomically_job WHERE {}", held.join(" OR "))
}

/// Errors are kept to be read, and may quote whole documents.
fn shortened(mut error: String) -> String {
    const MAX_BYTES: usize = 4_000;
    let end = (0..=MAX_BYTES).rev().find(|end| error.is_char_boundary(*end)).unwrap_or(0);
    error.truncate(end);
    // PostgreSQL keeps no NUL in a text.
    error.replace('\0', "\u{fffd}")
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
