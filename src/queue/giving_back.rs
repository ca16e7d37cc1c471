//! Gives claimed jobs back: the changes after which a job can be claimed again, or is dead.

use std::time::Duration;

use super::claim::Claim;
use super::job::micros;
use super::resend::{SendAttempt, SendOutcome};
use super::slots::{self, FreedSlots};
use super::sql::QueueSql;
use crate::backend::{Backend, Capability, Value, WatchedQuery};
use crate::error::Error;
use crate::strategies::Pessimistic;
use crate::transactor::{PoolTransactor, TransactorExt as _};

/// A change of a job's row that ends its claim.
pub(super) struct GivenBack {
    /// The assignments, with placeholders for the values.
    pub(super) change: String,
    pub(super) values: Vec<Value>,
    /// The slots that other jobs of the job's key get.
    pub(super) freed: FreedSlots,
}

impl GivenBack {
    /// The change of a job that failed: it is due after this delay, or dead. The error is bound, because a
    /// text would appear in logs, and the statement can be kept prepared.
    pub(super) fn failed<DB: Backend>(delay: Option<Duration>, error: &str, freed: FreedSlots) -> Self {
        let now = QueueSql::of::<DB>().now;
        let error_value = Value::Text(Some(error.to_owned()));
        let (first, second) = (DB::placeholder(1), DB::placeholder(2));
        match delay {
            Some(delay) => Self {
                change: format!("due_at = {now} + {first}, last_error = {second}"),
                values: vec![Value::Integer(micros(delay)), error_value],
                freed,
            },
            None => Self {
                change: format!("due_at = NULL, died_at = {now}, last_error = {first}"),
                values: vec![error_value],
                freed,
            },
        }
    }

    /// Returns the statement. Without values it is a text; with values, the job is bound too, so that the
    /// statement is the same for all jobs.
    fn query<DB: Backend>(&self, claim: &Claim<DB>, limit: &str) -> Result<WatchedQuery<DB>, sqlx::Error> {
        let Self { change, values, freed } = self;
        let slot = if freed.is_empty() { "" } else { "has_slot = NULL, " };
        let count = values.len();
        let (id, token, job) = match count {
            0 => (claim.id().to_string(), claim.token().to_string(), Vec::new()),
            _ => {
                let job = vec![Value::Integer(claim.id()), Value::Integer(claim.token())];
                (DB::placeholder(count + 1).into_owned(), DB::placeholder(count + 2).into_owned(), job)
            }
        };
        let sql = format!(
            "UPDATE atomically_job SET {slot}{change}, claimed_at = NULL, token = token + 1 \
             WHERE id = {id} AND token = {token}{limit}"
        );
        WatchedQuery::with_values(claim.queue().schema().in_sql(sql), values.iter().cloned().chain(job))
    }
}

impl<DB: Backend> Claim<DB> {
    /// Ends the claim by changing the job's row. Increments the token as well, so that a later call on this
    /// claim is refused as stale.
    pub(super) async fn give_back(&self, given_back: &GivenBack) -> Result<(), Error> {
        self.resend(|SendAttempt { db, is_repeated }| {
            Box::pin(async move {
                match self.send_back(&db, given_back).await? {
                    0 if is_repeated => Ok(SendOutcome::NotHeld),
                    0 => Err(self.stale_error()),
                    _ => Ok(SendOutcome::Changed),
                }
            })
        })
        .await
    }

    /// Sends the change in one round trip if the connection may keep its statement, and returns how many rows
    /// it affected.
    async fn send_back(
        &self,
        db: &PoolTransactor<DB, Pessimistic>,
        given_back: &GivenBack,
    ) -> Result<u64, Error> {
        let query = given_back.query(self, "")?;
        if !given_back.freed.is_empty() {
            return self.give_back_slots(db, query, &given_back.freed).await;
        }
        if given_back.values.is_empty() {
            return self.run_alone(db, query.sql()).await;
        }
        let persistent = self.queue().persistent;
        if persistent != Some(false) && !db.has_local_settings() {
            let alone = given_back.query(self, QueueSql::of::<DB>().lone_limit)?.persistent_if(true);
            let affected = db.run_on_connection(alone.text(), |connection, _| {
                let query = alone.clone();
                let is_kept = persistent.unwrap_or_else(|| DB::keeps_statements(connection));
                Box::pin(async move {
                    // Behind a pooler in transaction mode, a statement that was prepared on one session would
                    // be run on another, unless both steps are in one transaction.
                    if !is_kept {
                        return Ok(None);
                    }
                    DB::run_statement(connection, query).await.map(Some)
                })
            });
            if let Some(affected) = affected.await? {
                return Ok(affected);
            }
        }
        let query = &query;
        db.run(async |tx| Ok::<_, Error>(tx.execute_query(query.clone()).await?)).await
    }

    /// Sends the change in a transaction that also gives the job's slot to another job.
    async fn give_back_slots(
        &self,
        db: &PoolTransactor<DB, Pessimistic>,
        query: WatchedQuery<DB>,
        freed: &FreedSlots,
    ) -> Result<u64, Error> {
        let (query, schema) = (&query, self.queue().schema());
        db.run(async |tx| {
            slots::lock(tx, schema, freed).await?;
            let affected = tx.execute_query(query.clone()).await?;
            if affected > 0 {
                slots::free(tx, schema, freed).await?;
            }
            Ok::<_, Error>(affected)
        })
        .await
    }

    /// Runs a statement without values as its own transaction, in one round trip, and returns how many rows
    /// it affected. `sql` has the names of the tables in the caller's schema.
    pub(super) async fn run_alone(
        &self,
        db: &PoolTransactor<DB, Pessimistic>,
        sql: &str,
    ) -> Result<u64, Error> {
        // With settings, the statement is sent in a transaction, which has limits of its own.
        let prefix = match QueueSql::of::<DB>().lone_prefix {
            "" => "",
            _ if db.has_local_settings() || db.engine().await?.lacks(Capability::ServerLimits) => "",
            prefix => prefix,
        };
        let sql = format!("{prefix}{sql}");
        db.run_statement(WatchedQuery::with_values(sql, [])?).await
    }
}
