//! Reschedules claimed jobs.

use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::claim::Claim;
use super::job::{Due, json, micros};
use super::slots;
use super::sql::{QueueSql, execute_with};
use crate::backend::Backend;
use crate::error::Error;
use crate::tx::Tx;

/// When a [rescheduled](Claim::reschedule_in) job is due, and with which payload.
#[derive(Debug, Clone)]
#[must_use]
pub struct Reschedule {
    due: Due,
    payload: Option<String>,
}

impl Reschedule {
    /// Makes the job due after `delay`, by the database's clock, with the same payload.
    pub fn after(delay: Duration) -> Self {
        Self { due: Due::After(micros(delay)), payload: None }
    }

    /// Makes the job due at `time`, by the database's clock, with the same payload.
    pub fn at(time: SystemTime) -> Self {
        Self { due: Due::at(time), payload: None }
    }

    /// Replaces the payload, for example by the position at which the next run continues.
    ///
    /// # Errors
    ///
    /// The payload cannot be serialized as JSON.
    pub fn payload(self, payload: &(impl Serialize + ?Sized)) -> Result<Self, Error> {
        Ok(Self { payload: Some(json(payload)?), ..self })
    }
}

impl<DB: Backend> Claim<DB> {
    /// Reschedules the job in the transaction that has the effects of this run: both are stored, or neither.
    ///
    /// Use this for recurring jobs, such as a poll, a renewal, or the next page of a long list. The job keeps
    /// its id, its priority and its [unique key](super::NewJob::unique), and gets all its attempts again. An
    /// [ordered](super::NewJob::in_order_of) job also keeps its place: the next jobs of its key wait.
    /// Call it instead of [`complete_in`](Self::complete_in), and like that last.
    ///
    /// ```
    /// # use atomically::queue::{Claim, Reschedule};
    /// # use atomically::{Error, PoolTransactor, Pessimistic, TransactorExt as _};
    /// # use std::time::Duration;
    /// # type Db = PoolTransactor<sqlx::Sqlite, Pessimistic>;
    /// # async fn example(db: Db, claim: &Claim<sqlx::Sqlite>) -> Result<(), Error> {
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
    /// While the job that enqueues it is not complete, a successor with the same unique key is a
    /// [duplicate](super::Enqueued::Duplicate).
    ///
    /// # Errors
    ///
    /// [`StaleClaim`](crate::ErrorKind::StaleClaim), as for [`complete_in`](Self::complete_in).
    pub async fn reschedule_in(&self, tx: &mut Tx<DB>, next: Reschedule) -> Result<(), Error> {
        let sql = QueueSql::of::<DB>();
        let (id, token, due) = (self.id(), self.token(), next.due.sql(sql.now));
        let payload = match next.payload {
            Some(_) => format!(", payload = {}", DB::placeholder(1)),
            None => String::new(),
        };
        let (schema, freed) = (self.queue().schema(), self.slot_of_limit());
        let slot = if freed.is_empty() { "" } else { "has_slot = NULL, " };
        let update = format!(
            "UPDATE atomically_job SET {slot}due_at = {due}, attempts = 0, claimed_at = NULL, \
             last_error = NULL, token = token + 1{payload} WHERE id = {id} AND token = {token}"
        );
        sql.check_size(tx, next.payload.as_ref().map_or(0, String::len)).await?;
        slots::lock(tx, schema, &freed).await?;
        if execute_with(tx, schema, update, next.payload.map(Some).into_iter().collect()).await? == 0 {
            return Err(tx.stale_claim(self.stale()));
        }
        slots::free(tx, schema, &freed).await?;
        self.completes_with(tx);
        Ok(())
    }
}
