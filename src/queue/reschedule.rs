//! Putting a claimed job back for later.

use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::claim::Claim;
use super::job::{Due, json, micros};
use super::sql::QueueBackend;
use crate::error::Error;
use crate::tx::Tx;

/// When a job that is [rescheduled](Claim::reschedule_in) is due, and what it carries then.
#[derive(Debug, Clone)]
#[must_use]
pub struct Reschedule {
    due: Due,
    payload: Option<String>,
}

impl Reschedule {
    /// Due when this much time has passed, by the database's clock; with the same payload.
    pub fn after(delay: Duration) -> Self {
        Self { due: Due::After(micros(delay)), payload: None }
    }

    /// Due at this time, by the database's clock; with the same payload.
    pub fn at(time: SystemTime) -> Self {
        Self { due: Due::at(time), payload: None }
    }

    /// With this payload instead: the place where the next run goes on, say.
    ///
    /// # Errors
    ///
    /// The payload cannot be written as JSON.
    pub fn payload(self, payload: &(impl Serialize + ?Sized)) -> Result<Self, Error> {
        Ok(Self { payload: Some(json(payload)?), ..self })
    }
}

impl<DB: QueueBackend> Claim<DB> {
    /// Puts the job back for later in the transaction that has the effects of this run: both are stored, or
    /// neither.
    ///
    /// For jobs that come again (a poll, a renewal, the next page of a long list). The job keeps its id, its
    /// priority and its [unique key](super::NewJob::unique), and has all its attempts anew. Instead of
    /// [`complete_in`](Self::complete_in), and last, as that is.
    ///
    /// ```
    /// # use atomically::queue::{Claim, Reschedule};
    /// # use atomically::{Error, PoolTransactor, Pessimistic, TransactorExt as _};
    /// # use std::time::Duration;
    /// # async fn example(db: PoolTransactor<sqlx::Sqlite, Pessimistic>, claim: &Claim<sqlx::Sqlite>) -> Result<(), Error> {
    /// let page: i64 = claim.payload()?;
    /// let next = Reschedule::after(Duration::from_secs(60)).payload(&(page + 1))?;
    /// db.run(async |tx| {
    ///     sqlx::query("UPDATE progress SET page = $1").bind(page).execute(&mut *tx).await?;
    ///     claim.reschedule_in(tx, next).await
    /// })
    /// .await
    /// # }
    /// ```
    ///
    /// # Why not enqueue a successor?
    ///
    /// One with the same unique key is a [duplicate](super::Enqueued::Duplicate) of the job that enqueues it,
    /// as long as that is not complete.
    ///
    /// # Errors
    ///
    /// [`StaleClaim`](crate::ErrorKind::StaleClaim), as by [`complete_in`](Self::complete_in).
    pub async fn reschedule_in(&self, tx: &mut Tx<DB>, next: Reschedule) -> Result<(), Error> {
        let (id, token, due) = (self.id(), self.token(), next.due.text::<DB>());
        let payload = match next.payload {
            Some(_) => format!(", payload = {}", DB::placeholder(1)),
            None => String::new(),
        };
        let sql = format!(
            "UPDATE atomically_job SET due_at = {due}, attempts = 0, claimed_at = NULL, last_error = NULL, \
             token = token + 1{payload} WHERE id = {id} AND token = {token}"
        );
        DB::check_size(tx, next.payload.as_ref().map_or(0, String::len)).await?;
        if DB::send(tx, sql, next.payload.map(Some).into_iter().collect()).await? == 0 {
            return Err(tx.stale_claim(self.stale()));
        }
        self.completes_with(tx);
        Ok(())
    }
}
